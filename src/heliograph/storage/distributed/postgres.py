"""PostgreSQL: the engine, calls that always end, and the advisory locks.

A call may meet a server that is gone, one that refuses, or one that no longer answers. A server that is gone
is an outage (``Unavailable``), and so is every error that a server reports unless our statement caused it. A
server that refuses (password, database, schema) is reported with the setting to mend. libpq does not bound a
connection whose peer acknowledges bytes and never answers; the ``Watch`` does: it shuts down the sockets of
an overdue call, and the worker thread that waits there gets its error.
"""

from __future__ import annotations

import math
import os
import re
import select as polling
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

import attrs
import psycopg
import trio
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    NullPool,
    Pool,
    QueuePool,
    create_engine,
    event,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    DisconnectionError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from heliograph.model.errors import SettingsError, Unavailable
from heliograph.storage.settings import PostgresSettings
from heliograph.storage.sql import migrate
from heliograph.storage.sql.database import Database

P = ParamSpec("P")
T = TypeVar("T")

CONNECT_SECONDS = 3
GRACE_SECONDS = 2.0
"""The time that a call gets beyond its statement's timeout, so that PostgreSQL's own timeout comes first."""

LONG_SECONDS = 300.0
"""The longest time for a call that reads a large answer bit by bit."""

LOCKS = 0x48656C69
"""The first key of all advisory locks ("Heli"); the second key says which."""
ARCHIVE_LOCK = 1
PREPARE_LOCK = 2

_DRIVERS = ("postgres", "postgresql", "postgresql+asyncpg", "postgresql+psycopg", "postgresql+psycopg2")

# libpq gives no code for a refused connection, only the server's words.
_REFUSALS = re.compile(
    r"password authentication failed|no password supplied|no pg_hba\.conf entry"
    r'|(?:role|database|user) "[^"]*" (?:does not exist|is not permitted to log in)'
    r"|permission denied for database|server does not support SSL|certificate|invalid .* (?:option|value)"
)


def database_url(text: str) -> URL:
    """Parse a database URL in any of the forms that PostgreSQL's Python drivers take.

    Raises:
        SettingsError: Not the URL of a PostgreSQL database.
    """
    try:
        url = make_url(text)
    except ArgumentError:
        url = None
    if url is None or url.drivername not in _DRIVERS:
        raise SettingsError(
            ["storage.database_url: must be postgresql://user:password@host:5432/database (DATABASE_URL)"]
        )
    query = dict(url.query)
    if "ssl" in query:  # asyncpg's name for it
        mode = str(query.pop("ssl"))
        query["sslmode"] = {"true": "require", "false": "disable"}.get(mode.lower(), mode)
    return url.set(drivername="postgresql+psycopg", query=query)


def refusal(error: BaseException | None) -> str | None:
    """Return the refusal of a server that can be reached; ``None`` if it is merely away."""
    words = " ".join(str(getattr(error, "orig", None) or error).split())
    return f"storage.database_url: {words} (DATABASE_URL)" if _REFUSALS.search(words) else None


_AWAY = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout)

_BUGS = re.compile("22|23|42601|42P02|42P08|42P18|4280[34]")
"""Prefixes of the SQLSTATE codes that mean a bug: bad values, broken constraints, invalid statements. Any
other error (the server is read-only, a right or a table is missing) is an outage: somebody is at work on the
server, and it ends by itself."""

READ_ONLY = "25006"


def is_outage(error: BaseException | None) -> bool:
    """Tell whether an error of the driver is an outage, and not a bug of ours."""
    if isinstance(error, _AWAY):
        return True
    code = getattr(error, "sqlstate", None)
    return isinstance(error, psycopg.Error) and code is not None and _BUGS.match(code) is None


