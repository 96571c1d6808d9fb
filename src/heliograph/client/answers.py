"""Requests to the service, and the readers of its answers. No I/O.

A ``Call`` is one request with the reader of its answer; ``api.Client`` makes it under asyncio and Trio,
``plain.Client`` in plain code. So each request is written once. Unknown fields of an answer are ignored, so
that a newer service is no error.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import cache
from typing import Any, Generic, TypeVar

import attrs
import orjson

from heliograph.client.following import read_event
from heliograph.client.paths import EVENTS, TASK_KEYS, TASKS
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
from heliograph.model.event import Event
from heliograph.model.ids import parse_time

T = TypeVar("T")


_FAULTS: Mapping[int, type[ClientFault]] = {
    cls.status: cls
    for cls in (Malformed, Unauthenticated, Forbidden, NotFound, Conflict, TooLarge, UnsupportedMedia)
}


@attrs.frozen
class Accepted:
    """The service's answer to events that it keeps.

    Args:
        accepted: The number of items that it took.
        ids: Their event ids.
        cursor: The position after them.
    """

    accepted: int
    ids: tuple[str, ...]
    cursor: str


@attrs.frozen
class TaskState:
    """One task as the service knows it; times are aware UTC, and ``None`` means unknown.

    Args:
        task_id: Its id.
        status: ``queued``, ``running``, ``waiting_input``, ``completed``, ``failed``, ``cancelled``, …
        created_at: The time of the first event that mentions it.
        updated_at: The time of the last event that changed it.
        started_at: The time at which it began.
        finished_at: The time at which it ended.
        duration_ms: The time from beginning to end.
        name: The task's name.
        agent: The agent that does it.
        agent_type: The kind of agent.
        model: The model that it uses.
        session_id: The session that it belongs to.
        conversation_id: The conversation that it belongs to.
        input: The task's input.
        metadata: Further fields from its creation.
        output_lines: The number of its output events.
        output_bytes: The bytes of text in them.
        cost_usd: Dollars.
        input_tokens: Tokens that went into models.
        output_tokens: Tokens that came out of them.
        cached_tokens: Tokens that came from a cache.
        error: Why it failed.
        result: The result from its end.
        last_event_id: The cursor of its last event.
    """

    task_id: str
    status: str
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    duration_ms: float | None = None
    name: str | None = None
    agent: str | None = None
    agent_type: str | None = None
    model: str | None = None
    session_id: str | None = None
    conversation_id: str | None = None
    input: Any = None
    metadata: dict[str, Any] | None = None
    output_lines: int = 0
    output_bytes: int = 0
    cost_usd: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    error: str | None = None
    result: dict[str, Any] | None = None
    last_event_id: str = "0-0"


@attrs.frozen
class TaskPage:
    """A page of tasks, newest first.

    Args:
        tasks: The tasks.
        next_cursor: The cursor of the next page; ``None`` at the end.
        stream_cursor: The position in the log that the page reflects: ``follow`` goes on from it.
    """

    tasks: tuple[TaskState, ...]
    next_cursor: str | None
    stream_cursor: str


@attrs.frozen
class EventPage:
    """A page of events, newest first.

    Args:
        events: The events.
        next_cursor: The cursor of the next page; ``None`` at the end.
        stream_cursor: The position in the log that the page reflects: ``follow`` goes on from it.
    """

    events: tuple[Event, ...]
    next_cursor: str | None
    stream_cursor: str


@attrs.frozen
class OutputLine:
    """One output event of a task: a line, or a marked piece of one.

    Args:
        seq: Its number in the task's channel.
        id: The event's id.
        timestamp: ISO 8601.
        output: The text.
        stream: ``stdout`` or ``stderr``.
        partial: Whether the stream's next piece goes on in the same line.
        rewind: Whether it overwrites the line so far, as after a lone carriage return.
    """

    seq: int
    id: str
    timestamp: str
    output: str
    stream: str
    partial: bool = False
    rewind: bool = False


@attrs.frozen
class Call(Generic[T]):
    """One request.

    Args:
        read: Reads the JSON object of its answer.
        path: The path from the root of the service.
        method: The HTTP method.
        query: The URL's query; a value of ``None`` is left out.
        body: The body as it is sent.
        content_type: The body's media type.
    """

    read: Callable[[dict[str, Any]], T]
    path: str
    method: str = "GET"
    query: Mapping[str, Any] = attrs.field(factory=dict)
    body: bytes | None = None
    content_type: str | None = None

    @property
    def request(self) -> dict[str, Any]:
        """The arguments for a request of httpx."""
        headers = {} if self.content_type is None else {"Content-Type": self.content_type}
        return {"params": _given(self.query), "content": self.body, "headers": headers}


def post_events(ndjson: bytes) -> Call[Accepted]:
    """Publish items, one JSON object a line."""
    return Call(
        lambda answer: Accepted(answer["accepted"], tuple(answer["ids"]), answer["cursor"]),
        EVENTS,
        "POST",
        body=ndjson,
        content_type="application/x-ndjson",
    )


def list_tasks(limit: int, cursor: str | None, filters: Mapping[str, Any]) -> Call[TaskPage]:
    """List tasks, newest first."""
    return Call(_read_task_page, TASKS, query={"limit": limit, "cursor": cursor, **filters})


def get_task(task_id: str) -> Call[TaskState]:
    """Ask for one task."""
    return Call(read_task, f"{TASKS}/{task_id}")


def list_events(limit: int, cursor: str | None, filters: Mapping[str, Any]) -> Call[EventPage]:
    """List events, newest first."""
    return Call(_read_event_page, EVENTS, query={"limit": limit, "cursor": cursor, **filters})


def task_logs(task_id: str, query: Mapping[str, Any]) -> Call[tuple[OutputLine, ...]]:
    """Ask for a range of a task's output."""
    return Call(_read_lines, f"{TASKS}/{task_id}/logs", query=query)


