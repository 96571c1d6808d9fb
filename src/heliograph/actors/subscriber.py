"""The subscriber: follows the log and hands every batch on, in order.

It starts at the log's position, waits for later events, and sends each batch to every outlet (the hub, the
histogram aggregator) through its bounded inbox. A full outlet makes it wait: no event is skipped, and
none piles up here, since unread events stay in the log. It knows neither channels nor watchers. It waits out
an outage of the log, with capped and jittered pauses between tries. When the log has lost the position, the
loss is sent in its place among the batches, and following goes on from the log's head. Any other error is a
bug and ends the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import attrs

from heliograph.actors.retry import until_it_works
from heliograph.model.event import Event
from heliograph.model.ids import EventId
from heliograph.storage.protocols import Log, PositionLost

Followed = Sequence[Event] | PositionLost
"""The output of the log: the next events, or the notice that they do not connect to the last ones."""


class Outlet(Protocol):
    """Where batches go, such as an actor's inbox."""

    async def send(self, item: Followed, /) -> None:
        """Hand over the next batch; wait while there is no room."""

    def close(self) -> None:
        """Say that no more will come."""


@attrs.frozen
class SubscriberStats:
    """Counters since the start.

    Args:
        position: Id of the newest event handed on.
        batches: Batches handed on.
        events: Events in them.
    """

    position: EventId
    batches: int
    events: int


class Subscriber:
    """Follows the log from a position on.

    Args:
        log: The log to follow.
        start: The position after which to begin.
        outlets: The inboxes that get every batch; closed when ``run`` ends.
    """

    def __init__(self, log: Log, start: EventId, outlets: Sequence[Outlet]) -> None:
        self._log = log
        self._position = start
        self._outlets = outlets
        self._batches = self._events = 0

    def stats(self) -> SubscriberStats:
        """Return a snapshot of the counters."""
        return SubscriberStats(self._position, self._batches, self._events)

    async def run(self) -> None:
        """Follow until cancelled."""
        try:
            while True:
                try:
                    batch = await until_it_works(partial(self._log.tail, self._position), "following")
                except PositionLost as lost:
                    await self._hand_on(lost)
                    self._position = lost.head
                    continue
                await self._hand_on(batch)
                self._position = batch[-1].id
                self._batches += 1
                self._events += len(batch)
        finally:
            for outlet in self._outlets:
                outlet.close()

    async def _hand_on(self, followed: Followed) -> None:
        for outlet in self._outlets:
            await outlet.send(followed)
