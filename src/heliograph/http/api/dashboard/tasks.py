"""Tasks in the dashboard's form: rows, one task, and a table with numbered pages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import attrs
import orjson

from heliograph.actors.figures import Question
from heliograph.http.api import samples
from heliograph.http.api.endpoint import DASHBOARD, Described, Endpoint, of_view
from heliograph.http.api.routes import tasks
from heliograph.http.api.routes.tasks import (
    MAX_SEQ,
    ONE_TASK,
    OfTask,
    TaskList,
    Terminal,
    known_task,
    of_task,
)
from heliograph.http.api.services import Services
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.parameters import Text, Whole, Word, Words, query
from heliograph.http.rules.schema import says
from heliograph.model.analytics.cube import ALL, ALL_TIME, View
from heliograph.model.analytics.rollup import DIMENSIONS, dimension
from heliograph.model.analytics.totals import unpack
from heliograph.model.errors import Invalid, Unavailable
from heliograph.model.event import JSON_OPTIONS
from heliograph.model.task import LOST, STATUSES, TASK, Task, TaskFilter
from heliograph.storage.protocols import Store

SHOWN_INPUT = 200
"""The most characters of a task's input in a list."""

MAX_PAGE = 500
"""The largest number of a page, since a page costs as much as all rows before it."""

SHOWN_LINES = 2000
SHOWN_CHARACTERS = 256 * 1024
"""The most characters of the newest output that a page polls for."""

SORTS = {"created_at": None, "updated_at": "updated", "cost_usd": "cost", "duration_seconds": "duration"}
"""The orders of a table, with the service's word for each."""

SHOWN_STATUSES = tuple(status for status in STATUSES if status != LOST)
"""The statuses that clients of this API know; a lost task has failed, with the reason as its error."""

Count = Annotated[int, says(minimum=0)]


@attrs.frozen
class TaskRow:
    """A task, as a list shows it."""

    task_id: str
    session_id: str | None
    conversation_id: str | None
    status: Annotated[str, says(enum=SHOWN_STATUSES)]
    name: str | None
    assigned_agent: str | None
    agent_type: str | None
    model: str | None
    source: str | None
    input_message: str
    cost_usd: float
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    duration_seconds: float | None
    error: str | None


@attrs.frozen
class TaskDetail(TaskRow):
    """A task, whole."""

    user_id: str | None
    flow_id: str | None
    source_metadata: Any
    output_stream: Annotated[str, says(f"The newest of it, about {SHOWN_CHARACTERS // 1024} KiB.")]
    result: str | None
    input_tokens: Count
    output_tokens: Count


@attrs.frozen
class TaskTable:
    """A numbered page of tasks."""

    tasks: Sequence[TaskRow]
    total: Annotated[int, says("Tasks that pass the filter.", minimum=0)]
    page: Count
    page_size: Count
    total_pages: Count


def text_of(value: Any) -> str:
    """Return a publisher's value as text; a value other than text becomes JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value, option=JSON_OPTIONS).decode()


def result_text(task: Task) -> str | None:
    """Return the answer of a task: the text in its result if there is one, else the whole result as JSON."""
    if task.result is None:
        return None
    for name in ("output", "stdout", "result", "text"):
        if isinstance(task.result.get(name), str):
            return str(task.result[name])
    return text_of(task.result)


def about(task: Task, name: str) -> Any:
    """Return a field of a task's metadata, which its creator gave."""
    return (task.metadata or {}).get(name)


def shown_status(task: Task) -> str:
    """Return the status of a task in this API's words."""
    return "failed" if task.status == LOST else task.status


def meant_statuses(statuses: tuple[str, ...]) -> tuple[str, ...]:
    """Return the service's statuses of the tasks that this API shows with ``statuses``."""
    return (*statuses, LOST) if "failed" in statuses and LOST not in statuses else statuses


def _row(task: Task, most: int | None = SHOWN_INPUT) -> TaskRow:
    return TaskRow(
        task_id=task.task_id,
        session_id=task.session_id,
        conversation_id=task.conversation_id,
        status=shown_status(task),
        name=task.name,
        assigned_agent=task.agent,
        agent_type=task.agent_type,
        model=task.model,
        source=_text_or_none(about(task, "source")),
        input_message=text_of(task.input)[:most],
        cost_usd=(task.cost_nanos or 0) / 10**9,
        created_at=task.created_at,
        started_at=task.started_at,
        completed_at=task.finished_at,
        duration_seconds=duration_seconds(task),
        error=task.error,
    )


def duration_seconds(task: Task) -> float | None:
    """Return the duration of a task: the one that its engine measured, else the time between its events."""
    told = (task.result or {}).get("duration_seconds")
    if isinstance(told, int | float) and not isinstance(told, bool):
        return float(told)
    return None if task.duration_ms is None else task.duration_ms / 1000


def _text_or_none(value: Any) -> str | None:
    return None if value is None else text_of(value)


