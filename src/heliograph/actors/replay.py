"""Replay: reads pages of the log for subscriptions that are behind, once for all at the same position.

When five thousand watchers come back at once with the same cursor, each page is read once and encoded once:
while a page is being read, all requests for the same page wait for that reading (single flight). So do
requests for the bounds of the same channel, or for the beginning of its tail. Nothing is kept afterwards; the
broadcasters' rings are the cache of recent messages.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from typing import Any, TypeVar

import attrs
import trio

from heliograph.actors.subscription import Batch, Message
from heliograph.model.channels import Selection
from heliograph.model.errors import HeliographError
from heliograph.model.ids import EventId
from heliograph.model.workflows.vocabulary import concerns
from heliograph.storage.protocols import Bounds, Log, Page

T = TypeVar("T")

PAGE_EVENTS = 500
AT_ONCE = 2
"""Concurrent readings of the log, so that many replays leave database connections for questions."""


@attrs.frozen
class ReplayPage:
    """A page of messages (``None`` if empty), the id that it reaches, and up to where some were removed."""

    batch: Batch | None
    through: EventId
    trimmed: EventId

    @property
    def messages(self) -> Sequence[Message]:
        """The events of the page."""
        return self.batch.messages if self.batch else ()


@attrs.define(eq=False)
class _Flight:
    done: trio.Event = attrs.field(factory=trio.Event)
    answer: Any = None
    error: HeliographError | None = None


@attrs.frozen
class ReplayStats:
    """Counters since the start: pages read from the log, and requests that shared a reading."""

    pages: int
    shared: int


class Replay:
    """Reads pages of the log, once for all concurrent requests."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._flights: dict[Hashable, _Flight] = {}
        self._limiter = trio.CapacityLimiter(AT_ONCE)
        self._pages = self._shared = 0

    def stats(self) -> ReplayStats:
        """Return a snapshot of the counters."""
        return ReplayStats(self._pages, self._shared)

    async def page(self, selection: Selection, after: EventId) -> ReplayPage:
        """Read the page after a position.

        Raises:
            Unavailable: The log can't be read now.
        """

        async def read() -> ReplayPage:
            page = await self._log.read(selection, after, PAGE_EVENTS)
            self._pages += 1
            return _encode(selection, page)

        return await self._once((selection, after), read)

    async def bounds(self, selection: Selection) -> Bounds:
        """Return the extent of a selection that is kept.

        Raises:
            Unavailable: The log can't be read now.
        """
        return await self._once(selection, partial(self._log.bounds, selection))

    def is_lost(self, position: EventId) -> bool:
        """Tell whether a position is that of an event which the log may have lost."""
        return any(loss.after < position < loss.before for loss in self._log.losses)

    async def tail_start(self, selection: Selection, count: int) -> EventId:
        """Return the position just before a selection's last ``count`` messages.

        Raises:
            Unavailable: The log can't be read now.
        """
        ask = partial(self._log.tail_start, selection, count)
        return await self._once(("tail", selection, count), ask)

    async def _once(self, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        """Read, or wait for a reading of the same ``key`` that is under way."""
        while (flight := self._flights.get(key)) is not None:
            await flight.done.wait()
            if flight.error is not None:
                raise flight.error
            if flight.answer is not None:
                self._shared += 1
                answer: T = flight.answer
                return answer
            # The reading task was cancelled: the first one that waited reads in its place.
        flight = self._flights[key] = _Flight()
        try:
            async with self._limiter:
                flight.answer = answer = await read()
        except HeliographError as error:
            flight.error = error
            raise
        finally:
            del self._flights[key]
            flight.done.set()
        return answer


def _encode(selection: Selection, page: Page) -> ReplayPage:
    # The log knows no runs: for a run's selection it has read all events of the workflow.
    messages = [Message(event) for event in page.events if concerns(selection, event)]
    return ReplayPage(Batch(messages) if messages else None, page.through, page.trimmed)
