"""The histogram aggregator: keeps what all tasks add up to, answers from memory, and says how it changes.

It starts from the rollups in the store, as of the fold's checkpoint, and folds what the log holds after
it. Of tasks it keeps only those that are not finished (and a few that just did), so its memory follows
the number of cells and of active tasks. When an event changes a finished task after all, the store is asked
what the task was before that event.

**Answers stand on deltas.** The sums that questions are answered from are always those at the end of the
newest delta in the log; what was folded since waits as pending changes. So every node answers with
the same numbers at the same cursor, and whoever takes an answer and adds the deltas after its cursor is
exact: no change is in both, none in neither. For the answer to be fresh nevertheless, a question that
finds pending changes has them published at once and is answered a moment later.

**Who publishes.** Every node does, about once a second while there are changes, and at once after a
quiet time. A delta's key is the position where it begins, so the log keeps one of them, and every node
(the one whose it was, too) takes over where it ends when it comes by in the log. No node has a special
role that could be lost. After a crash there can be changes that are in the store's rollups but in no
delta: then a reset goes into the log instead, and watchers take a new snapshot.

**Its inbox never holds the subscriber up.** Batches are taken out as they come, and folded on the spot
where nothing has to be awaited for it; others wait, up to a bound. If more come than it folds (it is waiting
for the store, say), they are dropped and read again from the log. When the log has lost the position, it
starts over from the store.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import attrs
import structlog
import trio

from heliograph.actors.retry import until_it_works
from heliograph.actors.subscriber import Followed
from heliograph.model.analytics import deltas
from heliograph.model.analytics.cube import ALL, ALL_TIME, ERRORS, Cube, View
from heliograph.model.analytics.rollup import (
    DIMENSIONS,
    MEASURED,
    Cell,
    Cells,
    Change,
    Contribution,
    contribution,
    record,
    summed,
)
from heliograph.model.channels import ANALYTICS, Selection
from heliograph.model.errors import Conflict, Unavailable
from heliograph.model.event import Draft, Event
from heliograph.model.ids import OLDEST, EventId, format_id
from heliograph.model.prices import Prices
from heliograph.model.task import Task
from heliograph.storage.protocols import WHOLE_LOG, Log, PositionLost, Receipt, Store

log = structlog.get_logger(__name__)

INBOX_BATCHES = 16
BACKLOG_BATCHES = 64
PAGE_EVENTS = 2000
STEP_EVENTS = 250
"""Events folded between two pauses for others."""

RECENTLY_FINISHED = 1000
WAIT_SECONDS = 5.0
"""How long a question waits for the rollups to be loaded."""

FRESH_SECONDS = 1.0
"""How long a question waits for what was appended before it; later it is answered as of the last delta."""

URGENCY = 10
"""Questions, and many changed places, make deltas come at most so many times as often as they would."""

USUAL_VIEWS = (
    View(),
    *(View(name) for name in DIMENSIONS),
    *(View(name, durations=True) for name in (None, "agent", "agent_type", "model")),
    View(ERRORS),
)
LOST_SECONDS = 10.0
"""How long a delta that was published is waited for; the log may have lost what it had acknowledged."""

WARM_PAUSE = 0.002
"""Seconds for others between two bits of getting ready."""

Publish = Callable[[Sequence[Draft]], Awaitable[Receipt]]


@attrs.frozen
class HistogramStats:
    """What the aggregator holds and has done.

    Args:
        position: Id of the newest event folded.
        cursor: Id of the delta that answers stand on.
        pending: Changes since.
        cells: Places with sums.
        kept_bytes: Sums kept for views.
        active: Tasks that are not finished.
        events: Events folded.
        published: Deltas and resets published by this node.
        looked_up: Finished tasks that had to be asked for.
        loads: How often the rollups were loaded.
        backlog: Batches waiting now.
    """

    position: EventId
    cursor: EventId
    pending: int
    cells: int
    kept_bytes: int
    active: int
    events: int
    published: int
    looked_up: int
    loads: int
    backlog: int


@attrs.frozen
class Question:
    """Sums by group, of one or several stretches of time.

    Args:
        view: What of each cell counts.
        spans: Pairs of first slot and slot after the last.
    """

    view: View
    spans: Sequence[tuple[int, int]]


@attrs.frozen
class Figures:
    """The answers to some questions, all as of one delta.

    Args:
        cursor: The delta: the stream after it continues these numbers.
        sums: For each question, for each of its spans, the sums by group.
    """

    cursor: EventId
    sums: Sequence[Sequence[dict[str, int]]]


@attrs.define
class _Tracked:
    """A task and what it has been counted as."""

    task: Task
    counted: Contribution | None


class Histogram:
    """Adds up what happens, and tells.

    Args:
        log: To catch up from.
        store: Has the rollups, and the tasks that are finished.
        publish: Appends to the log; the appender's.
        prices: The same as the fold's.
        interval: Seconds between two deltas while there are changes.
    """

    def __init__(
        self, log: Log, store: Store, publish: Publish, prices: Prices, *, interval: float = 1.0
    ) -> None:
        self._log, self._store, self._publish, self._prices = log, store, publish, prices
        self._interval = interval
        self.inbox, self._receive = trio.open_memory_channel[Followed](INBOX_BATCHES)
        self._backlog: deque[Sequence[Event]] = deque()
        self._behind = self._lost = False
        self._cube = Cube()
        self._tracked: dict[str, _Tracked] = {}
        self._finished: deque[str] = deque()
        self._pending: deque[tuple[EventId, Change]] = deque()
        self._open: Cells = {}  # what comes of those pending changes that were not offered
        self._offered: tuple[EventId, Cells] | None = None  # and of those that were, and through which event
        self._position = self._boundary = self._cursor = self._owed = self._wanted = OLDEST
        self._loaded = self._resting = False
        self._waiting: dict[trio.Event, Callable[[], bool]] = {}
        self._events = self._published = self._looked_up = self._loads = 0

    @property
    def loaded(self) -> bool:
        """Whether questions can be answered."""
        return self._loaded

    def stats(self) -> HistogramStats:
        """Return a snapshot."""
        return HistogramStats(
            position=self._position,
            cursor=self._cursor,
            pending=len(self._pending),
            cells=self._cube.cells,
            kept_bytes=self._cube.kept,
            active=sum(not tracked.task.finished for tracked in self._tracked.values()),
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
                    await self._until(self._has_work)
                    self._resting = False

    async def ask(self, questions: Sequence[Question], known: EventId) -> Figures:
        """Answer some questions, all as of the same moment.

        Args:
            questions: What to add up.
            known: The newest event that the asker may know of; it is in the answer, unless the log can't
                take a delta now.

        Raises:
            Unavailable: The rollups have not been loaded yet.
        """
        with trio.move_on_after(WAIT_SECONDS):
            await self._until(lambda: self._loaded)
        if not self._loaded:
            raise Unavailable("analytics are being loaded")
        with trio.move_on_after(FRESH_SECONDS):
            await self._refresh(known)
        for question in questions:
            first = min(first for first, _ in question.spans)
            last = max(last for _, last in question.spans)
            for _ in self._cube.prepare(question.view, first, last):
                await trio.lowlevel.checkpoint()
        # From here on without an await: all answers are of one moment.
        return Figures(self._cursor, [self._cube.query(asked.view, asked.spans) for asked in questions])

    async def _refresh(self, known: EventId) -> None:
        await self._until(lambda: self._position >= known)
        self._wanted = wanted = self._position
        self._wake()
        await self._until(lambda: self._boundary >= wanted or not self._has_news())

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            happened = trio.Event()
            self._waiting[happened] = condition
            try:
                await happened.wait()
            finally:
                del self._waiting[happened]

    def _wake(self) -> None:
        """Wake those for whom it has come true what they wait for; mostly that is nobody."""
        for happened, condition in self._waiting.items():
            if condition():
                happened.set()

    # -- following the log

    def _has_work(self) -> bool:
        return self._lost or self._behind or bool(self._backlog)

    async def _take_in(self) -> None:
        async for followed in self._receive:
            if isinstance(followed, PositionLost):
                self._backlog.clear()
                self._lost = True
            elif self._behind or len(self._backlog) == BACKLOG_BATCHES:
                self._backlog.clear()
                self._behind = True
            elif self._resting and not self._has_work() and self._fold_at_once(followed):
                continue
            else:
                self._backlog.append(followed)
            self._wake()

    async def _load(self) -> None:
        """Start over from the store, as of its checkpoint."""
        snapshot = await until_it_works(self._store.rollup_snapshot, "counting")
        self._cube = snapshot.cube
        self._position = snapshot.checkpoint
        self._owed = snapshot.changed
        self._tracked = {task.task_id: _Tracked(task, contribution(task)) for task in snapshot.unfinished}
        self._finished.clear()
        self._pending.clear()
        self._open, self._offered = {}, None
        if snapshot.last_delta is not None:
            self._boundary = deltas.Span.of(snapshot.last_delta).through
            self._cursor = snapshot.last_delta.id
        else:  # nothing ever changed, or retention has removed the deltas
            self._boundary = self._cursor = snapshot.checkpoint if snapshot.changed else OLDEST
        self._loads += 1
        await self._catch_up()
        self._loaded = True
        self._wake()

    async def _warm(self) -> None:
        """Make what is usually asked for ready, bit by bit, so that the first question finds it."""
        for view in USUAL_VIEWS:
            for _ in self._cube.prepare(view, *ALL_TIME):
                await trio.sleep(WARM_PAUSE)

    async def _catch_up(self) -> None:
        """Fold what the log holds after the position, however much that is."""
        more = True
        while more:
            page = await until_it_works(
                partial(self._log.read, WHOLE_LOG, self._position, PAGE_EVENTS), "counting"
            )
            if page.trimmed > self._position:
                await self._load()
                return
            await self._fold(page.events)
            more = page.more

    async def _fold(self, batch: Sequence[Event]) -> None:
        events = self._new_ones(batch)
        await self._look_up(self._unknown(events))
        for start in range(0, len(events), STEP_EVENTS):
            self._fold_step(events[start : start + STEP_EVENTS])
            await trio.lowlevel.checkpoint()
        self._forget()

    def _fold_at_once(self, batch: Sequence[Event]) -> bool:
        """Fold a batch without an await, if it is small and needs nothing looked up, as most are."""
        events = self._new_ones(batch)
        if len(events) > STEP_EVENTS or self._unknown(events):
            return False
        if events:
            self._fold_step(events)
            self._forget()
        return True

    def _new_ones(self, batch: Sequence[Event]) -> Sequence[Event]:
        if batch and batch[0].id > self._position:
            return batch
        return [event for event in batch if event.id > self._position]

    def _fold_step(self, step: Sequence[Event]) -> None:
        for event in step:
            if event.channel == ANALYTICS:
                self._take_over(event)
            elif event.channel.startswith("task:"):
                self._apply(event)
        self._position = step[-1].id
        self._events += len(step)
        self._wake()

    def _apply(self, event: Event) -> None:
        name = event.channel[5:]
        tracked = self._tracked.get(name)
        if tracked is None:
            tracked = self._tracked[name] = _Tracked(Task.first_seen(event), None)
        task = tracked.task
        if event.topic == "task.output" and task.status != "queued":
            return  # the bulk of all events; output decides nothing but when a task began
        finished = task.finished
        task.apply(event, self._prices)
        task.input = task.metadata = task.result = None  # they may be large, and decide nothing
        if task.finished and not finished:
            self._finished.append(name)
        counted = contribution(task)
        if counted != tracked.counted:
            change = Change(tracked.counted, counted)
            self._pending.append((event.id, change))
            record(self._open, change)
            tracked.counted = counted

    def _forget(self) -> None:
        while len(self._finished) > RECENTLY_FINISHED:
            del self._tracked[self._finished.popleft()]

    def _unknown(self, events: Sequence[Event]) -> Mapping[str, EventId]:
        """Return which tasks are not known here though they had events before: by id the first event now."""
        seen: set[str] = set()
        unknown: dict[str, EventId] = {}
        for event in events:
            if event.channel.startswith("task:"):
                name = event.channel[5:]
                if name not in self._tracked and name not in seen:
                    seen.add(name)
                    if event.seq > 1:
                        unknown[name] = event.id
        return unknown

    async def _look_up(self, wanted: Mapping[str, EventId]) -> None:
        """Learn what finished tasks were before an event of theirs."""
        if not wanted:
            return
        found = await until_it_works(partial(self._store.before, MEASURED, wanted), "counting")
        self._looked_up += len(wanted)
        for name, before in found.items():
            task = before.value
            missing = await self._between(f"task:{name}", before.through, wanted[name])
            for event in missing:
                if task is None:
                    task = Task.first_seen(event)
                task.apply(event, self._prices)
            if task is not None:
                self._tracked[name] = _Tracked(task, contribution(task))
                if task.finished:
                    self._finished.append(name)

    async def _between(self, channel: str, after: EventId, before: EventId) -> list[Event]:
        """Read a channel's events between two ids, both exclusive: what the store has not folded yet."""
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

    def _has_news(self) -> bool:
        """Whether there are changes that no delta has told of."""
        return bool(self._pending) or self._boundary < self._owed

    def _take_over(self, event: Event) -> None:
        """Move on to the end of a delta that is in the log."""
        span = deltas.Span.of(event)
        if span.through <= self._boundary:
            return
        told = []
        while self._pending and self._pending[0][0] <= span.through:
            told.append(self._pending.popleft()[1])
        if self._offered is not None and self._offered[0] == span.through:
            self._cube.add(self._offered[1])
        else:  # another node's delta, that ends elsewhere than this one's would
            self._cube.add(summed(told))
            self._open = summed(change for _, change in self._pending)
        self._offered = None
        self._boundary, self._cursor = span.through, event.id

    async def _publish_deltas(self) -> None:
        await self._until(lambda: self._loaded)
        while True:
            await self._until(self._has_news)
            await self._publish_delta(self._boundary)
            await self._pause()

    async def _publish_delta(self, after: EventId) -> None:
        """Bring a delta into the log, this node's or another's, and wait until it has come by."""
        attempt = 0
        while self._boundary == after:
            await until_it_works(partial(self._offer_delta, after, attempt), "publishing deltas")
            with trio.move_on_after(LOST_SECONDS):
                await self._until(lambda: self._boundary > after)
            attempt += 1

    async def _offer_delta(self, after: EventId, attempt: int) -> None:
        if self._boundary == after:
            # Another node's that begins at the same place conflicts: it is in the log, and on its way here.
            with suppress(Conflict):
                await self._publish([self._make_delta(attempt)])
                self._published += 1

    def _make_delta(self, attempt: int) -> Draft:
        span = deltas.Span(self._boundary, self._position)
        changes = self._offer(span.through)
        if attempt:
            log.error("a delta did not come by in the log", after=format_id(span.after), attempt=attempt)
            return deltas.reset(span, "a delta was lost", attempt)
        if self._boundary < self._owed:
            return deltas.reset(span, "changes before a restart are in no delta")
        if len(changes) > deltas.MAX_BUCKETS:
            return deltas.reset(span, f"{len(changes)} buckets changed at once")
        slot = deltas.open_slot(span)
        before = self._cube.query(View(), [(slot, slot + 1)])[0].get(ALL, 0)
        after = sum(cell.sums for (at, _), cell in changes.items() if at == slot)
        return deltas.delta(span, changes, before + after)

    def _offer(self, through: EventId) -> Cells:
        """Close what is open, together with what was offered in vain; return what comes of it."""
        changes = self._open
        if self._offered is not None:
            for place, change in self._offered[1].items():
                changes.setdefault(place, Cell()).add(change)
        self._offered = through, {place: cell for place, cell in changes.items() if cell}
        self._open = {}
        return self._offered[1]

    async def _pause(self) -> None:
        """Wait until the next delta is due; a question, or many changed places, shorten the wait."""
        # by chance a little shorter, so that of many nodes one is first and the others have nothing to offer
        interval = self._interval * random.uniform(0.8, 1.0)
        await trio.sleep(interval / URGENCY)
        with trio.move_on_after(interval - interval / URGENCY):
            await self._until(lambda: self._wanted > self._boundary or len(self._open) >= deltas.MAX_BUCKETS)
