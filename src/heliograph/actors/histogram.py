"""The histogram aggregator: keeps the sums over all tasks, answers from memory, and publishes the changes.

It starts from the rollups in the store, as of the fold's checkpoint, and folds the log's events after it. Its
ledger knows the unfinished tasks and the changes that are not published yet; a cube has the sums. When an
event changes a finished task, which the ledger does not keep, the store is asked for the task's facts before
the event.

**Answers stand on deltas.** Questions are always answered from the sums at the end of the newest delta in the
log; later changes are pending. So every node gives the same numbers at the same cursor, and a client that
takes an answer and adds the deltas after its cursor is exact: no change is in both, none in neither. To be
fresh all the same, a question that finds pending changes has them published at once and is answered a moment
later.

**Every node publishes**, about once a second while there are changes, and at once after a quiet time. A
delta's key is the position where it begins, so the log keeps one delta per position. Every node, its author
included, takes the delta over when it comes by in the log. No node has a special role that could be lost.
After a crash there can be changes that are in the store's rollups but in no delta: then a reset goes into the
log instead, and watchers take a new snapshot.

**The inbox never holds the subscriber up.** Batches that can be folded without an await are folded in the
subscriber's turn; others wait, up to a bound. If more batches come than are folded
(while the aggregator waits for the store, say), they are dropped and read again from the log. When the log
has lost the position, the aggregator starts over from the store.

**No step is long.** Work that grows with what publishers and clients choose is done in steps with a
checkpoint between them: folding, taking over a large delta, adding up an answer. An answer that took several
steps is valid only if nothing was added meanwhile; otherwise it is made again. An answer has a bounded number
of groups, and one more for the rest.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

import structlog
import trio

from heliograph.actors.aside import aside
from heliograph.actors.conditions import Conditions
from heliograph.actors.figures import Figures, HistogramStats, Question
from heliograph.actors.inbox import Inbox
from heliograph.actors.retry import until_it_works
from heliograph.actors.subscriber import Followed
from heliograph.model.analytics import deltas
from heliograph.model.analytics.cube import ALL, ALL_TIME, ERRORS, STEP_GROUPS, Cube, View, greatest
from heliograph.model.analytics.ledger import Ledger
from heliograph.model.analytics.measured import MEASURED
from heliograph.model.analytics.rollup import DIMENSIONS
from heliograph.model.channels import ANALYTICS, Selection
from heliograph.model.errors import Conflict, Unavailable
from heliograph.model.event import Draft, Event
from heliograph.model.ids import OLDEST, EventId, format_id
from heliograph.model.prices import Prices
from heliograph.storage.protocols import WHOLE_LOG, Log, PositionLost, Receipt, Store

log = structlog.get_logger(__name__)

T = TypeVar("T")

INBOX_BATCHES = 16
BACKLOG_BATCHES = 64
PAGE_EVENTS = 2000
STEP_EVENTS = 250
"""The number of events that are folded between two checkpoints."""

WAIT_SECONDS = 5.0
"""Seconds that a question waits for the rollups to be loaded."""

FRESH_SECONDS = 1.0
"""Seconds that a question waits for pending changes; after that it is answered as of the last delta."""

URGENCY = 10
"""The factor by which questions, and many changed places, may shorten the pause between deltas."""

TRIES = 3
"""The most times that an answer is made again because its sums changed; then it is made in one go."""

USUAL_VIEWS = (
    View(),
    *(View(name) for name in DIMENSIONS),
    *(View(name, durations=True) for name in (None, "agent", "agent_type", "model")),
    View(ERRORS),
)
LOST_SECONDS = 10.0
"""Seconds to wait for a published delta to come by; the log may have lost it after its acknowledgement."""

WARM_PAUSE = 0.002
"""Seconds that the warm-up sleeps between two of its steps."""

Publish = Callable[[Sequence[Draft]], Awaitable[Receipt]]


class Histogram:
    """Keeps the sums over all tasks, and publishes their changes.

    Args:
        log: The log to catch up from.
        store: The store of the rollups and of finished entities.
        publish: Appends drafts to the log.
        prices: The fold's prices.
        interval: Seconds between two deltas while there are changes.
    """

    def __init__(
        self, log: Log, store: Store, publish: Publish, prices: Prices, *, interval: float = 1.0
    ) -> None:
        self._log, self._store, self._publish = log, store, publish
        self._interval = interval
        self.inbox: Inbox[Followed] = Inbox(INBOX_BATCHES, self._take)
        self._backlog: deque[Sequence[Event]] = deque()
        self._behind = self._lost = False
        self._ledger = Ledger(MEASURED, prices)
        self._cube = Cube()
        self._wanted = OLDEST
        self._loaded = self._resting = self._adding = False
        self._conditions = Conditions()
        self._events = self._published = self._looked_up = self._loads = 0

    @property
    def loaded(self) -> bool:
        """Whether questions can be answered."""
        return self._loaded

    def active_of(self, names: Iterable[str]) -> set[str]:
        """Return the tasks among ``names`` that have not ended, as of ``stats().position``."""
        return self._ledger.active_of(names)

    def stats(self) -> HistogramStats:
        """Return a snapshot."""
        return HistogramStats(
            position=self._ledger.position,
            cursor=self._ledger.cursor,
            pending=self._ledger.pending,
            cells=self._cube.cells,
            views=self._cube.views,
            kept_bytes=self._cube.kept,
            active=self._ledger.active,
            events=self._events,
            published=self._published,
            looked_up=self._looked_up,
            loads=self._loads,
            backlog=len(self._backlog),
        )

    async def run(self) -> None:
        """Follow the log until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take_in, name="histogram inbox")
            nursery.start_soon(self._publish_deltas, name="histogram deltas")
            await self._load()
            nursery.start_soon(self._warm, name="histogram warm-up")
            while True:
                if self._lost:
                    self._lost = False
                    await self._load()
                elif self._behind:
                    self._behind = False
                    await self._catch_up()
                elif self._backlog:
                    await self._fold(self._backlog.popleft())
                else:
                    self._resting = True
                    await self._conditions.until(self._has_work)
                    self._resting = False

    async def ask(self, questions: Sequence[Question], known: EventId) -> Figures:
        """Answer some questions, all as of the same moment.

        Args:
            questions: The sums that are asked for.
            known: The newest event that the caller may know of; the answer includes it, unless the log can't
                take a delta now.

        Raises:
            Unavailable: The rollups have not been loaded yet.
        """
        with trio.move_on_after(WAIT_SECONDS):
            await self._conditions.until(lambda: self._loaded)
        if not self._loaded:
            raise Unavailable("analytics are being loaded")
        with trio.move_on_after(FRESH_SECONDS):
            await self._refresh(known)
        for _ in range(TRIES):
            await self._conditions.until(lambda: not self._adding)
            cube, version, cursor = self._cube, self._cube.version, self._ledger.cursor
            sums = [await _in_steps(cube.gather(asked.view, asked.spans)) for asked in questions]
            if cube is self._cube and cube.version == version:
                break
        else:
            await self._conditions.until(lambda: not self._adding)
            # No await from here on, so that all answers are of one moment.
            cursor = self._ledger.cursor
            sums = [self._cube.query(asked.view, asked.spans) for asked in questions]
        return Figures(cursor, [await _cut(asked, each) for asked, each in zip(questions, sums, strict=True)])

    async def _refresh(self, known: EventId) -> None:
        ledger = self._ledger
        await self._conditions.until(lambda: ledger.position >= known)
        self._wanted = wanted = ledger.position
        self._conditions.look()
        await self._conditions.until(lambda: ledger.boundary >= wanted or not ledger.has_news)

    # -- following the log

    def _has_work(self) -> bool:
        return self._lost or self._behind or bool(self._backlog)

    async def _take_in(self) -> None:
        async for followed in self.inbox:
            if self._take(followed) is None:
                continue
            if isinstance(followed, PositionLost):
                self._backlog.clear()
                self._lost = True
            elif self._behind or len(self._backlog) == BACKLOG_BATCHES:
                self._backlog.clear()
                self._behind = True
            else:
                self._backlog.append(followed)
            self._conditions.look()

    def _take(self, followed: Followed) -> Followed | None:
        """Fold a batch at once if nothing else is to be done; return what is left."""
        if isinstance(followed, PositionLost) or not self._resting or self._has_work():
            return followed
        return None if self._fold_at_once(followed) else followed

    async def _load(self) -> None:
        """Start over from the store, as of its checkpoint."""
        snapshot = await until_it_works(self._store.rollup_snapshot, "counting")
        self._cube = snapshot.cube
        self._ledger.start(snapshot.checkpoint, snapshot.changed, snapshot.last_delta, snapshot.unfinished)
        self._loads += 1
        await self._catch_up()
        self._loaded = True
        self._conditions.look()

    async def _warm(self) -> None:
        """Prepare the usual views, step by step, so that the first question finds them."""
        for view in USUAL_VIEWS:
            for _ in self._cube.prepare(view, *ALL_TIME):
                await trio.sleep(WARM_PAUSE)

    async def _catch_up(self) -> None:
        """Fold all events of the log after the position."""
        more = True
        while more:
            page = await until_it_works(
                partial(self._log.read, WHOLE_LOG, self._ledger.position, PAGE_EVENTS), "counting"
            )
            if page.trimmed > self._ledger.position:
                await self._load()
                return
            await self._fold(page.events)
            more = page.more

    async def _fold(self, batch: Sequence[Event]) -> None:
        events = self._new_ones(batch)
        await self._look_up(self._ledger.unknown(events))
        for start in range(0, len(events), STEP_EVENTS):
            for event in events[start : start + STEP_EVENTS]:
                if event.channel == ANALYTICS:
                    await self._take_over_in_steps(event)
                else:
                    self._ledger.apply(event)
            self._events += len(events[start : start + STEP_EVENTS])
            self._conditions.look()
            await trio.lowlevel.checkpoint()
        self._ledger.forget()

    def _fold_at_once(self, batch: Sequence[Event]) -> bool:
        """Fold a batch without an await, if it is small and needs no lookup; tell whether it was folded."""
        events, ledger = self._new_ones(batch), self._ledger
        if len(events) > STEP_EVENTS or ledger.large or ledger.unknown(events):
            return False
        for event in events:
            if event.channel == ANALYTICS:
                for part in ledger.take_over(event):
                    self._cube.add(part)
            else:
                ledger.apply(event)
        self._events += len(events)
        ledger.forget()
        self._conditions.look()
        return True

    def _new_ones(self, batch: Sequence[Event]) -> Sequence[Event]:
        position = self._ledger.position
        if batch and batch[0].id > position:
            return batch
        return [event for event in batch if event.id > position]

    async def _take_over_in_steps(self, event: Event) -> None:
        """Take over a delta that may be large; questions and new deltas wait for its end."""
        self._adding = True
        try:
            for part in self._ledger.take_over(event):
                self._cube.add(part)
                await trio.lowlevel.checkpoint()
        finally:
            self._adding = False
            self._conditions.look()

    async def _look_up(self, wanted: Mapping[str, EventId]) -> None:
        """Teach the ledger the facts of finished entities before an event of theirs."""
        if not wanted:
            return
        found = await until_it_works(partial(self._store.before, wanted), "counting")
        self._looked_up += len(wanted)
        for name, before in found.items():
            missing = await self._between(MEASURED.prefix + name, before.through, wanted[name])
            self._ledger.learn(name, before.value, missing)

    async def _between(self, channel: str, after: EventId, before: EventId) -> list[Event]:
        """Read a channel's events between two ids, both exclusive, which the store has not folded yet."""
        found: list[Event] = []
        more = after < before - 1
        while more:
            page = await until_it_works(
                partial(self._log.read, Selection((channel,)), after, PAGE_EVENTS), "counting"
            )
            found += [event for event in page.events if event.id < before]
            more, after = page.more and page.through < before, page.through
        return found

    # -- deltas

    async def _publish_deltas(self) -> None:
        await self._conditions.until(lambda: self._loaded)
        while True:
            await self._conditions.until(lambda: self._ledger.has_news)
            await self._publish_delta(self._ledger.boundary)
            await self._pause()

    async def _publish_delta(self, after: EventId) -> None:
        """Publish the delta that begins at ``after``, and wait until it, or another node's, has come by."""
        attempt = 0
        while self._ledger.boundary == after:
            await until_it_works(partial(self._offer_delta, after, attempt), "publishing deltas")
            with trio.move_on_after(LOST_SECONDS):
                await self._conditions.until(lambda: self._ledger.boundary > after)
            attempt += 1

    async def _offer_delta(self, after: EventId, attempt: int) -> None:
        await self._conditions.until(lambda: not self._adding)
        if self._ledger.boundary == after:
            # A conflict means that another node's delta of this position is in the log, and on its way here.
            with suppress(Conflict):
                await self._publish([self._make_delta(attempt)])
                self._published += 1

    def _make_delta(self, attempt: int) -> Draft:
        span, changes = self._ledger.offer()
        if attempt:
            log.error("a delta did not come by in the log", after=format_id(span.after), attempt=attempt)
            return deltas.reset(span, "a delta was lost", attempt)
        if span.after < self._ledger.owed:
            return deltas.reset(span, "changes before a restart are in no delta")
        if len(changes) > deltas.MAX_BUCKETS:
            return deltas.reset(span, f"{len(changes)} buckets changed at once")
        slot = deltas.open_slot(span)
        before = self._cube.query(View(), [(slot, slot + 1)])[0].get(ALL, 0)
        after = sum(cell.sums for (at, _), cell in changes.items() if at == slot)
        return deltas.delta(span, changes, before + after)

    async def _pause(self) -> None:
        """Wait until the next delta is due; a question, or many changed places, shorten the wait."""
        # A random bit shorter, so that one of many nodes is first and the others have nothing left to do.
        interval = self._interval * random.uniform(0.8, 1.0)
        await trio.sleep(interval / URGENCY)
        with trio.move_on_after(interval - interval / URGENCY):
            await self._conditions.until(
                lambda: self._wanted > self._ledger.boundary or self._ledger.open_places >= deltas.MAX_BUCKETS
            )


async def _cut(asked: Question, sums: Sequence[dict[str, int]]) -> Sequence[dict[str, int]]:
    if asked.most is None:
        return sums
    return await aside(sum(map(len, sums)) > STEP_GROUPS, partial(greatest, sums, asked.most))


async def _in_steps(steps: Generator[None, None, T]) -> T:
    """Run a generator with a checkpoint at each of its yields; return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await trio.lowlevel.checkpoint()
