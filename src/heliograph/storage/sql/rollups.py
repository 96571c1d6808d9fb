"""Rollups: written by the fold, read whole once, when an aggregator starts.

The changes of a batch's tasks are added up in memory (``model.analytics.rollup``) and then written into the
few rows concerned, in the fold's own transaction. The checkpoint ``rollups`` is the id of the last event that
changed any rollup.

**Corrections.** An aggregator that follows the log keeps no finished tasks. When an event changes a finished
task, the aggregator needs the task's facts just before that event, but the tasks table may be ahead of the
aggregator (embedded, it always is) or behind it. So the fold keeps the facts of a finished task before each
event that changed it, for as long as any follower may be behind, and ``before`` looks there first. If no such
change came at or after the event, the task's row still has those facts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import attrs
from sqlalchemy import (
    Column,
    Connection,
    Index,
    LargeBinary,
    RowMapping,
    Table,
    Text,
    bindparam,
    delete,
    select,
)

from heliograph.model.analytics import sketch
from heliograph.model.analytics.cube import Cube, Resting
from heliograph.model.analytics.measured import MEASURED
from heliograph.model.analytics.rollup import (
    DIMENSIONS,
    Cell,
    Cells,
    Contribution,
    Effect,
    Place,
    error_kind,
    summed,
)
from heliograph.model.analytics.totals import Totals, pack, unpack
from heliograph.model.channels import ANALYTICS, Selection
from heliograph.model.event import Event
from heliograph.model.ids import OLDEST, EventId, make_id
from heliograph.model.kind import Before, Folded, Key
from heliograph.storage.protocols import RollupSnapshot
from heliograph.storage.sql import queries
from heliograph.storage.sql.database import chunks
from heliograph.storage.sql.entities import ENTITY_OF
from heliograph.storage.sql.prepared import insert, upsert
from heliograph.storage.sql.schema import CHANGED, FOLDED, Big, Json, checkpoints, metadata

KEEP_CORRECTIONS = timedelta(days=2)
"""How long corrections are kept: longer than any follower of the log is behind it."""

PLACES = 100
"""The number of places that one statement looks up."""

ROWS = 2000
"""The number of rows that are fetched at a time when all are read."""

ENTITY = ENTITY_OF[MEASURED.kind]
measured = ENTITY.table
(KEY,) = ENTITY.key

FACT_COLUMNS = [ENTITY.cut.get(name, measured.c[name]) for name in MEASURED.facts]

rollups = Table(
    "rollups",
    metadata,
    Column("slot", Big, primary_key=True, autoincrement=False),
    *(Column(name, Text, primary_key=True) for name in DIMENSIONS),
    *(Column(name, Big, nullable=False) for name in Totals._fields),
    Column("durations", LargeBinary, nullable=False),
    Column("errors", Json, nullable=False),
)
"""The sums over entities, by slot of 15 minutes and dimensions; see ``model.analytics.rollup``."""

corrections = Table(
    "corrections",
    metadata,
    Column("event_id", Big, primary_key=True, autoincrement=False),
    Column(KEY.name, Text, nullable=False),
    *(Column(name, measured.c[name].type) for name in MEASURED.facts),
    Index(f"corrections_{MEASURED.kind.name}_event", KEY.name, "event_id"),
)

NEAR = select(rollups).where(
    rollups.c.slot.in_(bindparam("slots", expanding=True)),
    rollups.c.agent_type.in_(bindparam("types", expanding=True)),
    rollups.c.agent.in_(bindparam("agents", expanding=True)),
)
"""The wanted places and some near them, by ranges of the key: SQLite would scan for a list of tuples."""

EMPTY = delete(rollups).where(*(rollups.c[name] == bindparam(f"at_{name}") for name in ("slot", *DIMENSIONS)))


@attrs.frozen
class Correction:
    """An event that changed a finished entity.

    Args:
        event_id: The event's id.
        name: The entity's id.
        before: The entity's facts before the event; ``None`` if retention had removed the entity, of which
            older events had been folded.
    """

    event_id: EventId
    name: str
    before: Sequence[object] | None


class Measurement:
    """Notes the changes that a batch of events makes to the measured entities.

    Args:
        values: The entities that the batch touches, as they were read.
    """

    def __init__(self, values: Mapping[Key, Folded]) -> None:
        self._before: dict[Key, Contribution] = _contributions(values)
        self._corrections: list[Correction] = []
        self._finished: tuple[object, ...] | None = None
        self._through = OLDEST

    def before(self, key: Key, value: Any, event: Event) -> None:
        """Note an entity's state before an event is applied; ``None`` if there is no entity yet."""
        if value is None and event.seq > 1:
            self._corrections.append(Correction(event.id, key[0], None))
        self._finished = None
        if value is not None and MEASURED.finished(value):
            self._finished = MEASURED.facts_of(value)
        self._through = event.id

    def after(self, key: Key, value: Any, event: Event) -> None:
        """Note a correction if the event has changed a finished entity."""
        if self._finished is not None and MEASURED.facts_of(value) != self._finished:
            self._corrections.append(Correction(event.id, key[0], self._finished))

    def write(self, connection: Connection, values: Mapping[Key, Folded]) -> None:
        """Write the rollups' changes and the corrections, given the entities as they are now."""
        after = _contributions(values)
        changes = [
            Effect(self._before.get(key), now) for key, now in after.items() if now != self._before.get(key)
        ]
        write_changes(connection, changes, self._through)
        write_corrections(connection, self._corrections)


