"""Money in nano-dollars, tokens that came from a cache or went to one, and tasks whose cost nobody knows.

A rollup has to stay what its tasks add up to, so the tasks whose tokens have no cost are counted into it, and
those whose cached tokens are beside their input.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")
MONEY = ("tasks", "corrections", "sessions", "rollups")
SLOT = 15 * 60 * 1_000_000
DIMENSIONS = ("agent_type", "agent", "model")

PLACE = ", ".join(f"coalesce(substr(nullif({name}, ''), 1, 100), 'unknown') AS {name}" for name in DIMENSIONS)
TASKS = sa.text(f"""
    SELECT finished_at / {SLOT} AS slot, {PLACE}, status,
      sum(CASE WHEN cost_micros IS NULL THEN 1 ELSE 0 END) AS costs_unknown,
      sum(CASE WHEN cached_tokens > coalesce(input_tokens, 0) THEN cached_tokens ELSE 0 END) AS cached_beside
    FROM tasks
    WHERE finished_at IS NOT NULL
      AND coalesce(input_tokens, output_tokens, cached_tokens) IS NOT NULL
    GROUP BY 1, 2, 3, 4, 5
""")
SESSIONS = sa.text("""
    SELECT session_id, sum(cached_tokens) AS cached_beside
    FROM tasks WHERE session_id <> '' AND cached_tokens > coalesce(input_tokens, 0) GROUP BY session_id
""")


def upgrade() -> None:
    connection = op.get_bind()
    op.add_column("rollups", sa.Column("costs_unknown", BIG, nullable=False, server_default="0"))
    for row in connection.execute(TASKS).mappings().all():
        _add(connection, row)
    for row in connection.execute(SESSIONS).mappings().all():
        update = "UPDATE sessions SET input_tokens = input_tokens + :beside WHERE session_id = :session_id"
        beside = int(row["cached_beside"])
        connection.execute(sa.text(update), {"session_id": row["session_id"], "beside": beside})
    for table in MONEY:
        connection.execute(sa.text(f"UPDATE {table} SET cost_micros = cost_micros * 1000"))
        connection.execute(sa.text(f"ALTER TABLE {table} RENAME COLUMN cost_micros TO cost_nanos"))
    for table in ("tasks", "corrections"):
        op.add_column(table, sa.Column("cache_read_tokens", BIG))
        op.add_column(table, sa.Column("cache_write_tokens", BIG))


def _add(connection: sa.Connection, row: Any) -> None:
    update = """
        UPDATE rollups SET costs_unknown = costs_unknown + :unknown, input_tokens = input_tokens + :beside
        WHERE slot = :slot AND agent_type = :agent_type AND agent = :agent AND model = :model
          AND status = :status
    """
    place = {name: row[name] for name in ("slot", *DIMENSIONS, "status")}
    added = {"unknown": int(row["costs_unknown"]), "beside": int(row["cached_beside"])}
    connection.execute(sa.text(update), {**place, **added})


def downgrade() -> None:
    connection = op.get_bind()
    for table in ("tasks", "corrections"):
        op.drop_column(table, "cache_write_tokens")
        op.drop_column(table, "cache_read_tokens")
    for table in MONEY:
        connection.execute(sa.text(f"ALTER TABLE {table} RENAME COLUMN cost_nanos TO cost_micros"))
        connection.execute(sa.text(f"UPDATE {table} SET cost_micros = cost_micros / 1000"))
    op.drop_column("rollups", "costs_unknown")