async def list_tasks(services: Services, who: Identity, asked: tasks.TaskListing) -> TaskList:
    """List tasks, newest first, with every filter of the dashboard."""
    meant = attrs.evolve(asked, status=meant_statuses(asked.status))
    return await tasks.list_tasks(services, who, meant)


def task_rows(found: TaskList) -> list[TaskRow]:
    """Present a page of tasks."""
    return [_row(task) for task in found.tasks]


async def newest_output(store: Store, task: Task) -> str:
    """Return the newest output of a task as one text; its result if it has no output."""
    lines, _ = await store.lines(TASK, task.task_id, 1, MAX_SEQ, SHOWN_LINES, newest=True)
    text = Terminal().text(lines).removesuffix("\n")
    if not lines and task.status == "completed":
        text = result_text(task) or ""
    return text[-SHOWN_CHARACTERS:]


async def task_detail(services: Services, who: Identity, asked: OfTask) -> TaskDetail:
    """Return one task, with the newest part of its output."""
    task = await known_task(services.store, asked.task_id)
    return _detail(task, await newest_output(services.store, task))


def _detail(task: Task, output: str) -> TaskDetail:
    return TaskDetail(
        **attrs.asdict(_row(task, None), recurse=False),
        user_id=_text_or_none(about(task, "user_id")),
        flow_id=_text_or_none(about(task, "flow_id")),
        source_metadata=about(task, "source_metadata"),
        output_stream=output,
        result=result_text(task),
        input_tokens=task.input_tokens or 0,
        output_tokens=task.output_tokens or 0,
    )


@attrs.frozen
class TablePage:
    """The filters, the order and the page of a list of tasks."""

    page: int = query(Whole(1, MAX_PAGE), "Number of the page, from 1.", default=1)
    page_size: int = query(Whole(1, 100), "Tasks on a page.", default=20)
    session_id: str | None = query(Text(), tasks.EXACTLY)
    status: tuple[str, ...] = query(
        Words(STATUSES), "Any of these; repeated, or separated by commas.", default=()
    )
    subagent: str | None = query(Text(), "The agent, exactly.")
    sort_by: str = query(Word(tuple(SORTS)), "The order of the table.", default="created_at")
    sort_order: str = query(
        Word(("desc", "asc")), "Largest and newest first, or smallest and oldest.", default="desc"
    )


async def task_table(services: Services, who: Identity, asked: TablePage) -> TaskTable:
    """List tasks by numbered pages."""
    wanted = TaskFilter(
        statuses=meant_statuses(asked.status), agent=asked.subagent, session_id=asked.session_id
    )
    total = await _total(services, wanted)
    first = (asked.page - 1) * asked.page_size
    last = min(first + asked.page_size, total)
    if asked.sort_order == "asc":
        first, last = total - last, total - first
    found = await _between(services.store, wanted, SORTS[asked.sort_by], first, last) if first < last else []
    if asked.sort_order == "asc":
        found = found[::-1]
    return TaskTable(
        [_row(task) for task in found],
        total,
        asked.page,
        asked.page_size,
        -(-total // asked.page_size),
    )


async def _total(services: Services, wanted: TaskFilter) -> int:
    """Count tasks: those of a session by the store's index, all others in the aggregator's memory."""
    if wanted.session_id is not None:
        return sum((await services.store.count(TASK, "status", wanted)).values())
    agents = None if wanted.agent is None else frozenset({dimension(wanted.agent)})
    given = {"agent": agents, "status": frozenset(wanted.statuses) or None}
    view = View(None, tuple(given.get(name) for name in DIMENSIONS))
    answer = await services.histogram.ask([Question(view, [ALL_TIME])], services.log.position)
    ((sums,),) = answer.sums
    return unpack(sums.get(ALL, 0)).created


async def _between(store: Store, wanted: TaskFilter, sort: str | None, first: int, last: int) -> list[Task]:
    """Return tasks by their numbers in the list, from ``first`` to before ``last``."""
    found: list[Task] = []
    more = True
    while more and first + len(found) < last:
        left = last - first - len(found)
        page, more = await store.list(TASK, wanted, None, left, sort, skip=first + len(found))
        found += page
    return found


ENDPOINTS = [
    attrs.evolve(of_view(tasks.ENDPOINTS, tasks.list_tasks), view=list_tasks).in_dashboard(
        "/api/tasks", "A page of tasks, newest first.", task_rows
    ),
    Endpoint(
        "GET",
        "/api/tasks/table",
        task_table,
        DASHBOARD,
        Described("The page."),
        channels=lambda asked: ("task:*",),
        refuses=(Invalid, Unavailable),
        example=TaskTable([_row(samples.TASK)], 1, 1, 20, 1),
    ),
    Endpoint(
        "GET",
        "/api/tasks/{task_id}",
        task_detail,
        DASHBOARD,
        Described("The task."),
        channels=of_task,
        refuses=ONE_TASK,
        example=_detail(samples.TASK, samples.LINE.output),
    ),
]
