"""Clients of both transports, on bare sockets, that tell one story.

A ``Watch`` is one connection. What it is told arrives as ``Told`` values that are the same whether a
WebSocket or an event stream carried them, so a test is written once and runs over both. The parsers
share no code with the service, and keep what came behind the last whole message, so a connection may
be cut at any byte.
"""

from __future__ import annotations

import base64
import os
import socket
import struct
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol
from urllib.parse import quote, urlencode, urlsplit

import attrs
import h11
import orjson
import trio

TRANSPORTS = ("ws", "sse")
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
TOPICS = {"task_output": "task.output", "task_status": "task.status"}
DEADLINE = 60.0
"""Seconds until a test that waits in vain fails; nothing is ever measured by it."""


@attrs.frozen
class Told:
    """One thing that the service told a watcher.

    Args:
        kind: ``event``; a notice (``gap``, ``reset``, ``reconnect``); an answer (``subscribed``,
            ``error``, …); ``keepalive`` (a ping on a WebSocket); ``open``, with which an event stream begins;
            ``end``, after which there is nothing.
        fields: Its fields; of an event ``channel``, ``seq``, ``topic`` and ``payload``.
        id: The cursor that came with it.
    """

    kind: str
    fields: dict[str, Any] = attrs.field(factory=dict)
    id: str | None = None

    @property
    def seq(self) -> int:
        """The number of an event within its channel."""
        return int(self.fields["seq"])

    @property
    def output(self) -> str:
        """The text of an event of output."""
        return str(self.fields["payload"]["output"])


class Parser(Protocol):
    """Turns the bytes behind the head of the answer into what was told."""

    def feed(self, data: bytes) -> list[Told]:
        """Take bytes; return what is whole by now. No bytes mean end of file."""
        ...


