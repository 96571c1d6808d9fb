"""A task's log in the dashboard's form: one text while it runs, and all that was said of it, in parts.

The parts are lists of entries, made of the events on the task's channel. The list of what the agent said may
be long: it is written as it is read, and begins with the newest ``MAX_ENTRIES``.

A long module, since each part has a class and a reader of its own, and the full log has all of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Any

import attrs

from heliograph.http.api import samples
from heliograph.http.api.dashboard.tasks import (
    SHOWN_CHARACTERS,
    about,
    duration_seconds,
    newest_output,
    result_text,
    text_of,
)
from heliograph.http.api.endpoint import DASHBOARD, Described, Endpoint, Streamed, of_view
from heliograph.http.api.routes import streams
from heliograph.http.api.routes.tasks import (
    NDJSON,
    ONE_TASK,
    TEXT_PLAIN,
    OfTask,
    known_task,
    of_task,
    stream_log,
)
from heliograph.http.api.services import Services
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.bodies import JSON
from heliograph.http.rules.parameters import Media, Word, header, path
from heliograph.http.rules.schema import ANYTHING, OBJECT, TEXT, listing, ref, said, says
from heliograph.http.rules.shapes import write
from heliograph.model.channels import Selection
from heliograph.model.event import Event
from heliograph.model.ids import OLDEST, EventId
from heliograph.model.task import Task
from heliograph.storage.protocols import Log

MAX_ENTRIES = 100_000
MAX_OTHERS = 10_000
"""Entries of the parts that are held in memory."""

PAGE = 500


@attrs.frozen
class TaskLog:
    """The output of a task, as one text."""

    task_id: str
    status: str
    output: Annotated[str, says(f"The newest of it, about {SHOWN_CHARACTERS // 1024} KiB.")]
    error: str | None
    is_live: Annotated[bool, says("Whether more may come.")]


async def task_log(services: Services, who: Identity, asked: OfTask) -> TaskLog:
    """Return the newest output of a task as one text."""
    task = await known_task(services.store, asked.task_id)
    output = await newest_output(services.store, task)
    return TaskLog(task.task_id, task.status, output, task.error, not task.finished)


# Parts


@attrs.frozen
class AgentOutput:
    """Something that the agent said or did."""

    timestamp: datetime
    type: str
    content: str
    tool_name: str | None
    tool_input: Annotated[str | None, says("As JSON.")]
    is_error: bool


@attrs.frozen
class UserInput:
    """Something that the user answered."""

    timestamp: datetime
    type: str
    question_type: str | None
    content: str


@attrs.frozen
class WebhookStage:
    """A stage in the life of the webhook that the task came from."""

    timestamp: datetime
    stage: str
    data: Any


@attrs.frozen
class KnowledgeInteraction:
    """A question to a knowledge base, or its answer."""

    timestamp: datetime
    type: str
    tool_name: str | None
    input: str | None
    content: str | None
    is_error: bool


@attrs.frozen
class TaskMetadata:
    """The task itself."""

    task_id: str
    session_id: str | None
    conversation_id: str | None
    flow_id: str | None
    source: str | None
    assigned_agent: str | None
    status: str
    cost_usd: float
    created_at: datetime
    completed_at: datetime | None
    duration_seconds: float | None


@attrs.frozen
class TaskInput:
    """The task's input."""

    message: str
    enriched_prompt: str | None = None


@attrs.frozen
class FinalMetrics:
    """Cost, tokens and duration of the task."""

    cost_usd: float
    duration_seconds: float
    input_tokens: int
    output_tokens: int


@attrs.frozen
class FinalResult:
    """The end of the task."""

    success: bool
    result: str | None
    error: str | None
    metrics: FinalMetrics
    completed_at: datetime


def _metadata(task: Task) -> TaskMetadata:
    return TaskMetadata(
        task_id=task.task_id,
        session_id=task.session_id,
        conversation_id=task.conversation_id,
        flow_id=_text(about(task, "flow_id")),
        source=_text(about(task, "source")),
        assigned_agent=task.agent,
        status=task.status,
        cost_usd=(task.cost_nanos or 0) / 10**9,
        created_at=task.created_at,
        completed_at=task.finished_at,
        duration_seconds=duration_seconds(task),
    )


def _final_result(task: Task) -> FinalResult | None:
    if task.finished_at is None:
        return None
    metrics = FinalMetrics(
        (task.cost_nanos or 0) / 10**9,
        duration_seconds(task) or 0,
        task.input_tokens or 0,
        task.output_tokens or 0,
    )
    succeeded = task.status == "completed" and (task.result or {}).get("success") is not False
    return FinalResult(succeeded, result_text(task), task.error, metrics, task.finished_at)


