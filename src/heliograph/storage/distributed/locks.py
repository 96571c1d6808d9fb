"""PostgreSQL's advisory locks, by which nodes agree on who does what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, func, select, text

LOCKS = 0x48656C69
"""The first key of all advisory locks ("Heli"); the second key says which."""
ARCHIVE_LOCK = 1
PREPARE_LOCK = 2


def try_session_lock(connection: Connection, which: int) -> bool:
    """Try to take an advisory lock for the life of the session; tell whether it was taken."""
    return bool(connection.scalar(select(func.pg_try_advisory_lock(LOCKS, which))))


_END_SILENT = text("""
    SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND database = datid AND datname = current_database()
    AND usename = current_user AND classid = :locks AND objid = :which AND granted
    AND wait_event = 'ClientRead' AND state_change < now() - make_interval(secs => :seconds)
""")


def end_silent_holder(connection: Connection, which: int, seconds: float) -> None:
    """End the session that holds an advisory lock, if PostgreSQL has waited ``seconds`` for its client.

    PostgreSQL's own timeouts (``session_engine``) apply between two commands only. Within a COPY, or between
    the statements of a pipeline, it would wait for a paused node for ever.
    """
    connection.execute(_END_SILENT, {"locks": LOCKS, "which": which, "seconds": seconds})


@contextmanager
def session_lock(connection: Connection, which: int) -> Iterator[None]:
    """Wait for an advisory lock and hold it in the body, across commits; an error closes the connection."""
    connection.execute(select(func.pg_advisory_lock(LOCKS, which)))
    try:
        yield
        connection.execute(select(func.pg_advisory_unlock(LOCKS, which)))
    except BaseException:
        connection.invalidate()
        raise
