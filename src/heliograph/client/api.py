"""The HTTP client: publish, and ask for tasks and their logs.

Failures are errors of ``heliograph.model.errors``: a problem document by its status, and a service that can't
be reached as ``Unavailable``. Only publishing retries, which is safe: every item has an idempotency key, so
the service keeps it once however often it arrives. There is no ``timeout=`` anywhere: callers put a cancel
scope around a call. The client runs under Trio and under asyncio; plain code has ``heliograph.client.plain``.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from heliograph.client import answers
from heliograph.client.answers import (
    Accepted,
    Call,
    EventPage,
    OutputLine,
    TaskPage,
    TaskState,
    decode,
    problem_error,
    unreachable,
)
from heliograph.client.encoding import keyed_lines
from heliograph.client.environment import DEFAULT_URL
from heliograph.client.retry import insist
from heliograph.model.errors import HeliographError, SettingsError

T = TypeVar("T")

TASK_KEY_PREFIX = "task."
TIMEOUT = 30.0
CONNECT_TIMEOUT = 5.0
MAX_PROBLEM_BYTES = 64 * 1024


class Client:
    """Talks to one service; use it as an async context manager.

    Args:
        url: The service's URL, such as ``http://127.0.0.1:5000``.
        api_key: Sent as ``X-API-Key``; ``None``: none is sent.
    """

    def __init__(self, url: str = DEFAULT_URL, api_key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self.limited = (api_key or "").startswith(TASK_KEY_PREFIX)  # a task key's channels never change
        self.headers = {} if api_key is None else {"X-API-Key": api_key}
        self._http = httpx.AsyncClient(**options(self.url, api_key))

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def publish(
        self,
        items: Iterable[Mapping[str, Any]],
        on_retry: Callable[[HeliographError, float], object] = lambda error, delay: None,
    ) -> Accepted:
        """Publish items, in either form of ``POST /api/v1/events``, retrying until the service keeps them.

        Args:
            items: The items; all are kept or none; an item without a ``key`` is given one.
            on_retry: Called with the error of each failed try, and the seconds until the next.

        Raises:
            ClientFault: The service refuses the items; a retry would not help.
        """
        body = keyed_lines(items)
        return await insist(lambda: self.post_events(body), on_retry)

    async def post_events(self, ndjson: bytes) -> Accepted:
        """Publish items that are already encoded, one JSON object a line, in a single try.

        Raises:
            Unavailable: The service can't be reached or asks for a retry.
            TooMany: The service asks for a retry later.
            ClientFault: The service refuses the items.
        """
        return await self._ask(answers.post_events(ndjson))

    async def task_key(self, task_id: str) -> str:
        """Return a key that reaches one task, and those that it begins.

        Raises:
            HeliographError: The service refuses or can't be reached.
        """
        return await self._ask(answers.make_task_key(task_id))

    async def put(self, path: str, data: bytes) -> None:
        """Put bytes at a path of the service, in a single try.

        Raises:
            HeliographError: The service refuses or can't be reached.
        """
        await self._ask(answers.put_bytes(path, data))

    async def tasks(
        self, *, limit: int = 50, cursor: str | None = None, **filters: str | list[str]
    ) -> TaskPage:
        """List tasks, newest first.

        Args:
            limit: The most to return, up to 500.
            cursor: ``next_cursor`` of the page before.
            **filters: ``status``, ``agent``, ``model``, ``text``, ``since``, ``until``.

        Raises:
            HeliographError: The service refuses or can't be reached.
        """
        return await self._ask(answers.list_tasks(limit, cursor, filters))

    async def task(self, task_id: str) -> TaskState:
        """Return one task.

        Raises:
            NotFound: The service knows no such task.
            HeliographError: It refuses or can't be reached.
        """
        return await self._ask(answers.get_task(task_id))

    async def events(
        self, *, limit: int = 50, cursor: str | None = None, **filters: str | list[str] | None
    ) -> EventPage:
        """List events, newest first.

        Args:
            limit: The most to return, up to 500.
            cursor: ``next_cursor`` of the page before.
            **filters: ``channel``, ``topic``.

        Raises:
            HeliographError: The service refuses or can't be reached.
        """
        return await self._ask(answers.list_events(limit, cursor, filters))

    async def logs(
        self,
        task_id: str,
        *,
        from_seq: int | None = None,
        to_seq: int | None = None,
        tail: int | None = None,
        limit: int | None = None,
    ) -> tuple[OutputLine, ...]:
        """Return a range of a task's output, in order.

        Args:
            task_id: The task.
            from_seq: First ``seq`` wanted.
            to_seq: Last ``seq`` wanted.
            tail: The number of lines to return from the end of the range.
            limit: The number of lines to return from its beginning.

        Raises:
            NotFound: The service knows no such task.
            HeliographError: It refuses or can't be reached.
        """
        query = {"from_seq": from_seq, "to_seq": to_seq, "tail": tail, "limit": limit}
        return await self._ask(answers.task_logs(task_id, query))

    @asynccontextmanager
    async def full_log(self, task_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a task's whole output as text; yields chunks of bytes as they arrive.

        Raises:
            NotFound: The service knows no such task.
            HeliographError: It refuses or can't be reached.
        """
        async with self.stream(answers.full_log_path(task_id), {}, {"Accept": "text/plain"}) as response:
            yield response.aiter_bytes()

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, Any], headers: Mapping[str, str], idle: float = TIMEOUT
    ) -> AsyncIterator[httpx.Response]:
        """Open an answer that is read piece by piece.

        Args:
            path: The path from the root of the service.
            query: The URL's query.
            headers: Headers besides the usual ones.
            idle: Seconds of silence after which the connection counts as lost.

        Raises:
            HeliographError: The service refuses or can't be reached.
        """
        try:
            async with self._http.stream(
                "GET",
                path,
                params=dict(query),
                headers=dict(headers),
                timeout=httpx.Timeout(TIMEOUT, connect=CONNECT_TIMEOUT, read=idle),
            ) as response:
                await raise_for_problem(response)
                yield response
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from error

    async def _ask(self, call: Call[T]) -> T:
        request = self._http.build_request(call.method, call.path, **call.request)
        if call.body is not None:
            request.stream = _Body(call.body)
        try:
            response = await self._http.send(request, stream=True)
            async with aclosing(response):
                await raise_for_problem(response)
                body = await response.aread()
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from error
        return decode(body, call, self.url)


