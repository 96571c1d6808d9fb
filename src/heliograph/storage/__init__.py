"""Log and store: the two protocols and their forms on SQLite, Redis and PostgreSQL."""
