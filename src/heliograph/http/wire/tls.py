"""TLS in this process, in front of everything else: the rest of the server sees plain sockets.

Streams are written by descriptor, many in one system call, and that can't be done to an SSL object. So each
connection over TLS gets a pair of sockets: one end is served as any accepted connection is, and two tasks
carry bytes between the other end and the peer. What is bounded stays bounded, since the pair's buffers are
the kernel's and small, and each task holds one read at a time. A peer that takes nothing is given up after
the write timeout, as in the clear: the service itself sees only the pair. A handshake has a deadline; of very
many that are under way the oldest is given up for the newest, so peers that connect and say nothing can't
keep others out: a handshake that goes on takes milliseconds. It costs two tasks and the SSL object for each
connection: for tens of thousands of watchers a proxy in front is the better place for TLS.

The certificate's files are checked once a second, and at once after a SIGHUP. New connections get the new
certificate; open connections go on. A new certificate that can't be used is logged, and the old one stays.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import attrs
import structlog
import trio

from heliograph.http.wire.connection import stream_of
from heliograph.http.wire.descriptor import reset_on_close
from heliograph.model.errors import SettingsError

LOOK_SECONDS = 1.0
HANDSHAKE_SECONDS = 10.0
MOST_HANDSHAKES = 1000
"""The most handshakes under way; one more ends the oldest."""

FAREWELL_SECONDS = 1.0
READ_BYTES = 64 * 1024

log = structlog.get_logger(__name__)

Handle = Callable[[socket.socket, str | None], Awaitable[None]]
"""Serves a connection, given its socket and its peer's address, and closes it."""

Encrypted = trio.SSLStream[trio.SocketStream]

LOST = (trio.BrokenResourceError, trio.ClosedResourceError)


@attrs.define
class TlsStats:
    """Counters since the start.

    Args:
        handshakes: Completed handshakes.
        failed: Failed handshakes.
        reloads: Certificates that replaced the first one.
        broken: Whether the files can't be used as they are now.
    """

    handshakes: int = 0
    failed: int = 0
    reloads: int = 0
    broken: bool = False


class Tls:
    """The certificate of the listener, and its encrypted connections.

    Args:
        certificate: PEM file of the certificate, with its chain.
        key: PEM file of the key; ``None``: ``certificate`` holds it.

    Raises:
        SettingsError: The files can't be used.
    """

    def __init__(self, certificate: Path, key: Path | None = None) -> None:
        self._files = (certificate, key)
        self.stats = TlsStats()
        self._opening: dict[trio.CancelScope, None] = {}  # handshakes under way, the oldest first
        self._seen = self._stamp()
        try:
            self._context = self._load()
        except (OSError, ssl.SSLError) as error:
            raise SettingsError([self._explain(error)]) from None

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        certificate, key = self._files
        # Without this, a key with a passphrase would ask for it on the terminal.
        context.load_cert_chain(certificate, key, password=lambda: "")
        return context

    def _explain(self, error: OSError | ssl.SSLError) -> str:
        names = " and ".join(str(file) for file in self._files if file is not None)
        why = getattr(error, "reason", None) or error.strerror or str(error)
        return f"server.tls_cert: {names} can't be used: {why} (HELIOGRAPH_TLS_CERT, HELIOGRAPH_TLS_KEY)"

    def _stamp(self) -> list[tuple[int, int, int] | None]:
        """Return inode, time and size of each file, which tell whether it has changed."""
        stamps: list[tuple[int, int, int] | None] = []
        for file in self._files:
            try:
                found = None if file is None else file.stat()
            except OSError:
                found = None
            stamps.append(found and (found.st_ino, found.st_mtime_ns, found.st_size))
        return stamps

    def look(self) -> None:
        """Load the files again if they have changed."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        problem: str | None = None
        try:
            self._context = self._load()
        except (OSError, ssl.SSLError) as error:
            problem = self._explain(error)
        self.stats.broken = problem is not None
        if problem is not None:
            log.error("certificate not taken over, the old one stays", reason=problem)
        else:
            self.stats.reloads += 1
            log.info("certificate taken over", file=str(self._files[0]))

    async def run(self) -> None:
        """Look every ``LOOK_SECONDS``, for ever."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            self.look()

    async def serve(self, sock: socket.socket, handle: Handle, write_timeout: float) -> None:
        """Serve an encrypted connection by ``handle``; return when it has ended.

        Args:
            sock: The connection.
            handle: Serves its plain end.
            write_timeout: Seconds after which a peer that takes no bytes is given up.
        """
        try:
            peer: str | None = str(sock.getpeername()[0])
        except OSError:
            peer = None
        stream = stream_of(sock)
        try:
            encrypted = await self._handshake(stream, peer)
            if encrypted is not None:
                await _relay(encrypted, peer, handle, write_timeout)
        finally:
            stream.socket.close()

    async def _handshake(self, stream: trio.SocketStream, peer: str | None) -> Encrypted | None:
        """Begin TLS; return ``None`` when the peer does not."""
        encrypted = trio.SSLStream(stream, self._context, server_side=True)
        if len(self._opening) >= MOST_HANDSHAKES:
            oldest = next(iter(self._opening))
            del self._opening[oldest]
            oldest.cancel()
        reason = "given up"
        with trio.move_on_after(HANDSHAKE_SECONDS) as scope:
            self._opening[scope] = None
            try:
                await encrypted.do_handshake()
            except LOST as error:
                reason = str(error.__cause__ or error)
            else:
                self.stats.handshakes += 1
                return encrypted
            finally:
                self._opening.pop(scope, None)
        self.stats.failed += 1
        log.debug("no TLS", peer=peer, reason=reason)
        return None


