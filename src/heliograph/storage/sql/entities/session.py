"""The sessions' table."""

from __future__ import annotations

from sqlalchemy import Column, Index, Table, Text

from heliograph.model.session import SESSION
from heliograph.storage.sql.entity import Entity, Retired
from heliograph.storage.sql.schema import Big, Json, UtcMoment, metadata

sessions = Table(
    "sessions",
    metadata,
    Column("session_id", Text, primary_key=True),
    Column("first_seen", UtcMoment, nullable=False),
    Column("last_seen", UtcMoment, nullable=False),
    Column("tasks", Json, nullable=False),
    Column("cost_nanos", Big, nullable=False),
    Column("input_tokens", Big, nullable=False),
    Column("output_tokens", Big, nullable=False),
    Index("sessions_seen", "last_seen", "session_id"),
)

SESSIONS = Entity(
    kind=SESSION,
    table=sessions,
    filters={
        "since": lambda moment: sessions.c.last_seen >= moment,
        "until": lambda moment: sessions.c.last_seen < moment,
    },
    retired=Retired(sessions.c.last_seen),
)
