"""The embedded form: one SQLite database is the log and the store.

WAL with ``synchronous=FULL``, so a commit is on the disk before it is acknowledged. Appends that wait
are committed together (the caller hands in groups), and the fold runs in the same transaction: the
tables can never disagree with the log. One process owns the folder (a lock file says so), because the
newest events are handed to the ``tail`` from memory (``recent``), and only a follower that fell behind
reads the database.
"""

from __future__ import annotations

import fcntl
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import trio
from sqlalchemy import Connection, Engine, bindparam, create_engine, event, func, insert, select
from sqlalchemy.exc import DatabaseError, OperationalError

from heliograph.model.channels import Selection
from heliograph.model.errors import Conflict, HeliographError, SettingsError, Unavailable
from heliograph.model.event import Draft, Event
from heliograph.model.ids import OLDEST, EventId, make_id, time_of
from heliograph.model.prices import NO_PRICES, Prices
from heliograph.model.settings import RetentionSettings
from heliograph.storage import keys, migrate, queries, retention, schema
from heliograph.storage.database import Database, chunks, in_list, upsert
from heliograph.storage.fold import fold
from heliograph.storage.protocols import WHOLE_LOG, Bounds, Page, Receipt
from heliograph.storage.recent import Recent

READERS = 4
TAIL_EVENTS = 2000

INSERT = insert(schema.events)
HEADS = select(schema.channels.c.name, schema.channels.c.head_seq).where(in_list(schema.channels.c.name))
KNOWN = select(
    schema.idempotency_keys.c.key,
    schema.idempotency_keys.c.event_id,
    schema.idempotency_keys.c.fingerprint,
).where(
    in_list(schema.idempotency_keys.c.key),
    schema.idempotency_keys.c.expires_at > bindparam("now", type_=schema.Moment),
)


@asynccontextmanager
async def open_sqlite(
    folder: Path, key_ttl: timedelta, prices: Prices = NO_PRICES
) -> AsyncIterator[tuple[SqliteLog, Database]]:
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
            log = SqliteLog(database, writer, key_ttl, prices)
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
    # Last in, first out: a reader that goes on, page by page, does so in one connection's cache.
    engine = create_engine(f"sqlite:///{file}", pool_size=READERS + 1, max_overflow=0, pool_use_lifo=True)

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _: object) -> None:
        # The driver's own idea of when a transaction begins is off: it would not begin one for reads.
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "busy_timeout=5000",
            "cache_size=-8192",
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

    def __init__(self, readers: Database, writer: Database, key_ttl: timedelta, prices: Prices) -> None:
        self._readers = readers
        self._writer = writer
        self._key_ttl = key_ttl
        self._recent = Recent(OLDEST)
        self._prices = prices
        self._committed = trio.Event()
        self._appending = trio.Lock()

    async def load(self) -> None:
        """Take the position from the database: to be awaited once, before anything else."""
        self._recent = Recent(await self._readers.read(_newest_id))

    @property
    def position(self) -> EventId:
        """The newest committed id."""
        return self._recent.through

    async def append(self, requests: Sequence[Sequence[Draft]]) -> Sequence[Receipt | HeliographError]:
        """Append and fold several requests in one transaction; see ``protocols.Log.append``."""
        async with self._appending:
            try:
                answers, appended = await self._writer.write(
                    _append,
                    requests,
                    self.position,
                    time.time_ns() // 1_000_000,
                    self._key_ttl,
                    self._prices,
                )
            except OperationalError as error:
                raise Unavailable(f"the log can't be written: {error.orig}") from error
            if appended:
                self._hand_over(appended)
        return answers

    def _hand_over(self, appended: Sequence[Event]) -> None:
        self._recent.extend(appended)
        self._committed.set()
        self._committed = trio.Event()

    async def tail(self, after: EventId) -> Sequence[Event]:
        """Wait for events after a position; see ``protocols.Log.tail``."""
        while after >= self.position:
            await self._committed.wait()
        if not self._recent.covers(after):
            return (await self.read(WHOLE_LOG, after, TAIL_EVENTS)).events
        return self._recent.after(after)

    async def read(self, selection: Selection, after: EventId, limit: int) -> Page:
        """Read a selection's events after a position; see ``protocols.Log.read``."""
        position = self.position
        found, more = await self._readers.read(queries.read_events, selection, limit, after=after)
        if more:
            return Page(found, found[-1].id, more=True)
        newest = found[-1].id if found else OLDEST
        return Page(found, EventId(max(position, newest, after)), more=False)

    async def read_last(self, selection: Selection, limit: int) -> Page:
        """Read a selection's last events; see ``protocols.Log.read_last``."""
        position = self.position
        found, _ = await self._readers.read(queries.read_events, selection, limit, newest=True)
        newest = found[0].id if found else OLDEST
        return Page(found[::-1], EventId(max(position, newest)), more=False)

    async def bounds(self, selection: Selection) -> Bounds:
        """Tell what is kept of a selection."""
        trimmed = await self._readers.read(queries.trimmed_through, selection)
        return Bounds(trimmed, self.position)

    async def sweep(self, policy: RetentionSettings, now: datetime) -> int:
        """Remove expired keys, and a part of what is over the retention; see ``protocols.Keeper``."""
        try:
            return await self._writer.write(_sweep, policy, now)
        except OperationalError as error:
            raise Unavailable(f"the store can't be written: {error.orig}") from error


def _sweep(connection: Connection, policy: RetentionSettings, now: datetime) -> int:
    purged = keys.purge(connection, now)
    through = retention.due(connection, policy, now)
    return purged + (0 if through is None else retention.remove(connection, through))


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
    prices: Prices,
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
                known[draft.key] = fresh[draft.key] = (event_id, keys.fingerprint(draft))
        answers.append(Receipt(tuple(ids)))
    if appended:
        connection.execute(INSERT, rows)
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
        fold(connection, appended, prices)
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
    for some in chunks(sorted(names)):
        heads.update((name, seq) for name, seq in connection.execute(HEADS, {"wanted": some}))
    return heads


def _known_keys(connection: Connection, wanted: set[str], now: datetime) -> dict[str, tuple[EventId, str]]:
    known: dict[str, tuple[EventId, str]] = {}
    for some in chunks(sorted(wanted)):
        rows = connection.execute(KNOWN, {"wanted": some, "now": now})
        known.update((key, (EventId(event_id), mark)) for key, event_id, mark in rows)
    return known


def _conflict(request: Sequence[Draft], known: dict[str, tuple[EventId, str]]) -> Conflict | None:
    """Refuse a request in which a key stands for other content than before."""
    within: dict[str, str] = {}
    for index, draft in enumerate(request):
        if draft.key is None:
            continue
        mark = keys.fingerprint(draft)
        before = known[draft.key][1] if draft.key in known else within.setdefault(draft.key, mark)
        if before != mark:
            return keys.conflict(index, draft)
    return None
