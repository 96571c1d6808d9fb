"""Bytes on the wire: WebSocket frames and SSE blocks, as pure functions.

Server-to-client WebSocket frames are not masked (RFC 6455, section 5.1) and HTTP/1.1 chunks (RFC 9112,
section 7.1) carry no state of their peer, so what is made here once is the same for every watcher.
"""

from __future__ import annotations

import struct
from typing import Any

import orjson

from heliograph.model.event import JSON_OPTIONS, Event, event_json, message_json
from heliograph.model.ids import format_id

TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A
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

    It reads headers only (RFC 6455, section 5.2); whether they are valid is the parser's to say.
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


def close_frame(code: int, reason: str) -> bytes:
    """Make a close frame; the reason is cut to the 123 bytes that fit (RFC 6455, section 5.5)."""
    cut = reason.encode()[:123].decode(errors="ignore").encode()
    return frame(CLOSE, struct.pack("!H", code) + cut)


def json_frame(message: dict[str, Any]) -> bytes:
    """Make a text frame of a control message."""
    return frame(TEXT, orjson.dumps(message, option=JSON_OPTIONS))


def event_frame(event: Event) -> bytes:
    """Make the text frame of an event."""
    return frame(TEXT, message_json(event))


def chunk(data: bytes) -> bytes:
    """Make one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def sse_block(event: str, data: bytes, event_id: str | None = None) -> bytes:
    """Make one block of an event stream (WHATWG HTML, section 9.2.6).

    ``data`` is JSON, in which every kind of newline is escaped, so it is always one line.
    """
    if event_id is None:
        return b"event: %b\ndata: %b\n\n" % (event.encode(), data)
    return b"event: %b\nid: %b\ndata: %b\n\n" % (event.encode(), event_id.encode(), data)


def id_block(position: int) -> bytes:
    """Make a block that only moves the client's cursor; an EventSource dispatches nothing for it."""
    return b"id: %b\n\n" % format_id(position).encode()


def retry_block(milliseconds: int) -> bytes:
    """Make the block that sets how long the client waits before it reconnects."""
    return b"retry: %d\n\n" % milliseconds


def event_block(event: Event) -> bytes:
    """Make the SSE block of an event, for a body that is not chunked (HTTP/1.0)."""
    return sse_block(event.topic, event_json(event), event.cursor)


def event_chunk(event: Event) -> bytes:
    """Make the SSE block of an event as one chunk."""
    return chunk(event_block(event))
