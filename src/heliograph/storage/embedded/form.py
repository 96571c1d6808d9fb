"""The embedded form, put together: log and store are one SQLite file, folded in the appending transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import attrs

from heliograph.model.ids import EventId
from heliograph.model.prices import NO_PRICES, Prices
from heliograph.storage.embedded.sqlite import Readers, SqliteLog, open_sqlite
from heliograph.storage.sql.store import SqlLook, SqlStore
from heliograph.storage.sql.vault import SqlVault


class OwnTurn:
    """The turn of the only node; implements ``protocols.Turn``."""

    async def begin(self) -> bool:
        """Return true: the only node always has its turn."""
        return True

    async def hold(self) -> None:
        """Do nothing: no other node wants the turn."""

    async def end(self) -> None:
        """Do nothing."""


class FoldedStore(SqlStore):
    """The store in the log's database: each append folds its events in the same transaction.

    Args:
        database: The database.
        log: The log in it.
    """

    def __init__(self, database: Readers, log: SqliteLog) -> None:
        super().__init__(database)
        self._log = log

    def look(self) -> SqlLook:
        """Begin a look; see ``protocols.Store``."""
        return SqlLook(self._database).at(self._log.position)

    async def checkpoint(self) -> EventId:
        """Return the id of the last folded event; events that are being committed don't count yet."""
        return self._log.position


@attrs.frozen
class Embedded:
    """The embedded form in its one process; implements ``protocols.Storage``."""

    log: SqliteLog
    store: FoldedStore
    vault: SqlVault
    _readers: Readers
    archive: None = None
    listener: None = None
    queue: None = None
    latencies: Mapping[str, float] = attrs.field(factory=dict)
    background: Mapping[str, Callable[[], Awaitable[None]]] = attrs.field(factory=dict)

    @property
    def keeper(self) -> SqliteLog:
        """Removes what retention does not keep."""
        return self.log

    @property
    def start(self) -> EventId:
        """The log's position."""
        return self.log.position

    def turn(self, name: str) -> OwnTurn:
        """Return the turn of the only node."""
        return OwnTurn()

    @property
    def clocks(self) -> Mapping[str, float]:
        """Return nothing: there is no other clock."""
        return {}

    async def checks(self) -> dict[str, str | None]:
        """Return each part's problem, ``None`` if it has none."""
        return {"log": self.log.failure, "store": self._readers.damage}

    def log_stats(self) -> None:
        """Return nothing: the log is in this process."""


@asynccontextmanager
async def open_embedded(
    folder: Path, key_ttl: timedelta, prices: Prices = NO_PRICES
) -> AsyncIterator[Embedded]:
    """Open the database in a folder; see ``open_sqlite``.

    Raises:
        SettingsError: The folder can't be used, or another process uses it.
    """
    async with open_sqlite(folder, key_ttl, prices) as (log, database):
        yield Embedded(log, FoldedStore(database, log), SqlVault(database), database)
