"""Bodies: reading them as they come, within their limits, with errors that name the field."""

from __future__ import annotations

import re
import zlib
from collections.abc import AsyncIterable, Callable, Iterator, Mapping
from typing import Any, Protocol

import attrs
import trio
from werkzeug.exceptions import RequestTimeout

from heliograph.config import Settings
from heliograph.http.rules.asked import Asked
from heliograph.http.rules.schema import Components
from heliograph.http.rules.structure import structure
from heliograph.model.errors import Invalid, Malformed, TooLarge, UnsupportedMedia
from heliograph.model.intake import parse_json

JSON = "application/json"
NDJSON = (
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/jsonlines",
    "application/x-jsonlines",
)
BODY_SECONDS = 60.0
"""Seconds that a body may take, however it trickles in."""

LARGE_BODY = 256 * 1024
"""Bytes of JSON that take milliseconds to parse."""

CODINGS = {"gzip": 31, "deflate": 15}
"""Content codings that are unpacked, and what zlib calls their windows."""

UNPACKED_PIECE = 64 * 1024
_STRUCTURE = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{},]', re.DOTALL)
"""Strings, of which none is looked into, and what gives JSON its structure."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Some programs write it in front of UTF-8."""


class BodyReader(Protocol):
    """Reads one body."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""

    def end(self) -> Any:
        """Return what the whole body says."""


class Body(Protocol):
    """The form of an endpoint's body."""

    def reader(self, asked: Asked, settings: Settings) -> BodyReader:
        """Make the reader of a body.

        Raises:
            UnsupportedMedia: It says that it is something else.
        """

    def describe(self, settings: Settings, components: Components) -> Mapping[str, Any]:
        """Describe it for OpenAPI."""


@attrs.frozen
class JsonBody:
    """A JSON object of at most ``most`` bytes that becomes a value of an attrs class."""

    cls: type
    most: int = 1024 * 1024

    def reader(self, asked: Asked, settings: Settings) -> BodyReader:
        """Make the reader of a body."""
        require_json(asked)
        return _JsonReader(self.cls, min(self.most, settings.server.max_request_bytes))

    def describe(self, settings: Settings, components: Components) -> Mapping[str, Any]:
        """Describe it for OpenAPI."""
        return {"required": True, "content": {JSON: {"schema": components.of(self.cls)}}}


def require_json(asked: Asked) -> None:
    """Check that a body says it is JSON, or says nothing.

    Raises:
        UnsupportedMedia: It is something else.
    """
    if asked.mimetype not in {"", JSON}:
        raise UnsupportedMedia(f"{asked.mimetype} is not read here; send {JSON}")


