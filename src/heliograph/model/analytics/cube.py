"""The sums in memory; a question over any range takes time that depends on the size of its answer only.

Cells lie in slots of 15 minutes. Above them stands a tree of **blocks**: one block covers four of the level
below (15 minutes, an hour, 4 hours, 16 hours, …), so any range is a few dozen blocks, however many tasks or
slots it has. The sums of a block depend on the **view**: the filters, the dimension to group by, and whether
durations are wanted. Blocks are made when they are first needed, kept, and dropped when a slot below them
changes. A dashboard uses few views over and over, and only their newest slot changes.

``MAX_KEPT`` and ``MAX_VIEWS`` bound the kept blocks; the views that were used longest ago go first. A block
with durations takes kilobytes for each group. So blocks with durations that are shorter than 16 hours are
kept only if they were part of a question's range themselves, or lie where changes are expected.

*Refused alternatives.* Precomputed sums for every view: each event would pay for questions that never come.
Adding up all cells for each question: its time would grow with the history.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from sys import getsizeof
from typing import NamedTuple

import attrs

from heliograph.model.analytics import sketch, totals
from heliograph.model.analytics.rollup import DIMENSIONS, FAILED, Cell, Cells, Dimensions, Place

FAN = 2
"""Two bits: four blocks make up one of the next level."""

LEVELS = 13
"""The highest block covers 478 years."""

STRIDE = 2
"""Blocks up to this level (4 hours) are made in one go; ``Cube.prepare`` yields between them."""

MAX_KEPT = 64 * 1024 * 1024
"""The most bytes of sums that are kept in blocks, over all views."""

MAX_VIEWS = 128
"""The most views that are kept, of any size: clients choose filters, and each change visits each view."""

STEP_GROUPS = 5000
"""The number of groups that are merged between two yields."""

BLOCK_GROUPS = 20
"""The number of groups that take as long to merge as a block takes to find."""

OTHER = "(other)"
"""The group with the sums of all groups that are not among the greatest."""

RECENT_SLOTS = 32
"""The number of slots, the latest changed ones, in which changes are expected."""

ALL_TIME = (0, 1 << 30)
"""All possible slots."""

ALL = ""
"""The only group of a view that does not group."""

ERRORS = "error"
"""The grouping of a view that counts failures by kind of error."""

Groups = Mapping[str, int]
"""One integer for each group: packed sums, and above them the sketch of durations if the view wants it."""

_NONE: Groups = {}

Block = tuple[int, int]
"""A level, and the number of a block within it."""


@attrs.frozen
class View:
    """The part of each cell that a question needs.

    Args:
        group_by: One of the dimensions, ``ERRORS``, or ``None``.
        filters: The values to include, for each dimension; ``None``: all values.
        durations: Whether to include the sketch of durations.
    """

    group_by: str | None = None
    filters: tuple[frozenset[str] | None, ...] = (None,) * len(DIMENSIONS)
    durations: bool = False


class Resting(NamedTuple):
    """A cell in its small form, with a dumped sketch, since most cells are never changed again."""

    sums: totals.Packed
    durations: bytes
    errors: tuple[tuple[str, int], ...]


class Cube:
    """Cells by slot, and the blocks above them."""

    def __init__(self) -> None:
        self._slots: dict[int, dict[Dimensions, Resting]] = {}
        self._dimensions: dict[Dimensions, Dimensions] = {}
        self._occupied: list[set[int]] = [set() for _ in range(LEVELS)]
        self._recent: deque[int] = deque(maxlen=RECENT_SLOTS)
        self._changing: set[tuple[int, int]] = set()
        self._views: OrderedDict[View, dict[Block, Groups]] = OrderedDict()
        self._kept = 0
        self.version = 0
        """Rises with every change."""

    @property
    def cells(self) -> int:
        """The number of cells."""
        return sum(map(len, self._slots.values()))

    @property
    def views(self) -> int:
        """The number of views that have blocks."""
        return len(self._views)

    @property
    def kept(self) -> int:
        """Bytes of sums kept in blocks."""
        return self._kept

    def add(self, changes: Cells) -> None:
        """Add changes to the cells; cells that become zero are removed."""
        for (slot, dimensions), change in changes.items():
            cells = self._slots.setdefault(slot, {})
            cell = _wake(cells[dimensions]) if dimensions in cells else Cell()
            cell.add(change)
            if cell:
                cells[self._dimensions.setdefault(dimensions, dimensions)] = _rest(cell)
            else:
                cells.pop(dimensions, None)
        slots = {slot for slot, _ in changes}
        self._touch(slots)
        if new := sorted(slots - set(self._recent)):
            self._recent.extend(new[-RECENT_SLOTS:])
            self._changing = _over(self._recent)

    def fill(self, cells: Iterable[tuple[Place, Resting]]) -> None:
        """Put cells into an empty cube."""
        for (slot, dimensions), resting in cells:
            known = self._dimensions.setdefault(dimensions, dimensions)
            self._slots.setdefault(slot, {})[known] = resting
        self._touch(set(self._slots))

    def _touch(self, slots: set[int]) -> None:
        """Drop the blocks over some slots, and note the levels that have cells there."""
        self.version += 1
        over = _over(slots)
        for blocks in self._views.values():
            for place in blocks.keys() & over:
                self._kept -= _size(blocks.pop(place))
        empty = [slot for slot in slots if not self._slots[slot]]
        for slot in empty:
            del self._slots[slot]
            self._occupied[0].discard(slot)
        for level, index in over if not empty else _over(slots.difference(empty)):
            self._occupied[level].add(index)

    def query(self, view: View, spans: Sequence[tuple[int, int]]) -> list[dict[str, int]]:
        """Return the sums by group over spans of slots, in one go; see ``gather``."""
        steps = self.gather(view, spans)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                sums: list[dict[str, int]] = end.value
                return sums

    def gather(
        self, view: View, spans: Sequence[tuple[int, int]]
    ) -> Generator[None, None, list[dict[str, int]]]:
        """Compute the sums by group over spans of slots, in steps; yield between them.

        Args:
            view: The view to sum up.
            spans: The spans, as pairs of the first slot and the slot after the last.

        Returns:
            The sums of each span. They are of one moment if ``version`` has not changed meanwhile.
        """
        sums: list[dict[str, int]] = []
        merged = 0
        for first, last in spans:
            groups: dict[str, int] = {}
            for level, index in _cover(first, last):
                yield from self._make(view, level, index)
                block = self._block(view, self._blocks_of(view), level, index)
                _merge(groups, block)
                merged += BLOCK_GROUPS + len(block)
                if merged >= STEP_GROUPS:
                    merged = 0
                    yield
            sums.append(groups)
        self._bound()
        return sums

    def prepare(self, view: View, first: int, last: int) -> Iterator[None]:
        """Make the blocks of a range in steps, so that ``query`` finds them; yield between the steps.

        Changes may be added between the steps; ``query`` makes the blocks that they touch again.
        """
        for level, index in _cover(first, last):
            yield from self._make(view, level, index)

    def _make(self, view: View, level: int, index: int) -> Iterator[None]:
        blocks = self._blocks_of(view)
        if index not in self._occupied[level] or (level, index) in blocks:
            return
        if level > STRIDE:
            for child in _children(index):
                yield from self._make(view, level - 1, child)
        self._block(view, self._blocks_of(view), level, index)
        yield

    def _blocks_of(self, view: View) -> dict[Block, Groups]:
        blocks = self._views.setdefault(view, {})
        self._views.move_to_end(view)
        if len(self._views) > MAX_VIEWS:
            self._forget_oldest()
        return blocks

    def _forget_oldest(self) -> None:
        _, blocks = self._views.popitem(last=False)
        self._kept -= sum(map(_size, blocks.values()))

    def _block(self, view: View, blocks: dict[Block, Groups], level: int, index: int) -> Groups:
        if index not in self._occupied[level]:
            return _NONE
        kept = blocks.get((level, index))
        if kept is not None:
            return kept
        quiet = view.durations and (level, index) not in self._changing
        made: dict[str, int] = {}
        if level <= (STRIDE if quiet else 1):
            self._add_slots(made, view, index << FAN * level, index + 1 << FAN * level)
        else:
            for child in _children(index):
                _merge(made, self._block(view, blocks, level - 1, child))
                if quiet and level - 1 == STRIDE:
                    self._drop(blocks, level - 1, child)
        blocks[level, index] = made
        self._kept += _size(made)
        return made

    def _drop(self, blocks: dict[Block, Groups], level: int, index: int) -> None:
        block = blocks.pop((level, index), None)
        if block is not None:
            self._kept -= _size(block)

    def _add_slots(self, groups: dict[str, int], view: View, first: int, last: int) -> None:
        """Add the cells of some slots to ``groups``."""
        position = DIMENSIONS.index(view.group_by) if view.group_by in DIMENSIONS else None
        filters = [(at, wanted) for at, wanted in enumerate(view.filters) if wanted is not None]
        durations: dict[str, list[bytes]] = {}
        for slot in range(first, last):
            for dimensions, cell in self._slots.get(slot, {}).items():
                if filters and any(dimensions[at] not in wanted for at, wanted in filters):
                    continue
                if view.group_by == ERRORS:
                    _merge(groups, {kind: count * FAILED for kind, count in cell.errors})
                    continue
                group = ALL if position is None else dimensions[position]
                groups[group] = groups.get(group, 0) + cell.sums
                if view.durations:
                    durations.setdefault(group, []).append(cell.durations)
        for group, dumps in durations.items():
            groups[group] += sketch.merged(b"".join(dumps)) << totals.BITS

    def _bound(self) -> None:
        while self._kept > MAX_KEPT:
            self._forget_oldest()


def _cover(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield the level and index of the fewest blocks that make up a range, in order."""
    while first < last:
        level = 0
        while level + 1 < LEVELS:
            span = 1 << FAN * (level + 1)
            if first % span or first + span > last:
                break
            level += 1
        yield level, first >> FAN * level
        first += 1 << FAN * level


