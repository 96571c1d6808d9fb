"""The tasks' table. Lines of running tasks, the bulk of all events, are counted without reading the row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import orjson
from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Index,
    Integer,
    Table,
    Text,
    and_,
    bindparam,
    case,
    false,
    func,
    not_,
    or_,
    select,
    text,
    type_coerce,
    update,
)

from heliograph.model.analytics.rollup import ERROR_CHARACTERS
from heliograph.model.event import Event
from heliograph.model.ids import SEQUENCE_BITS, to_microseconds
from heliograph.model.task import (
    CHANGING,
    HEARTBEATS_MISSED,
    LOST,
    TASK,
    TERMINAL,
    AddedMetadata,
    Progress,
    Silence,
    Task,
    merged,
)
from heliograph.storage.sql.entities.task_text import mentions
from heliograph.storage.sql.entity import Entity, Merging, Probed, Retired, Steady, one_by_one
from heliograph.storage.sql.prepared import Prepared
from heliograph.storage.sql.schema import Big, Json, UtcMoment, metadata

BEATING = text("heartbeat_ms IS NOT NULL AND finished_at IS NULL")
"""The tasks that may become lost. A line of output changes neither the index of these tasks nor whether a
task is in it."""

tasks = Table(
    "tasks",
    metadata,
    Column("task_id", Text, primary_key=True),
    Column("created_at", UtcMoment, nullable=False),
    Column("updated_at", UtcMoment, nullable=False),
    Column("status", Text, nullable=False),
    Column("name", Text),
    Column("agent", Text),
    Column("agent_type", Text),
    Column("model", Text),
    Column("session_id", Text),
    Column("conversation_id", Text),
    Column("input", Json),
    Column("metadata", Json),
    Column("started_at", UtcMoment),
    Column("finished_at", UtcMoment),
    Column("output_lines", Big, nullable=False),
    Column("output_bytes", Big, nullable=False),
    Column("cost_nanos", Big),
    Column("cost_computed", Boolean, nullable=False, server_default=false()),
    Column("input_tokens", Big),
    Column("output_tokens", Big),
    Column("cached_tokens", Big),
    Column("cache_read_tokens", Big),
    Column("cache_write_tokens", Big),
    Column("error", Text),
    Column("result", Json),
    Column("last_seq", Big, nullable=False),
    Column("last_event_id", Big, nullable=False),
    Column("finished_event_id", Big),
    Column("attempts", Integer, nullable=False, server_default="1"),
    Column("earlier", Json),
    Column("heartbeat_ms", Big),
    Index("tasks_created", "created_at", "task_id"),
    Index("tasks_status_created", "status", "created_at", "task_id"),
    Index("tasks_agent_created", "agent", "created_at", "task_id"),
    Index("tasks_beating", "created_at", "task_id", postgresql_where=BEATING, sqlite_where=BEATING),
    # All columns that groups and their counts need, since a row may hold a megabyte. PostgreSQL stores large
    # values apart from the row, so it needs no such index, and can't have one: long names exceed its entries.
    Index("tasks_grouped", "status", "agent", "model", "session_id", "created_at").ddl_if(dialect="sqlite"),
)

SPACE = "".join(filter(str.isspace, map(chr, range(0x10000))))

SHORT_ERROR = func.substr(func.ltrim(tasks.c.error, SPACE), 1, ERROR_CHARACTERS).label("error")
"""The beginning of a task's error, which is enough to find its kind: a whole error may be a megabyte."""

MOMENT = bindparam("updated_at", type_=UtcMoment)
PROGRESS = Prepared(
    update(tasks)
    .where(tasks.c.task_id == bindparam("at_task_id"))
    .values(
        updated_at=case((tasks.c.updated_at < MOMENT, MOMENT), else_=tasks.c.updated_at),
        output_lines=tasks.c.output_lines + bindparam("output_lines"),
        output_bytes=tasks.c.output_bytes + bindparam("output_bytes"),
        last_seq=bindparam("last_seq"),
        last_event_id=bindparam("last_event_id"),
    ),
    raw=True,
)


def _progress(events: Sequence[Event]) -> Mapping[str, Any]:
    progress = Progress(events[0].timestamp)
    for event in events:
        progress.add(event)
    return {
        "at_task_id": events[0].channel[5:],
        "updated_at": to_microseconds(progress.updated_at),
        "output_lines": progress.output_lines,
        "output_bytes": progress.output_bytes,
        "last_seq": progress.last_seq,
        "last_event_id": progress.last_event_id,
    }


def _kept(task: Task) -> Set[str]:
    """Keep the stored error, of which only a part was read, unless a result came with a new one."""
    return {"error"} if task.result is None and task.error is not None else set()