class FrameParser:
    """Reads the frames of a server: unmasked, whole, without extensions."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._closed = False

    def feed(self, data: bytes) -> list[Told]:
        """See ``Parser.feed``."""
        if not data:
            return [] if self._closed else [Told("end", {"code": None})]
        self._buffer += data
        told = []
        while (found := self._frame()) is not None:
            told.append(self._told(*found))
        return told

    def _frame(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        assert buffer[0] & 0xF0 == 0x80, "a server's frame here is final and has no reserved bit"
        length, at = buffer[1], 2
        assert length < 128, "a server's frame is not masked"
        if length >= 126:
            at = 4 if length == 126 else 10
            if len(buffer) < at:
                return None
            length = int.from_bytes(buffer[2:at])
        if len(buffer) < at + length:
            return None
        opcode, payload = buffer[0] & 0x0F, bytes(buffer[at : at + length])
        del buffer[: at + length]
        return opcode, payload

    def _told(self, opcode: int, payload: bytes) -> Told:
        assert not self._closed, "nothing follows a close frame"
        if opcode == CLOSE:
            self._closed = True
            return Told("end", {"code": int.from_bytes(payload[:2]), "reason": payload[2:].decode()})
        if opcode == PING:
            return Told("keepalive", {"payload": payload})
        if opcode == PONG:
            return Told("pong frame", {"payload": payload})
        assert opcode == TEXT
        message = orjson.loads(payload)
        kind = message.pop("type")
        if kind in TOPICS:
            envelope = {name: message.pop(name) for name in ("id", "channel", "seq", "timestamp")}
            message = {"topic": TOPICS[kind], "payload": message, **envelope}
            kind = "event"
        return Told(kind, message, message.get("id"))


class BlockParser:
    """Reads an event stream: chunked, of a known length, or up to the end of the connection."""

    def __init__(self, *, chunked: bool = True, length: int | None = None) -> None:
        self._chunked = chunked
        self._length = length
        self._chunks = bytearray()
        self._left = 0
        self._text = bytearray()
        self._ended = False

    def feed(self, data: bytes) -> list[Told]:
        """See ``Parser.feed``."""
        if not data:
            return [] if self._ended else [Told("end", {"whole": not self._chunked})]
        if self._chunked:
            self._chunks += data
            self._unchunk()
        else:
            self._text += data
            if self._length is not None:
                self._length -= len(data)
                self._ended = self._length == 0
        told = []
        while (end := self._text.find(b"\n\n")) >= 0:
            told.append(self._told(self._text[:end].decode()))
            del self._text[: end + 2]
        if self._ended:
            told.append(Told("end", {"whole": not self._text}))
        return told

    def _unchunk(self) -> None:
        """Move what has come of the body on, also of a chunk that is not whole yet."""
        while self._chunks:
            if self._left == 0:
                line = self._chunks.find(b"\r\n")
                if line < 0:
                    return
                assert not self._ended, "nothing follows the last chunk"
                size = int(self._chunks[:line], 16)
                self._ended = size == 0
                self._left = size + 2  # with the line's end behind it
                del self._chunks[: line + 2]
            self._text += self._chunks[: max(0, self._left - 2)]
            taken = min(self._left, len(self._chunks))
            self._left -= taken
            del self._chunks[:taken]

    def _told(self, block: str) -> Told:
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        assert {"event", "id", "data"} <= lines.keys() <= {"event", "id", "data", "retry"}
        fields = orjson.loads(lines["data"])
        assert lines["event"] == fields["topic"]
        if "seq" in fields:
            assert lines["id"] == fields["id"]
            return Told("event", fields, lines["id"])
        if "retry" in lines:
            fields["retry"] = int(lines["retry"])
        return Told(fields.pop("topic"), fields, lines["id"] or None)


@attrs.define
class Watch:
    """One connection of a watcher.

    Attributes:
        transport: ``ws`` or ``sse``.
        stream: The connection.
        status: Of the answer to the handshake.
        headers: Likewise, names in lower case.
        body: What came behind the head of an answer that opens no stream.
        cursor: Where to resume: the id of the newest event, or what the service said later.
        answers_pings: Whether pings are answered by pongs.
    """

    transport: str
    stream: trio.SocketStream
    status: int = 0
    headers: dict[str, str] = attrs.field(factory=dict)
    cursor: str | None = None
    answers_pings: bool = True
    ended: bool = False
    _sending: trio.Lock = attrs.field(factory=trio.Lock)
    _parser: Parser | None = None
    _told: deque[Told] = attrs.field(factory=deque)

    async def __aenter__(self) -> Watch:
        """Leave the connection to a ``with`` statement."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await trio.aclose_forcefully(self.stream)

    async def read_head(self) -> None:
        """Read the answer to the handshake."""
        received = b""
        while b"\r\n\r\n" not in received:
            data = await self.stream.receive_some(65536)
            assert data, f"the connection ended within the head: {received!r}"
            received += data
        head, _, rest = received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        if self.status == 101:
            self._parser = FrameParser()
        elif self.headers.get("content-type", "").startswith("text/event-stream"):
            length = self.headers.get("content-length")
            self._parser = BlockParser(
                chunked="transfer-encoding" in self.headers, length=None if length is None else int(length)
            )
        if rest and self._parser is not None:
            self._take(rest)

    def _take(self, data: bytes) -> None:
        assert self._parser is not None
        for told in self._parser.feed(data):
            if told.kind == "end":
                self.ended = True
            if told.id is not None:
                self.cursor = told.id
            self._told.append(told)

    async def next(self) -> Told:
        """Return the next thing told."""
        while not self._told:
            assert self._parser is not None, f"no stream was opened: {self.status}"
            assert not self.ended, "nothing follows the end"
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                data = b""
            self._take(data)
        told = self._told.popleft()
        if told.kind == "keepalive" and self.transport == "ws" and self.answers_pings:
            with suppress(trio.BrokenResourceError):
                await self.send_frame(PONG, told.fields["payload"])
        return told

    async def until(self, *kinds: str) -> Told:
        """Return the next thing of these kinds and forget what comes before it."""
        with trio.fail_after(DEADLINE):
            while True:
                told = await self.next()
                if told.kind in kinds:
                    return told
                assert told.kind != "end", f"ended by {told.fields} before {kinds}"

    async def story(self, count: int, *kinds: str) -> list[Told]:
        """Return the next ``count`` things of these kinds, events and notices of loss if none is named."""
        return [await self.until(*(kinds or ("event", "gap", "reset"))) for _ in range(count)]

    async def outputs(self, count: int) -> list[str]:
        """Return the texts of the next ``count`` events; nothing else may come between."""
        return [told.output for told in await self.story(count)]

    async def to_end(self) -> list[Told]:
        """Return everything that is told until the end, the end last."""
        told: list[Told] = []
        with trio.fail_after(DEADLINE):
            while not told or told[-1].kind != "end":
                told.append(await self.next())
        return told

    async def end(self) -> dict[str, Any]:
        """Wait for the end and return how it was: ``code`` of a WebSocket, ``whole`` of an event stream."""
        return (await self.to_end())[-1].fields

    async def live(self) -> str:
        """Wait until the watch is live; return the cursor at which it begins."""
        told = await self.until("subscribed" if self.transport == "ws" else "open")
        return str(told.fields["cursor"])

    # What only a WebSocket can do

    async def send(self, data: bytes) -> None:
        """Send bytes as they are; a pong of another task comes before or after them."""
        async with self._sending:
            await self.stream.send_all(data)

    async def send_frame(self, opcode: int, payload: bytes) -> None:
        """Send one masked, final frame."""
        await self.send(client_frame(opcode, payload))

    async def say(self, kind: str, **fields: Any) -> None:
        """Send one message."""
        await self.send_frame(TEXT, orjson.dumps({"type": kind, **fields}))


