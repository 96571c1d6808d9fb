"""The embedded form: one SQLite database is the log and the store.

WAL with ``synchronous=FULL``, so a commit is on the disk before it is acknowledged. Appends that wait
are committed together (the caller hands in groups), and the fold runs in the same transaction: the
tables can never disagree with the log. One process owns the folder (a lock file says so), because the
newest events are handed to the ``tail`` from memory: what is committed goes into a bounded deque, and
only a follower that fell behind it reads the database.
"""

from __future__ import annotations

import fcntl
import hashlib
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any

import attrs
import trio
from sqlalchemy import Connection, Engine, create_engine, event, func, insert, select
from sqlalchemy.exc import DatabaseError, OperationalError

from heliograph.model.channels import EVERYTHING, Selection
from heliograph.model.errors import Conflict, HeliographError, SettingsError, Unavailable
from heliograph.model.event import Draft, Event
from heliograph.model.ids import OLDEST, EventId, make_id, time_of
from heliograph.storage import migrate, queries, schema
from heliograph.storage.database import Database, chunks, upsert
from heliograph.storage.fold import fold
from heliograph.storage.protocols import Bounds, Page, Receipt

READERS = 4
RECENT_EVENTS = 4096
TAIL_EVENTS = 2000


@asynccontextmanager
async def open_sqlite(folder: Path, key_ttl: timedelta) -> AsyncIterator[tuple[SqliteLog, Database]]:
    """Open the database in a folder, made if missing, migrated to today's schema.

    Raises:
        SettingsError: The folder can't be used, or another process uses it.
    """
    with _ownership(folder):
        engine = _engine(folder / "heliograph.db")
        try:
            await trio.to_thread.run_sync(_upgrade, engine)
            database = Database(engine, READERS)
            writer = Database(engine, 1)
            log = SqliteLog(database, writer, key_ttl)
            await log.load()
            yield log, database
        finally:
            engine.dispose()


def migrate_sqlite(folder: Path) -> None:
    """Bring the database in a folder to today's schema.

    Raises:
        SettingsError: The folder can't be used, another process uses it, or its schema is newer.
    """
    with _ownership(folder):
        engine = _engine(folder / "heliograph.db")
        try:
            _upgrade(engine)
        finally:
            engine.dispose()


def _upgrade(engine: Engine) -> None:
    try:
        migrate.upgrade(engine)
    except DatabaseError as error:
        raise SettingsError([f"storage.data: {engine.url.database}: {error.orig}"]) from None


class _ownership:  # noqa: N801 - used as a function in a with statement
    """Hold the folder's lock file, so that a second process is told instead of corrupting the order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = (self._folder / "heliograph.lock").open("a")
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


def _engine(file: Path) -> Engine:
    engine = create_engine(f"sqlite:///{file}", pool_size=READERS + 1, max_overflow=0)

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _: object) -> None:
        # The driver's own idea of when a transaction begins is off: it would not begin one for reads.
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "busy_timeout=5000",
            "cache_size=-16384",
            "journal_size_limit=67108864",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


@attrs.define
class _Numbering:
    """The next ids and per-channel numbers of one transaction, taken from what is stored."""

    last_id: EventId
    heads: dict[str, int]
    now_ms: int

    def next_id(self) -> EventId:
        """Return an id newer than every other, even when the clock stood still or went back."""
        self.last_id = EventId(max(make_id(self.now_ms), self.last_id + 1))
        return self.last_id

    def next_seq(self, channel: str) -> int:
        self.heads[channel] = seq = self.heads.get(channel, 0) + 1
        return seq


class SqliteLog:
    """The log on SQLite; implements ``protocols.Log``."""

    def __init__(self, readers: Database, writer: Database, key_ttl: timedelta) -> None:
        self._readers = readers
        self._writer = writer
        self._key_ttl = key_ttl
        self._position = OLDEST
        self._recent: deque[Event] = deque(maxlen=RECENT_EVENTS)
        self._recent_after = OLDEST  # every event newer than this is in _recent
        self._committed = trio.Event()

    async def load(self) -> None:
        """Take the position from the database: to be awaited once, before anything else."""
        newest = await self._readers.read(_newest_id)
        self._position = self._recent_after = newest

    @property
    def position(self) -> EventId:
        """The newest committed id."""
        return self._position

    async def append(self, requests: Sequence[Sequence[Draft]]) -> Sequence[Receipt | HeliographError]:
        """Append and fold several requests in one transaction; see ``protocols.Log.append``."""
        try:
            answers, appended = await self._writer.write(
                _append, requests, self._position, time.time_ns() // 1_000_000, self._key_ttl
            )
        except OperationalError as error:
            raise Unavailable(f"the log can't be written: {error.orig}") from error
        if appended:
            self._hand_over(appended)
        return answers

    def _hand_over(self, appended: Sequence[Event]) -> None:
        overflow = len(self._recent) + len(appended) - RECENT_EVENTS
        if overflow > 0:
            dropped = self._recent[overflow - 1] if overflow <= len(self._recent) else None
            self._recent_after = (dropped or appended[overflow - len(self._recent) - 1]).id
        self._recent.extend(appended)
        self._position = appended[-1].id
        self._committed.set()
        self._committed = trio.Event()

    async def tail(self, after: EventId) -> Sequence[Event]:
        """Wait for events after a position; see ``protocols.Log.tail``."""
        while after >= self._position:
            await self._committed.wait()
        if after < self._recent_after:
            return (await self.read(Selection((EVERYTHING,)), after, TAIL_EVENTS)).events
        newer = list(takewhile(lambda event: event.id > after, reversed(self._recent)))
        return newer[::-1]

    async def read(self, selection: Selection, after: EventId, limit: int) -> Page:
        """Read a selection's events after a position; see ``protocols.Log.read``."""
        position = self._position
        found, more = await self._readers.read(queries.read_events, selection, limit, after=after)
        if more:
            return Page(found, found[-1].id, more=True)
        newest = found[-1].id if found else OLDEST
        return Page(found, EventId(max(position, newest, after)), more=False)

    async def read_last(self, selection: Selection, limit: int) -> Page:
        """Read a selection's last events; see ``protocols.Log.read_last``."""
        position = self._position
        found, _ = await self._readers.read(queries.read_events, selection, limit, newest=True)
        newest = found[0].id if found else OLDEST
        return Page(found[::-1], EventId(max(position, newest)), more=False)

    async def bounds(self, selection: Selection) -> Bounds:
        """Tell what is kept of a selection."""
        trimmed = await self._readers.read(queries.trimmed_through, selection)
        return Bounds(trimmed, self._position)


