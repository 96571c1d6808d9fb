"""The sums over tasks, by slots of 15 minutes, agent type, agent, model and status.

The unit is the **contribution**: everything that one task currently adds to the sums. The task counts as
created in the slot of its ``created_at``; its outcome, cost, tokens and duration count in the slot of its
``finished_at``. For every event of a task the sums follow one rule: subtract the contribution before, add the
contribution after. So a corrected task moves, and nothing is counted twice; and sums over any slots and
groups are sums of contributions, exact to the nano-dollar.

A slot is 15 minutes of UTC, since every zone's offset is a whole number of them: days and hours of any zone
are made of whole slots. A **place** is a slot and four dimensions; a **cell** has the sums of a place. Cells
are linear: they can be added and subtracted, and can themselves be a difference (a change).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple, TypeVar

import attrs

from heliograph.model.analytics.sketch import Bins
from heliograph.model.analytics.totals import Packed, Totals, pack
from heliograph.model.ids import EPOCH

SLOT_MINUTES = 15
SLOT = timedelta(minutes=SLOT_MINUTES)

DIMENSIONS = ("agent_type", "agent", "model", "status")
UNKNOWN = "unknown"
"""The group of tasks without an agent, agent type or model, and of errors without text."""

DIMENSION_CHARACTERS = 100
"""Dimensions are cut to this length: they are part of a database key, which has a limit."""

ERROR_CHARACTERS = 200
"""The number of characters of an error's text, without leading space, that decide its kind."""

Dimensions = tuple[str, str, str, str]
Place = tuple[int, Dimensions]

K = TypeVar("K", int, str)

_ERROR_KIND = re.compile(r"[A-Za-z_][\w.]*(?=:|$)")
_VARIABLE = re.compile(r"0x[0-9a-fA-F]+|\d+")


CREATED = pack(Totals(created=1))
FAILED = pack(Totals(failed=1))


@attrs.define
class Cell:
    """The sums at a place, or a change of them.

    Args:
        sums: Packed ``Totals``.
        durations: The number of durations, in milliseconds, in each bin of the sketch.
        errors: Failed tasks by kind of error.
    """

    sums: Packed = 0
    durations: Bins = attrs.field(factory=dict)
    errors: dict[str, int] = attrs.field(factory=dict)

    def __bool__(self) -> bool:
        return bool(self.sums or self.durations or self.errors)

    def add(self, other: Cell) -> None:
        """Add another cell, or a change, to this one."""
        self.sums += other.sums
        for position, count in other.durations.items():
            _count(self.durations, position, count)
        for kind, count in other.errors.items():
            _count(self.errors, kind, count)


Cells = dict[Place, Cell]


class Contribution(NamedTuple):
    """Everything that one task adds to the sums; a tuple, since one is made for every change.

    Args:
        dimensions: Agent type, agent, model and status.
        created_slot: The slot in which the task counts as created.
        finished_slot: The slot in which the rest counts; ``None`` until the task is finished.
        outcome: Packed ``Totals`` of all but ``created``.
        duration_bin: The bin of the task's duration.
        error_kind: The kind of error of a failed task.
    """

    dimensions: Dimensions
    created_slot: int
    finished_slot: int | None = None
    outcome: Packed = 0
    duration_bin: int = 0
    error_kind: str | None = None


def slot_of(moment: datetime) -> int:
    """Return the number of the slot that a moment falls in, counted from 1970."""
    return (moment - EPOCH) // SLOT


def slot_start(slot: int) -> datetime:
    """Return the moment at which a slot begins, in UTC."""
    return EPOCH + slot * SLOT


def dimension(text: str | None) -> str:
    """Return a dimension's value in its kept form: cut to length, and never empty."""
    return text[:DIMENSION_CHARACTERS] if text else UNKNOWN


def error_kind(error: str | None) -> str:
    """Return the kind of an error, a short name.

    It is the name before the first colon, as in ``TimeoutError: read timed out``; else the beginning of the
    first line, with all numbers made equal, so that a thousand timeouts are one kind.
    """
    line = (error or "").strip().partition("\n")[0][:ERROR_CHARACTERS].strip()
    name = _ERROR_KIND.match(line)
    return name[0][:80] if name else _VARIABLE.sub("#", line)[:80].strip() or UNKNOWN


@attrs.frozen
class Effect:
    """The change that one event makes to the sums, by changing one task.

    Args:
        before: The contribution before the event; ``None`` if the event made the task.
        after: The contribution after the event.
    """

    before: Contribution | None
    after: Contribution


def record(cells: Cells, change: Effect) -> None:
    """Add a change to cells; cells that become zero stay."""
    if change.before is not None:
        _contribute(cells, change.before, -1)
    _contribute(cells, change.after, 1)


def summed(changes: Iterable[Effect]) -> Cells:
    """Return the sums of changes, as cells by place."""
    cells: Cells = {}
    for change in changes:
        record(cells, change)
    return cells


def _contribute(cells: Cells, counted: Contribution, sign: int) -> None:
    _cell(cells, counted.created_slot, counted.dimensions).sums += sign * CREATED
    if counted.finished_slot is not None:
        cell = _cell(cells, counted.finished_slot, counted.dimensions)
        cell.sums += sign * counted.outcome
        _count(cell.durations, counted.duration_bin, sign)
        if counted.error_kind is not None:
            _count(cell.errors, counted.error_kind, sign)


def _cell(cells: Cells, slot: int, dimensions: Dimensions) -> Cell:
    place = (slot, dimensions)
    cell = cells.get(place)
    if cell is None:
        cell = cells[place] = Cell()
    return cell


def _count(counts: dict[K, int], name: K, change: int) -> None:
    """Change a count, and remove it when it becomes zero."""
    total = counts.pop(name, 0) + change
    if total:
        counts[name] = total
