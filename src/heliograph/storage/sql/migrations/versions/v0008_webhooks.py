"""Webhooks, their deliveries, and the secrets that are given over HTTP."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "deliveries",
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Text) for name in ("webhook_id", "provider", "event_type")),
        sa.Column("status", sa.Text, nullable=False),
        *(sa.Column(name, sa.Text) for name in ("reason", "matched_command", "task_id")),
        sa.Column("response_sent", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("delivery_id", sa.Text),
        sa.Column("payload_size", BIG),
        sa.Column("last_event_id", BIG, nullable=False),
    )
    op.create_index("deliveries_created", "deliveries", ["created_at", "event_id"])
    op.create_index("deliveries_webhook_created", "deliveries", ["webhook_id", "created_at", "event_id"])
    op.create_index("deliveries_task", "deliveries", ["task_id"])
    op.create_table(
        "webhooks",
        sa.Column("webhook_id", sa.Text, primary_key=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("definition", sa.Text),
        sa.Column("created_by", sa.Text),
        sa.Column("enabled", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.Column("removed", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("provider", sa.Text),
        *(
            sa.Column(name, sa.Text, nullable=False)
            for name in ("deliveries", "refused", "latencies", "hours")
        ),
        sa.Column("last_event_at", sa.BigInteger),
        sa.Column("last_event_id", BIG, nullable=False),
    )
    op.create_index("webhooks_created", "webhooks", ["created_at", "webhook_id"])
    op.create_table(
        "secrets",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )


def downgrade() -> None:
    for table in ("secrets", "webhooks", "deliveries"):
        op.drop_table(table)
