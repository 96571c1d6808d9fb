"""When something was last heard of what model calls spent, so that what nobody claims can go."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    big = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.add_column("spendings", sa.Column("last_event_id", big, nullable=False, server_default="0"))
    # What is there was heard at the latest just now.
    op.execute(
        "UPDATE spendings SET last_event_id ="
        " coalesce((SELECT event_id FROM checkpoints WHERE name = 'fold'), 0)"
    )
    unclaimed = sa.text("workflow_id IS NULL")
    op.create_index(
        "spendings_waiting",
        "spendings",
        ["last_event_id"],
        sqlite_where=unclaimed,
        postgresql_where=unclaimed,
    )


def downgrade() -> None:
    op.drop_index("spendings_waiting", "spendings")
    op.drop_column("spendings", "last_event_id")