def _agent_output(event: Event) -> AgentOutput | None:
    said = event.payload
    match event.topic.removeprefix("task."):
        case "output":
            return AgentOutput(event.timestamp, "output", said["output"], None, None, is_error=False)
        case "thinking" | "raw_output" as kind:
            content = said.get("content", said.get("raw_output"))
            return AgentOutput(event.timestamp, kind, text_of(content), None, None, is_error=False)
        case "tool_call" | "tool_result" as kind:
            given = None if said.get("input") is None else text_of(said["input"])
            failed = bool(said.get("is_error"))
            name = _text(said.get("name"))
            return AgentOutput(event.timestamp, kind, text_of(said.get("content")), name, given, failed)
    return None


def _user_input(event: Event) -> UserInput | None:
    if event.topic not in {"task.user_response", "task.user_input"}:
        return None
    said = event.payload
    kind = _text(said.get("question_type"))
    return UserInput(event.timestamp, "user_response", kind, text_of(said.get("content")))


def _webhook_stage(event: Event) -> WebhookStage | None:
    family, _, name = event.topic.partition(".")
    return WebhookStage(event.timestamp, name if family == "webhook" else f"{family}_{name}", event.payload)


def _knowledge(event: Event) -> KnowledgeInteraction | None:
    said = event.payload
    return KnowledgeInteraction(
        event.timestamp,
        event.topic.removeprefix("knowledge."),
        _text(said.get("tool_name")),
        _text(said.get("query")),
        _text(said.get("results_preview", said.get("content"))),
        bool(said.get("is_error")),
    )


def _text(value: Any) -> str | None:
    return None if value is None else text_of(value)


Entry = Callable[[Event], Any]
LISTS: Mapping[str, tuple[tuple[str, ...], Entry]] = {
    "user_inputs": (("task.user_response", "task.user_input"), _user_input),
    "webhook_flow": (("webhook.*", "response.*", "notification.*"), _webhook_stage),
    "agent_output": (("task.*",), _agent_output),
    "knowledge_interactions": (("knowledge.*",), _knowledge),
}
"""By the part's name: the topics of its events, and what makes an entry of one."""

PARTS = ("metadata", "input", *LISTS, "final_result")


async def _events(log: Log, task_id: str, topics: tuple[str, ...]) -> AsyncGenerator[Event, None]:
    """Yield a task's events of some topics; of one alone the newest, of several all in the order of time."""
    selections = [Selection.of([f"task:{task_id}"], topic) for topic in topics]
    if len(selections) > 1:
        found = [event for one in selections async for event in _newest(log, one, MAX_OTHERS)]
        for event in sorted(found, key=_place):
            yield event
        return
    async with aclosing(_newest(log, selections[0], MAX_ENTRIES)) as events:
        async for event in events:
            yield event


def _place(event: Event) -> EventId:
    return event.id


async def _newest(log: Log, selection: Selection, most: int) -> AsyncGenerator[Event, None]:
    after, more = await log.tail_start(selection, most), True
    while more:
        page = await log.read(selection, after, PAGE)
        for event in page.events:
            yield event
        after, more = page.through, page.more


async def _entries(log: Log, task_id: str, part: str) -> AsyncGenerator[bytes, None]:
    """Yield the entries of a list, as JSON."""
    topics, make = LISTS[part]
    async with aclosing(_events(log, task_id, topics)) as events:
        async for event in events:
            entry = make(event)
            if entry is not None:
                yield write(entry)


async def _object_part(services: Services, task: Task, part: str) -> Any:
    match part:
        case "metadata":
            return _metadata(task)
        case "input":
            topics = ("task.context_built",)
            async with aclosing(_events(services.log, task.task_id, topics)) as events:
                prompts = [event.payload.get("enriched_prompt") async for event in events]
            said = text_of(task.input)
            prompt = _text(prompts[-1]) if prompts else None
            return TaskInput(said, prompt) if said or prompt else None
        case _:
            return _final_result(task)


async def _whole(services: Services, task: Task) -> AsyncIterator[bytes]:
    """Write all parts that there are as one object."""
    yield b'{"metadata":' + write(_metadata(task))
    for part in PARTS[1:]:
        opened = f',"{part}":'.encode()
        if part not in LISTS:
            value = await _object_part(services, task, part)
            if value is not None:
                yield opened + write(value)
            continue
        between = opened + b"["
        async with aclosing(_entries(services.log, task.task_id, part)) as entries:
            async for entry in entries:
                yield between + entry
                between = b","
        if between == b",":
            yield b"]"
    if await _truncated(services.log, task.task_id):
        yield b',"truncated":true'
    yield b"}"


