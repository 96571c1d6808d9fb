"""Tasks: their list, one task, its log by range of ``seq``, and its full log in constant memory.

A long module, since the list, a task and its log share their parameters and refusals.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import attrs

from heliograph.http.api import samples
from heliograph.http.api.endpoint import Described, Endpoint, Streamed
from heliograph.http.api.services import Services
from heliograph.http.api.shared import ListMeta, Meta, StreamCursor, task_fields
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.parameters import (
    MAX_LIMIT,
    Flag,
    Media,
    Moment,
    Text,
    Whole,
    Word,
    Words,
    encode_cursor,
    header,
    page_cursor,
    page_limit,
    path,
    query,
)
from heliograph.http.rules.schema import TEXT, Components, Schema, described, record, ref, says
from heliograph.http.rules.shapes import plain, to_json, written_as
from heliograph.model.channels import is_name
from heliograph.model.errors import Invalid, NotFound, Unavailable
from heliograph.model.event import plain_json
from heliograph.model.ids import format_id, from_microseconds, to_microseconds
from heliograph.model.task import SORTS, STATUSES, STREAMS, TASK, Task, TaskFilter, task_json
from heliograph.storage.protocols import LineFilter, LogLine, LogText, Questions, Store

MAX_SEQ = 2**62
MAX_LINES = 5000
MAX_SILENCE = 10 * 365 * 86400
FULL_LOG_PAGE = 2000
TEXT_PLAIN = "text/plain"
NDJSON = "application/x-ndjson"

EXACTLY = "Only this value, exactly."

GROUPED = ("agent", "agent_type", "model", "session_id")
"""The fields by which tasks can be grouped."""


def _task_key(sorted_by: int, task_id: str) -> tuple[int, str]:
    if abs(sorted_by) >= 2**58 or not is_name(task_id):
        raise ValueError("no task has such a key")
    return sorted_by, task_id


@attrs.frozen
class TaskNarrowing:
    """The filters of tasks."""

    status: tuple[str, ...] = query(
        Words(STATUSES), "Any of these; repeated, or separated by commas.", default=()
    )
    agent: str | None = query(Text(), EXACTLY)
    agent_type: str | None = query(Text(), EXACTLY)
    model: str | None = query(Text(), EXACTLY)
    session_id: str | None = query(Text(), EXACTLY)
    conversation_id: str | None = query(Text(), EXACTLY)
    without: tuple[str, ...] = query(
        Words(GROUPED), "Only tasks that lack these fields; repeated, or separated by commas.", default=()
    )
    text: str | None = query(
        Text(), "Words, each found in the id, name, agent, agent type, model or error, in either case."
    )
    since: datetime | None = query(Moment(), "Created at or after this ISO 8601 time or date.")
    until: datetime | None = query(Moment(), "Created before this ISO 8601 time or date.")
    silent: int | None = query(Whole(1, MAX_SILENCE), "Only tasks without events for this number of seconds.")

    def filter(self) -> TaskFilter:
        """Return the filter for the store."""
        given = {field.name: getattr(self, field.name) for field in attrs.fields(TaskNarrowing)}
        statuses, silent = given.pop("status"), given.pop("silent")
        heard_before = None if silent is None else datetime.now(UTC) - timedelta(seconds=silent)
        return TaskFilter(statuses=statuses, heard_before=heard_before, **given)


@attrs.frozen
class TaskListing(TaskNarrowing):
    """The filters and the page of a list of tasks."""

    sort: str | None = query(
        Word(tuple(SORTS)), "The order, largest first; by default the newest come first."
    )
    counts: bool = query(Flag(), "Whether to answer meta.counts, too.", default=False)
    limit: int = page_limit()
    cursor: tuple[int, str] | None = page_cursor(_task_key, int, str)

    def after(self) -> tuple[Any, str] | None:
        """Return the position of the previous page's last task."""
        if self.cursor is None or self.sort is not None:
            return self.cursor
        return from_microseconds(self.cursor[0]), self.cursor[1]


@attrs.frozen
class OfTask:
    """One task."""

    task_id: str = path(Text(), "The task's id.")


def of_task(asked: Any) -> tuple[str, ...]:
    """Return the channel that the caller must be allowed to read."""
    return (f"task:{asked.task_id}",)


@attrs.frozen
class LineRange(OfTask):
    """A range of a task's output."""

    from_seq: int = query(Whole(1, MAX_SEQ), "The first line of the range.", default=1)
    to_seq: int | None = query(Whole(1, MAX_SEQ), "The last line of the range.")
    tail: int | None = query(Whole(1, MAX_LINES), "The last `tail` lines of the range.")
    text: str | None = query(
        Text(1, 1000), "Only lines with this text; the case of ASCII letters is ignored."
    )
    stream: str | None = query(Word(STREAMS), "Only lines of this stream.")
    limit: int = query(Whole(1, MAX_LINES), "The most lines to return.", default=MAX_LIMIT)

    def __attrs_post_init__(self) -> None:
        """Refuse a range that ends before it begins."""
        if self.from_seq > (self.to_seq or MAX_SEQ):
            raise Invalid.field("from_seq", "must not be greater than to_seq")


