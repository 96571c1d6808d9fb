"""Server-sent events on a detached connection (WHATWG HTML, section 9.2).

The body is chunked on HTTP/1.1, so the end is explicit; on HTTP/1.0 the same blocks go out bare and the
end is the closing of the connection. One stream has one selection and one cursor, the id that the
client's EventSource sends back as ``Last-Event-ID``; blocks with only an ``id:`` move it where filters
hid events.
"""

from __future__ import annotations

import random
from typing import Any

import orjson
import trio

from heliograph.actors.hub import Hub
from heliograph.actors.subscription import Subscription
from heliograph.http.streams.stream import (
    RECONNECT_MS,
    CursorLost,
    Reason,
    Stream,
    StreamRegistry,
    WatchRequest,
)
from heliograph.http.wire.frames import (
    LAST_CHUNK,
    chunk,
    event_block,
    event_chunk,
    id_block,
    retry_block,
    sse_block,
)
from heliograph.model.errors import Unavailable
from heliograph.model.ids import EventId, format_id

KEEPALIVE = sse_block("keepalive", b"")


class SseStream(Stream):
    """One client of an event stream.

    Args:
        request: What it watches.
        chunked: Whether the body is chunked (HTTP/1.1).
    """

    transport = "sse"

    def __init__(
        self,
        trio_stream: trio.SocketStream,
        hub: Hub,
        registry: StreamRegistry,
        owner: str,
        request: WatchRequest,
        *,
        chunked: bool,
    ) -> None:
        super().__init__(trio_stream, hub, registry, owner)
        self.encode = event_chunk if chunked else event_block
        self._chunked = chunked
        self._request = request
        self._keepalive_at = trio.current_time() + self.limits.keepalive_seconds
        self._cursor_told = EventId(0)

    def block(self, data: bytes) -> bytes:
        """Wrap blocks for this body."""
        return chunk(data) if self._chunked else data

    def notice(self, kind: str, fields: dict[str, Any]) -> bytes:
        """Encode a control event."""
        return self.block(sse_block(kind, orjson.dumps(fields)))

    def farewell(self, reason: Reason, after_ms: int, cursor: EventId | None) -> bytes:
        """Encode ``reconnect``, unless there is nothing to come back for, and the end of the body."""
        last = LAST_CHUNK if self._chunked else b""
        if reason is Reason.TASK_ENDED:
            return last
        fields = {
            "after_ms": after_ms,
            "cursor": None if cursor is None else format_id(cursor),
            "reason": reason.text,
        }
        words = retry_block(after_ms) + sse_block("reconnect", orjson.dumps(fields))
        if cursor is not None:
            words = id_block(cursor) + words
        return self.block(words) + last

    def beat(self, now: float) -> None:
        """Write a keepalive, and the cursor if it moved behind a filter."""
        if now >= self._keepalive_at:
            cursor = self.safe_cursor()
            words = KEEPALIVE
            if cursor is not None and cursor > self._cursor_told:
                words = id_block(cursor) + words
                self._cursor_told = cursor
            self.sink.write(self.block(words))
            self._keepalive_at = now + self.limits.keepalive_seconds
        self.due = self._keepalive_at

    def gap(self, subscription: Subscription, through: EventId) -> None:
        """Tell of events that are no longer kept; with a finished task's end among them that is the last."""
        super().gap(subscription, through)
        end = self._request.task_end
        if end is not None and end <= through:
            self.task_ended(subscription)

    async def opened(self) -> None:
        """Replay what was asked for, then go live."""
        self.sink.write(self.block(retry_block(round(RECONNECT_MS * random.uniform(0.5, 1.5)))))
        await self.watch(self._request)

    def unwatched(self, request: WatchRequest, error: Unavailable) -> None:
        """End: there is nothing else on this stream."""
        self.end(Reason.UNAVAILABLE)

    def announce(self, request: WatchRequest, cursor: EventId, reset: CursorLost | None) -> None:
        """Give the client the cursor it begins at, unless it knows, so that it loses nothing from here on.

        A reset comes first: cut before it has heard that, it must come back with the cursor it had.
        """
        if reset is not None:
            self.send_reset(request.selection, reset, cursor)
        if cursor != request.after:
            self.sink.write(self.block(id_block(cursor)))
