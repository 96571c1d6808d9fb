"""Dispatches of tasks to the engine."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    table = op.create_table(
        "dispatches",
        sa.Column("task_id", sa.Text, primary_key=True),
        sa.Column("requested_at", sa.BigInteger, nullable=False),
        sa.Column("request", sa.Text),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("sent_at", sa.BigInteger),
        sa.Column("alias", sa.Text),
        sa.Column("open", sa.Boolean, nullable=False),
        sa.Column("last_event_id", BIG, nullable=False),
    )
    op.create_index("ix_dispatches_alias", "dispatches", ["alias"])
    is_open = table.c.open == sa.true()
    op.create_index(
        "dispatches_open",
        "dispatches",
        ["requested_at", "task_id"],
        sqlite_where=is_open,
        postgresql_where=is_open,
    )


def downgrade() -> None:
    op.drop_table("dispatches")
