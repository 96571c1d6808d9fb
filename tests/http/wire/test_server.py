import errno
import gc
import inspect
import math
import re
import socket
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from typing import Any, ClassVar

import attrs
import h2.config
import h2.connection
import h2.settings
import h11
import hypercorn.config
import hypercorn.trio.tcp_server
import hypercorn.trio.worker_context
import orjson
import pytest
import structlog
import trio
import trio.testing
from quart import request, websocket
from quart_trio import QuartTrio
from tests.conformance.clients import TEXT, client_frame, connect, handshake, open_sse, request_head
from tests.http.conftest import Api, output
from tests.http.received import EventSource

from heliograph.http.wire import connection
from heliograph.http.wire.head import Head
from heliograph.http.wire.server import Server, hypercorn_config, open_listener
from heliograph.model.errors import SettingsError

CHANGED = (
    "hypercorn's inner classes have changed: read how {} is used now, "
    "adapt http/wire/server.py and http/wire/connection.py, then this test"
)

# What we rely on in hypercorn


def parameters(function: Callable[..., object]) -> list[str]:
    """Return the names of a function's parameters."""
    return list(inspect.signature(function).parameters)


def test_hypercorn_is_the_version_that_was_read() -> None:
    """The inner classes of hypercorn were read in this version; another one may do anything with them."""
    assert re.match(r"0\.18\.", version("hypercorn")), CHANGED.format("the whole engine")


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (hypercorn.trio.tcp_server.TCPServer, ["app", "config", "context", "state", "stream"]),
        (hypercorn.trio.tcp_server.TCPServer.run, ["self"]),
        (hypercorn.trio.worker_context.WorkerContext, ["max_requests"]),
        (hypercorn.trio.worker_context.TrioSingleTask.restart, ["self", "task_group", "action"]),
        (hypercorn.trio.worker_context.TrioSingleTask.stop, ["self"]),
        (
            hypercorn.typing.AppWrapper.__call__,
            ["self", "scope", "receive", "send", "sync_spawn", "call_soon"],
        ),
    ],
)
def test_signatures_are_as_they_were(function: Callable[..., object], names: list[str]) -> None:
    """The signatures that the server calls, or stands in for, have not changed."""
    assert parameters(function) == names, CHANGED.format(function.__qualname__)


def test_the_engine_uses_what_the_connection_offers() -> None:
    """The engine reads, writes and closes its stream by the methods that the connection has, and no other."""
    source = inspect.getsource(hypercorn.trio.tcp_server.TCPServer)
    used = set(re.findall(r"self\.stream\.(\w+)", source))
    tls_only = {"do_handshake", "selected_alpn_protocol", "transport_stream"}
    offered = {"socket", "receive_some", "send_all", "send_eof", "aclose"}
    assert used == offered | tls_only, CHANGED.format("the stream")
    idle = set(re.findall(r"self\.idle_task\.(\w+)", source))
    assert idle == {"restart", "stop"}, CHANGED.format("the idle task")
    assert "except AttributeError:  # Not SSL" in source, CHANGED.format("plain TCP")
    for name in used - tls_only - {"socket"}:
        assert callable(getattr(connection.Connection, name))


def test_settings_of_the_engine_exist() -> None:
    """Every setting that is made on hypercorn's configuration is one of its own."""
    strays = vars(hypercorn_config()).keys() - {
        *vars(hypercorn.config.Config()),
        *dir(hypercorn.config.Config),
    }
    assert not strays, CHANGED.format("Config")


# An app of our own


@attrs.define
class Echo:
    """Serves a connection that was taken over: sends back what comes."""

    sock: socket.socket

    async def serve(self, early: bytes) -> None:
        """Say that it was taken over, then echo until the peer ends."""
        stream = connection.stream_of(self.sock)
        await stream.send_all(b"taken " + early)
        async for data in stream:
            await stream.send_all(data)


