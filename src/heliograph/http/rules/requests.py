"""Reading a request: parameters, cursors and bodies, with errors that name the field."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterable, Iterable
from datetime import datetime
from typing import Any

import orjson
import trio
from quart import g
from werkzeug.exceptions import RequestTimeout

from heliograph.actors.subscription import Overflow
from heliograph.http.rules.asked import Asked
from heliograph.http.rules.auth import Identity
from heliograph.http.streams.cursors import client_cursor
from heliograph.http.streams.watching import MAX_TAIL, WatchRequest
from heliograph.model.channels import EVERYTHING, Selection, parse_selector, parse_topic_pattern
from heliograph.model.errors import Invalid, Malformed, TooLarge, UnsupportedMedia
from heliograph.model.event import JSON_OPTIONS
from heliograph.model.ids import parse_position, parse_time
from heliograph.model.intake import parse_json

MAX_LIMIT = 500
DEFAULT_LIMIT = 50
MAX_SELECTORS = 500
"""A selection is read as a union over its channels, of which SQLite takes no more."""
JSON = "application/json"
NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")
NAMES = ("on", "off")
BODY_SECONDS = 60.0
"""How long a body may take, however it trickles in."""


def identity() -> Identity:
    """Return who makes the current request; ``app`` has identified them before the route ran."""
    who: Identity = g.identity
    return who


def refuse_unknown(asked: Asked, *known: str) -> None:
    """Refuse query parameters that the route does not know.

    Raises:
        Invalid: With one entry for each.
    """
    for name in asked.args:
        if name not in known:
            raise Invalid.field(name[:100], f"is unknown; this takes {', '.join(known) or 'no parameters'}")


def whole(asked: Asked, name: str, default: int, low: int, high: int) -> int:
    """Read a whole number from the query.

    Raises:
        Invalid: Not a number, or out of range.
    """
    text = asked.args.get(name)
    if text is None:
        return default
    # int() takes forms that nobody means: 1_000, Arabic digits, spaces
    if text.isascii() and text.removeprefix("-").isdigit() and len(text) < 20 and low <= int(text) <= high:
        return int(text)
    raise Invalid.field(name, f"must be a whole number from {low} to {high}")


def moment(asked: Asked, name: str) -> datetime | None:
    """Read an ISO 8601 time from the query.

    Raises:
        Invalid: Not a time.
    """
    text = asked.args.get(name)
    # A plus sign in a query is a space: put it back where an offset stands.
    return None if text is None else parse_time(text.replace(" ", "+"), name)


def listed(asked: Asked, name: str, allowed: Iterable[str]) -> tuple[str, ...]:
    """Read a parameter that may be repeated or comma-separated.

    Raises:
        Invalid: Something else than what is allowed.
    """
    values = tuple(
        value.strip() for text in asked.args.getlist(name) for value in text.split(",") if value.strip()
    )
    allowed = tuple(allowed)
    for value in values:
        if value not in allowed:
            raise Invalid.field(name, f"must be some of {', '.join(allowed)}")
    return values


def encode_cursor(*parts: str | int) -> str:
    """Make an opaque keyset cursor."""
    return base64.urlsafe_b64encode(orjson.dumps(parts)).rstrip(b"=").decode()


def decode_cursor(asked: Asked, *kinds: type) -> list[Any] | None:
    """Read the query's ``cursor`` as ``encode_cursor`` made it.

    Raises:
        Invalid: Not one of ours.
    """
    text = asked.args.get("cursor")
    if text is None:
        return None
    try:
        parts = orjson.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        parts = None
    if isinstance(parts, list) and [type(part) for part in parts] == list(kinds):
        return parts
    raise Invalid.field("cursor", "must be a next_cursor of this list, unchanged")


def watch_request(asked: Asked, selection: Selection, default_after: str | None = None) -> WatchRequest:
    """Read what an SSE request asks for besides its selection.

    Args:
        asked: The request.
        selection: What it watches.
        default_after: Where it begins without a cursor of its own.

    Raises:
        Invalid: Some parameter is wrong.
    """
    cursor = client_cursor(asked)
    after = cursor.position
    tail = whole(asked, "tail", 0, 0, MAX_TAIL)
    if after is None and default_after is not None and (cursor.foreign or not tail):
        after = parse_position(default_after, "after")
    names = asked.args.get("names", "on")
    if names not in NAMES:
        raise Invalid.field("names", f"must be one of {', '.join(NAMES)}")
    overflow = asked.args.get("overflow", Overflow.DISCONNECT.value)
    if overflow not in list(Overflow):
        raise Invalid.field("overflow", f"must be one of {', '.join(Overflow)}")
    return WatchRequest(
        selection=selection,
        after=after,
        after_is_time=cursor.is_time,
        foreign=cursor.foreign,
        tail=tail,
        overflow=Overflow(overflow),
        names=names == "on",
    )


def selection(asked: Asked, max_channels: int) -> Selection:
    """Read ``channel`` (repeatable) and ``topic`` of the query.

    Raises:
        Invalid: Some of them is malformed, or there are too many.
    """
    # A plus sign in a query is a space, which no channel has: it can only be meant as a plus sign.
    selectors = [parse_selector(text.replace(" ", "+")) for text in asked.args.getlist("channel")]
    most = min(max_channels, MAX_SELECTORS)
    if len(selectors) > most:
        raise Invalid.field("channel", f"at most {most} channels are taken at once")
    topic = parse_topic_pattern(asked.args.get("topic", EVERYTHING))
    return Selection.of(selectors, topic)


class InTime:
    """A body that may take a while, but not longer.

    Args:
        chunks: The body; iterating raises ``RequestTimeout`` when it has not ended in time.
    """

    def __init__(self, chunks: AsyncIterable[bytes]) -> None:
        self._chunks = aiter(chunks)
        self._deadline = trio.current_time() + BODY_SECONDS

    def __aiter__(self) -> InTime:
        return self

    async def __anext__(self) -> bytes:
        try:
            with trio.fail_at(self._deadline):
                return await anext(self._chunks)
        except trio.TooSlowError:
            raise RequestTimeout(f"the body did not arrive within {BODY_SECONDS} seconds") from None


class ItemReader:
    """Reads the items of a publish request: one JSON object, an array, or NDJSON, as its body comes.

    Args:
        kind: The media type; JSON where none is given.
        max_bytes: Limit of the body.
        max_items: Limit of items.

    Raises:
        UnsupportedMedia: Neither JSON nor NDJSON.
    """

    def __init__(self, kind: str, max_bytes: int, max_items: int) -> None:
        self._ndjson = kind in NDJSON
        if kind and kind != JSON and not self._ndjson:
            raise UnsupportedMedia(f"{kind} is not read here; send {JSON} or {NDJSON[0]}")
        self._max_bytes, self._max_items = max_bytes, max_items
        self._items: list[Any] = []
        self._rest = bytearray()
        self._size = self._line = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body.

        Raises:
            TooLarge: Over one of the limits.
            Malformed: Not what it says it is.
        """
        self._size += len(data)
        if self._size > self._max_bytes:
            raise TooLarge(f"a request may have at most {self._max_bytes} bytes")
        self._rest += data
        if self._ndjson and b"\n" in data:
            *lines, self._rest = self._rest.split(b"\n")
            for text in lines:
                self._add_line(text)
            self._require_few()

    def end(self) -> list[Any]:
        """Return the items of the whole body.

        Raises:
            TooLarge: There are too many.
            Malformed: Not what it says it is.
            Invalid: No items at all.
        """
        if self._ndjson:
            self._add_line(self._rest)
        else:
            value = parse_json(bytes(self._rest), "the body")
            self._items = value if isinstance(value, list) else [value]
        self._require_few()
        if not self._items:
            raise Invalid.field("", "the request has no events")
        return self._items

    def _add_line(self, text: bytearray) -> None:
        self._line += 1
        if text.strip():
            self._items.append(parse_json(bytes(text), f"line {self._line}"))

    def _require_few(self) -> None:
        if len(self._items) > self._max_items:
            raise TooLarge(
                f"a request may have at most {self._max_items} events: send the others in further requests"
            )


def to_json(value: Any) -> bytes:
    """Write a response body."""
    return orjson.dumps(value, option=JSON_OPTIONS)


def require_utf8(text: str, field: str) -> str:
    """Refuse text with lone surrogates or NUL, which no database keeps.

    Raises:
        Malformed: It has some.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Malformed(f"{field} is not UTF-8") from None
    if "\0" in text:
        raise Invalid.field(field, "must not contain NUL (U+0000)")
    return text
