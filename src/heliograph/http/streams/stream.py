"""A stream: one watcher's connection after it was detached, whatever its protocol.

It has no task, and of its socket nothing but the descriptor. The parking lot calls it with what the peer
sends (``heard``), the broadcasters and the sweeper with what is to go out, which is the sink's to write. What
is watched, and how it is replayed, is the business of its ``watching``. There are no timers here: ``due``
says when the sweeper should look again, and ``sweep`` does what time asks for (pings, keepalives, deadlines,
rotation).

A stream ends in one of three ways. The peer goes: the lot hears it (``gone``). We end it (``end``):
subscriptions leave at once, the farewell is written, and the socket is closed when the peer has closed too
or the farewell's deadline has passed. Or it is cut (``cut``): the peer is gone or takes nothing, so nothing
can be said any more.

What is kept of an idle stream is counted in bytes (``tests/http/streams/test_memory.py``): what is needed
only for a while is made then and let go, and what is equal for many is one object.
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
        sock: The connection, of which the descriptor is taken.
        hub: Where subscriptions attach.
        registry: Where the stream is counted.
        owner: Whose it is, for limits and logs.
        key: Name of the API key that it hangs on; empty: of none.
        session: Name of the page whose own stream it is, ``/ws/<session>``.
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
    """Whether the client has one cursor for all that it watches."""

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
        # What is left behind is an empty shell: who accepted the connection may close that.
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
        """Bytes that wait for the client."""
        return self.sink.pending_bytes

    # What the protocols define

    def notice(self, kind: str, fields: dict[str, Any], position: EventId | None = None) -> bytes:
        """Encode a control message.

        Args:
            kind: Such as ``gap``.
            fields: What it says.
            position: Where the client stands once it has heard this; ``None``: it says nothing of that.
        """
        raise NotImplementedError

    def farewell(self, reason: Reason, after_ms: int, cursor: EventId | None) -> bytes:
        """Encode the last words: why, when to come back, and from where (``None``: the client knows)."""
        raise NotImplementedError

    def beat(self, now: float) -> None:
        """Do what is due besides rotation and deadlines, and set ``due`` for the next time."""
        raise NotImplementedError

    def announce(self, request: WatchRequest, cursor: EventId, reset: CursorLost | None) -> None:
        """Tell the client where its subscription begins and, if its own cursor can't be honoured, why."""
        raise NotImplementedError

    def unwatched(self, request: WatchRequest, error: Unavailable) -> None:
        """Tell that the log can't be read now, so that nothing comes of a request."""
        raise NotImplementedError

    def opened(self) -> None:
        """Begin; the handshake has been written."""

    def received(self, data: bytes) -> None:
        """Take bytes of the peer."""

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
            # It came at the pace of the client, so no overflow policy may touch it.
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
        """Tell the client that what follows does not connect to what it has."""
        self.send_reset(subscription.selection, CursorLost(self._hub.position, reason), self._hub.position)

    def send_reset(
        self, selection: Selection, lost: CursorLost, head: EventId, before: EventId | None = None
    ) -> None:
        """Write a ``reset``: the cursor can't be honoured, take a snapshot.

        Args:
            selection: What is watched.
            lost: Why.
            head: The position after which the stream goes on.
            before: The cursor with which a client comes back that has not been given this.
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
        """End, since there was a bug."""
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
        """Have counted what is watched now."""
        self._registry.count_watched(self, self.watching.count)

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

    def end(self, reason: Reason) -> None:
        """Say farewell and close: at once when all is sent, at the latest after the farewell's deadline."""
        if not self.ending:
            self._say_farewell(reason, RECONNECT_MS, self.watching.safe_cursor())

    def _say_farewell(self, reason: Reason, pause_ms: int, cursor: EventId | None) -> None:
        after_ms = round(pause_ms * random.uniform(0.1, 1.0))
        self.close_with(reason, self.farewell(reason, after_ms, cursor))

    def close_with(self, reason: Reason, last_words: bytes) -> None:
        """Leave every channel, write these last bytes, and close when the peer has."""
        self.ending = True
        self.reason = reason
        self.watching.leave_all()
        self.sink.finish(last_words)
        self.farewell_by = self.due = trio.current_time() + FAREWELL_SECONDS

    def cut(self, reason: Reason) -> None:
        """Close without a word. Harmless when it was closed before."""
        if not self.ending:
            self.reason = reason
        self.ending = True
        if self._descriptor != CLOSED:
            reset_on_close(self._descriptor)
        self.gone()

    # What the sink calls

    def start_task(self, flush: Callable[[], Awaitable[None]]) -> None:
        """Start the sink's flusher where it outlives every call; what comes next has to wait behind it."""
        self.watching.step_aside()
        self._registry.start_task(flush)

    def too_slow(self, untaken: EventId | None) -> None:
        """End a client that does not keep up; it resumes from its cursor."""
        if not self.ending:
            cursors = (self.watching.safe_cursor(), self.sink.discard_unsent(), untaken)
            cursor = min((one for one in cursors if one is not None), default=None)
            self._say_farewell(Reason.SLOW, SLOW_MS, cursor if self.one_position else None)

    def peer_lost(self) -> None:
        """Leave everything; the lot hears of it by itself, else the sweeper closes what is left."""
        if not self.ending:
            self.reason = Reason.BROKEN
        self.ending = True
        self.watching.leave_all()
        self.farewell_by = self.due = trio.current_time() + FAREWELL_SECONDS

    def count_loss(self, loss: Loss) -> None:
        """Count what a policy took away."""
        self._registry.dropped[loss.subscription.overflow.value] += loss.count

    def describe_loss(self, loss: Loss) -> bytes:
        """Encode the notice of a loss; cut right after it, the client is given what was lost after all."""
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
        """Begin, and go to the parking lot; from there it lives by calls."""
        self._registry.add(self)
        try:
            if self._registry.draining:  # its handshake was under way when the drain began
                self.end(Reason.SHUTDOWN)
            elif self.key in self._registry.lapsed:  # or when its key was revoked
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

    def heard(self, data: bytes) -> bool:
        """Act on what the peer has sent; tell whether it is to be heard further."""
        self.received(data)
        return not self.sink.closed

    def gone(self) -> None:
        """Clean up and close the socket; harmless when that was done before."""
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
    """What takes over the connection of a stream that is one too many.

    Args:
        sock: The connection.
        answer: To its handshake.
    """

    sock: socket.socket
    answer: bytes

    async def serve(self, early: bytes) -> None:
        """Answer, and let the peer read that before the connection is closed."""
        stream = stream_of(self.sock)
        with trio.move_on_after(FAREWELL_SECONDS), suppress(trio.BrokenResourceError):
            await stream.send_all(self.answer)
            await stream.send_eof()
            while await stream.receive_some(READ_BYTES):
                pass