def _over(slots: Iterable[int]) -> set[Block]:
    """Return the blocks of all levels over some slots."""
    over: set[Block] = set()
    indices = set(slots)
    for level in range(LEVELS):
        over.update((level, index) for index in indices)
        indices = {index >> FAN for index in indices}
    return over


def greatest(sums: Sequence[dict[str, int]], most: int) -> list[dict[str, int]]:
    """Keep the greatest groups over all spans, by cost and then by tasks; sum the rest up as ``OTHER``.

    Args:
        sums: The sums by group, for each span.
        most: The most groups, including ``OTHER``.
    """
    names = set().union(*sums)
    if len(names) <= most:
        return list(sums)
    weights: dict[str, tuple[int, int]] = {}
    for span in sums:  # not name by name: of thousands of names each may be in one span of thousands
        for name, value in span.items():
            weights[name] = max(weights.get(name, (0, 0)), totals.weight(value))
    kept = set(heapq.nlargest(most - 1, names, key=weights.__getitem__))
    cut: list[dict[str, int]] = []
    for span in sums:
        shown = {name: value for name, value in span.items() if name in kept}
        if len(shown) < len(span):
            shown[OTHER] = sum(value for name, value in span.items() if name not in kept)
        cut.append(shown)
    return cut


def _children(index: int) -> range:
    return range(index << FAN, index + 1 << FAN)


def _merge(into: dict[str, int], groups: Groups) -> None:
    for group, value in groups.items():
        into[group] = into.get(group, 0) + value


def _size(groups: Groups) -> int:
    return sum(map(getsizeof, groups.values()))


def _rest(cell: Cell) -> Resting:
    return Resting(cell.sums, sketch.dump(cell.durations), tuple(cell.errors.items()))


def _wake(resting: Resting) -> Cell:
    return Cell(resting.sums, sketch.load(resting.durations), dict(resting.errors))
