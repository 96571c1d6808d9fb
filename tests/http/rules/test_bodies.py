from typing import Any

import orjson
import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st
from tests.actors.conftest import run_in_virtual_time
from tests.strategies import json_objects, json_values
from werkzeug.exceptions import RequestTimeout

from heliograph.http.rules.bodies import BODY_SECONDS, InTime, ItemReader, split_array
from heliograph.model.errors import ClientFault, Invalid, Malformed, TooLarge, UnsupportedMedia


class Body:
    """A body that comes in pieces, with pauses between them."""

    def __init__(self, *pieces: bytes, pause: float = 0) -> None:
        self._pieces = iter(pieces)
        self._pause = pause

    def __aiter__(self) -> "Body":
        """Iterate over the pieces."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next piece after a pause."""
        await trio.sleep(self._pause)
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration


def read(*pieces: bytes, kind: str = "application/json", limit: int = 1000, most: int = 100) -> list[Any]:
    """Read a body of these pieces."""
    reader = ItemReader(kind, limit, most)
    for piece in pieces:
        reader.feed(piece)
    return reader.end()


NDJSON = "application/x-ndjson"


@given(
    st.lists(json_objects(), min_size=1, max_size=5),
    st.sampled_from(["\n", "\r\n", "\n\n", " \n"]),
    st.booleans(),
    st.lists(st.integers(1, 30), max_size=12),
)
def test_lines_may_come_in_any_pieces(items: list[Any], newline: str, last: bool, cuts: list[int]) -> None:
    """However a body of lines is cut into pieces, with or without a last newline, its items are read."""
    data = newline.encode().join(map(orjson.dumps, items)) + (newline.encode() if last else b"")
    pieces = []
    for size in cuts:
        pieces.append(data[:size])
        data = data[size:]
    assert read(*pieces, data, kind=NDJSON, limit=10**6) == items


@given(st.binary(max_size=80), st.sampled_from(["application/json", NDJSON]))
def test_any_body_is_items_or_a_fault(body: bytes, kind: str) -> None:
    """Whatever the bytes are, they are items or a fault of the client."""
    try:
        items = read(body, kind=kind)
    except ClientFault:
        return
    assert isinstance(items, list)


def test_one_object_or_an_array() -> None:
    """A JSON body is one item, or an array of them."""
    assert read(b'{"a":1}') == [{"a": 1}]
    assert read(b"[1,", b"2]") == [1, 2]
    assert read(b"5", kind="") == [5]


@pytest.mark.parametrize(("body", "kind"), [(b"[1,1,1]", "application/json"), (b"1\n1\n1", NDJSON)])
def test_a_request_has_few_items(body: bytes, kind: str) -> None:
    """More items than the limit are refused, in either form."""
    assert read(body, kind=kind, most=3) == [1, 1, 1]
    with pytest.raises(TooLarge, match="at most 2 events"):
        read(body, kind=kind, most=2)


@pytest.mark.parametrize(("body", "kind"), [(b"[]", "application/json"), (b"", NDJSON), (b"\n \n", NDJSON)])
def test_a_request_without_events_is_refused(body: bytes, kind: str) -> None:
    """An empty array and an empty body of lines are refused."""
    with pytest.raises(Invalid, match="no events"):
        read(body, kind=kind)


def test_a_broken_line_is_named() -> None:
    """The error of a body of lines says which line it is in."""
    with pytest.raises(Malformed, match="line 3 is not valid JSON"):
        read(b'{"a":1}\n\n{"a"', b":\n{}", kind=NDJSON)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/xml", "multipart/form-data", "application/x-www-form-urlencoded"]
)
def test_another_content_type_is_refused(kind: str) -> None:
    """What is neither JSON nor lines of it is refused, with what is read here."""
    with pytest.raises(UnsupportedMedia, match="application/x-ndjson"):
        read(b"{}", kind=kind)


@pytest.mark.parametrize("kind", ["application/json", NDJSON])
def test_a_body_has_a_limit(kind: str) -> None:
    """A body of just the limit is read, one byte more is refused as soon as it has come."""
    assert len(read(b'"%b"' % (b"x" * 98), kind=kind, limit=100)) == 1
    with pytest.raises(TooLarge, match="100 bytes"):
        read(b'"', b"x" * 50, b"x" * 50, kind=kind, limit=100)


def test_a_body_that_trickles_in_is_given_up() -> None:
    """A body that is not complete within its time is refused, however steadily it comes."""

    async def main() -> None:
        with pytest.raises(RequestTimeout):
            [piece async for piece in InTime(Body(*[b" "] * 1000, pause=1))]
        assert trio.current_time() == BODY_SECONDS
        body = InTime(Body(b"[1,", b"2]", pause=BODY_SECONDS / 4))
        assert [piece async for piece in body] == [b"[1,", b"2]"]

    run_in_virtual_time(main)


@given(st.lists(json_values(), max_size=6), st.sampled_from(["", " ", "\n  "]))
def test_an_array_is_split_into_its_entries(values: list[Any], space: str) -> None:
    """Entries come out whole, whatever strings and structures they hold."""
    body = f"{space}[{space}".encode() + f"{space},{space}".encode().join(map(orjson.dumps, values))
    pieces = list(split_array(body + f"{space}]{space}".encode()))
    assert [orjson.loads(piece) for piece in pieces] == values


@given(st.text('[]{},:"\\ 01', max_size=30).map(lambda text: f"[{text}".encode()))
@example(b"[0,]")
@example(b"[1}")
@example(b"[,]")
@example(b"[] ]")
def test_any_array_is_split_or_malformed(body: bytes) -> None:
    """What can be split and parsed is what the whole is; nothing that is not JSON passes."""
    try:
        values = [orjson.loads(piece) for piece in split_array(body)]
    except (Malformed, orjson.JSONDecodeError):
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(body)
    else:
        assert orjson.loads(body) == values


def test_a_large_array_is_read_item_by_item() -> None:
    """A large body has the same items as a small one, its limits are checked before they are parsed."""
    items = [{"n": number, "text": "x" * 200} for number in range(2000)]
    body = orjson.dumps(items)
    assert read(body, limit=10**6, most=2000) == items
    with pytest.raises(TooLarge, match="at most 1999 events"):
        read(body, limit=10**6, most=1999)
    with pytest.raises(Malformed, match="item 2000"):
        read(body[:-1] + b',{"a"}]', limit=10**6, most=3000)
    reader = ItemReader("application/json", 10**6, 10, max_item_bytes=1000)
    reader.feed(b'{"a":"%b"}' % (b"x" * 300_000))
    with pytest.raises(TooLarge, match="an item has 300008 bytes"):
        reader.end()


@pytest.mark.parametrize("kind", ["application/json", NDJSON])
def test_an_item_of_too_many_parts_is_never_parsed(kind: str) -> None:
    """The parser can't be interrupted, so what would be too large by its brackets alone never reaches it."""

    def parse(body: bytes, what: str) -> object:
        raise AssertionError("it was parsed")

    reader = ItemReader(kind, 10**6, 10, parse, max_item_parts=100_000)

    def read_all() -> None:
        reader.feed(b'{"a":[%b[]]}\n' % (b"[]," * 100_000))
        reader.end()

    with pytest.raises(TooLarge, match="an item has more than 100000 brackets"):
        read_all()


def test_a_line_has_a_limit() -> None:
    """A line that can be no item is refused before its end has come."""
    reader = ItemReader(NDJSON, 10**6, 10, max_item_bytes=1000)
    with pytest.raises(TooLarge, match="an item has"):
        reader.feed(b'{"a":"' + b"x" * 2000)
