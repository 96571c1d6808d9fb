"""Sessions; those of the tasks that are there are added up."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")
ROWS = 2000

BY_STATUS = sa.text("""
    SELECT session_id, status, count(*) AS number,
      min(created_at) AS a, min(started_at) AS b, min(finished_at) AS c,
      max(created_at) AS x, max(started_at) AS y, max(finished_at) AS z,
      coalesce(sum(cost_micros), 0) AS cost_micros, coalesce(sum(input_tokens), 0) AS input_tokens,
      coalesce(sum(output_tokens), 0) AS output_tokens
    FROM tasks WHERE session_id <> '' GROUP BY session_id, status ORDER BY session_id, status
""")


def upgrade() -> None:
    sessions = op.create_table(
        "sessions",
        sa.Column("session_id", sa.Text, primary_key=True),
        sa.Column("first_seen", sa.BigInteger, nullable=False),
        sa.Column("last_seen", sa.BigInteger, nullable=False),
        sa.Column("tasks", sa.Text, nullable=False),
        *(sa.Column(name, BIG, nullable=False) for name in ("cost_micros", "input_tokens", "output_tokens")),
    )
    op.create_index("sessions_seen", "sessions", ["last_seen", "session_id"])
    connection = op.get_bind()
    made = []
    for session_id, rows in groupby(connection.execute(BY_STATUS).mappings().all(), _session_id):
        made.append(_session(session_id, list(rows)))
        if len(made) == ROWS:
            connection.execute(sessions.insert(), made)
            made = []
    if made:
        connection.execute(sessions.insert(), made)


def _session_id(row: Any) -> str:
    return str(row["session_id"])


def _session(session_id: str, rows: list[Any]) -> dict[str, Any]:
    moments = [row[name] for row in rows for name in "abcxyz" if row[name] is not None]
    return {
        "session_id": session_id,
        "first_seen": min(moments),
        "last_seen": max(moments),
        "tasks": json.dumps({row["status"]: row["number"] for row in rows}),
        **{
            name: int(sum(row[name] for row in rows))
            for name in ("cost_micros", "input_tokens", "output_tokens")
        },
    }


def downgrade() -> None:
    op.drop_table("sessions")
