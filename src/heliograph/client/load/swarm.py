"""Thousands of streams held by one thread: the engine of ``heliograph load`` and of the benchmarks.

It has one selector, non-blocking sockets and one small object per stream, and no task and no timer per
stream. One core is enough for hundreds of thousands of deliveries a second because the watchers of a channel
are sent the same bytes. A read that begins at a message boundary is remembered under the number of the
message before it. If another watcher's read at the same number begins with the same bytes (one ``memcmp``),
it takes over the message numbers instead of parsing again. An incomplete message at the end of a read waits
for its rest, so all reads begin at boundaries. Every message is checked: only a read of consecutive messages
and nothing else is remembered, and different bytes are parsed.

Every message has its time of publishing (``sent=<microseconds>;``, this process's monotonic clock) and its
``seq`` within its channel, 1, 2, 3, … So each stream proves what it missed, got twice or got late, and a run
proves it for all of them, across reconnects. Channels must be new: their first message has number 1.

The protocol of one kind of server (paths, subscribing, publishing) is a ``Dialect``; the engine knows none.

A long module, since reading, recognising and counting share their state for speed: as separate modules they
would cost several calls more per read.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import random
import re
import resource
import selectors
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter, perf_counter_ns, sleep
from typing import Any, Protocol

import attrs
import orjson

from heliograph.client.load.scan import (
    CLOSE,
    PING,
    PONG,
    BlockScanner,
    BrokenProtocol,
    FrameScanner,
    Scanner,
    client_frame,
)

READ_BYTES = 65536
BIN_US = 100
"""Latencies are counted in bins of this many microseconds."""

REMEMBERED = 64
"""The number of reads that are remembered per channel and transport."""

HANDSHAKES = 256
"""The most streams that connect at a time, since a listener's backlog is finite."""

MAX_HOLE = 10_000
"""The most missing numbers that one stream lists; a longer hole is only counted."""

_SENT = re.compile(rb"sent=(\d+);").search
_SEQ = re.compile(rb'"seq":(\d+)').search
_ID = re.compile(rb'"id":"(\d+-\d+)"').search
_BLOCK_ID = re.compile(rb"^id: ?(\d+-\d+)$", re.MULTILINE).search
HEAD_END = b"\r\n\r\n"


class LoadError(Exception):
    """The run can't go on: the server refuses a request, or this machine is too small."""


class Dialect(Protocol):
    """The protocol of one kind of server."""

    @property
    def numbers(self) -> bool:
        """Whether the server numbers messages itself, in the order in which it takes them."""

    def open(self, transport: str, channel: str, cursor: str | None) -> bytes:
        """Return the request that opens a stream (``transport`` is ``ws`` or ``sse``)."""

    def subscribe(self, channel: str, cursor: str | None) -> bytes | None:
        """Return the first WebSocket message; ``None`` if the path names the channel."""

    def publish(self, items: Sequence[tuple[str, int, str]], key: str) -> tuple[bytes, int]:
        """Return the requests that publish ``(channel, seq, text)`` items, and the number of answers."""


class Publisher(Protocol):
    """A publisher that works while the swarm runs."""

    @property
    def idle(self) -> bool:
        """Whether every request was answered."""

    def go_on(self, now: float) -> float:
        """Publish the bursts that are due; return the seconds until the next one may be."""

    def close(self) -> None:
        """Close its connections."""


@attrs.define
class Tally:
    """The counts of a run so far."""

    connects: int = 0
    deliveries: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    missing: int = 0
    resumed: int = 0
    published: int = 0
    refused: int = 0
    disconnects: Counter[str] = attrs.Factory(Counter)
    notices: Counter[str] = attrs.Factory(Counter)
    latency: Counter[int] = attrs.Factory(Counter)

    def percentile(self, fraction: float) -> float | None:
        """Return a latency in milliseconds (1.0: the longest); ``None`` before the first delivery."""
        left = fraction * self.latency.total()
        for bin_, count in sorted(self.latency.items()):
            left -= count
            if left <= 0:
                return (bin_ + 1) * BIN_US / 1000
        return None


