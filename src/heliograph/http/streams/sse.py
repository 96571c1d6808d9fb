"""Server-sent events on a detached connection (WHATWG HTML, section 9.2).

The body is chunked on HTTP/1.1, so the end is explicit; on HTTP/1.0 the same blocks go out bare and the
end is the closing of the connection. One stream has one selection and one cursor, the id that the
client's EventSource sends back as ``Last-Event-ID``.

Every block has an event, an id and JSON data with a ``topic``, notices included. The standard asks for less,
but clients in use do not keep to it: some parse the data of every block, some take the cursor only from
blocks with data. So the id is always the client's cursor after the block, and a keepalive moves the cursor
past events that a filter hid.
"""

from __future__ import annotations

import random
import socket
from datetime import UTC, datetime
from typing import Any, ClassVar

from heliograph.actors.hub import Hub
from heliograph.actors.subscription import Encoder, Subscription
from heliograph.http.streams.reason import Reason
from heliograph.http.streams.registry import StreamRegistry
from heliograph.http.streams.stream import RECONNECT_MS, Stream
from heliograph.http.streams.watching import CursorLost, WatchRequest
from heliograph.http.wire.frames import (
    LAST_CHUNK,
    chunk,
    event_block,
    event_chunk,
    nameless_block,
    nameless_chunk,
    notice_block,
)
from heliograph.model.errors import TooMany, Unavailable
from heliograph.model.ids import OLDEST, EventId, format_id

ENCODERS: dict[tuple[bool, bool], Encoder] = {
    (True, True): event_chunk,
    (True, False): nameless_chunk,
    (False, True): event_block,
    (False, False): nameless_block,
}
"""The encoder by two flags: whether the body is chunked, and whether events are named."""


class SseStream(Stream):
    """One client of an event stream.

    Args:
        request: What the client watches.
        chunked: Whether the body is chunked (HTTP/1.1).
        key: Name of the client's API key, with which the stream ends.
    """

    __slots__ = ("_came_with", "_chunked", "_keepalive_at", "_names", "_request", "_task_end", "encode")

    transport: ClassVar[str] = "sse"
    one_position: ClassVar[bool] = True

    def __init__(
        self,
        sock: socket.socket,
        hub: Hub,
        registry: StreamRegistry,
        owner: str,
        request: WatchRequest,
        *,
        chunked: bool,
        key: str = "",
    ) -> None:
        super().__init__(sock, hub, registry, owner, key)
        self.encode = ENCODERS[chunked, request.names]
        self._chunked = chunked
        self._names = request.names
        self._came_with = request.after
        self._task_end = request.task_end
        self._request: WatchRequest | None = request  # until ``opened``
        self._keepalive_at = self.due + registry.limits.keepalive_seconds

    def _block(
        self, kind: str, fields: dict[str, Any], position: EventId | None, retry_ms: int | None = None
    ) -> bytes:
        """Encode a notice; without a position the client keeps the cursor it came with."""
        known = self._came_with if position is None else position
        cursor = "" if known is None else format_id(known)  # an EventSource takes "" for no cursor
        block = notice_block(kind, fields, cursor, retry_ms, named=self._names)
        return chunk(block) if self._chunked else block

    def notice(self, kind: str, fields: dict[str, Any], position: EventId | None = None) -> bytes:
        """Encode a control event."""
        return self._block(kind, fields, position)

    def farewell(self, reason: Reason, after_ms: int, cursor: EventId | None) -> bytes:
        """Encode ``reconnect``, unless the task has ended, and the end of the body."""
        last = LAST_CHUNK if self._chunked else b""
        if reason is Reason.TASK_ENDED:
            return last
        fields = {
            "after_ms": after_ms,
            "cursor": None if cursor is None else format_id(cursor),
            "reason": reason.text,
        }
        return self._block("reconnect", fields, cursor, after_ms) + last

    def beat(self, now: float) -> None:
        """Write a keepalive if it is due; its id moves the client's cursor past events that a filter hid."""
        if now >= self._keepalive_at:
            cursor = self.watching.safe_cursor()
            fields = {
                "time": datetime.now(UTC),
                "cursor": None if cursor is None else format_id(cursor),
            }
            self.sink.write(self._block("keepalive", fields, cursor))
            self._keepalive_at = now + self.limits.keepalive_seconds
        self.due = self._keepalive_at

    def gap(self, subscription: Subscription, through: EventId) -> None:
        """Tell of events that are no longer kept; end the stream if a finished task's end is among them."""
        super().gap(subscription, through)
        if self._task_end is not None and self._task_end <= through:
            self.task_ended(subscription)

    def opened(self) -> None:
        """Begin the subscription; end the stream if its owner watches too many channels."""
        request, self._request = self._request, None
        assert request is not None, "a stream begins once"
        try:
            self.watch(request)
        except TooMany:
            self.end(Reason.FULL)

    def unwatched(self, request: WatchRequest, error: Unavailable, reached: EventId | None) -> None:
        """End the stream, which has no other subscription; the client goes on behind what it was given."""
        if not self.ending:
            self._say_farewell(Reason.UNAVAILABLE, RECONNECT_MS, reached)

    def announce(self, request: WatchRequest, cursor: EventId, reset: CursorLost | None) -> None:
        """Write ``open``, and then ``reset``, which belongs to it.

        A client that is cut before it has read the reset must come back with the cursor it had, so ``open``
        repeats that cursor. In place of a foreign cursor ``open`` gives the beginning of the log.
        """
        came_with = OLDEST if request.after is None else request.after
        position = cursor if reset is None else came_with
        fields = {
            "channel": ",".join(request.selection.selectors),
            "cursor": format_id(cursor),
            "recovered": request.after is not None and reset is None,
        }
        retry_ms = round(RECONNECT_MS * random.uniform(0.5, 1.5))
        self.sink.write(self._block("open", fields, position, retry_ms))
        if reset is not None:
            self.send_reset(request.selection, reset, cursor, before=came_with)