async def _relay(encrypted: Encrypted, peer: str | None, handle: Handle, write_timeout: float) -> None:
    """Let ``handle`` serve the plain end of a socket pair; carry bytes between the pair and the peer."""
    ours, other = socket.socketpair()
    ours.setblocking(False)
    theirs = stream_of(other)
    try:
        async with trio.open_nursery() as nursery:
            reading = _PeerReading()
            nursery.start_soon(_carry_in, encrypted, theirs, reading)
            nursery.start_soon(_carry_out, theirs, encrypted, reading, write_timeout)
            await handle(ours, peer)
    finally:
        theirs.socket.close()


@attrs.define
class _PeerReading:
    """The task that reads from the peer; it must have ended before another one shuts TLS down."""

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ended: trio.Event = attrs.field(factory=trio.Event)

    async def end(self) -> None:
        """Cancel the task and wait for its end."""
        self.scope.cancel()
        await self.ended.wait()


async def _carry_in(encrypted: Encrypted, inner: trio.SocketStream, reading: _PeerReading) -> None:
    """Carry bytes from the peer to the inner socket, then its end of file."""
    with reading.scope, suppress(*LOST):
        while data := await encrypted.receive_some(READ_BYTES):
            await inner.send_all(data)
    with suppress(OSError):
        inner.socket.shutdown(socket.SHUT_WR)
    reading.ended.set()


async def _carry_out(
    inner: trio.SocketStream, encrypted: Encrypted, reading: _PeerReading, write_timeout: float
) -> None:
    """Carry bytes from the inner socket to the peer; then shut TLS down and let the peer read to the end."""
    try:
        while data := await inner.receive_some(READ_BYTES):
            with trio.fail_after(write_timeout):
                await encrypted.send_all(data)
    except (*LOST, trio.TooSlowError) as error:
        if isinstance(error, trio.TooSlowError):
            reset_on_close(encrypted.transport_stream.socket.fileno())
        reading.scope.cancel()
        with suppress(OSError):
            inner.socket.shutdown(socket.SHUT_RDWR)
        return
    await reading.end()
    stream = encrypted.transport_stream
    with trio.move_on_after(FAREWELL_SECONDS), suppress(*LOST):
        await encrypted.unwrap()
    with trio.move_on_after(FAREWELL_SECONDS), suppress(*LOST, OSError):
        await stream.send_eof()
        while await stream.receive_some(READ_BYTES):
            pass
