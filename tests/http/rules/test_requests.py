from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import orjson
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from quart import request
from quart_trio import QuartTrio
from tests.actors.conftest import run_in_virtual_time
from tests.strategies import json_objects, json_values
from werkzeug.exceptions import RequestTimeout

from heliograph.actors.subscription import Overflow
from heliograph.http.rules import requests
from heliograph.http.rules.requests import (
    BODY_SECONDS,
    InTime,
    ItemReader,
    decode_cursor,
    encode_cursor,
    listed,
    moment,
    refuse_unknown,
    require_utf8,
    selection,
    watch_request,
    whole,
)
from heliograph.http.streams.watching import MAX_TAIL
from heliograph.model.channels import Selection
from heliograph.model.errors import ClientFault, Invalid, Malformed, TooLarge, UnsupportedMedia
from heliograph.model.ids import OLDEST, make_id, parse_id

APP = QuartTrio(__name__)


@asynccontextmanager
async def asking(query: str = "", headers: dict[str, str] | None = None) -> AsyncIterator[None]:
    """Be within a request with this query."""
    async with APP.test_request_context(f"/x?{query}", headers=headers):
        yield


def bad_field(call: Callable[[], object]) -> str:
    """Return the field that a reader refuses."""
    with pytest.raises(Invalid) as caught:
        call()
    (error,) = caught.value.errors
    assert error.detail
    return error.field


# Parameters


async def test_unknown_parameters_are_refused() -> None:
    """A parameter that the route does not know is named, with those that it knows."""
    async with asking("limit=1&limti=2"):
        refuse_unknown(request, "limit", "limti")
        with pytest.raises(Invalid, match="limti: is unknown; this takes limit, cursor"):
            refuse_unknown(request, "limit", "cursor")
    async with asking("x=1"):
        with pytest.raises(Invalid, match="this takes no parameters"):
            refuse_unknown(request)


async def test_a_number_is_read() -> None:
    """A whole number within its range is read; without one the default holds."""
    async with asking("a=5&b=-3&c=0"):
        assert whole(request, "a", 1, 1, 5) == 5
        assert whole(request, "b", 1, -5, 5) == -3
        assert whole(request, "c", 1, 0, 5) == 0
        assert whole(request, "none", 7, 1, 5) == 7


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1.5",
        "0",
        "6",
        "-1",
        "--1",
        "+1",
        "1_0",
        "%D9%A3",
        " 3",
        "3%20",
        "1e1",
        "9" * 5000,
        "3%00",
        "%C2%B2",
    ],
)
async def test_what_is_no_number_in_range_is_refused(text: str) -> None:
    """Everything else is refused with the range, also what Python would take for a number."""
    async with asking(f"limit={text}"):
        with pytest.raises(Invalid, match="limit: must be a whole number from 1 to 5"):
            whole(request, "limit", 1, 1, 5)


async def test_a_moment_is_read() -> None:
    """A time is read, with its offset whether the plus sign was escaped or not."""
    async with asking("a=2026-01-31T12:00:00Z&b=2026-01-31T13:00:00%2B01:00&c=2026-01-31T13:00:00+01:00"):
        for name in "abc":
            assert moment(request, name) == datetime(2026, 1, 31, 12, tzinfo=UTC)
        assert moment(request, "none") is None
    async with asking("since=soon"):
        assert bad_field(lambda: moment(request, "since")) == "since"


async def test_a_list_is_read() -> None:
    """Values may be repeated or separated by commas; others than those allowed are refused."""
    async with asking("status=a,%20b&status=c,"):
        assert listed(request, "status", "abc") == ("a", "b", "c")
        assert listed(request, "none", "abc") == ()
        with pytest.raises(Invalid, match="status: must be some of a, b"):
            listed(request, "status", "ab")


async def test_text_that_no_database_keeps_is_refused() -> None:
    """NUL and lone surrogates are refused by name, other text passes."""
    assert require_utf8("é\U0001f6f0", "agent") == "é\U0001f6f0"
    with pytest.raises(Invalid, match="agent"):
        require_utf8("a\0", "agent")
    with pytest.raises(Malformed, match="agent"):
        require_utf8("\ud800", "agent")


# Cursors


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.integers(-(2**63), 2**63 - 1), max_size=4)
)
def test_a_cursor_is_read_back(parts: list[str | int]) -> None:
    """A cursor made of texts and numbers is read back from a query that carries it unescaped."""

    async def main() -> None:
        text = encode_cursor(*parts)
        assert quote(text, safe="") == text
        async with asking(f"cursor={text}"):
            assert decode_cursor(request, *map(type, parts)) == parts

    trio.run(main)


