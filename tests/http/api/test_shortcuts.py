"""Whether a shortcut answers as its route does, whatever is asked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import attrs
import orjson
import pytest
import structlog
import trio
from hypercorn.trio.tcp_server import TCPServer
from tests.conformance.clients import connect, handshake, request_head, watch
from tests.http.conftest import Api, Start, output
from tests.http.rules.test_auth import key

from heliograph.actors.appender import Appender
from heliograph.http.wire import server
from heliograph.model.errors import Unavailable

KEYS = (
    key("reader", "r", "read"),
    key("writer", "w", "publish", channels=("task:*",)),
    key("all", "a", "read", "publish"),
)
DOUBT = b"X-Doubt: 1\r\nX-Doubt: 2\r\n\r\n"
"""The end of a head that leaves a doubt, so that it takes the long way; no route looks at it."""

PUBLISH = "/api/v1/events"
STREAM = "/api/v1/events/stream"


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[TCPServer]:
    """Note every engine that is started: a request with a shortcut needs none."""
    started: list[TCPServer] = []

    class Noted(TCPServer):
        async def run(self) -> None:
            started.append(self)
            await super().run()

    monkeypatch.setattr(server, "TCPServer", Noted)
    return started


@pytest.fixture
async def guarded(start: Start) -> Api:
    """Start a service with keys and small limits."""
    return await start(
        auth={"keys": KEYS},
        events={"max_bytes": 1024, "max_per_request": 3},
        server={"max_request_bytes": 4096, "cors_origins": ("https://app.example",)},
        streams={"max_streams_per_key": 1, "max_channels": 2},
    )


@attrs.frozen
class Reply:
    """An answer, without what differs from one to the next."""

    status: bytes
    headers: Mapping[str, str]
    body: bytes


async def read_reply(stream: trio.SocketStream) -> Reply:
    """Read an answer; of a stream its head alone."""
    data = b""
    with trio.fail_after(10):
        while b"\r\n\r\n" not in data:
            data += await stream.receive_some(1)
        first, *lines = data[:-4].decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        length = int(headers.get("content-length", 0))
        body = b""
        while len(body) < length:
            body += await stream.receive_some(length - len(body))
    assert len(headers) == len(lines)
    if "date" in headers:
        headers["date"] = re.sub(r"\d", "0", headers["date"][5:])
    body = re.sub(rb"\d{13}-\d+", b"ID", re.sub(rb"(retry: |after_ms\":)\d+", rb"\1", body))
    return Reply(first.encode(), {**headers, "content-length": "?"}, body)


async def exchange(url: str, *requests: bytes) -> Reply:
    """Send requests on one connection, each after the answer to the one before; return the last answer."""
    async with await connect(url) as stream:
        for request in requests:
            await stream.send_all(request)
            reply = await read_reply(stream)
    return reply


def long_way(request: bytes) -> bytes:
    """Make a request that has no shortcut, and is otherwise the same."""
    head, _, body = request.partition(b"\r\n\r\n")
    return head + b"\r\n" + DOUBT + body


# Publishing


def post(body: bytes, headers: Mapping[str, str] | None = None, path: str = PUBLISH) -> bytes:
    """Make a publish request."""
    lines = {"Host": "x", "Content-Type": "application/json", "X-API-Key": "a", **(headers or {})}
    length = {"Content-Length": str(len(body))}
    return request_head("POST", path, {name: text for name, text in (lines | length).items() if text}) + body


def items(*values: Any) -> bytes:
    """Write items."""
    return orjson.dumps(values)


LINES = b'\n{"topic":"x.y"}\r\n\n{"topic":"x.z"}'
NDJSON = {"Content-Type": "application/x-ndjson"}

PUBLISHED: dict[str, tuple[int, bytes]] = {
    "an object": (201, post(orjson.dumps(output()))),
    "an array": (201, post(items(output(), output(), {"topic": "x.y"}))),
    "lines": (201, post(LINES, NDJSON)),
    "no content type": (201, post(items(output()), {"Content-Type": ""})),
    "a key in the item": (201, post(items(output(key="one")))),
    "a key in the header": (201, post(items(output(), output()), {"Idempotency-Key": "two"})),
    "bearer": (201, post(items(output()), {"X-API-Key": "", "Authorization": "Bearer w"})),
    "a page that may": (201, post(items(output()), {"Origin": "https://app.example"})),
    "a page of ours": (201, post(items(output()), {"Origin": "http://x"})),
    "a page that may not": (403, post(items(output()), {"Origin": "https://evil.example"})),
    "not JSON": (400, post(b'{"topic":')),
    "not UTF-8": (400, post(b'{"topic":"\xff"}')),
    "a bad line": (400, post(LINES + b"\n{", NDJSON)),
    "no body": (400, post(b"")),
    "no credentials": (401, post(items(output()), {"X-API-Key": ""})),
    "a wrong key": (401, post(items(output()), {"X-API-Key": "x"})),
    "a wrong ticket": (401, post(items(output()), {"X-API-Key": ""}, PUBLISH + "?ticket=x")),
    "no scope": (403, post(items(output()), {"X-API-Key": "r"})),
    "another's channel": (403, post(items({"topic": "x.y"}), {"X-API-Key": "w"})),
    "a key for something else": (409, post(items(output(text="other", key="taken")))),
    "a large event": (413, post(items(output(text="x" * 1024)))),
    "many events": (413, post(items(*[output()] * 4))),
    "many lines": (413, post(LINES + LINES, NDJSON)),
    "a large request": (413, post(b" " * 5000)),
    "a large request of lines": (413, post(b"\n" * 5000, NDJSON)),
    "another type": (415, post(b"<x/>", {"Content-Type": "text/xml; charset=utf-8"})),
    "nothing": (422, post(b"[]")),
    "bad fields": (422, post(items(output(), output(stream="x"), {"topic": "?"}))),
    "an empty key": (422, post(items(output()), {"Idempotency-Key": "x" * 151})),
    "a parameter": (422, post(items(output()), path=PUBLISH + "?limit=1")),
    "a ticket that is not needed": (422, post(items(output()), path=PUBLISH + "?ticket=x")),
}
DECLINED = {"a large request", "a large request of lines"}


@pytest.mark.parametrize("name", PUBLISHED)
async def test_publishing_is_answered_alike(guarded: Api, engines: list[TCPServer], name: str) -> None:
    """First on its connection, later, in pieces or the long way, a publish request has the same answer."""
    status, request = PUBLISHED[name]
    await exchange(guarded.url, post(items(output(key="taken"))))
    replies = [
        await exchange(guarded.url, request),
        await exchange(guarded.url, post(items(output())), request),
        await in_pieces(guarded.url, request),
    ]
    assert len(engines) == (3 if name in DECLINED else 0)
    del engines[:]
    expected = await exchange(guarded.url, long_way(request))
    assert len(engines) == 1
    assert expected.status == b"HTTP/1.1 %d " % status
    assert replies == [expected] * 3


async def in_pieces(url: str, request: bytes) -> Reply:
    """Send a request in two pieces, the body behind the head."""
    head, end, body = request.partition(b"\r\n\r\n")
    async with await connect(url) as stream:
        for piece in (head + end, body):
            await stream.send_all(piece)
            await trio.testing.wait_all_tasks_blocked()
        return await read_reply(stream)


@pytest.mark.parametrize(
    ("error", "status", "retry"), [(Unavailable("full", 2.5), 503, "3"), (ZeroDivisionError("x"), 500, None)]
)
async def test_an_outage_is_answered_alike(
    guarded: Api, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, retry: str | None
) -> None:
    """When the log can't be written, and when there is a bug, both ways say the same, and log the bug."""

    async def append(self: Appender, drafts: object) -> None:
        raise error

    monkeypatch.setattr(Appender, "append", append)
    request = post(items(output()))
    replies, logged = [], []
    for way in (request, long_way(request)):
        with structlog.testing.capture_logs() as logs:
            replies.append(await exchange(guarded.url, way))
        logged.append([(entry["event"], entry["log_level"], entry["exc_info"]) for entry in logs])
    assert replies[0] == replies[1]
    assert replies[0].status == b"HTTP/1.1 %d " % status
    assert replies[0].headers.get("retry-after") == retry
    assert logged[0] == logged[1]
    assert len(logged[0]) == (status == 500)


