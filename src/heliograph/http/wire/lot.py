"""The parking lot: one task that hears the peers of all streams, so that an idle stream costs none.

Nearly all of a stream's life its peer says nothing. A task that waits for one socket costs 3.7 KiB, twice
what everything else of the stream does; a descriptor in a set costs a few hundred bytes of the kernel. So a
stream that has taken its connection over hands its descriptor in here and its task ends. All descriptors are
in one epoll set, which is itself a descriptor: the lot waits until that is readable, and takes it from there.

*What it calls must not wait.* A peer's words are acted upon by plain calls (``Parked.heard``). What takes its
time is begun by them in a task of its own: a replay, the flushing of a full socket, an answer. Where the
peer's next words must wait for that, the stream is put on hold, and they stay in the socket.

*Bites.* Events are taken a few at a time, and of each socket one piece is read; then everybody else has a
turn. The set is level-triggered: a socket with more to say is simply told of again, behind the others.

*Descriptors are used again.* The number of a closed one may be somebody else's a moment later. So a stream
leaves the lot before its descriptor is closed, and a bite is dealt with without an await: whoever is not here
any more when its turn comes has left in the same bite, and nobody can have come in its place.

*Errors.* The peer's end this connection. A mistake of ours in one of the calls ends that stream too, with its
traceback in the log, as everything does that goes wrong while one connection is served.

*Two forms.* Where the system has no epoll each stream is read in its connection's own task (``TaskLot``).
``open_lot`` is the only place that knows.

*Refused alternatives.* Edge-triggered events: fewer wakings, but each socket would have to be emptied at
once, or remembered. Trio's own epoll set: it knows no other waiters than tasks.
"""

from __future__ import annotations

import os
import select
from typing import Protocol

import structlog
import trio

READ_BYTES = 4096
"""Bytes that are read of one socket before the others have their turn."""

BITE_SOCKETS = 16
"""Sockets that are heard before everybody else has a turn."""

log = structlog.get_logger(__name__)


class Parked(Protocol):
    """A stream, as the lot sees it."""

    def heard(self, data: bytes) -> bool:
        """Act on what the peer has sent; tell whether it is to be heard further."""
        ...

    def gone(self) -> None:
        """Clean up and close the descriptor: nothing comes any more."""
        ...


class Lot(Protocol):
    """Where streams wait for what their peers say."""

    async def keep(self, descriptor: int, parked: Parked, early: bytes = b"") -> None:
        """Hear a peer until its stream is gone: in this task, or, when this returns, without it.

        Args:
            descriptor: Of a connected socket that doesn't block.
            parked: Whose it is; it closes the descriptor.
            early: The peer's first words, already read.
        """
        ...

    def hold(self, descriptor: int) -> None:
        """Hear a peer no further for now."""
        ...

    def resume(self, descriptor: int) -> None:
        """Hear a peer again that was put on hold; harmless if its stream is gone."""
        ...

    def leave(self, descriptor: int) -> None:
        """Forget a descriptor that is about to be closed; harmless if it is not here."""
        ...

    async def left(self) -> None:
        """Wait until all have gone who were parked without a task."""
        ...

    async def run(self) -> None:
        """Hear peers until cancelled; whoever is still here is gone then."""
        ...


def open_lot() -> Lot:
    """Make the form of the lot that this system has."""
    return EpollLot() if hasattr(select, "epoll") else TaskLot()


def _hear(descriptor: int, parked: Parked) -> None:
    """Read one piece of what a peer has sent, and have it acted upon."""
    try:
        data = os.read(descriptor, READ_BYTES)
    except BlockingIOError:
        return
    except OSError:
        data = b""
    _tell(parked, data)


def _tell(parked: Parked, data: bytes) -> None:
    """Have a piece of what a peer has sent acted upon; nothing is its end."""
    try:
        goes_on = bool(data) and parked.heard(data)
    except Exception:
        # A mistake in serving one stream must not end all the others.
        log.exception("a stream was lost to an unexpected error")
        goes_on = False
    if not goes_on:
        parked.gone()


class EpollLot:
    """All descriptors in one set, and one task for them."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._parked: dict[int, Parked] = {}
        self._held: set[int] = set()
        self._empty: trio.Event | None = None

    async def keep(self, descriptor: int, parked: Parked, early: bytes = b"") -> None:
        """Take a descriptor in, and return."""
        if self._epoll.closed:  # its handshake was under way when everything was cancelled
            parked.gone()
            return
        self._epoll.register(descriptor, select.EPOLLIN)
        self._parked[descriptor] = parked
        if early:
            _tell(parked, early)

    def hold(self, descriptor: int) -> None:
        """Take a descriptor out of the set: there a peer's end would be told of again and again."""
        self._held.add(descriptor)
        self._epoll.unregister(descriptor)

    def resume(self, descriptor: int) -> None:
        """Put it back."""
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
        """Wait until all have gone."""
        while self._parked:
            self._empty = trio.Event()
            await self._empty.wait()

    async def run(self) -> None:
        """Hear whoever speaks, bite by bite."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll)
                for descriptor, _ in self._epoll.poll(0, BITE_SOCKETS):
                    parked = self._parked.get(descriptor)
                    if parked is not None:
                        _hear(descriptor, parked)
        finally:
            trio.lowlevel.notify_closing(self._epoll)
            self._epoll.close()
            for parked in list(self._parked.values()):
                parked.gone()


class TaskLot:
    """Each descriptor in the task that brings it."""

    def __init__(self) -> None:
        self._kept: set[int] = set()
        self._held: dict[int, trio.Event] = {}

    async def keep(self, descriptor: int, parked: Parked, early: bytes = b"") -> None:
        """Hear the peer here, until the stream is gone or this is cancelled."""
        self._kept.add(descriptor)
        try:
            if early:
                _tell(parked, early)
            while descriptor in self._kept:
                if descriptor in self._held:
                    await self._held[descriptor].wait()
                else:
                    await trio.lowlevel.wait_readable(descriptor)
                    _hear(descriptor, parked)
        except trio.ClosedResourceError:
            pass  # it was cut
        finally:
            parked.gone()

    def hold(self, descriptor: int) -> None:
        """Have its task wait for something else."""
        self._held[descriptor] = trio.Event()

    def resume(self, descriptor: int) -> None:
        """Have its task hear the peer again."""
        if descriptor in self._held:
            self._held.pop(descriptor).set()

    def leave(self, descriptor: int) -> None:
        """Forget a descriptor."""
        self._kept.discard(descriptor)
        self.resume(descriptor)

    async def left(self) -> None:
        """Return: whoever is here has a task, and is waited for with that."""

    async def run(self) -> None:
        """Do nothing."""