def _newest_id(connection: Connection) -> EventId:
    kept = connection.execute(select(func.max(schema.events.c.id))).scalar()
    folded = connection.execute(select(func.max(schema.checkpoints.c.event_id))).scalar()
    return EventId(max(kept or OLDEST, folded or OLDEST))


def _append(
    connection: Connection,
    requests: Sequence[Sequence[Draft]],
    last_id: EventId,
    now_ms: int,
    key_ttl: timedelta,
) -> tuple[list[Receipt | HeliographError], list[Event]]:
    drafts = [draft for request in requests for draft in request]
    numbering = _Numbering(last_id, _heads(connection, {draft.channel for draft in drafts}), now_ms)
    now = time_of(make_id(now_ms))
    known = _known_keys(connection, {draft.key for draft in drafts if draft.key is not None}, now)
    fresh: dict[str, tuple[EventId, str]] = {}
    answers: list[Receipt | HeliographError] = []
    appended: list[Event] = []
    rows: list[dict[str, Any]] = []
    for request in requests:
        conflict = _conflict(request, known)
        if conflict is not None:
            answers.append(conflict)
            continue
        ids = []
        for draft in request:
            if draft.key is not None and draft.key in known:
                ids.append(known[draft.key][0])
                continue
            event_id = numbering.next_id()
            seq = numbering.next_seq(draft.channel)
            made = Event(
                id=event_id,
                channel=draft.channel,
                seq=seq,
                topic=draft.topic,
                timestamp=draft.timestamp or time_of(event_id),
                payload=draft.payload,
                sender=draft.sender,
                correlation_id=draft.correlation_id,
            )
            appended.append(made)
            rows.append(_row(made, draft.body))
            ids.append(event_id)
            if draft.key is not None:
                known[draft.key] = fresh[draft.key] = (event_id, fingerprint(draft))
        answers.append(Receipt(tuple(ids)))
    if appended:
        connection.execute(insert(schema.events), rows)
        upsert(
            connection,
            schema.channels,
            [
                {"name": name, "head_seq": numbering.heads[name]}
                for name in {event.channel for event in appended}
            ],
        )
        upsert(
            connection,
            schema.idempotency_keys,
            [
                {"key": key, "event_id": event_id, "fingerprint": mark, "expires_at": now + key_ttl}
                for key, (event_id, mark) in fresh.items()
            ],
        )
        fold(connection, appended)
    return answers, appended


def _row(made: Event, body: bytes) -> dict[str, Any]:
    return {
        "id": made.id,
        "channel": made.channel,
        "seq": made.seq,
        "topic": made.topic,
        "timestamp": made.timestamp,
        "sender": made.sender,
        "correlation_id": made.correlation_id,
        "payload": body.decode(),
    }


def _heads(connection: Connection, names: set[str]) -> dict[str, int]:
    heads: dict[str, int] = {}
    table = schema.channels
    for some in chunks(sorted(names)):
        rows = connection.execute(select(table.c.name, table.c.head_seq).where(table.c.name.in_(some)))
        heads.update((name, seq) for name, seq in rows)
    return heads


def _known_keys(connection: Connection, keys: set[str], now: Any) -> dict[str, tuple[EventId, str]]:
    known: dict[str, tuple[EventId, str]] = {}
    table = schema.idempotency_keys
    for some in chunks(sorted(keys)):
        rows = connection.execute(
            select(table.c.key, table.c.event_id, table.c.fingerprint).where(
                table.c.key.in_(some), table.c.expires_at > now
            )
        )
        known.update((key, (EventId(event_id), mark)) for key, event_id, mark in rows)
    return known


def fingerprint(draft: Draft) -> str:
    """Return a short digest of what a key stands for, to tell a retry from a reused key."""
    content = f"{draft.channel}\n{draft.topic}\n".encode() + draft.body
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def _conflict(request: Sequence[Draft], known: dict[str, tuple[EventId, str]]) -> Conflict | None:
    """Refuse a request in which a key stands for other content than before."""
    within: dict[str, str] = {}
    for index, draft in enumerate(request):
        if draft.key is None:
            continue
        mark = fingerprint(draft)
        before = known[draft.key][1] if draft.key in known else within.setdefault(draft.key, mark)
        if before != mark:
            return Conflict(f"item {index}: the key {draft.key!r} was used for a different event")
    return None