class Read:
    """The bytes of one read, their messages, and the times at which watchers read them."""

    __slots__ = ("cursor", "data", "hits", "last", "times")

    def __init__(self, data: bytes, times: list[int], last: int, cursor: str | None) -> None:
        self.data = data
        self.times = times
        self.last = last
        self.cursor = cursor
        self.hits: dict[int, int] = {}

    def count_into(self, latency: Counter[int]) -> None:
        """Add the latency of each message at each watcher."""
        for time in self.times:
            sent = time // BIN_US
            for now, count in self.hits.items():
                latency[now - sent] += count


class LoadStream:
    """One watcher: its socket, its position in the channel, and the numbers that it misses."""

    __slots__ = (
        "backoff",
        "channel",
        "cursor",
        "delay",
        "head",
        "holes",
        "live",
        "recent",
        "scanner",
        "seq",
        "sock",
        "swarm",
        "transport",
    )

    def __init__(self, swarm: Swarm, transport: str, channel: str, recent: dict[int, Read]) -> None:
        self.swarm = swarm
        self.transport = transport
        self.channel = channel
        self.recent = recent
        self.sock: socket.socket | None = None
        self.head: bytes | None = None
        self.scanner: Scanner | None = None
        self.live = False
        self.seq = 0
        self.cursor: str | None = None
        self.holes: set[int] | None = None
        self.backoff = 0.1
        self.delay: float | None = None

    def connect(self) -> None:
        """Begin to connect; ``ready`` handles the outcome."""
        self.sock = sock = socket.socket(self.swarm.family, socket.SOCK_STREAM)
        sock.setblocking(False)
        if self.swarm.source is not None:
            sock.bind((self.swarm.source, 0))
        self.head, self.scanner, self.delay = b"", None, None
        error = sock.connect_ex(self.swarm.address)
        if error not in (0, errno.EINPROGRESS):
            self._drop(errno.errorcode.get(error, str(error)))
            return
        self.swarm.selector.register(sock, selectors.EVENT_WRITE, self)

    def ready(self) -> None:
        """Read or write, now that the socket is ready."""
        assert self.sock is not None
        if self.head is not None:
            self._handshake(self.sock)
            return
        try:
            data = self.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._drop(_name(error))
            return
        now = perf_counter_ns() // (1000 * BIN_US)
        assert self.scanner is not None
        if not data:
            self._drop("1006" if self.transport == "ws" else "end")
            return
        data = (
            self.scanner.take_back() + data
        )  # so that it begins at a message boundary, like the reads of others
        if self.scanner.idle:
            while (known := self.recent.get(self.seq)) is not None and data.startswith(known.data):
                self.seq = known.last
                self.cursor = known.cursor
                known.hits[now] = known.hits.get(now, 0) + 1
                self.swarm.tally.deliveries += len(known.times)
                data = data[len(known.data) :]
            if not data:
                return
        self._take(data, now)

    def close(self) -> None:
        """Close the socket, if there is one."""
        if self.sock is not None:
            self.swarm.forget(self.sock)
            self.sock = None

    def _handshake(self, sock: socket.socket) -> None:
        """Send the request once connected, then read up to the end of the response's head."""
        try:
            if not self.head and self.swarm.selector.get_key(sock).events == selectors.EVENT_WRITE:
                error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error:
                    raise OSError(error, "connect")  # noqa: TRY301 - the kernel's answer, told like the others
                sock.send(self.swarm.dialect.open(self.transport, self.channel, self.cursor))
                self.swarm.selector.modify(sock, selectors.EVENT_READ, self)
                return
            data = sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._drop(_name(error))
            return
        if not data:
            self._drop("end")
            return
        self.head = (self.head or b"") + data
        if HEAD_END in self.head:
            self._opened(sock, *self.head.split(HEAD_END, 1))

    def _opened(self, sock: socket.socket, head: bytes, rest: bytes) -> None:
        protocol, _, answer = head.partition(b" ")
        if not protocol.startswith(b"HTTP/1."):
            self._drop("protocol: no answer of HTTP/1.1")
            return
        status = answer[:3].decode("latin-1")
        if status != ("101" if self.transport == "ws" else "200"):
            self._drop(f"http {status}")
            return
        self.head = None
        if self.transport == "sse":
            self.scanner = BlockScanner(chunked=b"transfer-encoding: chunked" in head.lower())
            self._went_live()
        else:
            self.scanner = FrameScanner()
            subscribe = self.swarm.dialect.subscribe(self.channel, self.cursor)
            if subscribe is None:
                self._went_live()
            else:
                self._send(subscribe)
        if rest and self.sock is not None:
            self._take(rest, perf_counter_ns() // (1000 * BIN_US))

    def _went_live(self) -> None:
        self.live = True
        self.backoff = 0.1
        self.swarm.went_live()

    def _take(self, data: bytes, now: int) -> None:
        """Parse the messages of a read, and remember the read if it has only the next messages."""
        scanner = self.scanner
        assert scanner is not None
        plain = scanner.idle
        before = self.seq
        times = []
        last = b""
        try:
            texts = scanner.feed(data)
        except BrokenProtocol as error:
            self._drop(f"protocol: {error}")
            return
        for text in texts:
            if self.sock is None:
                break
            sent = _SENT(text)
            number = sent and _SEQ(text)
            if not sent or not number:
                plain = False
                self._notice(text)
                continue
            seq = int(number[1])
            if seq == self.seq + 1:
                self.seq = seq
            else:
                plain = False
                if not self._irregular(seq):
                    continue
            times.append(int(sent[1]))
            last = text
        if times:
            found = _ID(last)
            if found:
                self.cursor = found[1].decode()
            self.swarm.tally.deliveries += len(times)
            rest = scanner.take_back()
            read = Read(data[: len(data) - len(rest)], times, self.seq, self.cursor)
            read.hits[now] = 1
            if plain and scanner.idle:
                self.swarm.remember(self.recent, before, read)
            else:
                read.count_into(self.swarm.tally.latency)
            scanner.feed(rest)
        if scanner.controls:
            self._controls(scanner.controls)
        if scanner.ended and self.sock is not None:
            self._drop("end")

    def _irregular(self, seq: int) -> bool:
        """Handle a number that is not the next one; tell whether it is new to this stream."""
        tally = self.swarm.tally
        if seq > self.seq:
            hole = range(self.seq + 1, seq)
            self.holes = self.holes or set()
            self.holes.update(hole[: MAX_HOLE - len(self.holes)])
            tally.missing += len(hole)
            self.seq = seq
            return True
        if self.holes and seq in self.holes:
            self.holes.remove(seq)
            tally.missing -= 1
            tally.out_of_order += 1
            return True
        tally.duplicated += 1
        return False

    def _notice(self, text: bytes) -> None:
        """Act on a notice of the server about the stream itself."""
        try:
            kind, content = _parse_notice(self.transport, text)
        except BrokenProtocol as error:
            self._drop(f"protocol: {error}")
            return
        self.swarm.tally.notices[kind] += 1
        self.cursor = content.get("id") or self.cursor
        if "retry" in content:
            self.delay = float(content["retry"]) / 1000
        if kind == "subscribed":
            self.cursor = self.cursor or content.get("cursor")
            self._went_live()
        elif kind == "reconnect":
            self.delay = float(content.get("after_ms") or 0) / 1000
        elif kind == "error":
            code = f"error {content.get('code')}"
            self.swarm.tally.notices[code] += 1
            if (
                code == "error unavailable"
            ):  # the stream is then not subscribed, even if ``subscribed`` came before
                self._drop(code)

    def _controls(self, controls: list[tuple[int, bytes]]) -> None:
        for first, payload in controls:
            if self.sock is None:
                return
            if first == PING:
                self._send(client_frame(PONG, payload))
            elif first == CLOSE:
                self._drop(str(int.from_bytes(payload[:2], "big")) if payload else "1005")
        controls.clear()

    def _send(self, data: bytes) -> None:
        """Send a few bytes, for which the socket always has room while the peer lives."""
        assert self.sock is not None
        try:
            self.sock.send(data)
        except OSError as error:
            self._drop(_name(error))

    def _drop(self, code: str) -> None:
        """Close the socket, count the reason, and reconnect later if the reason allows it."""
        delay = self.delay
        if delay is None:
            delay = self.backoff * random.uniform(0.5, 1)
            self.backoff = min(2.0, self.backoff * 2)
        self.close()
        self.swarm.dropped(self, code, delay if resumable(code) else None)


def resumable(code: str) -> bool:
    """Tell whether a stream that ended with this code may resume from its cursor."""
    if code.startswith("http"):
        return code in {"http 429", "http 502", "http 503", "http 504"}
    if code.startswith("protocol") or code in {"1000", "1002", "1003", "1007"}:
        return False
    return not (code.isdigit() and 4500 <= int(code) <= 4999)


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, type(error).__name__)


