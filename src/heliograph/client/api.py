"""The HTTP client: publish, and ask for tasks and their logs.

What goes wrong comes out as the errors of ``heliograph.model.errors``: a problem document by its status,
and a service that can't be reached as ``Unavailable``. Only publishing repeats what failed, and it can:
every item has an idempotency key, so the service keeps it once however often it arrives. There is no
``timeout=`` anywhere: callers put a Trio cancel scope around a call.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import attrs
import httpx
import orjson

from heliograph.client.retry import insist
from heliograph.model.errors import (
    ClientFault,
    Conflict,
    FieldError,
    Forbidden,
    HeliographError,
    Invalid,
    Malformed,
    NotFound,
    TooLarge,
    TooMany,
    Unauthenticated,
    Unavailable,
    UnsupportedMedia,
)

DEFAULT_URL = "http://127.0.0.1:5000"
TIMEOUT = 30.0
CONNECT_TIMEOUT = 5.0
MAX_PROBLEM_BYTES = 64 * 1024

_FAULTS: Mapping[int, type[ClientFault]] = {
    400: Malformed,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    415: UnsupportedMedia,
}


@attrs.frozen
class Accepted:
    """What the service says to events that it keeps.

    Args:
        accepted: How many items it took.
        ids: Their event ids.
        cursor: The position after them.
    """

    accepted: int
    ids: tuple[str, ...]
    cursor: str


@attrs.frozen
class TaskPage:
    """A page of tasks, newest first.

    Args:
        tasks: As REST gives them.
        next_cursor: Where the next page begins; ``None`` at the end.
        stream_cursor: The position in the log that the page reflects.
    """

    tasks: tuple[dict[str, Any], ...]
    next_cursor: str | None
    stream_cursor: str


@attrs.frozen
class EventPage:
    """A page of events, newest first.

    Args:
        events: As REST gives them.
        next_cursor: Where the next page begins; ``None`` at the end.
        stream_cursor: The position in the log that the page reflects.
    """

    events: tuple[dict[str, Any], ...]
    next_cursor: str | None
    stream_cursor: str


@attrs.frozen
class OutputLine:
    """One output event of a task: a line, or a marked piece of one.

    Args:
        seq: Its number in the task's channel.
        id: Of the event.
        timestamp: ISO 8601.
        output: The text.
        stream: ``stdout`` or ``stderr``.
        partial: The stream's next piece goes on in the same line.
        rewind: It is written over what the line held so far, as after a lone carriage return.
    """

    seq: int
    id: str
    timestamp: str
    output: str
    stream: str
    partial: bool = False
    rewind: bool = False


class Client:
    """Talks to one service; use it as an async context manager.

    Args:
        url: Where the service is, such as ``http://127.0.0.1:5000``.
        api_key: Sent as ``X-API-Key``; ``None``: none is sent.
    """

    def __init__(self, url: str = DEFAULT_URL, api_key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self.headers = {} if api_key is None else {"X-API-Key": api_key}
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers=self.headers,
            # Reading the certificates takes longer than a short command; plain HTTP needs none.
            verify=self.url.startswith("https:"),
            timeout=httpx.Timeout(TIMEOUT, connect=CONNECT_TIMEOUT),
        )

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
        """Publish items, in either form of ``POST /api/v1/events``, trying until the service keeps them.

        Args:
            items: They are kept all or none; one without a ``key`` is given one.
            on_retry: Told of each failed try, and of the seconds until the next.

        Raises:
            ClientFault: The service refuses them; trying again would not help.
        """
        prefix = secrets.token_hex(8)
        body = b"".join(
            orjson.dumps(_with_key(item, f"{prefix}/{index}"), option=orjson.OPT_APPEND_NEWLINE)
            for index, item in enumerate(items)
        )
        return await insist(lambda: self.post_events(body), on_retry)

    async def post_events(self, ndjson: bytes) -> Accepted:
        """Publish items that are already encoded, one JSON object a line, in a single try.

        Raises:
            Unavailable: The service can't be reached or asks to come again.
            TooMany: It asks to come again later.
            ClientFault: It refuses the items.
        """
        answer = await self._json(
            "POST", "/api/v1/events", content=ndjson, headers={"Content-Type": "application/x-ndjson"}
        )
        return Accepted(answer["accepted"], tuple(answer["ids"]), answer["cursor"])

    async def tasks(
        self, *, limit: int = 50, cursor: str | None = None, **filters: str | list[str]
    ) -> TaskPage:
        """List tasks, newest first.

        Args:
            limit: At most so many, up to 500.
            cursor: ``next_cursor`` of the page before.
            **filters: ``status``, ``agent``, ``model``, ``text``, ``since``, ``until``.

        Raises:
            HeliographError: The service refuses or can't be reached.
        """
        query = {"limit": limit, "cursor": cursor, **filters}
        answer = await self._json("GET", "/api/tasks", params=_given(query))
        meta = answer["meta"]
        return TaskPage(tuple(answer["tasks"]), meta["next_cursor"], meta["stream_cursor"])

    async def task(self, task_id: str) -> dict[str, Any]:
        """Return one task as REST gives it, with ``meta``.

        Raises:
            NotFound: The service knows no such task.
            HeliographError: It refuses or can't be reached.
        """
        return await self._json("GET", f"/api/tasks/{task_id}")

    async def events(
        self, *, limit: int = 50, cursor: str | None = None, **filters: str | list[str] | None
    ) -> EventPage:
        """List events, newest first.

        Args:
            limit: At most so many, up to 500.
            cursor: ``next_cursor`` of the page before.
            **filters: ``channel``, ``topic``.

        Raises:
            HeliographError: The service refuses or can't be reached.
        """
        query = {"limit": limit, "cursor": cursor, **filters}
        answer = await self._json("GET", "/api/v1/events", params=_given(query))
        meta = answer["meta"]
        return EventPage(tuple(answer["events"]), meta["next_cursor"], meta["stream_cursor"])

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
            tail: Only the last so many of the range.
            limit: Only the first so many of the range.

        Raises:
            NotFound: The service knows no such task.
            HeliographError: It refuses or can't be reached.
        """
        query = {"from_seq": from_seq, "to_seq": to_seq, "tail": tail, "limit": limit}
        answer = await self._json("GET", f"/api/tasks/{task_id}/logs", params=_given(query))
        return tuple(OutputLine(**line) for line in answer["lines"])

    @asynccontextmanager
    async def full_log(self, task_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a task's whole output as text; yields chunks of bytes as they arrive.

        Raises:
            NotFound: The service knows no such task.
            HeliographError: It refuses or can't be reached.
        """
        async with self.stream(f"/api/tasks/{task_id}/logs/full", {}, {"Accept": "text/plain"}) as response:
            yield response.aiter_bytes()

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, Any], headers: Mapping[str, str], idle: float = TIMEOUT
    ) -> AsyncIterator[httpx.Response]:
        """Open an answer that is read piece by piece.

        Args:
            path: From the root of the service.
            query: Of the URL.
            headers: Besides the usual ones.
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

    async def _json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        try:
            async with self._http.stream(method, path, **request) as response:
                await raise_for_problem(response)
                body = await response.aread()
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from error
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            answer = None
        if not isinstance(answer, dict):
            raise Malformed(f"what answers at {self.url} is not Heliograph")
        return answer


def unreachable(url: str, error: Exception) -> Unavailable:
    """Say that a service can't be reached, and why."""
    return Unavailable(f"the service at {url} can't be reached: {error or type(error).__name__}", 0.0)


async def raise_for_problem(response: httpx.Response) -> None:
    """Turn an answer that is not a success into the error that it stands for.

    Args:
        response: A streaming response whose body was not read yet.

    Raises:
        HeliographError: By the answer's status; ``Unavailable`` for every 5xx.
    """
    if not response.is_success:
        body = b""
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > MAX_PROBLEM_BYTES:
                break
        raise problem_error(response.status_code, body, response.headers.get("Retry-After", ""))


def problem_error(status: int, body: bytes, retry_after: str = "") -> HeliographError:
    """Make the error that an HTTP problem stands for.

    Args:
        status: Of the answer.
        body: A problem document, or whatever else a proxy in between has said.
        retry_after: The header's text; a date is not read.
    """
    try:
        problem = orjson.loads(body)
    except orjson.JSONDecodeError:
        problem = None
    if not isinstance(problem, dict):
        problem = {}
    detail = str(
        problem.get("detail") or problem.get("title") or f"the service answered with HTTP status {status}"
    )
    seconds = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None
    if status == 422 and problem.get("errors"):
        return Invalid(
            [
                FieldError(str(e.get("field", "")), str(e.get("detail", "")), e.get("index"))
                for e in problem["errors"]
            ]
        )
    if status == 429:
        return TooMany(detail, 5.0 if seconds is None else seconds)
    if status >= 500:
        return Unavailable(detail, 1.0 if seconds is None else seconds)
    return _FAULTS.get(status, ClientFault)(detail)


def _with_key(item: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Give an item a key unless it has one; ``null``, as a serializer may write it, is none."""
    return {**item, "key": key if item.get("key") is None else item["key"]}


def _given(query: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value is not None}
