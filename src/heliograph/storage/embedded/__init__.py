"""The embedded form: one SQLite database is the log and the store."""