@contextmanager
def translated() -> Iterator[None]:
    """Turn the driver's ways to say "not now" into ``Unavailable``.

    Raises:
        Unavailable: The server is away or refuses.
    """
    try:
        yield
    except (DBAPIError, PoolTimeout, psycopg.Error) as error:
        cause = getattr(error, "orig", error)
        if not is_outage(cause):
            raise
        words = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        raise Unavailable(refusal(error) or f"PostgreSQL: {words}") from error


@attrs.define(eq=False)
class _Call:
    """One worker thread's call: its deadline and its sockets."""

    deadline: float
    sockets: list[socket.socket] = attrs.field(factory=list)

    def cut(self) -> None:
        for used in self.sockets:
            with suppress(OSError):  # the call is just ending by itself
                used.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for used in self.sockets:
            used.close()


@contextmanager
def refusals_named() -> Iterator[None]:
    """Like ``translated``, but a refusal is a ``SettingsError``: for the start, where it can be mended.

    Raises:
        SettingsError: The server refuses.
        Unavailable: The server is away.
    """
    try:
        with translated():
            yield
    except Unavailable as error:
        refused = refusal(error.__cause__)
        if refused is not None:
            raise SettingsError([refused]) from error
        raise


def require_schema(connection: Connection) -> None:
    """Make sure that the schema is this program's.

    Raises:
        Unavailable: It is not; the message names the command that mends it.
    """
    try:
        migrate.check(connection)
    except SettingsError as error:
        raise Unavailable(str(error)) from error


class Watch:
    """Ends calls that outlast their time by shutting down the sockets they use."""

    def __init__(self) -> None:
        self._calls: set[_Call] = set()
        self._here = threading.local()

    @contextmanager
    def call(self, seconds: float) -> Iterator[_Call]:
        """Bound the calling thread's use of watched connections in the body to ``seconds``."""
        call = self._here.call = _Call(time.monotonic() + seconds)
        self._calls.add(call)
        try:
            yield call
        finally:
            self._calls.discard(call)
            self._here.call = None
            call.close()

    async def run(self) -> None:
        """End overdue calls until cancelled; then end all that are left after ``GRACE_SECONDS``."""
        try:
            while True:
                await trio.sleep(0.5)
                self._cut(time.monotonic())
        finally:
            with trio.move_on_after(GRACE_SECONDS, shield=True):
                while self._calls:  # noqa: ASYNC110 - threads tell nobody
                    await trio.sleep(0.02)
            self._cut(math.inf)

    def _cut(self, now: float) -> None:
        for call in list(self._calls):
            if call.deadline < now:
                call.cut()

    def add(self, engine: Engine) -> None:
        """Watch an engine's connections.

        A pooled connection with unread bytes, or an end of file, is pinged before it is used again.
        """

        @event.listens_for(engine, "connect", insert=True)
        def connected(connection: psycopg.Connection[Any], _: object) -> None:
            self.uses(connection)

        @event.listens_for(engine, "checkout")
        def taken(connection: psycopg.Connection[Any], _: object, __: object) -> None:
            self.uses(connection)
            if not _has_news(connection.fileno()):
                return
            try:
                engine.dialect.do_ping(connection)  # type: ignore[arg-type]
            except psycopg.Error as error:
                if self._overdue():
                    raise  # trying another connection would take as long again
                raise DisconnectionError from error

    def _overdue(self) -> bool:
        call: _Call | None = getattr(self._here, "call", None)
        return call is not None and call.deadline < time.monotonic()

    def uses(self, connection: psycopg.Connection[Any]) -> None:
        """Add a copy of this connection's socket to the calling thread's call."""
        call: _Call | None = getattr(self._here, "call", None)
        if call is not None:
            call.sockets.append(socket.socket(fileno=os.dup(connection.fileno())))


def _has_news(descriptor: int) -> bool:
    """Tell whether a socket has unread bytes or an end of file."""
    poll = polling.poll()
    poll.register(descriptor, polling.POLLIN)
    return bool(poll.poll(0))


