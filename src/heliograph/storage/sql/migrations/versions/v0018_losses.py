"""The ranges of ids in which the log may have lost events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"

BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "losses",
        sa.Column("after_id", BIG, primary_key=True, autoincrement=False),
        sa.Column("before_id", BIG, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("losses")
