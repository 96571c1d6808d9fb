"""The distributed form, put together: Redis is the log, PostgreSQL the store, and any number of nodes serve.

It opens whether or not the two servers can be reached, since a node that waits is better than one that must
be started again. Only what a person must mend (a wrong password, database or schema) is refused.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial

import attrs
import structlog
import trio
from sqlalchemy import Connection, create_engine, func, select

from heliograph.model.errors import SettingsError, Unavailable
from heliograph.model.ids import EventId, time_of
from heliograph.model.kind import Kind, V
from heliograph.model.prices import NO_PRICES, Prices
from heliograph.storage.distributed.archive import PostgresArchive
from heliograph.storage.distributed.listener import RedisListener
from heliograph.storage.distributed.postgres import PostgresDatabase, database_url, refusals_named
from heliograph.storage.distributed.redis_log import RedisLog
from heliograph.storage.distributed.redis_stream import RedisStream
from heliograph.storage.distributed.turn import RedisQueue, RedisTurn
from heliograph.storage.protocols import LogStats
from heliograph.storage.settings import PostgresSettings, RedisSettings
from heliograph.storage.sql import migrate
from heliograph.storage.sql.checkpoint import read_checkpoint
from heliograph.storage.sql.database import Database
from heliograph.storage.sql.store import SqlLook, SqlStore
from heliograph.storage.sql.vault import OpenVault, SqlVault

PROBE_SECONDS = 3.0
LATE_SECONDS = 10.0
ARRIVAL_SECONDS = 1.0
CLOCK_SECONDS = 15.0
CHECK_SECONDS = 1.5
"""The time in which a part must answer a check."""

log = structlog.get_logger(__name__)


class ArchivedStore(SqlStore):
    """The store, which is a moment behind the log: a missing entity may still be on its way.

    Args:
        database: The store's database.
        log: The log that it follows.
    """

    def __init__(self, database: Database, log: RedisLog) -> None:
        super().__init__(database)
        self._log = log

    async def get(self, kind: Kind[V], *key: str) -> V | None:
        """Return one entity; ``None`` only after events that this node has appended had time to be folded."""
        found = await super().get(kind, *key)
        appended = self._log.position
        with trio.move_on_after(ARRIVAL_SECONDS):
            while found is None and await self.checkpoint() < appended:
                await trio.sleep(ARRIVAL_SECONDS / 20)
                found = await super().get(kind, *key)
        return found

    def look(self) -> ArchivedLook:
        """Begin a look; see ``protocols.Store``."""
        return ArchivedLook(self._database, self._log)


class ArchivedLook(SqlLook, ArchivedStore):
    """A look into the store; implements ``protocols.Look``."""


@attrs.frozen
class Distributed:
    """One node's side of the distributed form; implements ``protocols.Storage``.

    Args:
        log: The log on Redis.
        store: The store on PostgreSQL.
        database: The store's database.
        archive: The archiver's and the retention's side.
        stream: The Redis stream.
        listener: The bridge's side; ``None``: nothing is bridged.
        start: The log's position when it was opened; ``None`` if it could not be reached.
        latencies: Milliseconds that each part took to answer the last check.
        clocks: By server: seconds by which this machine's clock is ahead of it, as last compared.
    """

    log: RedisLog
    store: ArchivedStore
    database: PostgresDatabase
    archive: PostgresArchive
    stream: RedisStream
    listener: RedisListener | None
    start: EventId | None
    latencies: dict[str, float] = attrs.field(factory=dict)
    clocks: dict[str, float] = attrs.field(factory=dict)

    @property
    def keeper(self) -> PostgresArchive:
        """Removes what retention does not keep."""
        return self.archive

    @property
    def background(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """The watch over PostgreSQL's calls, which never end if the server is silent, and over the clocks."""
        return {"postgres watch": self.database.watch.run, "clocks": self._watch_clocks}

    async def _watch_clocks(self) -> None:
        """Compare the clocks every ``CLOCK_SECONDS``."""
        while True:
            await trio.sleep(CLOCK_SECONDS)
            await self.compare_clocks()

    async def compare_clocks(self) -> None:
        """Compare this machine's clock with those of the servers that answer."""
        asked: dict[str, Callable[[], Awaitable[float]]] = {
            "Redis": lambda: trio.to_thread.run_sync(self.stream.time, abandon_on_cancel=True),
            "PostgreSQL": lambda: self.database.read(_time),
        }
        for server, ask in asked.items():
            with trio.move_on_after(CHECK_SECONDS), suppress(Unavailable):
                began = time.time()
                theirs = await ask()
                self.clocks[server] = (began + time.time()) / 2 - theirs

    @property
    def vault(self) -> SqlVault:
        """Keeps secrets in PostgreSQL."""
        return SqlVault(self.database)

    @property
    def queue(self) -> RedisQueue:
        """Redis's lists."""
        return RedisQueue(self.stream)

    def turn(self, name: str) -> RedisTurn:
        """Return this node's side of a lease in Redis."""
        return RedisTurn(self.stream, name)

    def log_stats(self) -> LogStats:
        """Return the state of following Redis."""
        return self.log.stats()

    async def checks(self) -> dict[str, str | None]:
        """Return each part's problem, ``None`` if it has none; a silent part does not delay the answer."""
        problems: dict[str, str | None] = dict.fromkeys(("redis", "postgres", "archive"))
        found: dict[str, EventId | None] = {}

        async def look(part: str, at: Callable[[], Awaitable[EventId | None]]) -> None:
            problems[part] = f"no answer within {CHECK_SECONDS:g} s"
            began = trio.current_time()
            with trio.move_on_after(CHECK_SECONDS):
                try:
                    found[part] = await at()
                    problems[part] = None
                    self.latencies[part] = (trio.current_time() - began) * 1000
                except Unavailable as error:
                    problems[part] = str(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look, "postgres", partial(self.database.read, read_checkpoint))
            nursery.start_soon(look, "redis", self._head)
        checkpoint, head = found.get("postgres"), found.get("redis")
        if checkpoint is not None and head is not None and checkpoint < head:
            await look("archive", partial(self._oldest_waiting, checkpoint))
        oldest = found.get("archive")
        if oldest is not None:
            seconds = (datetime.now(UTC) - time_of(oldest)).total_seconds()
            if seconds > LATE_SECONDS:
                problems["archive"] = f"events have been waiting to be archived for {seconds:.0f} s"
        return problems

    async def _head(self) -> EventId:
        return (await trio.to_thread.run_sync(self.stream.check, abandon_on_cancel=True)).head

    async def _oldest_waiting(self, checkpoint: EventId) -> EventId | None:
        reading = await trio.to_thread.run_sync(self.stream.read, checkpoint, 1, abandon_on_cancel=True)
        return reading.ids[0] if reading.ids else None


