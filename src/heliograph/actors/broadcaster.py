"""A broadcaster: everybody who watches one selection, and its most recent messages.

It is the actor of one channel (or pattern, or set of channels): made at the first watcher, fed by the
hub, kept for a while after the last one has gone. It owns the set of subscriptions, a ring of recent
messages that late comers take instead of reading the log, and the messages that wait for the next
flush.

*Flushing.* The first message after a pause goes out at once (leading edge); what comes within the
flush interval waits and goes out joined, one write per watcher. A flush to few watchers is a plain
call out of the hub, since a task switch would cost more than the work. A flush to many runs in a task
of its own that lets others run every few hundred watchers, so that a channel with 50,000 watchers
holds nobody up; while it runs, the broadcaster flushes nothing else, hence order per watcher holds.

*Joining without a hole.* Everything of the selection that was flushed after the ring's floor is in the
ring. Someone who has read the log up to a cursor at or above the floor takes the rest of the ring and
becomes a subscriber in one step without an await, so nothing can come in between. What waits for the
flush reaches them with everybody else.

*Refused alternatives.* A queue and a task per watcher: orderly, but two task switches and a wake-up per
delivery. Leaving coalescing to the kernel (Nagle): it saves packets, not system calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
import trio

from heliograph.actors.lane import Lane
from heliograph.actors.ring import Ring
from heliograph.actors.subscription import Batch, Message, Subscription
from heliograph.model.channels import Selection
from heliograph.model.ids import EventId

INLINE_WATCHERS = 512
"""The most watchers that are written to within one call of the hub."""

JOIN_BYTES = 256 * 1024
"""The bytes of the ring, roughly, that a newcomer is given at once."""

STEP_WATCHERS = 256
"""The number of watchers apart that a large flush writes to between two checkpoints."""


@attrs.frozen
class BroadcasterStats:
    """The contents and the work of one broadcaster.

    Args:
        selection: The selection that it serves.
        subscriptions: Watchers now.
        ring: Messages that can be taken without reading the log.
        messages: Messages that came.
        flushes: Rounds in which they went out.
        deliveries: Messages times watchers.
    """

    selection: str
    subscriptions: int
    ring: int
    messages: int
    flushes: int
    deliveries: int


@attrs.define
class Traffic:
    """The counts of all broadcasters of a hub together.

    Args:
        subscriptions: Live ones now.
        deliveries: Messages times watchers, since the start.
    """

    subscriptions: int = 0
    deliveries: int = 0


class Broadcaster:
    """Fans one selection out; every method but ``flush_in_steps`` is synchronous.

    Args:
        selection: The selection that it serves.
        ring: An empty one, whose floor is the hub's position at the moment of making.
        interval: Least time between two flushes, in seconds.
        traffic: The hub's counts, which it adds to.
    """

    def __init__(
        self, selection: Selection, ring: Ring, interval: float = 0, traffic: Traffic | None = None
    ) -> None:
        self.selection = selection
        self.ring = ring
        self.interval = interval
        self.attaching: set[Subscription] = set()
        """The newcomers being brought up to live; the hub keeps a broadcaster while there are any."""
        self.idle_since: float | None = None
        self.last_flush = -1.0
        self.flushing = False
        self.scheduled = False
        self._waiting: list[Message] = []
        self._subscriptions: dict[Subscription, None] = {}
        self._apart: dict[Subscription, None] = {}
        self._lanes: list[Lane] = []
        self._traffic = traffic or Traffic()
        self._messages = self._flushes = self._deliveries = 0

    def stats(self) -> BroadcasterStats:
        """Return a snapshot."""
        return BroadcasterStats(
            selection=str(self.selection),
            subscriptions=len(self._subscriptions),
            ring=len(self.ring),
            messages=self._messages,
            flushes=self._flushes,
            deliveries=self._deliveries,
        )

    @property
    def subscriptions(self) -> Sequence[Subscription]:
        """A snapshot of the subscriptions, in the order of joining, then of newcomers."""
        return [*self._subscriptions, *self.attaching]

    @property
    def idle(self) -> bool:
        """Whether nobody watches and nobody is about to."""
        return not self._subscriptions and not self.attaching and not self.flushing

    @property
    def waiting(self) -> bool:
        """Whether messages wait for a flush, or one is under way."""
        return bool(self._waiting) or self.flushing

    @property
    def large(self) -> bool:
        """Whether a flush is to run in a task of its own."""
        return len(self._subscriptions) > INLINE_WATCHERS

    def offer(self, message: Message) -> None:
        """Take a message of the selection; it goes out with the next flush."""
        self._messages += 1
        self._waiting.append(message)

    def has(self, subscription: Subscription) -> bool:
        """Tell whether a subscription is live here."""
        return subscription in self._subscriptions

    def live_position(self, position: EventId) -> EventId:
        """Return where a newcomer begins that wants nothing old, given the hub's position."""
        return EventId(self._waiting[0].event.id - 1) if self._waiting else position

    def join(self, subscription: Subscription) -> bool:
        """Make a subscription live at its position, if the ring reaches back that far.

        What it missed is delivered first. When that is much, only a part is delivered and the subscription
        is to come again: a client that takes its time must not begin with a full buffer.
        """
        if subscription.position < self.ring.floor:
            return False
        missed, rest = self.ring.after(subscription.position, JOIN_BYTES)
        if missed:
            subscription.deliver(Batch(missed))
        if rest:
            return False
        self._subscriptions[subscription] = self._apart[subscription] = None
        self._traffic.subscriptions += 1
        subscription.live = True
        self.idle_since = None
        return True

    def leave(self, subscription: Subscription) -> None:
        """Forget a subscription; harmless when it is not there."""
        subscription.step_aside()
        if subscription in self._subscriptions:
            self._traffic.subscriptions -= 1
            del self._subscriptions[subscription]
            self._apart.pop(subscription, None)
        subscription.live = False

    def retire(self) -> None:
        """Let everything go, for good; a flush that it is still down for then finds nothing."""
        self.ring.forget()
        self._waiting.clear()

    def lose_position(self, floor: EventId) -> None:
        """Forget everything kept: the log was replaced, and nothing before ``floor`` connects."""
        self.ring.forget()
        self.ring.floor = floor
        self._waiting.clear()

    def flush(self, now: float) -> None:
        """Write what waits to every watcher, in one call."""
        batch = self._begin_flush(now)
        if batch is not None:
            for _ in self._write(batch):
                pass

    async def flush_in_steps(self, interval: float) -> None:
        """Write what waits to every watcher, in steps, and again while more has come."""
        self.flushing = True
        try:
            while (batch := self._begin_flush(trio.current_time())) is not None:
                for _ in self._write(batch):
                    await trio.lowlevel.checkpoint()
                if self._waiting:
                    await trio.sleep_until(self.last_flush + interval)
        finally:
            self.flushing = False

    def _write(self, batch: Batch) -> Iterator[None]:
        """Write a batch to every watcher; yields after every step, when watchers may come and go.

        Those apart come last: who steps aside from a lane before its turn is then among them.
        """
        if not all(self._lanes):
            self._lanes = [lane for lane in self._lanes if lane]
        for lane in self._lanes:
            lane.write(batch)
            yield
        apart = list(self._apart)
        for start in range(0, len(apart), STEP_WATCHERS):
            for subscription in apart[start : start + STEP_WATCHERS]:
                # It may have left since the snapshot was taken.
                if subscription in self._apart:
                    subscription.deliver(batch)
                    self._fall_in(subscription, batch.last_id)
            yield

    def _fall_in(self, subscription: Subscription, position: EventId) -> None:
        """Let a subscription into a lane, if it is in step with those that have been given this position."""
        descriptor = subscription.in_step_at
        if descriptor is None or subscription.position != position or subscription not in self._apart:
            return
        encode = subscription.watcher.encode
        for lane in reversed(self._lanes):
            if lane.takes(encode, position):
                break
        else:
            lane = Lane(encode, position, self._apart)
            self._lanes.append(lane)
        lane.enter(subscription, descriptor)

    def _begin_flush(self, now: float) -> Batch | None:
        """Move what waits into the ring and return it."""
        if not self._waiting:
            return None
        messages, self._waiting = self._waiting, []
        self.last_flush = now
        self.ring.add(messages)
        self._flushes += 1
        deliveries = len(messages) * len(self._subscriptions)
        self._deliveries += deliveries
        self._traffic.deliveries += deliveries
        return Batch(messages)