async def test_a_retry_on_the_other_way_is_the_same_request(guarded: Api) -> None:
    """An idempotency key holds whichever way its request took."""
    request = post(items(output()), {"Idempotency-Key": "k"})
    for way in (request, long_way(request), request):
        await exchange(guarded.url, way)
    events = (await guarded.get(PUBLISH + "?channel=task:1", headers={"X-API-Key": "a"}))["events"]
    assert len(events) == 1


async def test_publishers_and_others_share_a_connection(api: Api, engines: list[TCPServer]) -> None:
    """On one connection every request is answered in order, also when all came at once, short or not."""
    publish = post(items(output(text="x")), {"X-API-Key": "", "Host": "localhost"})
    log = request_head("GET", "/api/v1/tasks/none/logs/full", {"Host": "localhost"})  # it has no shortcut
    chunked = request_head("POST", PUBLISH, {"Host": "localhost", "Transfer-Encoding": "chunked"})
    chunked += b"%x\r\n%b\r\n0\r\n\r\n" % (len(items(output())), items(output()))
    story = [publish, publish, log, log, publish, log, long_way(publish), publish, chunked, log]
    async with await connect(api.url) as stream:
        await stream.send_all(b"".join(story))
        statuses = [(await read_reply(stream)).status for _ in story]
    assert statuses == [b"HTTP/1.1 404 " if one is log else b"HTTP/1.1 201 " for one in story]
    assert len(engines) == 3  # one for each run of requests that have no shortcut


