"""A stream: one watcher's connection after it was detached, whatever its protocol.

A stream has no task, and keeps only the descriptor of its socket. The parking lot calls it with bytes from
the peer (``heard``); the broadcasters and the sweeper call it with what is to go out, and its sink writes
that. Its ``watching`` knows what is watched and how it is replayed. There are no timers here: ``due`` says
when the sweeper should look again, and ``sweep`` does what is due (pings, keepalives, deadlines, rotation).

A stream ends in one of three ways. The peer leaves, which the lot reports (``gone``). The service ends it
(``end``): subscriptions end at once, the farewell is written, and the socket is closed when the peer has
closed too or the farewell's deadline has passed. Or the service cuts it (``cut``): the peer is gone or takes
no bytes, so there is no farewell.

The memory of an idle stream is measured in bytes (``tests/http/streams/test_memory.py``): objects that are
needed only for a while are made then and dropped, and equal ones are shared.
"""

from __future__ import annotations

import math
import random
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, ClassVar

import attrs
import trio

from heliograph.actors.hub import Hub
from heliograph.actors.subscription import Batch, Encoder, Subscription
from heliograph.config import StreamSettings
from heliograph.http.streams.reason import Reason
from heliograph.http.streams.registry import StreamRegistry
from heliograph.http.streams.watching import CursorLost, Watching, WatchRequest
from heliograph.http.wire.connection import stream_of
from heliograph.http.wire.descriptor import CLOSED, close, reset_on_close
from heliograph.http.wire.sink import Loss, Sink
from heliograph.model.channels import Selection
from heliograph.model.errors import Unavailable
from heliograph.model.ids import EventId, format_id

FAREWELL_SECONDS = 5.0
READ_BYTES = 16 * 1024
RECONNECT_MS = 3000
SLOW_MS = 1000


