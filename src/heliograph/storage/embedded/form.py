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
from heliograph.storage.sql.store import SqlStore
from heliograph.storage.sql.vault import SqlVault


class OwnTurn:
    """The turn of the only node; implements ``protocols.Turn``."""

    async def begin(self) -> bool:
        """Tell that it is this node's."""
        return True

    async def hold(self) -> None:
        """Do nothing: nobody else wants it."""

    async def end(self) -> None:
        """Do nothing."""


class FoldedStore(SqlStore):
    """The store, which is where the log is: what is appended is folded by the same transaction.

    Args:
        database: Where it is.
        log: The log.
    """

    def __init__(self, database: Readers, log: SqliteLog) -> None:
        super().__init__(database)
        self._log = log

    async def checkpoint(self) -> EventId:
        """Return the id of the last folded event; of those that are just being committed none is."""
        return self._log.position


@attrs.frozen
class Embedded:
    """What the one process has of the embedded form; implements ``protocols.Storage``."""

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
        """Removes what need not be kept."""
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
        """Tell of each part what is wrong with it."""
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