async def test_a_stream_follows_publishing_on_its_connection(api: Api) -> None:
    """A handshake pipelined behind publish requests opens a stream, which sees what comes later."""
    async with await connect(api.url) as stream:
        publish = post(items(output(text="x")), {"X-API-Key": "", "Host": "localhost"})
        await stream.send_all(publish + request_head("GET", STREAM, {"Host": "localhost"}))
        assert (await read_reply(stream)).status == b"HTTP/1.1 201 "
        assert (await read_reply(stream)).status == b"HTTP/1.1 200 OK"
        received = b""
        with trio.fail_after(10):
            while b"id: " not in received:
                received += await stream.receive_some(65536)
            await api.publish(output(text="seen"))
            while b"seen" not in received:
                received += await stream.receive_some(65536)


# Streams


def stream(query: str = "", headers: Mapping[str, str] | None = None, method: str = "GET") -> bytes:
    """Make a request for an event stream."""
    lines = {"Host": "x", "X-API-Key": "r", **(headers or {})}
    head = {name: text for name, text in lines.items() if text}
    return request_head(method, STREAM + query, head)


def web_socket(query: str = "", headers: Mapping[str, str] | None = None) -> bytes:
    """Make the handshake of a WebSocket."""
    lines = {"Sec-WebSocket-Key": "aGVsaW9ncmFwaC1sb2FkIQ==", "X-API-Key": "r", **(headers or {})}
    request = handshake("http://x", "/ws" + query, lines)
    return b"\r\n".join(line for line in request.split(b"\r\n") if not line.endswith(b": "))


EVIL, FRIEND = {"Origin": "https://evil.example"}, {"Origin": "https://app.example"}

OPENED: dict[str, tuple[int, bytes, bool]] = {
    "an event stream": (200, stream(), True),
    "of channels": (200, stream("?channel=task:1&channel=task:2&topic=task.*&tail=3"), True),
    "from a cursor": (200, stream("?after=0-0", {"Last-Event-ID": "1-0"}), True),
    "for a page that may": (200, stream("", FRIEND), True),
    "for a page that may not": (200, stream("", EVIL), True),
    "its head": (200, stream(method="HEAD"), False),
    "an unknown parameter": (422, stream("?chanel=x"), True),
    "a bad channel": (422, stream("?channel=%20"), True),
    "too many channels": (422, stream("?channel=task:1&channel=task:2&channel=task:3"), True),
    "a bad tail": (422, stream("?tail=1e3"), True),
    "bad names": (422, stream("?names=no"), True),
    "no credentials": (401, stream("", {"X-API-Key": ""}), True),
    "a wrong ticket": (401, stream("?ticket=x", {"X-API-Key": ""}), True),
    "no scope": (403, stream("", {"X-API-Key": "w"}), True),
    "a WebSocket": (101, web_socket(), True),
    "an anonymous one": (101, web_socket("", {"X-API-Key": ""}), True),
    "a WebSocket of a page that may": (101, web_socket("", FRIEND), True),
    "a WebSocket of a page that may not": (403, web_socket("", EVIL), True),
    "a WebSocket with a wrong key": (401, web_socket("", {"X-API-Key": "x"}), True),
    "a WebSocket with a wrong ticket": (401, web_socket("?ticket=x", {"X-API-Key": ""}), True),
    "no upgrade": (426, web_socket("", {"Upgrade": "", "Connection": ""}), False),
}


