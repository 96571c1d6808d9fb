"""The questions, as functions of a connection; the same SQL on SQLite and PostgreSQL.

Lists go by keyset, never by OFFSET. A selection of several channels is a union of one limited index
range per channel, since ``channel IN (…) ORDER BY id`` would sort all they ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    func,
    literal,
    or_,
    select,
    text,
    tuple_,
    union_all,
)

from heliograph.model.channels import EVERYTHING, Selection
from heliograph.model.event import Event
from heliograph.model.ids import OLDEST, EventId
from heliograph.model.task import STATUSES, Task
from heliograph.storage.protocols import LogLine, NewestTask, TaskFilter, TaskKey
from heliograph.storage.sql.schema import channels, events, tasks

PAGE_BYTES = 1024 * 1024
FETCH_ROWS = 50

_TASK_SIZE = sum(
    (func.coalesce(func.length(tasks.c[name]), 0) for name in ("input", "metadata", "result", "error")),
    start=literal(0),
)
"""What of a task may be large."""


def see_one_moment(connection: Connection) -> None:
    """Let everything that is asked from here on be answered as of one moment; to be called first."""
    if connection.dialect.name == "postgresql":  # SQLite's transactions see one moment anyway
        connection.rollback()  # something may have been asked already, to check the connection
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))


def to_event(row: Row[Any]) -> Event:
    """Make an event of a row of the table of events."""
    return Event(
        id=row.id,
        channel=row.channel,
        seq=row.seq,
        topic=row.topic,
        timestamp=row.timestamp,
        payload=orjson.loads(row.payload),
        sender=row.sender,
        correlation_id=row.correlation_id,
    )


def read_events(
    connection: Connection,
    selection: Selection,
    limit: int,
    *,
    after: int | None = None,
    before: int | None = None,
    newest: bool = False,
    sender: str | None = None,
    correlation_id: str | None = None,
) -> tuple[list[Event], bool]:
    """Read events of a selection between two ids (both exclusive).

    Args:
        newest: Begin at the newest and go back; otherwise from the oldest on.
        sender: Only of this sender.
        correlation_id: Only with this one.

    Returns:
        The events in the order read, and whether there may be more: ``limit`` or ``PAGE_BYTES`` was reached.
    """
    window = []
    if after is not None:
        window.append(events.c.id > after)
    if before is not None:
        window.append(events.c.id < before)
    if sender is not None:
        window.append(events.c.sender == sender)
    if correlation_id is not None:
        window.append(events.c.correlation_id == correlation_id)
    found, more = _within_bytes(
        connection, _selected(select(events), selection, window, limit, newest), _payload_size
    )
    return [to_event(row) for row in found], more or len(found) == limit


def last_ids(
    connection: Connection, selection: Selection, count: int, *, before: int | None = None
) -> list[EventId]:
    """Return the ids of a selection's last events, before an id (exclusive) if one is given, newest first."""
    window = [] if before is None else [events.c.id < before]
    statement = _selected(select(events.c.id), selection, window, count, newest=True)
    return [EventId(event_id) for event_id in connection.scalars(statement)]


def _selected(
    what: Select[Any], selection: Selection, window: Sequence[ColumnElement[bool]], limit: int, newest: bool
) -> Select[Any]:
    """Narrow a question to a selection's first (or last) events of a window, in the order of their ids."""
    order = events.c.id.desc() if newest else events.c.id
    ranges = [
        what.where(*window, *_topic(selection.topic), *_channel(selector)).order_by(order).limit(limit)
        for selector in selection.selectors
    ]
    if len(ranges) == 1:
        return ranges[0]
    merged = union_all(*(select(one.subquery()) for one in ranges)).subquery()
    return select(merged).order_by(merged.c.id.desc() if newest else merged.c.id).limit(limit)


def _within_bytes(
    connection: Connection, statement: Any, size_of: Callable[[Row[Any]], int]
) -> tuple[list[Row[Any]], bool]:
    """Fetch rows until they reach ``PAGE_BYTES``; tell whether that cut the result.

    Rows are fetched a few at a time (a server-side cursor on PostgreSQL), so a page of large ones is
    never held whole.
    """
    found: list[Row[Any]] = []
    size = 0
    with connection.execute(statement.execution_options(yield_per=FETCH_ROWS)) as rows:
        for row in rows:
            if size >= PAGE_BYTES:
                return found, True
            found.append(row)
            size += size_of(row)
    return found, False


def _payload_size(row: Row[Any]) -> int:
    return len(row.payload)


def _channel(selector: str) -> Iterable[ColumnElement[bool]]:
    if selector == EVERYTHING:
        return []
    if selector.endswith(":*"):
        # substr and not LIKE: a range over names would be read in the order of names and then sorted
        prefix = selector[:-1]
        return [func.substr(events.c.channel, 1, len(prefix)) == prefix]
    return [events.c.channel == selector]


def _topic(pattern: str) -> list[ColumnElement[bool]]:
    if pattern == EVERYTHING:
        return []
    if pattern.endswith(".*"):
        return [func.substr(events.c.topic, 1, len(pattern) - 1) == pattern[:-1]]
    return [events.c.topic == pattern]


def trimmed_through(connection: Connection, selection: Selection) -> EventId:
    """Return the newest id of a selection that retention has removed, ``OLDEST`` when none was."""
    found = [
        connection.scalar(
            select(func.max(channels.c.trimmed_id)).where(*_channel_name(selector, connection.dialect.name))
        )
        for selector in selection.selectors
    ]
    return EventId(max((one for one in found if one is not None), default=OLDEST))


