"""TLS in the process: everything works behind it, certificates are taken over, broken ones are not."""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trustme
from structlog.testing import capture_logs
from tests.conformance.clients import Watch, handshake, request_head
from tests.conformance.serving import serve, settings_for
from tests.http.conftest import Api, output
from tests.http.rules.test_auth import KEYS
from tests.polling import until
from tests.storages import embedded_form

from heliograph.actors.keyring import Keyring
from heliograph.http.wire import tls
from heliograph.http.wire.tls import Tls
from heliograph.model.errors import SettingsError
from heliograph.service import open_to_all

AUTHORITY = trustme.CA()
READER = {"X-API-Key": "o"}

Serve = Callable[..., Awaitable[Api]]


def write(folder: Path, authority: trustme.CA = AUTHORITY) -> tuple[Path, Path]:
    """Write a new certificate and its key."""
    issued = authority.issue_cert("127.0.0.1", "localhost")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return certificate, key


def trusting(*authorities: trustme.CA) -> ssl.SSLContext:
    """Make the context of a client that trusts these."""
    context = ssl.create_default_context()
    for authority in authorities or (AUTHORITY,):
        authority.configure_trust(context)
    return context


@pytest.fixture
async def start(nursery: trio.Nursery, tmp_path: Path) -> AsyncIterator[Serve]:
    """Start a service with a certificate."""
    clients: list[httpx.AsyncClient] = []

    async def begin(server: Mapping[str, Any] = {}, **sections: Any) -> Api:
        certificate, key = write(tmp_path)
        server = {"port": 0, "tls_cert": certificate, "tls_key": key, **server}
        served = await serve(
            nursery, settings_for(embedded_form(tmp_path / "data").folder, server=server, **sections)
        )
        clients.append(httpx.AsyncClient(base_url=served.url, timeout=30, verify=trusting()))
        return Api(served.url, clients[-1])

    yield begin
    for client in clients:
        await client.aclose()
    nursery.cancel_scope.cancel()


async def connect(api: Api, *authorities: trustme.CA) -> trio.SSLStream[trio.SocketStream]:
    """Connect as a client that wants to be told in so many words when the connection ends."""
    port = httpx.URL(api.url).port
    assert port is not None
    plain = await trio.open_tcp_stream("127.0.0.1", port)
    encrypted = trio.SSLStream(plain, trusting(*authorities), server_hostname="127.0.0.1")
    try:
        await encrypted.do_handshake()
    except trio.BrokenResourceError:
        await trio.aclose_forcefully(plain)
        raise
    return encrypted


async def watch(api: Api, transport: str) -> Watch:
    """Watch a task over TLS."""
    one = Watch(transport, await connect(api))  # type: ignore[arg-type]  # it reads and writes alike
    path = "/api/v1/events/stream?channel=task:1"
    head = handshake(api.url) if transport == "ws" else request_head("GET", path, {"Host": "127.0.0.1"})
    await one.stream.send_all(head)
    await one.read_head()
    if transport == "ws":
        await one.say("subscribe", channel="task:1")
    await one.live()
    return one


async def test_everything_is_served_over_tls(start: Serve) -> None:
    """Requests with small and large bodies, and both kinds of streams, work as they do in the clear."""
    api = await start()
    assert api.url.startswith("https://")
    streams = [await watch(api, transport) for transport in ("ws", "sse")]
    await api.publish(output("1", "small"))
    await api.publish(output("1", "large" * 100_000))
    for one in streams:
        assert [len(text) for text in await one.outputs(2)] == [5, 500_000]
        await trio.aclose_forcefully(one.stream)
    full = await api.http.get("/api/v1/tasks/1/logs/full")
    assert len(full.text) > 500_000
    text = (await api.http.get("/metrics")).text
    assert "heliograph_tls_handshakes_total 3.0" in text
    assert "heliograph_tls_broken 0.0" in text


@pytest.mark.parametrize("path", ["/api/health", "/api/v1/tasks/none/logs/full", "/nowhere"])
async def test_an_end_is_told(start: Serve, path: str) -> None:
    """A connection that is closed behind its answer says so, so that nobody takes a cut for an end."""
    api = await start()
    stream = await connect(api)
    head = request_head("GET", path, {"Host": "127.0.0.1", "Connection": "close"})
    await stream.send_all(head)
    received = b""
    with trio.fail_after(20):
        while data := await stream.receive_some():  # a cut would be an error
            received += data
    assert received.startswith(b"HTTP/1.1 ")
    await trio.aclose_forcefully(stream)


async def test_addresses_and_cookies_know_of_tls(start: Serve) -> None:
    """The peer's address is known behind the pair of sockets, and a session's cookie never leaves TLS."""
    api = await start(auth={"keys": KEYS})
    with capture_logs() as logs:
        assert (await api.http.get("/api/v1/tasks", headers={"X-API-Key": "wrong"})).status_code == 401
    assert [line["peer"] for line in logs if line["event"] == "credentials refused"] == ["127.0.0.1"]
    begun = await api.http.post("/api/v1/session", headers=READER)
    assert "; Secure" in begun.headers["set-cookie"]