@attrs.frozen
class FullLog(OfTask):
    """The form of the whole log."""

    form: str = header("Accept", Media((TEXT_PLAIN, NDJSON)), "The form of the answer.", default=TEXT_PLAIN)


@attrs.frozen
class TaskListMeta(ListMeta):
    """The position of a page of tasks, and the requested counts."""

    counts: Annotated[
        Mapping[str, int] | None,
        says("The number of tasks in each status that pass the other filters; absent unless asked for."),
    ] = None


@attrs.frozen
class TaskList:
    """A page of tasks."""

    tasks: Sequence[Task]
    meta: TaskListMeta


@attrs.frozen
class OneTask:
    """A task."""

    task: Task
    meta: Meta


def _describe_one_task(components: Components) -> Schema:
    return record({**task_fields(components), "meta": components.of(Meta)})


written_as(OneTask, lambda one: {**task_json(one.task), "meta": plain(one.meta)}, _describe_one_task)


@attrs.frozen
class LineMeta:
    """The position of some lines in their log."""

    first_seq: Annotated[int | None, says(minimum=1)]
    last_seq: Annotated[int | None, says(minimum=1)]
    more: Annotated[bool, says("Whether the range that was asked for has more.")]
    stream_cursor: StreamCursor


@attrs.frozen
class LineList:
    """Lines of output, in order."""

    lines: Sequence[LogLine]
    meta: LineMeta


def _describe_line(components: Components) -> Schema:
    fields = {
        **components.fields(LogLine),
        "seq": {"type": "integer", "minimum": 1},
        "partial": described({"const": True}, "The stream's next piece goes on in the same line."),
        "rewind": described({"const": True}, "Written over what the line held, as after a carriage return."),
    }
    about = "A line of output, or a marked piece of one."
    return record(fields, optional=["partial", "rewind"], description=about)


def line_json(line: LogLine) -> dict[str, Any]:
    """Return a line of output in the form of answers.

    The dict is made by hand, which is fast, since a whole log may have millions of lines. A mark that is not
    set is left out.
    """
    shown: dict[str, Any] = {
        "seq": line.seq,
        "id": format_id(line.id),
        "timestamp": line.timestamp,
        "stream": line.stream,
        "output": line.output,
    }
    if line.partial:
        shown["partial"] = True
    if line.rewind:
        shown["rewind"] = True
    return shown


written_as(LogLine, line_json, _describe_line)


async def list_tasks(services: Services, who: Identity, asked: TaskListing) -> TaskList:
    """List tasks, newest first, with every filter of the dashboard."""
    look = services.store.look()
    wanted = asked.filter()
    found, more = await look.list(TASK, wanted, asked.after(), asked.limit, asked.sort)
    sorted_by = SORTS[asked.sort] if asked.sort else lambda task: to_microseconds(task.created_at)
    last = encode_cursor(sorted_by(found[-1]), found[-1].task_id) if more else None
    counts = None
    if asked.counts:
        all_of_them = attrs.evolve(wanted, statuses=())
        counts = dict.fromkeys(STATUSES, 0) | await look.count(TASK, "status", all_of_them)
    return TaskList(found, TaskListMeta(last, look.position, counts))


async def get_task(services: Services, who: Identity, asked: OfTask) -> OneTask:
    """Return one task."""
    look = services.store.look()
    return OneTask(await known_task(look, asked.task_id), Meta(look.position))


async def read_log(services: Services, who: Identity, asked: LineRange) -> LineList:
    """Return lines of output: the first of a range of ``seq``, or its last ones."""
    look = services.store.look()
    if not is_name(asked.task_id):
        raise unknown_task(asked.task_id)
    lines, more = await look.lines(
        TASK,
        asked.task_id,
        asked.from_seq,
        asked.to_seq or MAX_SEQ,
        asked.tail or asked.limit,
        newest=asked.tail is not None,
        wanted=LineFilter(asked.text, asked.stream),
    )
    if not lines:  # with lines, the task exists
        await known_task(look, asked.task_id)
    first, last = (lines[0].seq, lines[-1].seq) if lines else (None, None)
    return LineList(lines, LineMeta(first, last, more, look.position))


async def full_log(services: Services, who: Identity, asked: FullLog) -> Streamed:
    """Stream the whole output, page by page, as text or as NDJSON."""
    return await stream_log(services, asked.task_id, asked.form)


