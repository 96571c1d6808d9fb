"""Bodies: reads them as they arrive, within their limits, with errors that name the field."""

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
from heliograph.model.exact_json import parse_json, parts_of

JSON = "application/json"
NDJSON = (
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonl",
    "application/jsonlines",
    "application/x-jsonlines",
    "application/json-lines",
    "application/x-json-lines",
)
BODY_SECONDS = 60.0
"""Seconds in which a body must arrive as a whole."""

LARGE_BODY = 256 * 1024
"""Size from which JSON takes milliseconds to parse."""

MANY_ITEMS = 500
"""The number of items from which it takes milliseconds to check them."""

CODINGS = {"gzip": 31, "deflate": 15}
"""Content codings that are unpacked, and what zlib calls their windows."""

OLD_NAME = {"x-gzip": "gzip"}
"""A name that means the same as another one (RFC 9110, section 8.4.1.3)."""

UNPACKED_PIECE = 64 * 1024
_STRUCTURE = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{},]', re.DOTALL)
"""Tokens of JSON: strings, so that their content is skipped, and the characters of its structure."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Some programs write it in front of UTF-8."""


class BodyReader(Protocol):
    """Reads one body."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""

    def end(self) -> Any:
        """Return the value of the whole body."""


class Body(Protocol):
    """The form of an endpoint's body."""

    def reader(self, asked: Asked, settings: Settings) -> BodyReader:
        """Make the reader of a body.

        Raises:
            UnsupportedMedia: Its media type is another one.
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
    """Check that a body's media type is JSON, or missing.

    Raises:
        UnsupportedMedia: It is another one.
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
    """Read a body, which has arrived already or must arrive within ``BODY_SECONDS``.

    A large body is parsed, and a compressed one decompressed, in a thread, so that other requests go on.

    Raises:
        RequestTimeout: The body has not ended in time.
        HeliographError: The body is refused.
    """
    coding = asked.headers.get("Content-Encoding", "").strip().lower()
    if coding not in {"", "identity"}:
        return await _read_packed(Unpacked(reader, OLD_NAME.get(coding, coding)), body)
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
    """A body has a content coding that is not supported (RFC 9110, section 12.5.3)."""

    code = "unsupported_coding"
    title = "Unsupported content coding"


class Unpacked:
    """Decompresses a body for another reader, whose limits apply to the decompressed bytes.

    Args:
        reader: Reads the decompressed bytes.
        coding: The value of ``Content-Encoding``.

    Raises:
        UnsupportedCoding: The coding is none of ``CODINGS``.
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
        """Decompress the next bytes, in small pieces, so that a bomb reaches the limit early."""
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
        """Return the value of the whole body."""
        if not self._unpacking.eof:
            raise Malformed("the packed body ends in its middle")
        return self._reader.end()


class InTime:
    """A body that must arrive within ``BODY_SECONDS``.

    Args:
        chunks: The body; iteration raises ``RequestTimeout`` if it has not ended in time.
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


class Many(list[Any]):
    """Items that are checked in a thread: many, or those of a large body."""


class ItemReader:
    """Reads the items of a publish request as its body arrives: one JSON object, an array, or NDJSON.

    Args:
        kind: The media type; JSON if it is empty.
        max_bytes: The most bytes of the body.
        max_items: The most items.
        parse: Parses JSON, given its bytes and their name in errors.
        max_item_bytes: The most bytes of an item as it comes; the event of a larger one would be over its
            limit.
        max_item_parts: The most of what ``parts_of`` counts in an item, for the same reason.

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
        max_item_parts: int | None = None,
    ) -> None:
        self._parse = parse
        self._max_item_bytes = max_item_bytes or max_bytes
        self._max_item_parts = max_item_parts or max_bytes
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
            TooLarge: A limit is exceeded.
            Malformed: The body does not have the form of its media type.
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
        """Return the items of the whole body, as ``Many`` if it takes milliseconds to check them.

        Raises:
            TooLarge: There are too many, or one is too large.
            Malformed: The body does not have the form of its media type.
            Invalid: There are no items.
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
        few = len(self._items) < MANY_ITEMS and self._size < LARGE_BODY
        return self._items if few else Many(self._items)

    def _add_line(self, text: bytearray) -> None:
        self._line += 1
        if text.startswith(BYTE_ORDER_MARK):  # the body's, or that of a file which was joined to another
            text = text.removeprefix(BYTE_ORDER_MARK)
        if text.strip():
            if len(text) > LARGE_BODY:
                self._require_simple(text)
            try:
                self._items.append(self._parse(bytes(text), f"line {self._line}"))
            except Invalid as invalid:
                here = len(self._items)
                raise Invalid([attrs.evolve(error, index=here) for error in invalid.errors]) from None

    def _add_pieces(self, body: bytes) -> None:
        """Parse a large body item by item.

        The parser holds the GIL until it is done, so it is given one item at a time.
        """
        pieces = []
        for piece in split_array(body):
            pieces.append(piece)
            self._require_few(len(pieces))
            self._require_small(len(piece))
            if len(piece) > LARGE_BODY:
                self._require_simple(piece)
        self._items = [self._parse(piece, f"item {number}") for number, piece in enumerate(pieces)]

    def _require_small(self, size: int) -> None:
        if size > self._max_item_bytes:
            raise TooLarge(f"an item has {size} bytes; at most {self._max_item_bytes} are read")

    def _require_simple(self, item: bytes | bytearray) -> None:
        if parts_of(item) > self._max_item_parts:
            raise TooLarge(
                f"an item has more than {self._max_item_parts} brackets, commas, colons and quotes"
            )

    def _require_few(self, count: int) -> None:
        if count > self._max_items:
            raise TooLarge(
                f"a request may have at most {self._max_items} events: send the others in further requests"
            )


def split_array(body: bytes) -> Iterator[bytes]:
    """Yield the raw entries of a JSON array; the whole body if it is not an array.

    Raises:
        Malformed: The array does not end, or something follows it.
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
