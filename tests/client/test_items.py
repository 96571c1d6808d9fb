from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.client.items import ItemParser
from heliograph.model.errors import Invalid, Malformed

OBJECTS = st.lists(st.dictionaries(st.text(max_size=5), st.integers(0, 9), max_size=3), max_size=5)


def read(data: bytes, cuts: list[int] | None = None) -> list[Any]:
    """Read an input that comes in pieces."""
    reader = ItemParser()
    edges = [0, *sorted(cut for cut in cuts or [] if cut < len(data)), len(data)]
    items: list[Any] = []
    for start, end in zip(edges, edges[1:], strict=False):  # noqa: RUF007 (pairwise hides the point)
        items += reader.feed(data[start:end])
    return items + reader.finish()


@given(OBJECTS, st.sampled_from(["lines", "array", "pretty"]), st.lists(st.integers(0, 300)))
def test_forms(objects: list[dict[str, int]], form: str, cuts: list[int]) -> None:
    """Lines and arrays, compact or pretty, cut anywhere, give the same items."""
    match form:
        case "lines":
            data = b"\n".join(orjson.dumps(item) for item in objects)
        case "array":
            data = orjson.dumps(objects)
        case _:
            data = orjson.dumps(objects, option=orjson.OPT_INDENT_2)
    assert read(data, cuts) == objects


@pytest.mark.parametrize("data", [b'{"a": 1}\n{"a": 2}\n', b'[{"a": 1}, {"a": 2}]'])
@given(cuts=st.lists(st.integers(0, 30)))
def test_a_byte_order_mark_is_skipped(data: bytes, cuts: list[int]) -> None:
    """What begins with a byte order mark, cut anywhere, is read as if it had none."""
    assert read(b"\xef\xbb\xbf" + data, cuts) == [{"a": 1}, {"a": 2}]


def test_joined_files_may_each_have_a_byte_order_mark() -> None:
    """What Windows programs have written is read after it was joined, too."""
    file = b'\xef\xbb\xbf{"a": 1}\r\n'
    assert read(file + b"\xef\xbb\xbf\r\n" + file + file.rstrip()) == [{"a": 1}] * 3


def test_live() -> None:
    """Each line is given out as soon as it is complete."""
    reader = ItemParser()
    assert reader.feed(b'\n{"a": 1}\n{"b"') == [{"a": 1}]
    assert reader.feed(b": 2}\n") == [{"b": 2}]
    assert reader.finish() == []


def test_one_object_over_lines() -> None:
    """A single object may stand on several lines."""
    assert read(b'{\n "a": 1\n}\n') == [{"a": 1}]


def test_bad_line() -> None:
    """A line that is not JSON is named by its number."""
    with pytest.raises(Malformed, match="line 3"):
        read(b'{"a": 1}\n\n{"b": \n{"c": 3}\n')


@pytest.mark.parametrize(
    ("data", "index", "field"),
    [
        (b'{"a": 1}\n{"b": {"wei": 18446744073709551616}}\n', 1, "b.wei"),
        (b'{"a": 0.1234567890123456789}', 0, "a"),
        (b'{"a": 1e400}\n', 0, "a"),
        (b'[{"a": 1}, {"a": 1},\n {"a": 9007199254740993e0}]', 2, "a"),
    ],
)
def test_numbers_are_sent_as_they_are_or_refused(data: bytes, index: int, field: str) -> None:
    """A number that would be sent as another one is refused by its item and field, as the service does."""
    with pytest.raises(Invalid) as refused:
        read(data)
    (error,) = refused.value.errors
    assert (error.index, error.field) == (index, field)


def test_half_a_character_is_named_by_its_line() -> None:
    """A first line whose text was cut in a character does not make the input one document."""
    with pytest.raises(Malformed, match="line 1 is not valid JSON: a has half a character"):
        ItemParser().feed(b'{"a": "x\\ud83d"}\n{"b": 1}\n')


def test_bad_document() -> None:
    """A document that is not JSON is named by the line where it begins."""
    with pytest.raises(Malformed, match="line 2"):
        read(b"\n[1, 2")
