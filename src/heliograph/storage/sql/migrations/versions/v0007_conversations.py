"""Conversations, their messages, and the words of their titles; what tasks add to them is added up."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")
BYTEWISE = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

OF_TASKS = sa.text("""
    INSERT INTO conversations (
      conversation_id, created_at, updated_at, user_id, metadata, is_archived, message_count,
      total_cost_nanos, total_tasks, total_duration_ms, started_at, completed_at, cleared_id,
      known, deleted, last_event_id
    )
    SELECT conversation_id, min(created_at), min(created_at), 'default-user', '{}', false, 0,
      coalesce(sum(cost_nanos), 0), count(*),
      coalesce(sum(CASE WHEN finished_at > coalesce(started_at, created_at)
        THEN CAST(round((finished_at - coalesce(started_at, created_at)) / 1000.0) AS BIGINT) ELSE 0 END), 0),
      min(started_at), max(finished_at), 0, false, false, 0
    FROM tasks WHERE conversation_id <> '' GROUP BY conversation_id
""")


def upgrade() -> None:
    op.create_table(
        "messages",
        sa.Column("id", sa.Text, primary_key=True),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("conversation_id", "message_id")),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("created_at", "updated_at")),
        sa.Column("role", sa.Text, nullable=False),
        *(sa.Column(name, sa.Text) for name in ("content", "task_id", "metadata")),
        *(sa.Column(name, BIG, nullable=False) for name in ("stored_id", "text_from", "last_event_id")),
    )
    op.create_index("messages_stored", "messages", ["conversation_id", "stored_id", "id"])
    op.create_table(
        "conversations",
        sa.Column("conversation_id", sa.Text, primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("created_at", "updated_at")),
        sa.Column("user_id", sa.Text, nullable=False),
        *(sa.Column(name, sa.Text) for name in ("title", "flow_id")),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("is_archived", sa.Boolean, nullable=False),
        *(
            sa.Column(name, BIG, nullable=False)
            for name in ("message_count", "total_cost_nanos", "total_tasks", "total_duration_ms")
        ),
        *(sa.Column(name, sa.BigInteger) for name in ("started_at", "completed_at")),
        sa.Column("cleared_id", BIG, nullable=False),
        *(sa.Column(name, sa.Boolean, nullable=False) for name in ("known", "deleted")),
        sa.Column("last_event_id", BIG, nullable=False),
    )
    for name, first in (
        ("updated", ("known", "deleted", "is_archived")),
        ("user", ("user_id",)),
        ("flow", ("flow_id",)),
    ):
        op.create_index(f"conversations_{name}", "conversations", [*first, "updated_at", "conversation_id"])
    op.create_table(
        "conversation_words",
        sa.Column("word", BYTEWISE, primary_key=True),
        sa.Column("conversation_id", sa.Text, primary_key=True),
    )
    op.create_index("conversation_words_conversation", "conversation_words", ["conversation_id", "word"])
    op.execute(OF_TASKS)


def downgrade() -> None:
    for table in ("conversation_words", "conversations", "messages"):
        op.drop_table(table)
