"""The receive buffer of a connection: bytes that were received and not handed on yet."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import trio

from heliograph.http.wire.body import MeasuredBody
from heliograph.http.wire.head import END_OF_HEAD, HEAD_LIMIT, Head, HeadRefused, read_head

READ_BYTES = 64 * 1024


class ReceiveBuffer:
    """The received bytes of one socket, in order.

    Args:
        socket: Connected and non-blocking.

    Attributes:
        ended: Whether the peer sends no more.
    """

    __slots__ = ("_data", "_fresh", "_socket", "ended")

    def __init__(self, socket: socket.socket) -> None:
        self._socket = socket
        self._data = bytearray()
        self._fresh = True
        self.ended = False

    def __len__(self) -> int:
        return len(self._data)

    def take(self, size: int) -> bytes:
        """Take out the first ``size`` bytes, or as many as there are."""
        taken = bytes(self._data[:size])
        del self._data[:size]
        return taken

    def take_of(self, body: MeasuredBody, most: int) -> bytes:
        """Take out the first bytes that belong to the request of ``body``, about ``most`` at most."""
        return self.take(body.measure(self._data, most))

    def put_back(self, data: bytes) -> None:
        """Put ``data`` in front of all other bytes."""
        self._data[:0] = data

    async def fill(self) -> None:
        """Wait for the peer's next bytes, or its end.

        Most clients send a request right after they have connected, so the first read is tried at once.
        Later the socket is mostly empty, so those reads wait first.

        Raises:
            trio.BrokenResourceError: The peer has reset the connection.
        """
        descriptor = self._socket.fileno()
        if self._fresh:
            self._fresh = False
        else:
            await trio.lowlevel.wait_readable(descriptor)
        try:
            data = os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise trio.BrokenResourceError from error
        self._data += data
        self.ended = not data

    async def take_head(self, wanted: Callable[[], bool]) -> Head | None:
        """Wait for the head of a request and take it out.

        Args:
            wanted: Tells, after each read, whether to go on waiting.

        Returns:
            The head; ``None`` when the peer has ended, or the head is no longer wanted.

        Raises:
            HeadRefused: It can't be served.
            trio.BrokenResourceError: The peer has reset the connection.
        """
        if self._data:
            await trio.lowlevel.checkpoint()
        looked = 0
        while True:
            end = END_OF_HEAD.search(self._data, max(0, looked - 2))
            if end is not None and end.end() <= HEAD_LIMIT:
                return read_head(self.take(end.end()))
            looked = len(self._data)
            if looked > HEAD_LIMIT:
                raise HeadRefused(431, f"the head of the request has more than {HEAD_LIMIT} bytes")
            # The first byte gives away TLS and other noise at once.
            if looked and not self._data[:1].isalpha():
                raise HeadRefused(400, "this is not HTTP/1.1")
            if self.ended and looked:
                raise HeadRefused(400, "the head of the request did not come whole, or not in time")
            if self.ended or not wanted():
                return None
            await self.fill()

    async def wait_for(self, size: int) -> bool:
        """Wait until ``size`` bytes are there; false if the peer ended before."""
        while len(self._data) < size and not self.ended:
            await self.fill()
        return len(self._data) >= size
