"""Both forms of storage behind one face, for tests that run over each of them."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol
from uuid import uuid4

import attrs
import psycopg
import trio
from sqlalchemy import create_engine, make_url
from tests.polling import until

from heliograph.actors.archiver import Archiver
from heliograph.config import Settings, StorageSettings
from heliograph.model.ids import EventId
from heliograph.model.settings import RetentionSettings
from heliograph.storage.distributed.form import Distributed, migrate_database, open_distributed
from heliograph.storage.embedded.form import open_embedded
from heliograph.storage.embedded.sqlite import migrate_sqlite
from heliograph.storage.protocols import Keeper, Log, Store, Vault
from heliograph.storage.settings import PostgresSettings, RedisSettings
from heliograph.storage.sql import retention

KEY_TTL = timedelta(days=1)


@attrs.frozen
class Storage:
    """A form of storage that is open: the parts of it that tests use."""

    log: Log
    store: Store
    vault: Vault
    keeper: Keeper

    async def sweep(self, policy: RetentionSettings, now: datetime) -> int:
        """Remove everything that is over the retention; return how much."""
        removed = 0
        while part := await self.keeper.sweep(policy, now):
            removed += part
        return removed


class Form(Protocol):
    """Where one test's data is; it can be opened again and again."""

    def open(self, key_ttl: timedelta = KEY_TTL) -> AbstractAsyncContextManager[Storage]:
        """Open the data, and close it."""
        ...

    def place(self, settings: Settings) -> Settings:
        """Return settings of a service whose data is here."""
        ...

    async def forget(self, through: EventId) -> None:
        """Remove every event up to an id as retention does, from outside the service."""
        ...


@attrs.frozen
class SqliteForm:
    """The embedded form in a folder."""

    folder: Path

    @asynccontextmanager
    async def open(self, key_ttl: timedelta = KEY_TTL) -> AsyncIterator[Storage]:
        """Open the folder."""
        async with open_embedded(self.folder, key_ttl) as opened:
            yield Storage(opened.log, opened.store, opened.vault, opened.keeper)

    def place(self, settings: Settings) -> Settings:
        """Return settings of a service whose data is here."""
        return attrs.evolve(settings, storage=StorageSettings(self.folder))

    async def forget(self, through: EventId) -> None:
        """Remove every event up to an id as retention does, from outside the service."""
        engine = create_engine(f"sqlite:///{self.folder / 'heliograph.db'}")
        with engine.begin() as connection:
            retention.remove(connection, through)
        engine.dispose()

    def execute(self, statement: str) -> None:
        """Change the database behind the service's back."""
        with closing(sqlite3.connect(self.folder / "heliograph.db", timeout=10)) as connection, connection:
            connection.execute(statement)


@attrs.frozen
class DistributedForm:
    """The distributed form on a database and keys of its own."""

    postgres_url: str
    redis_url: str
    redis: RedisSettings
    postgres: PostgresSettings = attrs.field(factory=PostgresSettings)

    @asynccontextmanager
    async def node(self, key_ttl: timedelta = KEY_TTL) -> AsyncIterator[Distributed]:
        """Open what one node has, without an archiver."""
        async with (
            open_distributed(self.postgres_url, self.redis_url, self.postgres, self.redis, key_ttl) as opened,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(opened.database.watch.run)
            yield opened
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def open(self, key_ttl: timedelta = KEY_TTL) -> AsyncIterator[Storage]:
        """Open a node that archives."""
        async with self.node(key_ttl) as opened, trio.open_nursery() as nursery:
            archiver = Archiver(opened.archive)
            nursery.start_soon(archiver.run)

            async def active() -> bool:
                return archiver.stats().active

            await until(active)
            yield Storage(opened.log, opened.store, opened.vault, opened.keeper)
            nursery.cancel_scope.cancel()

    def place(self, settings: Settings) -> Settings:
        """Return settings of a service whose data is here."""
        where = StorageSettings(database_url=self.postgres_url, redis_url=self.redis_url)
        return attrs.evolve(settings, storage=where, redis=self.redis, postgres=self.postgres)

    async def forget(self, through: EventId) -> None:
        """Remove every event up to an id as retention does, from outside the service."""
        async with self.node() as node:

            async def archived() -> bool:
                return await node.store.checkpoint() >= through

            await until(archived)
            await trio.to_thread.run_sync(node.stream.remove, through)
            await node.database.write(retention.remove, through)


@cache
def _empty_database() -> bytes:
    with TemporaryDirectory() as folder:
        migrate_sqlite(Path(folder))
        return (Path(folder) / "heliograph.db").read_bytes()


def embedded_form(folder: Path) -> SqliteForm:
    """Return the embedded form in a folder; a new one is migrated already, as hundreds of tests need one."""
    if not folder.exists():
        folder.mkdir()
        (folder / "heliograph.db").write_bytes(_empty_database())
    return SqliteForm(folder)


@contextmanager
def migrated_template(postgres_url: str) -> Iterator[str]:
    """Make a database with the schema to make others from; yield its name."""
    with migrated_database(postgres_url) as url:
        name = make_url(url).database
        assert name is not None
        yield name


@contextmanager
def migrated_database(postgres_url: str) -> Iterator[str]:
    """Make a database with the schema; yield its URL."""
    with new_database(postgres_url) as url:
        migrate_database(url)
        yield url


@contextmanager
def new_database(postgres_url: str, template: str = "template1") -> Iterator[str]:
    """Make a database, and drop it."""
    name = f"test_{uuid4().hex}"
    administrate(postgres_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    finally:
        administrate(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


def administrate(url: str, statement: str) -> None:
    """Execute a statement over a connection of its own: the server may be killed between two of them."""
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(statement.encode())


async def archived(storage: Storage) -> None:
    """Wait until the store has everything that the log acknowledged."""

    async def caught_up() -> bool:
        return await storage.store.checkpoint() >= storage.log.position

    await until(caught_up)
