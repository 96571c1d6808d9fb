"""The appender: concurrent publish requests become one durable write.

It owns the log's writing side on this node. Requests wait in a bounded channel. When the log is free the
appender takes all that have gathered (up to a bound) and appends them together. So under load the waiting
requests share the cost of a commit, and an idle service commits at once.

The inbox refuses when it is full: a publisher gets 503 with ``Retry-After`` and retries with the same keys,
instead of waiting in a queue that only grows. An outage of the log is the answer to the waiting requests;
nothing is retried here, since only the publisher knows whether it still wants its request.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import attrs
import trio

from heliograph.model.errors import HeliographError, Unavailable
from heliograph.model.event import Draft
from heliograph.storage.protocols import Log, Receipt

GROUP_EVENTS = 10_000
"""The most events in one group; a single request may have more."""


@attrs.frozen
class AppenderStats:
    """Counters since the start.

    Args:
        waiting: Requests in the inbox now.
        requests: Requests acknowledged.
        events: Events in them.
        groups: Durable writes for them.
        refused: Requests turned away because the inbox was full.
        failed: Requests answered with an error of the log.
    """

    waiting: int
    requests: int
    events: int
    groups: int
    refused: int
    failed: int


@attrs.define(eq=False)
class _Request:
    drafts: Sequence[Draft]
    done: trio.Event = attrs.field(factory=trio.Event)
    answer: Receipt | HeliographError | None = None

    def resolve(self, answer: Receipt | HeliographError) -> None:
        self.answer = answer
        self.done.set()


class Appender:
    """Group commit for one node.

    Args:
        log: The log to append to.
        queue: The number of requests that may wait before more are refused.
    """

    def __init__(self, log: Log, queue: int) -> None:
        self._log = log
        self._send, self._receive = trio.open_memory_channel[_Request](queue)
        self._next: _Request | None = None
        self._requests = self._events = self._groups = self._refused = self._failed = 0

    def stats(self) -> AppenderStats:
        """Return a snapshot of the counters."""
        return AppenderStats(
            waiting=self._receive.statistics().current_buffer_used,
            requests=self._requests,
            events=self._events,
            groups=self._groups,
            refused=self._refused,
            failed=self._failed,
        )

    async def append(self, drafts: Sequence[Draft]) -> Receipt:
        """Append the drafts of one request; return once they are durable.

        Raises:
            Unavailable: The inbox is full and nothing was kept; or the log is away, and the drafts may have
                been kept although no answer came: then only a retry with the same keys is harmless.
            Conflict: A key was used before for other content; nothing was kept.
        """
        request = _Request(drafts)
        try:
            self._send.send_nowait(request)
        except trio.WouldBlock:
            self._refused += 1
            raise Unavailable("too many publish requests are waiting") from None
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise Unavailable("the service is stopping") from None
        await request.done.wait()
        if isinstance(request.answer, Receipt):
            return request.answer
        assert request.answer is not None
        raise request.answer

    def close(self) -> None:
        """Take no more requests; waiting ones are still appended, then ``run`` returns."""
        self._send.close()

    async def run(self) -> None:
        """Append until closed. Cancelled, refuse what waits: a caller under a shield would wait in vain."""
        group: list[_Request] | None = None
        try:
            while (group := await self._gather()) is not None:
                try:
                    answers = await self._log.append([request.drafts for request in group])
                except HeliographError as error:
                    answers = [error] * len(group)
                self._groups += 1
                for request, answer in zip(group, answers, strict=True):
                    if isinstance(answer, Receipt):
                        self._requests += 1
                        self._events += len(answer.ids)
                    else:
                        self._failed += 1
                    request.resolve(answer)
        finally:
            self._refuse_rest(group or [])

    def _refuse_rest(self, rest: list[_Request]) -> None:
        """Refuse the requests that have no answer, and all that come."""
        if self._next is not None:
            rest.append(self._next)
        with self._receive, suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                rest.append(self._receive.receive_nowait())
        for request in rest:
            if not request.done.is_set():
                request.resolve(Unavailable("the service is stopping"))

    async def _gather(self) -> list[_Request] | None:
        """Wait for requests and return the next group; ``None`` after the last."""
        first, self._next = self._next, None
        if first is None:
            try:
                first = await self._receive.receive()
            except trio.EndOfChannel:
                return None
        group, events = [first], len(first.drafts)
        while True:
            try:
                request = self._receive.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                return group
            events += len(request.drafts)
            if events > GROUP_EVENTS:
                self._next = request  # the first of the next group
                return group
            group.append(request)
