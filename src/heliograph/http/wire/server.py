"""The listener: our own accept loop around hypercorn's per-connection engine.

hypercorn offers ``serve``, but not its sockets, its deadlines or a connection that outlives it. So each
connection is accepted here and handed to hypercorn's ``TCPServer``, wrapped in a ``Connection`` that a stream
can take over. This module is the only one that touches hypercorn's inner classes, and
``tests/http/test_server.py`` fails clearly when an upgrade changes them.

Trio's ``serve_listeners`` would do, but costs too much when thousands of streams come back at once: a turn of
the scheduler to accept each, an object for its socket, and two scopes to close what a stream has long taken
over are more than its handshake needs. Here several connections are accepted in each turn, and Trio's stream
of a socket is made only for those that need one.

Nesting is the order of stopping. Accepting ends first. Connections then get ``grace`` seconds, after which
they are cancelled and aborted: cancelling alone does not reach the writes that hypercorn shields.
"""

from __future__ import annotations

import errno
import math
import socket
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from contextvars import Context, copy_context
from functools import partial

import attrs
import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import TrioSingleTask, WorkerContext
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ConnectionState, Scope
from quart_trio import QuartTrio

from heliograph.actors.sweeper import Sweeper
from heliograph.http.wire.connection import Connection, Served, Shortcut, current
from heliograph.http.wire.descriptor import CLOSED
from heliograph.http.wire.head import HEAD_LIMIT, Head
from heliograph.http.wire.lot import Lot, open_lot
from heliograph.http.wire.refusal import refusal
from heliograph.http.wire.tls import Tls
from heliograph.model.errors import SettingsError

SWEEP_SECONDS = 1.0
"""The most seconds by which a connection without a request is closed too late."""

UNSENT_BYTES = 16 * 1024
"""The unsent bytes in the kernel above which a socket is not writable; accepted sockets inherit it."""

ACCEPT_AT_ONCE = 16
"""The most connections that are accepted before all other tasks have a turn."""

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of ``accept`` for exhausted resources."""

EXHAUSTED_SECONDS = 0.1

log = structlog.get_logger(__name__)


def hypercorn_config() -> Config:
    """Return hypercorn's settings: HTTP/1.1, quiet, and its own deadlines for half-open peers."""
    config = Config()
    config.alpn_protocols = ["http/1.1"]
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    config.keep_alive_timeout = math.inf  # the connection has a deadline of its own
    config.read_timeout = None
    config.h11_max_incomplete_size = 2 * HEAD_LIMIT  # a head that is written anew may be a little longer
    return config


def open_listener(host: str, port: int, backlog: int) -> socket.socket:
    """Bind and listen.

    Raises:
        SettingsError: The address can't be bound; the message names it and why.
    """
    with ExitStack() as on_error:
        try:
            family, kind, proto, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listening = on_error.enter_context(socket.socket(family, kind, proto))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            with suppress(OSError):  # a socket is writable only when the peer has nearly taken everything
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
            listening.bind(address)
            listening.listen(backlog)
            listening.setblocking(False)
        except OSError as error:
            raise SettingsError([_why_not_bound(host, port, error)]) from None
        on_error.pop_all()
    return listening


def _why_not_bound(host: str, port: int, error: OSError) -> str:
    match error:
        case socket.gaierror():
            return f"server.host: {host} has no address: {error.strerror} (set HOST to one of this machine's)"
        case OSError(errno=errno.EADDRNOTAVAIL):
            return f"server.host: {host} is not an address of this machine (set HOST to one that is)"
        case OSError(errno=errno.EADDRINUSE):
            return f"server.port: {host}:{port} is in use (set PORT to a free one)"
        case OSError(errno=errno.EACCES):
            return (
                f"server.port: {host}:{port} needs rights that this process lacks (set PORT to 1024 or more)"
            )
        case _:
            return f"server.host: {host}:{port} {error.strerror or error}"


class NoIdleTask(TrioSingleTask):
    """Replaces the idle task that hypercorn would start and cancel for every request."""

    async def restart(self, task_group: object, action: object) -> None:
        """Start nothing."""

    async def stop(self) -> None:
        """Stop nothing."""