class Stream:
    """What WebSocket and SSE have in common.

    Args:
        sock: The connection, from which the descriptor is taken.
        hub: Where subscriptions attach.
        registry: Where the stream is counted.
        owner: The client's name, for limits and logs.
        key: Name of the client's API key, with which the stream ends; empty for none.
        session: Name of the page for a page's own stream, ``/ws/<session>``.
    """

    __slots__ = (
        "__weakref__",
        "_descriptor",
        "_hub",
        "_registry",
        "due",
        "ending",
        "farewell_by",
        "key",
        "owner",
        "reason",
        "rotate_at",
        "session",
        "sink",
        "watched",
        "watching",
    )

    transport: ClassVar[str]
    one_position: ClassVar[bool]
    """Whether the client has one cursor for all its subscriptions."""

    encode: Encoder

    def __init__(
        self,
        sock: socket.socket,
        hub: Hub,
        registry: StreamRegistry,
        owner: str,
        key: str = "",
        session: str | None = None,
    ) -> None:
        self.owner = owner
        self.key = key
        self.session = session
        self.reason = Reason.PEER
        self.ending = False
        self.watched = 0
        self.watching = Watching(self, hub, registry.start_task)
        # ``sock`` is left without its descriptor, so its owner may close it.
        self._descriptor = sock.detach()
        self._hub = hub
        self._registry = registry
        limits = registry.limits
        self.sink = Sink(self._descriptor, limits.pending_bytes, limits.stall_seconds, self)
        now = trio.current_time()
        # Jittered, so that streams that came together do not ping and rotate together for ever.
        self.rotate_at = now + limits.rotate_seconds * random.uniform(0.8, 1.2)
        self.farewell_by: float | None = None
        self.due = now

    @property
    def limits(self) -> StreamSettings:
        """The settings of streams."""
        return self._registry.limits

    @property
    def pending_bytes(self) -> int:
        """Bytes that the client has not taken yet."""
        return self.sink.pending_bytes

    # What the protocols define

    def notice(self, kind: str, fields: dict[str, Any], position: EventId | None = None) -> bytes:
        """Encode a control message.

        Args:
            kind: The message's name, such as ``gap``.
            fields: Its fields.
            position: The client's cursor after this message; ``None``: the message does not move it.
        """
        raise NotImplementedError

    def farewell(self, reason: Reason, after_ms: int, cursor: EventId | None) -> bytes:
        """Encode the last words: why, when to come back, and from where (``None``: the client knows)."""
        raise NotImplementedError

    def beat(self, now: float) -> None:
        """Do what is due besides rotation and the farewell's deadline, and set ``due`` for the next time."""
        raise NotImplementedError

    def announce(self, request: WatchRequest, cursor: EventId, reset: CursorLost | None) -> None:
        """Tell the client where its subscription begins and, if its own cursor can't be honoured, why."""
        raise NotImplementedError

    def unwatched(self, request: WatchRequest, error: Unavailable, reached: EventId | None) -> None:
        """Tell the client that ``request`` has failed, and up to where it was given everything."""
        raise NotImplementedError

    def opened(self) -> None:
        """Begin the subscriptions that the stream has from its start; the handshake has been written."""

    def received(self, data: bytes) -> None:
        """Act on bytes from the peer."""

    # What the actors call

    @property
    def descriptor(self) -> int | None:
        """The descriptor to write to directly; ``None`` while bytes are pending or no more are taken."""
        return self.sink.descriptor

    def keep_rest(self, subscription: Subscription, batch: Batch, sent: int) -> None:
        """Keep the rest of ``batch``, of which the socket took ``sent`` bytes, for later."""
        self.sink.keep(batch.joined(self.encode), sent, subscription, batch)

    def deliver(self, subscription: Subscription, batch: Batch) -> None:
        """Write a batch of events."""
        data = batch.joined(self.encode)
        if subscription.live:
            self.sink.write(data, subscription, batch)
        else:
            # A replay goes at the client's pace, so no overflow policy may drop from it.
            self.sink.write(data, None, batch)

    def task_ended(self, subscription: Subscription) -> None:
        """End the stream whose only task has ended."""
        self.end(Reason.TASK_ENDED)

    def gap(self, subscription: Subscription, through: EventId) -> None:
        """Tell the client that the events after its position up to ``through`` are no longer kept."""
        position = subscription.position
        words = self._gap(subscription, EventId(position + 1), through, None, "no longer kept", through)
        self.sink.write(words, before=position)

    def reset(self, subscription: Subscription, reason: str) -> None:
        """Tell the client that the next events do not connect to those that it has."""
        self.send_reset(subscription.selection, CursorLost(self._hub.position, reason), self._hub.position)

    def send_reset(
        self, selection: Selection, lost: CursorLost, head: EventId, before: EventId | None = None
    ) -> None:
        """Write a ``reset``: the cursor can't be honoured, take a snapshot.

        Args:
            selection: What is watched.
            lost: Why the cursor can't be honoured.
            head: The position after which the stream goes on.
            before: The cursor from which a client resumes that was not sent this notice.
        """
        fields = {
            "channel": ",".join(selection.selectors),
            "oldest": format_id(lost.oldest),
            "head": format_id(head),
            "reason": lost.reason,
        }
        self.sink.write(self.notice("reset", fields, head), before=before)

    # What the watching calls

    async def room(self) -> bool:
        """Wait until the client takes more; false when it never will."""
        return await self.sink.room()

    def failed(self) -> None:
        """End the stream after a bug."""
        self.end(Reason.INTERNAL)

    def watch(self, request: WatchRequest) -> None:
        """Begin a subscription, and count it.

        Raises:
            TooMany: The streams of its owner watch too many channels.
        """
        self._registry.admit_watching(self, len(request.selection.selectors))
        self.watching.watch(request)
        self.count_watched()

    def count_watched(self) -> None:
        """Tell the registry how many channels and patterns are watched now."""
        self._registry.count_watched(self, self.watching.count)

    # Time

    def sweep(self, now: float) -> None:
        """Do what is due at ``now``; called by the sweeper once ``due`` has passed."""
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

    def end(self, reason: Reason) -> None:
        """Write the farewell, then close: when the peer has closed, or at the farewell's deadline."""
        if not self.ending:
            self._say_farewell(reason, RECONNECT_MS, self.watching.safe_cursor())

    def _say_farewell(self, reason: Reason, pause_ms: int, cursor: EventId | None) -> None:
        after_ms = round(pause_ms * random.uniform(0.1, 1.0))
        self.close_with(reason, self.farewell(reason, after_ms, cursor))

    def close_with(self, reason: Reason, last_words: bytes) -> None:
        """End every subscription, write ``last_words``, and close when the peer has or after the deadline."""
        self.ending = True
        self.reason = reason
        self.watching.leave_all()
        self.sink.finish(last_words)
        self.farewell_by = self.due = trio.current_time() + FAREWELL_SECONDS

    def cut(self, reason: Reason) -> None:
        """Close without a farewell; harmless if the stream was closed before."""
        if not self.ending:
            self.reason = reason
        self.ending = True
        if self._descriptor != CLOSED:
            reset_on_close(self._descriptor)
        self.gone()

    # What the sink calls

    def start_task(self, flush: Callable[[], Awaitable[None]]) -> None:
        """Start the sink's flusher, and have further batches queue behind the pending bytes."""
        self.watching.leave_lane()
        self._registry.start_task(flush)

    def too_slow(self, untaken: EventId | None) -> None:
        """End the stream of a client that does not keep up; the client resumes from its cursor."""
        if not self.ending:
            cursors = (self.watching.safe_cursor(), self.sink.discard_unsent(), untaken)
            cursor = min((one for one in cursors if one is not None), default=None)
            self._say_farewell(Reason.SLOW, SLOW_MS, cursor if self.one_position else None)

    def peer_lost(self) -> None:
        """End every subscription; the lot notices the peer's end, or else the sweeper closes the stream."""
        if not self.ending:
            self.reason = Reason.BROKEN
        self.ending = True
        self.watching.leave_all()
        self.farewell_by = self.due = trio.current_time() + FAREWELL_SECONDS

    def count_loss(self, loss: Loss) -> None:
        """Count the events that a policy dropped."""
        self._registry.dropped[loss.subscription.overflow.value] += loss.count

    def describe_loss(self, loss: Loss) -> bytes:
        """Encode the ``gap`` notice of a loss.

        Its cursor stands before the loss: a client that reconnects right after it still gets the lost events.
        """
        reason = loss.subscription.overflow.value
        before = EventId(loss.first - 1)
        return self._gap(loss.subscription, loss.first, loss.last, loss.count, reason, before)

    def _gap(
        self,
        subscription: Subscription,
        first: EventId,
        last: EventId,
        lost: int | None,
        reason: str,
        position: EventId,
    ) -> bytes:
        fields = {
            "channel": ",".join(subscription.selection.selectors),
            "from": format_id(first),
            "to": format_id(last),
            "count": lost,
            "reason": reason,
        }
        return self.notice("gap", fields, position)

    # Serving

    async def serve(self, early: bytes) -> None:
        """Begin, and hand the descriptor to the parking lot."""
        self._registry.add(self)
        try:
            if self._registry.draining:  # the drain began during the handshake
                self.end(Reason.SHUTDOWN)
            elif self.key in self._registry.lapsed:  # the key lapsed during the handshake
                self.end(self._registry.lapsed[self.key])
            else:
                self.opened()
        except BaseException:
            self.gone()
            raise
        if self.sink.closed:
            self.gone()
        else:
            await self._registry.lot.keep(self._descriptor, self, early)

    def on_data(self, data: bytes) -> bool:
        """Act on bytes from the peer; return whether to go on reading."""
        self.received(data)
        return not self.sink.closed

    def gone(self) -> None:
        """Clean up and close the socket; harmless if that was done before."""
        if self._descriptor == CLOSED:
            return
        descriptor, self._descriptor = self._descriptor, CLOSED
        self.due = math.inf
        self.watching.close()
        self.sink.close()
        self._registry.remove(self)
        self._registry.lot.leave(descriptor)
        close(descriptor)


@attrs.frozen
class Refused:
    """Takes over the connection of a stream that is over a limit.

    Args:
        sock: The connection.
        answer: The answer to its handshake.
    """

    sock: socket.socket
    answer: bytes

    async def serve(self, early: bytes) -> None:
        """Write the answer, and let the peer read it before the connection is closed."""
        stream = stream_of(self.sock)
        with trio.move_on_after(FAREWELL_SECONDS), suppress(trio.BrokenResourceError):
            await stream.send_all(self.answer)
            await stream.send_eof()
            while await stream.receive_some(READ_BYTES):
                pass