def _parse_notice(transport: str, text: bytes) -> tuple[str, dict[str, Any]]:
    """Return the kind and the fields of a message that is not an event.

    Raises:
        BrokenProtocol: It is not one of Heliograph's messages.
    """
    if transport == "ws":
        content = _object(text)
        return str(content.get("type")), content
    lines = dict(line.split(": ", 1) for line in text.decode(errors="replace").split("\n") if ": " in line)
    data = lines.get("data", "")
    content = _object(data) if data.startswith("{") else {}
    if found := _BLOCK_ID(text):
        content["id"] = found[1].decode()
    if lines.get("retry", "").isdigit():
        content["retry"] = lines["retry"]
    return lines.get("event") or "comment", content


def _object(text: bytes | str) -> dict[str, Any]:
    try:
        content = orjson.loads(text)
    except orjson.JSONDecodeError:
        content = None
    if not isinstance(content, dict):
        raise BrokenProtocol("a message is no object of JSON")
    return content


class Swarm:
    """All streams and publishers of a run, driven by ``run``.

    ``pause`` is the number of seconds that every round of reading waits first: fewer reads, of more bytes
    each, at the price of latency. It is for measuring a server's throughput, not its latency.

    Args:
        dialect: The dialect that the server speaks.
        host: The server's name or address.
        port: The server's port.
        source: The address that streams come from; ``None``: the system chooses.
    """

    def __init__(self, dialect: Dialect, host: str, port: int, source: str | None = None) -> None:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        self.family: int = found[0][0]
        self.address: Any = found[0][4]
        self.dialect = dialect
        self.source = source
        self.tally = Tally()
        self.selector = selectors.DefaultSelector()
        self.streams: list[LoadStream] = []
        self.watchers: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()
        self.live = 0
        self.expected = 0
        self.publishers: list[Publisher] = []
        self.pause = 0.0
        self._recent: dict[tuple[str, str], dict[int, Read]] = {}
        self._waiting: list[tuple[float, int, LoadStream]] = []
        self._connecting = 0

    def add(self, watchers: Iterable[tuple[str, str]]) -> None:
        """Add streams, as ``(transport, channel)``; they connect while ``run`` runs."""
        for transport, channel in watchers:
            recent = self._recent.setdefault((transport, channel), {})
            stream = LoadStream(self, transport, channel, recent)
            self.streams.append(stream)
            self.watchers[channel] += 1
            heapq.heappush(self._waiting, (0.0, len(self.streams), stream))

    def run(self, until: Callable[[], bool], seconds: float) -> bool:
        """Drive everything until a condition holds, for at most ``seconds``; tell whether it holds."""
        deadline = perf_counter() + seconds
        while not until():
            now = perf_counter()
            if now >= deadline:
                return False
            wait = deadline - now
            for publisher in self.publishers:
                wait = min(wait, publisher.go_on(now))
            self._connect_due(now)
            if self._waiting and self._connecting < HANDSHAKES:
                wait = min(wait, self._waiting[0][0] - now)
            self.step(max(0.0, min(wait, 0.1)))
        return True

    def step(self, timeout: float) -> None:
        """Handle the sockets that are ready, waiting for them at most ``timeout`` seconds."""
        if self.pause:
            sleep(self.pause)
            timeout = 0.0
        for key, _ in self.selector.select(timeout):
            key.data.ready()

    def _connect_due(self, now: float) -> None:
        while self._waiting and self._connecting < HANDSHAKES and self._waiting[0][0] <= now:
            _, _, stream = heapq.heappop(self._waiting)
            self._connecting += 1
            stream.connect()

    def hasten(self) -> None:
        """Let all streams that wait to reconnect do so now."""
        self._waiting = [(0.0, number, stream) for number, (_, _, stream) in enumerate(self._waiting)]

    def went_live(self) -> None:
        """Count a stream that is open now."""
        self._connecting -= 1
        self.live += 1
        self.tally.connects += 1

    def dropped(self, stream: LoadStream, code: str, delay: float | None) -> None:
        """Count a stream's end and, with a delay, have it reconnect."""
        if stream.live:
            stream.live = False
            self.live -= 1
            self.tally.resumed += delay is not None
        else:
            self._connecting -= 1
        self.tally.disconnects[code] += 1
        if delay is None:
            self.watchers[stream.channel] -= 1
            self.expected -= self.sent[stream.channel] - stream.seq
        else:
            heapq.heappush(self._waiting, (perf_counter() + delay, id(stream), stream))

    def forget(self, sock: socket.socket) -> None:
        """Close a socket."""
        with contextlib.suppress(KeyError):
            self.selector.unregister(sock)
        sock.close()

    def remember(self, recent: dict[int, Read], before: int, read: Read) -> None:
        """Remember a read for the other watchers of its channel; drop the oldest one."""
        old = recent.pop(before, None)
        if old is None and len(recent) >= REMEMBERED:
            old = recent.pop(next(iter(recent)))
        if old is not None:
            old.count_into(self.tally.latency)
        recent[before] = read

    @property
    def behind(self) -> int:
        """The number of deliveries that are still to come, if all streams are open."""
        return self.expected - self.tally.deliveries

    def sending(self, channel: str) -> int:
        """Take the next number of a channel for a message that is about to be sent."""
        self.sent[channel] += 1
        self.expected += self.watchers[channel]
        return self.sent[channel]

    @property
    def lost(self) -> int:
        """The number of acknowledged messages that a stream has not got, over all streams."""
        return self.tally.missing + sum(
            max(0, self.kept[stream.channel] - stream.seq) for stream in self.streams
        )

    @property
    def drained(self) -> bool:
        """Whether every request was answered and every one of its messages delivered."""
        # ``lost`` walks over all streams, so it is checked last.
        return all(publisher.idle for publisher in self.publishers) and self.behind <= 0 and self.lost == 0

    def settle(self) -> Tally:
        """Return the counts with every latency in them."""
        for recent in self._recent.values():
            for read in recent.values():
                read.count_into(self.tally.latency)
            recent.clear()
        return self.tally

    def close(self) -> None:
        """Close every socket."""
        for stream in self.streams:
            stream.close()
        for publisher in self.publishers:
            publisher.close()
        self.selector.close()


def allow_sockets(count: int) -> None:
    """Raise this process's limit of open files so that ``count`` sockets fit.

    Raises:
        LoadError: The hard limit is lower.
    """
    needed = count + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise LoadError(
                f"{count} streams need {needed} open files; this process may have {hard} (ulimit -Hn)"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
