"""Rollups: written by the fold, read whole once, when an aggregator starts.

What the fold changed in the tasks of a batch is added up in memory (``model.rollup``) and then written
into the few rows it concerns, in the fold's own transaction. The checkpoint ``rollups`` is the id of the
last event that changed any.

**Corrections.** An aggregator that follows the log keeps no finished tasks. When an event changes one
after all, it has to know what the task was just before that event; but the tasks table may be ahead
of it (embedded, it always is) or behind it. So the fold keeps what a finished task was before each
event that changed it, for as long as any follower may be behind: ``tasks_before`` looks there first. If no
such change came at or after the event, the task's row, ahead or not, is what it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import attrs
from sqlalchemy import Connection, RowMapping, bindparam, delete, func, select

from heliograph.model.analytics import sketch
from heliograph.model.analytics.cube import Cube, Resting
from heliograph.model.analytics.rollup import (
    DIMENSIONS,
    ERROR_CHARACTERS,
    FACTS,
    Cell,
    Cells,
    Change,
    Place,
    error_kind,
    summed,
)
from heliograph.model.analytics.totals import Totals, pack, unpack
from heliograph.model.channels import ANALYTICS, Selection
from heliograph.model.ids import OLDEST, EventId, make_id
from heliograph.model.task import STATUSES, TERMINAL, Task
from heliograph.storage.protocols import RollupSnapshot, TaskBefore
from heliograph.storage.sql import queries
from heliograph.storage.sql.database import chunks
from heliograph.storage.sql.prepared import insert, upsert
from heliograph.storage.sql.schema import CHANGED, FOLDED, checkpoints, corrections, rollups, tasks

KEEP_CORRECTIONS = timedelta(days=2)
"""Longer than any follower of the log is behind it."""

PLACES = 100
"""Places looked up in one statement."""

ROWS = 2000
"""Rows fetched at a time when reading them all."""

SPACE = "".join(filter(str.isspace, map(chr, range(0x10000))))

SHORT_ERROR = func.substr(func.ltrim(tasks.c.error, SPACE), 1, ERROR_CHARACTERS).label("error")
"""As much of a task's error as sorts it under a kind: the whole may be a megabyte, of every task."""

FACT_COLUMNS = [SHORT_ERROR if name == "error" else tasks.c[name] for name in FACTS]

NEAR = select(rollups).where(
    rollups.c.slot.in_(bindparam("slots", expanding=True)),
    rollups.c.agent_type.in_(bindparam("types", expanding=True)),
    rollups.c.agent.in_(bindparam("agents", expanding=True)),
)
"""Some places and others near them, by ranges of the primary key; SQLite would scan for a list of tuples."""

EMPTY = delete(rollups).where(*(rollups.c[name] == bindparam(f"at_{name}") for name in ("slot", *DIMENSIONS)))


@attrs.frozen
class Correction:
    """An event that changed a finished task.

    Args:
        event_id: The event.
        task_id: The task.
        before: Its ``facts`` before the event; ``None`` when it was not there, though older events of it
            had been folded: retention had removed it.
    """

    event_id: EventId
    task_id: str
    before: Sequence[object] | None


def write_changes(connection: Connection, changes: Sequence[Change], event_id: EventId) -> None:
    """Add what a batch changed to the rollups; ``event_id`` is its last event."""
    if not changes:
        return
    _add(connection, {place: cell for place, cell in summed(changes).items() if cell})
    upsert(connection, checkpoints, [{"name": CHANGED, "event_id": event_id}])


def write_corrections(connection: Connection, made: Sequence[Correction]) -> None:
    """Keep what finished tasks were before, and forget what no follower needs any more."""
    if not made:
        return
    rows = []
    for correction in made:
        before = dict(zip(FACTS, correction.before or [None] * len(FACTS), strict=True))
        if before["error"] is not None:
            before["error"] = error_kind(str(before["error"]))  # the kind is all that counts, and short
        rows.append({"event_id": correction.event_id, "task_id": correction.task_id, **before})
    insert(connection, corrections, rows)
    keep = KEEP_CORRECTIONS // timedelta(milliseconds=1)
    oldest = make_id(max(0, (made[-1].event_id >> 20) - keep))
    connection.execute(delete(corrections).where(corrections.c.event_id < oldest))


