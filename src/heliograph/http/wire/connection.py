"""One accepted connection: who serves each of its requests, and how a stream takes it over.

Most requests are served by hypercorn and Quart: hypercorn's per-connection engine is given this object
instead of the socket's stream. But an engine, its tasks and Quart's contexts cost milliseconds, and a few
requests come by the thousand: published events, and the handshakes of streams. So the connection reads the
head of every request before anybody else. A request that has a shortcut is served by a plain function (see
``shortcuts``) in the connection's own task. Any other request, and any doubtful one, goes to hypercorn, which
reads end of file as soon as the next request has a shortcut again. Bytes that were read and not handed on
stay here, so no byte is lost whoever reads next. hypercorn is given one request at a time: pipelined requests
wait until it is answered. Only where the end of a request is doubtful (chunks with extensions, say) does
hypercorn get the rest of the connection. A head that can't be served is refused here, HTTP/2 among them (see
``head``).

A stream takes its connection over for good: by its shortcut, or by an ordinary route that calls
``detach``. From then on hypercorn reads end of file and its writes are swallowed, so its tasks and Quart's
contexts end and free their memory. The socket lives on, and ``server`` goes on with the successor in the same
task. Bytes that the peer sends right after its WebSocket handshake go to the successor; hypercorn would
answer them with 400 before the route has run.

Three things that hypercorn 0.18 does not do happen here. Its writes are shielded and have no deadline, so
``send_all`` bounds them. Its reads can't be interrupted, so a scope around each lets ``detach`` do so without
losing a byte. And its own idle timer is lost when a response ends under quart-trio (the end of the request
cancels the task that would start the timer), so each connection has a deadline (``due``) for a complete head,
which neither silence nor a head that trickles in can push back. A sweeper looks at it. When it has passed,
the reading half of the socket is shut down: bytes that had arrived are still served, and the next read finds
the end. No read needs a scope and a timer for that.
"""

from __future__ import annotations

import math
import os
import re
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from enum import Enum
from typing import Protocol

import trio

from heliograph.http.wire.body import MeasuredBody, SizedBody
from heliograph.http.wire.descriptor import reset_on_close
from heliograph.http.wire.head import Head, HeadRefused
from heliograph.http.wire.receive_buffer import READ_BYTES, ReceiveBuffer

BUFFER_BYTES = 128 * 1024
"""The most bytes that are buffered after a request that hypercorn serves; the rest stays in the socket."""

SHORT_BODY_BYTES = 64 * 1024
SHORT_BODY_SECONDS = 1.0
"""A body that is larger or slower takes no shortcut; hypercorn reads it bit by bit."""

WRITE_BYTES = 64 * 1024
"""The bytes that a peer must take within the write timeout: a slow peer is served, a stalled one is not."""

LINGER_SECONDS = 2.0

_FINAL_HEAD = re.compile(rb"HTTP/1\.[01] [2-5]")


class Served(Protocol):
    """What serves a connection that was taken over."""

    async def serve(self, early: bytes) -> None:
        """Serve the connection to its end; ``early`` is what the peer has already sent."""
        ...


Successor = Callable[[socket.socket], Served]
"""Makes what serves the connection from now on; it detaches the socket's descriptor to keep it for longer."""

Shortcut = Callable[[Head, bytes], Awaitable[bytes | Successor | None]]
"""Serves a request, given its head and its whole body. Returns the answer's bytes, the successor that takes
the connection over, or ``None`` when hypercorn and the app must serve the request after all."""

current: ContextVar[Connection] = ContextVar("connection")
"""The connection that the running task serves; routes find it here."""


def peer_address() -> str | None:
    """Return the address of the current request's peer; ``None`` if it is no longer known."""
    connection = current.get(None)
    if connection is None:
        return None
    if connection.peer is not None:
        return connection.peer
    try:
        return str(connection.socket.getpeername()[0])
    except OSError:
        return None


def stream_of(sock: socket.socket) -> trio.SocketStream:
    """Wrap a socket in Trio's stream, for callers that need one; most connections never do."""
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


class Phase(Enum):
    """Where a connection stands."""

    HEAD = "the head of the next request is awaited"
    SHORT = "a request waits for its shortcut"
    ENGINE = "hypercorn serves a request"
    ANSWERED = "hypercorn has answered, and may still be given the rest of the body"
    HANDSHAKE = "hypercorn serves a handshake; what is behind it is the stream's"
    STREAM = "a stream takes it over"
    REFUSED = "a head was refused; the answer is the last"
    CLOSED = "nothing more is served"


HYPERCORNS = (Phase.HEAD, Phase.ENGINE, Phase.ANSWERED, Phase.HANDSHAKE)
"""Phases in which hypercorn may read on; in any other it reads end of file."""

