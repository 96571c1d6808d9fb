"""``python -m tests.fuzz NAME COUNT [SEED]`` fuzzes one target for longer, and ends with what upset it."""

from __future__ import annotations

import sys

from tests.fuzz.corpus import read_corpus
from tests.fuzz.mutate import mutations
from tests.fuzz.targets import TARGETS

name, count, *seed = sys.argv[1:]
for data in mutations(read_corpus(name), " ".join([name, *seed]), int(count)):
    try:
        TARGETS[name](data)
    except Exception as error:
        raise AssertionError(f"add this line to the corpus of {name}: {data!r}") from error
