"""The embedded storage in a folder of its own, and the log in memory that other rooms are tested with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
from tests.memory_log import MemoryLog

from heliograph.storage.embedded.sqlite import SqliteLog, open_sqlite
from heliograph.storage.protocols import Log
from heliograph.storage.sql.database import Database
from heliograph.storage.sql.store import SqlStore

KEY_TTL = timedelta(days=1)


@attrs.frozen
class Embedded:
    """The embedded form, opened."""

    folder: Path
    log: SqliteLog
    store: SqlStore
    database: Database


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[Embedded]:
    """Open the embedded form."""
    folder = tmp_path / "data"
    async with open_sqlite(folder, KEY_TTL) as (log, database):
        yield Embedded(folder, log, SqlStore(database), database)


@pytest.fixture(params=["memory", "sqlite"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Log]:
    """Open an empty log: the one in memory, then the real one, so that both keep the same promises."""
    if request.param == "memory":
        yield MemoryLog()
        return
    async with open_sqlite(tmp_path / "data", KEY_TTL) as (opened, _):
        yield opened
