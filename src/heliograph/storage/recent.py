"""The newest events in memory, so that readers of recent events need no database.

A log hands every batch that it makes durable (or reads) to its ``Recent``, in order and without a hole.
Followers, new watchers and clients that come back after a moment are served from here. The memory is bounded
by events and by bytes; older events are read from the database.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from heliograph.model.event import Event
from heliograph.model.ids import EventId

EVENTS = 4096
BYTES = 16 * 1024 * 1024
ENTRY_BYTES = 400
"""The bytes that an event takes besides its payload."""


class Recent:
    """Every event after ``since`` and up to ``through``.

    Args:
        position: The newest position of the log, at which to begin.
    """

    def __init__(self, position: EventId) -> None:
        self.since = position
        self.through = position
        self._events: deque[tuple[Event, int]] = deque()
        self._bytes = 0

    def extend(self, events: Sequence[Event]) -> None:
        """Add events, the next ones after ``through``; of very many only the last ones stay."""
        if len(events) > EVENTS:
            self._events.clear()
            self._bytes = 0
            self.since = events[-EVENTS - 1].id
        for event in events[-EVENTS:]:
            size = ENTRY_BYTES + len(event.body or event.json)  # ``size_of``, without calling it for each
            self._events.append((event, size))
            self._bytes += size
        self.through = events[-1].id
        while len(self._events) > EVENTS or (self._bytes > BYTES and len(self._events) > 1):
            dropped, size = self._events.popleft()
            self._bytes -= size
            self.since = dropped.id

    def forget(self, through: EventId) -> None:
        """Drop the events up to ``through``."""
        while self._events and self._events[0][0].id <= through:
            _, size = self._events.popleft()
            self._bytes -= size
        self.since = max(self.since, min(through, self.through))

    def covers(self, after: EventId) -> bool:
        """Tell whether every event after a position is here."""
        return after >= self.since

    def after(self, position: EventId) -> list[Event]:
        """Return the events here after a position, oldest first."""
        newer: list[Event] = []
        for event, _ in reversed(self._events):
            if event.id <= position:
                break
            newer.append(event)
        newer.reverse()
        return newer


def size_of(event: Event) -> int:
    """Return roughly the bytes that keeping an event costs."""
    return ENTRY_BYTES + len(event.json)