async def stream_log(services: Services, task_id: str, form: str) -> Streamed:
    """Stream the whole output of a task.

    Raises:
        NotFound: There is none of that id.
    """
    look = services.store.look()
    await known_task(look, task_id)
    # A proxy that compressed the log would hold it back.
    headers = {"X-Stream-Cursor": format_id(look.position), "Cache-Control": "no-store, no-transform"}
    # The first page is read before the answer begins: what fails there is answered with its own status.
    store = services.store
    if form == NDJSON:
        page = await store.lines(TASK, task_id, 1, None, FULL_LOG_PAGE)
        return Streamed(_as_ndjson(store, task_id, page), NDJSON, headers)
    text = await store.text(TASK, task_id, 1)
    return Streamed(_as_text(store, task_id, text), "text/plain; charset=utf-8", headers)


async def known_task(store: Questions, task_id: str) -> Task:
    """Return a task.

    Raises:
        NotFound: There is none of that id.
    """
    task = None
    if is_name(task_id):
        task = await store.get(TASK, task_id)
    if task is None:
        raise unknown_task(task_id)
    return task


def unknown_task(task_id: str) -> NotFound:
    """Return the error of an unknown task."""
    return NotFound(f"there is no task {task_id[:200]!r}; GET /api/v1/tasks lists those that exist")


class Terminal:
    """Writes lines as a terminal would have got them: pieces joined, and rewinds as a carriage return."""

    def __init__(self) -> None:
        self._unfinished: str | None = None  # the stream of the unfinished line, if any

    @property
    def in_a_line(self) -> bool:
        """Whether the last line is unfinished."""
        return self._unfinished is not None

    def text(self, lines: Sequence[LogLine]) -> str:
        """Write the next lines."""
        text: list[str] = []
        for line in lines:
            if self._unfinished is not None:
                text.append(("\r" if line.rewind else "") if self._unfinished == line.stream else "\n")
            text.append(line.output)
            if not line.partial and not line.output.endswith("\n"):
                text.append("\n")
            self._unfinished = line.stream if line.partial else None
        return "".join(text)


async def _as_text(store: Store, task_id: str, page: LogText | None) -> AsyncIterator[bytes]:
    terminal, seq = Terminal(), 1
    while page is not None:
        if page.text is not None and not terminal.in_a_line:
            yield page.text
        else:
            more = True
            while more:
                lines, more = await store.lines(TASK, task_id, seq, page.last_seq, FULL_LOG_PAGE)
                if lines:
                    seq = lines[-1].seq + 1
                    yield terminal.text(lines).encode()
        seq = page.last_seq + 1
        page = await store.text(TASK, task_id, seq)


async def _as_ndjson(
    store: Store, task_id: str, page: tuple[Sequence[LogLine], bool]
) -> AsyncIterator[bytes]:
    lines, more = page
    while lines:
        yield plain_json(b"".join([to_json(line_json(line)) + b"\n" for line in lines]))
        if not more:
            return
        lines, more = await store.lines(TASK, task_id, lines[-1].seq + 1, None, FULL_LOG_PAGE)


ONE_TASK = (NotFound, Invalid, Unavailable)
"""The refusals of an endpoint of one task."""

ENDPOINTS = [
    Endpoint(
        "GET",
        "/api/v1/tasks",
        list_tasks,
        "tasks",
        Described("A page of tasks."),
        channels=lambda asked: ("task:*",),
        refuses=(Invalid, Unavailable),
        example=TaskList(
            [samples.TASK],
            TaskListMeta(encode_cursor(to_microseconds(samples.CREATED.timestamp), "42"), samples.HEAD),
        ),
    ),
    Endpoint(
        "GET",
        "/api/v1/tasks/{task_id}",
        get_task,
        "tasks",
        Described("The task."),
        channels=of_task,
        refuses=ONE_TASK,
        example=OneTask(samples.TASK, samples.META),
    ),
    Endpoint(
        "GET",
        "/api/v1/tasks/{task_id}/logs",
        read_log,
        "tasks",
        Described("Lines in order.", more="About 1 MiB at most; meta.more says that the range has more."),
        channels=of_task,
        refuses=ONE_TASK,
        example=LineList(
            [samples.LINE],
            LineMeta(samples.LINE.seq, samples.LINE.seq, more=False, stream_cursor=samples.HEAD),
        ),
    ),
    Endpoint(
        "GET",
        "/api/v1/tasks/{task_id}/logs/full",
        full_log,
        "tasks",
        Described(
            "The whole output, in the form that Accept prefers.",
            media={
                TEXT_PLAIN: {
                    "schema": described(TEXT, "The text as a terminal would have got it."),
                    "example": samples.LINE.output,
                },
                NDJSON: {
                    "schema": described({**TEXT, "x-line": ref("LogLine")}, "One LogLine on each line."),
                    "example": f"{to_json(line_json(samples.LINE)).decode()}\n",
                },
            },
            headers=["X-Stream-Cursor"],
        ),
        channels=of_task,
        refuses=ONE_TASK,
    ),
]
