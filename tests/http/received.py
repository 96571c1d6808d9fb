"""Independent readers of what goes over the wire: SSE by the letter of WHATWG HTML, WebSocket by wsproto."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import attrs
import h11
import orjson
import wsproto.events
from wsproto.connection import Connection, ConnectionType


@attrs.frozen
class Dispatched:
    """An event that an EventSource would dispatch."""

    event: str
    data: str
    last_id: str

    def json(self) -> Any:
        """Read the data."""
        return orjson.loads(self.data)


@attrs.define
class EventSource:
    """Reads an event stream as WHATWG HTML 9.2.6 tells a browser to; feed it text in any pieces.

    Attributes:
        events: What was dispatched.
        last_id: What it would send as ``Last-Event-ID``.
        retry: The reconnection time in milliseconds, if one was given.
    """

    events: list[Dispatched] = attrs.field(factory=list)
    last_id: str = ""
    retry: int | None = None
    _rest: str = ""
    _type: str = ""
    _data: list[str] = attrs.field(factory=list)
    _id: str = ""

    def feed(self, text: str) -> None:
        """Take some text."""
        self._rest += text
        while (line := self._take_line()) is not None:
            self._line(line)

    def _take_line(self) -> str | None:
        ends = [place for place in (self._rest.find("\n"), self._rest.find("\r")) if place >= 0]
        if not ends:
            return None
        end = min(ends)
        if self._rest[end] == "\r" and end + 1 == len(self._rest):
            return None  # a line feed may belong to it
        line, behind = self._rest[:end], end + 1
        if self._rest[end : end + 2] == "\r\n":
            behind += 1
        self._rest = self._rest[behind:]
        return line

    def _line(self, line: str) -> None:
        if not line:
            self.last_id = self._id
            if self._data:
                self.events.append(Dispatched(self._type or "message", "\n".join(self._data), self.last_id))
            self._type, self._data = "", []
            return
        name, colon, value = line.partition(":")
        value = value.removeprefix(" ") if colon else ""
        match name:
            case "event":
                self._type = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdigit():
                self.retry = int(value)


def read_frames(data: bytes) -> Iterator[wsproto.events.Event]:
    """Read server-to-client frames as a client does."""
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(data)
    yield from client.events()


def read_texts(data: bytes) -> list[str]:
    """Join the text messages among frames."""
    texts, text = [], ""
    for event in read_frames(data):
        assert isinstance(event, wsproto.events.TextMessage)
        text += event.data
        if event.message_finished:
            texts.append(text)
            text = ""
    assert text == ""
    return texts


def read_chunked(pieces: Iterable[bytes]) -> tuple[bytes, bool]:
    """Read a chunked body as an HTTP client does; return it, and whether it has ended."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    body, ended = b"", False
    for piece in pieces:
        client.receive_data(piece)
        while (event := client.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                ended = True
                break
    return body, ended
