"""A corpus of inputs for each parser of strangers' bytes, and a bounded number of changes of them.

An input is a line of ``corpora/NAME.txt``, written as Python writes bytes. One that a parser has failed on is
added there when the parser is mended. For more than the suite's share: ``python -m tests.fuzz NAME COUNT``.
"""

from __future__ import annotations

import pytest
from tests.fuzz.corpus import read_corpus
from tests.fuzz.mutate import mutations
from tests.fuzz.targets import TARGETS

COUNT = 1500


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_upsets_a_parser(name: str) -> None:
    """Each parser keeps its promises for every input of its corpus and for changes of them."""
    for data in mutations(read_corpus(name), name, COUNT):
        try:
            TARGETS[name](data)
        except Exception as error:
            raise AssertionError(f"add this line to the corpus of {name}: {data!r}") from error


@pytest.mark.parametrize("name", TARGETS)
def test_a_corpus_reaches_past_the_first_check(name: str) -> None:
    """A corpus has inputs of several kinds; one that is empty would prove nothing."""
    corpus = read_corpus(name)
    assert len(corpus) == len(set(corpus)) >= 6