@pytest.mark.parametrize("name", OPENED)
async def test_streams_are_opened_alike(guarded: Api, engines: list[TCPServer], name: str) -> None:
    """Either way a handshake is answered with the same head, or refused with the same words."""
    status, request, short = OPENED[name]
    reply = await exchange(guarded.url, request)
    assert len(engines) == (0 if short else 1)
    await until_no_stream(guarded)
    del engines[:]
    expected = await exchange(guarded.url, long_way(request))
    assert len(engines) == 1
    assert int(expected.status.split()[1]) == status
    assert reply == expected


FORWARDED = {"Origin": "https://app.example:8443", "X-Forwarded-Host": "evil.example, app.example:8443"}


@pytest.mark.parametrize(
    ("trusted", "status"),
    [(("127.0.0.0/8",), 101), (("::1", "127.0.0.1"), 101), (("10.0.0.0/8", "::/0"), 403), ((), 403)],
)
@pytest.mark.parametrize("long", [False, True])
async def test_only_a_trusted_proxy_tells_the_host(
    start: Start, trusted: tuple[str, ...], status: int, long: bool
) -> None:
    """What a proxy forwards as the host counts if its address is named, either way; of several the last."""
    api = await start(server={"trusted_proxies": trusted})
    for headers, expected in ((FORWARDED, status), ({**FORWARDED, "Origin": "https://evil.example"}, 403)):
        request = web_socket("", {"Host": "127.0.0.1", "X-API-Key": "", **headers})
        reply = await exchange(api.url, long_way(request) if long else request)
        assert int(reply.status.split()[1]) == expected


async def test_a_refused_page_is_in_the_log(start: Start) -> None:
    """Whose WebSocket was refused is in the log, with the host that was asked for."""
    api = await start()
    with structlog.testing.capture_logs() as logs:
        await exchange(api.url, web_socket("", {**EVIL, "Host": "127.0.0.1", "X-API-Key": ""}))
    assert {
        "event": "origin refused",
        "log_level": "warning",
        "origin": "https://evil.example",
        "host": "127.0.0.1",
        "path": "/ws",
    } in logs


REBOUND = {"Host": "evil.example:5711", "Origin": "http://evil.example:5711", "X-API-Key": ""}


@pytest.mark.parametrize("way", [bytes, long_way])
async def test_without_keys_no_other_name_is_served(api: Api, way: Callable[[bytes], bytes]) -> None:
    """A page whose name resolves to this machine is of its own origin, and may still not use the API."""
    requests = [post(items(output()), REBOUND), stream("", REBOUND), web_socket("", REBOUND)]
    requests += [
        request_head("GET", path, {"Host": "evil.example"}) for path in ("/api/v1/tasks", "/metrics")
    ]
    for request in requests:
        reply = await exchange(api.url, way(request))
        assert reply.status == b"HTTP/1.1 403 "
        assert b"HELIOGRAPH_API_KEYS" in reply.body
    assert (await api.get("/api/v1/events"))["events"] == []


@pytest.mark.parametrize("way", [bytes, long_way])
@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:5000", "127.0.0.1:1", "127.1.2.3", "[::1]", "[::1]:5", "heliograph:5000"]
)
async def test_every_name_of_this_machine_is_served(
    api: Api, way: Callable[[bytes], bytes], host: str
) -> None:
    """Programs, and our own page, ask by whatever name of the loopback interface, with or without a type."""
    for origin in ("", f"http://{host}"):
        named = {"Host": host, "Origin": origin, "X-API-Key": ""}
        for request in (post(items(output()), named), post(items(output()), named | {"Content-Type": ""})):
            assert (await exchange(api.url, way(request))).status == b"HTTP/1.1 201 "
        assert (await exchange(api.url, way(stream("", named)))).status == b"HTTP/1.1 200 OK"
        assert (await exchange(api.url, way(web_socket("", named)))).status.startswith(b"HTTP/1.1 101")


