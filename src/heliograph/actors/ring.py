"""A ring: the most recent messages of one broadcaster, which newcomers take instead of reading the log.

A ring has all messages of its selection after its ``floor``. Raising the floor is safe at any time, since
older messages are read from the log. So each ring drops its oldest messages when it is over its own bound,
and the hub empties whole rings when all rings together are over theirs. A running total, updated once per
flush, tells the hub so at the cost of a comparison.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import attrs

from heliograph.actors.subscription import Message
from heliograph.model.ids import EventId


@attrs.define
class RingTotal:
    """The bytes of all rings together, roughly; a message in several rings counts in each."""

    size: int = 0


class Ring:
    """Keeps the newest messages.

    Args:
        floor: The position after which it begins.
        max_events: The most messages that it keeps.
        max_bytes: The most bytes that it keeps, roughly.
        total: The bytes of all rings, which this ring adds to.
    """

    __slots__ = ("_max_bytes", "_max_events", "_messages", "_total", "floor", "size")

    def __init__(
        self, floor: EventId, max_events: int, max_bytes: int, total: RingTotal | None = None
    ) -> None:
        self.floor = floor
        self.size = 0
        self._messages: deque[Message] = deque()
        self._max_events, self._max_bytes = max_events, max_bytes
        self._total = total or RingTotal()

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, messages: Sequence[Message]) -> None:
        """Add the next messages; drop the oldest ones over the bounds."""
        size = self.size
        for message in messages:
            self._messages.append(message)
            size += message.size
        while len(self._messages) > self._max_events or size > self._max_bytes:
            message = self._messages.popleft()
            size -= message.size
            self.floor = message.event.id
        self._total.size += size - self.size
        self.size = size

    def reach_back(self, after: EventId, messages: Sequence[Message], through: EventId) -> None:
        """Add older messages that were replayed to one watcher, since others mostly resume at the same place.

        Nothing is added unless the messages reach up to the floor and there is room for all.

        Args:
            after: The position just before the messages.
            messages: All messages of the selection after it and up to ``through``.
            through: The position that they reach.
        """
        if not after < self.floor <= through:
            return
        older = [message for message in messages if message.event.id <= self.floor]
        size = self.size + sum(message.size for message in older)
        if len(self._messages) + len(older) <= self._max_events and size <= self._max_bytes:
            self._messages.extendleft(reversed(older))
            self._total.size += size - self.size
            self.size = size
            self.floor = after

    def after(self, position: EventId, at_most: int) -> tuple[list[Message], bool]:
        """Return the messages after a position, up to about ``at_most`` bytes, and whether there are more."""
        newer: list[Message] = []
        if not self._messages or self._messages[-1].event.id <= position:
            return newer, False
        size = 0
        for message in self._messages:
            if message.event.id > position:
                if size >= at_most:
                    return newer, True
                newer.append(message)
                size += message.size
        return newer, False

    def forget(self) -> None:
        """Drop all messages."""
        if self._messages:
            self.floor = self._messages[-1].event.id
            self._messages.clear()
        self._total.size -= self.size
        self.size = 0
