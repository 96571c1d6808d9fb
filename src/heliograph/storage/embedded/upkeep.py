"""Upkeep of an embedded database from outside: check, copy, restore, and change its secrets."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy.exc import DatabaseError

from heliograph.model.errors import SettingsError, Unavailable
from heliograph.model.ids import make_id
from heliograph.storage.embedded.sqlite import FILE, engine_of, migrate_sqlite, newest_id
from heliograph.storage.protocols import LostRange
from heliograph.storage.sql import migrate
from heliograph.storage.sql.losses import note_loss
from heliograph.storage.sql.vault import OpenVault

COUNTS = {
    "the counter of events differs from their number": """
        SELECT 1 FROM counters WHERE name = 'events' AND value <> (SELECT count(*) FROM events)
    """,
    "a channel has events beyond its last number": """
        SELECT 1 FROM channels WHERE head_seq < (SELECT max(seq) FROM events WHERE channel = channels.name)
    """,
    "a channel has a hole in its numbers": """
        SELECT 1 FROM events JOIN channels ON channels.name = events.channel GROUP BY channel
        HAVING count(*) <> max(seq) - min(seq) + 1 OR max(seq) <> max(head_seq)
    """,
    "the checkpoint is behind the newest event": """
        SELECT 1 FROM checkpoints WHERE name = 'fold' AND event_id < (SELECT max(id) FROM events)
    """,
    "a task was never heard of": """
        SELECT 1 FROM tasks LEFT JOIN channels ON channels.name = 'task:' || task_id
        WHERE channels.name IS NULL OR tasks.last_seq > channels.head_seq
    """,
}
"""Queries that must find nothing, each with the meaning of what it finds."""


def check(folder: Path) -> list[str]:
    """Return the problems of the database in a folder, one line each; it may be served meanwhile.

    Raises:
        SettingsError: There is no database, or the file is none.
    """
    with _opened(folder / FILE) as connection:
        try:
            found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(20)")]
            if found != ["ok"]:
                return [f"{folder / FILE} is damaged: {line}" for line in found]
            return [
                f"{folder / FILE}: {meaning}"
                for meaning, query in COUNTS.items()
                if connection.execute(f"{query} LIMIT 1").fetchone()
            ]
        except sqlite3.DatabaseError as error:
            return [f"{folder / FILE} is damaged: {error}"]


def backup(folder: Path, target: Path) -> None:
    """Copy the database in a folder to a file, as of one moment; it may be served meanwhile.

    Raises:
        SettingsError: There is no database, or the target exists already or can't be written.
    """
    if target.exists():
        raise SettingsError([f"{target} is there already"])
    part = target.with_name(target.name + ".part")
    try:
        part.touch(mode=0o600)
        with _opened(folder / FILE) as source, closing(sqlite3.connect(part)) as copy:
            source.backup(copy, pages=1000)
            copy.execute("PRAGMA journal_mode=DELETE")
        part.rename(target)
    except (OSError, sqlite3.Error) as error:
        part.unlink(missing_ok=True)
        raise SettingsError([f"{target}: {error}"]) from None


def restore(source: Path, folder: Path) -> None:
    """Put a copy into a folder that has no database yet, and migrate it to the current schema.

    Raises:
        SettingsError: There is a database already, or the copy can't be used.
    """
    if (folder / FILE).exists():
        raise SettingsError([f"{folder / FILE} is there already: move it away first"])
    with _opened(source) as connection:
        try:
            sound = connection.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",)
        except sqlite3.DatabaseError:
            sound = False
    if not sound:
        raise SettingsError([f"{source} is damaged"])
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copyfile(source, folder / FILE)
    except OSError as error:
        raise SettingsError([f"{folder / FILE}: {error.strerror}"]) from None
    migrate_sqlite(folder)
    engine = engine_of(folder / FILE)
    try:
        with engine.begin() as connection:
            # What came after the copy was made is lost.
            note_loss(connection, LostRange(newest_id(connection), make_id(time.time_ns() // 1_000_000)))
    finally:
        engine.dispose()


@contextmanager
def changing(folder: Path) -> Iterator[OpenVault]:
    """Change the secrets of a folder in one transaction; make it if missing; it may be served meanwhile.

    Raises:
        SettingsError: The folder can't be used, or the database that is served has another schema.
        Unavailable: The database can't be written now.
    """
    served = None
    try:
        migrate_sqlite(folder)
    except SettingsError as error:
        served = error
    engine = engine_of(folder / FILE)
    try:
        with engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            driver.execute("BEGIN IMMEDIATE")  # after a read it could not wait for the write lock
            if served is not None and migrate.revision(connection) != migrate.HEAD:
                raise served
            yield OpenVault(connection)
            connection.commit()
    except (DatabaseError, sqlite3.DatabaseError) as error:
        raise served or Unavailable(f"{folder / FILE}: {getattr(error, 'orig', error)}") from None
    finally:
        engine.dispose()


class _opened:  # noqa: N801 - used as a function in a with statement
    """Open an existing database for reading."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> sqlite3.Connection:
        try:
            self._connection = sqlite3.connect(f"{self._file.absolute().as_uri()}?mode=ro", uri=True)
            self._connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            # Damage, even of the schema itself, is reported by the reads that follow.
            if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_CORRUPT:
                raise SettingsError([f"{self._file}: {error}"]) from None
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()
