"""The distributed form's log: the stream of ``redis_stream``, and PostgreSQL for what was trimmed from it.

*Reading.* One stream holds all channels. So a channel's events are found by PostgreSQL's indexes up to the
archive's checkpoint, and only the short rest is filtered out of the stream; the newest events are in this
node's memory (``recent``). The stream keeps some archived events, so that cursors of the last minutes still
work while PostgreSQL is away. The three sources overlap, so there is no seam: a reading that finds the stream
trimmed past its beginning starts again at PostgreSQL, which then has more.

*Following.* An append's answer puts the new events into this node's memory, unless another node's events come
in between; followers need not read them back. For other nodes' events a thread listens with a bounded
blocking read, which also returns the state. If the stream was trimmed past the position, ``tail`` catches up
from PostgreSQL. If another generation began (see ``redis_stream``) and the position is no longer in the
stream, events are lost for good, and ``tail`` raises ``PositionLost``. This node's own events wake the
listening thread too, so it pauses while there are many; an append that finds others' events before its own
reads them at once.

A long module, since memory, stream and archive overlap in each reading; one class knows how far each goes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import ParamSpec, TypeVar

import attrs
import outcome
import structlog
import trio
from sqlalchemy import Connection

from heliograph.model.channels import Selection
from heliograph.model.errors import HeliographError, Unavailable
from heliograph.model.event import Draft, Event
from heliograph.model.ids import OLDEST, EventId, format_id
from heliograph.storage.distributed.redis_stream import Added, Lease, Reading, RedisStream, StreamState
from heliograph.storage.protocols import WHOLE_LOG, Bounds, LogStats, LostRange, Page, PositionLost, Receipt
from heliograph.storage.recent import Recent, size_of
from heliograph.storage.sql import queries
from heliograph.storage.sql.checkpoint import read_checkpoint
from heliograph.storage.sql.database import Database
from heliograph.storage.sql.pages import PAGE_BYTES
from heliograph.storage.sql.steps import Step, read_step
from heliograph.storage.sql.trimmed import trimmed_behind, trimmed_through

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 8
BLOCK_MILLISECONDS = 500
LISTEN_PAUSE = 0.02
"""The listening thread's pause after a read that returned only this node's own events."""

TAIL_EVENTS = 2000
SCAN_EVENTS = 1000

log = structlog.get_logger(__name__)


class RedisLog:
    """The log on Redis and PostgreSQL; implements ``protocols.Log``.

    Args:
        stream: The Redis side.
        archive: The archive of older events.
    """

    def __init__(self, stream: RedisStream, archive: Database) -> None:
        self._stream = stream
        self._archive = archive
        self._limiter = trio.CapacityLimiter(THREADS)
        self._follower = trio.Lock()
        self._generation = 0
        self._position = OLDEST
        self._recent: Recent | None = None
        self._news = trio.Event()
        self._heard: outcome.Outcome[Reading] | None = None
        self._listening = False
        self._own = False
        self._away_since: float | None = None
        self._outages = self._losses = 0
        self._lost_ranges: Sequence[LostRange] = ()
        stream.seen = lambda: self._position
        self._error: str | None = "not reached yet"

    def stats(self) -> LogStats:
        """Return a snapshot."""
        return LogStats(self._error is None, self._outages, self._losses, self._error)

    async def load(self) -> None:
        """Read the position from Redis.

        Raises:
            Unavailable: Redis is away; ``tail`` reads the position once it is back.
        """
        state = await trio.to_thread.run_sync(self._stream.state, abandon_on_cancel=True)
        losses = await trio.to_thread.run_sync(self._stream.losses, abandon_on_cancel=True)
        self._begin(state, losses)

    def _begin(self, state: StreamState, losses: Sequence[LostRange]) -> Recent:
        self._lost_ranges = losses
        self._generation = state.generation
        self._recent = Recent(state.head)
        self._position = max(self._position, state.head)
        self._reached()
        return self._recent

    @property
    def position(self) -> EventId:
        """The newest id that this node has read or appended; ``OLDEST`` until Redis was reached."""
        return self._position

    @property
    def reached(self) -> bool:
        """Whether the position is known; if not, the first ``tail`` raises ``PositionLost`` with it."""
        return self._recent is not None

    async def append(
        self, requests: Sequence[Sequence[Draft]], lease: Lease | None = None
    ) -> Sequence[Receipt | HeliographError]:
        """Append several requests in one atomic call; see ``protocols.Log.append``.

        A connection that breaks before the answer raises ``Unavailable``, although the events may have been
        kept: only a retry with the same keys is harmless.

        Args:
            lease: A lease that must be held, or nothing is appended.

        Raises:
            Deposed: The lease is no longer held.
        """
        recent = self._recent
        through = None if recent is None else recent.through
        appended, reading = await self._call(self._append, requests, lease, through)
        kept = [answer.cursor for answer in appended.answers if isinstance(answer, Receipt) and answer.ids]
        self._position = max(self._position, *kept, OLDEST)
        if recent is not None and recent is self._recent and appended.generation == self._generation:
            if through is not None and reading is not None:
                self._take_in(recent, through, reading)
            self._feed(recent, appended.head, appended.events)
        return appended.answers

    def _append(
        self, requests: Sequence[Sequence[Draft]], lease: Lease | None, through: EventId | None
    ) -> tuple[Added, Reading | None]:
        """Append; also read events that other nodes have appended after ``through``, if there are any."""
        appended = self._stream.append(requests, lease)
        if through is None or appended.head <= through:
            return appended, None
        with suppress(Unavailable):  # the listening thread will get it, too
            return appended, self._stream.read(through, TAIL_EVENTS).decoded()
        return appended, None

    def _take_in(self, recent: Recent, after: EventId, reading: Reading) -> None:
        """Remember a reading's events, if no event is missing between ``after`` and them."""
        state = reading.state
        if state.generation == self._generation and state.leads_on_from(after):
            self._feed(recent, after, reading.events)

    def _feed(self, recent: Recent, after: EventId, events: Sequence[Event]) -> None:
        """Remember events that follow ``after`` without a hole, if memory reaches up to ``after``."""
        if after > recent.through:
            return
        fresh = [event for event in events if event.id > recent.through]
        if fresh:
            recent.extend(fresh)
            self._position = max(self._position, recent.through)
            self._news.set()

    def remembered(self, after: EventId, limit: int) -> Reading | None:
        """Return memory's events after a position as a reading; ``None`` if it has none or not all."""
        recent = self._recent
        if recent is None or not recent.covers(after) or after >= recent.through:
            return None
        events = recent.after(after)[:limit]
        state = StreamState(self._generation, 0, recent.through, None, None)
        return Reading(state, [event.id for event in events], [], events)

    async def tail(self, after: EventId) -> Sequence[Event]:
        """Wait for events after a position; see ``protocols.Log.tail``."""
        async with self._follower:
            while True:
                try:
                    events = await self._next(after)
                except Unavailable as error:
                    self._missed(error)
                    raise
                self._reached()
                if events:
                    return events

    async def _next(self, after: EventId) -> Sequence[Event]:
        """Return the events after a position, waiting a while for some; empty when none came."""
        recent = self._recent
        if recent is None:
            recent = self._begin(await self._call(self._stream.state), await self._call(self._stream.losses))
            raise PositionLost(recent.through, "the log was not reachable until now")
        if after < recent.since:
            page = await self._read_stored(WHOLE_LOG, after, TAIL_EVENTS)
            if page.trimmed or not page.events:
                raise self._no_longer_kept(max(page.through, recent.through))
            return page.events
        if after < recent.through:
            return recent.after(after)[:TAIL_EVENTS]
        reading = await self._hear(recent, after)
        if reading is None:
            return recent.after(after)[:TAIL_EVENTS] if recent.covers(after) else ()
        if reading.state.generation != self._generation:
            await self._reconcile(recent.through, reading.state)
        self._forget_removed(reading.state)
        if reading.state.leads_on_from(recent.through):
            events: Sequence[Event] = [event for event in reading.events if event.id > recent.through]
        else:
            archived = await self._archive.read(_archived, WHOLE_LOG, recent.through, TAIL_EVENTS)
            if archived.trimmed or not archived.step.events:
                raise self._no_longer_kept(reading.state.head)
            events = [event for event in archived.step.events if event.id > recent.through]
        if events:
            recent.extend(events)
            self._position = max(self._position, recent.through)
        # More events may have come meanwhile than memory holds.
        return recent.after(after)[:TAIL_EVENTS] if recent.covers(after) else ()

    async def _hear(self, recent: Recent, after: EventId) -> Reading | None:
        """Wait for the listening thread's reading; ``None`` if this node has appended events first."""
        while self._heard is None:
            if recent.through > after:
                return None
            if not self._listening:
                self._listening = True
                pause = LISTEN_PAUSE if self._own else 0.0
                listen = partial(self._listen, recent, pause)
                heard = partial(self._deliver, trio.lowlevel.current_trio_token())
                trio.lowlevel.start_thread_soon(listen, heard, name="listener")
            self._news = trio.Event()
            await self._news.wait()
        found, self._heard = self._heard, None
        reading = found.unwrap()
        self._own = bool(reading.ids) and reading.ids[-1] <= recent.through
        return reading

    def _listen(self, recent: Recent, pause: float) -> Reading:
        """Read the events after those in memory; runs in the listening thread."""
        time.sleep(pause)
        reading = self._stream.wait(recent.through, TAIL_EVENTS, BLOCK_MILLISECONDS)
        own = reading.ids and reading.ids[-1] <= recent.through  # they are in memory by now
        return reading if own else reading.decoded()

    def _deliver(self, token: trio.lowlevel.TrioToken, heard: outcome.Outcome[Reading]) -> None:
        """Hand the listening thread's outcome to Trio; drop it if Trio's run has ended."""
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(self._take_heard, heard)

    def _take_heard(self, heard: outcome.Outcome[Reading]) -> None:
        self._heard, self._listening = heard, False
        self._news.set()

    async def _reconcile(self, here: EventId, state: StreamState) -> None:
        """Check, after Redis was prepared anew, that it has lost no events of before ``here``.

        Raises:
            PositionLost: It has.
        """
        lost = state.lost > self._generation or not (
            here in (OLDEST, state.head)
            or (state.oldest is not None and here < state.oldest)
            or await self._call(self._stream.has, here)
        )
        self._lost_ranges = await self._call(self._stream.losses)
        self._generation = state.generation
        if lost:
            raise self._lost(state.head, "Redis lost events")

    def _forget_removed(self, state: StreamState) -> None:
        """Drop from memory the events that retention has removed."""
        if self._recent is not None and state.removed is not None:
            self._recent.forget(state.removed)

    def _lost(self, head: EventId, reason: str) -> PositionLost:
        log.error("position lost", reason=reason, seen=format_id(self._position), head=format_id(head))
        self._losses += 1
        self._recent = Recent(head)
        self._position = head
        return PositionLost(head, reason)

    def _no_longer_kept(self, head: EventId) -> PositionLost:
        return self._lost(head, "events were removed before they were followed")

    def _missed(self, error: Unavailable) -> None:
        if self._away_since is None:
            self._outages += 1
            self._away_since = trio.current_time()
            log.warning("log away", reason=str(error))
        self._error = str(error)

    def _reached(self) -> None:
        if self._away_since is not None:
            log.info("log back", seconds=round(trio.current_time() - self._away_since, 1))
        self._away_since = self._error = None

    async def read(self, selection: Selection, after: EventId, limit: int) -> Page:
        """Read a selection's events after a position; see ``protocols.Log.read``."""
        if self._recent is not None and self._recent.covers(after):
            page = await self._read_on(selection, [], after, limit)
            if page is not None:
                return page
        return await self._read_stored(selection, after, limit)

    async def _read_stored(self, selection: Selection, after: EventId, limit: int) -> Page:
        """Read from PostgreSQL, and from the stream where the archive ends."""
        while True:
            away: Unavailable | None = None
            start, found, trimmed = after, list[Event](), OLDEST
            try:
                archived = await self._archive.read(_archived, selection, after, limit)
                found, trimmed = list(archived.step.events), archived.trimmed
                if archived.step.through is not None:
                    return Page(found, archived.step.through, True, trimmed)
                start = max(start, archived.checkpoint, found[-1].id if found else OLDEST)
            except Unavailable as error:
                away = error
            page = await self._read_on(selection, found, start, limit)
            if page is not None:
                return attrs.evolve(page, trimmed=trimmed)
            if away is not None:
                raise away

    async def _read_on(
        self, selection: Selection, found: list[Event], start: EventId, limit: int
    ) -> Page | None:
        """Add to ``found`` what memory and stream have after ``start``; ``None`` if that was trimmed."""
        recent = self._recent
        if recent is not None and recent.covers(start):
            found += _of(selection, recent.after(start))
            start = max(start, recent.through)
            if start >= self._position or len(found) > limit:
                return _page(found, limit, start)
        reading = await self._decoded(self._stream.read, start, SCAN_EVENTS)
        if not reading.state.leads_on_from(start):
            return None
        found += _of(selection, reading.events)
        through = reading.ids[-1] if reading.ids else max(start, reading.state.head)
        return _page(found, limit, through, more=through < reading.state.head)

    async def tail_start(self, selection: Selection, count: int) -> EventId:
        """Return the position just before the last ``count`` events; see ``protocols.Log.tail_start``."""
        recent = self._recent
        if recent is None:
            raise Unavailable("the log has not been reached yet")
        ids, through = _ids(_of(selection, recent.after(recent.since))), recent.through
        while through < self._position:  # events of this node that are not in memory yet
            reading = await self._decoded(self._stream.read, through, SCAN_EVENTS)
            if not reading.ids:
                break
            ids += _ids(_of(selection, reading.events))
            through = reading.ids[-1]
        if len(ids) < count:
            ids = await self._last_ids(selection, count - len(ids), recent.since) + ids
        return EventId(ids[-count:][0] - 1) if ids else through

    async def _last_ids(self, selection: Selection, count: int, through: EventId) -> list[EventId]:
        """Return the ids of the last ``count`` events up to ``through``, from stream and PostgreSQL."""
        while True:
            away: Unavailable | None = None
            checkpoint, archived = OLDEST, list[EventId]()
            try:
                checkpoint, archived = await self._archive.read(
                    _archived_ids, selection, count, EventId(through + 1)
                )
            except Unavailable as error:
                away = error
            boundary = max(checkpoint, *archived[:1], OLDEST)
            found = await self._last_ids_of_stream(selection, count, through, boundary, away)
            if found is not None:
                return (archived[::-1] + found)[-count:]

    async def _last_ids_of_stream(
        self, selection: Selection, count: int, through: EventId, boundary: EventId, away: Unavailable | None
    ) -> list[EventId] | None:
        """Return the ids of the last ``count`` events after ``boundary`` and up to ``through`` in the stream.

        Returns:
            The ids, oldest first; ``None`` if the stream was trimmed in between.

        Raises:
            Unavailable: The error ``away``, if PostgreSQL would be needed for the rest.
        """
        found: list[EventId] = []
        before = EventId(through + 1)
        while len(found) < count and before > boundary + 1:
            reading = await self._decoded(self._stream.read_back, before, boundary, SCAN_EVENTS)
            complete = reading.state.leads_on_from(boundary)
            if not complete and away is None:
                return None
            found += _ids(_of(selection, reading.events))
            if not reading.ids:
                if not complete and away is not None:
                    raise away
                break
            before = reading.ids[-1]
        return found[::-1]

    async def bounds(self, selection: Selection) -> Bounds:
        """Return the extent of a selection that is kept; see ``protocols.Log.bounds``.

        While PostgreSQL is away, every channel counts as trimmed up to where retention has removed any event.
        """
        state = await self._call(self._stream.state)
        self._forget_removed(state)
        if state.generation != self._generation:
            self._lost_ranges = await self._call(self._stream.losses)
        trimmed = OLDEST
        if state.removed is not None:
            try:
                trimmed = await self._archive.read(trimmed_through, selection)
            except Unavailable:
                trimmed = state.removed
        return Bounds(trimmed, max(state.head, self._position))

    @property
    def losses(self) -> Sequence[LostRange]:
        """The newest ranges in which Redis may have lost events; see ``protocols.Log.losses``."""
        return self._lost_ranges

    async def _call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await trio.to_thread.run_sync(partial(work, *args, **kwargs), limiter=self._limiter)

    async def _decoded(self, read: Callable[P, Reading], *args: P.args, **kwargs: P.kwargs) -> Reading:
        """Read, and decode in the same thread."""
        return await self._call(lambda: read(*args, **kwargs).decoded())


