"""The parking lot: one task that reads the sockets of all streams, so that an idle stream needs no task.

A stream's peer is silent nearly all the time. A task that waits for one socket costs 3.7 KiB, twice as much
as the rest of the stream; a descriptor in an epoll set costs a few hundred bytes of kernel memory. So a
stream that has taken its connection over hands its descriptor in here, and its task ends. All descriptors are
in one epoll set, which is itself a descriptor: the lot waits until the set is readable, then asks it which
sockets are.

*Calls must not wait.* The peer's bytes go to the stream by a plain call (``Parked.on_data``). Work that waits
(a replay, the flushing of a full socket, an answer) is started in a task of its own. Where the peer's next
bytes must wait for that work, the stream is put on hold, and they stay in the socket.

*Bites.* The lot takes a few sockets at a time and reads one piece from each; then all other tasks have a
turn. The set is level-triggered: a socket with more to read is reported again, behind the others.

*Descriptors are reused.* The number of a closed descriptor may belong to another stream a moment later. So a
stream leaves the lot before its descriptor is closed, and a bite is handled without an await: a descriptor
that is no longer here when its turn comes was closed in the same bite, and no other can have taken its
number.

*Errors.* An error of the peer ends its connection. A bug in one of the calls ends that stream alone, with its
traceback in the log, like any bug while one connection is served.

*Two forms.* Where the system has no epoll, each stream is read in its connection's own task (``TaskLot``).
``open_lot`` is the only place that knows.

*Refused alternatives.* Edge-triggered events: fewer wakings, but each socket would have to be emptied at
once, or remembered. Trio's own epoll set: its only waiters are tasks.
"""

from __future__ import annotations

import os
import select
from typing import Protocol

import structlog
import trio

READ_BYTES = 4096
"""The most bytes that are read from one socket before the others have their turn."""

BITE_SOCKETS = 16
"""The most sockets that are read before all other tasks have a turn."""

log = structlog.get_logger(__name__)


class Parked(Protocol):
    """A stream, as the lot sees it."""

    def on_data(self, data: bytes) -> bool:
        """Act on bytes from the peer; return whether to go on reading."""
        ...

    def gone(self) -> None:
        """Clean up and close the descriptor, since nothing more will be read."""
        ...


class Lot(Protocol):
    """Reads the sockets of all streams."""

    async def keep(self, descriptor: int, parked: Parked, early: bytes = b"") -> None:
        """Read a socket until its stream is gone: in the calling task, or after this has returned.

        Args:
            descriptor: A connected socket that doesn't block.
            parked: The stream of the socket; it closes the descriptor.
            early: The peer's first bytes, already read.
        """
        ...

    def hold(self, descriptor: int) -> None:
        """Stop reading a socket for now."""
        ...

    def resume(self, descriptor: int) -> None:
        """Read a socket again that was put on hold; harmless if its stream is gone."""
        ...

    def leave(self, descriptor: int) -> None:
        """Forget a descriptor that is about to be closed; harmless if it is not here."""
        ...

    async def left(self) -> None:
        """Wait until all streams have gone that are read without a task of their own."""
        ...

    async def run(self) -> None:
        """Read until cancelled; then end all streams that are still here."""
        ...


def open_lot() -> Lot:
    """Make the form of the lot that this system has."""
    return EpollLot() if hasattr(select, "epoll") else TaskLot()


def _read(descriptor: int, parked: Parked) -> None:
    """Read one piece from a socket and pass it to its stream."""
    try:
        data = os.read(descriptor, READ_BYTES)
    except BlockingIOError:
        return
    except OSError:
        data = b""
    _hand_over(parked, data)


def _hand_over(parked: Parked, data: bytes) -> None:
    """Pass a piece of bytes to a stream; an empty one is the peer's end."""
    try:
        goes_on = bool(data) and parked.on_data(data)
    except Exception:
        # A bug in serving one stream must not end all the others.
        log.exception("a stream was lost to an unexpected error")
        goes_on = False
    if not goes_on:
        parked.gone()


class EpollLot:
    """Reads all sockets in one task, by one epoll set."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._parked: dict[int, Parked] = {}
        self._held: set[int] = set()
        self._empty: trio.Event | None = None

    async def keep(self, descriptor: int, parked: Parked, early: bytes = b"") -> None:
        """Add a descriptor to the set, and return."""
        if self._epoll.closed:  # everything was cancelled during its handshake
            parked.gone()
            return
        self._epoll.register(descriptor, select.EPOLLIN)
        self._parked[descriptor] = parked
        if early:
            _hand_over(parked, early)

    def hold(self, descriptor: int) -> None:
        """Take a descriptor out of the set, which would report the peer's end again and again."""
        self._held.add(descriptor)
        self._epoll.unregister(descriptor)

    def resume(self, descriptor: int) -> None:
        """Put a descriptor back into the set."""
        if descriptor in self._held:
            self._held.remove(descriptor)
            self._epoll.register(descriptor, select.EPOLLIN)

    def leave(self, descriptor: int) -> None:
        """Forget a descriptor."""
        if self._parked.pop(descriptor, None) is not None:
            if descriptor in self._held:
                self._held.remove(descriptor)
            elif not self._epoll.closed:
                self._epoll.unregister(descriptor)
        if self._empty is not None and not self._parked:
            self._empty.set()

    async def left(self) -> None:
        """Wait until all streams have gone."""
        while self._parked:
            self._empty = trio.Event()
            await self._empty.wait()

    async def run(self) -> None:
        """Read the sockets that are readable, bite by bite."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll)
                for descriptor, _ in self._epoll.poll(0, BITE_SOCKETS):
                    parked = self._parked.get(descriptor)
                    if parked is not None:
                        _read(descriptor, parked)
        finally:
            trio.lowlevel.notify_closing(self._epoll)
            self._epoll.close()
            for parked in list(self._parked.values()):
                parked.gone()


class TaskLot:
    """Reads each socket in the task that calls ``keep``."""

    def __init__(self) -> None:
        self._kept: set[int] = set()
        self._held: dict[int, trio.Event] = {}

    async def keep(self, descriptor: int, parked: Parked, early: bytes = b"") -> None:
        """Read the socket until its stream is gone or this call is cancelled."""
        self._kept.add(descriptor)
        try:
            if early:
                _hand_over(parked, early)
            while descriptor in self._kept:
                if descriptor in self._held:
                    await self._held[descriptor].wait()
                else:
                    await trio.lowlevel.wait_readable(descriptor)
                    _read(descriptor, parked)
        except trio.ClosedResourceError:
            pass  # the stream was cut
        finally:
            parked.gone()

    def hold(self, descriptor: int) -> None:
        """Have the socket's task wait for ``resume`` instead."""
        self._held[descriptor] = trio.Event()

    def resume(self, descriptor: int) -> None:
        """Have the socket's task read again."""
        if descriptor in self._held:
            self._held.pop(descriptor).set()

    def leave(self, descriptor: int) -> None:
        """Forget a descriptor."""
        self._kept.discard(descriptor)
        self.resume(descriptor)

    async def left(self) -> None:
        """Return at once: every stream here has a task, whose nursery waits for it."""

    async def run(self) -> None:
        """Do nothing."""
