"""Indexes by which the events of a sender, and those that belong together, are found among millions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

NAMES = ("sender", "correlation_id")


def upgrade() -> None:
    for name in NAMES:
        said = sa.column(name).is_not(None)
        op.create_index(f"events_{name}", "events", [name, "id"], sqlite_where=said, postgresql_where=said)


def downgrade() -> None:
    for name in NAMES:
        op.drop_index(f"events_{name}", "events")
