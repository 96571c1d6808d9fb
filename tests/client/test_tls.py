"""What a client says when TLS is what keeps it from its service."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trustme

from heliograph.client.api import Client
from heliograph.client.follower import follow
from heliograph.client.following import Following
from heliograph.model.errors import Forbidden, HeliographError, Unavailable

AUTHORITY = trustme.CA()
REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
async def https(nursery: trio.Nursery) -> AsyncIterator[str]:
    """Serve 403 over TLS, with a certificate of an authority that nobody knows."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    AUTHORITY.issue_cert("localhost").configure_cert(context)

    async def refuse(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            await stream.receive_some()
            await stream.send_all(REFUSAL)
            await stream.receive_some()
        except trio.BrokenResourceError:
            pass
        await trio.aclose_forcefully(stream)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, refuse, [trio.SSLListener(listener, context)])
    yield f"https://localhost:{listener.socket.getsockname()[1]}"
    nursery.cancel_scope.cancel()


async def first_trouble(url: str, transport: str) -> str:
    """Return what following says that it is kept from."""
    troubles: list[HeliographError] = []
    with trio.fail_after(10):
        async with Client(url) as client:
            with trio.CancelScope() as scope:

                def tell(error: HeliographError) -> None:
                    troubles.append(error)
                    scope.cancel()

                async with follow(client, Following("task:*"), transport, tell) as items:
                    async for _ in items:
                        pass
    return str(troubles[0])


@pytest.mark.parametrize("transport", ["sse", "ws"])
async def test_a_certificate_of_nobody_is_named(https: str, transport: str) -> None:
    """Over both transports the cause is told, and what to set if it is to be trusted."""
    said = await first_trouble(https, transport)
    assert "certificate verify failed: unable to get local issuer certificate" in said
    assert "SSL_CERT_FILE" in said


@pytest.mark.parametrize("transport", ["sse", "ws"])
async def test_an_authority_that_is_set_is_trusted(
    https: str, transport: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With ``SSL_CERT_FILE`` the handshake succeeds, and the service's own answer is told."""
    AUTHORITY.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    with pytest.raises(Forbidden):
        await first_trouble(https, transport)


async def test_a_service_without_tls_is_named(nursery: trio.Nursery) -> None:
    """Where plain HTTP answers to https://, that is said."""

    async def speak_plainly(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(REFUSAL)
        await stream.aclose()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, speak_plainly, [listener])
    port = listener.socket.getsockname()[1]
    async with Client(f"https://localhost:{port}") as client:
        with pytest.raises(Unavailable, match="no TLS there: "):
            await client.tasks()
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "command", [["publish", "--topic", "a.b"], ["tail", "task:x"], ["exec", "--", "true"]]
)
def test_a_file_without_certificates_is_named(tmp_path: Path, command: list[str]) -> None:
    """A command that is to trust a file which holds none says so in one line."""
    (tmp_path / "empty.pem").write_text("no certificate")
    for name in ("empty.pem", "missing.pem"):
        file = str(tmp_path / name)
        done = subprocess.run(
            [sys.executable, "-m", "heliograph", command[0], "--url", "https://localhost:1", *command[1:]],
            env={**os.environ, "SSL_CERT_FILE": file, "XDG_STATE_HOME": str(tmp_path)},
            capture_output=True,
            timeout=60,
        )
        assert done.returncode in {1, 2}
        [said] = done.stderr.decode().splitlines()
        assert said.startswith(f"heliograph: SSL_CERT_FILE: {file} has no certificates: ")