@attrs.define
class Broken:
    """Serves a connection with a mistake."""

    sock: socket.socket

    async def serve(self, early: bytes) -> None:
        """Fail."""
        raise ZeroDivisionError


@attrs.define
class Site:
    """A server of a small app, and how to reach it."""

    server: Server
    port: int
    entered: trio.Event = attrs.field(factory=trio.Event)
    leave: trio.Event = attrs.field(factory=trio.Event)
    streams: list[trio.SocketStream] = attrs.field(factory=list)

    async def connect(self) -> trio.SocketStream:
        """Connect."""
        self.streams.append(await trio.open_tcp_stream("127.0.0.1", self.port))
        return self.streams[-1]

    def close(self) -> None:
        """Close every connection on our side."""
        for stream in self.streams:
            stream.socket.close()


def make_app(site: Callable[[], Site]) -> QuartTrio:
    """Make an app that answers, and that has connections taken over."""
    app = QuartTrio(__name__)

    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    @app.post("/echo")
    async def echo() -> bytes:
        data = await request.get_data(as_text=False)
        assert isinstance(data, bytes)
        return data

    @app.get("/large")
    async def large() -> bytes:
        site().entered.set()
        return bytes(10_000_000)

    @app.get("/take")
    async def take() -> str:
        connection.current.get().detach(Echo)
        return "never seen"

    @app.get("/broken")
    async def broken() -> str:
        connection.current.get().detach(Broken)
        return "never seen"

    @app.get("/slow")
    async def slow() -> str:
        site().entered.set()
        await site().leave.wait()
        return "slow"

    @app.websocket("/ws")
    async def ws() -> None:
        assert websocket.headers["Sec-WebSocket-Key"]
        connection.current.get().detach(Echo)

    return app


def make_shortcuts(site: Callable[[], Site]) -> dict[tuple[str, str], connection.Shortcut]:
    """Make shortcuts that answer, take connections over, leave a request to the app, and fail."""

    async def short(head: Head, body: bytes) -> bytes:
        return b"HTTP/1.1 200 \r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    async def large(head: Head, body: bytes) -> bytes:
        return b"HTTP/1.1 200 \r\nContent-Length: 10000000\r\n\r\n" + bytes(10_000_000)

    async def take(head: Head, body: bytes) -> connection.Successor:
        return Echo

    async def decline(head: Head, body: bytes) -> None:
        pass

    async def fail(head: Head, body: bytes) -> None:
        raise ZeroDivisionError

    async def wait(head: Head, body: bytes) -> bytes:
        site().entered.set()
        await site().leave.wait()
        return b"HTTP/1.1 200 \r\nContent-Length: 4\r\n\r\nslow"

    return {
        ("POST", "/short"): short,
        ("GET", "/short/large"): large,
        ("GET", "/short/take"): take,
        ("POST", "/echo"): decline,
        ("GET", "/short/broken"): fail,
        ("GET", "/short/slow"): wait,
    }


@pytest.fixture
async def site(nursery: trio.Nursery) -> AsyncIterator[Site]:
    """Serve the small app, with shortcuts."""
    listener = open_listener("127.0.0.1", 0, 10)
    server = Server(
        make_app(lambda: made),
        listener,
        write_timeout=5,
        idle_timeout=20,
        grace=5,
        shortcuts=make_shortcuts(lambda: made),
    )
    made = Site(server, listener.getsockname()[1])
    with listener:
        nursery.start_soon(server.run)
        yield made
        made.close()
        nursery.cancel_scope.cancel()


def get(path: str, version: str = "1.1", method: str = "GET") -> bytes:
    """Make a request without a body."""
    return request_head(method, path, {"Host": "x"}, version)


def post(path: str, body: bytes = b"hello", **headers: str) -> bytes:
    """Make a request with a body."""
    return request_head("POST", path, {"Host": "x", "Content-Length": str(len(body)), **headers}) + body


