"""Answers to the questions of tasks.

A task asks by an event ``task.question`` and waits as ``waiting_input``; the answer is an event
``task.input`` on its channel. Programs may publish that event themselves. Here the answer is first checked
against the question, and the event's idempotency key is the question's, so that of two people who answer at
the same time one learns that it is too late.
"""

from __future__ import annotations

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
from heliograph.model.channels import Selection
from heliograph.model.errors import (
    Conflict,
    Invalid,
    Malformed,
    NotAsked,
    NotFound,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from heliograph.model.event import Event
from heliograph.model.ids import EventId
from heliograph.model.intake import parse_item
from heliograph.model.task import ANSWER, QUESTION, Task
from heliograph.storage.protocols import Log


@attrs.frozen
class Answering(OfTask):
    """The task to answer."""

    request_key: str | None = header(
        "Idempotency-Key",
        Text(1, MAX_REQUEST_KEY),
        "Makes a retry harmless where the task waits without a question; a question is answered once anyhow.",
    )


@attrs.frozen
class NewTaskAnswer:
    """An answer."""

    content: Annotated[str, says("One of the choices, where the question has some.", minLength=1)]
    question_id: Annotated[
        str | None, says("The question that was read; by default the newest.", maxLength=1000)
    ] = None


@attrs.frozen
class TaskAnswer:
    """The answer that was kept."""

    task_id: str
    question_id: str | None
    content: str
    cursor: EventId


async def answer_task(services: Services, who: Identity, asked: Answering, body: NewTaskAnswer) -> TaskAnswer:
    """Answer a task's question; the same answer again is harmless."""
    task = await known_task(services.store, asked.task_id)
    question = await _newest(services.log, task, QUESTION)
    said: Mapping[str, Any] = {} if question is None else question.payload
    question_id = said.get("question_id")
    if body.question_id is not None and body.question_id != question_id:
        raise NotAsked(f"the task does not ask {body.question_id[:100]!r} any more")
    choices = said.get("choices")
    if isinstance(choices, list) and choices and body.content not in choices:
        raise Invalid.field("content", f"must be one of {', '.join(map(str, choices))}"[:1000])
    if task.status != "waiting_input":
        return await _given_before(services.log, task, question, body.content)
    payload = {"task_id": task.task_id, "question_id": question_id, "content": body.content}
    item = {"topic": ANSWER, "sender": who.name, "payload": _without_none(payload)}
    draft = parse_item(item, services.settings.events.max_bytes, asked.request_key)
    if question is None:
        draft = draft.of(who.name)
    else:
        draft = draft._replace(key=f"heliograph/answer/{task.task_id}/{question.cursor}")
    try:
        receipt = await services.appender.append([draft])
    except Conflict:
        if question is None:
            raise NotAsked("another answer was given with this key") from None
        return await _given_before(services.log, task, question, body.content)
    return TaskAnswer(task.task_id, question_id, body.content, receipt.cursor)


async def _given_before(log: Log, task: Task, question: Event | None, content: str) -> TaskAnswer:
    """Return an answer that was given before.

    Raises:
        NotAsked: The task has another answer, or no question.
    """
    given = None if question is None else await _newest(log, task, ANSWER)
    if question is None or given is None or given.id < question.id:
        raise NotAsked(f"the task is {task.status.replace('_', ' ')}, and asks nothing now")
    if given.payload.get("content") != content:
        raise NotAsked(f"{given.sender or 'somebody'} has answered already")
    return TaskAnswer(task.task_id, question.payload.get("question_id"), content, given.id)


async def _newest(log: Log, task: Task, topic: str) -> Event | None:
    """Return the newest event of a topic on a task's channel."""
    selection = Selection.of([f"task:{task.task_id}"], topic)
    page = await log.read(selection, await log.tail_start(selection, 1), 1)
    return page.events[-1] if page.events else None


def _without_none(payload: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in payload.items() if value is not None}


ENDPOINTS = [
    Endpoint(
        "POST",
        "/api/v1/tasks/{task_id}/answers",
        answer_task,
        "tasks",
        Described("The answer is kept, and the task gets it."),
        scope="publish",
        channels=of_task,
        body=JsonBody(NewTaskAnswer),
        status=201,
        refuses=(
            *(NotFound, NotAsked, Malformed, RequestTimeout),
            *(TooLarge, UnsupportedMedia, Invalid, Unavailable),
        ),
        example=TaskAnswer("42", "9f3a0c1b", "main", samples.ENDED.id),
    ),
]
