"""PostgreSQL: the engine, calls that always end, and the advisory locks.

A call may meet a server that is gone, one that refuses, or one that says nothing any more. Gone is an
outage (``Unavailable``), and so is whatever a server says that is there, unless it is about what we sent. A
server that refuses (password, database, schema) is named with the setting to mend. Nothing in libpq bounds a
connection whose peer acknowledges bytes and never answers; the ``Watch`` does: it shuts down the
sockets of a call that outlasts its time, and the worker thread that waits there gets its error.
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
"""How much longer than its statement's timeout a call may take: PostgreSQL speaks first."""

LONG_SECONDS = 300.0
"""How long a call may take that reads a large answer bit by bit."""

LOCKS = 0x48656C69
"""The namespace of our advisory locks ("Heli"); the second key says which."""
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
    """Read a database URL in any of the forms that PostgreSQL's Python drivers take.

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
    if "ssl" in query:  # as asyncpg names it, or SQLAlchemy for it
        mode = str(query.pop("ssl"))
        query["sslmode"] = {"true": "require", "false": "disable"}.get(mode.lower(), mode)
    return url.set(drivername="postgresql+psycopg", query=query)


def refusal(error: BaseException | None) -> str | None:
    """Return what a server that is there refused, ``None`` when it is merely away."""
    words = " ".join(str(getattr(error, "orig", None) or error).split())
    return f"storage.database_url: {words} (DATABASE_URL)" if _REFUSALS.search(words) else None


_AWAY = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout)

_BUGS = re.compile("22|23|42601|42P02|42P08|42P18|4280[34]")
"""Beginnings of the codes of errors that are ours: bad values, broken constraints, statements that make no
sense. Whatever else a server says, such as that it is read-only, that a right is missing or that a table is
not there, is an outage: somebody is at work on it, and it ends without us."""

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
    """What one worker thread is doing, and until when it may."""

    deadline: float
    sockets: list[socket.socket] = attrs.field(factory=list)

    def cut(self) -> None:
        for used in self.sockets:
            with suppress(OSError):  # it is just ending by itself
                used.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for used in self.sockets:
            used.close()


@contextmanager
def refusals_named() -> Iterator[None]:
    """Like ``translated``, but a refusal is an error of the settings: for those who can still mend them.

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
        Unavailable: It is not; says which command mends it.
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
        """Bound what the calling thread does inside over connections of the engines that are watched."""
        call = self._here.call = _Call(time.monotonic() + seconds)
        self._calls.add(call)
        try:
            yield call
        finally:
            self._calls.discard(call)
            self._here.call = None
            call.close()

    async def run(self) -> None:
        """End overdue calls until cancelled; then those that don't end by themselves in a moment."""
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

        One on which something has come since it was used, such as its end, is asked whether it is alive.
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
                    raise  # another connection would take as long once more
                raise DisconnectionError from error

    def _overdue(self) -> bool:
        call: _Call | None = getattr(self._here, "call", None)
        return call is not None and call.deadline < time.monotonic()

    def uses(self, connection: psycopg.Connection[Any]) -> None:
        """Tell that the calling thread's call waits for this connection; by its own copy of the socket."""
        call: _Call | None = getattr(self._here, "call", None)
        if call is not None:
            call.sockets.append(socket.socket(fileno=os.dup(connection.fileno())))


def _has_news(descriptor: int) -> bool:
    """Tell whether something has come on a socket, if only its end."""
    poll = polling.poll()
    poll.register(descriptor, polling.POLLIN)
    return bool(poll.poll(0))


class PostgresDatabase(Database):
    """A database whose calls end within their time, and fail with ``Unavailable`` when it is away.

    Args:
        url: As ``database_url`` returns it.
        settings: Pool and timeouts.
    """

    def __init__(self, url: URL, settings: PostgresSettings) -> None:
        milliseconds = round(settings.statement_timeout * 1000)
        engine = _engine(
            url, {"statement_timeout": milliseconds}, QueuePool, pool_size=settings.pool_size, max_overflow=0
        )
        super().__init__(engine, settings.pool_size)
        # Each statement of a question sees its own moment anyway: no transaction need begin and end.
        self._reading = engine.execution_options(isolation_level="AUTOCOMMIT")
        self.watch = Watch()
        self.watch.add(engine)
        self._seconds = settings.statement_timeout + GRACE_SECONDS
        self._schema_is_right = False

    def probe(self) -> None:
        """Connect and look at the schema, in the calling thread.

        Raises:
            SettingsError: The server refuses, or the schema is not this program's.
            Unavailable: The server is away.
        """
        with refusals_named(), self.watch.call(self._seconds), self.engine.connect() as connection:
            migrate.check(connection)

    def call(
        self, connect: Callable[[], Any], work: Callable[[Connection], T], seconds: float | None = None
    ) -> T:
        """Do what ``read`` and ``write`` do, in the calling thread.

        Args:
            seconds: How long it may take once it is connected; ``None``: as long as one statement.
        """
        with translated(), self.watch.call(self._seconds) as watched:
            if not self._schema_is_right:
                with self.engine.connect() as connection:  # its own: work may want to begin a transaction
                    require_schema(connection)
                self._schema_is_right = True
            try:
                with connect() as connection:
                    watched.deadline = time.monotonic() + (seconds or self._seconds)
                    return work(connection)
            except (DBAPIError, psycopg.Error) as error:
                if getattr(getattr(error, "orig", error), "sqlstate", None) == READ_ONLY:
                    self.engine.dispose()  # a failover leaves such connections behind; others may be there
                raise

    async def read(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Do what ``Database.read`` does; when it is cancelled, nobody waits for its end.

        Raises:
            Unavailable: The database can't be read now.
        """
        return await self._read(lambda connection: query(connection, *args, **kwargs), None)

    async def read_long(self, query: Callable[[Connection], T]) -> T:
        """Do what ``read`` does, for an answer that takes its time to read; each statement is timed alone.

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
    """Make an engine for sessions that hold a lock, which PostgreSQL ends when they fall silent.

    A paused or cut off node thereby loses its lock without anybody asking it.
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
    """Take an advisory lock for as long as the session lives; tell whether nobody else holds it."""
    return bool(connection.scalar(select(func.pg_try_advisory_lock(LOCKS, which))))


_END_SILENT = text("""
    SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND database = datid AND datname = current_database()
    AND usename = current_user AND classid = :locks AND objid = :which AND granted
    AND wait_event = 'ClientRead' AND state_change < now() - make_interval(secs => :seconds)
""")


def end_silent_holder(connection: Connection, which: int, seconds: float) -> None:
    """End the session that holds an advisory lock if PostgreSQL has waited for its client for so long.

    PostgreSQL's own timeouts (``session_engine``) are for sessions between two commands. Within a COPY, or
    between the statements of a pipeline, it would wait for a paused node for ever.
    """
    connection.execute(_END_SILENT, {"locks": LOCKS, "which": which, "seconds": seconds})


@contextmanager
def session_lock(connection: Connection, which: int) -> Iterator[None]:
    """Wait for an advisory lock and hold it inside, over commits; an error ends the connection with it."""
    connection.execute(select(func.pg_advisory_lock(LOCKS, which)))
    try:
        yield
        connection.execute(select(func.pg_advisory_unlock(LOCKS, which)))
    except BaseException:
        connection.invalidate()
        raise