CHUNKED = (
    request_head("POST", "/echo", {"Host": "x", "Transfer-Encoding": "chunked"}) + b"5\r\nhello\r\n0\r\n\r\n"
)


async def read_exactly(stream: trio.SocketStream, size: int) -> bytes:
    """Read just so many bytes."""
    data = b""
    with trio.fail_after(10):
        while len(data) < size:
            piece = await stream.receive_some(size - len(data))
            assert piece, f"the end came behind {data!r}"
            data += piece
    return data


async def read_until(stream: trio.SocketStream, end: bytes) -> bytes:
    """Read up to these bytes."""
    data = b""
    while not data.endswith(end):
        data += await read_exactly(stream, 1)
    return data


async def read_to_end(stream: trio.SocketStream) -> bytes:
    """Read until the peer has closed."""
    data = b""
    with trio.fail_after(10):
        async for piece in stream:
            data += piece
    return data


class Client:
    """An HTTP/1.1 client on one connection, which may send several requests before it reads."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.rest = b""

    async def read(self, method: str = "GET") -> tuple[int, bytes]:
        """Read the next response: its status and its body."""
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        parser.send(h11.EndOfMessage())
        if self.rest:
            parser.receive_data(self.rest)
        status, body = 0, b""
        with trio.fail_after(10):
            while True:
                event = parser.next_event()
                if event is h11.NEED_DATA:
                    parser.receive_data(await self.stream.receive_some(65536))
                elif isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    self.rest = parser.trailing_data[0]
                    return status, body


# Ordinary requests


async def test_a_connection_is_kept_alive(site: Site) -> None:
    """Several requests on one connection are answered one after the other."""
    client = Client(await site.connect())
    for _ in range(3):
        await client.stream.send_all(get("/hello"))
        assert await client.read() == (200, b"hello")


async def test_pipelined_requests_are_answered_in_order(site: Site) -> None:
    """Requests sent without waiting are answered each, in order, bodies included."""
    client = Client(await site.connect())
    echo = request_head("POST", "/echo", {"Host": "x", "Content-Length": "5"}) + b"GET x"
    await client.stream.send_all(get("/hello") + echo + get("/nowhere") + get("/hello"))
    assert await client.read() == (200, b"hello")
    assert await client.read() == (200, b"GET x")
    assert (await client.read())[0] == 404
    assert await client.read() == (200, b"hello")


async def test_a_head_may_come_byte_by_byte(site: Site) -> None:
    """A request that trickles in is answered like any other."""
    client = Client(await site.connect())
    for byte in get("/hello"):
        await client.stream.send_all(bytes([byte]))
    assert await client.read() == (200, b"hello")


async def test_a_head_request_has_no_body(site: Site) -> None:
    """HEAD is answered by the head alone, and the connection goes on."""
    client = Client(await site.connect())
    await client.stream.send_all(get("/hello", method="HEAD") + get("/hello"))
    assert await client.read("HEAD") == (200, b"")
    assert await client.read() == (200, b"hello")


async def test_http_1_0_is_answered_and_closed(site: Site) -> None:
    """A client of HTTP/1.0 gets its answer and then the end."""
    stream = await site.connect()
    await stream.send_all(get("/hello", version="1.0"))
    answer = await read_to_end(stream)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize(
    "head",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 300_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA B: y\r\n\r\n",
    ],
)
async def test_a_malformed_head_is_refused(site: Site, head: bytes) -> None:
    """What is not HTTP is answered by a status of the client's fault and the end; others are served on."""
    stream, other = await site.connect(), Client(await site.connect())
    await stream.send_all(head)
    answer = await read_to_end(stream)
    assert re.match(rb"HTTP/1\.1 (4\d\d|501)", answer), answer
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"x-content-type-options: nosniff" in head
    assert orjson.loads(body)["status"] == int(head.split()[1])
    await other.stream.send_all(get("/hello"))
    assert await other.read() == (200, b"hello")