def trimmed_behind(connection: Connection, selection: Selection, after: EventId) -> EventId:
    """Return what ``trimmed_through`` does, or ``OLDEST`` when nothing behind a position was removed.

    What retention removes is a beginning of the log: while any event up to the position is kept nothing
    behind it is gone, and the channels need not be asked.
    """
    oldest_kept = connection.scalar(select(func.min(events.c.id)))
    if oldest_kept is not None and oldest_kept <= after:
        return OLDEST
    trimmed = trimmed_through(connection, selection)
    return trimmed if trimmed > after else OLDEST


def _channel_name(selector: str, dialect: str) -> Iterable[ColumnElement[bool]]:
    if selector == EVERYTHING:
        return []
    if selector.endswith(":*"):
        # A range in the order of bytes, which SQLite's index has; a PostgreSQL's locale may have another.
        name = channels.c.name.collate("C") if dialect == "postgresql" else channels.c.name
        return [name >= selector[:-1], name < selector[:-2] + ";"]
    return [channels.c.name == selector]


def list_tasks(
    connection: Connection, wanted: TaskFilter, after: TaskKey | None, limit: int
) -> tuple[list[Task], bool]:
    """List tasks, newest first, behind a keyset cursor; tell whether there are more.

    Returns fewer than ``limit`` when they reach ``PAGE_BYTES``; none only when there are none.
    """
    statement: Select[Any] = select(tasks, _TASK_SIZE.label("size")).where(*_wanted(wanted))
    if after is not None:
        key = tuple_(literal(after.created_at, tasks.c.created_at.type), literal(after.task_id))
        statement = statement.where(tuple_(tasks.c.created_at, tasks.c.task_id) < key)
    statement = statement.order_by(tasks.c.created_at.desc(), tasks.c.task_id.desc()).limit(limit + 1)
    found, more = _within_bytes(connection, statement, lambda row: row.size)
    return [_task(row) for row in found[:limit]], more or len(found) > limit


def _task(row: Row[Any]) -> Task:
    return Task(**{column.name: row._mapping[column] for column in tasks.c})


def _wanted(wanted: TaskFilter) -> Iterable[ColumnElement[bool]]:
    if wanted.statuses:
        yield tasks.c.status.in_(wanted.statuses)
    for name in ("agent", "agent_type", "model", "session_id", "conversation_id"):
        value = getattr(wanted, name)
        if value is not None:
            yield tasks.c[name] == value
    if wanted.text is not None:
        yield or_(
            *(
                tasks.c[name].icontains(wanted.text, autoescape=True)
                for name in ("task_id", "name", "agent", "error")
            )
        )
    if wanted.since is not None:
        yield tasks.c.created_at >= wanted.since
    if wanted.until is not None:
        yield tasks.c.created_at < wanted.until


def get_task(connection: Connection, task_id: str) -> Task | None:
    """Return one task."""
    row = connection.execute(select(tasks).where(tasks.c.task_id == task_id)).one_or_none()
    return None if row is None else _task(row)


def count_tasks(connection: Connection) -> dict[str, int]:
    """Count the tasks of each status, each status present."""
    counts = dict.fromkeys(STATUSES, 0)
    rows = connection.execute(select(tasks.c.status, func.count()).group_by(tasks.c.status))
    counts.update((status, count) for status, count in rows)
    return counts


def newest_tasks(connection: Connection, agents: Iterable[str]) -> dict[str, NewestTask]:
    """Return what the newest task of each agent tells: one look into the index for each."""
    newest = select(tasks.c.agent_type, tasks.c.updated_at).order_by(
        tasks.c.created_at.desc(), tasks.c.task_id.desc()
    )
    found = {}
    for agent in agents:
        row = connection.execute(newest.where(tasks.c.agent == agent).limit(1)).one_or_none()
        if row is not None:
            found[agent] = NewestTask(row.agent_type, row.updated_at)
    return found


def read_lines(
    connection: Connection,
    task_id: str,
    first_seq: int,
    last_seq: int | None,
    limit: int,
    newest: bool,
) -> tuple[Sequence[LogLine], bool]:
    """Read a task's lines of output in a range of ``seq`` (inclusive), in order; tell whether it has more.

    Returns fewer than ``limit`` when they reach ``PAGE_BYTES``; none only when there are none.
    """
    where = [
        events.c.channel == f"task:{task_id}",
        events.c.seq >= first_seq,
        events.c.topic == "task.output",
    ]
    if last_seq is not None:
        where.append(events.c.seq <= last_seq)
    found, more = _within_bytes(
        connection,
        select(events.c.seq, events.c.id, events.c.timestamp, events.c.payload)
        .where(and_(*where))
        .order_by(events.c.seq.desc() if newest else events.c.seq)
        .limit(limit + 1),
        _payload_size,
    )
    lines = [_line(row) for row in found[:limit]]
    return lines[::-1] if newest else lines, more or len(found) > limit


def _line(row: Row[Any]) -> LogLine:
    payload = orjson.loads(row.payload)
    return LogLine(
        seq=row.seq,
        id=EventId(row.id),
        timestamp=row.timestamp,
        stream=payload.get("stream") or "stdout",
        output=payload["output"],
        partial=payload.get("partial") is True,
        rewind=payload.get("rewind") is True,
    )