def client_frame(opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0, mask: bool = True) -> bytes:
    """Make a frame as a client sends it, or nearly."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    flag = 0x80 if mask else 0
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", first, flag | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, flag | 126, size)
    else:
        head = struct.pack("!BBQ", first, flag | 127, size)
    # A mask of zeros is a mask, and spares the test the work.
    return head + (b"\0\0\0\0" if mask else b"") + payload


async def connect(url: str, *, receive_buffer: int | None = None) -> trio.SocketStream:
    """Connect to a service, if wanted with a small receive buffer, so that it fills soon."""
    parts = urlsplit(url)
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    assert parts.hostname is not None
    try:
        await sock.connect((parts.hostname, parts.port))
    except OSError:
        sock.close()
        raise
    return trio.SocketStream(sock)


def handshake(url: str, path: str = "/ws", headers: Mapping[str, str] | None = None) -> bytes:
    """Make the request that opens a WebSocket."""
    lines = {
        "Host": urlsplit(url).netloc,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Extensions": "permessage-deflate",
        **(headers or {}),
    }
    return request_head("GET", path, lines)


def request_head(method: str, target: str, headers: Mapping[str, str], version: str = "1.1") -> bytes:
    """Make the head of a request."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {target} HTTP/{version}\r\n{lines}\r\n".encode()


async def open_ws(
    url: str,
    path: str = "/ws",
    headers: Mapping[str, str] | None = None,
    receive_buffer: int | None = None,
) -> Watch:
    """Open a WebSocket; the answer may be a refusal."""
    stream = await connect(url, receive_buffer=receive_buffer)
    watch = Watch("ws", stream)
    await stream.send_all(handshake(url, path, headers))
    await watch.read_head()
    return watch


async def open_sse(
    url: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    receive_buffer: int | None = None,
    version: str = "1.1",
) -> Watch:
    """Open an event stream; the answer may be a refusal."""
    stream = await connect(url, receive_buffer=receive_buffer)
    watch = Watch("sse", stream)
    head = {"Host": urlsplit(url).netloc, "Accept": "text/event-stream", **(headers or {})}
    await stream.send_all(request_head("GET", path, head, version))
    await watch.read_head()
    return watch