MOST_RESULT = 4 * 1024 * 1024
"""The most bytes to which corrections add up a result; the next one takes its place."""


def _size(result: Mapping[str, Any]) -> int:
    return len(orjson.dumps(result))


def _add_metadata(connection: Connection, task: Task) -> None:
    """Add the metadata of a batch to the stored metadata, if it is ``AddedMetadata``."""
    if isinstance(task.metadata, AddedMetadata):
        stored = connection.scalar(select(tasks.c.metadata).where(tasks.c.task_id == task.task_id))
        task.metadata = (stored or {}) | task.metadata


def _merge_result(connection: Connection, task: Task) -> None:
    """Merge a batch's result into the stored one, if that is of the same attempt.

    The result of a lost task is only the reason for the loss, which the batch's result replaces.
    """
    if task.result is None:
        return
    mine = tasks.c.task_id == task.task_id
    stored, attempts, status = connection.execute(
        select(tasks.c.result, tasks.c.attempts, tasks.c.status).where(mine)
    ).one()
    if attempts != task.attempts or status == LOST:
        return
    if stored and _size(stored) + _size(task.result) > MOST_RESULT:
        stored = None  # it would only grow, and each correction would cost as much as all before it
    values: dict[str, Any] = {"result": merged(stored or {}, task.result)}
    if "error" in task.result:
        values["error"] = task.error
    connection.execute(update(tasks).where(mine).values(values))
    task.result = None


def _overdue(silence: Silence) -> Probed:
    """Return the condition of tasks silent for ``least_ms`` and for ``HEARTBEATS_MISSED`` heartbeats.

    The question is asked once a second, so the condition is compiled once.
    """
    unit = 1 << SEQUENCE_BITS
    most = (silence.until - silence.since) // unit
    if most <= silence.least_ms:
        return Probed(("too early",), false)
    values = {"silent_until": silence.until, "late": silence.until - silence.least_ms * unit, "most_ms": most}
    return Probed(("overdue",), _is_overdue, values)


def _is_overdue() -> ColumnElement[bool]:
    slow = tasks.c.heartbeat_ms * (HEARTBEATS_MISSED << SEQUENCE_BITS)
    until, late, most = (bindparam(name, type_=Big) for name in ("silent_until", "late", "most_ms"))
    return and_(
        BEATING,
        type_coerce(tasks.c.last_event_id, Big) < late,
        type_coerce(tasks.c.last_event_id, Big) < until - type_coerce(slow, Big),
        type_coerce(tasks.c.heartbeat_ms, Big) * HEARTBEATS_MISSED < most,
    )


def _heard_since_lost(wanted: bool) -> ColumnElement[bool]:
    heard = and_(tasks.c.status == LOST, tasks.c.last_event_id > tasks.c.finished_event_id)
    return heard if wanted else not_(heard)


def _without(names: Sequence[str]) -> ColumnElement[bool]:
    return and_(*(or_(tasks.c[name].is_(None), tasks.c[name] == "") for name in names))


LASTED = type_coerce(tasks.c.finished_at, Big) - type_coerce(
    func.coalesce(tasks.c.started_at, tasks.c.created_at), Big
)

TASKS = Entity(
    kind=TASK,
    table=tasks,
    filters={
        "statuses": tasks.c.status.in_,
        "since": lambda moment: tasks.c.created_at >= moment,
        "until": lambda moment: tasks.c.created_at < moment,
        "heard_since_lost": _heard_since_lost,
        "heard_before": lambda moment: tasks.c.updated_at < moment,
    },
    probed={
        "text": lambda connection, text: mentions(connection, tasks, text),
        "overdue": lambda connection, silence: _overdue(silence),
        "without": lambda connection, names: Probed(names, lambda: _without(names)),
    },
    sorts={
        "updated": type_coerce(tasks.c.updated_at, Big),
        "silence": -type_coerce(tasks.c.updated_at, Big),
        "duration": type_coerce(
            case((tasks.c.finished_at.is_(None), -1), (LASTED < 0, 0), else_=LASTED), Big
        ),
        "cost": func.coalesce(tasks.c.cost_nanos, -1),
    },
    large=("input", "metadata", "result"),
    cut={"error": SHORT_ERROR},
    kept=_kept,
    steady=Steady(CHANGING, lambda task: task.begun, PROGRESS, _progress),
    retired=Retired(
        tasks.c.created_at,
        lambda moment: and_(tasks.c.updated_at < moment, tasks.c.status.in_(sorted(TERMINAL))),
    ),
    merging=(
        Merging(lambda task: task.finished, one_by_one(_merge_result)),
        Merging(lambda task: True, one_by_one(_add_metadata)),
    ),
)