@pytest.mark.parametrize("behind", [b"", b"\r\n", b"GET /hello HTTP/1.0\r\n\r\n", b"x" * 1000])
async def test_what_is_behind_a_request_of_http_1_0_is_not_in_its_way(site: Site, behind: bytes) -> None:
    """A client of HTTP/1.0 that sends something behind its body gets its answer, once."""
    stream = await site.connect()
    await stream.send_all(b"POST /echo HTTP/1.0\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello" + behind)
    answer = await read_to_end(stream)
    assert answer.count(b"HTTP/1.") == 1
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"hello")


async def test_http_2_is_not_spoken(site: Site) -> None:
    """A client of HTTP/2 gets an answer of HTTP/1.1 and the end; one that would upgrade is not upgraded."""
    client = h2.connection.H2Connection()
    client.initiate_connection()
    stream = await site.connect()
    await stream.send_all(client.data_to_send())
    answer = await read_to_end(stream)
    assert answer.startswith(b"HTTP/1.1 505 ")
    assert orjson.loads(answer.partition(b"\r\n\r\n")[2])["status"] == 505
    upgrading = Client(await site.connect())
    h2c = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
    for _ in range(2):
        await upgrading.stream.send_all(get("/hello")[:-2] + h2c)
        assert await upgrading.read() == (200, b"hello")


async def test_http_2_costs_no_memory(site: Site) -> None:
    """Many requests on a connection of HTTP/2 with a closed window start no task and keep no byte."""
    client = h2.connection.H2Connection()
    client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    client.initiate_connection()
    for number in range(100):
        fields = [(":method", "GET"), (":path", "/hello"), (":scheme", "http"), (":authority", "x")]
        client.send_headers(2 * number + 1, fields, end_stream=True)
    stream = await site.connect()
    await stream.send_all(client.data_to_send())
    assert len(await read_to_end(stream)) < 1000


@pytest.mark.parametrize("head", [b"", b"GET /hello HT", get("/hello")[:-2]])
async def test_half_a_head_and_the_end(site: Site, head: bytes) -> None:
    """A peer that ends within a head is let go, and others are served on."""
    stream, other = await site.connect(), Client(await site.connect())
    await stream.send_all(head)
    await stream.send_eof()
    assert b"hello" not in await read_to_end(stream)
    await other.stream.send_all(get("/hello"))
    assert await other.read() == (200, b"hello")


async def test_half_a_head_is_not_waited_for(nursery: trio.Nursery) -> None:
    """A head that is not complete in time, and a connection without a request, are closed."""
    listener = open_listener("127.0.0.1", 0, 10)
    with listener:
        app = make_app(lambda: pytest.fail("there is no such route"))
        nursery.start_soon(Server(app, listener, write_timeout=5, idle_timeout=0.05, grace=5).run)
        for begun in (b"", b"GET /hello HT", handshake("http://x")[:-2]):
            async with await trio.open_tcp_stream("127.0.0.1", listener.getsockname()[1]) as stream:
                await stream.send_all(begun)
                assert b"200" not in await read_to_end(stream)
        nursery.cancel_scope.cancel()


# Taking over


@pytest.mark.parametrize("early", [b"", b"early", b"x" * 100_000])
async def test_a_route_takes_its_connection_over(site: Site, early: bytes) -> None:
    """A WebSocket handshake is handed on with every byte behind it, sent with it or later."""
    stream = await site.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, handshake("http://x") + early)
        assert await read_exactly(stream, 6 + len(early)) == b"taken " + early
    await stream.send_all(b"later")
    assert await read_exactly(stream, 5) == b"later"
    await stream.send_eof()
    assert await read_to_end(stream) == b""


async def test_bytes_in_the_next_segment_are_handed_on(site: Site) -> None:
    """Bytes that come right behind the handshake, while its route runs, are not lost."""
    for pause in range(20):
        stream = await site.connect()
        await stream.send_all(handshake("http://x"))
        for _ in range(pause):
            await trio.lowlevel.checkpoint()
        await stream.send_all(b"next")
        assert await read_exactly(stream, 10) == b"taken next"
        await stream.aclose()


