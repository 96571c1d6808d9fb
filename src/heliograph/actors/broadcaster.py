"""A broadcaster: the watchers of one selection, and its most recent messages.

It is the actor of one channel (or pattern, or set of channels): made for the first watcher, fed by the hub,
and kept for a while after the last watcher has gone. It owns the set of subscriptions, a ring of recent
messages that newcomers take instead of reading the log, and the messages that wait for the next flush.

*Flushing.* The first message after a pause goes out at once (leading edge). Messages within the flush
interval wait and go out joined, one write per watcher. A flush to few watchers is a plain call from the hub,
since a task switch would cost more than the work. A flush to many runs in a task of its own with a checkpoint
every few hundred watchers, so that a channel with 50,000 watchers holds up no other task. While it runs the
broadcaster flushes nothing else, so each watcher gets its messages in order.

*Joining without a hole.* The ring has every message of the selection that was flushed after the ring's floor.
A newcomer that has read the log up to a cursor at or above the floor takes the rest of the ring and becomes a
subscriber in one step without an await, so nothing can come in between. It gets the messages that wait for a
flush like every other watcher.

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
"""Roughly the bytes of the ring that a newcomer is given at once."""

STEP_WATCHERS = 256
"""The number of watchers outside lanes that a large flush writes to between two checkpoints."""


@attrs.frozen
class BroadcasterStats:
    """The contents and the work of one broadcaster.

    Args:
        selection: The selection that it serves.
        subscriptions: Watchers now.
        ring: Messages in the ring.
        messages: Messages received.
        flushes: Flushes of them.
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
        subscriptions: Live subscriptions now.
        deliveries: Messages times watchers, since the start.
    """

    subscriptions: int = 0
    deliveries: int = 0


class Broadcaster:
    """Fans one selection out; every method but ``flush_in_steps`` is synchronous.

    Args:
        selection: The selection that it serves.
        ring: An empty ring, whose floor is the hub's current position.
        interval: Least time between two flushes, in seconds.
        traffic: The hub's counts, which the broadcaster adds to.
    """

    def __init__(
        self, selection: Selection, ring: Ring, interval: float = 0, traffic: Traffic | None = None
    ) -> None:
        self.selection = selection
        self.ring = ring
        self.interval = interval
        self.attaching: set[Subscription] = set()
        """The newcomers that are still being replayed; the hub keeps a broadcaster while there are any."""
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
        """A snapshot of the live subscriptions, in the order of joining, and then of the newcomers."""
        return [*self._subscriptions, *self.attaching]

    @property
    def idle(self) -> bool:
        """Whether there is no watcher, newcomer or flush."""
        return not self._subscriptions and not self.attaching and not self.flushing

    @property
    def waiting(self) -> bool:
        """Whether messages wait for a flush, or one is under way."""
        return bool(self._waiting) or self.flushing

    @property
    def large(self) -> bool:
        """Whether a flush should run in a task of its own."""
        return len(self._subscriptions) > INLINE_WATCHERS

    def offer(self, message: Message) -> None:
        """Take a message of the selection; it goes out with the next flush."""
        self._messages += 1
        self._waiting.append(message)

    def has(self, subscription: Subscription) -> bool:
        """Tell whether a subscription is live here."""
        return subscription in self._subscriptions

    def live_position(self, position: EventId) -> EventId:
        """Return the position at which a newcomer without history begins, given the hub's position."""
        return EventId(self._waiting[0].event.id - 1) if self._waiting else position

    def join(self, subscription: Subscription) -> bool:
        """Make a subscription live at its position, if the ring reaches back that far.

        The messages that it missed are delivered first. If they are many only a part is delivered, and the
        caller tries again once the client has taken it: a slow client must not begin with a full buffer.

        Returns:
            Whether the subscription is live now.
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
        subscription.leave_lane()
        if subscription in self._subscriptions:
            self._traffic.subscriptions -= 1
            del self._subscriptions[subscription]
            self._apart.pop(subscription, None)
        subscription.live = False

    def retire(self) -> None:
        """Drop all messages, for good; a flush that is still scheduled then finds none."""
        self.ring.forget()
        self._waiting.clear()

    def lose_position(self, floor: EventId) -> None:
        """Drop all messages: the log lost its position, and nothing before ``floor`` connects."""
        self.ring.forget()
        self.ring.floor = floor
        self._waiting.clear()

    def flush(self, now: float) -> None:
        """Write the waiting messages to every watcher, in one call."""
        batch = self._begin_flush(now)
        if batch is not None:
            for _ in self._write(batch):
                pass

    async def flush_in_steps(self, interval: float) -> None:
        """Write the waiting messages to every watcher, in steps, and again while more have come."""
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
        """Write a batch to every watcher; yield after every step, at which watchers may come and go.

        Watchers outside lanes come last, so that they include those which leave a lane before its turn.
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
        """Put a subscription into a lane of this position, if it is in step."""
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
        """Move the waiting messages into the ring and return them."""
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
