"""The distributed form: Redis is the log, PostgreSQL the store."""

from heliograph.storage.distributed.form import migrate_database, open_distributed

__all__ = ["migrate_database", "open_distributed"]
