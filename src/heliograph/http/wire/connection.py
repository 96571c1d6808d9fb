"""One accepted connection: who serves each of its requests, and how a stream takes it over.

Most requests are hypercorn's and Quart's: its per-connection engine is given this object instead of the
socket's stream. But an engine, its tasks and Quart's contexts cost milliseconds, and a few requests come
by the thousand: events that are published, and the handshakes of streams. So the head of every request
is looked at here before anybody else reads it. One that has a shortcut is served by a plain function
(see ``shortcuts``) in the connection's own task; any other, and any that leaves a doubt, goes to
hypercorn, which then reads end of file as soon as the next request has a shortcut again. What is read and
not handed on stays here, so no byte is lost whoever reads next, and hypercorn is never given more than
one request at a time: what was pipelined behind it waits until it is answered. Only where a request does not
say in plain words where it ends (chunks with extensions, say) hypercorn has the rest of the connection for
itself. A head that can't be served is refused here, and HTTP/2 with it (see ``head``).

A stream takes its connection over for good: by its shortcut, or by an ordinary route that calls
``detach``. From that moment hypercorn reads end of file and what it still wants to write is
swallowed, so its tasks and Quart's contexts end and free their memory, while the socket lives on and
``server`` goes on with the successor in the same task. What the peer sends right behind its WebSocket
handshake is the successor's; hypercorn would answer it with 400 before the route has run.

Three things that hypercorn 0.18 does not do happen here. Its writes are shielded and without a
deadline, so ``send_all`` bounds them. It cannot be interrupted in a read: a scope around each of its reads
lets ``detach`` do so, without losing a byte. And its own idle timer is lost when a response ends under
quart-trio (the end of the request cancels the task that would start the timer): so each connection has a
moment (``due``) by which the head of a request must be complete, and which neither silence nor a head that
trickles in can push back. A sweeper looks at it. Whose moment has come has its reading half shut down: what
had arrived by then is still served, and behind it whoever reads finds the end, without a scope and a timer
for every read.
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
from heliograph.http.wire.inbox import READ_BYTES, Inbox

BUFFER_BYTES = 128 * 1024
"""What may wait behind a request that hypercorn serves; the rest stays in the socket."""

SHORT_BODY_BYTES = 64 * 1024
SHORT_BODY_SECONDS = 1.0
"""A body that is larger or slower takes no shortcut: hypercorn reads it bit by bit."""

WRITE_BYTES = 64 * 1024
"""What a peer must take within the write timeout: a slow one is served, a stalled one is not."""

LINGER_SECONDS = 2.0

_FINAL_HEAD = re.compile(rb"HTTP/1\.[01] [2-5]")


class Served(Protocol):
    """What goes on with a connection after hypercorn."""

    async def serve(self, early: bytes) -> None:
        """Serve it to its end, beginning with what the peer has already sent."""
        ...


Successor = Callable[[socket.socket], Served]
"""Makes what serves the connection from now on; who needs the socket for longer detaches its descriptor."""

Shortcut = Callable[[Head, bytes], Awaitable[bytes | Successor | None]]
"""Serves a request given its head and its whole body: the answer's bytes, or who takes the connection
over, or ``None``, when hypercorn and the app must serve it after all."""

current: ContextVar[Connection] = ContextVar("connection")


def peer_address() -> str | None:
    """Return the address of the peer whose request is served; ``None`` if it is not known any more."""
    connection = current.get(None)
    if connection is None:
        return None
    if connection.peer is not None:
        return connection.peer
    try:
        return str(connection.socket.getpeername()[0])
    except OSError:
        return None


"""The connection that the running task serves; routes find it here."""


def stream_of(sock: socket.socket) -> trio.SocketStream:
    """Make Trio's stream of a connection, for what needs one; most connections never do."""
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
"""In which hypercorn's reading may go on; in any other it reads the end of file."""

TAKEN = (Phase.SHORT, Phase.STREAM, Phase.REFUSED)
"""In which what hypercorn still writes is swallowed."""

OVER = (Phase.STREAM, Phase.REFUSED, Phase.CLOSED)
"""In which no request is to be served any more. (In a set a member's hash would be a Python call.)"""