@pytest.mark.parametrize("way", [bytes, long_way])
async def test_no_page_of_another_origin_publishes(api: Api, way: Callable[[bytes], bytes]) -> None:
    """What a browser sends without asking first, a POST of no type, is refused by its origin."""
    for origin in ("http://evil.example", "null"):
        page = {"Host": "127.0.0.1:5000", "Origin": origin, "Content-Type": "", "X-API-Key": ""}
        reply = await exchange(api.url, way(post(items(output()), page)))
        assert reply.status == b"HTTP/1.1 403 "
        assert b"CORS_ORIGINS" in reply.body
    assert (await api.get("/api/v1/events"))["events"] == []


@pytest.mark.parametrize("way", [bytes, long_way])
@pytest.mark.parametrize("origins", [("https://app.example",), ("*",)])
async def test_configured_pages_use_the_api_without_keys(
    start: Start, way: Callable[[bytes], bytes], origins: tuple[str, ...]
) -> None:
    """A configured origin may publish and watch, directly or through a proxy that keeps its name."""
    api = await start(server={"cors_origins": origins})
    for host in ("127.0.0.1", "app.example"):
        page = {**FRIEND, "Host": host, "X-API-Key": ""}
        assert (await exchange(api.url, way(post(items(output()), page)))).status == b"HTTP/1.1 201 "
        assert (await exchange(api.url, way(web_socket("", page)))).status.startswith(b"HTTP/1.1 101")


@pytest.mark.parametrize(("request_", "status"), [(stream(), 200), (web_socket(), 429)])
async def test_a_limit_of_streams_is_told_alike(guarded: Api, request_: bytes, status: int) -> None:
    """Over the limit a WebSocket is refused and an EventSource is told to come back, either way."""
    async with await watch("sse", guarded.url, "task:1", headers={"X-API-Key": "r"}) as one:
        await one.live()
        reply = await exchange(guarded.url, request_)
        assert reply == await exchange(guarded.url, long_way(request_))
        assert int(reply.status.split()[1]) == status
        assert b"too many streams" in reply.body or status == 429


@pytest.mark.parametrize("limit", ["max_streams", "max_streams_per_key"])
@pytest.mark.parametrize("way", [bytes, long_way])
@pytest.mark.parametrize("request_", [stream(), web_socket()])
async def test_handshakes_at_once_keep_to_the_limit(
    start: Start, request_: bytes, way: Callable[[bytes], bytes], limit: str
) -> None:
    """Of many handshakes under way at the same time only so many open a stream as there is room for."""
    guarded = await start(auth={"keys": KEYS}, streams={limit: 3})
    opened: list[Reply] = []

    async def open_one(connection: trio.SocketStream) -> None:
        await connection.send_all(way(request_))
        reply = await read_reply(connection)
        if "retry-after" not in reply.headers and b"too many streams" not in reply.body:
            opened.append(reply)

    async with AsyncExitStack() as kept_open:
        connections = [await kept_open.enter_async_context(await connect(guarded.url)) for _ in range(12)]
        async with trio.open_nursery() as nursery:
            for connection in connections:
                nursery.start_soon(open_one, connection)
        assert len(opened) == 3
        assert (await guarded.get("/api/v1/status", headers={"X-API-Key": "a"}))["streams"] == 3


@pytest.mark.parametrize("way", [bytes, long_way])
@pytest.mark.parametrize("request_", [stream(), web_socket()])
async def test_an_abandoned_handshake_takes_no_room(
    guarded: Api, request_: bytes, way: Callable[[bytes], bytes]
) -> None:
    """Clients that go away in the middle of their handshakes leave the room for others."""
    for _ in range(5):
        async with await connect(guarded.url) as connection:
            await connection.send_all(way(request_))
    await until_no_stream(guarded)
    reply = await exchange(guarded.url, way(request_))
    assert reply.status in {b"HTTP/1.1 200 OK", b"HTTP/1.1 101 Switching Protocols"}
    assert b"too many streams" not in reply.body


async def until_no_stream(api: Api) -> None:
    """Wait until the service has let go of every stream."""
    with trio.fail_after(10):
        while (await api.get("/api/v1/status", headers={"X-API-Key": "a"}))["streams"]:  # noqa: ASYNC110
            await trio.sleep(0.01)