@given(st.text(max_size=40) | json_values().map(lambda value: encode_cursor(value) if value else ""))
def test_a_forged_cursor_is_refused(text: str) -> None:
    """Whatever a cursor's text is, it is one of ours or refused by name."""

    async def main() -> None:
        async with asking(f"cursor={quote(text.encode(errors='ignore'))}"):
            try:
                parts = decode_cursor(request, int, str)
            except Invalid as invalid:
                assert [error.field for error in invalid.errors] == ["cursor"]  # noqa: PT017
            else:
                assert parts is not None
                assert [type(part) for part in parts] == [int, str]

    trio.run(main)


async def test_no_cursor_is_the_beginning() -> None:
    """A list without a cursor begins at its beginning."""
    async with asking():
        assert decode_cursor(request, int) is None


# Streams


async def test_what_a_stream_is_to_show() -> None:
    """Channels and a topic filter make the selection; none at all is everything."""
    async with asking("channel=task:2&channel=task:1&topic=task.*"):
        assert selection(request, 2) == Selection.of(["task:1", "task:2"], "task.*")
        assert bad_field(lambda: selection(request, 1)) == "channel"
    async with asking():
        assert selection(request, 1) == Selection.of([])
    for query, field in (("channel=nowhere", "channel"), ("topic=a b", "topic"), ("channel=", "channel")):
        async with asking(query.replace(" ", "%20")):
            assert bad_field(lambda: selection(request, 1)) == field


async def test_where_a_stream_begins() -> None:
    """``Last-Event-ID`` wins over ``after``, which wins over the default; a tail stands for itself."""
    task = Selection.of(["task:1"])
    async with asking("after=5-1", {"Last-Event-ID": " 6-2 "}):
        assert watch_request(request, task).after == make_id(6, 2)
    async with asking("after=5-1", {"Last-Event-ID": ""}):
        assert watch_request(request, task, "0-0").after == make_id(5, 1)
    async with asking():
        assert watch_request(request, task).after is None
        assert watch_request(request, task, "0-0").after == OLDEST
    async with asking("tail=3"):
        wanted = watch_request(request, task, "0-0")
        assert (wanted.after, wanted.tail) == (None, 3)
    async with asking("after=2026-01-31T12:00:00+00:00"):
        wanted = watch_request(request, task)
        assert (wanted.after, wanted.after_is_time) == (make_id(1769860800000) - 1, True)


async def test_what_a_slow_stream_does() -> None:
    """The overflow policy is read by its name."""
    async with asking("overflow=latest"):
        assert watch_request(request, Selection.of([])).overflow is Overflow.LATEST
    async with asking():
        assert watch_request(request, Selection.of([])).overflow is Overflow.DISCONNECT


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("names=no", "names"),
        ("tail=-1", "tail"),
        (f"tail={MAX_TAIL + 1}", "tail"),
        ("overflow=never", "overflow"),
    ],
)
async def test_a_bad_wish_of_a_stream_is_named(query: str, field: str) -> None:
    """A malformed tail, policy or choice is refused by its name."""
    async with asking(query):
        assert bad_field(lambda: watch_request(request, Selection.of([]))) == field


@pytest.mark.parametrize("text", ["x", "-1-0", "9999999999999999-0"])
async def test_a_foreign_cursor_is_no_reason_to_refuse(text: str) -> None:
    """A cursor that is none of ours is taken as that, however it comes."""
    for query, headers in ((f"after={text}", {}), (f"lastEventId={text}", {}), ("", {"Last-Event-ID": text})):
        async with asking(query, headers):
            wanted = watch_request(request, Selection.of([]))
            assert (wanted.after, wanted.foreign) == (None, True)
            assert watch_request(request, Selection.of([]), "0-0").after == OLDEST


async def test_the_newest_word_on_the_cursor_counts() -> None:
    """The header wins over a polyfill's parameter, and that over the query of the first connect."""
    query = "after=1-1&lastEventId=2-2"
    async with asking(query, {"Last-Event-ID": "3-3"}):
        assert watch_request(request, Selection.of([])).after == parse_id("3-3")
    async with asking(query):
        assert watch_request(request, Selection.of([])).after == parse_id("2-2")


async def test_a_plus_sign_in_a_channel() -> None:
    """A raw plus sign, which a query turns into a space, is the plus sign of the channel's name."""
    async with asking("channel=task:a+b"):
        assert selection(request, 10) == Selection.of(["task:a+b"])


# Bodies


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


def test_limits_are_the_documented_ones() -> None:
    """Lists have 50 entries by default and 500 at most."""
    assert (requests.DEFAULT_LIMIT, requests.MAX_LIMIT) == (50, 500)
