"""The archive: moves events from the Redis stream into PostgreSQL, exactly once.

One node at a time is the archiver, for a *term*: as long as its session in PostgreSQL lives and holds an
advisory lock. Everything is committed in that session, so losing the lock means losing the connection.
PostgreSQL, or the next node in line, ends a silent session, so a paused or cut off node is replaced in
seconds.

Each transaction has two fences all the same. The checkpoint must move from exactly where this node read it,
or the transaction fails: nothing can be folded twice. And the generation of Redis must be the one in which
the events were read: events that a run of Redis has lost are not archived afterwards.

The stream is trimmed only up to the checkpoint, after the commit. While a batch of a backlog is written, the
next one is read and decoded; a batch is written only if it follows what was committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

import structlog
import trio
from sqlalchemy import URL, Connection, select, update

from heliograph.model.errors import Unavailable
from heliograph.model.event import Event
from heliograph.model.ids import OLDEST, EventId, format_id, to_microseconds
from heliograph.model.prices import NO_PRICES, Prices
from heliograph.model.settings import RetentionSettings
from heliograph.storage.distributed.locks import ARCHIVE_LOCK, end_silent_holder, try_session_lock
from heliograph.storage.distributed.postgres import (
    PostgresDatabase,
    driver_of,
    require_schema,
    session_engine,
    translated,
)
from heliograph.storage.distributed.redis_log import RedisLog
from heliograph.storage.distributed.redis_stream import GENERATION, Reading, RedisStream
from heliograph.storage.protocols import Deposed, Forgotten, Place, RunName
from heliograph.storage.settings import PostgresSettings
from heliograph.storage.sql import forgetting, retention, schema
from heliograph.storage.sql.fold import begin_checkpoint, fold
from heliograph.storage.sql.prepared import upsert
from heliograph.storage.sql.trimmed import raise_watermark
from heliograph.storage.sql.written import Written

BATCH_EVENTS = 10_000
WAIT_MILLISECONDS = 500
BACKLOG_EVENTS = 1000
"""A batch of more events is part of a backlog, so the next one is read ahead."""

GATHER_EVENTS = 500
GATHER_SECONDS = 0.05
"""The pause after a transaction of fewer than ``GATHER_EVENTS`` events, in which others gather for the next.
A single event is archived at once; without the pause each event of a trickle would cost a transaction."""

TRIM_EVERY = 1000
TRIM_EVENTS = 20_000

log = structlog.get_logger(__name__)


class PostgresArchive:
    """The archiver of this node; implements ``protocols.Archive`` and ``Keeper``.

    Args:
        stream: The source of events.
        log: The log over the stream; events in its memory need not be read and decoded again.
        database: The database that events are written to.
        url: That database's URL, for the session that holds the lock.
        settings: Timeouts.
        prices: Prices, for results that don't give their cost.
    """

    def __init__(
        self,
        stream: RedisStream,
        log: RedisLog,
        database: PostgresDatabase,
        url: URL,
        settings: PostgresSettings,
        prices: Prices = NO_PRICES,
    ) -> None:
        self._stream = stream
        self._log = log
        self._database = database
        self._prices = prices
        self._engine = session_engine(url, settings)
        database.watch.add(self._engine)
        self._seconds = settings.statement_timeout * 3
        self._silence = settings.takeover_seconds
        self._limiter = trio.CapacityLimiter(1)
        self._session: Connection | None = None
        self._checkpoint = OLDEST
        self._written = Written()
        self._ahead: Reading | None = None
        self._untrimmed = 0
        self._gathering = False
        self._generation = 0

    @property
    def active(self) -> bool:
        """Whether this node is the archiver now."""
        return self._session is not None

    async def begin(self) -> bool:
        """Become the archiver if nobody else is; see ``protocols.Archive``."""
        return await trio.to_thread.run_sync(self._begin, limiter=self._limiter)

    async def step(self) -> int:
        """Archive the next events, waiting a while for some; see ``protocols.Archive``."""
        reading, self._ahead = self._ahead, None
        if reading is None:
            if self._gathering:
                await trio.sleep(GATHER_SECONDS)
            reading = self._log.remembered(self._checkpoint, BATCH_EVENTS)
            if reading is not None and reading.state.generation != self._generation:
                reading = None  # this node's memory may be of another run of Redis
        if reading is None:
            reading = await trio.to_thread.run_sync(
                self._stream.wait, self._checkpoint, BATCH_EVENTS, WAIT_MILLISECONDS, abandon_on_cancel=True
            )
        failure: Exception | None = None
        archived = 0
        async with trio.open_nursery() as nursery:
            if len(reading.ids) > BACKLOG_EVENTS:
                nursery.start_soon(self._read_ahead, reading.ids[-1])
            try:
                archived = await trio.to_thread.run_sync(self._archive, reading, limiter=self._limiter)
            except (Unavailable, Deposed) as error:
                failure = error
                nursery.cancel_scope.cancel()
        if not archived:
            self._ahead = None  # it follows a batch that was not archived
        if failure is not None:
            raise failure
        self._gathering = 0 < archived < GATHER_EVENTS
        return archived

    async def _read_ahead(self, after: EventId) -> None:
        """Read and decode the batch that follows ``after``, while the one before is written."""

        def read() -> Reading:
            return self._stream.read(after, BATCH_EVENTS).decoded()

        with suppress(Unavailable):  # the next step will meet it
            reading = await trio.to_thread.run_sync(read, abandon_on_cancel=True)
            if reading.ids:
                self._ahead = reading

    def end(self) -> None:
        """Stop being the archiver."""
        if self._session is not None:
            self._session.invalidate()
            self._session.close()
            self._session = None

    async def sweep(self, policy: RetentionSettings, now: datetime) -> int:
        """Remove a part of what is over the retention, on the archiver's node; see ``protocols.Keeper``.

        Redis comes first: a reader must never find an unexplained hole.
        """
        if not self.active:
            return 0
        gone = await trio.to_thread.run_sync(self._remove_entities, policy, now, limiter=self._limiter)
        through = await self._database.read(retention.due, policy, now)
        if through is None:
            return gone
        await trio.to_thread.run_sync(self._stream.remove, through, limiter=self._limiter)
        return gone + await self._database.write(retention.remove, through)

    def _remove_entities(self, policy: RetentionSettings, now: datetime) -> int:
        """Remove entities while nothing is archived, since the fold must not rely on a row that goes."""

        def remove(connection: Connection) -> retention.Removed:
            return retention.remove_entities(connection, policy, now)

        gone = self._database.call(self._database.engine.begin, remove)
        self._written.forget(gone.channels)
        return gone.number

    async def remove_runs(self, policy: RetentionSettings, now: datetime) -> Sequence[RunName]:
        """Remove a part of the runs that are over the retention; see ``protocols.Keeper``."""
        return await self._database.write(retention.remove_runs, policy, now)

    async def forget(self, now: datetime, place: Place) -> Forgotten:
        """Forget channels of which nothing is kept; see ``protocols.Keeper``.

        First come the rows of PostgreSQL, by name. Then come the numbers in Redis, by Redis's cursor: those
        of channels without a row go. So what a crash leaves behind in Redis is found by the next walk.
        """
        if isinstance(place, int):
            return await self._forget_numbers(place)
        part = await self._database.read(forgetting.look, place, now)
        gone: Sequence[str] = ()
        if part.empty:
            gone = await self._database.write(forgetting.forget, part.empty, now)
        return Forgotten(len(part.names) - len(gone), len(gone), 0 if part.next is None else part.next)

    async def _forget_numbers(self, cursor: int) -> Forgotten:
        walked = await trio.to_thread.run_sync(self._stream.walk, cursor)
        known = await self._database.read(forgetting.known, list(walked.heads))
        while known.checkpoint < walked.newest:  # a channel without a row may have its first event on the way
            await trio.sleep(GATHER_SECONDS)
            known = await self._database.read(forgetting.known, list(walked.heads))
        if gone := walked.heads.keys() - known.names:
            await trio.to_thread.run_sync(self._stream.forget, walked, gone)
        return Forgotten(0, 0, walked.after or None)

    async def unknown_runs(self, names: Sequence[RunName]) -> Sequence[RunName]:
        """Return the runs among ``names`` of which nothing is kept."""
        return await self._database.read(retention.unknown_runs, names)

    def _begin(self) -> bool:
        with translated(), self._database.watch.call(self._seconds):
            session = self._engine.connect()
            try:
                require_schema(session)
                won = try_session_lock(session, ARCHIVE_LOCK)
                if won:
                    self._checkpoint = begin_checkpoint(session)
                else:
                    end_silent_holder(session, ARCHIVE_LOCK, self._silence)
                session.commit()
            except BaseException:
                session.invalidate()
                session.close()
                raise
            if not won:
                session.close()
                return False
        self._session, self._written, self._ahead = session, Written(), None
        return True

    def _archive(self, reading: Reading) -> int:
        session = self._session
        assert session is not None
        with translated(), self._database.watch.call(self._seconds):
            self._database.watch.uses(driver_of(session))
            with session.begin():
                if not reading.ids and reading.state.leads_on_from(self._checkpoint):
                    session.execute(select(1))  # the session must not fall silent
                    return 0
                stale = _generation(session) != reading.state.generation
                if not stale:
                    heads, steady = self._keep(session, reading)
        if stale:
            self._stream.prepare()
            return 0
        self._written.learn(heads, steady)
        self._checkpoint, self._generation = _end(reading), reading.state.generation
        self._untrimmed += len(reading.ids)
        if self._untrimmed >= TRIM_EVERY:
            self._stream.trim(self._checkpoint, TRIM_EVENTS)
            self._untrimmed = 0
        return len(reading.ids)

    def _keep(self, session: Connection, reading: Reading) -> tuple[dict[str, int], set[str]]:
        """Write events, fold them, and move the checkpoint.

        Returns:
            The last number of each channel, and the channels whose entities are steady.
        """
        if not reading.state.leads_on_from(self._checkpoint):
            self._note_hole(session, reading)
        moved = session.execute(
            update(schema.checkpoints)
            .where(
                schema.checkpoints.c.name == schema.FOLDED, schema.checkpoints.c.event_id == self._checkpoint
            )
            .values(event_id=_end(reading))
        )
        if moved.rowcount != 1:
            raise Deposed("another node has archived in the meantime")
        events = reading.events
        _copy(session, events)
        heads = {event.channel: event.seq for event in events}
        # In the order in which retention updates them: two orders would lock each other out.
        rows = [{"name": name, "head_seq": seq} for name, seq in sorted(heads.items())]
        upsert(session, schema.channels, rows)
        return heads, fold(session, events, self._prices, self._written.steady(set(heads)))

    def _note_hole(self, session: Connection, reading: Reading) -> None:
        """Skip events that are in neither database, as after restoring an old backup.

        Redis is told before the commit: readers ask PostgreSQL what was removed only if Redis says that
        something was.
        """
        assert reading.state.oldest is not None
        through = EventId(reading.state.oldest - 1) if reading.ids else _end(reading)
        log.error("events are missing", after=format_id(self._checkpoint), through=format_id(through))
        self._stream.remove(through)
        session.execute(update(schema.channels).values(trimmed_id=through))
        raise_watermark(session, through)


def _end(reading: Reading) -> EventId:
    """Return the position that a reading reaches: its last event, or the head of an empty stream."""
    return reading.ids[-1] if reading.ids else reading.state.head


def _generation(session: Connection) -> int:
    """Return PostgreSQL's copy of the generation, locked against a preparation until the commit."""
    table = schema.checkpoints
    found = select(table.c.event_id).where(table.c.name == GENERATION).with_for_update(read=True)
    return session.scalar(found) or 0


def _copy(session: Connection, events: Sequence[Event]) -> None:
    """Write the events in the text form of COPY; ``write_row`` takes three times as long.

    The text is complete before COPY begins. While PostgreSQL waits for more of it a session is not idle, so a
    paused node's session would live until its statement's timeout.
    """
    lines = b"".join(map(_line, events))
    with driver_of(session).cursor() as cursor, cursor.copy(COPY) as copy:
        copy.write(lines)


COPY = "COPY events (id, channel, seq, topic, timestamp, sender, correlation_id, payload) FROM STDIN"


def _line(event: Event) -> bytes:
    return b"%d\t%s\t%d\t%s\t%d\t%s\t%s\t%s\n" % (
        event.id,
        event.channel.encode(),
        event.seq,
        event.topic.encode(),
        to_microseconds(event.timestamp),
        _escaped(event.sender),
        _escaped(event.correlation_id),
        event.json.replace(b"\\", b"\\\\"),  # JSON has no raw tab and no raw newline
    )


def _escaped(text: str | None) -> bytes:
    if text is None:
        return b"\\N"
    found = text.encode().replace(b"\\", b"\\\\")
    return found.replace(b"\t", b"\\t").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