TAKEN = (Phase.SHORT, Phase.STREAM, Phase.REFUSED)
"""Phases in which hypercorn's writes are swallowed."""

OVER = (Phase.STREAM, Phase.REFUSED, Phase.CLOSED)
"""Phases in which no more requests are served. (In a set a member's hash would be a Python call.)"""


class Connection:
    """A stream for hypercorn that gives it some requests and can be taken away from it.

    Args:
        sock: The accepted connection, which doesn't block.
        write_timeout: Seconds after which a peer that takes no bytes is given up.
        idle_timeout: Seconds from the end of a request by which the head of the next must be complete.
        has_shortcut: Tells whether a request may be served without hypercorn.
        peer: The peer's address, where the socket does not know it.

    Attributes:
        phase: Where the connection stands.
        due: Trio time by which the next head must be complete.
        successor: Makes the stream that takes the connection over.
        refused: Why the last head was refused.
    """

    def __init__(
        self,
        sock: socket.socket,
        write_timeout: float,
        idle_timeout: float,
        has_shortcut: Callable[[Head], bool],
        peer: str | None = None,
    ) -> None:
        self.peer = peer
        self.socket = sock
        self.phase = Phase.HEAD
        self.successor: Successor | None = None
        self.refused: HeadRefused | None = None
        self.due = trio.current_time() + idle_timeout
        self._write_timeout = write_timeout
        self._idle_timeout = idle_timeout
        self._has_shortcut = has_shortcut
        self._received = ReceiveBuffer(sock)
        self._body: MeasuredBody = SizedBody(0)  # of the request that hypercorn is given
        self._short: tuple[Head, bytes] | None = None
        self._reading: trio.CancelScope | None = None  # around hypercorn's read
        self._last = False  # whether hypercorn closes after this request
        self._busy = self._stopping = False
        self._unsent = b""

    # Time

    @contextmanager
    def request(self) -> Iterator[None]:
        """Mark a request as under way: until it has ended, silence is no reason to close."""
        self.begin()
        try:
            yield
            if self.phase is Phase.ENGINE:  # not CLOSED: after an error hypercorn has yet to close
                self.phase = Phase.ANSWERED
            if len(self._received):
                self._interrupt()  # what waits may be the next request
        finally:
            self.end()

    def begin(self) -> None:
        """Mark a request as under way; ``request`` does so for hypercorn."""
        self._busy = True
        self.due = math.inf

    def end(self) -> None:
        """Mark the request as ended; the idle deadline starts anew."""
        self._busy = False
        if self.phase is Phase.STREAM:
            return
        self.due = trio.current_time() + self._idle_timeout
        if self._stopping:
            self._read_no_more()

    def stop(self) -> None:
        """Close as soon as no request is under way."""
        self._stopping = True
        if not self._busy:
            self._read_no_more()

    def sweep(self, now: float) -> None:
        """Read no more, since no request came; called by the sweeper once ``due`` has passed."""
        self._read_no_more()

    def _read_no_more(self) -> None:
        self.due = math.inf
        if self.phase is not Phase.STREAM:
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RD)

    # Taking it away from hypercorn

    def detach(self, successor: Successor) -> None:
        """Take the connection away from hypercorn; what ``successor(socket)`` makes serves it next."""
        self.successor = successor
        self.phase = Phase.STREAM
        self._interrupt()

    def _interrupt(self) -> None:
        """Interrupt hypercorn's read, so that it looks again at the phase and what was received."""
        if self._reading is not None:
            self._reading.cancel()

    def take_early(self) -> bytes:
        """Take the bytes that were read and not handed on."""
        return self._received.take(len(self._received))

    # Reading

    @property
    def over(self) -> bool:
        """Whether no more requests are served."""
        if self.phase in OVER:
            return True
        return self._received.ended and not len(self._received) and self.phase is not Phase.SHORT

    async def next_short(self) -> tuple[Head, bytes] | None:
        """Wait for a request and return it if it has a shortcut.

        Returns:
            Head and body; ``None`` when hypercorn must read the request, or the connection is ``over``.
        """
        if self.phase is Phase.HEAD:
            await self._next()
        if self.phase is not Phase.SHORT:
            return None
        short, self._short, self.phase = self._short, None, Phase.HEAD
        return short

    def decline(self, head: Head, body: bytes) -> None:
        """Pass a request that ``next_short`` returned on to hypercorn."""
        self._received.put_back(body)
        self._hand_on(head)

    async def _next(self) -> None:
        """Wait for the next request and decide who serves it."""
        try:
            head = await self._received.take_head(lambda: self.phase is Phase.HEAD)
        except HeadRefused as refused:
            self.refused = refused
            self.phase = Phase.REFUSED
            return
        if head is None:
            if self.phase is Phase.HEAD:
                self.phase = Phase.CLOSED
        elif not (head.plain and self._has_shortcut(head)):
            self._hand_on(head)
        elif len(self._received) >= (length := head.length or 0) or await self._body_comes(length):
            self._short = head, self._received.take(length)
            self.phase = Phase.SHORT
        else:
            self._hand_on(head)

    def _hand_on(self, head: Head) -> None:
        self._received.put_back(head.raw)
        self._body, self._last = head.body(), head.closes
        self.phase = Phase.HANDSHAKE if head.upgrades else Phase.ENGINE

    async def _body_comes(self, length: int) -> bool:
        """Wait up to ``SHORT_BODY_SECONDS`` for a shortcut's body; tell whether it has come."""
        if length > SHORT_BODY_BYTES:
            return False
        self.begin()
        try:
            with trio.move_on_after(SHORT_BODY_SECONDS):
                return await self._received.wait_for(length)
        finally:
            self.end()
        return False

    # What hypercorn calls

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Read for hypercorn; end of file once the connection is taken away or closed."""
        while self.phase in HYPERCORNS:
            if data := self._received.take_of(self._body, max_bytes or READ_BYTES):
                return data
            if self._received.ended:
                break
            with trio.CancelScope() as self._reading:
                await self._wait_for_more()
        await trio.lowlevel.checkpoint()
        return b""

    async def _wait_for_more(self) -> None:
        """Wait until there may be bytes for hypercorn, or the phase has changed."""
        if self.phase is Phase.ANSWERED and self._body.ended and not self._last:
            self.phase = Phase.HEAD
        if self.phase is Phase.HEAD:
            await self._next()
        elif len(self._received) < BUFFER_BYTES:
            await self._received.fill()
        else:
            await trio.sleep_forever()  # enough is buffered; more stays in the socket

    async def send_all(self, data: bytes) -> None:
        """Write for hypercorn; nothing once the connection was taken away.

        Each piece of ``WRITE_BYTES`` has the write timeout as its deadline.
        """
        if self._is_taken:
            return
        if _FINAL_HEAD.match(data) and not self._unsent:
            # hypercorn writes head, body and end one by one: the head goes out with the first bytes after it.
            self._unsent = data
            return
        data, self._unsent = self._unsent + data, b""
        if data:
            await self.answer(data)

    async def send_eof(self) -> None:
        """Close the writing side, unless the connection was taken away; without a checkpoint."""
        if not self._is_taken:
            self._shut_down()

    async def aclose(self) -> None:
        """Read and write no more for hypercorn, unless the connection was taken away; without a checkpoint.

        The task in which hypercorn closes has mostly been cancelled by the end of its own response.
        """
        if not self._is_taken:
            self.phase = Phase.CLOSED
            self._interrupt()

    @property
    def _is_taken(self) -> bool:
        return self.phase in TAKEN

    # Writing and ending

    async def answer(self, data: bytes) -> None:
        """Write; each piece of ``WRITE_BYTES`` has the write timeout as its deadline.

        Raises:
            trio.BrokenResourceError: The peer is gone or takes nothing.
        """
        if rest := self._send_at_once(data):
            await self._send_rest(rest)

    def _send_at_once(self, data: bytes) -> bytes | memoryview:
        """Write what the socket takes now, without the cost of a cancel scope; return the rest."""
        try:
            sent = os.write(self.socket.fileno(), data)
            return b"" if sent == len(data) else memoryview(data)[sent:]
        except BlockingIOError:
            return data
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def _send_rest(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        stream = stream_of(self.socket)
        try:
            for start in range(0, len(view), WRITE_BYTES):
                with trio.fail_after(self._write_timeout):
                    await stream.send_all(view[start : start + WRITE_BYTES])
        except trio.TooSlowError:
            reset_on_close(self.socket.fileno())
            raise trio.BrokenResourceError("the peer takes no bytes") from None

    def abort(self) -> None:
        """End all reading and writing at once, shielded ones too; bytes that the peer has not taken are lost.

        The descriptor stays open until its owner closes it, so that its number can't be reused meanwhile.
        """
        with suppress(OSError):
            reset_on_close(self.socket.fileno())
            self.socket.shutdown(socket.SHUT_RDWR)

    def _shut_down(self) -> None:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    async def linger(self) -> None:
        """Let a peer that is still sending read the answer before the close resets the connection."""
        self._shut_down()
        stream = stream_of(self.socket)
        with trio.move_on_after(LINGER_SECONDS), suppress(trio.BrokenResourceError):
            while await stream.receive_some(WRITE_BYTES):
                pass
