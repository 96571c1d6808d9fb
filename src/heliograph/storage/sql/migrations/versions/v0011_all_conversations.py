"""An index for lists of conversations with those that are archived, and one for old dispatches."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    columns = ["known", "deleted", "updated_at", "conversation_id"]
    op.create_index("conversations_all", "conversations", columns)
    for name in ("user", "flow"):
        op.drop_index(f"conversations_{name}", "conversations")
        op.create_index(f"conversations_{name}", "conversations", [f"{name}_id", *columns])
    op.create_index("dispatches_requested", "dispatches", ["requested_at"])


def downgrade() -> None:
    op.drop_index("dispatches_requested", "dispatches")
    op.drop_index("conversations_all", "conversations")
    for name in ("user", "flow"):
        op.drop_index(f"conversations_{name}", "conversations")
        op.create_index(
            f"conversations_{name}", "conversations", [f"{name}_id", "updated_at", "conversation_id"]
        )
