"""Peers that mean no good, or know no better: each is answered or dropped in time.

Those of ``PEERS`` are let loose one by one in virtual time, on the deadlines that a service has by
default, beside two watchers that must not notice; then all at once on a process whose memory and
sockets are looked at.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import orjson
import psutil
import pytest
import trio
from tests.conformance.clients import (
    DEADLINE,
    TEXT,
    FrameParser,
    Watch,
    client_frame,
    connect,
    handshake,
    metric,
    open_ws,
    output,
    publish,
    request_head,
    watch,
)
from tests.conformance.conftest import Launch
from tests.conformance.serving import process
from trio.testing import MockClock

HOURS = 10_000.0
LIMIT = 200.0
"""Virtual seconds within which every peer must be rid of: more than any one deadline and its grace."""

SSE = "/api/v1/events/stream?channel=task:*&after=0-0"
SUBSCRIBE = orjson.dumps({"type": "subscribe", "channel": "task:*", "after": "0-0"})
PING, CONTINUE, BINARY, CLOSE = 9, 0, 2, 8

Peer = Callable[[str], Awaitable[object]]


async def drained(stream: trio.SocketStream) -> bytes:
    """Read what is sent up to the end of the connection, whatever the end is like."""
    received = b""
    try:
        while data := await stream.receive_some(65536):
            received += data
    except trio.BrokenResourceError:
        pass
    return received


async def status_of(stream: trio.SocketStream) -> int | None:
    """Read up to the end of the connection; return the status that was answered, if any."""
    received = await drained(stream)
    return int(received.split()[1]) if received.startswith(b"HTTP/1.1 ") else None


def raw(*parts: bytes, pause: float = 0) -> Peer:
    """Make a peer that connects and sends these bytes; its outcome is the status of the answer."""

    async def peer(url: str) -> int | None:
        async with await connect(url) as stream, trio.open_nursery() as nursery:
            nursery.start_soon(send, stream)
            status = await status_of(stream)
            nursery.cancel_scope.cancel()
        return status

    async def send(stream: trio.SocketStream) -> None:
        for part in parts:
            try:
                await stream.send_all(part)
            except trio.BrokenResourceError:
                return
            await trio.sleep(pause)

    return peer


def frames(*parts: bytes, pause: float = 0, subscribed: bool = False) -> Peer:
    """Make a peer that opens a WebSocket and sends these bytes; its outcome is the close code."""

    async def peer(url: str) -> object:
        async with await open_ws(url) as one, trio.open_nursery() as nursery:
            one.answers_pings = False  # what goes out is the sender's alone
            if subscribed:
                await one.send_frame(TEXT, SUBSCRIBE)
            nursery.start_soon(send, one)
            code = (await one.to_end())[-1].fields["code"]
            nursery.cancel_scope.cancel()
        return code

    async def send(one: Watch) -> None:
        for part in parts:
            try:
                await one.send(part)
            except trio.BrokenResourceError:
                return
            await trio.sleep(pause)

    return peer


def reset(*parts: bytes, read: int = 0) -> Peer:
    """Make a peer that sends these bytes, reads some, and resets the connection."""

    async def peer(url: str) -> None:
        stream = await connect(url)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for part in parts:
            await stream.send_all(part)
        received = b""
        while len(received) < read:
            received += await stream.receive_some(read - len(received))
        await trio.aclose_forcefully(stream)

    return peer


async def never_reads(url: str) -> object:
    """Subscribe to everything and read nothing."""
    async with await open_ws(url, receive_buffer=4096) as one:
        await one.send_frame(TEXT, SUBSCRIBE)
        await gone(one.stream)
        return None


async def sip(url: str, path: str) -> object:
    """Ask for megabytes and take a byte each second, until the connection is reset."""
    async with await connect(url, receive_buffer=4096) as stream:
        await stream.send_all(request_head("GET", path, {"Host": "localhost"}))
        # What lies in our own buffer could be read for an hour after the reset.
        while not (error := stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
            await stream.receive_some(1)
            await trio.sleep(1)
    return errno.errorcode[error]


async def pings_without_pause(url: str) -> object:
    """Send fifty thousand pings as fast as they go, reading the answers; then behave."""
    pings = client_frame(PING, b"now") * 500
    async with await watch("ws", url, "task:none") as one, trio.open_nursery() as nursery:
        one.answers_pings = False

        async def send() -> None:
            for _ in range(100):
                await one.stream.send_all(pings)
            await one.say("ping")

        nursery.start_soon(send)
        await one.until("pong")
        return "served"


async def never_pongs(url: str) -> object:
    """Subscribe and answer no ping."""
    async with await watch("ws", url, "task:none") as one:
        one.answers_pings = False
        return (await one.to_end())[-1].fields["code"]


async def never_closes(url: str) -> object:
    """Break the protocol, hear the close frame, and keep the connection."""
    async with await open_ws(url) as one:
        await one.stream.send_all(client_frame(TEXT, b"{}", mask=False))
        code = (await one.to_end())[-1].fields["code"]
        await gone(one.stream)
        return code


async def talks_after_the_end(url: str) -> object:
    """Go on sending after the close frame."""
    async with await open_ws(url) as one:
        await one.send_frame(CLOSE, struct.pack("!H", 1000))
        code = (await one.to_end())[-1].fields["code"]
        try:
            for _ in range(20):
                await one.say("ping")
                await trio.sleep(1)
        except trio.BrokenResourceError:
            return code
        return "was listened to"


async def leaves_in_a_hurry(url: str) -> object:
    """Close the sending side right behind the handshake."""
    async with await connect(url) as stream:
        await stream.send_all(handshake(url))
        await stream.send_eof()
        parser = FrameParser()
        _, _, rest = (await drained(stream)).partition(b"\r\n\r\n")
        parser.feed(rest)
        return None


async def waits_to_continue(url: str) -> object:
    """Send a body only when asked to, as some clients do."""
    body = orjson.dumps(output("1", "polite"))
    head = POST | {"Content-Length": str(len(body)), "Expect": "100-continue", "Connection": "close"}
    async with await connect(url) as stream:
        await stream.send_all(request_head("POST", "/api/v1/events", head))
        assert (await stream.receive_some(65536)).startswith(b"HTTP/1.1 100 ")
        await stream.send_all(body)
        return await status_of(stream)


async def gone(stream: trio.SocketStream) -> None:
    """Wait until the service has let go of a connection, without reading from it."""
    while True:
        try:
            await stream.send_all(client_frame(PING, b""))
        except trio.BrokenResourceError:
            return
        await trio.sleep(1)


async def flood(url: str) -> None:
    """Publish more than sockets and buffers take."""
    for _ in range(8):
        await publish(url, *(output("flood", "x" * 10_000) for _ in range(100)))


POST = {"Host": "localhost", "Content-Type": "application/json"}
TOO_LARGE = request_head("POST", "/api/v1/events", POST | {"Content-Length": str(40_000_000)})
BODY = orjson.dumps(output("1", "x"))
PUBLISH = request_head("POST", "/api/v1/events", POST | {"Content-Length": str(len(BODY))}) + BODY
HEAD_ONLY = request_head("POST", "/api/v1/events", POST | {"Content-Length": "1000"})
SLOW_HEAD = [b"GET /api/health HTTP/1.1\r\n", *(b"X-%d: y\r\n" % number for number in range(1000))]

PEERS: dict[str, tuple[Peer, object]] = {
    # Against the protocol of WebSocket
    "unmasked": (frames(client_frame(TEXT, b"{}", mask=False)), 1002),
    "compressed": (frames(client_frame(TEXT, b"{}", rsv=4)), 1002),
    "reserved bits": (frames(client_frame(TEXT, b"{}", rsv=3)), 1002),
    "unknown opcode": (frames(client_frame(3, b"")), 1002),
    "fragmented ping": (frames(client_frame(PING, b"", fin=False)), 1002),
    "large ping": (frames(client_frame(PING, b"x" * 126)), 1002),
    "continuation of nothing": (frames(client_frame(CONTINUE, b"{}")), 1002),
    "message within a message": (
        frames(client_frame(TEXT, b"{", fin=False), client_frame(TEXT, b"}")),
        1002,
    ),
    "length of wrong form": (frames(b"\x81\xfe\x00\x02\0\0\0\0{}"), 1002),
    "length beyond 63 bits": (frames(b"\x81\xff" + b"\xff" * 8 + b"\0\0\0\0"), 1002),
    "close with half a code": (frames(client_frame(CLOSE, b"\x03")), 1002),
    "close with a forbidden code": (frames(client_frame(CLOSE, struct.pack("!H", 1005))), 1002),
    "not UTF-8": (frames(client_frame(TEXT, b'"\xff"')), 1007),
    "oversized frame": (
        frames(b"\x81\xff" + struct.pack("!Q", 1 << 40) + b"\0\0\0\0" + b" " * 100_000),
        1009,
    ),
    "oversized binary": (frames(client_frame(BINARY, b"\0" * 100_000)), 1009),
    "fragments without end": (
        frames(client_frame(TEXT, b"[", fin=False), *[client_frame(CONTINUE, b"1," * 50, fin=False)] * 1000),
        1009,
    ),
    "empty fragments without end": (
        frames(
            client_frame(TEXT, b"", fin=False),
            *[client_frame(CONTINUE, b"", fin=False) * 1000] * 100,
            pause=1,
        ),
        1008,
    ),
    # Slow, silent and deaf
    "says nothing": (frames(), 1008),
    "never pongs": (never_pongs, 4012),
    "never reads": (never_reads, None),
    "a byte a second": (partial(sip, path=SSE), "ECONNRESET"),
    "a download at a byte a second": (partial(sip, path="/api/v1/tasks/flood/logs/full"), "ECONNRESET"),
    "pings without pause": (pings_without_pause, "served"),
    "never closes": (never_closes, 1002),
    "talks after the end": (talks_after_the_end, 1000),
    "leaves in a hurry": (leaves_in_a_hurry, None),
    # Half requests
    "silence": (raw(), None),
    "half a head": (raw(b"GET / HTTP/1.1\r\nHost:"), 400),
    "half a handshake": (raw(handshake("http://x")[:-2]), 400),
    "a head that trickles in": (raw(*SLOW_HEAD, pause=1), 400),
    "a handshake that trickles in": (
        raw(*(bytes([one]) for one in handshake("http://x")[:-4]), pause=1),
        400,
    ),
    "a body that never comes": (
        raw(request_head("POST", "/api/v1/events", POST | {"Content-Length": "1000", "Connection": "close"})),
        408,
    ),
    "a body that trickles in": (
        raw(
            request_head("POST", "/api/v1/events", POST | {"Content-Length": "1000", "Connection": "close"}),
            *[b" "] * 900,
            pause=1,
        ),
        408,
    ),
    "a publisher's body that never comes": (raw(HEAD_ONLY), 408),
    "a publisher's body that trickles in": (raw(HEAD_ONLY, *[b" "] * 900, pause=1), 408),
    # Against the protocol of HTTP
    "garbage": (raw(bytes(range(128, 256)) * 10 + b"\r\n\r\n"), 400),
    "a head without end": (raw(b"GET / HTTP/1.1\r\n", b"X: " + b"y" * 100_000), 431),
    "waits to continue": (waits_to_continue, 201),
    "a body of no size": (
        raw(request_head("POST", "/api/v1/events", POST | {"Transfer-Encoding": "chunked"}), b"zz\r\n"),
        400,
    ),
    "no key": (raw(handshake("http://x").replace(b"Sec-WebSocket-Key", b"X-Key")), 400),
    "another version": (raw(handshake("http://x").replace(b"Version: 13", b"Version: 8")), 426),
    "a short key": (
        raw(handshake("http://x").replace(b"Sec-WebSocket-Key: ", b"Sec-WebSocket-Key: x\r\nX: ")),
        400,
    ),
    "goes at once": (
        raw(request_head("GET", "/api/health", {"Host": "localhost", "Connection": "close"})),
        200,
    ),
    "an old client": (raw(request_head("GET", "/api/health", {"Host": "localhost"}, "1.0")), 200),
    "a body beyond the limit": (raw(TOO_LARGE, *[b"x" * 1_000_000] * 40), 413),
    "a body announced beyond the limit": (raw(TOO_LARGE), 413),
    "HTTP/2 unasked": (raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505),
    "an upgrade to HTTP/2": (
        raw(
            request_head(
                "GET",
                "/api/health",
                {
                    "Host": "localhost",
                    "Connection": "Upgrade, HTTP2-Settings",
                    "Upgrade": "h2c",
                    "HTTP2-Settings": "",
                },
            )
        ),
        200,
    ),
    "two lengths": (raw(PUBLISH.replace(b"Host: localhost", b"Host: localhost\r\nContent-Length: 5")), 400),
    "a length and chunks": (
        raw(PUBLISH.replace(b"Host: localhost", b"Host: localhost\r\nTransfer-Encoding: chunked"), b"\r\n"),
        400,
    ),
    # A reset at each stage
    "reset at once": (reset(), None),
    "reset in the head": (reset(b"GET / HTTP/1.1\r\nHo"), None),
    "reset behind the request": (reset(request_head("GET", "/api/v1/tasks", {"Host": "localhost"})), None),
    "reset in the body": (
        reset(request_head("POST", "/api/v1/events", POST | {"Content-Length": "100"}), b"{"),
        None,
    ),
    "reset in a publisher's body": (reset(PUBLISH, PUBLISH[:-5]), None),
    "reset behind publishing": (reset(PUBLISH), None),
    "reset in the answers of a publisher": (reset(PUBLISH * 20, read=20), None),
    "reset in the answer": (reset(request_head("GET", "/metrics", {"Host": "localhost"}), read=20), None),
    "reset behind the handshake": (reset(handshake("http://x")), None),
    "reset in the handshake's answer": (reset(handshake("http://x"), read=20), None),
    "reset in a frame": (reset(handshake("http://x"), client_frame(TEXT, SUBSCRIBE)[:9], read=130), None),
    "reset behind subscribe": (reset(handshake("http://x"), client_frame(TEXT, SUBSCRIBE)), None),
    "reset in the replay": (reset(handshake("http://x"), client_frame(TEXT, SUBSCRIBE), read=300), None),
    "reset behind close": (reset(handshake("http://x"), client_frame(CLOSE, b"")), None),
    "reset in an event stream": (reset(request_head("GET", SSE, {"Host": "localhost"}), read=300), None),
    "reset behind its request": (reset(request_head("GET", SSE, {"Host": "localhost"})), None),
}


STALLED = ("never reads", "a byte a second", "a download at a byte a second")
"""Those for whom there must be more than sockets and buffers take."""


async def follow(one: Watch, heard: list[str]) -> None:
    """Note what a well-behaved watcher is given; anything but events and signs of life is a fault."""
    while True:
        told = await one.next()
        assert told.kind in {"event", "keepalive", "open", "subscribed"}, told
        if told.kind == "event":
            heard.append(told.output)


@asynccontextmanager
async def bystanders(url: str) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """Have a watcher on each transport; yields what makes sure that both are given an event."""
    heard: tuple[list[str], list[str]] = ([], [])
    async with (
        await watch("ws", url, "task:calm") as ws,
        await watch("sse", url, "task:calm") as sse,
        trio.open_nursery() as nursery,
    ):
        await ws.live()
        await sse.live()
        nursery.start_soon(follow, ws, heard[0])
        nursery.start_soon(follow, sse, heard[1])

        async def check(text: str) -> None:
            await publish(url, output("calm", text))
            while not all(one[-1:] == [text] for one in heard):  # noqa: ASYNC110 - lists of this very test
                await trio.sleep(0.05)

        yield check
        nursery.cancel_scope.cancel()


async def open_streams(url: str) -> int:
    """Return the gauge of open streams."""
    return int(await metric(url, "streams", transport="ws") + await metric(url, "streams", transport="sse"))


async def until_streams(url: str, count: int) -> None:
    """Wait until so many streams are open."""
    while await open_streams(url) != count:  # noqa: ASYNC110 - a gauge of the service
        await trio.sleep(0.5)


@pytest.mark.parametrize("name", PEERS)
async def test_one_hostile_peer(fast_clock: MockClock, launch: Launch, name: str) -> None:
    """It is answered as it deserves or dropped in time; two watchers do not notice."""
    peer, expected = PEERS[name]
    url = (await launch(streams={"pending_bytes": 256 * 1024, "rotate_seconds": 86400})).url
    with trio.fail_after(HOURS):
        await publish(url, *(output("1", str(number)) for number in range(100)))
        if name in STALLED:
            await flood(url)
        async with bystanders(url) as check:
            await check("before")
            with trio.fail_after(LIMIT):
                assert await peer(url) == expected
            await check("after")
            await until_streams(url, 2)
            await check("at the end")


CROWD_SETTINGS = {
    "server": {"write_timeout": 1.0, "idle_timeout": 3.0},
    "streams": {
        "pending_bytes": 256 * 1024,
        "keepalive_seconds": 1.0,
        "pong_seconds": 3.0,
        "first_message_seconds": 1.0,
        "stall_seconds": 1.0,
    },
}
CROWD = [peer for name, (peer, _) in PEERS.items() if "body that " not in name]
MEMORY = 12_000_000


def sockets(process: psutil.Process) -> int:
    """Count the connections that a process has open."""
    return sum(one.status != psutil.CONN_LISTEN for one in process.net_connections("tcp"))


async def test_a_crowd_of_them(tmp_path: Path) -> None:
    """After all of them at once the watchers have missed nothing, and memory and sockets are as before."""
    async with process(tmp_path, **CROWD_SETTINGS) as served:
        with trio.fail_after(2 * DEADLINE):
            await flood(served.url)
            async with bystanders(served.url) as check:
                memory = []
                for number in range(3):
                    async with trio.open_nursery() as nursery:
                        for peer in CROWD:
                            nursery.start_soon(peer, served.url)
                        for moment in range(20):
                            await check(f"{number}.{moment}")
                    await until_streams(served.url, 2)
                    await until_sockets(served.process, 2)
                    memory.append(served.process.memory_info().rss)
        # The first two leave caches behind that are warm; another one leaves nothing more.
        assert memory[2] - memory[1] < MEMORY, memory
        assert "Traceback" not in served.log()


async def until_sockets(process: psutil.Process, count: int) -> None:
    """Wait until a process has so many connections."""
    while sockets(process) != count:  # noqa: ASYNC110 - another process's state
        await trio.sleep(0.1)


async def test_the_gauge_is_the_number_of_sockets(tmp_path: Path) -> None:
    """The gauge of open streams equals the connections of the process, as they come and as they go."""
    async with process(tmp_path) as served:
        watches: list[Watch] = []
        for number in range(60):
            one = await watch(("ws", "sse")[number % 2], served.url, f"task:{number % 7}")
            await one.live()
            watches.append(one)
            if number % 20 == 19:
                await until_sockets(served.process, len(watches))
                assert await open_streams(served.url) == len(watches)
        with trio.fail_after(DEADLINE):
            while watches:
                for one in watches[:20]:
                    await trio.aclose_forcefully(one.stream)
                del watches[:20]
                await until_streams(served.url, len(watches))
                await until_sockets(served.process, len(watches))