async def test_a_new_certificate_is_taken_over(start: Serve, tmp_path: Path) -> None:
    """Who connects later sees the new one, open streams go on, and a broken one changes nothing."""
    api = await start()
    stream = await watch(api, "ws")
    other = trustme.CA()
    write(tmp_path, other)

    async def taken_over() -> bool:
        try:
            await trio.aclose_forcefully(await connect(api, other))
        except trio.BrokenResourceError:
            return False
        return True

    await until(taken_over)
    (tmp_path / "cert.pem").write_text("nonsense")

    async def told() -> bool:
        async with httpx.AsyncClient(verify=trusting(other)) as client:
            text = (await client.get(f"{api.url}/metrics")).text
        return "heliograph_tls_broken 1.0" in text and "heliograph_tls_reloads_total 1.0" in text

    await until(told)
    await trio.aclose_forcefully(await connect(api, other))
    async with httpx.AsyncClient(verify=trusting(other)) as client:
        assert (await client.post(f"{api.url}/api/v1/events", json=output())).status_code == 201
    assert await stream.outputs(1) == ["x"]
    await trio.aclose_forcefully(stream.stream)


async def test_what_is_not_tls_is_turned_away(start: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain HTTP, and silence, end within the handshake's time, are counted, and harm nobody."""
    monkeypatch.setattr(tls, "HANDSHAKE_SECONDS", 0.1)
    api = await start()
    port = httpx.URL(api.url).port
    assert port is not None
    for said in (b"GET / HTTP/1.1\r\n\r\n", b""):
        plain = await trio.open_tcp_stream("127.0.0.1", port)
        if said:
            await plain.send_all(said)
        with trio.fail_after(20):
            try:
                while await plain.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass
        await trio.aclose_forcefully(plain)
    monkeypatch.setattr(tls, "HANDSHAKE_SECONDS", 10.0)
    assert "heliograph_tls_failed_total 2.0" in (await api.http.get("/metrics")).text


async def test_half_open_handshakes_keep_nobody_out(start: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more handshakes than may be under way the oldest is ended, long before its deadline."""
    monkeypatch.setattr(tls, "MOST_HANDSHAKES", 3)
    api = await start()
    port = httpx.URL(api.url).port
    assert port is not None
    silent = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(5)]
    assert (await api.http.get("/api/health")).status_code == 200  # the sixth
    text = (await api.http.get("/metrics")).text
    assert "heliograph_tls_failed_total 3.0" in text
    for number, plain in enumerate(silent):
        if number < 3:
            with trio.fail_after(20):
                assert await ended(plain)
        await trio.aclose_forcefully(plain)


async def ended(plain: trio.SocketStream) -> bool:
    """Tell whether the service has ended a connection on which it has said nothing; wait until it does."""
    try:
        return await plain.receive_some() == b""
    except trio.BrokenResourceError:
        return True


def carrying(task: trio.lowlevel.Task | None = None) -> int:
    """Count the tasks that carry bytes of connections over TLS."""
    task = task or trio.lowlevel.current_root_task()
    assert task is not None
    beneath = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return task.name.rpartition(".")[2].startswith("_carry") + sum(map(carrying, beneath))


async def test_who_takes_nothing_is_given_up(start: Serve) -> None:
    """A peer that asks and never reads holds its connection no longer than the write timeout."""
    api = await start(server={"write_timeout": 0.2})
    stream = await connect(api)
    asking = request_head("GET", "/openapi.json", {"Host": "127.0.0.1"}) * 100  # 30 MB to take
    with suppress(trio.BrokenResourceError):
        await stream.send_all(asking)
    await until(given_up)
    await trio.aclose_forcefully(stream)


async def given_up() -> bool:
    """Tell whether no connection is carried any more."""
    return carrying() == 0


async def test_the_commands_work_against_it(start: Serve, tmp_path: Path) -> None:
    """``exec`` and ``tail`` trust the authority that ``SSL_CERT_FILE`` names."""
    api = await start()
    trust = tmp_path / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(str(trust))
    environment = {
        **{name: text for name, text in os.environ.items() if not name.startswith("HELIOGRAPH_")},
        "HELIOGRAPH_URL": api.url,
        "SSL_CERT_FILE": str(trust),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }

    async def type_in(*arguments: str) -> str:
        done = await trio.run_process(
            [sys.executable, "-m", "heliograph", *arguments],
            env=environment,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    await type_in("exec", "--task-id", "made", "--", "echo", "hello")
    for transport in ("sse", "ws"):
        assert "hello" in await type_in("tail", "--transport", transport, "task:made")


def test_files_that_can_not_be_used_are_named(tmp_path: Path) -> None:
    """A missing file, one that is none, and a key of another certificate refuse the start, by name."""
    certificate, key = write(tmp_path)
    Tls(certificate, key)
    with pytest.raises(SettingsError, match=r"none\.pem can't be used: No such file.*HELIOGRAPH_TLS_CERT"):
        Tls(tmp_path / "none.pem")
    with pytest.raises(SettingsError, match="can't be used"):
        Tls(certificate)
    (tmp_path / "other").mkdir()
    _, other = write(tmp_path / "other")
    with pytest.raises(SettingsError, match="KEY_VALUES_MISMATCH"):
        Tls(certificate, other)


@pytest.mark.parametrize(
    ("server", "clear"),
    [
        ({"host": "0.0.0.0"}, True),
        ({"host": "127.0.0.1"}, False),
        ({"host": "0.0.0.0", "trusted_proxies": ("10.0.0.1",)}, False),
        ({"host": "0.0.0.0", "tls_cert": Path("cert.pem")}, False),
    ],
)
def test_keys_in_the_clear_are_warned_of(tmp_path: Path, server: dict[str, Any], clear: bool) -> None:
    """Whoever serves others than this machine, without TLS and without a known proxy, is told so."""
    settings = settings_for(tmp_path, server=server, auth={"keys": KEYS})
    with capture_logs() as logs:
        assert open_to_all(settings, Keyring(None)) is None  # type: ignore[arg-type]  # it looks into nothing
    assert [line["event"] for line in logs] == (["keys travel in the clear"] if clear else [])
