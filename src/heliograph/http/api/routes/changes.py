"""Changing tasks by REST, for engines that publish no events of their own.

Each change becomes an event on the task's channel, which is watched and folded like any other.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Any

import attrs
from werkzeug.exceptions import RequestTimeout

from heliograph.http.api import samples
from heliograph.http.api.endpoint import Described, Endpoint
from heliograph.http.api.routes.events import MAX_REQUEST_KEY
from heliograph.http.api.routes.tasks import OfTask, known_task, of_task
from heliograph.http.api.services import Services
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.bodies import JsonBody
from heliograph.http.rules.parameters import Text, header
from heliograph.http.rules.schema import says
from heliograph.model.channels import NAME
from heliograph.model.errors import (
    Conflict,
    Invalid,
    Malformed,
    NotFound,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from heliograph.model.ids import EventId
from heliograph.model.intake import parse_item
from heliograph.model.publishers import STATUS_WORDS, status_word
from heliograph.model.task import LOST, TERMINAL

Name = Annotated[str, says(pattern=f"^(?:{NAME})$")]
Short = Annotated[str | None, says(maxLength=1000)]
Tokens = Annotated[int | None, says(minimum=0)]
Amount = Annotated[float | None, says(minimum=0)]

FOREVER_KEY = "A retry of the request with the same key is harmless."


@attrs.frozen
class NewTask:
    """A task that begins to wait for its agent."""

    task_id: Annotated[Name | None, says("Without one, the service makes one.")] = None
    input_message: Any = None
    assigned_agent: Short = None
    agent_type: Short = None
    name: Short = None
    model: Short = None
    session_id: Short = None
    conversation_id: Short = None
    user_id: Short = None
    flow_id: Short = None
    source: Short = None
    source_metadata: Any = None
    metadata: Mapping[str, Any] | None = None
    others: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class TaskChange:
    """A task's new status, and its result: other fields join that."""

    status: Annotated[str, says(enum=tuple(STATUS_WORDS))]
    output: Annotated[str | None, says("The agent's answer.")] = None
    error: Any = None
    result: Any = None
    cost_usd: Amount = None
    input_tokens: Tokens = None
    output_tokens: Tokens = None
    duration_seconds: Amount = None
    others: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class Creating:
    """Headers of a request that creates a task."""

    request_key: str | None = header("Idempotency-Key", Text(1, MAX_REQUEST_KEY), FOREVER_KEY)


@attrs.frozen
class Changing(OfTask):
    """The task to change."""

    request_key: str | None = header("Idempotency-Key", Text(1, MAX_REQUEST_KEY), FOREVER_KEY)


@attrs.frozen
class TaskCreated:
    """The task that was created."""

    task_id: str
    conversation_id: str | None
    cursor: EventId


@attrs.frozen
class TaskChanged:
    """The task that was changed."""

    task_id: str
    status: str
    cursor: EventId


@attrs.frozen
class TaskStopped:
    """The outcome of stopping a task."""

    task_id: str
    stopped: Annotated[bool, says("false: the task had ended already.")]
    status: str


async def create_task(services: Services, who: Identity, asked: Creating, body: NewTask) -> TaskCreated:
    """Create a task; the same request again, with the task's id, is harmless."""
    task_id = body.task_id or f"task-{secrets.token_hex(8)}"
    who.require_channel(f"task:{task_id}")
    said = attrs.asdict(body, recurse=False)
    payload = {
        **said.pop("others"),
        **said,
        "task_id": task_id,
        "input": said.pop("input_message"),
        "agent": said.pop("assigned_agent"),
    }
    del payload["input_message"], payload["assigned_agent"]
    key = asked.request_key or f"tasks/{task_id}/created"
    cursor = await _append(services, who, "task.created", payload, key)
    return TaskCreated(task_id, body.conversation_id, cursor)


async def change_task(services: Services, who: Identity, asked: Changing, body: TaskChange) -> TaskChanged:
    """Change a task's status, or end it with its result.

    An unknown task begins with its first change, since an engine's change may come before the task's
    creation.
    """
    status = status_word(body.status) or body.status
    task_id = await services.engine.our_name(asked.task_id)
    who.require_channel(f"task:{task_id}")
    said = attrs.asdict(body, recurse=False)
    beside = {**said.pop("others"), **said}
    del beside["status"], beside["result"]
    result = body.result if isinstance(body.result, dict) else {"stdout": body.result}
    outcome = {name: one for name, one in {**result, **beside}.items() if one is not None}
    payload: dict[str, Any] = {"task_id": task_id, "status": status}
    if outcome or status in TERMINAL:
        payload["result"] = outcome
    cursor = await _append(services, who, "task.status", payload, asked.request_key)
    return TaskChanged(task_id, status, cursor)


async def stop_task(services: Services, who: Identity, asked: OfTask) -> TaskStopped:
    """Stop a task: it is cancelled, and its agent is told so on its channel."""
    task = await known_task(services.store, asked.task_id)
    if task.finished and task.status != LOST:
        return TaskStopped(task.task_id, stopped=False, status=task.status)
    payload = {"task_id": asked.task_id, "status": "cancelled"}
    await _append(services, who, "task.status", payload, None)
    return TaskStopped(task.task_id, stopped=True, status="cancelled")


async def _append(
    services: Services, who: Identity, topic: str, payload: Mapping[str, Any], key: str | None
) -> EventId:
    said = {name: value for name, value in payload.items() if value is not None}
    draft = parse_item({"topic": topic, "payload": said}, services.settings.events.max_bytes, key)
    return (await services.append(who, [draft])).cursor


_REFUSES = (Malformed, RequestTimeout, Conflict, TooLarge, UnsupportedMedia, Invalid, Unavailable)

ENDPOINTS = [
    Endpoint(
        "POST",
        "/api/v1/tasks",
        create_task,
        "tasks",
        Described("The task is kept."),
        scope="publish",
        body=JsonBody(NewTask),
        status=201,
        refuses=_REFUSES,
        example=TaskCreated("task-0123456789ab", None, samples.CREATED.id),
    ),
    Endpoint(
        "PATCH",
        "/api/v1/tasks/{task_id}",
        change_task,
        "tasks",
        Described("The change is kept."),
        scope="publish",
        channels=of_task,
        body=JsonBody(TaskChange),
        refuses=_REFUSES,
        example=TaskChanged("42", "completed", samples.ENDED.id),
    ),
    Endpoint(
        "POST",
        "/api/v1/tasks/{task_id}/stop",
        stop_task,
        "tasks",
        Described("The outcome."),
        scope="publish",
        channels=of_task,
        refuses=(NotFound, Invalid, Unavailable),
        example=TaskStopped("42", stopped=True, status="cancelled"),
    ),
]
