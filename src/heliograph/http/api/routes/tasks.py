"""Tasks: the list, one task, its log by range of ``seq``, and its full log in constant memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any

from quart import Blueprint, Response, request

from heliograph.http.api.app import services
from heliograph.http.rules.requests import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    decode_cursor,
    encode_cursor,
    identity,
    listed,
    moment,
    refuse_unknown,
    require_utf8,
    to_json,
    whole,
)
from heliograph.model.channels import is_name
from heliograph.model.errors import Invalid, NotFound
from heliograph.model.ids import format_id, from_microseconds, to_microseconds
from heliograph.model.task import STATUSES, TASK, Task, TaskFilter, task_json
from heliograph.storage.protocols import LogLine, Store

blueprint = Blueprint("tasks", __name__)

MAX_SEQ = 2**62
MAX_LINES = 5000
FULL_LOG_PAGE = 2000
NDJSON = "application/x-ndjson"


@blueprint.get("/api/tasks")
async def list_tasks() -> Response:
    """List tasks, newest first, with every filter of the dashboard."""
    texts = ("agent", "agent_type", "model", "session_id", "conversation_id", "text")
    refuse_unknown(request, "status", *texts, "since", "until", "limit", "cursor", "ticket")
    identity().require("read", "task:*")
    service = services()
    values = {name: require_utf8(request.args[name], name) for name in texts if request.args.get(name)}
    wanted = TaskFilter(
        statuses=listed(request, "status", STATUSES),
        since=moment(request, "since"),
        until=moment(request, "until"),
        **values,
    )
    limit = whole(request, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT)
    # Before the question: what is committed while it is answered comes again from the stream, not never.
    position = await service.store.checkpoint()
    found, more = await service.store.list(TASK, wanted, _after(), limit)
    meta = {
        "next_cursor": encode_cursor(to_microseconds(found[-1].created_at), found[-1].task_id)
        if more
        else None,
        "stream_cursor": format_id(position),
    }
    return _json({"tasks": [task_json(task) for task in found], "meta": meta})


def _after() -> tuple[datetime, str] | None:
    cursor = decode_cursor(request, int, str)
    if cursor is None:
        return None
    if not 0 <= cursor[0] < 2**58 or not is_name(cursor[1]):
        raise Invalid.field("cursor", "must be a next_cursor of this list, unchanged")
    return from_microseconds(cursor[0]), cursor[1]


@blueprint.get("/api/tasks/<task_id>")
async def get_task(task_id: str) -> Response:
    """Return one task."""
    refuse_unknown(request, "ticket")
    position = await services().store.checkpoint()
    task = await known_task(task_id)
    return _json({**task_json(task), "meta": {"stream_cursor": format_id(position)}})


@blueprint.get("/api/tasks/<task_id>/logs")
async def read_log(task_id: str) -> Response:
    """Return lines of output: the first of a range of ``seq``, or its last ones."""
    refuse_unknown(request, "from_seq", "to_seq", "tail", "limit", "ticket")
    service = services()
    first = whole(request, "from_seq", 1, 1, MAX_SEQ)
    last = whole(request, "to_seq", MAX_SEQ, 1, MAX_SEQ)
    if first > last:
        raise Invalid.field("from_seq", "must not be greater than to_seq")
    tail = whole(request, "tail", 0, 1, MAX_LINES)
    limit = whole(request, "limit", MAX_LIMIT, 1, MAX_LINES)
    position = await service.store.checkpoint()
    await known_task(task_id)
    lines, more = await service.store.lines(task_id, first, last, tail or limit, newest=tail > 0)
    meta = {
        "first_seq": lines[0].seq if lines else None,
        "last_seq": lines[-1].seq if lines else None,
        "more": more,
        "stream_cursor": format_id(position),
    }
    return _json({"lines": [line_json(line) for line in lines], "meta": meta})


@blueprint.get("/api/tasks/<task_id>/logs/full")
async def full_log(task_id: str) -> Response:
    """Stream the whole output, page by page, as text or as NDJSON."""
    refuse_unknown(request, "ticket")
    cursor = {"X-Stream-Cursor": format_id(await services().store.checkpoint())}
    await known_task(task_id)
    accepted = request.accept_mimetypes.best_match(["text/plain", NDJSON], default="text/plain")
    # A proxy that compressed it would hold it back.
    headers = {**cursor, "Cache-Control": "no-cache, no-transform"}
    pages = _pages(services().store, task_id)
    if accepted == NDJSON:
        return Response(_as_ndjson(pages), headers=headers, content_type=NDJSON)
    return Response(_as_text(pages), headers=headers, content_type="text/plain; charset=utf-8")


async def known_task(task_id: str) -> Task:
    """Return a task that the caller may read.

    Raises:
        NotFound: There is none of that id.
    """
    identity().require("read", f"task:{task_id}")
    task = None
    if is_name(task_id):
        task = await services().store.get(TASK, task_id)
    if task is None:
        raise NotFound(f"there is no task {task_id[:200]!r}; GET /api/tasks lists those that exist")
    return task


async def _pages(store: Store, task_id: str) -> AsyncGenerator[Sequence[LogLine], None]:
    seq, more = 1, True
    while more:
        page, more = await store.lines(task_id, seq, None, FULL_LOG_PAGE)
        if page:
            yield page
            seq = page[-1].seq + 1


async def _as_text(pages: AsyncGenerator[Sequence[LogLine], None]) -> AsyncIterator[bytes]:
    """Write lines as a terminal would have got them: pieces joined, rewound ones behind a carriage return."""
    unfinished: str | None = None  # the stream whose line is not at its end
    async with aclosing(pages):  # a client that goes away ends it in the middle
        async for page in pages:
            text: list[str] = []
            for line in page:
                if unfinished is not None:
                    text.append(("\r" if line.rewind else "") if unfinished == line.stream else "\n")
                text.append(line.output)
                if not line.partial and not line.output.endswith("\n"):
                    text.append("\n")
                unfinished = line.stream if line.partial else None
            yield "".join(text).encode()


async def _as_ndjson(pages: AsyncGenerator[Sequence[LogLine], None]) -> AsyncIterator[bytes]:
    async with aclosing(pages):
        async for page in pages:
            yield b"".join(to_json(line_json(line)) + b"\n" for line in page)


def line_json(line: LogLine) -> dict[str, Any]:
    """Return a line of output as REST gives it."""
    shown: dict[str, Any] = {
        "seq": line.seq,
        "id": format_id(line.id),
        "timestamp": line.timestamp,
        "stream": line.stream,
        "output": line.output,
    }
    return shown | {mark: True for mark in ("partial", "rewind") if getattr(line, mark)}


def _json(body: dict[str, Any]) -> Response:
    return Response(to_json(body), content_type="application/json")