class WholeReader:
    """Gathers a body of at most ``most`` bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._read = bytearray()

    def feed(self, data: bytes) -> None:
        """Take a piece.

        Raises:
            TooLarge: The body is longer than it may be.
        """
        if len(self._read) + len(data) > self._most:
            raise TooLarge(f"the body may have at most {self._most} bytes")
        self._read += data

    def whole(self) -> bytes:
        """Return the body."""
        return bytes(self._read)


class _JsonReader(WholeReader):
    def __init__(self, cls: type, most: int) -> None:
        super().__init__(most)
        self._cls = cls

    def end(self) -> Any:
        return structure(parse_json(self.whole().removeprefix(BYTE_ORDER_MARK), "the body"), self._cls)


async def read_body(reader: BodyReader, asked: Asked, body: bytes | AsyncIterable[bytes]) -> Any:
    """Read a body, all of it there or in the time that bodies have.

    A large body is parsed in a thread, and a packed one unpacked there: others are served meanwhile.

    Raises:
        RequestTimeout: It has not ended in time.
        HeliographError: It is refused.
    """
    coding = asked.headers.get("Content-Encoding", "").strip().lower()
    if coding not in {"", "identity"}:
        return await _read_packed(Unpacked(reader, coding), body)
    if isinstance(body, bytes):
        reader.feed(body)
        return reader.end()
    size = 0
    async for data in InTime(body):
        size += len(data)
        reader.feed(data)
    return reader.end() if size < LARGE_BODY else await trio.to_thread.run_sync(reader.end)


async def _read_packed(reader: Unpacked, body: bytes | AsyncIterable[bytes]) -> Any:
    if isinstance(body, bytes):
        await trio.to_thread.run_sync(reader.feed, body)
    else:
        async for data in InTime(body):
            await trio.to_thread.run_sync(reader.feed, data)
    return await trio.to_thread.run_sync(reader.end)


class UnsupportedCoding(UnsupportedMedia):
    """A body is packed in a way that is not read here (RFC 9110, section 12.5.3)."""

    code = "unsupported_coding"
    title = "Unsupported content coding"


class Unpacked:
    """Reads a packed body by way of another reader, whose limits hold for what is unpacked.

    Args:
        reader: Reads what is unpacked.
        coding: As ``Content-Encoding`` says.

    Raises:
        UnsupportedCoding: It is none of ``CODINGS``.
    """

    def __init__(self, reader: BodyReader, coding: str) -> None:
        if coding not in CODINGS:
            raise UnsupportedCoding(
                f"{coding} is not read here; send {' or '.join(CODINGS)}, or nothing packed"
            )
        self._reader = reader
        self._window = CODINGS[coding]
        self._unpacking = zlib.decompressobj(self._window)

    def feed(self, data: bytes) -> None:
        """Take the next packed bytes; they are unpacked bit by bit, so that a bomb meets the limit early."""
        while data:
            if self._unpacking.eof:  # several gzip members may follow each other
                self._unpacking = zlib.decompressobj(self._window)
            try:
                piece = self._unpacking.decompress(data, UNPACKED_PIECE)
            except zlib.error as error:
                raise Malformed(f"the body is not what its Content-Encoding says: {error}") from None
            self._reader.feed(piece)
            data = self._unpacking.unconsumed_tail or self._unpacking.unused_data
            if not piece and not self._unpacking.eof:
                break

    def end(self) -> Any:
        """Return what the whole body says."""
        if not self._unpacking.eof:
            raise Malformed("the packed body ends in its middle")
        return self._reader.end()


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
        parse: Reads JSON, given its bytes and what it is.
        max_item_bytes: Limit of an item as it comes: what is larger can't be within the limit of its event.

    Raises:
        UnsupportedMedia: Neither JSON nor NDJSON.
    """

    def __init__(
        self,
        kind: str,
        max_bytes: int,
        max_items: int,
        parse: Callable[[bytes, str], Any] = parse_json,
        max_item_bytes: int | None = None,
    ) -> None:
        self._parse = parse
        self._max_item_bytes = max_item_bytes or max_bytes
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
            self._require_few(len(self._items))
        if self._ndjson:
            self._require_small(len(self._rest))

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
            body = bytes(self._rest).removeprefix(BYTE_ORDER_MARK)
            if len(body) < LARGE_BODY:
                value = self._parse(body, "the body")
                self._items = value if isinstance(value, list) else [value]
            else:
                self._add_pieces(body)
        self._require_few(len(self._items))
        if not self._items:
            raise Invalid.field("", "the request has no events")
        return self._items

    def _add_line(self, text: bytearray) -> None:
        self._line += 1
        if self._line == 1:
            text = text.removeprefix(BYTE_ORDER_MARK)
        if text.strip():
            try:
                self._items.append(self._parse(bytes(text), f"line {self._line}"))
            except Invalid as invalid:
                here = len(self._items)
                raise Invalid([attrs.evolve(error, index=here) for error in invalid.errors]) from None

    def _add_pieces(self, body: bytes) -> None:
        """Parse a large body item by item.

        The parser lets nobody else run until it has done: it is given no more than one item at a time.
        """
        pieces = []
        for piece in split_array(body):
            pieces.append(piece)
            self._require_few(len(pieces))
            self._require_small(len(piece))
        self._items = [self._parse(piece, f"item {number}") for number, piece in enumerate(pieces)]

    def _require_small(self, size: int) -> None:
        if size > self._max_item_bytes:
            raise TooLarge(f"an item has {size} bytes; at most {self._max_item_bytes} are read")

    def _require_few(self, count: int) -> None:
        if count > self._max_items:
            raise TooLarge(
                f"a request may have at most {self._max_items} events: send the others in further requests"
            )


def split_array(body: bytes) -> Iterator[bytes]:
    """Yield the entries of a JSON array as they stand there; of anything else the whole.

    Raises:
        Malformed: The array does not end, or something stands behind it.
    """
    if body.lstrip()[:1] != b"[":
        yield body
        return
    depth, start, several = 0, 0, False
    for token in _STRUCTURE.finditer(body):
        match token[0]:
            case b"[" | b"{":
                depth += 1
                start = start or token.end()
            case b"]" | b"}":
                depth -= 1
                if depth == 0:
                    break
            case b"," if depth == 1:
                yield body[start : token.start()]
                start, several = token.end(), True
    if depth or token[0] != b"]" or body[token.end() :].strip():
        raise Malformed("the body is not valid JSON: the array does not end, or something stands behind it")
    last = body[start : token.start()].strip()
    if last or several:
        yield last
