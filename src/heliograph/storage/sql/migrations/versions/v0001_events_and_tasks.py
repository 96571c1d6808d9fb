"""Events, channels, idempotency keys, checkpoints, counters and tasks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("id", BIG, primary_key=True, autoincrement=False),
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("seq", BIG, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("timestamp", sa.BigInteger, nullable=False),
        sa.Column("sender", sa.Text),
        sa.Column("correlation_id", sa.Text),
        sa.Column("payload", sa.Text, nullable=False),
    )
    op.create_index("events_channel_seq", "events", ["channel", "seq"], unique=True)
    op.create_index("events_channel_id", "events", ["channel", "id"])
    op.create_index("events_topic_id", "events", ["topic", "id"])
    op.create_table(
        "channels",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("head_seq", BIG, nullable=False),
        sa.Column("trimmed_id", BIG, nullable=False, server_default="0"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("event_id", BIG, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_idempotency_keys_expires_at", "idempotency_keys", ["expires_at"])
    op.create_table(
        "checkpoints",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("event_id", BIG, nullable=False),
    )
    counters = op.create_table(
        "counters",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", BIG, nullable=False),
    )
    op.bulk_insert(counters, [{"name": "events", "value": 0}])
    op.create_table(
        "tasks",
        sa.Column("task_id", sa.Text, primary_key=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        *(
            sa.Column(name, sa.Text)
            for name in ("name", "agent", "agent_type", "model", "session_id", "conversation_id")
        ),
        sa.Column("input", sa.Text),
        sa.Column("metadata", sa.Text),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("output_lines", BIG, nullable=False),
        sa.Column("output_bytes", BIG, nullable=False),
        sa.Column("cost_micros", BIG),
        sa.Column("input_tokens", BIG),
        sa.Column("output_tokens", BIG),
        sa.Column("error", sa.Text),
        sa.Column("result", sa.Text),
        sa.Column("last_seq", BIG, nullable=False),
        sa.Column("last_event_id", BIG, nullable=False),
        sa.Column("finished_event_id", BIG),
    )
    op.create_index("tasks_created", "tasks", ["created_at", "task_id"])
    op.create_index("tasks_status_created", "tasks", ["status", "created_at", "task_id"])
    op.create_index("tasks_agent_created", "tasks", ["agent", "created_at", "task_id"])


def downgrade() -> None:
    for table in ("tasks", "counters", "checkpoints", "idempotency_keys", "channels", "events"):
        op.drop_table(table)
