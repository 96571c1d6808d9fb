"""The HTTP client for plain code, like ``api.Client`` for asyncio and Trio."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from heliograph.client import answers
from heliograph.client.answers import Accepted, Call, EventPage, OutputLine, TaskPage, TaskState, unreachable
from heliograph.client.api import options, raise_for_problem_now
from heliograph.client.encoding import keyed_lines
from heliograph.client.environment import DEFAULT_URL
from heliograph.model.backoff import Backoff
from heliograph.model.errors import TooMany, Unavailable

T = TypeVar("T")


class Client:
    """Talks to one service; use it as a context manager.

    Args:
        url: The service's URL, such as ``http://127.0.0.1:5000``.
        api_key: Sent as ``X-API-Key``; ``None``: none is sent.
    """

    def __init__(self, url: str = DEFAULT_URL, api_key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(**options(self.url, api_key))

    def __enter__(self) -> Self:
        self._http.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.__exit__(kind, error, trace)

    def publish(self, items: Iterable[Mapping[str, Any]], *, patience: float = 60.0) -> Accepted:
        """Publish items, in either form of ``POST /api/v1/events``.

        Args:
            items: The items; all are kept or none; an item without a ``key`` is given one.
            patience: Seconds to go on trying while the service is away.

        Raises:
            Unavailable: The service is still away, or asks for a retry.
            ClientFault: The service refuses the items.
        """
        call = answers.post_events(keyed_lines(items))
        backoff, deadline = Backoff(), time.monotonic() + patience
        while True:
            try:
                return self._ask(call)
            except (Unavailable, TooMany) as error:
                delay = backoff.next(error)
                if time.monotonic() + delay > deadline:
                    raise
            time.sleep(delay)

    def tasks(self, *, limit: int = 50, cursor: str | None = None, **filters: str | list[str]) -> TaskPage:
        """List tasks, newest first.

        Args:
            limit: The most to return, up to 500.
            cursor: ``next_cursor`` of the page before.
            **filters: ``status``, ``agent``, ``model``, ``text``, ``since``, ``until``.

        Raises:
            HeliographError: The service refuses or can't be reached.
        """
        return self._ask(answers.list_tasks(limit, cursor, filters))

    def task(self, task_id: str) -> TaskState:
        """Return one task.

        Raises:
            NotFound: The service knows no such task.
            HeliographError: It refuses or can't be reached.
        """
        return self._ask(answers.get_task(task_id))

    def events(
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
        return self._ask(answers.list_events(limit, cursor, filters))

    def logs(
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
        return self._ask(answers.task_logs(task_id, query))

    @contextmanager
    def full_log(self, task_id: str) -> Iterator[Iterator[bytes]]:
        """Open a task's whole output as text; yields chunks of bytes as they arrive.

        Raises:
            NotFound: The service knows no such task.
            HeliographError: It refuses or can't be reached.
        """
        path = answers.full_log_path(task_id)
        try:
            with self._http.stream("GET", path, headers={"Accept": "text/plain"}) as response:
                raise_for_problem_now(response)
                yield response.iter_bytes()
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from error

    def _ask(self, call: Call[T]) -> T:
        try:
            with self._http.stream(call.method, call.path, **call.request) as response:
                raise_for_problem_now(response)
                body = response.read()
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from error
        return answers.decode(body, call, self.url)
