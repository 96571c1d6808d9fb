"""Following a channel in plain code, under asyncio and under Trio.

    for item in heliograph.follow("task:*"):            # plain code
        ...
    async with heliograph.follow("task:*") as items:    # asyncio, Trio
        async for item in items:
            ...

Items come once and in order, over as many connections as it takes (see ``heliograph.client.following``). The
end of its ``with`` block closes a stream that is left early. A cancelled read loses nothing: the next one
goes on after the last item that was returned.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import anyio
import httpx

from heliograph.client import environment
from heliograph.client.answers import unreachable
from heliograph.client.api import CONNECT_TIMEOUT, TIMEOUT, options, raise_for_problem, raise_for_problem_now
from heliograph.client.following import (
    ACCEPT,
    IDLE_SECONDS,
    Ended,
    Finished,
    Following,
    Item,
    SseReader,
)
from heliograph.client.paths import STREAM
from heliograph.model.backoff import Backoff
from heliograph.model.channels import parse_selector
from heliograph.model.errors import TooMany, Unavailable


class EventStream:
    """The events of a channel; iterate over it with ``for`` or ``async for``.

    Args:
        url: The service's URL.
        api_key: The key to read with; ``None``: none.
        following: The selection and the position, which moves with each item.
    """

    def __init__(self, url: str, api_key: str | None, following: Following) -> None:
        self._url = url.rstrip("/")
        self._following = following
        self._options = {
            **options(self._url, api_key),
            "timeout": httpx.Timeout(TIMEOUT, connect=CONNECT_TIMEOUT, read=IDLE_SECONDS),
        }
        self._backoff = Backoff()
        self._pause = 0.0
        self._read_seconds = IDLE_SECONDS
        self._items: deque[Item] = deque()
        self._reader: SseReader | None = None
        self._client: httpx.Client | httpx.AsyncClient | None = None
        self._response: httpx.Response | None = None
        self._chunks: Any = None

    # Plain code.

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        try:
            while True:
                for item in self.take():
                    return item
                self.advance()
        except Finished:
            raise StopIteration from None

    def advance(self, deadline: float | None = None) -> None:
        """Connect, if need be, and read once.

        Args:
            deadline: The deadline by the monotonic clock.

        Raises:
            TimeoutError: The deadline has passed.
            Finished: All events were seen, and there will be no more.
            ClientFault: The service refuses; a retry would not help.
        """
        if _left(deadline) <= 0:
            raise TimeoutError("not in time")
        if _left(deadline) < self._read_seconds - 1:  # the deadline cuts this read short
            self.close()
        try:
            if self._chunks is None:
                time.sleep(min(self._take_pause(), _left(deadline)))
                self._open(_left(deadline))
            self._take(next(self._chunks, None))
        except Exception as error:
            self.close()
            if _left(deadline) <= 0:
                raise TimeoutError("not in time") from None
            self._plan(error)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        response, client, self._response, self._client = self._response, self._client, None, None
        self._chunks = None
        if response is not None:
            response.close()
        if isinstance(client, httpx.Client):
            client.close()

    def __del__(self) -> None:
        """Close the connection of a loop that was left early; under asyncio and Trio only ``aclose`` can."""
        if isinstance(self._client, httpx.Client):
            self.close()

    def _open(self, seconds: float) -> None:
        client = self._client = httpx.Client(**self._options)
        self._read_seconds = max(0.001, min(seconds, IDLE_SECONDS))
        client.timeout = httpx.Timeout(min(self._read_seconds, TIMEOUT), read=self._read_seconds)
        request = client.build_request("GET", STREAM, params=self._following.query(), headers=ACCEPT)
        self._response = client.send(request, stream=True)
        raise_for_problem_now(self._response)
        self._begin(self._response.status_code)
        self._chunks = self._response.iter_bytes()

    # asyncio and Trio.

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        try:
            while True:
                for item in self.take():
                    return item
                await self.advance_async()
        except Finished:
            raise StopAsyncIteration from None

    async def advance_async(self) -> None:
        """Connect, if need be, and read once.

        Raises:
            Finished: All events were seen, and there will be no more.
            ClientFault: The service refuses; a retry would not help.
        """
        try:
            if self._chunks is None:
                await anyio.sleep(self._take_pause())
                await self._open_async()
            self._take(await anext(self._chunks, None))
        except Exception as error:
            await self.aclose()
            self._plan(error)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Close the connection."""
        response, client, chunks = self._response, self._client, self._chunks
        self._response = self._client = self._chunks = None
        # httpx reads through half a dozen nested generators. Left as they are, the garbage collector would
        # have to end them, one by one and too late; a cancellation from within ends all of them at once.
        if chunks is not None:
            with anyio.CancelScope() as scope, suppress(httpx.TransportError, httpx.StreamError):
                scope.cancel()
                async for _ in chunks:
                    pass
        with anyio.CancelScope(shield=True):  # closing a socket waits for nothing
            if response is not None:
                await response.aclose()
            if isinstance(client, httpx.AsyncClient):
                await client.aclose()

    async def _open_async(self) -> None:
        client = self._client = httpx.AsyncClient(**self._options)
        request = client.build_request("GET", STREAM, params=self._following.query(), headers=ACCEPT)
        self._response = await client.send(request, stream=True)
        await raise_for_problem(self._response)
        self._begin(self._response.status_code)
        self._chunks = self._response.aiter_bytes()

    # Methods of both.

    def take(self) -> Iterator[Item]:
        """Take the items that have arrived."""
        while self._items:
            item = self._items.popleft()
            if self._following.is_new(item):
                yield item

    @property
    def placed(self) -> bool:
        """Whether the position is known from which another connection could go on."""
        return self._following.after is not None

    def _take_pause(self) -> float:
        pause, self._pause = self._pause, 0.0
        return pause

    def _begin(self, status: int) -> None:
        if status == httpx.codes.NO_CONTENT:
            raise Finished
        self._reader = SseReader(self._following)

    def _take(self, chunk: bytes | None) -> None:
        assert self._reader is not None
        if chunk is None:
            raise self._reader.end or self._reader.cut()
        self._items.extend(self._reader.feed(chunk))
        self._backoff.reset()
        if self._reader.end is not None:
            raise self._reader.end

    def _plan(self, error: Exception) -> None:
        """Choose the pause before the next connection, or raise what ends the following."""
        match error:
            case Ended():
                self._pause = self._backoff.next() if error.delay is None else error.delay
            case httpx.TransportError() | httpx.StreamError():
                self._pause = self._backoff.next(unreachable(self._url, error))
            case Unavailable() | TooMany():
                self._pause = self._backoff.next(error)
            case _:
                raise error


def _left(deadline: float | None) -> float:
    return math.inf if deadline is None else deadline - time.monotonic()


def follow(
    channel: str = "*",
    *,
    after: str | None = None,
    topic: str | None = None,
    tail: int | None = None,
    url: str | None = None,
    api_key: str | None = None,
) -> EventStream:
    """Follow a channel: events, once and in order, and ``Gap`` and ``Reset`` for events that can't be given.

    Args:
        channel: A channel such as ``task:ID``, or a pattern such as ``task:*`` or ``*``.
        after: Begin after this cursor; ``0-0``: with the oldest event that is kept. By default: now.
        topic: Only events of this topic, or of a pattern such as ``pipeline.*``.
        tail: The number of the newest events to begin with instead.
        url: The service's URL; by default that of ``configure`` or ``HELIOGRAPH_URL``.
        api_key: The key to read with; by default that of ``configure`` or ``HELIOGRAPH_API_KEY``.

    Raises:
        Invalid: ``channel`` is neither a channel nor a pattern.
    """
    from heliograph.client.agent import courier

    parse_selector(channel, "channel")
    settings = courier.settings()
    key = api_key or (settings.api_key if url is None else environment.api_key())
    return EventStream(url or settings.url, key, Following(channel, topic, after, tail))
