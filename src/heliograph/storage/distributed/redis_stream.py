"""The Redis side of the distributed log: keys, scripts, and the preparation of a server; synchronous.

*Append* is one script: for a group of requests it checks idempotency keys, takes ids from Redis's clock
(never going back), counts ``seq`` per channel and adds the events, all or nothing. Redis persists it as
its ``appendfsync`` says before it answers.

*Preparation.* Redis may come back with less than it acknowledged (``appendfsync everysec``, a failover, a
flush). Publishing on without more ado would give numbers twice. So each run of a Redis server is prepared
once before it is used: under a lock in PostgreSQL the counters are raised to those of the archive, and the
generation is raised in both databases. Each new connection compares the server's run id with the prepared
one, so no connection uses an unprepared server. The generation is a fence, too: an archiver that still holds
events of the run before can't commit them. A preparation that finds archived events missing notes its
generation in ``lost``. Events that were lost unarchived had ids between the newest event that is there and
the moment of the preparation: each preparation notes this range in PostgreSQL, and in ``losses``.

*Full.* Nothing is ever dropped to make room. When the stream or Redis's memory nears its bound because nobody
archives, append refuses. It also refuses under a policy by which Redis would delete keys.

A long module, since no call may reach a Redis that is not prepared: all of them go through one gate (``do``),
and no other module has the connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import Any, TypeVar
from uuid import uuid4

import attrs
import orjson
import structlog
from redis._parsers.helpers import parse_info
from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError
from sqlalchemy import Connection, select, text

from heliograph.model.errors import Conflict, HeliographError, SettingsError, Unavailable
from heliograph.model.event import Draft, Event
from heliograph.model.ids import (
    OLDEST,
    SEQUENCE_BITS,
    EventId,
    format_id,
    from_microseconds,
    make_id,
    time_of,
    to_microseconds,
)
from heliograph.model.publishers import CLI_STATUS
from heliograph.storage.distributed import scripts
from heliograph.storage.distributed.locks import PREPARE_LOCK, session_lock
from heliograph.storage.distributed.postgres import PostgresDatabase
from heliograph.storage.distributed.redis_client import connect, refusals_named, translated
from heliograph.storage.protocols import WHOLE_LOG, Deposed, LostRange, Receipt
from heliograph.storage.settings import RedisSettings
from heliograph.storage.sql import schema
from heliograph.storage.sql.fold import begin_checkpoint
from heliograph.storage.sql.keys import conflict, fingerprint, overtaken
from heliograph.storage.sql.losses import note_loss, read_losses
from heliograph.storage.sql.prepared import upsert
from heliograph.storage.sql.trimmed import trimmed_through

T = TypeVar("T")

GENERATION = "generation"
"""Name of the checkpoint that is PostgreSQL's copy of the generation."""

READ_BYTES = 4 * 1024 * 1024
PREPARE_SECONDS = 600.0
MEMORY_SECONDS = 1.0
FULL_RETRY_SECONDS = 5.0
WALK_CHANNELS = 1000
"""The number of channels that a part of a walk looks at, roughly."""

log = structlog.get_logger(__name__)


class _Unprepared(RedisConnectionError):
    """The run of Redis is not prepared yet."""


@attrs.frozen
class Lease:
    """A lease in Redis, held by one node at a time: a key whose value is the holder's token."""

    key: str
    token: str


@attrs.frozen
class StreamState:
    """The state that ``scripts`` keeps beside the stream; see there for its fields."""

    generation: int
    lost: int
    head: EventId
    oldest: EventId | None
    removed: EventId | None

    def leads_on_from(self, position: EventId) -> bool:
        """Tell whether the stream has every event after ``position``."""
        return self.oldest is None or position + 1 >= self.oldest


@attrs.frozen
class Added:
    """The result of an append; no event stands between ``head`` and the first of ``events``.

    Args:
        generation: The generation of Redis.
        head: The newest id before the append.
        answers: For each request its receipt, or the error that refused it alone.
        events: The new events, in order.
    """

    generation: int
    head: EventId
    answers: Sequence[Receipt | HeliographError]
    events: Sequence[Event]


