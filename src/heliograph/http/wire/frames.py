"""Bytes on the wire: WebSocket frames and SSE blocks, as pure functions.

Server-to-client WebSocket frames are not masked (RFC 6455, section 5.1) and HTTP/1.1 chunks (RFC 9112,
section 7.1) carry no state of their peer, so what is made here once is the same for every watcher.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import orjson

from heliograph.model.event import JSON_OPTIONS, Event, event_json, message_json, plain_json
from heliograph.model.ids import format_id

TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A
PLAIN = frozenset({TEXT, PING, PONG})
LAST_CHUNK = b"0\r\n\r\n"


def frame(opcode: int, payload: bytes) -> bytes:
    """Make a final, unmasked WebSocket frame (RFC 6455, section 5.2); ``opcode`` includes the FIN bit."""
    length = len(payload)
    if length < 126:
        return struct.pack("!BB", opcode, length) + payload
    if length < 65536:
        return struct.pack("!BBH", opcode, 126, length) + payload
    return struct.pack("!BBQ", opcode, 127, length) + payload


def whole_messages(data: bytes) -> bool:
    """Tell whether a client's bytes, from the beginning of a frame on, are complete unfragmented messages.

    Only the headers are read (RFC 6455, section 5.2); the parser decides whether they are valid.
    """
    at = 0
    while at + 2 <= len(data):
        final, opcode, length = data[at] & 0x80, data[at] & 0x0F, data[at + 1] & 0x7F
        if not final or opcode == 0:
            return False
        at += 2
        if length >= 126:
            size = 2 if length == 126 else 8
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        at += length + 4  # the mask
    return at == len(data)


def plain_frames(data: bytes) -> list[tuple[int, bytes]] | None:
    """Read a client's bytes, if they are nothing but whole short texts, pings and pongs.

    Nearly all that clients send has this form, and a parser would be most of the cost of reading it.

    Returns:
        The opcodes (with the FIN bit) and payloads; ``None`` when anything else is there or anything is
        wrong: the parser has to read it.
    """
    found = []
    at = 0
    while at < len(data):
        begin = at + 6
        if len(data) < begin or data[at] not in PLAIN or not 0x80 <= data[at + 1] < 0x80 + 126:
            return None
        at, first, size = begin + data[at + 1] - 0x80, data[at], data[at + 1] - 0x80
        if len(data) < at:
            return None
        mask = (data[begin - 4 : begin] * (size // 4 + 1))[:size]
        unmasked = int.from_bytes(data[begin:at], "big") ^ int.from_bytes(mask, "big")
        payload = unmasked.to_bytes(size, "big")
        if first == TEXT and not _is_utf8(payload):
            return None
        found.append((first, payload))
    return found


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def close_frame(code: int, reason: str) -> bytes:
    """Make a close frame; the reason is cut to the 123 bytes that fit (RFC 6455, section 5.5)."""
    cut = reason.encode()[:123].decode(errors="ignore").encode()
    return frame(CLOSE, struct.pack("!H", code) + cut)


def json_frame(message: dict[str, Any]) -> bytes:
    """Make a text frame of a control message."""
    return frame(TEXT, plain_json(orjson.dumps(message, option=JSON_OPTIONS)))


def event_frame(event: Event) -> bytes:
    """Make the text frame of an event."""
    return frame(TEXT, message_json(event))


def chunk(data: bytes) -> bytes:
    """Make one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def sse_block(
    event: str | None, data: bytes, event_id: str | None = None, retry_ms: int | None = None
) -> bytes:
    """Make one block of an event stream (WHATWG HTML, section 9.2.6).

    Args:
        event: The block's name; ``None``: an EventSource calls it ``message``.
        data: JSON, in which every kind of newline is escaped, so it is always one line.
        event_id: The client's cursor once it has read this.
        retry_ms: How many milliseconds the client waits before it reconnects.
    """
    lines = b"" if retry_ms is None else b"retry: %d\n" % retry_ms
    if event is not None:
        lines += b"event: %b\n" % event.encode()
    if event_id is not None:
        lines += b"id: %b\n" % event_id.encode()
    return b"%bdata: %b\n\n" % (lines, data)


def notice_block(
    kind: str, fields: Mapping[str, Any], cursor: str, retry_ms: int | None = None, *, named: bool = True
) -> bytes:
    """Make a block that tells of the stream itself; like an event's, its data has a ``topic``.

    Args:
        kind: The notice's name, such as ``keepalive``.
        fields: The rest of the data.
        cursor: The client's cursor once it has read this; empty for none.
        retry_ms: How many milliseconds the client waits before it reconnects.
        named: Whether the block has an ``event:`` line.
    """
    data = plain_json(orjson.dumps({"topic": kind, **fields}, option=JSON_OPTIONS))
    return sse_block(kind if named else None, data, cursor, retry_ms)


def event_block(event: Event) -> bytes:
    """Make the SSE block of an event, for a body that is not chunked (HTTP/1.0)."""
    topic, cursor = event.topic.encode(), format_id(event.id).encode()
    return b"event: %b\nid: %b\ndata: %b\n\n" % (topic, cursor, event_json(event))


def event_chunk(event: Event) -> bytes:
    """Make the SSE block of an event as one chunk."""
    return chunk(event_block(event))


def nameless_block(event: Event) -> bytes:
    """Make the SSE block of an event without its name, so that ``EventSource.onmessage`` hears it."""
    return b"id: %b\ndata: %b\n\n" % (format_id(event.id).encode(), event_json(event))


def nameless_chunk(event: Event) -> bytes:
    """Make the SSE block of an event without its name as one chunk."""
    return chunk(nameless_block(event))
