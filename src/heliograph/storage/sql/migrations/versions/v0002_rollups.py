"""Rollups and corrections, computed costs and cached tokens of tasks; tasks that are there are added up."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from heliograph.storage.sql import rollups

revision = "0002"
down_revision = "0001"

BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")
DIMENSIONS = ("agent_type", "agent", "model", "status")
TOTALS = (
    "created",
    "finished",
    "succeeded",
    "failed",
    "cost_micros",
    "costs_computed",
    "input_tokens",
    "output_tokens",
    "duration_ms",
)


def upgrade() -> None:
    op.add_column("tasks", sa.Column("cost_computed", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("tasks", sa.Column("cached_tokens", BIG))
    op.create_table(
        "rollups",
        sa.Column("slot", BIG, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.Text, primary_key=True) for name in DIMENSIONS),
        *(sa.Column(name, BIG, nullable=False) for name in TOTALS),
        sa.Column("durations", sa.LargeBinary, nullable=False),
        sa.Column("errors", sa.Text, nullable=False),
    )
    op.create_table(
        "corrections",
        sa.Column("event_id", BIG, primary_key=True, autoincrement=False),
        sa.Column("task_id", sa.Text, nullable=False),
        *(sa.Column(name, sa.BigInteger) for name in ("created_at", "started_at", "finished_at")),
        *(sa.Column(name, sa.Text) for name in ("status", "agent_type", "agent", "model")),
        sa.Column("cost_micros", BIG),
        sa.Column("cost_computed", sa.Boolean),
        *(sa.Column(name, BIG) for name in ("input_tokens", "output_tokens", "cached_tokens")),
        sa.Column("error", sa.Text),
    )
    op.create_index("corrections_task_event", "corrections", ["task_id", "event_id"])
    rollups.rebuild(op.get_bind())


def downgrade() -> None:
    op.drop_table("corrections")
    op.drop_table("rollups")
    op.drop_column("tasks", "cached_tokens")
    op.drop_column("tasks", "cost_computed")
