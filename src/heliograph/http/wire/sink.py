"""A sink: writes the bytes of one stream, without ever waiting.

``write`` tries the socket at once. Bytes that the socket does not take stay here, in order, and a flusher
task (started only then) waits for the socket to become writable. Everything that goes to one connection
passes through its sink, so frames never interleave.

The pending bytes have a budget. Each pending piece knows its subscription and its events, so that the
subscription's overflow policy can act on whole messages when the budget is used up:

- ``disconnect``: the owner is told (``too_slow``) and ends the stream; the client resumes from its cursor.
- ``drop_oldest``: the oldest unsent pieces of the subscription are dropped to make room.
- ``latest``: only the newest unsent message of each channel is kept, and of these the newest that fit.

The last two put one ``gap`` notice in the place of each run of lost messages. A piece that was partly sent is
never dropped, and one piece is always taken, however large.

A long module, since the policies, the budget and the socket work on one list of pieces, and each must leave
that list consistent for the others.

Writing by file descriptor: ``os.write`` on the non-blocking socket is the plain system call; it must
never be done after the socket was closed (its number may be reused), so ``close`` comes first.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Protocol

import attrs
import trio

from heliograph.actors.subscription import Batch, Encoder, Message, Overflow, Subscription
from heliograph.http.wire.descriptor import shut_down_writing
from heliograph.model.ids import EventId

LOW_WATER = 64 * 1024
WRITE_PIECES = 64
PIECE_BYTES = 64 * 1024
"""The rough size of the pieces of ``latest``; small, since a partly sent piece can't be replaced."""

UNREAD_BUDGETS = 4
"""The number of budgets that may be pending of pieces without a policy."""


@attrs.frozen
class Loss:
    """One run of events that an overflow policy dropped.

    Args:
        subscription: The subscription that lost them.
        first: Id of the first lost event.
        last: Id of the last lost event.
        count: Number of lost events.
    """

    subscription: Subscription
    first: EventId
    last: EventId
    count: int


@attrs.define(eq=False)
class _Piece:
    data: bytes
    subscription: Subscription | None = None
    batch: Batch | None = None
    loss: Loss | None = None
    before: EventId | None = None

    @property
    def position(self) -> EventId | None:
        """The position of a client that has everything before this piece; ``None``: the piece moves none."""
        if self.loss is not None:
            return EventId(self.loss.first - 1)
        return self.before if self.batch is None else EventId(self.batch.first_id - 1)


class SinkOwner(Protocol):
    """The owner of a sink, which forgets it when closed: a reference cycle would keep a stream's memory."""

    def start_task(self, flush: Callable[[], Awaitable[None]]) -> None:
        """Start the flusher."""
        ...

    def count_loss(self, loss: Loss) -> None:
        """Count the events that a policy dropped."""
        ...

    def describe_loss(self, loss: Loss) -> bytes:
        """Encode the ``gap`` notice of a loss."""
        ...

    def too_slow(self, untaken: EventId | None) -> None:
        """Act on a client that is over its budget or takes nothing at all.

        Args:
            untaken: The position just before the events that were about to be written and are not kept.
        """
        ...

    def peer_lost(self) -> None:
        """Act on a peer that is gone; called once."""
        ...