class PostgresDatabase(Database):
    """A database whose calls end within their time, and fail with ``Unavailable`` when it is away.

    Args:
        url: The URL that ``database_url`` returned.
        settings: Size of the pool, and timeouts.
    """

    def __init__(self, url: URL, settings: PostgresSettings) -> None:
        milliseconds = round(settings.statement_timeout * 1000)
        engine = _engine(
            url, {"statement_timeout": milliseconds}, QueuePool, pool_size=settings.pool_size, max_overflow=0
        )
        super().__init__(engine, settings.pool_size)
        # Under READ COMMITTED each statement has its own snapshot anyway, so questions need no transaction.
        self._reading = engine.execution_options(isolation_level="AUTOCOMMIT")
        self.watch = Watch()
        self.watch.add(engine)
        self._seconds = settings.statement_timeout + GRACE_SECONDS
        self._schema_is_right = False

    def probe(self) -> None:
        """Connect and check the schema, in the calling thread.

        Raises:
            SettingsError: The server refuses, or the schema is not this program's.
            Unavailable: The server is away.
        """
        with refusals_named(), self.watch.call(self._seconds), self.engine.connect() as connection:
            migrate.check(connection)

    def call(
        self, connect: Callable[[], Any], work: Callable[[Connection], T], seconds: float | None = None
    ) -> T:
        """Run ``work(connection)`` in the calling thread, over a connection from ``connect``.

        Args:
            seconds: The longest time once it is connected; ``None``: the timeout of one statement.
        """
        with translated(), self.watch.call(self._seconds) as watched:
            if not self._schema_is_right:
                with self.engine.connect() as connection:  # ``work`` may begin a transaction on its own
                    require_schema(connection)
                self._schema_is_right = True
            try:
                with connect() as connection:
                    watched.deadline = time.monotonic() + (seconds or self._seconds)
                    return work(connection)
            except (DBAPIError, psycopg.Error) as error:
                if getattr(getattr(error, "orig", error), "sqlstate", None) == READ_ONLY:
                    self.engine.dispose()  # a failover leaves dead connections behind; the pool may hold more
                raise

    async def read(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Do what ``Database.read`` does; when cancelled, leave the thread behind.

        Raises:
            Unavailable: The database can't be read now.
        """
        return await self._read(lambda connection: query(connection, *args, **kwargs), None)

    async def read_long(self, query: Callable[[Connection], T]) -> T:
        """Do what ``read`` does, for a large answer; each statement has its own timeout.

        Raises:
            Unavailable: The database can't be read now.
        """
        return await self._read(query, LONG_SECONDS)

    async def _read(self, query: Callable[[Connection], T], seconds: float | None) -> T:
        return await trio.to_thread.run_sync(
            self.call, self._reading.connect, query, seconds, limiter=self._limiter, abandon_on_cancel=True
        )

    async def _call(self, connect: Callable[[], Any], work: Callable[[Connection], T]) -> T:
        return await trio.to_thread.run_sync(self.call, connect, work, limiter=self._limiter)


def session_engine(url: URL, settings: PostgresSettings) -> Engine:
    """Make an engine for sessions that hold a lock; PostgreSQL ends those that fall silent.

    So a paused or cut off node loses its lock.
    """
    silence = round(settings.takeover_seconds * 1000)
    parameters = {
        "statement_timeout": round(settings.statement_timeout * 3000),
        "idle_session_timeout": silence,
        "idle_in_transaction_session_timeout": silence,
    }
    return _engine(url, parameters, NullPool)


def _engine(url: URL, parameters: dict[str, int], pool: type[Pool], **pool_arguments: int) -> Engine:
    return create_engine(
        url,
        poolclass=pool,
        connect_args={
            "connect_timeout": CONNECT_SECONDS,
            "application_name": "heliograph",
            "options": " ".join(f"-c {name}={value}" for name, value in parameters.items()),
        },
        **pool_arguments,
    )


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