async def watch(
    transport: str,
    url: str,
    *channels: str,
    headers: Mapping[str, str] | None = None,
    receive_buffer: int | None = None,
    **options: Any,
) -> Watch:
    """Watch channels over a transport; ``options`` are ``after``, ``tail``, ``topic`` and ``overflow``.

    A WebSocket gets one subscription for each channel, an event stream one for all of them.
    """
    with trio.fail_after(DEADLINE):
        if transport == "ws":
            opened = await open_ws(url, headers=headers, receive_buffer=receive_buffer)
            for channel in channels:
                await opened.say("subscribe", channel=channel, **options)
            return opened
        query = urlencode([*(("channel", one) for one in channels), *options.items()], quote_via=quote)
        return await open_sse(url, f"/api/v1/events/stream?{query}", headers, receive_buffer)


@attrs.frozen
class Answer:
    """The answer to an ordinary request."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Read the body as JSON."""
        return orjson.loads(self.body)


async def ask(
    url: str,
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    json: Any = None,
) -> Answer:
    """Make one request on a connection of its own.

    Raises:
        OSError: There is no service, or it went away before it answered.
    """
    body = b"" if json is None else orjson.dumps(json)
    head = {"Host": urlsplit(url).netloc, "Connection": "close", **(headers or {})}
    if json is not None:
        head |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method=method, target=path, headers=list(head.items())))
    received = bytearray()
    async with await connect(url) as stream:
        try:
            await stream.send_all(request_head(method, path, head) + body)
            parser.send(h11.Data(data=body))
            parser.send(h11.EndOfMessage())
            while not isinstance(event := parser.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    parser.receive_data(await stream.receive_some(65536))
                elif isinstance(event, h11.Response):
                    response = event
                elif isinstance(event, h11.Data):
                    received += event.data
        except (trio.BrokenResourceError, h11.RemoteProtocolError) as error:
            raise ConnectionError("the service went away") from error
    names = {name.decode(): value.decode("latin-1") for name, value in response.headers}
    return Answer(response.status_code, names, bytes(received))


async def publish(url: str, *items: dict[str, Any], headers: Mapping[str, str] | None = None) -> list[str]:
    """Publish items; return their ids once they are acknowledged."""
    answer = await ask(url, "POST", "/api/v1/events", headers, json=list(items))
    assert answer.status == 201, answer.body
    ids: list[str] = answer.json()["ids"]
    return ids


async def get(url: str, path: str, headers: Mapping[str, str] | None = None) -> Any:
    """Get a JSON document."""
    answer = await ask(url, "GET", path, headers)
    assert answer.status == 200, answer.body
    return answer.json()


async def until_found(url: str, path: str) -> None:
    """Wait until something is in the store, which in the distributed form comes after the acknowledgement."""
    with trio.fail_after(DEADLINE):
        while (await ask(url, "GET", path)).status == 404:  # noqa: ASYNC110 - a state of the service
            await trio.sleep(0.05)


async def metric(url: str, name: str, **labels: str) -> float:
    """Read one metric; what was never counted is 0."""
    text = (await ask(url, "GET", "/metrics")).body.decode()
    shown = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    for line in text.splitlines():
        if line.startswith(f"heliograph_{name}" + (f"{{{shown}}} " if shown else " ")):
            return float(line.split()[-1])
    return 0.0


async def until_metric(url: str, value: float, name: str, **labels: str) -> None:
    """Wait until a metric has a value."""
    with trio.fail_after(DEADLINE):
        while (found := await metric(url, name, **labels)) != value:
            assert found < value or name == "streams", f"{name} went beyond {value} to {found}"
            await trio.sleep(0.1)


def output(task: str, text: str, **envelope: Any) -> dict[str, Any]:
    """Make an item of output."""
    return {"topic": "task.output", "payload": {"task_id": task, "output": text}, **envelope}


def status(task: str, value: str, **envelope: Any) -> dict[str, Any]:
    """Make an item of status."""
    return {"topic": "task.status", "payload": {"task_id": task, "status": value}, **envelope}


def outputs(task: str, first: int, last: int) -> list[dict[str, Any]]:
    """Make numbered lines of output, both ends included."""
    return [output(task, str(number)) for number in range(first, last + 1)]


def numbers(first: int, last: int) -> list[str]:
    """Return the texts of ``outputs``."""
    return [str(number) for number in range(first, last + 1)]