@attrs.frozen
class Walked:
    """A part of a walk over the channels whose newest ``seq`` is kept.

    Args:
        token: Names the walk as the newest one.
        generation: The generation of Redis.
        newest: The newest event in the stream; those that are not archived yet are in it.
        heads: By channel: its newest ``seq``.
        after: Where the walk goes on; 0: it is complete.
    """

    token: str
    generation: int
    newest: EventId
    heads: Mapping[str, int]
    after: int


@attrs.frozen
class Reading:
    """Events of the stream, and its state at the same moment.

    Args:
        state: The state of the stream.
        ids: The events' ids.
        bodies: The events' JSON.
        known: The decoded events, if there are any already.
    """

    state: StreamState
    ids: Sequence[EventId]
    bodies: Sequence[bytes]
    known: Sequence[Event] | None = None

    @cached_property
    def events(self) -> Sequence[Event]:
        """The events, decoded."""
        if self.known is not None:
            return self.known
        return [decode(*pair) for pair in zip(self.ids, self.bodies, strict=True)]

    def decoded(self) -> Reading:
        """Return the reading with its events decoded: for the thread that read it, as they may be large."""
        _ = self.events
        return self


class RedisStream:
    """The stream, its state and its leases. Every method blocks, and raises ``Unavailable`` in an outage.

    Args:
        url: The URL of Redis.
        settings: Names and bounds.
        key_ttl: How long idempotency keys are remembered.
        archive: The archive that preparation compares Redis with.
    """

    def __init__(
        self, url: str, settings: RedisSettings, key_ttl: timedelta, archive: PostgresDatabase
    ) -> None:
        self._settings = settings
        self._key_milliseconds = round(key_ttl.total_seconds() * 1000)
        self._archive = archive
        # In braces, so that a cluster keeps all keys in one slot.
        names = f"{{{settings.prefix}}}"
        self._stream, self._state, self._heads = (f"{names}:{name}" for name in ("events", "state", "heads"))
        self._keys = f"{names}:key:"
        self.prefix = names
        self.client = connect(url, settings, self._greet)
        self._unprepared = connect(url, settings, lambda connection: connection.on_connect())
        self._append = self.client.register_script(scripts.APPEND)
        self._read = self.client.register_script(scripts.READ)
        self._trim = self.client.register_script(scripts.TRIM)
        self._remove = self.client.register_script(scripts.REMOVE)
        self._renew = self.client.register_script(scripts.RENEW)
        self._advance = self.client.register_script(scripts.ADVANCE)
        self._release = self.client.register_script(scripts.RELEASE)
        self._walk = self.client.register_script(scripts.WALK)
        self._forget = self.client.register_script(scripts.FORGET)
        self._try = self._unprepared.register_script(scripts.TRY)
        self._set_state = self._unprepared.register_script(scripts.SET_STATE)
        self._memory_due = 0.0
        self._no_room: str | None = None
        self.seen: Callable[[], EventId] = lambda: OLDEST
        """Returns the newest id that this node knows of: no run of Redis may give it again."""
        self._refused = False
        """Whether the last append was."""

    def close(self) -> None:
        """Close every connection, including those that a thread waits on."""
        for client in (self.client, self._unprepared):
            client.connection_pool.disconnect()

    def probe(self) -> None:
        """Connect to Redis, prepared or not, and try the commands that will be needed.

        Raises:
            SettingsError: It refuses, or may delete events to make room.
            Unavailable: It is away.
        """
        with refusals_named():
            evicting = _evicting(self._unprepared.info("memory"))
            self._try([self._stream, self._state, self._heads, f"{self.prefix}:try"])
            self._unprepared.xread({self._stream: "$"}, count=1)
            if self._settings.bridge:
                with self._unprepared.pubsub() as pubsub:
                    pubsub.psubscribe(self._settings.bridge, CLI_STATUS)
                    pubsub.get_message(timeout=self._settings.timeout)
                if self._settings.bridge_stream:
                    self._unprepared.xread({self._settings.bridge_stream: "$"}, count=1)
        if evicting is not None:
            raise SettingsError([f"storage.redis_url: {evicting}"])

    def do(self, work: Callable[[], T]) -> T:
        """Run commands against a prepared server, preparing it first if it is not.

        Raises:
            Unavailable: Redis is away, or it must be prepared and PostgreSQL is away.
        """
        with translated():
            try:
                return work()
            except _Unprepared:
                pass
            except ResponseError as error:
                # A failover leaves such connections behind. The driver has no class for what a script meets.
                if isinstance(error, ReadOnlyError) or "READONLY" in str(error):
                    self._drop_idle()
                if "UNPREPARED" not in str(error):
                    raise
            self.prepare()
            return work()

    def _drop_idle(self) -> None:
        for client in (self.client, self._unprepared):
            client.connection_pool.disconnect(inuse_connections=False)

    def time(self) -> float:
        """Return Redis's own time, in seconds since the epoch.

        Raises:
            Unavailable: Redis is away.
        """
        with translated():
            seconds, micros = self.client.time()
            return float(seconds + micros / 10**6)

    def append(self, requests: Sequence[Sequence[Draft]], lease: Lease | None = None) -> Added:
        """Append requests in one atomic call; see ``protocols.Log.append``.

        Args:
            lease: A lease that must still be held, or nothing is appended.

        Raises:
            Unavailable: Redis is away or full; in an outage the requests may have been kept all the same.
            Deposed: The lease is no longer held.
        """
        arguments: list[str | bytes | int] = [
            self._keys,
            self._key_milliseconds,
            self._settings.max_events,
            lease.key if lease else "",
            lease.token if lease else "",
        ]
        for request in requests:
            arguments.append(_counted(request))
            for draft in request:
                marked = "" if draft.key is None else fingerprint(draft) + draft.key
                arguments += (draft.channel, marked, _encode(draft))
        try:
            answers = self.do(lambda: self._run_append(arguments))
        except Unavailable as error:
            self._refused = True
            raise _refused(error) from error.__cause__
        self._refused = False
        generation, head = _texts(answers[:2])
        receipts: list[Receipt | HeliographError] = []
        events: list[Event] = []
        for answer, request in zip(answers[2:], requests, strict=True):
            if isinstance(answer, bytes):
                receipts.append(_take(answer, request, events))
            else:
                receipts.append(_refusal(answer, request))
        return Added(int(generation or 0), parse(head or "0-0"), receipts, events)

    def _run_append(self, arguments: Sequence[str | bytes | int]) -> list[bytes | int]:
        self._look_at_memory()
        if self._no_room is not None:
            raise Unavailable(self._no_room, FULL_RETRY_SECONDS)
        answers: list[bytes | int] = self._append([self._stream, self._state, self._heads], arguments)
        return answers

    def _look_at_memory(self) -> None:
        """Check every ``MEMORY_SECONDS`` how full Redis is, and that its policy deletes no keys."""
        if time.monotonic() < self._memory_due:
            return
        memory = self.client.info("memory")
        used, most = memory["used_memory"], memory.get("maxmemory", 0)
        full = 0 < self._settings.max_memory * most < used
        nearly_full = f"Redis is nearly full: {used} of {most} bytes are used" if full else None
        self._no_room = _evicting(memory) or nearly_full
        self._memory_due = time.monotonic() + MEMORY_SECONDS

    def read(self, after: EventId, limit: int) -> Reading:
        """Read events after a position, oldest first; fewer than ``limit`` when they are large."""
        return self.do(lambda: self._reading("XRANGE", f"({format_id(after)}", "+", limit))

    def read_back(self, before: EventId, after: EventId, limit: int) -> Reading:
        """Read events between two ids (both exclusive), newest first."""
        return self.do(
            lambda: self._reading("XREVRANGE", f"({format_id(before)}", f"({format_id(after)}", limit)
        )

    def wait(self, after: EventId, limit: int, milliseconds: int) -> Reading:
        """Read events after a position, waiting a while for the first one."""

        def work() -> Reading:
            self.client.xread({self._stream: format_id(after)}, count=1, block=milliseconds)
            return self._reading("XRANGE", f"({format_id(after)}", "+", limit)

        return self.do(work)

    def has(self, event_id: EventId) -> bool:
        """Tell whether an event is in the stream."""
        return bool(self.read_back(EventId(event_id + 1), EventId(event_id - 1), 1).ids)

    def state(self) -> StreamState:
        """Return the state of the stream."""
        return self.do(lambda: self._reading("XRANGE", "+", "+", 0)).state

    def losses(self) -> Sequence[LostRange]:
        """Return the ranges of ids in which events may be lost."""
        [said] = _texts(self.do(lambda: self.client.hmget(self._state, "losses")))
        pairs = (pair.partition(":") for pair in said.split(",")) if said else ()
        return [LostRange(parse(after), parse(before)) for after, _, before in pairs]

    def check(self) -> StreamState:
        """Return the state of the stream; after a refused append, only if Redis can be written again.

        A Redis that became a replica, or misses its own, can still be read.

        Raises:
            Unavailable: Redis is away, or refuses.
        """
        if self._refused:
            own = f"{self.prefix}:try"
            with translated():
                self._try([self._stream, self._state, self._heads, own])
                self._unprepared.set(own, "", px=1)
            self._refused = False
        return self.state()

    def _reading(self, *arguments: str | int) -> Reading:
        answer = self._read([self._stream, self._state], [*arguments, READ_BYTES])
        generation, lost, head, oldest, removed = _texts(answer[0])
        state = StreamState(
            generation=int(generation or 0),
            lost=int(lost or 0),
            head=parse(head or "0-0"),
            oldest=parse(oldest) if oldest else None,
            removed=parse(removed) if removed else None,
        )
        if not answer[1]:
            return Reading(state, [], [])
        ids = [parse(one) for one in answer[1].decode().split("\n")]
        return Reading(state, ids, answer[2].split(b"\n"))

    def trim(self, through: EventId, at_most: int) -> int:
        """Remove archived events beyond those to keep; return how many were removed.

        Args:
            through: The newest id that may be removed.
            at_most: The most events to remove, which bounds the time that Redis is busy.
        """
        arguments: list[str | int] = [format_id(through + 1), self._settings.keep_events, at_most]
        removed: int = self.do(lambda: self._trim([self._stream, self._state], arguments))
        return removed

    def remove(self, through: EventId) -> None:
        """Remove archived events up to ``through``, which retention then removes from the store, too."""
        arguments = [format_id(through), format_id(through + 1)]
        self.do(lambda: self._remove([self._stream, self._state], arguments))

    def walk(self, cursor: int) -> Walked:
        """Look at some of the channels whose newest ``seq`` is kept; 0 is the beginning."""
        token = uuid4().hex
        keys = [self._stream, self._state, self._heads]
        generation, newest, after, pairs = self.do(lambda: self._walk(keys, [token, cursor, WALK_CHANNELS]))
        names = [name.decode() for name in pairs[::2]]
        heads = dict(zip(names, map(int, pairs[1::2]), strict=True))
        return Walked(token, int(generation), parse(newest.decode()), heads, int(after))

    def forget(self, walked: Walked, names: Iterable[str]) -> int:
        """Forget channels of a walk, unless they have moved since; return how many were forgotten.

        Nothing is forgotten once another walk has begun, or a run of Redis was prepared: a channel that was
        forgotten and began again stands at the same ``seq`` some day.
        """
        arguments: list[str | int] = [walked.token, walked.generation]
        for name in names:
            arguments += (name, walked.heads[name])
        keys = [self._stream, self._state, self._heads]
        forgotten: int = self.do(lambda: self._forget(keys, arguments))
        return forgotten

    def length(self) -> int:
        """Return how many events the stream holds."""
        return self.do(lambda: int(self.client.xlen(self._stream)))

    def take(self, lease: Lease, seconds: float) -> bool:
        """Take a lease for ``seconds``; tell whether it was free."""
        milliseconds = round(seconds * 1000)
        return bool(self.do(lambda: self.client.set(lease.key, lease.token, nx=True, px=milliseconds)))

    def renew(self, lease: Lease, seconds: float) -> bool:
        """Extend a lease by ``seconds`` from now; tell whether it was still held."""
        return bool(self.do(lambda: self._renew([lease.key], [lease.token, round(seconds * 1000)])))

    def advance(self, lease: Lease, key: str, position: str) -> bool:
        """Write ``position`` under ``key`` if the lease is still held; tell whether it was."""
        return bool(self.do(lambda: self._advance([lease.key, key], [lease.token, position])))

    def release(self, lease: Lease) -> None:
        """Release a lease if it is held."""
        self.do(lambda: self._release([lease.key], [lease.token]))

    def _greet(self, connection: AbstractConnection) -> None:
        """Set up a new connection; raise ``_Unprepared`` if its server is not prepared."""
        connection.on_connect()
        connection.send_command("INFO", "server")
        run = parse_info(connection.read_response())["run_id"]
        connection.send_command("HGET", self._state, "server")
        if connection.read_response() != run.encode():
            raise _Unprepared

    def prepare(self) -> None:
        """Prepare this run of Redis, unless that has been done.

        PostgreSQL commits the new generation first, so that an archiver can't commit events that it read
        before the checkpoint is compared. The lock is held until Redis has the generation, too; a node that
        came in between would take Redis for one that lost its generation.
        """

        def change(connection: Connection) -> None:
            connection.execute(text(f"SET LOCAL statement_timeout = {round(PREPARE_SECONDS * 1000)}"))
            with session_lock(connection, PREPARE_LOCK):
                fields = self._compare(connection)
                connection.commit()
                if fields is not None:
                    arguments: list[str | int] = [part for pair in fields.items() for part in pair]
                    self._set_state([self._stream, self._state], arguments)
                    log.info("redis prepared", **fields)

        with translated():
            self._archive.call(self._archive.engine.connect, change, PREPARE_SECONDS)

    def _compare(self, connection: Connection) -> dict[str, str | int] | None:
        redis = self._unprepared
        run = redis.info("server")["run_id"]
        prepared, server, head_before, removed = _texts(
            redis.hmget(self._state, "generation", "server", "head", "removed")
        )
        before, archived_before = int(prepared or 0), _stored_generation(connection)
        if before and before == archived_before and server == run:
            return None  # another node was faster
        generation = max(before, archived_before) + 1
        upsert(connection, schema.checkpoints, [{"name": GENERATION, "event_id": generation}])
        checkpoint = begin_checkpoint(connection)
        newest = _texts([entry[0] for entry in redis.xrevrange(self._stream, count=1) or ()])
        head = EventId(max(parse(one or "0-0") for one in (head_before, *newest)))
        fields: dict[str, str | int] = {"generation": generation, "server": run}
        if head < checkpoint or before == 0 < archived_before:
            fields["lost"] = generation
            log.error("redis lost events", left=head_before, archived=format_id(checkpoint))
        if head < checkpoint:
            self._raise_heads(connection)
            head = checkpoint
            fields["oldest"] = format_id(checkpoint + 1)
        seconds, micros = redis.time()
        begins = make_id(seconds * 1000 + micros // 1000)
        seen = self.seen()
        note_loss(connection, LostRange(head, max(begins, EventId(seen + 1))))
        losses = read_losses(connection)
        fields["losses"] = ",".join(f"{format_id(one.after)}:{format_id(one.before)}" for one in losses)
        if seen >= begins:  # the clock is behind that of the run before
            head = max(head, seen)
        fields["head"] = format_id(head)
        trimmed = trimmed_through(connection, WHOLE_LOG)
        if trimmed > parse(removed or "0-0"):
            fields["removed"] = format_id(trimmed)  # has readers ask what retention has removed
        return fields

    def _raise_heads(self, connection: Connection) -> None:
        lift = self._unprepared.register_script(scripts.RAISE)
        keys = [self._stream, self._state, self._heads]
        table = schema.channels
        heads = select(table.c.name, table.c.head_seq).execution_options(yield_per=1000)
        for some in connection.execute(heads).partitions():
            lift(keys, [value for row in some for value in row])


def _stored_generation(connection: Connection) -> int:
    table = schema.checkpoints
    return connection.scalar(select(table.c.event_id).where(table.c.name == GENERATION)) or 0


def _evicting(memory: Mapping[str, Any]) -> str | None:
    """Return what is wrong with Redis's eviction policy; ``None`` if nothing is."""
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy == "noeviction" or not memory.get("maxmemory"):
        return None
    return f"Redis's maxmemory-policy is {policy}, which deletes events to make room: set noeviction"


def _refused(error: Unavailable) -> HeliographError:
    """Return the error for a refusal by the script or by Redis's memory limit; else ``error`` itself."""
    match error.__cause__:
        case ResponseError() as cause if isinstance(cause, OutOfMemoryError) or "OOM" in str(cause):
            return Unavailable("Redis is full (maxmemory)", FULL_RETRY_SECONDS)
        case ResponseError() as cause if "FULL" in str(cause):
            return Unavailable("too many events wait to be archived", FULL_RETRY_SECONDS)
        case ResponseError() as cause if "DEPOSED" in str(cause):
            return Deposed("the lease is not held any more")
    return error


def _counted(request: Sequence[Draft]) -> int | str:
    """Return the number of a request's drafts, with ``@`` and the ``seq`` that its only one must follow."""
    number = len(request)
    follows = [draft.follows for draft in request if draft.follows is not None]
    assert not follows or number == 1
    return f"{number}@{follows[0]}" if follows else number


def _refusal(answer: int, request: Sequence[Draft]) -> Conflict:
    return overtaken(request[0]) if answer < 0 else conflict(answer, request[answer])


def _encode(draft: Draft) -> bytes:
    """Encode a draft as the part of its entry's JSON that follows the ``seq``."""
    parts = [f',"channel":"{draft.channel}","topic":"{draft.topic}"'.encode()]
    if draft.timestamp is not None:
        parts.append(b',"at":%d' % to_microseconds(draft.timestamp))
    if draft.sender is not None:
        parts += (b',"sender":', orjson.dumps(draft.sender))
    if draft.correlation_id is not None:
        parts += (b',"correlation_id":', orjson.dumps(draft.correlation_id))
    parts += (PAYLOAD, draft.body, b"}")
    return b"".join(parts)


PAYLOAD = b',"payload":'


def decode(event_id: EventId, body: bytes) -> Event:
    """Decode an entry of the stream."""
    entry: dict[str, Any] = orjson.loads(body)
    at = entry.get("at")
    return Event(
        id=event_id,
        channel=entry["channel"],
        seq=entry["seq"],
        topic=entry["topic"],
        timestamp=time_of(event_id) if at is None else from_microseconds(at),
        payload=entry["payload"],
        sender=entry.get("sender"),
        correlation_id=entry.get("correlation_id"),
        body=payload_of(body),
    )


def payload_of(body: bytes) -> bytes:
    """Return an entry's payload as it was published.

    Quotes in the fields before it are escaped, so the first ``PAYLOAD`` is its name.
    """
    return body[body.index(PAYLOAD) + len(PAYLOAD) : -1]


def _texts(values: Iterable[Any]) -> list[str | None]:
    return [None if value is None else value.decode() for value in values]


def parse(text: str) -> EventId:
    """Parse an id in Redis's form."""
    milliseconds, _, sequence = text.partition("-")
    return EventId(int(milliseconds) << SEQUENCE_BITS | int(sequence))


def _take(answer: bytes, request: Sequence[Draft], events: list[Event]) -> Receipt:
    """Return a request's receipt, and add its new events to ``events``."""
    ids = []
    for draft, said in zip(request, answer.decode().split(",") if answer else (), strict=True):
        text, _, seq = said.partition(":")
        event_id = parse(text)
        ids.append(event_id)
        if seq:
            moment = draft.timestamp or time_of(event_id)
            events.append(
                Event(
                    event_id,
                    draft.channel,
                    int(seq),
                    draft.topic,
                    moment,
                    draft.payload,
                    draft.sender,
                    draft.correlation_id,
                    draft.body,
                )
            )
    return Receipt(tuple(ids))
