"""Runs of workflows, their steps, and what they add up to; of what was told before this there is none."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")
SPENT = ("cost_nanos", "input_tokens", "output_tokens", "cached_tokens")


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.Text, primary_key=True),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("run_id", "workflow_id")),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("duration_ms", sa.Double),
        *(sa.Column(name, sa.Text) for name in ("trigger_type", "trigger_data", "result", "error")),
        *(sa.Column(name, BIG) for name in SPENT),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("steps", "speakers", "durations", "marks")),
        sa.Column("active", BIG),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("whole", "parts")),
        sa.Column("first_event_id", BIG, nullable=False),
    )
    op.create_index("runs_started", "runs", ["workflow_id", "started_at", "id"])
    op.create_index("runs_status_started", "runs", ["workflow_id", "status", "started_at", "id"])
    op.create_table(
        "steps",
        sa.Column("id", sa.Text, primary_key=True),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("run_id", "workflow_id", "name")),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("duration_ms", sa.Double),
        sa.Column("error", sa.Text),
        sa.Column("output", sa.Text),
        *(sa.Column(name, BIG) for name in SPENT),
        sa.Column("began", sa.BigInteger),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("starts", "ends", "earlier", "marks")),
    )
    op.create_index("steps_started", "steps", ["run_id", "workflow_id", "started_at", "id"])
    op.create_table(
        "spendings",
        sa.Column("run_id", sa.Text, primary_key=True),
        sa.Column("workflow_id", sa.Text),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("calls", "earlier")),
    )
    op.create_table(
        "workflows",
        sa.Column("workflow_id", sa.Text, primary_key=True),
        sa.Column("enabled", sa.Boolean),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("runs", "durations", "costs")),
        sa.Column("cost_nanos", BIG, nullable=False),
        sa.Column("last_run_id", sa.Text),
        sa.Column("last_started_at", sa.BigInteger),
        sa.Column("doubtful", sa.Boolean, nullable=False),
    )


def downgrade() -> None:
    for table in ("workflows", "spendings", "steps", "runs"):
        op.drop_table(table)
