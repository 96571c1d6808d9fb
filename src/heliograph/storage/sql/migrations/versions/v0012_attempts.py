"""Attempts of a task that runs again, and what those before the last have spent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.add_column("tasks", sa.Column("attempts", sa.Integer, nullable=False, server_default="1"))
    op.add_column("tasks", sa.Column("earlier", sa.Text))
    op.add_column("corrections", sa.Column("earlier", sa.Text))


def downgrade() -> None:
    op.drop_column("corrections", "earlier")
    op.drop_column("tasks", "earlier")
    op.drop_column("tasks", "attempts")
