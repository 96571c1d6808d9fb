"""The ledger: what all tasks add up to, event by event, and by how much that changed since the last delta.

It takes events in the order of the log and gives cells to be added to the sums, and deltas to be told. Of
tasks it keeps only those that are not finished, and a few that just did, so its memory follows the number of
active tasks. It knows no log and no store: what it does not know of a finished task it asks for
(``unknown``), and is told (``learn``).

The sums stand at the end of the newest delta in the log. What was folded since is *pending*; the part of it
that was put into a delta of this node is *offered*, the rest is *open*. When a delta comes by in the log,
this node's or another's, what it covers goes into the sums.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, takewhile

import attrs

from heliograph.model.analytics import deltas
from heliograph.model.analytics.rollup import Cell, Cells, Change, Contribution, contribution, record, summed
from heliograph.model.event import Event
from heliograph.model.ids import OLDEST, EventId
from heliograph.model.prices import Prices
from heliograph.model.task import Task

RECENTLY_FINISHED = 1000
STEP_PLACES = 100
"""Changes or places that are handled between two pauses for others."""


@attrs.define
class _Tracked:
    """A task and what it has been counted as."""

    task: Task
    counted: Contribution | None


@attrs.define
class Ledger:
    """Adds up what happens.

    Args:
        prices: The same as the fold's.

    Attributes:
        position: Id of the newest event folded.
        boundary: The end of the newest delta in the log.
        cursor: Id of that delta, which the sums stand on.
        owed: The last event whose change the sums had from the store, told by a delta or not.
    """

    _prices: Prices
    position: EventId = OLDEST
    boundary: EventId = OLDEST
    cursor: EventId = OLDEST
    owed: EventId = OLDEST
    _tracked: dict[str, _Tracked] = attrs.field(factory=dict)
    _finished: deque[str] = attrs.field(factory=deque)
    _pending: deque[tuple[EventId, Change]] = attrs.field(factory=deque)
    _open: Cells = attrs.field(factory=dict)
    _offered: tuple[EventId, Cells] | None = None

    def start(
        self, checkpoint: EventId, changed: EventId, last_delta: Event | None, unfinished: Sequence[Task]
    ) -> None:
        """Begin from sums as of a checkpoint.

        Args:
            checkpoint: The last event that they include.
            changed: The last event that changed them.
            last_delta: The newest delta or reset in the log.
            unfinished: The tasks that are not finished.
        """
        self.position, self.owed = checkpoint, changed
        self._tracked = {task.task_id: _Tracked(task, contribution(task)) for task in unfinished}
        self._finished.clear()
        self._pending.clear()
        self._open, self._offered = {}, None
        if last_delta is not None:
            self.boundary = deltas.Span.of(last_delta).through
            self.cursor = last_delta.id
        else:  # nothing ever changed, or retention has removed the deltas
            self.boundary = self.cursor = checkpoint if changed else OLDEST

    @property
    def pending(self) -> int:
        """Changes since the newest delta."""
        return len(self._pending)

    @property
    def active(self) -> int:
        """Tasks that are not finished."""
        return len(self._tracked) - len(self._finished)

    @property
    def tracked(self) -> int:
        """Tasks that are kept."""
        return len(self._tracked)

    @property
    def open_places(self) -> int:
        """Places that changed since the last offer."""
        return len(self._open)

    @property
    def has_news(self) -> bool:
        """Whether there are changes that no delta has told of."""
        return bool(self._pending) or self.boundary < self.owed

    # Events

    def unknown(self, events: Sequence[Event]) -> Mapping[str, EventId]:
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

    def learn(self, name: str, task: Task | None, missing: Sequence[Event]) -> None:
        """Take in what a task was before the events to come.

        Args:
            name: Its id.
            task: As the store has it; ``None``: not at all.
            missing: Its events that the store had not folded yet.
        """
        for event in missing:
            if task is None:
                task = Task.first_seen(event)
            task.apply(event, self._prices)
        if task is not None:
            self._tracked[name] = _Tracked(task, contribution(task))
            if task.finished:
                self._finished.append(name)

    def apply(self, event: Event) -> None:
        """Fold the next event, unless it is a delta."""
        self.position = event.id
        if not event.channel.startswith("task:"):
            return
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
        if task.finished != finished:
            if task.finished:
                self._finished.append(name)
            else:
                self._finished.remove(name)
        counted = contribution(task)
        if counted != tracked.counted:
            change = Change(tracked.counted, counted)
            self._pending.append((event.id, change))
            record(self._open, change)
            tracked.counted = counted

    def forget(self) -> None:
        """Let the tasks go that finished a while ago."""
        while len(self._finished) > RECENTLY_FINISHED:
            del self._tracked[self._finished.popleft()]

    # Deltas

    @property
    def large(self) -> bool:
        """Whether taking a delta over may be more than one step."""
        return max(len(self._pending), len(self._open)) > STEP_PLACES

    def take_over(self, event: Event) -> Iterator[Cells]:
        """Move on to the end of a delta that is in the log.

        Yields:
            Part by part what is to be added to the sums; others may have their turn between the parts, but
            nothing may be folded, offered or asked until the last of them.
        """
        self.position = event.id
        span = deltas.Span.of(event)
        if span.through <= self.boundary:
            return
        told = sum(1 for _ in takewhile(lambda one: one[0] <= span.through, self._pending))
        if self._offered is not None and self._offered[0] == span.through:
            yield from _parts(self._offered[1])
            for _ in range(told):
                self._pending.popleft()
        else:  # another node's delta, that ends elsewhere than this one's would
            while told > 0:
                step = min(told, STEP_PLACES)
                yield summed(self._pending.popleft()[1] for _ in range(step))
                told -= step
            self._open = {}
            for number, (_, change) in enumerate(self._pending, 1):
                record(self._open, change)
                if number % STEP_PLACES == 0:
                    yield {}
        self._offered = None
        self.boundary, self.cursor = span.through, event.id

    def offer(self) -> tuple[deltas.Span, Cells]:
        """Close what is open, together with what was offered in vain; return what comes of it."""
        span = deltas.Span(self.boundary, self.position)
        changes = self._open
        if self._offered is not None:
            for place, change in self._offered[1].items():
                changes.setdefault(place, Cell()).add(change)
        offered = {place: cell for place, cell in changes.items() if cell}
        self._offered = span.through, offered
        self._open = {}
        return span, offered


def _parts(cells: Cells) -> Iterator[Cells]:
    """Cut cells into parts of at most ``STEP_PLACES``."""
    items = iter(cells.items())
    while part := dict(islice(items, STEP_PLACES)):
        yield part
