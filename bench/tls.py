"""The cost of TLS in the process: idle streams beside plain ones, handshakes, and handshakes that never end.

The client of a half-open handshake connects and says nothing. Its cost is measured while it lasts; then the
measurement waits until the service has given all of them up.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep

import attrs
import trustme

from bench.peer import Command, Peer
from bench.peers.heliograph import HeliographPeer
from bench.scenarios import OURS, Figures, Scale, Scenario
from bench.server import HOST, BenchError, Server

STREAMS = 500
HANDSHAKES = 500
HALF_OPEN = 500
FLOOD = 3000
"""The half-open handshakes at once that are more than the service keeps."""

GIVEN_UP_SECONDS = 30.0


class _TlsPeer(HeliographPeer):
    """Heliograph with a certificate of its own."""

    def command(self, port: int, folder: Path) -> Command:
        """Start it with a new certificate in its folder."""
        issued = trustme.CA().issue_cert(HOST)
        certificate = folder / "certificate.pem"
        issued.private_key_and_cert_chain_pem.write_to_path(str(certificate))
        plain = super().command(port, folder)
        return attrs.evolve(plain, environment={**plain.environment, "HELIOGRAPH_TLS_CERT": str(certificate)})


def _tls(peer: Peer, scale: Scale) -> Figures:
    figures: Figures = {}
    for name, served, wrap in (("plain", peer, _plain), ("tls", _TlsPeer(), _encrypted)):
        for transport in served.transports:
            with Server(served) as server:
                figures[f"{transport}_{name}_kib"] = _opened(server, scale.count(STREAMS), wrap, transport)
        with Server(served) as server:
            figures[f"{name}_connect_us"] = _connects(server, scale.count(HANDSHAKES), wrap)
    with Server(_TlsPeer()) as server:
        _opened(server, 20, _encrypted, "ws")  # so that its code is loaded
        figures |= _half_open(server, scale.count(HALF_OPEN))
        figures["flood_kept"] = _flood(server, FLOOD)
    return figures


Wrap = Callable[[socket.socket], socket.socket]


def _plain(connection: socket.socket) -> socket.socket:
    return connection


def _encrypted(connection: socket.socket) -> socket.socket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(connection)


def _opened(server: Server, count: int, wrap: Wrap, transport: str) -> float:
    """Open streams and let them be; return the resident KiB of each."""
    dialect = server.peer.dialect(f"{HOST}:{server.port}")
    request = dialect.open(transport, server.peer.channel(0), None)
    with ExitStack() as streams:
        for number in range(20 + count):
            if number == 20:  # those before have loaded the code
                sleep(1)
                memory = server.memory()
            one = streams.enter_context(wrap(_connect(server)))
            one.sendall(request)
            if not one.recv(4096).startswith(b"HTTP/1.1 "):
                raise BenchError("a stream did not open")
        sleep(1)
        return (server.memory() - memory) / count / 1024


def _connects(server: Server, count: int, wrap: Wrap) -> float:
    """Connect and close; return the CPU µs of each."""
    for _ in range(20):
        wrap(_connect(server)).close()
    cpu = server.cpu()
    for _ in range(count):
        wrap(_connect(server)).close()
    sleep(1)
    return (server.cpu() - cpu) / count * 1e6


def _half_open(server: Server, count: int) -> Figures:
    sockets, memory, cpu = server.sockets(), server.memory(), server.cpu()
    with ExitStack() as connections:
        for _ in range(count):
            connections.enter_context(_connect(server))
        begun = monotonic()
        sleep(1)
        figures = {
            "half_open_kib": (server.memory() - memory) / count / 1024,
            "half_open_us": (server.cpu() - cpu) / count * 1e6,
        }
        while server.sockets() > sockets:
            if monotonic() > begun + GIVEN_UP_SECONDS:
                raise BenchError("half-open handshakes are not given up")
            sleep(0.1)
        return {**figures, "half_open_seconds": monotonic() - begun}


def _flood(server: Server, count: int) -> float:
    """Begin more handshakes than are kept; return how many are, while another client is served."""
    sockets = server.sockets()
    with ExitStack() as connections:
        for _ in range(count):
            connections.enter_context(_connect(server))
        with _encrypted(_connect(server)) as good:
            good.sendall(f"GET /api/health HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
            if not good.recv(4096).startswith(b"HTTP/1.1 200"):
                raise BenchError("nobody is served beside half-open handshakes")
            return server.sockets() - sockets


def _connect(server: Server) -> socket.socket:
    return socket.create_connection((HOST, server.port), timeout=10)


SCENARIOS = (Scenario("tls", "TLS in the process: idle streams, handshakes, half-open ones", _tls, (), OURS),)