def _add(connection: Connection, changes: Cells) -> None:
    cells = _read_cells(connection, changes)
    for place, change in changes.items():
        cells.setdefault(place, Cell()).add(change)
    emptied = [_key(place) for place, cell in cells.items() if not cell]
    if emptied:
        connection.execute(EMPTY, emptied)
    upsert(connection, rollups, [cell_row(place, cell) for place, cell in cells.items() if cell])


def _read_cells(connection: Connection, changes: Cells) -> Cells:
    cells: Cells = {}
    for some in chunks(sorted(changes), PLACES):
        wanted = {
            "slots": sorted({slot for slot, _ in some}),
            "types": sorted({dimensions[0] for _, dimensions in some}),
            "agents": sorted({dimensions[1] for _, dimensions in some}),
        }
        for place, resting in map(_resting, connection.execute(NEAR, wanted)):
            if place in changes:
                cells[place] = Cell(resting.sums, sketch.load(resting.durations), dict(resting.errors))
    return cells


def _key(place: Place) -> dict[str, Any]:
    slot, dimensions = place
    return {
        f"at_{name}": value for name, value in zip(("slot", *DIMENSIONS), (slot, *dimensions), strict=True)
    }


def cell_row(place: Place, cell: Cell) -> dict[str, Any]:
    """Return a cell as a row of the table."""
    slot, dimensions = place
    return {
        "slot": slot,
        **dict(zip(DIMENSIONS, dimensions, strict=True)),
        **unpack(cell.sums)._asdict(),
        "durations": sketch.dump(cell.durations),
        "errors": cell.errors,
    }


def _resting(row: Sequence[Any]) -> tuple[Place, Resting]:
    slot, agent_type, agent, model, status, *sums, durations, errors = row
    resting = Resting(pack(Totals._make(sums)), durations, tuple(errors.items()))
    return (slot, (agent_type, agent, model, status)), resting


def read_snapshot(connection: Connection) -> RollupSnapshot:
    """Read everything an aggregator starts from, as of one moment."""
    queries.see_one_moment(connection)
    marks: dict[str, EventId] = {
        name: EventId(event_id)
        for name, event_id in connection.execute(select(checkpoints.c.name, checkpoints.c.event_id))
    }
    cube = Cube()
    rows = connection.execution_options(yield_per=ROWS).execute(select(rollups))
    cube.fill(map(_resting, rows))
    unfinished = connection.execute(
        select(tasks.c.task_id, *FACT_COLUMNS).where(
            tasks.c.status.in_([status for status in STATUSES if status not in TERMINAL])
        )
    )
    newest, _ = queries.read_events(connection, Selection((ANALYTICS,)), 1, newest=True)
    return RollupSnapshot(
        checkpoint=marks.get(FOLDED, OLDEST),
        changed=marks.get(CHANGED, OLDEST),
        cube=cube,
        unfinished=[_task(row) for row in unfinished.mappings()],
        last_delta=newest[0] if newest else None,
    )


def _task(row: RowMapping) -> Task:
    facts = {name: row[name] for name in FACTS}
    return Task(task_id=row["task_id"], updated_at=facts["created_at"], **facts)


def tasks_before(connection: Connection, wanted: Mapping[str, EventId]) -> dict[str, TaskBefore]:
    """Return what finished tasks were before an event of theirs.

    Args:
        wanted: By id of the task the id of the event.
    """
    # Tasks are read before corrections: should the fold commit in between, its correction is seen.
    found = {name: TaskBefore(None, OLDEST) for name in wanted}
    for some in chunks(sorted(wanted)):
        columns = (tasks.c.task_id, tasks.c.last_event_id, *FACT_COLUMNS)
        for row in connection.execute(select(*columns).where(tasks.c.task_id.in_(some))).mappings():
            found[row["task_id"]] = TaskBefore(_task(row), row["last_event_id"])
        for row in _corrections_of(connection, some):
            event_id = wanted[row["task_id"]]
            if row["event_id"] >= event_id:  # newest first, so the one next to the event is what stays
                before = None if row["status"] is None else _task(row)
                found[row["task_id"]] = TaskBefore(before, event_id)
    return found


def _corrections_of(connection: Connection, names: Sequence[str]) -> Iterable[RowMapping]:
    return connection.execute(
        select(corrections).where(corrections.c.task_id.in_(names)).order_by(corrections.c.event_id.desc())
    ).mappings()
