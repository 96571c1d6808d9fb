"""Indexes by which what a task did is found among its millions of lines, and by which tasks are grouped."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

NO_OUTPUT = sa.literal_column("topic") != sa.literal_column("'task.output'")
GROUPED = ["status", "agent", "model", "session_id", "created_at"]


def upgrade() -> None:
    op.create_index(
        "events_others", "events", ["channel", "id"], sqlite_where=NO_OUTPUT, postgresql_where=NO_OUTPUT
    )
    if op.get_bind().dialect.name == "sqlite":  # PostgreSQL's entries have less room than long names need
        op.create_index("tasks_grouped", "tasks", GROUPED)


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.drop_index("tasks_grouped", "tasks")
    op.drop_index("events_others", "events")
