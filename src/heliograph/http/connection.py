"""One accepted connection, and how a stream takes it over from hypercorn.

hypercorn's per-connection engine is given this object instead of the socket's stream. For an ordinary
request it passes everything through. A stream route does its handshake as an ordinary route and then
calls ``detach``: from that moment hypercorn reads end of file and what it still wants to write is
swallowed, so its tasks and Quart's contexts end and free their memory, while the socket lives on and
``server`` goes on with the successor in the same task.

Four things that hypercorn 0.18 does not do happen here. Its writes are shielded and without a
deadline, so ``send_all`` bounds them. Bytes that a peer sends right behind its WebSocket handshake
would be answered with 400, since hypercorn parses them before the route has run: everything behind the
head of an upgrade request is kept back and handed on to the successor. And it cannot be interrupted in
a read: a scope around each read lets ``detach`` do so, without losing a byte. And its own idle timer is
lost when a response ends under quart-trio (the end of the request cancels the task that would start the
timer): the same scope has a deadline while no request is under way, which neither silence nor a head that
trickles in can push back.
"""

from __future__ import annotations

import math
import os
import re
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Protocol

import trio

HEAD_LIMIT = 64 * 1024
WRITE_BYTES = 64 * 1024
"""What a peer must take within the write timeout: a slow one is served, a stalled one is not."""

LINGER_SECONDS = 2.0

_FINAL_HEAD = re.compile(rb"HTTP/1\.[01] [2-5]")
_UPGRADE = re.compile(rb"\r\nupgrade:[ \t]*websocket[ \t]*\r\n", re.IGNORECASE)


class Served(Protocol):
    """What goes on with a connection after hypercorn."""

    async def serve(self, early: bytes) -> None:
        """Serve it to its end, beginning with what the peer has already sent."""
        ...


Successor = Callable[[trio.SocketStream], Served]

current: ContextVar[Connection] = ContextVar("connection")
"""The connection that the running task serves; routes find it here."""


def reset_on_close(sock: trio.socket.SocketType) -> None:
    """Make the closing of a socket forget at once what its peer has not taken.

    Otherwise the kernel keeps it, megabytes of it, and offers it for as long as a stalled peer likes.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Connection:
    """A stream for hypercorn that can be taken away from it.

    Args:
        stream: The accepted TCP stream.
        write_timeout: Seconds after which a peer that takes no bytes is given up.
        idle_timeout: Seconds from the end of a request by which the head of the next must be complete.
    """

    def __init__(self, stream: trio.SocketStream, write_timeout: float, idle_timeout: float) -> None:
        self.socket = stream.socket
        self.successor: Successor | None = None
        self._stream = stream
        self._write_timeout = write_timeout
        self._head = b""
        self._unsent = b""
        self._early = b""
        self._upgrading = False
        self._closed = False
        self._reading: trio.CancelScope | None = None
        self._requests = 0
        self._stopping = False
        self._idle_timeout = idle_timeout
        self._idle_deadline = trio.current_time() + idle_timeout

    @contextmanager
    def request(self) -> Iterator[None]:
        """Mark a request as under way: until it has ended, silence is no reason to close."""
        self._requests += 1
        self._set_deadline()
        try:
            yield
        finally:
            self._requests -= 1
            self._idle_deadline = trio.current_time() + self._idle_timeout
            self._set_deadline()

    def stop(self) -> None:
        """Close as soon as no request is under way."""
        self._stopping = True
        self._set_deadline()

    def _set_deadline(self) -> None:
        if self._reading is not None:
            self._reading.deadline = self._deadline

    @property
    def _deadline(self) -> float:
        if self._requests:
            return math.inf
        return -math.inf if self._stopping else self._idle_deadline

    def detach(self, successor: Successor) -> None:
        """Take the connection away from hypercorn; what ``successor(stream)`` makes serves it next."""
        self.successor = successor
        if self._reading is not None:
            self._reading.cancel()

    def take_early(self) -> bytes:
        """Return the bytes that came behind the head of an upgrade request."""
        early, self._early = self._early, b""
        return early

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Read for hypercorn: end of file once detached or closed."""
        if self.successor is not None or self._closed:
            await trio.lowlevel.checkpoint()
            return b""
        data = b""
        with trio.CancelScope(deadline=self._deadline) as self._reading:
            if self._upgrading:
                await trio.sleep_forever()  # what the peer sends now is for the successor
            data = bytes(await self._stream.receive_some(max_bytes))
        self._reading = None
        if self.successor is not None:
            self._early += data
            return b""
        return self._keep_back(data)

    def _keep_back(self, data: bytes) -> bytes:
        """Pass a chunk on up to the end of the head, if it is (part of) an upgrade request."""
        if not (self._head or data.startswith(b"GET "[: len(data)])):
            return data
        before = len(self._head)
        self._head += data
        end = self._head.find(b"\r\n\r\n", max(0, before - 3))
        if end < 0:
            if len(self._head) > HEAD_LIMIT:
                self._head = b""
            return data
        head, rest = self._head[: end + 4], self._head[end + 4 :]
        self._head = b""
        if not _UPGRADE.search(head):
            return data
        self._upgrading = True
        self._early = rest
        return head[before:]

    async def send_all(self, data: bytes) -> None:
        """Write for hypercorn: nothing once detached, and no part longer than the write timeout."""
        if self.successor is not None:
            return
        if _FINAL_HEAD.match(data) and not self._unsent:
            # hypercorn writes head, body and end one by one: the head goes out with what follows it.
            self._unsent = data
            return
        data, self._unsent = self._unsent + data, b""
        if data and (rest := self._send_at_once(data)):
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
        try:
            for start in range(0, len(view), WRITE_BYTES):
                with trio.fail_after(self._write_timeout):
                    await self._stream.send_all(view[start : start + WRITE_BYTES])
        except trio.TooSlowError:
            reset_on_close(self.socket)
            raise trio.BrokenResourceError("the peer takes no bytes") from None

    async def send_eof(self) -> None:
        """Close the writing side, unless the connection was taken away; without a checkpoint."""
        if self.successor is None:
            with suppress(OSError):
                self.socket.shutdown(trio.socket.SHUT_WR)

    async def aclose(self) -> None:
        """Read and write no more for hypercorn, unless the connection was taken away; without a checkpoint.

        The task in which hypercorn closes has mostly been cancelled by the end of its own response.
        """
        if self.successor is None:
            self._upgrading = False
            self._closed = True
            if self._reading is not None:
                self._reading.cancel()

    async def linger(self) -> None:
        """Let a peer that is still sending read the answer before the closing resets its connection."""
        with trio.move_on_after(LINGER_SECONDS), suppress(trio.BrokenResourceError):
            while await self._stream.receive_some(WRITE_BYTES):
                pass