async def _truncated(log: Log, task_id: str) -> bool:
    """Tell whether the task has more entries than are given."""
    selection = Selection.of([f"task:{task_id}"], "task.*")
    start = await log.tail_start(selection, MAX_ENTRIES)
    if start == OLDEST:
        return False
    page = await log.read(selection, OLDEST, 1)
    return any(event.id <= start for event in page.events)


async def _listed(services: Services, task: Task, part: str) -> AsyncIterator[bytes]:
    between = b"["
    async with aclosing(_entries(services.log, task.task_id, part)) as entries:
        async for entry in entries:
            yield between + entry
            between = b","
    yield b"[]" if between == b"[" else b"]"


@attrs.frozen
class WholeLog(OfTask):
    """The whole log, in some form."""

    form: str = header("Accept", Media((JSON, TEXT_PLAIN, NDJSON)), "How to write it.", default=JSON)


@attrs.frozen
class LogPart(OfTask):
    """Which part of the log."""

    part: str = path(Word([part.replace("_", "-") for part in PARTS]), "The part.")


async def whole_log(services: Services, who: Identity, asked: WholeLog) -> Streamed:
    """Write all that was said of a task: as parts, or its output as text or lines of JSON."""
    task = await known_task(services.store, asked.task_id)
    if asked.form != JSON:
        return await stream_log(services, asked.task_id, asked.form)
    return Streamed(_whole(services, task), JSON, {"Cache-Control": "no-cache, no-transform"})


async def log_part(services: Services, who: Identity, asked: LogPart) -> Streamed:
    """Write one part of all that was said of a task; null where there is none."""
    task = await known_task(services.store, asked.task_id)
    part = asked.part.replace("-", "_")
    if part in LISTS:
        return Streamed(_listed(services, task, part), JSON)
    return Streamed(_once(write(await _object_part(services, task, part))), JSON)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


@attrs.frozen
class KnowledgeSummary:
    """Counts of the questions to knowledge bases."""

    total_queries: int
    total_results: int
    tools: list[str]


async def knowledge_summary(services: Services, who: Identity, asked: OfTask) -> KnowledgeSummary:
    """Tell how often a task asked knowledge bases, and which tools it asked."""
    await known_task(services.store, asked.task_id)
    topics, make = LISTS["knowledge_interactions"]
    async with aclosing(_events(services.log, asked.task_id, topics)) as events:
        entries = [make(event) async for event in events]
    kinds = [entry.type for entry in entries]
    tools = sorted({entry.tool_name for entry in entries if entry.tool_name})
    return KnowledgeSummary(kinds.count("query"), kinds.count("result"), tools)


_OBJECT = said(OBJECT, f"Those of {', '.join(PARTS)} that there are; truncated where there are more entries.")

ENDPOINTS = [
    Endpoint(
        "GET",
        "/api/tasks/{task_id}/logs",
        task_log,
        DASHBOARD,
        Described("The newest of it."),
        channels=of_task,
        refuses=ONE_TASK,
        example=TaskLog("42", "completed", samples.LINE.output, None, is_live=False),
    ),
    Endpoint(
        "GET",
        "/api/tasks/{task_id}/logs/full",
        whole_log,
        DASHBOARD,
        Described(
            "All of it, as Accept prefers.",
            media={
                JSON: {"schema": _OBJECT},
                TEXT_PLAIN: {"schema": TEXT},
                NDJSON: {"schema": said({**TEXT, "x-line": ref("LogLine")}, "One LogLine on each line.")},
            },
        ),
        channels=of_task,
        refuses=ONE_TASK,
    ),
    Endpoint(
        "GET",
        "/api/tasks/{task_id}/logs/{part}",
        log_part,
        DASHBOARD,
        Described("The part.", media={JSON: {"schema": {"anyOf": [listing(ANYTHING), ANYTHING]}}}),
        channels=of_task,
        refuses=ONE_TASK,
    ),
    Endpoint(
        "GET",
        "/api/tasks/{task_id}/knowledge-summary",
        knowledge_summary,
        DASHBOARD,
        Described("The counts."),
        channels=of_task,
        refuses=ONE_TASK,
        example=KnowledgeSummary(2, 2, ["search_code"]),
    ),
    of_view(streams.ENDPOINTS, streams.task_stream).in_dashboard(
        "/api/tasks/{task_id}/stream", "The same as of the platform API."
    ),
]
