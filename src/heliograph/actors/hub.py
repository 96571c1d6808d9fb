"""The hub: knows every broadcaster, feeds them from the log, and decides when each one flushes.

It owns the table from selection to broadcaster and is the only one to make or retire them. Batches
reach it from the subscriber through a bounded channel; if it is slow, the subscriber waits and the log
holds the rest. For each event it looks up who watches it (see ``index``): a few dictionary look-ups whatever
the number of watchers that want something else. A large batch is handed out in steps.

Broadcasters that came up within their flush interval are put on a heap of due times; one clock serves them
all, a task of its own: a deadline around the waiting for each batch would cost more than handing the batch
out. Events that end a task, and a broadcaster that was quiet, flush at once.

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
"""Look-ups and messages handed out, or broadcasters looked at, between two pauses for others."""


@attrs.frozen
class HubStats:
    """What the hub holds and has done.

    Args:
        position: Id of the newest event dispatched.
        broadcasters: Broadcasters now.
        subscriptions: Subscriptions now.
        events: Events dispatched.
        deliveries: Messages times watchers, since the start.
        inbox: Batches waiting now.
        ring_bytes: What all rings keep, roughly.
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
        log: For replay.
        start: The position from which the subscriber follows; ``None``: nobody knows it yet, and until
            the subscriber tells it, nobody can begin to watch.
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
        self.inbox, self._receive = trio.open_memory_channel[Followed](INBOX_BATCHES)

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
            inbox=self._receive.statistics().current_buffer_used,
            ring_bytes=self._rings.size,
        )

    def broadcaster_stats(self) -> list[BroadcasterStats]:
        """Return a snapshot of every broadcaster."""
        return [broadcaster.stats() for broadcaster in self._broadcasters.values()]

    async def attach(self, subscription: Subscription, ready: Callable[[], Awaitable[bool]]) -> None:
        """Bring a subscription from its position up to live.

        Args:
            subscription: Its ``position`` is where to begin.
            ready: Awaited between pages, so that a slow client slows its own replay; false when the client
                is gone and the rest would be for nobody.

        Raises:
            Unavailable: The log can't be read now.
        """
        broadcaster = self._broadcaster(subscription.selection)
        subscription.selection = broadcaster.selection  # an equal one, of which there is one for all
        broadcaster.attaching.add(subscription)
        try:
            while not broadcaster.join(subscription):
                position, ring = subscription.position, broadcaster.ring
                if position < ring.floor:
                    page = await self.replay.page(subscription.selection, position)
                    await trio.lowlevel.checkpoint_if_cancelled()  # then nobody wants it any more
                    if subscription.position == position:  # else a reset came, and the page does not connect
                        if page.trimmed <= position:
                            ring.reach_back(position, page.messages, page.through)
                        _deliver(subscription, page)
                if not await ready():
                    return
        finally:
            broadcaster.attaching.remove(subscription)

    def join(self, subscription: Subscription) -> None:
        """Make a subscription live that begins at ``live_position``, asked for just now."""
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
        """Return where a subscription begins that wants only what is new.

        Raises:
            Unavailable: Nobody knows yet.
        """
        if not self._begun:
            raise Unavailable("the log has not been reached yet")
        broadcaster = self._broadcasters.get(selection)
        return broadcaster.live_position(self._position) if broadcaster else self._position

    def reaches_back_to(self, selection: Selection, position: EventId) -> bool:
        """Tell whether a position lies within what is kept in memory for a selection."""
        broadcaster = self._broadcasters.get(selection)
        floor = broadcaster.ring.floor if broadcaster else self._position
        return floor <= position <= self._position

    def caught_up_to(self, subscription: Subscription) -> EventId:
        """Return up to where a subscription was given everything."""
        broadcaster = self._broadcasters.get(subscription.selection)
        if broadcaster is None or broadcaster.waiting or not broadcaster.has(subscription):
            return subscription.position
        return max(subscription.position, self._position)

    def watched(self, channel: str) -> bool:
        """Tell whether somebody watches a channel by its name, and not only everything."""
        return any(channel in selection.selectors for selection in self._broadcasters)

    def flush_all(self) -> None:
        """Write out everything that waits, now."""
        now = trio.current_time()
        for broadcaster in self._broadcasters.values():
            if not broadcaster.flushing:
                broadcaster.flush(now)

    async def run(self) -> None:
        """Dispatch until the subscriber closes the inbox."""
        async with trio.open_nursery() as flushes, trio.open_nursery() as clock:
            clock.start_soon(self._keep_time, flushes, name="hub clock")
            clock.start_soon(self._retire, name="hub retirement")
            async for followed in self._receive:
                if isinstance(followed, PositionLost):
                    self._reset(followed)
                else:
                    await self._dispatch(followed, flushes)
                if self._rings.size > self._ring_total_bytes:
                    self._let_rings_go()
            clock.cancel_scope.cancel()
        self.flush_all()

    async def _keep_time(self, flushes: trio.Nursery) -> None:
        """Flush what is due."""
        while True:
            with trio.CancelScope(deadline=self._next_due()) as self._alarm:
                await trio.sleep_forever()
            self._flush_due(trio.current_time(), flushes)

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

    async def _dispatch(self, batch: Sequence[Event], nursery: trio.Nursery) -> None:
        """Hand a batch out, in steps between which others have their turn."""
        step: list[Event] = []
        touched: dict[Broadcaster, bool] = {}
        work = 0
        for event in batch:
            watchers = self._index.watchers(event)
            if watchers:
                message, urgent = Message(event), ends_task(event)
                for broadcaster in watchers:
                    broadcaster.offer(message)
                    touched[broadcaster] = touched.get(broadcaster, False) or urgent
            step.append(event)
            work += 1 + len(watchers)
            if work >= STEP_WORK:
                self._end_step(step, touched, nursery)
                step, touched, work = [], {}, 0
                await trio.lowlevel.checkpoint()
        if step:
            self._end_step(step, touched, nursery)

    def _end_step(
        self, step: Sequence[Event], touched: Mapping[Broadcaster, bool], nursery: trio.Nursery
    ) -> None:
        """Flush what was touched, or have it flushed when it is due."""
        self._position = step[-1].id
        self._events += len(step)
        if not touched:
            return
        now = trio.current_time()
        for broadcaster, urgent in touched.items():
            due = broadcaster.last_flush + broadcaster.interval
            if (urgent and not broadcaster.selection.every) or due <= now:
                self._flush(broadcaster, now, nursery)
            elif not broadcaster.scheduled and not broadcaster.flushing:
                broadcaster.scheduled = True
                heapq.heappush(self._due, (due, next(self._order), broadcaster))
                if due < self._alarm.deadline:
                    self._alarm.deadline = due

    def _reset(self, lost: PositionLost) -> None:
        """Forget what is kept, and tell every watcher that what comes does not connect to what it has."""
        self._position = lost.head
        self._begun = True
        for broadcaster in self._broadcasters.values():
            broadcaster.lose_position(lost.head)
            for subscription in broadcaster.subscriptions:
                subscription.position = lost.head
                subscription.watcher.reset(subscription, lost.reason)

    def _next_due(self) -> float:
        return self._due[0][0] if self._due else math.inf

    def _flush_due(self, now: float, nursery: trio.Nursery) -> None:
        while self._due and self._due[0][0] <= now:
            _, _, broadcaster = heapq.heappop(self._due)
            broadcaster.scheduled = False
            self._flush(broadcaster, now, nursery)

    def _flush(self, broadcaster: Broadcaster, now: float, nursery: trio.Nursery) -> None:
        if broadcaster.flushing:
            return  # its own task goes on until nothing waits
        if broadcaster.large:
            broadcaster.flushing = True
            nursery.start_soon(
                broadcaster.flush_in_steps, broadcaster.interval, name=f"broadcaster {broadcaster.selection}"
            )
        else:
            broadcaster.flush(now)

    def _let_rings_go(self) -> None:
        """Let the rings of those that were quiet the longest go, until an eighth of the bound is free."""
        enough = self._ring_total_bytes * 7 // 8
        for broadcaster in sorted(self._broadcasters.values(), key=lambda one: one.last_flush):
            if self._rings.size <= enough:
                break
            broadcaster.ring.forget()

    async def _retire(self) -> None:
        """Now and then let the broadcasters go that nobody has watched for a while."""
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
    """Hand over a page of the log, and before it word of what retention took away under the replay."""
    # From the oldest that is kept on: what is not kept any more was not asked for.
    if page.trimmed > subscription.position > OLDEST:
        subscription.watcher.gap(subscription, page.trimmed)
    if page.batch is not None:
        subscription.deliver(page.batch)
    subscription.position = max(subscription.position, page.through)
