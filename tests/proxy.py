"""A TCP proxy that breaks connections in the ways that networks do, and speaks TLS for servers that don't."""

from __future__ import annotations

import re
import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress

import trio

READ_BYTES = 64 * 1024
SSL_REQUEST = struct.pack("!ii", 8, 80877103)
"""How PostgreSQL's clients ask for TLS before they begin with it; the answer is ``S``."""
PROTOCOL = struct.pack("!hh", 3, 0)
"""How a client of PostgreSQL begins, after it has asked for TLS."""
RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Passes connections on from a port of its own.

    Args:
        target: The loopback port behind it.
        tls: Ends TLS here.
        asked: Whether clients ask for TLS first, as PostgreSQL's do.
        hear: Makes, for each connection, what is told of the bytes that its client sends.
    """

    def __init__(
        self,
        target: int,
        tls: ssl.SSLContext | None = None,
        *,
        asked: bool = False,
        hear: Callable[[], Callable[[bytes], object]] = lambda: len,
    ) -> None:
        self.port = 0
        self._target = target
        self._tls = tls
        self._asked = asked
        self._hear = hear
        self._connections: set[trio.CancelScope] = set()
        self._flowing = trio.Event()
        self._flowing.set()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve until cancelled; started once ``port`` is known."""
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._connect, [listener])

    def cut(self) -> None:
        """Break every connection, in the middle of whatever is under way."""
        for connection in self._connections:
            connection.cancel()

    def stall(self) -> None:
        """Fall silent: connections stay and new ones are taken, but no byte passes."""
        self._flowing = trio.Event()

    def flow(self) -> None:
        """Let bytes pass again."""
        self._flowing.set()

    async def _connect(self, near: trio.SocketStream) -> None:
        with trio.CancelScope() as connection:
            self._connections.add(connection)
            try:
                secured = await self._secured(near)
                far = await trio.open_tcp_stream("127.0.0.1", self._target)
            except (OSError, trio.BrokenResourceError):
                connection.cancel()
            else:
                async with far, trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, secured, far, connection, self._hear())
                    nursery.start_soon(self._pump, far, secured, connection, len)
        self._connections.discard(connection)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)  # the peer meets an error, not an end

    async def _secured(self, near: trio.SocketStream) -> trio.abc.Stream:
        if self._tls is None:
            return near
        if self._asked:
            asked = b""
            while len(asked) < len(SSL_REQUEST) and (more := await near.receive_some(8 - len(asked))):
                asked += more
            if asked != SSL_REQUEST:
                raise trio.BrokenResourceError
            await near.send_all(b"S")
        stream = trio.SSLStream(near, self._tls, server_side=True, https_compatible=True)
        await stream.do_handshake()
        return stream

    async def _pump(
        self,
        source: trio.abc.Stream,
        sink: trio.abc.Stream,
        connection: trio.CancelScope,
        heard: Callable[[bytes], object],
    ) -> None:
        try:
            while data := await source.receive_some(READ_BYTES):
                heard(bytes(data))
                await self._flowing.wait()
                await sink.send_all(data)
        except trio.BrokenResourceError:
            pass
        connection.cancel()  # either side's end is the end of both


class RoundTrips:
    """Counts how often clients of PostgreSQL ask and wait, by what they send: a ``Sync`` or a ``Query``."""

    def __init__(self) -> None:
        self.number = 0

    def connection(self) -> Callable[[bytes], None]:
        """Return what hears one connection, from its first byte on."""
        waiting, started = bytearray(), False

        def hear(data: bytes) -> None:
            nonlocal started
            waiting.extend(data)
            while len(waiting) >= 5:
                head = 1 if started else 0  # a connection's first messages have no type
                length = head + int.from_bytes(waiting[head : head + 4])
                if len(waiting) < length:
                    return
                if started:
                    self.number += bytes(waiting[:1]) in {b"S", b"Q"}
                else:
                    started = waiting[4:8] == PROTOCOL
                del waiting[:length]

        return hear


class PrefixProxy:
    """Serves HTTP below a path and passes it on without; one request a connection.

    Args:
        target: The loopback port behind it.
        prefix: Such as ``/helio``.
        host: The ``Host`` that it sends, as proxies do by default; ``None``: the client's.
    """

    def __init__(self, target: int, prefix: str = "", host: str | None = None) -> None:
        self.port = 0
        self._target = target
        self._prefix = prefix.encode()
        self._host = host

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve until cancelled; started once ``port`` is known."""
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._connect, [listener])

    async def _connect(self, near: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = await near.receive_some(READ_BYTES)
            if not data:
                return
            head += data
        if b" " + self._prefix + b"/" not in head.split(b"\r\n")[0]:
            await near.send_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        head = head.replace(b" " + self._prefix + b"/", b" /", 1)
        if self._host is not None:
            head = re.sub(rb"(?im)^host: .*(?=\r$)", f"Host: {self._host}".encode(), head)
        if b"upgrade: websocket" not in head.lower():
            head = re.sub(rb"(?i)connection: keep-alive", b"Connection: close", head)
        far = await trio.open_tcp_stream("127.0.0.1", self._target)
        async with far, trio.open_nursery() as nursery:
            await far.send_all(head)
            nursery.start_soon(_pass, near, far)
            await _pass(far, near)
            nursery.cancel_scope.cancel()


async def _pass(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in source:
            await sink.send_all(data)
