"""A task's log in the dashboard's form: its output as one text, and its whole log in parts.

The parts are lists of entries, made from the events on the task's channel. The list of the agent's output may
be long: it is written as it is read, and has only the newest ``MAX_ENTRIES``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

import attrs

from heliograph.http.api import samples
from heliograph.http.api.dashboard.parts import (
    LISTS,
    PARTS,
    TaskInput,
    final_result,
    metadata,
    text_or_none,
)
from heliograph.http.api.dashboard.tasks import (
    SHOWN_CHARACTERS,
    newest_output,
    shown_status,
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
from heliograph.http.rules.schema import ANYTHING, OBJECT, TEXT, described, listing, ref, says
from heliograph.http.rules.shapes import write
from heliograph.model.channels import WEBHOOKS, Selection
from heliograph.model.event import Event
from heliograph.model.ids import OLDEST, EventId
from heliograph.model.task import Task
from heliograph.storage.protocols import Log

MAX_ENTRIES = 100_000
MAX_OTHERS = 10_000
"""The most entries of each part that is held in memory."""

MAX_ORIGINS = 20
"""The most deliveries of one task whose earlier stages are included."""

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
    return TaskLog(task.task_id, shown_status(task), output, task.error, not task.finished)


# Parts


async def _events(log: Log, task_id: str, topics: tuple[str, ...]) -> AsyncGenerator[Event, None]:
    """Yield the newest events of a task with some topics, in order."""
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


async def _webhook_flow(services: Services, who: Identity, task_id: str) -> AsyncGenerator[Event, None]:
    """Yield the stages of the delivery that a task was made of, including those before the task.

    A gateway publishes a delivery before there is a task, so its first stages are only on the channel
    ``webhooks``; a caller that may not read that channel gets the other stages.
    """
    topics, _ = LISTS["webhook_flow"]
    async with aclosing(_events(services.log, task_id, topics)) as events:
        own = [event async for event in events]
    told = {(event.correlation_id, event.topic) for event in own}
    origins = {event.correlation_id: None for event in own if event.correlation_id is not None}
    before: list[Event] = []
    for origin in list(origins)[:MAX_ORIGINS] if who.covers(WEBHOOKS) else ():
        stages = Selection.of([WEBHOOKS], "webhook.*")
        found, _ = await services.store.events(stages, None, PAGE, correlation_id=origin)
        before += [event for event in found if (origin, event.topic) not in told]
    for event in sorted([*before, *own], key=_place):
        yield event


async def _entries(services: Services, who: Identity, task_id: str, part: str) -> AsyncGenerator[bytes, None]:
    """Yield the entries of a list, as JSON."""
    topics, make = LISTS[part]
    found = (
        _webhook_flow(services, who, task_id)
        if part == "webhook_flow"
        else _events(services.log, task_id, topics)
    )
    async with aclosing(found) as events:
        async for event in events:
            entry = make(event)
            if entry is not None:
                yield write(entry)


async def _object_part(services: Services, task: Task, part: str) -> Any:
    match part:
        case "metadata":
            return metadata(task)
        case "input":
            topics = ("task.context_built",)
            async with aclosing(_events(services.log, task.task_id, topics)) as events:
                prompts = [event.payload.get("enriched_prompt") async for event in events]
            said = text_of(task.input)
            prompt = text_or_none(prompts[-1]) if prompts else None
            return TaskInput(said, prompt) if said or prompt else None
        case _:
            return final_result(task)


async def _whole(services: Services, who: Identity, task: Task) -> AsyncIterator[bytes]:
    """Write all existing parts as one object."""
    yield b'{"metadata":' + write(metadata(task))
    for part in PARTS[1:]:
        opened = f',"{part}":'.encode()
        if part not in LISTS:
            value = await _object_part(services, task, part)
            if value is not None:
                yield opened + write(value)
            continue
        between = opened + b"["
        async with aclosing(_entries(services, who, task.task_id, part)) as entries:
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


async def _listed(services: Services, who: Identity, task: Task, part: str) -> AsyncIterator[bytes]:
    between = b"["
    async with aclosing(_entries(services, who, task.task_id, part)) as entries:
        async for entry in entries:
            yield between + entry
            between = b","
    yield b"[]" if between == b"[" else b"]"


@attrs.frozen
class WholeLog(OfTask):
    """The whole log, in some form."""

    form: str = header("Accept", Media((JSON, TEXT_PLAIN, NDJSON)), "The form of the answer.", default=JSON)


@attrs.frozen
class LogPart(OfTask):
    """A range of the log."""

    part: str = path(Word([part.replace("_", "-") for part in PARTS]), "The part.")


async def whole_log(services: Services, who: Identity, asked: WholeLog) -> Streamed:
    """Write all that was said of a task: as parts, or its output as text or lines of JSON."""
    task = await known_task(services.store, asked.task_id)
    if asked.form != JSON:
        return await stream_log(services, asked.task_id, asked.form)
    return Streamed(_whole(services, who, task), JSON, {"Cache-Control": "no-store, no-transform"})


async def log_part(services: Services, who: Identity, asked: LogPart) -> Streamed:
    """Write one part of all that was said of a task; null where there is none."""
    task = await known_task(services.store, asked.task_id)
    part = asked.part.replace("-", "_")
    if part in LISTS:
        return Streamed(_listed(services, who, task, part), JSON)
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
    """Count a task's questions to knowledge bases, by tool."""
    await known_task(services.store, asked.task_id)
    topics, make = LISTS["knowledge_interactions"]
    async with aclosing(_events(services.log, asked.task_id, topics)) as events:
        entries = [make(event) async for event in events]
    kinds = [entry.type for entry in entries]
    tools = sorted({entry.tool_name for entry in entries if entry.tool_name})
    return KnowledgeSummary(kinds.count("query"), kinds.count("result"), tools)


_OBJECT = described(
    OBJECT, f"Those of {', '.join(PARTS)} that there are; truncated where there are more entries."
)

ENDPOINTS = [
    Endpoint(
        "GET",
        "/api/tasks/{task_id}/logs",
        task_log,
        DASHBOARD,
        Described("The newest output."),
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
            "The whole output, in the form that Accept prefers.",
            media={
                JSON: {"schema": _OBJECT},
                TEXT_PLAIN: {"schema": TEXT},
                NDJSON: {
                    "schema": described({**TEXT, "x-line": ref("LogLine")}, "One LogLine on each line.")
                },
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
