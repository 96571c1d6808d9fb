"""The dispatches' table."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Index, Integer, Table, Text, false, true

from heliograph.model.dispatch import DISPATCH
from heliograph.storage.sql.entity import Entity, Retired
from heliograph.storage.sql.schema import Big, Json, UtcMoment, metadata

dispatches = Table(
    "dispatches",
    metadata,
    Column("task_id", Text, primary_key=True),
    Column("requested_at", UtcMoment, nullable=False),
    Column("request", Json),
    Column("attempts", Integer, nullable=False),
    Column("sent_at", UtcMoment),
    Column("alias", Text, index=True),
    Column("open", Boolean, nullable=False),
    Column("last_event_id", Big, nullable=False),
    Index("dispatches_requested", "requested_at"),
)
Index(
    "dispatches_open",
    dispatches.c.requested_at,
    dispatches.c.task_id,
    sqlite_where=dispatches.c.open == true(),
    postgresql_where=dispatches.c.open == true(),
)

DISPATCHES = Entity(
    kind=DISPATCH,
    table=dispatches,
    large=("request",),
    retired=Retired(dispatches.c.requested_at, lambda moment: dispatches.c.open == false()),
)
