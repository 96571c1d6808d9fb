"""An index by which old runs are found."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_index("runs_updated", "runs", ["updated_at"])


def downgrade() -> None:
    op.drop_index("runs_updated", "runs")