def _contributions(values: Mapping[Key, Any]) -> dict[Key, Contribution]:
    return {key: MEASURED.contribution(value) for key, value in values.items()}


def write_changes(connection: Connection, changes: Sequence[Effect], event_id: EventId) -> None:
    """Add the changes of a batch to the rollups; ``event_id`` is its last event."""
    if not changes:
        return
    _add(connection, {place: cell for place, cell in summed(changes).items() if cell})
    upsert(connection, checkpoints, [{"name": CHANGED, "event_id": event_id}])


def write_corrections(connection: Connection, made: Sequence[Correction]) -> None:
    """Store the former facts of finished entities, and remove those that no follower needs any more."""
    if not made:
        return
    rows = []
    for correction in made:
        before = dict(zip(MEASURED.facts, correction.before or [None] * len(MEASURED.facts), strict=True))
        if before["error"] is not None:
            before["error"] = error_kind(str(before["error"]))  # only the kind is needed, and it is short
        rows.append({"event_id": correction.event_id, KEY.name: correction.name, **before})
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
    """Read the state that an aggregator starts from, as of one moment."""
    queries.see_one_moment(connection)
    marks: dict[str, EventId] = {
        name: EventId(event_id)
        for name, event_id in connection.execute(select(checkpoints.c.name, checkpoints.c.event_id))
    }
    cube = Cube()
    rows = connection.execute(select(rollups).execution_options(yield_per=ROWS))
    cube.fill(map(_resting, rows))
    open_ones = [ENTITY.condition(*one) for one in ENTITY.given(MEASURED.unfinished).items()]
    unfinished = connection.execute(select(KEY, *FACT_COLUMNS).where(*open_ones))
    newest, _ = queries.read_events(connection, Selection((ANALYTICS,)), 1, newest=True)
    return RollupSnapshot(
        checkpoint=marks.get(FOLDED, OLDEST),
        changed=marks.get(CHANGED, OLDEST),
        cube=cube,
        unfinished=[_value(row) for row in unfinished.mappings()],
        last_delta=newest[0] if newest else None,
    )


def _value(row: RowMapping) -> Any:
    return MEASURED.of_facts(row[KEY.name], {name: row[name] for name in MEASURED.facts})


def before(connection: Connection, wanted: Mapping[str, EventId]) -> dict[str, Before[Any]]:
    """Return the facts of finished entities before an event of theirs.

    Args:
        wanted: The event's id by the entity's id.
    """
    # Entities are read before corrections, so that a correction which is committed in between is seen.
    found: dict[str, Before[Any]] = {name: Before(None, OLDEST) for name in wanted}
    for some in chunks(sorted(wanted)):
        columns = (KEY, measured.c.last_event_id, *FACT_COLUMNS)
        for row in connection.execute(select(*columns).where(KEY.in_(some))).mappings():
            found[row[KEY.name]] = Before(_value(row), row["last_event_id"])
        for row in _corrections_of(connection, some):
            event_id = wanted[row[KEY.name]]
            if row["event_id"] >= event_id:  # newest first, so the one next to the event wins
                missing = all(row[name] is None for name in MEASURED.facts)
                found[row[KEY.name]] = Before(None if missing else _value(row), event_id)
    return found


def _corrections_of(connection: Connection, names: Sequence[str]) -> Iterable[RowMapping]:
    return connection.execute(
        select(corrections).where(corrections.c[KEY.name].in_(names)).order_by(corrections.c.event_id.desc())
    ).mappings()
