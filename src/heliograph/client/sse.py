"""Server-sent events from bytes, by the WHATWG standard. No I/O.

Bytes may be split anywhere. A block that the end of the connection has cut off is never returned and does not
move ``last_id``, so a client that resumes from ``last_id`` misses nothing.
"""

from __future__ import annotations

import re

import attrs

from heliograph.model.errors import Malformed

MAX_BLOCK_BYTES = 80 * 1024 * 1024
"""Larger than any event of a service; only a peer that is not an event stream exceeds it."""

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@attrs.frozen
class Block:
    """One dispatched event.

    Args:
        event: The event's type; ``message`` if the block has none.
        data: The ``data`` lines, joined by newlines.
        last_id: The last event id as of this event; empty if there was none yet.
    """

    event: str
    data: str
    last_id: str


class Parser:
    """Reads one connection's stream.

    Attributes:
        last_id: The last event id; blocks with only an ``id:`` also move it.
        retry_ms: The delay before a reconnect that the server asked for; ``None`` if it did not.
    """

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.retry_ms: int | None = None
        self._buffer = b""
        self._after_return = False  # a newline right after it belongs to the same line end
        self._first_line = True
        self._event = ""
        self._data: list[str] = []
        self._data_bytes = 0
        self._id = last_id

    def feed(self, data: bytes) -> list[Block]:
        """Take bytes that were read; return the events that they complete.

        Raises:
            Malformed: A block is larger than any event can be.
        """
        if self._after_return:
            self._after_return = not data
            data = data.removeprefix(b"\n")
        self._after_return = self._after_return or data.endswith(b"\r")
        messages: list[Block] = []
        buffer, position = self._buffer + data, 0
        for match in _LINE_END.finditer(buffer, len(self._buffer)):
            self._line(buffer[position : match.start()], messages)
            position = match.end()
        self._buffer = buffer[position:]
        if len(self._buffer) + self._data_bytes > MAX_BLOCK_BYTES:
            raise Malformed("the answer is not an event stream: a block has no end")
        return messages

    def _line(self, line: bytes, messages: list[Block]) -> None:
        if self._first_line:
            line, self._first_line = line.removeprefix(_BYTE_ORDER_MARK), False
        if not line:
            self._dispatch(messages)
            return
        name, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        match name:
            case "data":
                self._data.append(value)
                self._data_bytes += len(line)
            case "event":
                self._event = value
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdigit():
                self.retry_ms = int(value)

    def _dispatch(self, messages: list[Block]) -> None:
        self.last_id = self._id
        if self._data:
            messages.append(Block(self._event or "message", "\n".join(self._data), self.last_id))
        self._event, self._data, self._data_bytes = "", [], 0
