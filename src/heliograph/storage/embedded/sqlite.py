"""The embedded form: one SQLite database is the log and the store.

It uses WAL with ``synchronous=FULL``, so a commit is on the disk before it is acknowledged. Waiting appends
are committed together (the caller groups them), and the fold runs in the same transaction, so the tables
never disagree with the log. One process owns the folder by a lock file, because ``tail`` takes the newest
events from memory (``recent``); only a follower that fell behind reads the database.

A long module, since the log, its database and the lock on its folder are opened and closed as one.
"""

from __future__ import annotations

import fcntl
import math
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Concatenate, ParamSpec, TypeVar

import orjson
import structlog
import trio
from sqlalchemy import Connection, Engine, create_engine, event, func, select
from sqlalchemy.exc import DatabaseError, OperationalError

from heliograph.model.channels import Selection
from heliograph.model.errors import HeliographError, SettingsError, Unavailable
from heliograph.model.event import Draft, Event
from heliograph.model.ids import OLDEST, EventId, make_id
from heliograph.model.prices import NO_PRICES, Prices
from heliograph.model.settings import RetentionSettings
from heliograph.storage.embedded.append import append
from heliograph.storage.protocols import (
    WHOLE_LOG,
    Bounds,
    Forgotten,
    LostRange,
    Page,
    Place,
    PositionLost,
    Receipt,
    RunName,
)
from heliograph.storage.recent import Recent
from heliograph.storage.sql import forgetting, keys, migrate, queries, retention, schema
from heliograph.storage.sql.database import Database, Query, ReadingThread, Writer
from heliograph.storage.sql.losses import note_loss, read_losses
from heliograph.storage.sql.steps import Step, read_step
from heliograph.storage.sql.trimmed import trimmed_behind, trimmed_through
from heliograph.storage.sql.written import Written

FILE, LOCK = "heliograph.db", "heliograph.lock"
READERS = 4
READ_SECONDS = 10.0
"""The longest time for a question: there are few readers, and stopping waits for them."""

LOOK_EVERY = 100_000
"""Steps of SQLite's virtual machine between two looks at the clock, about a millisecond."""

TAIL_EVENTS = 2000

P = ParamSpec("P")
T = TypeVar("T")

ERRORS = (DatabaseError, sqlite3.DatabaseError)
"""The errors of a failed statement, from SQLAlchemy or from the driver itself."""

logger = structlog.get_logger(__name__)


def outage(error: Exception) -> str | None:
    """Return the message of an error from outside (a full disk, a damaged file); ``None`` for a bug."""
    cause = getattr(error, "orig", error)
    name = getattr(cause, "sqlite_errorname", None) or ""
    if isinstance(cause, sqlite3.OperationalError) or name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return str(cause)
    return None


def is_damage(error: Exception) -> bool:
    """Tell whether an error means that the file is damaged."""
    cause = getattr(error, "orig", error)
    name = getattr(cause, "sqlite_errorname", None) or ""
    return (
        isinstance(cause, orjson.JSONDecodeError)
        or name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))
        or "Could not decode to UTF-8" in str(cause)
    )


@asynccontextmanager
async def open_sqlite(
    folder: Path, key_ttl: timedelta, prices: Prices = NO_PRICES
) -> AsyncIterator[tuple[SqliteLog, Readers]]:
    """Open the database in a folder; make it if missing, and migrate it to the current schema.

    Raises:
        SettingsError: The folder can't be used, or another process uses it.
    """
    with _ownership(folder):
        engine = engine_of(folder / FILE)
        try:
            await trio.to_thread.run_sync(_upgrade, engine)
            await trio.to_thread.run_sync(_begin, engine)
            with closing(Readers(engine, READERS)) as database, closing(Writer(engine)) as writer:
                log = SqliteLog(database, writer, key_ttl, prices)
                await log.load()
                yield log, database
        finally:
            engine.dispose()


