"""The hub: knows every broadcaster, feeds them from the log, and decides when each one flushes.

It owns the table from selections to broadcasters, and it alone makes and retires them. Batches reach it from
the subscriber through a bounded inbox; if it is slow, the subscriber waits and the log holds the rest. For
each event it looks up the broadcasters of its watchers (see ``index``): a few dictionary lookups, whatever
the number of other watchers. A large batch is handed out in steps, a small one in the subscriber's turn.

A broadcaster that gets a message within its flush interval is put on a heap of due times. One clock serves
the whole heap in a task of its own: a deadline around the wait for each batch would cost more than handing
the batch out. An event that ends a task, and the first message after a quiet time, flush at once.

A new subscription goes through ``attach``: pages of the log until its position is inside the ring, then
live in one step (see ``broadcaster``).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import count

import attrs
import trio

from heliograph.actors.broadcaster import Broadcaster, BroadcasterStats, Traffic
from heliograph.actors.inbox import Inbox
from heliograph.actors.index import WatcherIndex
from heliograph.actors.replay import Replay, ReplayPage
from heliograph.actors.ring import Ring, RingTotal
from heliograph.actors.sampler import Sampler
from heliograph.actors.subscriber import Followed
from heliograph.actors.subscription import Message, Subscription, ends_task
from heliograph.model.channels import Selection
from heliograph.model.errors import Unavailable
from heliograph.model.event import Event
from heliograph.model.ids import OLDEST, EventId
from heliograph.storage.protocols import Log, PositionLost

INBOX_BATCHES = 16
RETIRE_INTERVAL = 1.0
STEP_WORK = 1024
"""The number of lookups and messages handed out, or of broadcasters checked, between two checkpoints."""


@attrs.frozen
class HubStats:
    """The contents and the work of the hub.

    Args:
        position: Id of the newest event dispatched.
        broadcasters: Broadcasters now.
        subscriptions: Subscriptions now.
        events: Events dispatched.
        deliveries: Messages times watchers, since the start.
        inbox: Batches waiting now.
        ring_bytes: The bytes of all rings, roughly.
    """

    position: EventId
    broadcasters: int
    subscriptions: int
    events: int
    deliveries: int
    inbox: int
    ring_bytes: int


class Hub:
    """Dispatches the log to broadcasters.

    Args:
        log: The log, for replay.
        start: The position from which the subscriber follows; ``None``: it is not known yet, and until
            the subscriber reports it, no subscription can begin.
        flush_seconds: Least time between two flushes of one broadcaster.
        ring_events: Bound of each ring, in messages.
        ring_bytes: Bound of each ring, in bytes.
        ring_total_bytes: Bound of all rings together, in bytes.
        linger_seconds: How long a broadcaster is kept without a watcher.
    """

    def __init__(
        self,
        log: Log,
        start: EventId | None,
        *,
        flush_seconds: float,
        ring_events: int,
        ring_bytes: int,
        ring_total_bytes: int,
        linger_seconds: float,
    ) -> None:
        self.replay = Replay(log)
        self._position = OLDEST if start is None else start
        self._begun = start is not None
        self._flush_seconds = flush_seconds
        self._ring_events, self._ring_bytes = ring_events, ring_bytes
        self._rings, self._ring_total_bytes = RingTotal(), ring_total_bytes
        self._linger = linger_seconds
        self._broadcasters: dict[Selection, Broadcaster] = {}
        self._index: WatcherIndex[Broadcaster] = WatcherIndex()
        self._due: list[tuple[float, int, Broadcaster]] = []
        self._alarm = trio.CancelScope()  # in which the clock sleeps
        self._order = count()
        self._events = 0
        self._traffic = Traffic()
        self.inbox: Inbox[Followed] = Inbox(INBOX_BATCHES, self._take)

    @property
    def position(self) -> EventId:
        """Id of the newest event that was dispatched."""
        return self._position

    def stats(self) -> HubStats:
        """Return a snapshot."""
        return HubStats(
            position=self._position,
            broadcasters=len(self._broadcasters),
            subscriptions=self._traffic.subscriptions,
            events=self._events,
            deliveries=self._traffic.deliveries,
            inbox=self.inbox.waiting,
            ring_bytes=self._rings.size,
        )

    def broadcaster_stats(self) -> list[BroadcasterStats]:
        """Return a snapshot of every broadcaster."""
        return [broadcaster.stats() for broadcaster in self._broadcasters.values()]

    async def attach(self, subscription: Subscription, ready: Callable[[], Awaitable[bool]]) -> None:
        """Bring a subscription from its position up to live.

        Args:
            subscription: The subscription, whose ``position`` is where to begin.
            ready: Awaited between pages, so that a slow client slows its own replay; false when the client
                is gone.

        Raises:
            Unavailable: The log can't be read now.
        """
        broadcaster = self._broadcaster(subscription.selection)
        subscription.selection = broadcaster.selection  # equal; all subscriptions share one object
        broadcaster.attaching.add(subscription)
        try:
            while not broadcaster.join(subscription):
                position, ring = subscription.position, broadcaster.ring
                if position < ring.floor:
                    page = await self.replay.page(subscription.selection, position)
                    await trio.lowlevel.checkpoint_if_cancelled()  # the client left during the reading
                    if subscription.position == position:  # else a reset came, and the page does not connect
                        if page.trimmed <= position:
                            ring.reach_back(position, page.messages, page.through)
                        _deliver(subscription, page)
                if not await ready():
                    return
        finally:
            broadcaster.attaching.remove(subscription)

    def join(self, subscription: Subscription) -> None:
        """Make a subscription live that begins at the current ``live_position``."""
        broadcaster = self._broadcaster(subscription.selection)
        subscription.selection = broadcaster.selection
        joined = broadcaster.join(subscription)
        assert joined, "nothing lies between the newest event and what comes next"

    def detach(self, subscription: Subscription) -> None:
        """End a subscription; harmless when it never was attached."""
        broadcaster = self._broadcasters.get(subscription.selection)
        if broadcaster is not None:
            broadcaster.leave(subscription)

    def live_position(self, selection: Selection) -> EventId:
        """Return the position at which a subscription to new events begins.

        Raises:
            Unavailable: It is not known yet.
        """
        if not self._begun:
            raise Unavailable("the log has not been reached yet")
        broadcaster = self._broadcasters.get(selection)
        return broadcaster.live_position(self._position) if broadcaster else self._position

    def reaches_back_to(self, selection: Selection, position: EventId) -> bool:
        """Tell whether memory has every event of a selection after a position."""
        broadcaster = self._broadcasters.get(selection)
        floor = broadcaster.ring.floor if broadcaster else self._position
        return floor <= position <= self._position

    def caught_up_to(self, subscription: Subscription) -> EventId:
        """Return the position up to which a subscription was given every event."""
        broadcaster = self._broadcasters.get(subscription.selection)
        if broadcaster is None or broadcaster.waiting or not broadcaster.has(subscription):
            return subscription.position
        return max(subscription.position, self._position)

    def watched(self, channel: str) -> bool:
        """Tell whether a subscription names this channel, and not only a pattern that covers it."""
        return any(channel in selection.selectors for selection in self._broadcasters)

    def flush_all(self) -> None:
        """Flush all waiting messages now."""
        now = trio.current_time()
        for broadcaster in self._broadcasters.values():
            if not broadcaster.flushing:
                broadcaster.flush(now)

    async def run(self) -> None:
        """Dispatch until the subscriber closes the inbox."""
        async with trio.open_nursery() as self._flushes, trio.open_nursery() as clock:
            clock.start_soon(self._keep_time, name="hub clock")
            clock.start_soon(self._retire, name="hub retirement")
            async for followed in self.inbox:
                left = self._take(followed)
                while left is not None:
                    await trio.lowlevel.checkpoint()
                    left = self._take(left)
            clock.cancel_scope.cancel()
        self.flush_all()

    async def _keep_time(self) -> None:
        """Flush broadcasters when they are due, until cancelled."""
        while True:
            with trio.CancelScope(deadline=self._next_due()) as self._alarm:
                await trio.sleep_forever()
            self._flush_due(trio.current_time())

    def _broadcaster(self, selection: Selection) -> Broadcaster:
        broadcaster = self._broadcasters.get(selection)
        if broadcaster is None:
            ring = Ring(self._position, self._ring_events, self._ring_bytes, self._rings)
            make = Sampler if selection.every else Broadcaster
            interval = max(self._flush_seconds, selection.every)
            broadcaster = make(selection, ring, interval, self._traffic)
            self._broadcasters[selection] = broadcaster
            self._index.add(selection, broadcaster)
        return broadcaster

    def _take(self, followed: Followed) -> Followed | None:
        """Dispatch a step of what the subscriber followed; return what is left of it."""
        if isinstance(followed, PositionLost):
            self._reset(followed)
            return None
        end = self._hand_out(followed)
        if self._rings.size > self._ring_total_bytes:
            self._let_rings_go()
        return None if end == len(followed) else followed[end:]

    def _hand_out(self, batch: Sequence[Event]) -> int:
        """Hand out the first events of a batch, a step's work; return their number."""
        touched: dict[Broadcaster, bool] = {}
        number = work = 0
        for event in batch:
            watchers = self._index.watchers(event)
            if watchers:
                message, urgent = Message(event), ends_task(event)
                for broadcaster in watchers:
                    broadcaster.offer(message)
                    touched[broadcaster] = touched.get(broadcaster, False) or urgent
            number += 1
            work += 1 + len(watchers)
            if work >= STEP_WORK:
                break
        self._position = batch[number - 1].id
        self._events += number
        if touched:
            self._flush_or_schedule(touched)
        return number

    def _flush_or_schedule(self, touched: Mapping[Broadcaster, bool]) -> None:
        """Flush the broadcasters that are urgent or due; schedule the others for when they are due."""
        now = trio.current_time()
        for broadcaster, urgent in touched.items():
            due = broadcaster.last_flush + broadcaster.interval
            if (urgent and not broadcaster.selection.every) or due <= now:
                self._flush(broadcaster, now)
            elif not broadcaster.scheduled and not broadcaster.flushing:
                broadcaster.scheduled = True
                heapq.heappush(self._due, (due, next(self._order), broadcaster))
                if due < self._alarm.deadline:
                    self._alarm.deadline = due

    def _reset(self, lost: PositionLost) -> None:
        """Drop all messages, and tell every watcher that the next events do not connect to those it has."""
        self._position = lost.head
        self._begun = True
        for broadcaster in self._broadcasters.values():
            broadcaster.lose_position(lost.head)
            for subscription in broadcaster.subscriptions:
                subscription.position = lost.head
                subscription.watcher.reset(subscription, lost.reason)

    def _next_due(self) -> float:
        return self._due[0][0] if self._due else math.inf

    def _flush_due(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            _, _, broadcaster = heapq.heappop(self._due)
            broadcaster.scheduled = False
            self._flush(broadcaster, now)

    def _flush(self, broadcaster: Broadcaster, now: float) -> None:
        if broadcaster.flushing:
            return  # its own task goes on until no messages wait
        if broadcaster.large:
            broadcaster.flushing = True
            self._flushes.start_soon(
                broadcaster.flush_in_steps, broadcaster.interval, name=f"broadcaster {broadcaster.selection}"
            )
        else:
            broadcaster.flush(now)

    def _let_rings_go(self) -> None:
        """Empty the rings of the longest quiet broadcasters, until an eighth of the bound is free."""
        enough = self._ring_total_bytes * 7 // 8
        for broadcaster in sorted(self._broadcasters.values(), key=lambda one: one.last_flush):
            if self._rings.size <= enough:
                break
            broadcaster.ring.forget()

    async def _retire(self) -> None:
        """Retire the broadcasters that have had no watcher for a while, until cancelled."""
        while True:
            await trio.sleep(RETIRE_INTERVAL)
            now = trio.current_time()
            for number, broadcaster in enumerate(list(self._broadcasters.values())):
                if number % STEP_WORK == STEP_WORK - 1:
                    await trio.lowlevel.checkpoint()
                if not broadcaster.idle:
                    continue
                if broadcaster.idle_since is None:
                    broadcaster.idle_since = now
                elif now - broadcaster.idle_since >= self._linger:
                    broadcaster.retire()
                    del self._broadcasters[broadcaster.selection]
                    self._index.remove(broadcaster.selection, broadcaster)


def _deliver(subscription: Subscription, page: ReplayPage) -> None:
    """Deliver a page of the log, after a ``gap`` for events that retention removed during the replay."""
    # A replay from ``OLDEST`` asks only for events that are kept, so it has no gap.
    if page.trimmed > subscription.position > OLDEST:
        subscription.watcher.gap(subscription, page.trimmed)
    if page.batch is not None:
        subscription.deliver(page.batch)
    subscription.position = max(subscription.position, page.through)
