"""The embedded form: one SQLite database is the log and the store."""

from heliograph.storage.embedded.form import open_embedded
from heliograph.storage.embedded.sqlite import migrate_sqlite

__all__ = ["migrate_sqlite", "open_embedded"]