async def test_a_kept_connection_may_be_taken_over(site: Site) -> None:
    """After ordinary requests on it a connection can still be taken over."""
    client = Client(await site.connect())
    await client.stream.send_all(get("/hello"))
    assert await client.read() == (200, b"hello")
    await client.stream.send_all(handshake("http://x") + b"early")
    assert await read_exactly(client.stream, 11) == b"taken early"


async def test_a_pipelined_handshake_is_taken_over(site: Site) -> None:
    """A handshake sent right behind an ordinary request is served after it."""
    client = Client(await site.connect())
    await client.stream.send_all(get("/hello") + handshake("http://x"))
    assert await client.read() == (200, b"hello")
    assert await read_exactly(client.stream, 6) == b"taken "
    await client.stream.send_all(b"later")
    assert await read_exactly(client.stream, 5) == b"later"


async def test_an_ordinary_route_may_take_over(site: Site) -> None:
    """A GET that detaches is answered by its successor alone; nothing of the framework's answer is seen."""
    stream = await site.connect()
    await stream.send_all(get("/take"))
    assert await read_exactly(stream, 6) == b"taken "
    await stream.send_all(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await read_exactly(stream, 10)) == b"GET /hello"


@pytest.mark.parametrize(
    "before",
    [
        get("/hello"),
        post("/short"),
        post("/echo"),
        get("/hello") + post("/short"),
        CHUNKED,
        CHUNKED + CHUNKED,
    ],
)
async def test_bytes_behind_a_pipelined_handshake_are_handed_on(site: Site, before: bytes) -> None:
    """A handshake behind other requests, with frames behind it, all in one segment, is taken over whole."""
    client = Client(await site.connect())
    await client.stream.send_all(before + handshake("http://x") + b"early")
    for _ in range(before.count(b"HTTP/1.1")):
        assert (await client.read())[0] == 200
    rest = b"taken early"
    assert client.rest + await read_exactly(client.stream, len(rest) - len(client.rest)) == rest


async def test_a_refused_handshake_ends_the_connection(site: Site) -> None:
    """A handshake for a path that has no WebSocket is answered by its status and the end."""
    stream = await site.connect()
    await stream.send_all(handshake("http://x", "/nowhere") + b"early")
    assert (await read_to_end(stream)).startswith(b"HTTP/1.1 404")


async def test_a_mistake_in_one_connection_is_its_own(site: Site) -> None:
    """A successor that fails loses its connection and is logged; the server and its others go on."""
    kept, stream = Client(await site.connect()), await site.connect()
    with structlog.testing.capture_logs() as logs:
        await stream.send_all(get("/broken"))
        assert await read_to_end(stream) == b""
    assert [entry["log_level"] for entry in logs] == ["error"]
    await kept.stream.send_all(get("/hello"))
    assert await kept.read() == (200, b"hello")


async def test_nothing_of_the_handshake_is_kept(site: Site) -> None:
    """A connection that was taken over has one task, and none of hypercorn's or Quart's."""
    await trio.testing.wait_all_tasks_blocked()
    before = trio.lowlevel.current_statistics().tasks_living
    streams = [await site.connect() for _ in range(5)]
    for stream in streams:
        await stream.send_all(handshake("http://x"))
        await read_exactly(stream, 6)
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living == before + 5
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, connection.Connection)]
    for stream in streams:
        await stream.aclose()
    with trio.fail_after(10):
        while trio.lowlevel.current_statistics().tasks_living > before:
            await trio.lowlevel.checkpoint()


# Shortcuts


