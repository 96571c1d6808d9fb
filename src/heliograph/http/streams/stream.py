"""A stream: one watcher's connection after it was detached, whatever its protocol.

One small task per stream reads what the peer sends (``serve``); everything that goes out is written by
calls from the broadcasters and the sweeper through the sink. Only while something is replayed to it a
stream has a second task, so that the peer is heard meanwhile, and its going away ends the replay. There are
no timers here: ``due`` says when the sweeper should look again, and ``sweep`` does what time asks for (pings,
keepalives, deadlines, rotation).

A stream ends in one of three ways. The peer goes: the reading task sees it and cleans up. We end it
(``end``): subscriptions leave at once, the farewell is written, and the socket is closed when the peer
has closed too or the farewell's deadline has passed. Or it is cut (``cut``): the peer is gone or takes
nothing, so nothing can be said any more.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum
from typing import Any, NoReturn

import attrs
import structlog
import trio

from heliograph.actors.hub import Hub
from heliograph.actors.subscription import Batch, Encoder, Overflow, Subscription
from heliograph.config import StreamSettings
from heliograph.http.wire.connection import reset_on_close
from heliograph.http.wire.sink import Loss, Sink
from heliograph.model.channels import Selection
from heliograph.model.errors import TooMany, Unavailable
from heliograph.model.ids import OLDEST, EventId, format_id

FAREWELL_SECONDS = 5.0
READ_BYTES = 16 * 1024
RECONNECT_MS = 3000
MAX_TAIL = 10_000
CLOSED = -1
"""The descriptor of a socket that was closed."""

log = structlog.get_logger(__name__)


class Reason(Enum):
    """Why a stream ended: the close code of WebSocket, and the name in counters and notices."""

    PEER = (1000, "closed by the client")
    SHUTDOWN = (1012, "the service restarts")
    PROTOCOL = (1002, "protocol error")
    BAD_DATA = (1007, "not UTF-8 text")
    POLICY = (1008, "no subscription in time")
    TOO_BIG = (1009, "message too big")
    ROTATE = (4001, "planned rotation; come back")
    SLOW = (4008, "slow consumer; resume from your cursor")
    NO_PONG = (4012, "no pong")
    BROKEN = (1006, "connection lost")
    TASK_ENDED = (1000, "the task has ended")
    INTERNAL = (1011, "internal error; it was logged")
    FULL = (1013, "too many streams; come back later")
    UNAVAILABLE = (1013, "the log can not be read now")
    BAD_KEY = (4500, "bad key")
    FORBIDDEN = (4503, "forbidden channel")
    TOO_MANY = (4505, "too many channels")

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.text = text

    @property
    def final(self) -> bool:
        """Whether the client should not come back: it would fare no better."""
        return self.code >= 4500


@attrs.frozen
class WatchRequest:
    """What a client asked to watch, checked.

    Args:
        selection: Channels and filter.
        after: Resume after this position; ``OLDEST`` from the oldest kept; ``None``: live only.
        after_is_time: It was given as a time, so it may well be newer than the newest event.
        tail: Without ``after``: begin with the last so many events.
        overflow: The policy for a client that does not keep up.
        ends_with_task: End with the event that finishes the task.
        task_end: That event, when the task has finished already.
        ref: Returned to the client as it came.
    """

    selection: Selection
    after: EventId | None = None
    after_is_time: bool = False
    tail: int = 0
    overflow: Overflow = Overflow.DISCONNECT
    ends_with_task: bool = False
    task_end: EventId | None = None
    ref: Any = None


@attrs.frozen
class CursorLost:
    """Why a client's cursor can't be honoured, and the oldest position that could be."""

    oldest: EventId
    reason: str


@attrs.define
class StreamRegistry:
    """All open streams, and what was counted over those that were.

    Args:
        limits: The settings of streams.
        start_task: Starts a task in the nursery that outlives every stream.
    """

    limits: StreamSettings
    start_task: Callable[..., None]
    streams: set[Stream] = attrs.field(factory=set)
    opened: Counter[str] = attrs.field(factory=Counter)
    ended: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    refused: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    dropped: Counter[str] = attrs.field(factory=Counter)
    per_owner: Counter[str] = attrs.field(factory=Counter)
    draining: bool = False

    def admit(self, transport: str, owner: str) -> None:
        """Check that one more stream is within the limits.

        Nothing is reserved: whoever is let in must be served, and so counted, without an await between.

        Raises:
            TooMany: In all, or for this owner of a key.
        """
        if len(self.streams) >= self.limits.max_streams:
            self._refuse(transport, "max_streams", f"{len(self.streams)} streams are open; come back later")
        self._admit_owner(transport, owner)

    def _admit_owner(self, transport: str, owner: str) -> None:
        if self.per_owner[owner] >= self.limits.max_streams_per_key:
            text = f"{owner} has {self.per_owner[owner]} streams open; close some"
            self._refuse(transport, "max_streams_per_key", text)

    def _refuse(self, transport: str, limit: str, text: str) -> NoReturn:
        self.refused[transport, limit] += 1
        raise TooMany(text)

    def add(self, stream: Stream) -> None:
        """Count a stream in."""
        self.streams.add(stream)
        self.per_owner[stream.owner] += 1
        self.opened[stream.transport] += 1

    def remove(self, stream: Stream) -> None:
        """Count a stream out."""
        self.streams.discard(stream)
        self.per_owner[stream.owner] -= 1
        self.ended[stream.transport, stream.reason.name.lower()] += 1

    def rename(self, stream: Stream, owner: str) -> None:
        """Count an open stream for the key that it has named.

        Raises:
            TooMany: The key has as many already.
        """
        if owner != stream.owner:
            self._admit_owner(stream.transport, owner)
            self.per_owner[stream.owner] -= 1
            self.per_owner[owner] += 1
            stream.owner = owner


class Stream:
    """What WebSocket and SSE have in common.

    Args:
        trio_stream: The connection.
        hub: Where subscriptions attach.
        registry: Where the stream is counted.
        owner: Name of the API key, for limits and logs.
    """

    transport: str
    encode: Encoder

    def __init__(
        self, trio_stream: trio.SocketStream, hub: Hub, registry: StreamRegistry, owner: str
    ) -> None:
        self.owner = owner
        self.reason = Reason.PEER
        self.ending = False
        self.subscriptions: list[Subscription] = []
        self.replays: list[WatchRequest] = []
        """What begins in the past: the first is being replayed, the others wait for their turn."""
        self._replaying: trio.CancelScope | None = None
        self.limits = registry.limits
        self._socket = trio_stream.socket
        self._hub = hub
        self._registry = registry
        self.sink = Sink(
            self._socket,
            self.limits.pending_bytes,
            self.limits.stall_seconds,
            self,
        )
        now = trio.current_time()
        # Jittered, so that streams that came together do not ping and rotate together for ever.
        self.rotate_at = now + self.limits.rotate_seconds * random.uniform(0.8, 1.2)
        self.farewell_by: float | None = None
        self.due = now

    # What the protocols define

    def notice(self, kind: str, fields: dict[str, Any]) -> bytes:
        """Encode a control message."""
        raise NotImplementedError

    def farewell(self, reason: Reason, after_ms: int, cursor: EventId | None) -> bytes:
        """Encode the last words: why, when to come back, and from where (``None``: the client knows)."""
        raise NotImplementedError

    def beat(self, now: float) -> None:
        """Do what is due besides rotation and deadlines, and set ``due`` for the next time."""
        raise NotImplementedError

    def unwatched(self, request: WatchRequest, error: Unavailable) -> None:
        """Tell that the log can't be read now, so that nothing comes of a request."""
        raise NotImplementedError

    # What the actors call

    @property
    def descriptor(self) -> int | None:
        """Where the next bytes may be written, if none wait before them."""
        return self.sink.descriptor

    def keep_rest(self, subscription: Subscription, batch: Batch, sent: int) -> None:
        """Keep for later what the socket has not taken of a batch."""
        self.sink.keep(batch.joined(self.encode), sent, subscription, batch)

    def deliver(self, subscription: Subscription, batch: Batch) -> None:
        """Write a batch of events."""
        data = batch.joined(self.encode)
        if subscription.live:
            self.sink.write(data, subscription, batch)
        else:
            self.sink.write(data)  # it came at the pace of the client, so no overflow policy may touch it

    def task_ended(self, subscription: Subscription) -> None:
        """End the stream whose only task has ended."""
        self.end(Reason.TASK_ENDED)

    def gap(self, subscription: Subscription, through: EventId) -> None:
        """Tell the client that of what follows its position the events up to an id are no longer kept."""
        first = EventId(subscription.position + 1)
        self.sink.write(self._gap(subscription, first, through, None, "no longer kept"))

    def reset(self, subscription: Subscription, reason: str) -> None:
        """Tell the client that what follows does not connect to what it has."""
        self.send_reset(subscription.selection, CursorLost(self._hub.position, reason), self._hub.position)

    def send_reset(self, selection: Selection, lost: CursorLost, head: EventId) -> None:
        """Write a ``reset``: the cursor can't be honoured; take a snapshot, it goes on behind ``head``."""
        fields = {
            "channel": ",".join(selection.selectors),
            "oldest": format_id(lost.oldest),
            "head": format_id(head),
            "reason": lost.reason,
        }
        self.sink.write(self.notice("reset", fields))

    # Time

    def sweep(self, now: float) -> None:
        """Do what time asks for; called by the sweeper when ``due`` has come."""
        if self.farewell_by is not None:
            if now >= self.farewell_by:
                self.cut(self.reason)
            return
        if now >= self.rotate_at:
            self.end(Reason.ROTATE)
        else:
            self.beat(now)
            self.due = min(self.due, self.rotate_at)

    # Endings

    def end(self, reason: Reason, after_ms: int | None = None) -> None:
        """Say farewell and close: at once when all is sent, at the latest after the farewell's deadline."""
        if self.ending:
            return
        cursor = None if reason is Reason.SLOW else self.safe_cursor()
        if reason is Reason.SLOW:
            self.sink.discard_unsent()
        pause = RECONNECT_MS if after_ms is None else after_ms
        after_ms = round(pause * random.uniform(0.1, 1.0))
        self.close_with(reason, self.farewell(reason, after_ms, cursor))

    def close_with(self, reason: Reason, last_words: bytes) -> None:
        """Leave every channel, write these last bytes, and close when the peer has."""
        self.ending = True
        self.reason = reason
        self._leave_all()
        self.sink.finish(last_words)
        self.farewell_by = self.due = trio.current_time() + FAREWELL_SECONDS

    def cut(self, reason: Reason) -> None:
        """Close without a word; the reading task wakes and cleans up. Harmless when it was closed before."""
        if not self.ending:
            self.reason = reason
        self.ending = True
        self.due = math.inf
        self._leave_all()
        self.sink.close()
        if self._socket.fileno() != CLOSED:
            reset_on_close(self._socket)
            self._socket.close()

    def _leave_all(self) -> None:
        for subscription in self.subscriptions:
            self._hub.detach(subscription)
        self.subscriptions = []
        if self._replaying is not None:
            self.replays.clear()
            self._replaying.cancel()

    # What the sink calls

    def start_task(self, flush: Callable[[], Awaitable[None]]) -> None:
        """Start the sink's flusher where it outlives every call; what comes next has to wait behind it."""
        for subscription in self.subscriptions:
            subscription.step_aside()
        self._registry.start_task(flush)

    def too_slow(self) -> None:
        """End a client that does not keep up; it resumes from its cursor."""
        self.end(Reason.SLOW, after_ms=1000)

    def peer_lost(self) -> None:
        """Leave everything; the reading task hears of it by itself."""
        if not self.ending:
            self.reason = Reason.BROKEN
        self.ending = True
        self._leave_all()

    def count_loss(self, loss: Loss) -> None:
        """Count what a policy took away."""
        self._registry.dropped[loss.subscription.overflow.value] += loss.count

    def describe_loss(self, loss: Loss) -> bytes:
        """Encode the notice of a loss."""
        reason = loss.subscription.overflow.value
        return self._gap(loss.subscription, loss.first, loss.last, loss.count, reason)

    def _gap(
        self, subscription: Subscription, first: EventId, last: EventId, lost: int | None, reason: str
    ) -> bytes:
        fields = {
            "channel": ",".join(subscription.selection.selectors),
            "from": format_id(first),
            "to": format_id(last),
            "count": lost,
            "reason": reason,
        }
        return self.notice("gap", fields)

    # Serving

    async def serve(self, early: bytes) -> None:
        """Read the peer until the connection ends; the streams's whole life happens in here."""
        self._registry.add(self)
        try:
            if self._registry.draining:  # its handshake was under way when the drain began
                self.end(Reason.SHUTDOWN)
            else:
                await self.opened()
            if early:
                await self.received(early)
            while not self.sink.closed:
                try:
                    data = await self._socket.recv(READ_BYTES)
                except (OSError, trio.ClosedResourceError):
                    break
                if not data:
                    break
                await self.received(data)
        finally:
            self._leave_all()
            self.sink.close()
            self._registry.remove(self)

    async def opened(self) -> None:
        """Begin; the handshake has been written."""

    async def received(self, data: bytes) -> None:
        """Take bytes of the peer."""

    async def watch(self, request: WatchRequest) -> None:
        """Begin a subscription: at once if it is live only, else in a task beside the reading of the peer.

        A replay goes at the pace of the client, and may take minutes; meanwhile the client is heard, and its
        going away ends the replay. Several of one stream come one after the other.
        """
        if request.after is None and not request.tail:
            await self._begin(request)
            return
        self.replays.append(request)
        if self._replaying is None:
            self._replaying = trio.CancelScope()
            self._registry.start_task(self._replay_all)

    async def _replay_all(self) -> None:
        while self.replays:
            request = self.replays[0]
            with trio.CancelScope() as self._replaying:
                await self.sink.room()
                await self._begin(request)
            # By identity: it may have been forgotten, and the same be asked for anew.
            self.replays = [waiting for waiting in self.replays if waiting is not request]
        self._replaying = None

    @property
    def selections(self) -> set[Selection]:
        """What is watched, or will be when its turn to be replayed has come."""
        return {one.selection for one in self.subscriptions} | {one.selection for one in self.replays}

    def forget(self, selection: Selection) -> bool:
        """End a subscription, or its replay, or the waiting for that; tell whether there was one."""
        known = False
        for place, request in enumerate(self.replays):
            if request.selection == selection:
                known = True
                del self.replays[place]
                if place == 0 and self._replaying is not None:
                    self._replaying.cancel()
                break
        for subscription in self.subscriptions:
            if subscription.selection == selection:
                known = True
                self._hub.detach(subscription)
                self.subscriptions.remove(subscription)
                break
        return known

    async def _begin(self, request: WatchRequest) -> None:
        try:
            await self._attach(request)
        except Unavailable as error:
            self.unwatched(request, error)
        except Exception:
            log.exception("unexpected error in a subscription")
            self.end(Reason.INTERNAL)

    async def _attach(self, request: WatchRequest) -> None:
        """Find where to start, announce it, replay, and go live.

        Raises:
            Unavailable: The log can't be read now.
        """
        subscription = Subscription(self, request.selection, request.overflow, request.ends_with_task)
        start, reset = await self._starting_point(request)
        if request.after is None and request.tail and reset is None:
            start = await self._hub.replay.tail_start(request.selection, request.tail)
        await trio.lowlevel.checkpoint_if_cancelled()  # what was forgotten meanwhile must not be announced
        subscription.position = start
        self.subscriptions.append(subscription)
        self.announce(request, start, reset)
        if request.task_end is not None and start >= request.task_end:
            self.task_ended(subscription)
            return
        try:
            await self._hub.attach(subscription, self.sink.room)
        except Unavailable:
            if subscription in self.subscriptions:
                self.subscriptions.remove(subscription)
            raise
        if self.ending:
            self._hub.detach(subscription)

    def announce(self, request: WatchRequest, cursor: EventId, reset: CursorLost | None) -> None:
        """Tell the client where its subscription begins and, if its own cursor can't be honoured, why."""
        raise NotImplementedError

    async def _starting_point(self, request: WatchRequest) -> tuple[EventId, CursorLost | None]:
        """Return the position to begin at and, if the cursor can't be honoured, why.

        Raises:
            Unavailable: It can't be known now.
        """
        live = self._hub.live_position(request.selection)
        if request.task_end is not None:
            trimmed = (await self._hub.replay.bounds(request.selection)).trimmed
            if trimmed >= request.task_end:
                return trimmed, CursorLost(trimmed, "the task has ended, and its end is no longer kept")
        if request.after is None:
            return live, None
        if request.after == OLDEST or self._hub.reaches_back_to(request.selection, request.after):
            return request.after, None
        bounds = await self._hub.replay.bounds(request.selection)
        if request.after > bounds.head:
            ahead = CursorLost(bounds.trimmed, "the cursor is ahead of the log")
            return live, None if request.after_is_time else ahead
        if request.after < bounds.trimmed:
            # Of a finished task nothing comes any more: what is left of it is all there is to be told.
            start = live if request.task_end is None else bounds.trimmed
            return start, CursorLost(bounds.trimmed, "events after the cursor are no longer kept")
        return request.after, None

    def safe_cursor(self) -> EventId | None:
        """Return a cursor from which the client misses nothing on any of its channels."""
        if not self.subscriptions:
            return None
        return min(self._hub.caught_up_to(subscription) for subscription in self.subscriptions)


@attrs.frozen
class Refused:
    """What takes over the connection of a stream that is one too many.

    Args:
        stream: The connection.
        answer: To its handshake.
    """

    stream: trio.SocketStream
    answer: bytes

    async def serve(self, early: bytes) -> None:
        """Answer, and let the peer read that before the connection is closed."""
        with trio.move_on_after(FAREWELL_SECONDS), suppress(trio.BrokenResourceError):
            await self.stream.send_all(self.answer)
            await self.stream.send_eof()
            while await self.stream.receive_some(READ_BYTES):
                pass


async def drain(registry: StreamRegistry, window: float) -> None:
    """End every stream at its own random moment of the drain window, and those that still come at once."""
    registry.draining = True
    begin = trio.current_time()
    moments = sorted((random.uniform(0, window), id(stream), stream) for stream in registry.streams)
    for moment, _, stream in moments:
        await trio.sleep_until(begin + moment)
        stream.end(Reason.SHUTDOWN)
