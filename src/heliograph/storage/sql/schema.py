"""The types of columns, and the tables of the log; in SQLAlchemy Core, for SQLite and PostgreSQL.

Every entity has its table in ``entities``, and the rollups have theirs in ``rollups``.

Times are whole microseconds since the epoch in a bigint, money is whole nano-dollars: exact in both
databases and cheap to compare. JSON is kept as the text it was published as.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    column,
    literal_column,
)
from sqlalchemy.engine import Dialect

from heliograph.model.channels import AUDIT, EVERYTHING, WHOLE
from heliograph.model.ids import from_microseconds, to_microseconds

metadata = MetaData()

Big = BigInteger().with_variant(Integer, "sqlite")
"""64 bits in both databases; in SQLite only a column declared INTEGER becomes the rowid."""


class UtcMoment(TypeDecorator[datetime]):
    """An aware UTC datetime, stored as microseconds since the epoch."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """Turn a datetime into microseconds."""
        return None if value is None else to_microseconds(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        """Turn microseconds into a datetime."""
        return None if value is None else from_microseconds(value)


class Json(TypeDecorator[Any]):
    """A JSON value, stored as text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Encode the value as JSON."""
        return None if value is None else orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """Decode the value."""
        return None if value is None else orjson.loads(value)


def _index_where_set(table: str, name: str) -> Index:
    """Make an index of a column that most rows leave empty; empty rows are not in it."""
    said = column(name).is_not(None)
    return Index(f"{table}_{name}", name, "id", sqlite_where=said, postgresql_where=said)


OUTPUT = "task.output"
NO_OUTPUT = literal_column("topic") != literal_column(f"'{OUTPUT}'")
"""The condition of the index without output; a database uses it for queries with the same condition."""

UNNAMED = {EVERYTHING: "all", WHOLE: "whole"}
"""The selectors that name no channel: ``EVERYTHING`` leaves the audit out, ``WHOLE`` does not."""

NO_AUDIT = literal_column("channel") != literal_column(f"'{AUDIT}'")

events = Table(
    "events",
    metadata,
    Column("id", Big, primary_key=True, autoincrement=False),
    Column("channel", Text, nullable=False),
    Column("seq", Big, nullable=False),
    Column("topic", Text, nullable=False),
    Column("timestamp", UtcMoment, nullable=False),
    Column("sender", Text),
    Column("correlation_id", Text),
    Column("payload", Text, nullable=False),
    Index("events_channel_seq", "channel", "seq", unique=True),
    Index("events_channel_id", "channel", "id"),
    Index("events_topic_id", "topic", "id"),
    # The other events of a task with millions of lines.
    Index("events_others", "channel", "id", sqlite_where=NO_OUTPUT, postgresql_where=NO_OUTPUT),
    *(_index_where_set("events", name) for name in ("sender", "correlation_id")),
)

channels = Table(
    "channels",
    metadata,
    Column("name", Text, primary_key=True),
    Column("head_seq", Big, nullable=False),
    Column("trimmed_id", Big, nullable=False, server_default="0"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("key", Text, primary_key=True),
    Column("event_id", Big, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("expires_at", UtcMoment, nullable=False, index=True),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("name", Text, primary_key=True),
    Column("event_id", Big, nullable=False),
)

losses = Table(
    "losses",
    metadata,
    Column("after_id", Big, primary_key=True, autoincrement=False),
    Column("before_id", Big, nullable=False),
)

counters = Table(
    "counters",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Big, nullable=False),
)

FOLDED = "fold"
"""The checkpoint that names the last event folded into the tables."""

FORGOTTEN = "forgotten"
"""The checkpoint that names the newest event that any forgotten channel has lost (see ``forgetting``)."""

CHANGED = "rollups"
"""The checkpoint that names the last event that changed any rollup."""
