"""PostgreSQL: the engine, and calls that always end.

A call may meet a server that is gone, one that refuses, or one that no longer answers. A server that is gone
is an outage (``Unavailable``), and so is every error that a server reports unless our statement caused it. A
server that refuses (password, database, schema) is reported with the setting to mend. libpq does not bound a
connection whose peer acknowledges bytes and never answers; the ``Watch`` does.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

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
    make_url,
)
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from heliograph.model.errors import SettingsError, Unavailable
from heliograph.storage.distributed.watch import GRACE_SECONDS, Watch, Watched, has_news
from heliograph.storage.settings import PostgresSettings
from heliograph.storage.sql import migrate
from heliograph.storage.sql.database import Database, Query, ReadingThread

P = ParamSpec("P")
T = TypeVar("T")

CONNECT_SECONDS = 3
LONG_SECONDS = 300.0
"""The longest time for a call that reads a large answer bit by bit."""

WRITING = 2
"""Connections besides those of the readers: for what is written, and for what prepares Redis."""

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
    except ERRORS as error:
        unavailable = outage(error)
        if unavailable is None:
            raise
        raise unavailable from error


ERRORS = (DBAPIError, PoolTimeout, psycopg.Error)
"""The errors of a failed call, from SQLAlchemy or from the driver itself."""


def outage(error: BaseException) -> Unavailable | None:
    """Return the outage that an error of the driver stands for; ``None`` for a bug."""
    if not is_outage(getattr(error, "orig", error)):
        return None
    words = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
    return Unavailable(refusal(error) or f"PostgreSQL: {words}")


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


class WatchedReader(ReadingThread):
    """A reader whose questions end within their time, however silent the server is.

    Its connection is in autocommit: under READ COMMITTED each statement has its own snapshot anyway, so a
    question needs no transaction, and is one round trip.
    """

    def __init__(self, database: PostgresDatabase) -> None:
        super().__init__(database.connect)
        self._database = database
        self._call: Watched | None = None
        self._era = 0
        self._socket = -1

    def ask(self, question: Query[T], seconds: float) -> T:
        """Answer a question within its time, in the thread.

        Raises:
            Unavailable: The server is away or refuses.
        """
        call = self._call
        if call is None:
            call = self._call = Watched(math.inf)
            self._database.watch.begin(call)
        try:
            if self._kept is None or self._era != self._database.era or has_news(self._socket):
                self._renew(call)
            call.deadline = time.monotonic() + seconds
            return super().ask(question, seconds)
        except ERRORS as error:
            self._database.note(error)
            unavailable = outage(error)
            if unavailable is None:
                raise
            raise unavailable from error
        finally:
            call.deadline = math.inf

    def drop(self) -> None:
        """Give the connection back, in the thread."""
        super().drop()
        if self._call is not None:
            self._call.close()

    def _renew(self, call: Watched) -> None:
        """Take another connection: there was none, it has news, or a failover has left it behind."""
        self.drop()
        call.deadline = time.monotonic() + self._database.seconds
        self._era = self._database.era
        self._kept = self._database.connect()
        self._socket = driver_of(self._kept).fileno()


def driver_of(connection: Connection) -> psycopg.Connection[Any]:
    """Return the driver's connection."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver


class PostgresDatabase(Database):
    """A database whose calls end within their time, and fail with ``Unavailable`` when it is away.

    When its caller is cancelled, a question's thread is left behind: it may wait for a silent server.

    Args:
        url: The URL that ``database_url`` returned.
        settings: Size of the pool, and timeouts.

    Attributes:
        era: The number of failovers that were noticed; a connection of an earlier era is not used again.
        seconds: The time that a statement has.
    """

    abandons = True

    def __init__(self, url: URL, settings: PostgresSettings) -> None:
        milliseconds = round(settings.statement_timeout * 1000)
        engine = _engine(
            url,
            {"statement_timeout": milliseconds},
            QueuePool,
            pool_size=settings.pool_size,
            max_overflow=WRITING,
        )
        super().__init__(engine, settings.pool_size)
        self._reading = engine.execution_options(isolation_level="AUTOCOMMIT")
        self.watch = Watch()
        self.watch.add(engine)
        self.era = 0
        self.seconds = settings.statement_timeout + GRACE_SECONDS
        self._schema_is_right = False

    def probe(self) -> None:
        """Connect and check the schema, in the calling thread.

        Raises:
            SettingsError: The server refuses, or the schema is not this program's.
            Unavailable: The server is away.
        """
        with refusals_named(), self.watch.call(self.seconds), self.engine.connect() as connection:
            migrate.check(connection)

    def call(
        self, connect: Callable[[], Any], work: Callable[[Connection], T], seconds: float | None = None
    ) -> T:
        """Run ``work(connection)`` in the calling thread, over a connection from ``connect``.

        Args:
            seconds: The longest time once it is connected; ``None``: the timeout of one statement.
        """
        with translated(), self.watch.call(self.seconds) as watched:
            self._check_schema()
            try:
                with connect() as connection:
                    watched.deadline = time.monotonic() + (seconds or self.seconds)
                    return work(connection)
            except ERRORS as error:
                self.note(error)
                raise

    def connect(self) -> Connection:
        """Open a connection for questions, in the calling thread."""
        self._check_schema()
        return self._reading.connect()

    def _check_schema(self) -> None:
        if not self._schema_is_right:
            with self.engine.connect() as connection:
                require_schema(connection)
            self._schema_is_right = True

    def note(self, error: BaseException) -> None:
        """Take notice of a failed call: a failover leaves dead connections behind, and others are kept."""
        if getattr(getattr(error, "orig", error), "sqlstate", None) == READ_ONLY:
            self.era += 1
            self.engine.dispose()

    def new_reader(self) -> WatchedReader:
        """Make a reader."""
        return WatchedReader(self)

    async def read(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``query(connection, …)`` in a thread; see ``Database.read``.

        Raises:
            Unavailable: The database can't be read now.
        """
        return await self._ask(lambda connection: query(connection, *args, **kwargs), self.seconds)

    async def read_long(self, query: Query[T]) -> T:
        """Do what ``read`` does, for a large answer; each statement has its own timeout.

        Raises:
            Unavailable: The database can't be read now.
        """
        return await self._ask(query, LONG_SECONDS)

    async def write(
        self, change: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``change(connection, …)`` in a thread, in a transaction that is committed; one at a time.

        Raises:
            Unavailable: The database can't be written now.
        """
        return await trio.to_thread.run_sync(
            self.call,
            self.engine.begin,
            lambda connection: change(connection, *args, **kwargs),
            limiter=self._writing,
        )


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
