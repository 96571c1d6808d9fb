"""Which tasks have announced a heartbeat, and an index of those that have not ended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")
BEATING = sa.text("heartbeat_ms IS NOT NULL AND finished_at IS NULL")


def upgrade() -> None:
    op.add_column("tasks", sa.Column("heartbeat_ms", BIG))
    op.create_index(
        "tasks_beating", "tasks", ["created_at", "task_id"], postgresql_where=BEATING, sqlite_where=BEATING
    )


def downgrade() -> None:
    op.drop_index("tasks_beating", "tasks")
    op.drop_column("tasks", "heartbeat_ms")