async def test_shortcuts_and_routes_answer_in_order(site: Site) -> None:
    """Pipelined requests are answered in their order, whoever serves each of them."""
    client = Client(await site.connect())
    story = [post("/short", b"1"), get("/hello"), post("/short", b"2"), post("/echo", b"3"), get("/hello")]
    await client.stream.send_all(b"".join(story * 3))
    for _ in range(3):
        assert [(await client.read())[1] for _ in story] == [b"1", b"hello", b"2", b"3", b"hello"]


async def test_a_shortcut_takes_a_connection_over(site: Site) -> None:
    """A shortcut may give the connection to a successor, which is handed every byte behind the request."""
    stream = await site.connect()
    await stream.send_all(post("/short") + get("/short/take") + b"early")
    data = await read_exactly(stream, len(b"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhellotaken early"))
    assert data.endswith(b"taken early")


async def test_a_client_may_wait_to_continue(site: Site) -> None:
    """A client that asks before it sends its body is told to; the next request may have a shortcut again."""
    client = Client(await site.connect())
    await client.stream.send_all(post("/echo", Expect="100-continue").removesuffix(b"hello"))
    assert (await read_until(client.stream, b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    await client.stream.send_all(b"hello" + post("/short", b"next"))
    assert await client.read() == (200, b"hello")
    assert await client.read() == (200, b"next")


async def test_a_mistake_in_a_shortcut_is_its_connections_own(site: Site) -> None:
    """A shortcut that fails loses its connection and is logged; the server and its others go on."""
    kept, stream = Client(await site.connect()), await site.connect()
    with structlog.testing.capture_logs() as logs:
        await stream.send_all(get("/short/broken"))
        assert await read_to_end(stream) == b""
    assert [entry["log_level"] for entry in logs] == ["error"]
    await kept.stream.send_all(post("/short"))
    assert await kept.read() == (200, b"hello")


async def test_a_publisher_costs_one_task(site: Site) -> None:
    """A connection that waits for its next request has one task, also when hypercorn served one before."""
    await trio.testing.wait_all_tasks_blocked()
    before = trio.lowlevel.current_statistics().tasks_living
    for requests in (post("/short"), get("/hello") + post("/short")):
        client = Client(await site.connect())
        await client.stream.send_all(requests)
        for _ in range(requests.count(b"HTTP/1.1")):
            await client.read()
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living == before + 2


async def test_who_takes_no_answer_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    """A peer that does not read what a shortcut answers loses its connection after the write timeout."""
    listener = open_listener("127.0.0.1", 0, 10)
    server = Server(
        make_app(lambda: pytest.fail("there is no such route")),
        listener,
        write_timeout=5,
        idle_timeout=math.inf,
        grace=math.inf,
        shortcuts=make_shortcuts(lambda: pytest.fail("none waits")),
    )
    with structlog.testing.capture_logs() as logs, listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            stream = await trio.open_tcp_stream("127.0.0.1", listener.getsockname()[1])
            await stream.send_all(get("/short/large"))
            await trio.testing.wait_all_tasks_blocked()
            server.stop_accepting()
    assert trio.current_time() == 5
    assert not logs
    await stream.aclose()


async def test_who_comes_as_accepting_ends_is_not_waited_for(site: Site) -> None:
    """A connection that was accepted just before, and is served just after, is closed when it is silent."""
    site.server.stop_accepting()
    await trio.testing.wait_all_tasks_blocked()
    ours, end = socket.socketpair()
    ours.setblocking(False)
    async with connection.stream_of(end) as theirs, trio.open_nursery() as nursery:
        nursery.start_soon(site.server._handle, ours)
        assert await read_to_end(theirs) == b""
        await theirs.send_eof()
    assert ours.fileno() == -1


async def test_a_silent_publisher_is_closed(nursery: trio.Nursery) -> None:
    """Behind an answered request silence, and half a head, last no longer than the idle timeout."""
    listener = open_listener("127.0.0.1", 0, 10)
    app = make_app(lambda: pytest.fail("there is no such route"))
    shortcuts = make_shortcuts(lambda: pytest.fail("none waits"))
    with listener:
        server = Server(app, listener, write_timeout=5, idle_timeout=0.05, grace=5, shortcuts=shortcuts)
        nursery.start_soon(server.run)
        for begun in (b"", post("/short")[:30]):
            client = Client(await trio.open_tcp_stream("127.0.0.1", listener.getsockname()[1]))
            await client.stream.send_all(post("/short") + begun)
            assert await client.read() == (200, b"hello")
            assert b"200" not in await read_to_end(client.stream)
            await client.stream.aclose()
        nursery.cancel_scope.cancel()


async def test_stopping_lets_a_shortcut_finish(site: Site) -> None:
    """Once accepting has ended an idle publisher is closed, and a request under way is answered."""
    idle, busy = Client(await site.connect()), Client(await site.connect())
    await idle.stream.send_all(post("/short"))
    assert await idle.read() == (200, b"hello")
    await busy.stream.send_all(get("/short/slow"))
    await site.entered.wait()
    site.server.stop_accepting()
    assert await read_to_end(idle.stream) == b""
    site.leave.set()
    assert await busy.read() == (200, b"slow")
    assert await read_to_end(busy.stream) == b""


# Stopping


async def test_stopping_lets_requests_finish(site: Site) -> None:
    """Once accepting has ended a newcomer is refused, an idle connection closed, and a request finished."""
    idle, busy = Client(await site.connect()), Client(await site.connect())
    await idle.stream.send_all(get("/hello"))
    assert await idle.read() == (200, b"hello")
    await busy.stream.send_all(get("/slow"))
    await site.entered.wait()
    site.server.stop_accepting()
    assert await read_to_end(idle.stream) == b""
    assert site.server.stopping
    with pytest.raises(OSError, match="connect"):
        await site.connect()
    site.leave.set()
    assert await busy.read() == (200, b"slow")


async def test_the_grace_ends(autojump_clock: trio.testing.MockClock) -> None:
    """A request that does not finish within the grace is dropped, and the server returns."""
    listener = open_listener("127.0.0.1", 0, 10)
    made: list[Site] = []
    server = Server(make_app(lambda: made[0]), listener, write_timeout=5, idle_timeout=math.inf, grace=3)
    made.append(Site(server, listener.getsockname()[1]))
    with listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            stream = await made[0].connect()
            await stream.send_all(get("/slow"))
            await made[0].entered.wait()
            server.stop_accepting()
    made[0].close()
    assert trio.current_time() < 10


@pytest.mark.parametrize("path", ["/large", "/short/large"])
@pytest.mark.parametrize("impatient", [False, True])
async def test_a_stalled_reader_holds_up_no_stopping(
    autojump_clock: trio.testing.MockClock, path: str, impatient: bool
) -> None:
    """Who does not read an answer is waited for until the grace ends or the server is cancelled."""
    listener = open_listener("127.0.0.1", 0, 10)
    made: list[Site] = []
    server = Server(
        make_app(lambda: made[0]),
        listener,
        write_timeout=10,
        idle_timeout=math.inf,
        grace=3,
        shortcuts=make_shortcuts(lambda: made[0]),
    )
    made.append(Site(server, listener.getsockname()[1]))
    with structlog.testing.capture_logs() as logs, listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            stream = await made[0].connect()
            await stream.send_all(get(path))
            with trio.fail_after(1):
                await stream.receive_some(1)
            begin = trio.current_time()
            server.stop_accepting()
            if impatient:
                await trio.sleep(1)
                nursery.cancel_scope.cancel()
    assert trio.current_time() == begin + (1 if impatient else 3)
    assert not logs
    made[0].close()


async def test_a_port_in_use_is_named() -> None:
    """A port that somebody listens on is an error of the settings, with what to change."""
    first = open_listener("127.0.0.1", 0, 1)
    port = first.getsockname()[1]
    with pytest.raises(SettingsError, match=f"server.port: 127.0.0.1:{port} is in use .*PORT"):
        open_listener("127.0.0.1", port, 1)
    first.close()
    open_listener("127.0.0.1", port, 1).close()


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "256.1.1.1"])
def test_an_address_of_somebody_else_is_named(host: str) -> None:
    """A host that can't be bound is an error of the settings that names it."""
    with pytest.raises(SettingsError, match=re.escape(host)):
        open_listener(host, 0, 1)