@asynccontextmanager
async def open_distributed(
    postgres_url: str,
    redis_url: str,
    postgres: PostgresSettings,
    redis: RedisSettings,
    key_ttl: timedelta,
    prices: Prices = NO_PRICES,
) -> AsyncIterator[Distributed]:
    """Open the log on Redis and the store on PostgreSQL.

    Raises:
        SettingsError: A URL is wrong, a server refuses, or the schema is not this program's.
    """
    url = database_url(postgres_url)
    database = PostgresDatabase(url, postgres)
    stream = RedisStream(redis_url, redis, key_ttl, database)
    the_log = RedisLog(stream, database)
    try:
        await _probe(database.probe, stream.probe)
        with trio.move_on_after(PROBE_SECONDS):
            try:
                await the_log.load()
            except Unavailable as error:
                log.warning("begins without the log", reason=str(error))
        store = ArchivedStore(database, the_log)
        archive = PostgresArchive(stream, the_log, database, url, postgres, prices)
        listener = RedisListener(stream, the_log, redis) if redis.bridge else None
        start = the_log.position if the_log.reached else None
        opened = Distributed(the_log, store, database, archive, stream, listener, start)
        await opened.compare_clocks()  # before anything relies on this machine's clock
        yield opened
    finally:
        stream.close()
        database.close()


def _time(connection: Connection) -> float:
    return float(connection.execute(select(func.extract("epoch", func.clock_timestamp()))).scalar_one())


async def _probe(*probes: Callable[[], None]) -> None:
    """Probe all servers at once, and stop waiting after a while for those that don't answer.

    Raises:
        SettingsError: A server refuses; it lists the problem of each.
    """
    problems: list[str] = []

    async def ask(probe: Callable[[], None]) -> None:
        try:
            await trio.to_thread.run_sync(probe, abandon_on_cancel=True)
        except Unavailable as error:
            log.warning("begins without a server", reason=str(error))
        except SettingsError as error:
            problems.extend(error.problems)

    with trio.move_on_after(PROBE_SECONDS):
        async with trio.open_nursery() as nursery:
            for probe in probes:
                nursery.start_soon(ask, probe)
    if problems:
        raise SettingsError(problems)


@contextmanager
def changing(postgres_url: str) -> Iterator[OpenVault]:
    """Change the secrets of a PostgreSQL database in one transaction; nodes may use it meanwhile.

    Raises:
        SettingsError: The URL is wrong, the server refuses, or the schema is not this program's.
        Unavailable: The server is away.
    """
    engine = create_engine(database_url(postgres_url), connect_args={"connect_timeout": 5})
    try:
        with refusals_named(), engine.begin() as connection:
            migrate.check(connection)
            yield OpenVault(connection)
    finally:
        engine.dispose()


def migrate_database(postgres_url: str) -> str | None:
    """Bring a PostgreSQL database to today's schema; return the revision that was found before.

    Raises:
        SettingsError: The URL is wrong, the server refuses, or the schema is newer than this program.
        Unavailable: The server is away.
    """
    engine = create_engine(database_url(postgres_url), connect_args={"connect_timeout": 5})
    try:
        with refusals_named():
            return migrate.upgrade(engine)
    finally:
        engine.dispose()
