"""The tables of runs, of their steps and model calls, and of workflows with the sums over their runs."""

from __future__ import annotations

import orjson
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Double,
    Index,
    Integer,
    Table,
    Text,
    bindparam,
    cast,
    func,
    select,
    text,
)

from heliograph.model.workflows.record import RECORD
from heliograph.model.workflows.run import RUN
from heliograph.model.workflows.spending import SPENDING
from heliograph.model.workflows.step import STEP
from heliograph.storage.sql.entity import Entity, Probed
from heliograph.storage.sql.schema import Big, Json, UtcMoment, metadata

SPENT = ("cost_nanos", "input_tokens", "output_tokens", "cached_tokens")

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    *(Column(name, Text, nullable=False) for name in ("run_id", "workflow_id")),
    Column("started_at", UtcMoment, nullable=False),
    Column("updated_at", UtcMoment, nullable=False),
    Column("status", Text, nullable=False),
    Column("finished_at", UtcMoment),
    Column("duration_ms", Double),
    Column("trigger_type", Text),
    Column("trigger_data", Json),
    Column("result", Json),
    Column("error", Text),
    *(Column(name, Big) for name in SPENT),
    Column("steps", Json, nullable=False),
    Column("status_times", Json, nullable=False),
    Column("durations", Json, nullable=False),
    Column("marks", Json, nullable=False),
    Column("active", Big),
    *(Column(name, Json, nullable=False) for name in ("whole", "parts")),
    Column("first_event_id", Big, nullable=False),
    Index("runs_started", "workflow_id", "started_at", "id"),
    Index("runs_updated", "updated_at"),
    Index("runs_status_started", "workflow_id", "status", "started_at", "id"),
)

steps = Table(
    "steps",
    metadata,
    Column("id", Text, primary_key=True),
    *(Column(name, Text, nullable=False) for name in ("run_id", "workflow_id", "name")),
    Column("started_at", UtcMoment, nullable=False),
    Column("updated_at", UtcMoment, nullable=False),
    Column("status", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("finished_at", UtcMoment),
    Column("duration_ms", Double),
    Column("error", Text),
    Column("output", Json),
    *(Column(name, Big) for name in SPENT),
    Column("began", UtcMoment),
    *(Column(name, Json, nullable=False) for name in ("starts", "ends", "earlier", "marks")),
    Index("steps_started", "run_id", "workflow_id", "started_at", "id"),
)

spendings = Table(
    "spendings",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("workflow_id", Text),
    *(Column(name, Json, nullable=False) for name in ("calls", "earlier")),
    Column("last_event_id", Big, nullable=False),
    Index(
        "spendings_waiting",
        "last_event_id",
        sqlite_where=text("workflow_id IS NULL"),
        postgresql_where=text("workflow_id IS NULL"),
    ),
)

records = Table(
    "workflows",
    metadata,
    Column("workflow_id", Text, primary_key=True),
    Column("enabled", Boolean),
    *(Column(name, Json, nullable=False) for name in ("runs", "durations", "costs")),
    Column("cost_nanos", Big, nullable=False),
    Column("last_run_id", Text),
    Column("last_started_at", UtcMoment),
    Column("doubtful", Boolean, nullable=False),
)


def _none_of(connection: Connection, names: tuple[str, ...]) -> Probed:
    """Return the condition that a step has none of ``names``: one parameter for up to thousands."""
    dialect = connection.dialect.name
    return Probed(("none of", dialect), lambda: _not_listed(dialect), {"but": orjson.dumps(names).decode()})


def _not_listed(dialect: str) -> ColumnElement[bool]:
    listed = bindparam("but", type_=Text)
    if dialect == "postgresql":
        each = func.json_array_elements_text(cast(listed, JSON)).table_valued(Column("value", Text))
    else:
        each = func.json_each(listed).table_valued(Column("value", Text))
    return steps.c.name.not_in(select(each.c.value))


STEPS = Entity(
    kind=STEP, table=steps, large=("output",), filters={"ids": steps.c.id.in_}, probed={"but": _none_of}
)

SPENDINGS = Entity(kind=SPENDING, table=spendings)

RUNS = Entity(
    kind=RUN,
    table=runs,
    filters={
        "statuses": runs.c.status.in_,
        "ids": runs.c.id.in_,
        "since": lambda moment: runs.c.started_at >= moment,
        "until": lambda moment: runs.c.started_at < moment,
    },
    large=("trigger_data", "result"),
)

RECORDS = Entity(kind=RECORD, table=records, filters={"ids": records.c.workflow_id.in_})