def full_log_path(task_id: str) -> str:
    """Return the path of a task's whole output."""
    return f"{TASKS}/{task_id}/logs/full"


def make_task_key(task_id: str) -> Call[str]:
    """Ask for a key that reaches one task."""
    body = orjson.dumps({"task_id": task_id})
    return Call(
        lambda answer: str(answer["key"]), TASK_KEYS, "POST", body=body, content_type="application/json"
    )


def put_bytes(path: str, data: bytes) -> Call[None]:
    """Put bytes at a path of the service."""
    return Call(lambda answer: None, path, "PUT", body=data, content_type="application/octet-stream")


def read_task(fields: Mapping[str, Any]) -> TaskState:
    """Read a task."""
    state: TaskState = _converter().structure(fields, TaskState)
    return state


def decode(body: bytes, call: Call[T], url: str) -> T:
    """Read the body of an answer.

    Raises:
        Malformed: It is not an answer of Heliograph.
    """
    try:
        answer = orjson.loads(body)
        return call.read(answer)
    except (ValueError, TypeError, KeyError, ExceptionGroup):
        raise Malformed(f"what answers at {url} is not Heliograph") from None


def unreachable(url: str, error: Exception) -> Unavailable:
    """Return the error that a service can't be reached, with the reason; TLS's own error says it best."""
    causes = list(_causes(error))
    failure = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), error)
    match failure:
        case ssl.SSLCertVerificationError():
            why = (
                f"certificate verify failed: {failure.verify_message}; if you trust who made it,"
                " set SSL_CERT_FILE to a file with that authority's certificate"
            )
        case ssl.SSLError(reason=str()):
            why = f"no TLS there: {failure.reason.lower().replace('_', ' ')}"
        case _:
            why = next(filter(None, map(str, causes)), type(error).__name__)
    return Unavailable(f"the service at {url} can't be reached: {why}", 0.0)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def problem_error(status: int, body: bytes, retry_after: str = "") -> HeliographError:
    """Return the error of an HTTP problem.

    Args:
        status: The answer's status.
        body: A problem document, or any other body from a proxy in between.
        retry_after: The header's text; dates are ignored.
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


def _read_task_page(answer: dict[str, Any]) -> TaskPage:
    meta = answer["meta"]
    return TaskPage(tuple(map(read_task, answer["tasks"])), meta["next_cursor"], meta["stream_cursor"])


def _read_event_page(answer: dict[str, Any]) -> EventPage:
    meta = answer["meta"]
    events = tuple(read_event(fields, fields["topic"], fields["payload"]) for fields in answer["events"])
    return EventPage(events, meta["next_cursor"], meta["stream_cursor"])


def _read_lines(answer: dict[str, Any]) -> tuple[OutputLine, ...]:
    return tuple(_converter().structure(line, OutputLine) for line in answer["lines"])


@cache
def _converter() -> Any:
    import cattrs  # here, since its import is slow and programs that only publish don't need it

    converter = cattrs.Converter(prefer_attrib_converters=True)
    converter.register_structure_hook(datetime, lambda text, _: parse_time(text, "time"))
    return converter


def _given(query: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value is not None}