class Sink:
    """The writing side of one connection.

    Args:
        descriptor: A connected socket that doesn't block.
        budget: Bytes that may be pending.
        stall_seconds: How long the peer may take nothing at all.
        owner: Told of losses, slowness and the peer's end.
    """

    __slots__ = (
        "_budget",
        "_closed",
        "_fd",
        "_finishing",
        "_flushing",
        "_owner",
        "_pending",
        "_room",
        "_sent_of_first",
        "_stall_seconds",
        "pending_bytes",
    )

    def __init__(
        self,
        descriptor: int,
        budget: int,
        stall_seconds: float,
        owner: SinkOwner,
    ) -> None:
        self._fd = descriptor
        self._budget = budget
        self._stall_seconds = stall_seconds
        self._owner: SinkOwner | None = owner
        self._pending: deque[_Piece] | None = None
        self._sent_of_first = 0
        self._room: trio.Event | None = None
        self._flushing = self._closed = self._finishing = False
        self.pending_bytes = 0

    @property
    def closed(self) -> bool:
        """Whether the sink is closed."""
        return self._closed

    @property
    def descriptor(self) -> int | None:
        """The descriptor to write to directly; ``None`` while bytes are pending or no more are taken."""
        return None if self._pending is not None or self._closed or self._finishing else self._fd

    @property
    def _low_water(self) -> int:
        """The number of pending bytes at or below which ``room`` returns."""
        return min(LOW_WATER, self._budget // 2)

    @property
    def _reduced(self) -> int:
        """The number of pending bytes that a policy leaves when it acts."""
        return self._budget * 3 // 4

    @property
    def _begun(self) -> int:
        """The number of unsent bytes of the partly sent piece, which no policy can drop."""
        if not self._pending or not self._sent_of_first:
            return 0
        return len(self._pending[0].data) - self._sent_of_first

    @property
    def _open_owner(self) -> SinkOwner:
        assert self._owner is not None, "only an open sink has something to tell"
        return self._owner

    def write(
        self,
        data: bytes,
        subscription: Subscription | None = None,
        batch: Batch | None = None,
        before: EventId | None = None,
    ) -> None:
        """Write now or keep for later; never waits, never raises for the peer's faults.

        Args:
            data: Whole frames or blocks.
            subscription: The subscription of live events; ``None`` for what no policy may drop: control
                messages, and history, which is read no faster than the client takes it.
            batch: The events in ``data``.
            before: Without ``batch``: where the client resumes if it was not sent ``data``.
        """
        if self._closed or self._finishing:
            return
        if self._pending is None:
            sent = self._send(data)
            if sent == len(data) or self._closed:
                return
            self.keep(data, sent, subscription, batch)
            return
        if self.pending_bytes + len(data) > self._budget:
            if subscription is None or batch is None:
                # A page of history may exceed the budget; a client that never reads must not for ever.
                most = UNREAD_BUDGETS * self._budget
                if self.pending_bytes > most and self._undroppable_bytes() > most:
                    self._open_owner.too_slow(_Piece(data, None, batch, before=before).position)
                    return
            elif subscription.overflow is Overflow.DISCONNECT:
                self._open_owner.too_slow(EventId(batch.first_id - 1))
                return
            elif subscription.overflow is Overflow.DROP_OLDEST:
                self._drop_oldest(subscription, len(data))
            else:
                self._keep_latest(subscription, batch)
                return
        self._append(_Piece(data, subscription, batch, before=before))

    def _undroppable_bytes(self) -> int:
        """Return the pending bytes without a policy; one batch of live events may exceed the budget, too."""
        assert self._pending is not None
        return sum(len(piece.data) for piece in self._pending if piece.subscription is None)

    def _append(self, piece: _Piece) -> None:
        assert self._pending is not None
        self._pending.append(piece)
        self.pending_bytes += len(piece.data)

    def keep(
        self, data: bytes, sent: int, subscription: Subscription | None = None, batch: Batch | None = None
    ) -> None:
        """Keep the rest of ``data``, after ``sent`` bytes of it were written to ``descriptor``."""
        self._pending = deque([_Piece(data, subscription, batch)])
        self._sent_of_first = sent
        self.pending_bytes = len(data) - sent
        self._flush_later()

    def discard_unsent(self) -> EventId | None:
        """Drop all pending pieces, except the rest of one that was partly sent.

        Returns:
            The position just before the first dropped event or notice; ``None`` if there was none.
        """
        if not self._pending:
            return None
        kept = [self._pending.popleft()] if self._sent_of_first else []
        positions = [piece.position for piece in self._pending if piece.position is not None]
        self._pending = deque(kept)
        self.pending_bytes = self._begun
        return min(positions, default=None)

    def finish(self, last_words: bytes) -> None:
        """Take ``last_words``, then nothing more; when all is sent, shut down the writing half."""
        if self._closed or self._finishing:
            return
        if self._pending is None:
            self.write(last_words)
        else:
            self._append(_Piece(last_words))
        self._finishing = True
        self._tell_room()
        if self._pending is None and not self._closed:
            self._shut_down()

    def close(self) -> None:
        """Write nothing from now on; to be called before the socket is closed."""
        self._closed = True
        self._owner = None
        self._pending = None
        self.pending_bytes = 0
        self._tell_room()

    async def room(self) -> bool:
        """Wait until more may be produced; false when the sink takes no more."""
        while self.pending_bytes > self._low_water and not (self._closed or self._finishing):
            self._room = trio.Event()
            await self._room.wait()
        await trio.lowlevel.checkpoint()
        return not (self._closed or self._finishing)

    def _tell_room(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None

    def _send(self, data: bytes) -> int:
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except OSError:
            self._broken()
            return 0

    def _broken(self) -> None:
        owner = self._owner
        self.close()
        if owner is not None:
            owner.peer_lost()

    def _shut_down(self) -> None:
        try:
            shut_down_writing(self._fd)
        except OSError:
            self._broken()

    def _flush_later(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._open_owner.start_task(self._flush)

    async def _flush(self) -> None:
        try:
            while self._pending:
                try:
                    with trio.move_on_after(self._stall_seconds) as patience:
                        await trio.lowlevel.wait_writable(self._fd)
                except (trio.ClosedResourceError, OSError):
                    return
                if self._closed:
                    return
                if patience.cancelled_caught:
                    self._open_owner.too_slow(None)
                elif self._pending:
                    self._write_pending()
            if not self._closed:
                self._pending = None
                if self._finishing:
                    self._shut_down()
        finally:
            self._flushing = False

    def _write_pending(self) -> None:
        assert self._pending is not None
        first, *others = islice(self._pending, WRITE_PIECES)
        rest: memoryview | bytes = memoryview(first.data)[self._sent_of_first :]
        pieces = [rest, *(piece.data for piece in others)]
        try:
            sent = os.writev(self._fd, pieces)
        except BlockingIOError:
            return
        except OSError:
            self._broken()
            return
        self.pending_bytes -= sent
        sent += self._sent_of_first
        while self._pending and sent >= len(self._pending[0].data):
            sent -= len(self._pending.popleft().data)
        self._sent_of_first = sent
        if self.pending_bytes <= self._low_water:
            self._tell_room()

    def _drop_oldest(self, subscription: Subscription, needed: int) -> None:
        """Drop the subscription's oldest unsent pieces, down to three quarters of the budget.

        This is more than one message needs, so that a client that stays slow does not cost a pass over
        all pending pieces for every message.
        """
        excess = self.pending_bytes + needed - self._reduced
        place, batches, told = self._take_out(subscription, excess)
        fresh = None
        for batch in batches:
            fresh = _add(fresh, Loss(subscription, batch.first_id, batch.last_id, len(batch.messages)))
        self._put_gap(place, told, fresh)

    def _keep_latest(self, subscription: Subscription, batch: Batch) -> None:
        """Keep only each channel's newest message, of the subscription's unsent ones and ``batch``.

        The newest channels are kept, down to three quarters of the budget as in ``_drop_oldest``, not
        counting the partly sent piece. The newest message of all is always kept.
        """
        place, batches, told = self._take_out(subscription, math.inf)
        encode = subscription.watcher.encode
        room = self._reduced - (self.pending_bytes - self._begun)
        kept: list[Message] = []
        lost: list[EventId] = []
        channels: set[str] = set()
        for message in chain.from_iterable(reversed(some.messages) for some in (batch, *reversed(batches))):
            if message.event.channel not in channels:
                channels.add(message.event.channel)
                room -= len(message.encoded(encode))
                if room >= 0 or not kept:
                    kept.append(message)
                    continue
            lost.append(message.event.id)
        fresh = Loss(subscription, min(lost), max(lost), len(lost)) if lost else None
        self._put_gap(place, told, fresh)
        for piece in _pieces(reversed(kept), encode):
            self._append(_Piece(piece.joined(encode), subscription, piece))

    def _take_out(self, subscription: Subscription, excess: float) -> tuple[int, list[Batch], Loss | None]:
        """Remove a subscription's unsent pieces, oldest first, until ``excess`` bytes are gone.

        Returns:
            The index of the first removed piece, the removed batches, and the loss told by a removed notice.
        """
        assert self._pending is not None
        kept: deque[_Piece] = deque()
        place, batches, loss = -1, [], None
        for piece in self._pending:
            sending = not kept and self._sent_of_first > 0
            if sending or excess <= 0 or piece.subscription is not subscription:
                kept.append(piece)
                continue
            place = len(kept) if place < 0 else place
            self.pending_bytes -= len(piece.data)
            excess -= len(piece.data)
            if piece.batch is not None:
                batches.append(piece.batch)
            loss = _add(loss, piece.loss)
        self._pending = kept
        return (len(kept) if place < 0 else place), batches, loss

    def _put_gap(self, place: int, told: Loss | None, fresh: Loss | None) -> None:
        """Insert one notice at ``place`` for both losses: ``told`` by a removed notice, and ``fresh``."""
        if fresh is not None:
            self._open_owner.count_loss(fresh)
        loss = _add(told, fresh)
        if loss is None:
            return
        assert self._pending is not None
        notice = _Piece(self._open_owner.describe_loss(loss), loss.subscription, None, loss)
        self._pending.insert(place, notice)
        self.pending_bytes += len(notice.data)


def _pieces(messages: Iterable[Message], encode: Encoder) -> Iterator[Batch]:
    """Group messages into batches of about ``PIECE_BYTES``."""
    piece: list[Message] = []
    size = 0
    for message in messages:
        piece.append(message)
        size += len(message.encoded(encode))
        if size >= PIECE_BYTES:
            yield Batch(piece)
            piece, size = [], 0
    if piece:
        yield Batch(piece)


def _add(one: Loss | None, other: Loss | None) -> Loss | None:
    """Join two losses of the same subscription."""
    if one is None or other is None:
        return one or other
    return Loss(
        one.subscription,
        min(one.first, other.first),
        max(one.last, other.last),
        one.count + other.count,
    )