class TimedReader(ReadingThread):
    """A reader whose questions are interrupted when they are overdue, or when nobody waits for them."""

    def __init__(self, readers: Readers) -> None:
        super().__init__(readers.engine.connect)
        self._readers = readers
        self._deadline = math.inf

    def ask(self, question: Query[T], seconds: float) -> T:
        """Answer a question within its time, in the thread.

        Raises:
            Unavailable: The database can't be read now, or it takes too long.
        """
        _here.reader = self
        self._deadline = monotonic() + seconds
        try:
            return super().ask(question, seconds)
        except (*ERRORS, orjson.JSONDecodeError) as error:
            if self.given_up:
                raise
            if is_damage(error):
                raise Unavailable(self._readers.damaged(error)) from error
            if isinstance(error, OperationalError | sqlite3.OperationalError):
                words = getattr(error, "orig", error)
                raise Unavailable(f"the database can't be read: {words}") from error
            raise

    def gives_up(self) -> bool:
        """Tell whether the present question is overdue, or nobody waits for it."""
        return self.given_up or monotonic() > self._deadline


class Readers(Database):
    """The connections that answer questions, each within ``READ_SECONDS`` except by ``read_long``.

    A question is interrupted when its caller is cancelled, so a client that has gone holds no connection.

    Attributes:
        damage: The damage found in the file; ``None`` if none was.
    """

    damage: str | None = None

    def new_reader(self) -> TimedReader:
        """Make a reader."""
        return TimedReader(self)

    async def read(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``query(connection, …)`` in a thread; see ``Database.read``.

        Raises:
            Unavailable: The database can't be read now, or it takes too long.
        """
        return await self._ask(lambda connection: query(connection, *args, **kwargs), READ_SECONDS)

    async def read_long(self, query: Query[T]) -> T:
        """Do what ``read`` does, however long it takes."""
        return await self._ask(query, math.inf)

    def damaged(self, error: Exception) -> str:
        """Note the damage that an error has found; return the words for it."""
        words = f"{self.engine.url.database} is damaged: {getattr(error, 'orig', error)}"
        if self.damage is None:
            logger.error("damaged", file=self.engine.url.database, reason=str(getattr(error, "orig", error)))
        self.damage = words
        return words


class _Here(threading.local):
    """The reader of the calling thread; ``None`` in other threads."""

    reader: TimedReader | None = None


_here = _Here()


def _given_up() -> bool:
    """Tell whether this thread's question is to end; SQLite then interrupts it."""
    return _here.reader is not None and _here.reader.gives_up()


def migrate_sqlite(folder: Path) -> str | None:
    """Migrate the database in a folder to the current schema; return the revision that it had before.

    Raises:
        SettingsError: The folder can't be used, another process uses it, or its schema is newer.
    """
    with _ownership(folder):
        engine = engine_of(folder / FILE)
        try:
            return _upgrade(engine)
        finally:
            engine.dispose()


def _upgrade(engine: Engine) -> str | None:
    try:
        return migrate.upgrade(engine)
    except DatabaseError as error:
        raise SettingsError([f"storage.data: {engine.url.database}: {error.orig}"]) from None


def _begin(engine: Engine) -> None:
    """Note when a log without any event begins: an earlier cursor comes from a log that was here before."""
    with engine.begin() as connection:
        if newest_id(connection) == OLDEST:
            note_loss(connection, LostRange(OLDEST, make_id(time.time_ns() // 1_000_000)))


class _ownership:  # noqa: N801 - used as a function in a with statement
    """Hold the folder's lock file, so that a second process is refused and can't break the order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in (FILE, LOCK):  # SQLite's further files get the database's mode
                (self._folder / name).touch(mode=0o600)
                (self._folder / name).chmod(0o600)
            self._file = (self._folder / LOCK).open("a")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise SettingsError(
                [f"storage.data: {self._folder} is in use by another heliograph (set HELIOGRAPH_DATA)"]
            ) from None
        except OSError as error:
            raise SettingsError([f"storage.data: {self._folder}: {error.strerror}"]) from None

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _lower(text: str | None) -> str | None:
    return None if text is None else text.lower()


def engine_of(file: Path) -> Engine:
    """Make the engine of a database."""
    # One for the writer, and one for what is written beside the log.
    engine = create_engine(f"sqlite:///{file}", pool_size=READERS + 2, max_overflow=0)

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _: object) -> None:
        # The driver must not begin transactions by itself: it would begin none for reads.
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "busy_timeout=5000",
            "cache_size=-2048",
            "journal_size_limit=67108864",
        ):
            connection.execute(f"PRAGMA {pragma}")
        # SQLite's own ``lower`` knows ASCII letters only; PostgreSQL's knows all letters.
        connection.create_function("lower", 1, _lower, deterministic=True)
        connection.set_progress_handler(_given_up, LOOK_EVERY)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        if not driver.in_transaction:  # else the writer has begun one
            driver.execute("BEGIN")

    return engine


class SqliteLog:
    """The log on SQLite; implements ``protocols.Log``."""

    def __init__(self, readers: Readers, writer: Writer, key_ttl: timedelta, prices: Prices) -> None:
        self._readers = readers
        self.writer = writer
        self._key_ttl = key_ttl
        self._recent = Recent(OLDEST)
        self._losses: Sequence[LostRange] = ()
        self._unused = OLDEST  # no event gets an id up to this one
        self._prices = prices
        self._written = Written()
        self._committed = trio.Event()
        self._appending = trio.Lock()
        self.failure: str | None = None
        """Why the last append could not be written; forgotten when the next write or sweep succeeds."""

    async def load(self) -> None:
        """Read the position from the database; to be awaited once, before anything else."""
        self._recent = Recent(await self._readers.read(newest_id))
        self._losses = await self._readers.read(read_losses)
        self._unused = EventId(max((loss.before - 1 for loss in self._losses), default=OLDEST))

    @property
    def losses(self) -> Sequence[LostRange]:
        """What was there before the log began, and what a restored copy lacks; see ``protocols.Log``."""
        return self._losses

    @property
    def position(self) -> EventId:
        """The newest committed id."""
        return self._recent.through

    async def append(self, requests: Sequence[Sequence[Draft]]) -> Sequence[Receipt | HeliographError]:
        """Append and fold several requests in one transaction; see ``protocols.Log.append``."""
        try:
            self._appending.acquire_nowait()  # no checkpoint, which would cost a turn of the scheduler
        except trio.WouldBlock:
            await self._appending.acquire()
        try:
            appended = await self.writer.write(
                append,
                requests,
                self._written,
                max(self.position, self._unused),
                time.time_ns() // 1_000_000,
                self._key_ttl,
                self._prices,
            )
            if self.failure is not None:
                self._writes_again()
            if appended.events:
                self._written.learn(appended.heads, appended.steady)
                self._hand_over(appended.events)
        except ERRORS as error:
            words = outage(error)
            if words is None:
                raise
            raise self._not_written(words) from error
        finally:
            self._appending.release()
        return appended.answers

    def _hand_over(self, appended: Sequence[Event]) -> None:
        self._recent.extend(appended)
        self._committed.set()
        self._committed = trio.Event()

    async def tail(self, after: EventId) -> Sequence[Event]:
        """Wait for events after a position; see ``protocols.Log.tail``."""
        while after >= self.position:
            await self._committed.wait()
        if self._recent.covers(after):
            return self._recent.after(after)
        page = await self.read(WHOLE_LOG, after, TAIL_EVENTS)
        if page.trimmed > after:
            raise PositionLost(page.trimmed, "events were removed before they were followed")
        return page.events

    async def read(self, selection: Selection, after: EventId, limit: int) -> Page:
        """Read a selection's events after a position; see ``protocols.Log.read``."""
        position = self.position
        # No time limit: if the selection has few events, the next try would take as long again.
        step, trimmed = await self._readers.read_long(
            lambda connection: _step(connection, selection, after, limit)
        )
        found = step.events
        if step.through is not None:
            return Page(found, step.through, True, trimmed)
        newest = found[-1].id if found else OLDEST
        return Page(found, EventId(max(position, newest, after)), False, trimmed)

    async def tail_start(self, selection: Selection, count: int) -> EventId:
        """Return the position just before the last ``count`` events; see ``protocols.Log.tail_start``."""
        position = self.position
        ids = await self._readers.read(queries.last_ids, selection, count)
        return EventId(ids[-1] - 1) if ids else position

    async def bounds(self, selection: Selection) -> Bounds:
        """Return the extent of a selection that is kept."""
        trimmed = await self._readers.read(trimmed_through, selection)
        return Bounds(trimmed, self.position)

    async def sweep(self, policy: RetentionSettings, now: datetime) -> int:
        """Remove expired keys, and a part of what is over the retention; see ``protocols.Keeper``."""
        removed = await self._keep(_sweep, policy, now)
        async with self._appending:  # an append must not rely on a row that is being removed
            gone = await self._keep(retention.remove_entities, policy, now)
            self._written.forget(gone.channels)
        return removed + gone.number

    async def forget(self, now: datetime, place: Place) -> Forgotten:
        """Forget channels of which nothing is kept; see ``protocols.Keeper``."""
        assert isinstance(place, str)
        part = await self._readers.read(forgetting.look, place, now)
        gone: Sequence[str] = ()
        if part.empty:
            async with self._appending:  # an append must not go on from a number that is forgotten
                gone = await self._keep(forgetting.forget, part.empty, now)
                self._written.drop(gone)
        return Forgotten(len(part.names) - len(gone), len(gone), part.next)

    @property
    def active(self) -> bool:
        """Always true: there is no other node."""
        return True

    async def remove_runs(self, policy: RetentionSettings, now: datetime) -> Sequence[RunName]:
        """Remove a part of the runs that are over the retention; see ``protocols.Keeper``."""
        return await self._keep(retention.remove_runs, policy, now)

    async def unknown_runs(self, names: Sequence[RunName]) -> Sequence[RunName]:
        """Return the runs among ``names`` of which nothing is kept."""
        return await self._readers.read(retention.unknown_runs, names)

    async def _keep(
        self, change: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        try:
            done = await self.writer.write(change, *args, **kwargs)
        except ERRORS as error:
            words = outage(error)
            if words is None:
                raise
            raise self._not_written(words) from error
        if self.failure is not None:
            self._writes_again()
        return done

    def _not_written(self, words: str) -> Unavailable:
        if self.failure is None:
            logger.error("can't write", file=self._readers.engine.url.database, reason=words)
        self.failure = f"{self._readers.engine.url.database} can't be written: {words}"
        return Unavailable(self.failure)

    def _writes_again(self) -> None:
        logger.info("writes again", file=self._readers.engine.url.database)
        self.failure = None


def _sweep(connection: Connection, policy: RetentionSettings, now: datetime) -> int:
    purged = keys.purge(connection, now)
    through = retention.due(connection, policy, now)
    return purged + (0 if through is None else retention.remove(connection, through))


def _step(connection: Connection, selection: Selection, after: EventId, limit: int) -> tuple[Step, EventId]:
    """Read events after a position, and up to where some were removed."""
    step = read_step(connection, selection, after, limit)
    return step, trimmed_behind(connection, selection, after)


def newest_id(connection: Connection) -> EventId:
    """Return the newest id that was ever given."""
    kept = connection.execute(select(func.max(schema.events.c.id))).scalar()
    folded = connection.execute(select(func.max(schema.checkpoints.c.event_id))).scalar()
    return EventId(max(kept or OLDEST, folded or OLDEST))
