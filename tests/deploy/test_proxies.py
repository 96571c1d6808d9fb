"""The proxies of ``docs/proxies.md``, each as it is printed there, in front of the service."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import httpx
import orjson
import pytest
import trio
import trio_websocket
from tests.deploy.proxies import HANDSHAKE, PROXIES, running
from tests.servers import Server, free_port

PAGE = Path(__file__).parents[2] / "docs" / "proxies.md"
BLOCKS = dict(re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))

PREFIXED = {
    "nginx": (
        "location / {\n        proxy_pass http://heliograph;",
        "location /helio/ {\n        proxy_pass http://heliograph/;",
    ),
    "caddy": (
        "    reverse_proxy 127.0.0.1:5000 {",
        "    handle_path /helio/* {\n    reverse_proxy 127.0.0.1:5000 {",
    ),
    "haproxy": ("frontend web", "frontend web\n    http-request replace-path /helio/(.*) /\\1"),
    "apache": ("ProxyPass / http://127.0.0.1:5000/", "ProxyPass /helio/ http://127.0.0.1:5000/"),
    "varnish": ("sub vcl_recv {", 'sub vcl_recv {\n    set req.url = regsub(req.url, "^/helio/", "/");'),
}
"""What the page says of a prefix: how each configuration is changed for it."""


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/api/health", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The real service; gives its port."""
    folder = tmp_path_factory.mktemp("service")
    port = free_port()
    environment = {**os.environ, "HELIOGRAPH_DATA": str(folder / "data"), "LOG_LEVEL": "WARNING"}
    command = [sys.executable, "-m", "heliograph", "serve", "--port", str(port)]
    server = Server(command, folder / "log", lambda: _answers(port), env=environment, cwd=folder)
    server.start()
    yield port
    server.kill()


@pytest.fixture(scope="module", params=sorted(PROXIES))
def proxy(request: pytest.FixtureRequest, service: int) -> Iterator[str]:
    """Each proxy with the page's configuration; gives its host and port."""
    with running(request.param, BLOCKS[request.param], service) as host:
        yield host


def publish(host: str, *items: Mapping[str, object]) -> httpx.Response:
    """Publish through the proxy."""
    return httpx.post(f"http://{host}/api/v1/events", json=items, timeout=30)


def test_the_page_and_the_api(proxy: str) -> None:
    """The page and an answer of the API come through."""
    page = httpx.get(f"http://{proxy}/")
    assert page.status_code == 200
    assert page.headers["Content-Type"].startswith("text/html")
    assert httpx.get(f"http://{proxy}/api/health").json()["status"]


def test_a_change_of_the_pages_own(proxy: str) -> None:
    """What the page itself asks, with its own origin, is served; another page's is not."""
    url = f"http://{proxy}/api/v1/stream-tickets"
    assert httpx.post(url, headers={"Origin": f"http://{proxy}"}).status_code in {200, 201}
    assert httpx.post(url, headers={"Origin": "http://elsewhere.example"}).status_code == 403


def test_a_large_request(proxy: str) -> None:
    """A request of 8 MiB is taken: no proxy's own limit is below the service's."""
    line = orjson.dumps({"topic": "bulk", "payload": {"text": "x" * 100_000}}) + b"\n"
    answer = httpx.post(
        f"http://{proxy}/api/v1/events",
        content=line * 80,
        headers={"Content-Type": "application/x-ndjson"},
        timeout=60,
    )
    assert answer.status_code == 201, answer.text


def test_an_event_stream_is_live(proxy: str) -> None:
    """The head of an event stream comes before any event, and each event when it happens."""
    with httpx.stream(
        "GET",
        f"http://{proxy}/api/v1/events/stream",
        params={"topic": "live"},
        headers={"Accept-Encoding": "gzip"},
        timeout=10,
    ) as stream:
        assert stream.status_code == 200
        assert "Content-Encoding" not in stream.headers
        chunks = stream.iter_raw()
        text = next(chunks)
        for n in range(3):
            publish(proxy, {"topic": "live", "payload": {"n": n}})
            while b'{"n":%d}' % n not in text:
                text += next(chunks)


async def test_a_websocket_is_live(proxy: str) -> None:
    """The page's WebSocket is opened with its own origin, and hears what happens."""
    with trio.fail_after(20):
        async with trio_websocket.open_websocket_url(
            f"ws://{proxy}/ws", extra_headers=[(b"Origin", f"http://{proxy}".encode())]
        ) as socket:
            await socket.send_message('{"type": "subscribe", "channel": "topic:live"}')
            assert orjson.loads(await socket.get_message())["type"] == "subscribed"
            for n in range(3):
                item = {"topic": "live", "payload": {"n": n}}
                await trio.to_thread.run_sync(partial(publish, proxy, item))
                assert orjson.loads(await socket.get_message())["payload"] == {"n": n}


def test_a_websocket_of_another_page_is_refused(proxy: str) -> None:
    """Another page's WebSocket is refused through the proxy as well."""
    answer = httpx.get(f"http://{proxy}/ws", headers={**HANDSHAKE, "Origin": "http://elsewhere.example"})
    assert answer.status_code == 403
    assert "elsewhere.example" in answer.json()["detail"]


@pytest.mark.parametrize("name", sorted(PROXIES))
def test_a_prefix(name: str, service: int) -> None:
    """Under a prefix the page, what it loads, the API and its WebSocket are found."""
    plain, changed = PREFIXED[name]
    configuration = BLOCKS[name].replace(plain, changed)
    if name == "caddy":
        configuration += "}\n"
    assert configuration != BLOCKS[name]
    with running(name, configuration, service) as host:
        base = f"http://{host}/helio/"
        page = httpx.get(base)
        assert page.status_code == 200
        for place in re.findall(r'(?:src|href)="([^":#]+\.(?:js|css|svg))"', page.text):
            assert httpx.get(httpx.URL(base).join(place)).status_code == 200, place
        assert httpx.get(base + "api/health").status_code == 200
        answer = httpx.get(base + "ws", headers={**HANDSHAKE, "Origin": "http://elsewhere.example"})
        assert answer.status_code == 403
        with httpx.stream("GET", base + "ws", headers={**HANDSHAKE, "Origin": f"http://{host}"}) as socket:
            assert socket.status_code == 101


def test_every_proxy_of_the_page_is_tried() -> None:
    """The page has a configuration for each proxy here, and none besides."""
    assert set(BLOCKS) == set(PROXIES)
