"""YAML files that people wrote: what is taken, what is refused, and where the mistake is said to be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.model import yaml
from heliograph.model.yaml import BadYaml, Document, load


def refused(data: bytes) -> BadYaml:
    """Return the error that a file is refused with."""
    with pytest.raises(BadYaml) as caught:
        load(data)
    return caught.value


def test_values_are_those_of_json() -> None:
    """Objects, lists, text, numbers, booleans and null are read; a date stays text."""
    document = load("a: 1\nb: [x, 2.5, yes, ~]\nc: {d: 2026-01-31}\ne: 'ä'\n".encode())
    assert document.value == {"a": 1, "b": ["x", 2.5, True, None], "c": {"d": "2026-01-31"}, "e": "ä"}


def test_an_empty_file_says_nothing() -> None:
    """A file without a value is no error."""
    assert load(b"# only a comment\n") == Document(None, {})


def test_each_value_has_its_line() -> None:
    """A value's line is found by the way to it; what is not there has the line of what is around it."""
    document = load(b"name: x\n\nnodes:\n  - name: a\n    ref: b\n  - {name: c}\n")
    assert document.line("name") == 1
    assert document.line("nodes") == 3
    assert document.line("nodes", 0, "ref") == 5
    assert document.line("nodes", 1, "ref") == 6
    assert document.line("tags", 4) == 1


def test_an_alias_stands_for_its_anchor() -> None:
    """Anchors, aliases and merge keys work as far as they stay small."""
    assert load(b"a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}\n").value == {
        "a": {"b": 1},
        "c": {"b": 1},
        "d": {"b": 1, "e": 2},
    }


def bomb(levels: int) -> bytes:
    """Write a file in which each line holds nine times the line before."""
    lines = ["a0: &a0 [" + ", ".join(["lol"] * 9) + "]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("data", "line", "words"),
    [
        (bomb(10), 5, "more than 50000 values"),
        (b"a: &a [*a]", 1, "inside itself"),
        (b"[" * 1000, 1, "deeper than 40 levels"),
        (b"{a: " * 1000, 1, "deeper than 40 levels"),
        (b"x: 1\ny: !!python/object/apply:os.system ['true']", 2, "python/object"),
        (b"x: !!binary aGVsbG8=", 1, "binary"),
        (b"x: !own 1", 1, "!own"),
        (b"x: !!timestamp 2026-01-31", 1, "timestamp"),
        (b"x: 1\nx: 2", 2, "twice"),
        (b"1: x", 1, "text"),
        (b"? [a, b]\n: x", 1, "text"),
        (b"x: .nan", 1, "number"),
        (b"x: -.inf", 1, "number"),
        (b"x: 9223372036854775808", 1, "number"),
        (b"x: " + b"9" * 5000, 1, "number"),
        (b"x: !!int abc", 1, "number"),
        (b"x: !!bool abc", 1, "boolean"),
        (b"? !!str [a]\n: x", 1, "text"),
        (b"a: b\n  c: d", 2, "mapping values"),
        (b"a: [1, 2", 2, "did not find"),
        (b"a: 'x", 1, "scalar"),
        (b"a: *nowhere", 1, "undefined alias"),
        (b"a: 1\n---\nb: 2\n", 2, "document"),
        (b"a: 1\nb: \xff", 2, "UTF-8"),
        (b"a: \x00", None, ""),
        (b"a" * (yaml.MAX_BYTES + 1), None, "bytes"),
    ],
)
def test_what_is_not_taken_is_named_with_its_line(data: bytes, line: int | None, words: str) -> None:
    """Bombs, tags, doubled keys, broken syntax and too much of anything are refused where they stand."""
    error = refused(data)
    assert words in str(error)
    assert error.line == line
    assert "\n" not in str(error)


def test_what_64_bits_hold_is_taken() -> None:
    """The greatest and the least whole number pass."""
    assert load(b"[9223372036854775807, -9223372036854775808]").value == [2**63 - 1, -(2**63)]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abcxyz", min_size=1), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(json_values)
def test_json_reads_as_what_it_says(value: Any) -> None:
    """JSON is YAML, but for its pairs of surrogates: what it says is read as the same value."""
    assert load(json.dumps(value, ensure_ascii=True).encode()).value == value


TOKENS = [
    *(
        "!!str ",
        "!!int ",
        "!!bool ",
        "!!null ",
        "!!map ",
        "!!seq ",
        "!!float ",
        "<<",
        ": ",
        "- ",
        "? ",
        "\n",
        " ",
    ),
    *(
        "&a ",
        "*a",
        "[",
        "]",
        "{",
        "}",
        ", ",
        "1",
        "x",
        "yes",
        ".5",
        "0x",
        "1:2",
        "=",
        "'",
        '"',
        "|\n",
        "#",
        "%",
    ),
]


@given(
    st.binary(max_size=200)
    | st.lists(st.sampled_from(TOKENS)).map(lambda some: "".join(some).encode())
    | st.text("{}[]&*!-: \n|>'\"ab01~?#%@", max_size=80).map(str.encode)
)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """No file raises anything but the one error, and what is read can be written as JSON."""
    try:
        document = load(data)
    except BadYaml:
        return
    json.dumps(document.value, allow_nan=False)
