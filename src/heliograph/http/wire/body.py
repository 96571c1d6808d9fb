"""Finding the end of a request's body, so that the bytes after it can be kept back.

A connection hands a request to hypercorn piece by piece, and no byte more. Each class here measures how many
of the received bytes belong to the request, its head included. It never changes a byte.
"""

from __future__ import annotations

import re
from typing import Protocol

SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
BEGUN_SIZE_LINE = re.compile(rb"[0-9A-Fa-f]{0,8}\r?")


class MeasuredBody(Protocol):
    """The part of a request that has not been handed on yet."""

    @property
    def ended(self) -> bool:
        """Whether the whole request was measured."""
        ...

    def measure(self, data: bytearray, most: int) -> int:
        """Measure the next bytes: return how many of ``data`` belong to it, about ``most`` at most."""
        ...


class SizedBody:
    """A body whose length the head gives.

    Args:
        left: Length of head and body together, in bytes.
    """

    __slots__ = ("_left",)

    def __init__(self, left: int) -> None:
        self._left = left

    @property
    def ended(self) -> bool:
        """Whether the whole request was measured."""
        return not self._left

    def measure(self, data: bytearray, most: int) -> int:
        """Measure the next bytes; see ``MeasuredBody``."""
        size = min(len(data), self._left, most)
        self._left -= size
        return size


class ChunkedBody:
    """A chunked body of the plain form: no extensions, no trailers (RFC 9112, section 7.1).

    Where a body of another form ends is doubtful. It then never ends here: hypercorn, which parses the chunks
    itself, gets the rest of the connection.

    Args:
        head: Length of the head, which comes first, in bytes.
    """

    __slots__ = ("_doubtful", "_left", "_next_is_size", "ended")

    def __init__(self, head: int) -> None:
        self._left = head
        self._next_is_size = True
        self._doubtful = False
        self.ended = False

    def measure(self, data: bytearray, most: int) -> int:
        """Measure the next bytes; see ``MeasuredBody``."""
        at, end = 0, len(data)
        while at < min(end, most) and not self.ended:
            if self._doubtful:
                return min(end, most)
            if self._left:
                step = min(self._left, end - at, most - at)
                self._left -= step
                at += step
            elif self._next_is_size:
                line = SIZE_LINE.match(data, at, end)
                if line is None:
                    if BEGUN_SIZE_LINE.fullmatch(data, at, end):
                        break
                    self._doubtful = True
                else:
                    at = line.end()
                    size = int(line[1], 16)
                    self._left = size + 2 if size else 0  # with the line end behind it
                    self._next_is_size = size > 0
            elif end - at < 2:
                break
            elif data[at : at + 2] == b"\r\n":
                at += 2
                self.ended = True
            else:  # trailers
                self._doubtful = True
        return at
