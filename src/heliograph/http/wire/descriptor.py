"""Operations on a connected socket of which only the descriptor is kept.

The objects around a socket take more memory than everything else of a quiet stream. Whatever is not plain
reading or writing is done here, by way of a socket object that lives for a moment.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import trio

CLOSED = -1
"""The descriptor of a socket that was closed."""


def shut_down_writing(descriptor: int) -> None:
    """Shut down the writing half, so that the peer reads end of file.

    Raises:
        OSError: The peer is gone.
    """
    with _socket_of(descriptor) as sock:
        sock.shutdown(socket.SHUT_WR)


def reset_on_close(descriptor: int) -> None:
    """Have ``close`` discard at once the bytes that the peer has not taken.

    Otherwise the kernel keeps them, which can be megabytes, for as long as a stalled peer likes.
    """
    with _socket_of(descriptor) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def close(descriptor: int) -> None:
    """Close the descriptor; tasks that wait for it get ``trio.ClosedResourceError``."""
    trio.lowlevel.notify_closing(descriptor)
    os.close(descriptor)


@contextmanager
def _socket_of(descriptor: int) -> Iterator[socket.socket]:
    # Given a family, it asks the kernel nothing; no operation here depends on the family.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=descriptor)
    try:
        yield sock
    finally:
        sock.detach()