@attrs.frozen
class _Archived:
    """The archived events after a position: complete up to ``checkpoint``, except for trimmed events."""

    checkpoint: EventId
    step: Step
    trimmed: EventId


def _archived(connection: Connection, selection: Selection, after: EventId, limit: int) -> _Archived:
    queries.see_one_moment(connection)
    step = read_step(connection, selection, after, limit)
    trimmed = trimmed_behind(connection, selection, after)
    return _Archived(read_checkpoint(connection), step, trimmed)


def _archived_ids(
    connection: Connection, selection: Selection, count: int, before: EventId
) -> tuple[EventId, list[EventId]]:
    """Return the checkpoint, and the ids of the last archived events.

    The checkpoint is read first, so the ids are complete up to it.
    """
    checkpoint = read_checkpoint(connection)
    return checkpoint, queries.last_ids(connection, selection, count, before=before)


def _of(selection: Selection, events: Sequence[Event]) -> list[Event]:
    return [event for event in events if selection.covers(event.channel, event.topic)]


def _ids(events: Iterable[Event]) -> list[EventId]:
    return [event.id for event in events]


def _page(events: list[Event], limit: int, through: EventId, *, more: bool = False) -> Page:
    fitting = min(limit, _fitting(events))
    if len(events) > fitting:
        return Page(events[:fitting], events[fitting - 1].id, more=True)
    return Page(events, through, more)


def _fitting(events: Iterable[Event]) -> int:
    """Return how many events fill a page of ``PAGE_BYTES``."""
    number = size = 0
    for event in events:
        number += 1
        size += size_of(event)
        if size >= PAGE_BYTES:
            break
    return number
