"""A name for the statuses that the runners of a run have told, by their times."""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.execute("ALTER TABLE runs RENAME COLUMN speakers TO status_times")


def downgrade() -> None:
    op.execute("ALTER TABLE runs RENAME COLUMN status_times TO speakers")