# The service's own streams, at the level of bytes


async def test_frames_sent_with_the_handshake_are_answered(api: Api) -> None:
    """A client that subscribes in the segment of its handshake is subscribed."""
    subscribe = client_frame(TEXT, b'{"type":"subscribe","channel":"task:1"}')
    received = b""
    async with await connect(api.url) as stream:
        await stream.send_all(handshake(api.url) + subscribe[:7])
        await stream.send_all(subscribe[7:] + client_frame(TEXT, b'{"type":"ping"}'))
        with trio.fail_after(10):
            while b'"pong"' not in received:
                received += await stream.receive_some(65536)
    assert received.startswith(b"HTTP/1.1 101 ")
    assert received.index(b'"subscribed"') < received.index(b'"pong"')


async def test_http_1_0_gets_a_bare_event_stream(api: Api) -> None:
    """To HTTP/1.0 the blocks go out without chunks, up to the end of the connection."""
    await api.publish(output(), {"type": "task_status", "task_id": "1", "status": "completed"})
    async with await open_sse(api.url, "/api/v1/tasks/1/stream", version="1.0") as watch:
        assert watch.status == 200
        assert "transfer-encoding" not in watch.headers
        assert watch.headers["connection"] == "close"
        story = [told.kind for told in await watch.to_end()]
    assert [kind for kind in story if kind in {"event", "end"}] == ["event", "event", "end"]


