"""The store over SQL: one schema and one fold for SQLite and PostgreSQL."""
