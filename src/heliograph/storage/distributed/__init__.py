"""The distributed form: Redis is the log, PostgreSQL the store."""