@attrs.define
class Server:
    """Serves one app on one listener.

    Args:
        app: The Quart-Trio app.
        listener: From ``open_listener``.
        write_timeout: Seconds after which a peer that takes no bytes is given up.
        idle_timeout: Seconds that a connection may be without a request.
        grace: Seconds that requests under way get after accepting has ended.
        shortcuts: Shortcuts by method and path.
        lot: Reads the sockets of the streams that took their connections over.
        tls: Encrypts the listener's connections; ``None``: they are plain.
    """

    app: QuartTrio
    listener: socket.socket
    write_timeout: float
    idle_timeout: float
    grace: float
    shortcuts: Mapping[tuple[str, str], Shortcut] = attrs.field(factory=dict)
    lot: Lot = attrs.field(factory=open_lot)
    tls: Tls | None = None
    _config: Config = attrs.field(factory=hypercorn_config, init=False)
    _context: WorkerContext = attrs.field(factory=partial(WorkerContext, None), init=False)
    _connections: set[Connection] = attrs.field(factory=set, init=False)
    _accepting: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _variables: Context = attrs.field(factory=copy_context, init=False)

    @property
    def stopping(self) -> bool:
        """Whether accepting was ended."""
        return self._accepting.cancel_called

    def stop_accepting(self) -> None:
        """Close the listener; connections go on."""
        self._accepting.cancel()

    async def run(self) -> None:
        """Serve until accepting is stopped and all connections have ended or used up ``grace``."""
        sweeper = Sweeper(lambda: self._connections, min(SWEEP_SECONDS, self.idle_timeout / 4))
        async with trio.open_nursery() as serving:
            serving.start_soon(self._abort_when_cancelled)
            serving.start_soon(sweeper.run, name="connection sweeper")
            serving.start_soon(self.lot.run, name="parking lot")
            async with trio.open_nursery() as handlers:
                with self._accepting:
                    await self._accept(handlers)
                await self._context.terminated.set()
                for connection in self._connections:
                    connection.stop()
                serving.cancel_scope.deadline = trio.current_time() + self.grace
            await self.lot.left()
            serving.cancel_scope.cancel()

    async def _abort_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            for connection in self._connections:
                connection.abort()

    async def _accept(self, handlers: trio.Nursery) -> None:
        """Accept connections, several at a time, until cancelled."""
        listening = self.listener
        try:
            while True:
                await trio.lowlevel.wait_readable(listening)
                for _ in range(ACCEPT_AT_ONCE):
                    try:
                        sock, _ = listening.accept()
                    except BlockingIOError:
                        break
                    except OSError as error:
                        if error.errno in EXHAUSTED:
                            log.warning("no connection can be accepted now", reason=error.strerror)
                            await trio.sleep(EXHAUSTED_SECONDS)
                            break
                        continue  # the peer was gone before its connection was accepted
                    sock.setblocking(False)
                    if self.tls is None:
                        handlers.start_soon(self._handle, sock)
                    else:
                        handlers.start_soon(self.tls.serve, sock, self._handle, self.write_timeout)
        finally:
            trio.lowlevel.notify_closing(listening)
            listening.close()

    async def _handle(self, sock: socket.socket, peer: str | None = None) -> None:
        try:
            served, early = await self._serve_requests(sock, peer)
            if served is not None:
                # Drop what requests have set in this task's context: fresh copies of one context share
                # their variables.
                trio.lowlevel.current_task().context = self._variables.copy()
                # This frame lives as long as the stream: it holds nothing of the handshake.
                await served.serve(early)
        except Exception:
            # A bug in serving one connection must not end all the others.
            log.exception("a connection was lost to an unexpected error")
        finally:
            if sock.fileno() != CLOSED:  # no stream has taken it
                trio.lowlevel.notify_closing(sock)
                sock.close()

    async def _serve_requests(self, sock: socket.socket, peer: str | None) -> tuple[Served | None, bytes]:
        """Serve requests until the connection ends or is taken over.

        Returns:
            What took the connection over (``None`` if it ended), and the bytes that it has not read yet.
        """
        connection = Connection(sock, self.write_timeout, self.idle_timeout, self._has_shortcut, peer)
        if self.stopping:
            connection.stop()
        self._connections.add(connection)
        current.set(connection)  # this task serves no other
        try:
            while not connection.over:
                short = await connection.next_short()
                if short is not None:
                    await self._serve_short(connection, *short)
                elif not connection.over:
                    await self._run_engine(connection)
            if connection.refused is not None:
                await connection.answer(refusal(connection.refused))
        except trio.BrokenResourceError:
            return None, b""
        finally:
            self._connections.discard(connection)
        if connection.successor is None:
            await connection.linger()
            return None, b""
        return connection.successor(sock), connection.take_early()

    def _has_shortcut(self, head: Head) -> bool:
        return (head.method, head.path) in self.shortcuts

    async def _serve_short(self, connection: Connection, head: Head, body: bytes) -> None:
        connection.begin()
        try:
            outcome = await self.shortcuts[head.method, head.path](head, body)
            if isinstance(outcome, bytes):
                await connection.answer(outcome)
            elif outcome is not None:
                connection.detach(outcome)
        finally:
            connection.end()
        if outcome is None:
            connection.decline(head, body)

    async def _run_engine(self, connection: Connection) -> None:
        """Let hypercorn serve requests until one has a shortcut, or the connection is closed or detached."""
        engine = TCPServer(
            self._call_app,
            self._config,
            self._context,
            ConnectionState({}),
            connection,  # type: ignore[arg-type]  # it asks for less than the SSLStream it names
        )
        # The connection has an idle deadline of its own; a task per request would cost more than most.
        engine.idle_task = NoIdleTask()
        await engine.run()

    async def _call_app(
        self,
        scope: Scope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
        sync_spawn: object,
        call_soon: object,
    ) -> None:
        """Call the app as hypercorn's own wrapper does, with the request marked as under way."""
        with current.get().request():
            await self.app(scope, receive, send)