async def test_the_head_of_an_event_stream(api: Api) -> None:
    """HEAD on a stream tells its type and opens none."""
    answer = await api.http.head("/api/v1/events/stream")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert answer.content == b""
    assert (await api.get("/api/v1/status"))["streams"] == 0


async def test_an_event_stream_is_chunked_http(api: Api) -> None:
    """The whole of a finished task's stream is read by an ordinary HTTP client, to its explicit end."""
    await api.publish(output(text="a\r\nb"), {"type": "task_status", "task_id": "1", "status": "completed"})
    answer = await api.http.get("/api/v1/tasks/1/stream")
    assert answer.headers["transfer-encoding"] == "chunked"
    source = EventSource()
    source.feed(answer.text)
    assert [event.event for event in source.events] == ["open", "task.output", "task.status"]
    assert source.events[1].json()["payload"]["output"] == "a\r\nb"


class Exhausted(socket.socket):
    """A listener that runs out of descriptors once, and whose first peer is gone before it is accepted."""

    errors: ClassVar[list[int]] = []

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept, unless it is an error's turn."""
        if self.errors:
            raise OSError(self.errors.pop(), "at the wrong moment")
        return super().accept()


async def test_accepting_goes_on_after_errors(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """When descriptors have run out it is tried again a moment later; a peer that has gone is passed over."""
    monkeypatch.setattr(Exhausted, "errors", [errno.EMFILE, errno.ECONNABORTED])
    with Exhausted(fileno=open_listener("127.0.0.1", 0, 10).detach()) as listener:
        app = make_app(lambda: pytest.fail("no route needs the site"))
        server = Server(app, listener, write_timeout=5, idle_timeout=20, grace=5)
        with structlog.testing.capture_logs() as logs:
            nursery.start_soon(server.run)
            async with await trio.open_tcp_stream("127.0.0.1", listener.getsockname()[1]) as stream:
                await stream.send_all(get("/hello"))
                assert await Client(stream).read() == (200, b"hello")
        nursery.cancel_scope.cancel()
    assert [entry["log_level"] for entry in logs] == ["warning"]