class Connection:
    """A stream for hypercorn that gives it some requests and can be taken away from it.

    Args:
        sock: The accepted connection, which doesn't block.
        write_timeout: Seconds after which a peer that takes no bytes is given up.
        idle_timeout: Seconds from the end of a request by which the head of the next must be complete.
        has_shortcut: Tells whether a request may be served without hypercorn.
        peer: The peer's address, where the socket does not know it.

    Attributes:
        phase: Where it stands.
        due: When it has been without a request for too long.
        successor: What makes the stream that takes it over.
        refused: Why the last head was.
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
        self._inbox = Inbox(sock)
        self._body: MeasuredBody = SizedBody(0)  # of the request that hypercorn is given
        self._short: tuple[Head, bytes] | None = None
        self._reading: trio.CancelScope | None = None  # in which hypercorn waits
        self._last = False  # hypercorn closes after it
        self._busy = self._stopping = False
        self._unsent = b""

    # Time

    @contextmanager
    def request(self) -> Iterator[None]:
        """Mark a request as under way: until it has ended, silence is no reason to close."""
        self.begin()
        try:
            yield
            if self.phase is Phase.ENGINE:  # after an error hypercorn has still to close
                self.phase = Phase.ANSWERED
            if len(self._inbox):
                self._interrupt()  # what waits may be the next request
        finally:
            self.end()

    def begin(self) -> None:
        """Mark a request as under way; ``request`` does so for hypercorn."""
        self._busy = True
        self.due = math.inf

    def end(self) -> None:
        """Mark it as ended."""
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
        """Close, since no request has come; called by the sweeper when ``due`` has come."""
        self._read_no_more()

    def _read_no_more(self) -> None:
        self.due = math.inf
        if self.phase is not Phase.STREAM:
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RD)

    # Taking it away from hypercorn

    def detach(self, successor: Successor) -> None:
        """Take the connection away from hypercorn; what ``successor(stream)`` makes serves it next."""
        self.successor = successor
        self.phase = Phase.STREAM
        self._interrupt()

    def _interrupt(self) -> None:
        """Have hypercorn look again what there is to read."""
        if self._reading is not None:
            self._reading.cancel()

    def take_early(self) -> bytes:
        """Return what was read and not handed on."""
        return self._inbox.take(len(self._inbox))

    # Reading

    @property
    def over(self) -> bool:
        """Whether no request is to be served any more."""
        if self.phase in OVER:
            return True
        return self._inbox.ended and not len(self._inbox) and self.phase is not Phase.SHORT

    async def next_short(self) -> tuple[Head, bytes] | None:
        """Wait for a request; ``None`` if it has no shortcut: hypercorn reads it, unless all is ``over``."""
        if self.phase is Phase.HEAD:
            await self._next()
        if self.phase is not Phase.SHORT:
            return None
        short, self._short, self.phase = self._short, None, Phase.HEAD
        return short

    def decline(self, head: Head, body: bytes) -> None:
        """Give a request that ``next_short`` returned to hypercorn."""
        self._inbox.put_back(body)
        self._hand_on(head)

    async def _next(self) -> None:
        """Wait for the next request and decide who is to serve it."""
        try:
            head = await self._inbox.take_head(lambda: self.phase is Phase.HEAD)
        except HeadRefused as refused:
            self.refused = refused
            self.phase = Phase.REFUSED
            return
        if head is None:
            if self.phase is Phase.HEAD:
                self.phase = Phase.CLOSED
        elif head.plain and self._has_shortcut(head) and await self._body_comes(head.length or 0):
            self._short = head, self._inbox.take(head.length or 0)
            self.phase = Phase.SHORT
        else:
            self._hand_on(head)

    def _hand_on(self, head: Head) -> None:
        self._inbox.put_back(head.raw)
        self._body, self._last = head.body(), head.closes
        self.phase = Phase.HANDSHAKE if head.upgrades else Phase.ENGINE

    async def _body_comes(self, length: int) -> bool:
        """Wait a little for the body of a request with a shortcut; tell whether it has come."""
        if len(self._inbox) >= length:
            return True
        if length > SHORT_BODY_BYTES:
            return False
        self.begin()
        try:
            with trio.move_on_after(SHORT_BODY_SECONDS):
                return await self._inbox.wait_for(length)
        finally:
            self.end()
        return False

    # What hypercorn calls

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Read for hypercorn: end of file once the connection is taken away or closed."""
        while self.phase in HYPERCORNS:
            if data := self._inbox.take_of(self._body, max_bytes or READ_BYTES):
                return data
            if self._inbox.ended:
                break
            with trio.CancelScope() as self._reading:
                await self._wait_for_more()
        await trio.lowlevel.checkpoint()
        return b""

    async def _wait_for_more(self) -> None:
        """Wait for what hypercorn may be given next."""
        if self.phase is Phase.ANSWERED and self._body.ended and not self._last:
            self.phase = Phase.HEAD
        if self.phase is Phase.HEAD:
            await self._next()
        elif len(self._inbox) < BUFFER_BYTES:
            await self._inbox.fill()
        else:
            await trio.sleep_forever()  # what the peer sends now is for later

    async def send_all(self, data: bytes) -> None:
        """Write for hypercorn: nothing once it was taken away, and no part longer than the write timeout."""
        if self._is_taken:
            return
        if _FINAL_HEAD.match(data) and not self._unsent:
            # hypercorn writes head, body and end one by one: the head goes out with what follows it.
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
        """Write, no part longer than the write timeout.

        Raises:
            trio.BrokenResourceError: The peer is gone or takes nothing.
        """
        if rest := self._send_at_once(data):
            await self._send_rest(rest)

    def _send_at_once(self, data: bytes) -> bytes:
        """Write what the socket takes now, without the cost of a scope; return the rest."""
        try:
            return data[os.write(self.socket.fileno(), data) :]
        except BlockingIOError:
            return data
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def _send_rest(self, data: bytes) -> None:
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
        """End all reading and writing at once, that which is shielded too; what was not taken is forgotten.

        The descriptor stays open until its owner closes it: another's could get its number meanwhile.
        """
        with suppress(OSError):
            reset_on_close(self.socket.fileno())
            self.socket.shutdown(socket.SHUT_RDWR)

    def _shut_down(self) -> None:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    async def linger(self) -> None:
        """Let a peer that is still sending read the answer before the closing resets its connection."""
        self._shut_down()
        stream = stream_of(self.socket)
        with trio.move_on_after(LINGER_SECONDS), suppress(trio.BrokenResourceError):
            while await stream.receive_some(WRITE_BYTES):
                pass
