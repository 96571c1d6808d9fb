"""The ledger: folds events into the sums over entities, and keeps the changes since the last delta.

It takes events in the order of the log, and returns cells to be added to the sums, and deltas to be
published. It keeps only entities that are unfinished or have just finished, so its memory grows with the
number of active ones. It knows no log and no store: the caller looks up finished entities that the ledger
does not know (``unknown``) and passes them in (``learn``). The kind of entity is declared by ``Measured``.

The sums are those at the end of the newest delta in the log. Later changes are *pending*: those in a delta
that this node has offered are *offered*, the rest is *open*. When a delta of any node comes by in the log,
the changes that it covers go into the sums.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, takewhile
from typing import Any

import attrs

from heliograph.model.analytics import deltas
from heliograph.model.analytics.measured import Measured
from heliograph.model.analytics.rollup import Cell, Cells, Contribution, Effect, record, summed
from heliograph.model.event import Event
from heliograph.model.ids import OLDEST, EventId
from heliograph.model.kind import Folded
from heliograph.model.prices import Prices

RECENTLY_FINISHED = 1000
STEP_PLACES = 100
"""The number of changes or places that are handled between two yields."""


@attrs.define
class _Tracked:
    """An entity, and its contribution when it was counted, which is slow to compute for every event."""

    value: Folded
    counted: Contribution | None
    steady: bool = False
    finished: bool = False


@attrs.define
class Ledger:
    """Folds events into the sums over entities.

    Args:
        measured: The kind of entity that is added up.
        prices: The fold's prices.

    Attributes:
        position: Id of the newest event folded.
        boundary: The position where the newest delta in the log ends.
        cursor: Id of that delta, up to which the sums include changes.
        owed: The last event whose change came with the sums from the store, whether in a delta or not.
    """

    _measured: Measured[Any]
    _prices: Prices
    position: EventId = OLDEST
    boundary: EventId = OLDEST
    cursor: EventId = OLDEST
    owed: EventId = OLDEST
    _tracked: dict[str, _Tracked] = attrs.field(factory=dict)  # by channel
    _finished: deque[str] = attrs.field(factory=deque)  # their channels
    _pending: deque[tuple[EventId, Effect]] = attrs.field(factory=deque)
    _open: Cells = attrs.field(factory=dict)
    _offered: tuple[EventId, Cells] | None = None
    _prefix: str = attrs.field(init=False)
    _first_seen: Callable[[Event], Folded] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._prefix = self._measured.prefix
        assert self._measured.kind.first_seen is not None
        self._first_seen = self._measured.kind.first_seen

    def start(
        self, checkpoint: EventId, changed: EventId, last_delta: Event | None, unfinished: Sequence[Folded]
    ) -> None:
        """Begin from sums as of a checkpoint.

        Args:
            checkpoint: The last event that the sums include.
            changed: The last event that changed the sums.
            last_delta: The newest delta or reset in the log.
            unfinished: The entities that are not finished.
        """
        self.position, self.owed = checkpoint, changed
        (key,) = self._measured.kind.key
        self._tracked = {self._prefix + getattr(value, key): self._track(value) for value in unfinished}
        self._finished.clear()
        self._pending.clear()
        self._open, self._offered = {}, None
        if last_delta is not None:
            self.boundary = deltas.Span.of(last_delta).through
            self.cursor = last_delta.id
        else:  # there were no changes ever, or retention has removed the deltas
            self.boundary = self.cursor = checkpoint if changed else OLDEST

    @property
    def pending(self) -> int:
        """The number of changes since the newest delta."""
        return len(self._pending)

    @property
    def active(self) -> int:
        """The number of entities that are not finished."""
        return len(self._tracked) - len(self._finished)

    def active_of(self, names: Iterable[str]) -> set[str]:
        """Return the entities among ``names`` that are not finished."""
        channels = {self._prefix + name: name for name in names}
        active = (channels.keys() & self._tracked.keys()) - set(self._finished)
        return {channels[channel] for channel in active}

    @property
    def tracked(self) -> int:
        """The number of entities that are kept."""
        return len(self._tracked)

    @property
    def open_places(self) -> int:
        """The number of places that changed since the last offer."""
        return len(self._open)

    @property
    def has_news(self) -> bool:
        """Whether there are changes that no delta has published."""
        return bool(self._pending) or self.boundary < self.owed

    # Events

    def unknown(self, events: Sequence[Event]) -> Mapping[str, EventId]:
        """Return the entities that had earlier events but are not known, each with its first event here."""
        prefix, tracked = self._prefix, self._tracked
        seen: set[str] = set()
        unknown: dict[str, EventId] = {}
        for event in events:
            channel = event.channel
            if channel not in tracked and channel not in seen and channel.startswith(prefix):
                seen.add(channel)
                if event.seq > 1:
                    unknown[channel[len(prefix) :]] = event.id
        return unknown

    def learn(self, name: str, value: Folded | None, missing: Sequence[Event]) -> None:
        """Take in an entity's state before the events to come.

        Args:
            name: The entity's id.
            value: The store's state of it; ``None``: the store has none.
            missing: The entity's events that the store had not folded yet.
        """
        for event in missing:
            if value is None:
                value = self._first_seen(event)
            value.apply(event, self._prices)
        if value is not None:
            channel = self._prefix + name
            tracked = self._tracked[channel] = self._track(value)
            if tracked.finished:
                self._finished.append(channel)

    def apply(self, event: Event) -> None:
        """Fold the next event, unless it is a delta."""
        self.position = event.id
        channel = event.channel
        tracked = self._tracked.get(channel)
        if tracked is None or event.seq == 1:
            if not channel.startswith(self._prefix):
                return
            if tracked is not None and tracked.finished:  # its channel was forgotten, and begins anew
                self._finished.remove(channel)
            tracked = self._tracked[channel] = _Tracked(self._first_seen(event), None)
        measured = self._measured
        if tracked.steady and event.topic not in measured.changing:
            return  # the bulk of all events
        value = tracked.value
        value.apply(event, self._prices)
        for field in measured.large:
            setattr(value, field, None)
        finished = measured.finished(value)
        if finished != tracked.finished:
            tracked.finished = finished
            if finished:
                self._finished.append(channel)
            else:
                self._finished.remove(channel)
        tracked.steady = tracked.steady or measured.is_steady(value)
        counted = measured.contribution(value)
        if counted != tracked.counted:
            change = Effect(tracked.counted, counted)
            self._pending.append((event.id, change))
            record(self._open, change)
            tracked.counted = counted

    def _track(self, value: Folded) -> _Tracked:
        measured = self._measured
        return _Tracked(
            value, measured.contribution(value), measured.is_steady(value), measured.finished(value)
        )

    def forget(self) -> None:
        """Drop the entities that finished a while ago."""
        while len(self._finished) > RECENTLY_FINISHED:
            del self._tracked[self._finished.popleft()]

    # Deltas

    @property
    def large(self) -> bool:
        """Whether ``take_over`` may take more than one step."""
        return max(len(self._pending), len(self._open)) > STEP_PLACES

    def take_over(self, event: Event) -> Iterator[Cells]:
        """Move the boundary to the end of a delta that is in the log.

        Yields: The changes to be added to the sums, in parts. Other tasks may run between the parts, but
            nothing may be folded, offered or asked until the last one.
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
        else:  # another node's delta, which ends elsewhere than this node's offer
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
        """Offer all pending changes, including those of an earlier offer; return their span and sums."""
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