class _Body(httpx.AsyncByteStream):
    """A request's body.

    httpx's own class is an async generator, which a broken connection leaves to the garbage collector.
    """

    def __init__(self, body: bytes) -> None:
        self._parts = [body]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._parts:
            raise StopAsyncIteration
        return self._parts.pop()


def options(url: str, api_key: str | None) -> dict[str, Any]:
    """Return the options of an httpx client of a service.

    Raises:
        SettingsError: The certificates of ``SSL_CERT_FILE`` can't be read.
    """
    return {
        "base_url": url,
        "headers": {} if api_key is None else {"X-API-Key": api_key},
        # Reading the certificates takes longer than a short command, and plain HTTP needs none.
        "verify": url.startswith("https:") and _certificates(),
        "timeout": httpx.Timeout(TIMEOUT, connect=CONNECT_TIMEOUT),
    }


def _certificates() -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except OSError as error:  # ssl's own errors are among them
        path = os.environ.get("SSL_CERT_FILE", "")
        raise SettingsError([f"SSL_CERT_FILE: {path} has no certificates: {error}"]) from None


async def raise_for_problem(response: httpx.Response) -> None:
    """Raise the error of an answer that is not a success.

    Args:
        response: A streaming response whose body has not been read yet.

    Raises:
        HeliographError: The error of the answer's status; ``Unavailable`` for every 5xx.
    """
    if not response.is_success:
        body = b""
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > MAX_PROBLEM_BYTES:
                break
        raise problem_error(response.status_code, body, response.headers.get("Retry-After", ""))


def raise_for_problem_now(response: httpx.Response) -> None:
    """Do what ``raise_for_problem`` does, in plain code."""
    if not response.is_success:
        body = b""
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > MAX_PROBLEM_BYTES:
                break
        raise problem_error(response.status_code, body, response.headers.get("Retry-After", ""))
