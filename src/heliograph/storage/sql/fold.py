"""The fold: what a batch of events does to the store, inside the transaction that keeps them.

The id of the last folded event is written in the same transaction, so folding is exactly-once: after
a crash either both are there or neither is, and a restart goes on from the checkpoint.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

import attrs
from sqlalchemy import Connection, bindparam, case, select, update

from heliograph.model.analytics.rollup import Change, Contribution, contribution, facts
from heliograph.model.event import Event
from heliograph.model.ids import OLDEST, EventId, to_microseconds
from heliograph.model.prices import NO_PRICES, Prices
from heliograph.model.task import CHANGING, Progress, Task, merged
from heliograph.storage.sql import retention, schema
from heliograph.storage.sql.database import chunks, in_list
from heliograph.storage.sql.prepared import Prepared, upsert
from heliograph.storage.sql.rollups import SHORT_ERROR, Correction, write_changes, write_corrections

UNREAD = ("input", "metadata", "result")
"""Columns of up to a megabyte, which events set and the fold never looks at: a batch over thousands of tasks
must not read all theirs. They are written only where an event of the batch has set them."""

TASKS = select(
    SHORT_ERROR, *(column for column in schema.tasks.c if column.name not in (*UNREAD, "error"))
).where(in_list(schema.tasks.c.task_id))
MOMENT = bindparam("updated_at", type_=schema.Moment)
PROGRESS = Prepared(
    update(schema.tasks)
    .where(schema.tasks.c.task_id == bindparam("at_task_id"))
    .values(
        updated_at=case((schema.tasks.c.updated_at < MOMENT, MOMENT), else_=schema.tasks.c.updated_at),
        output_lines=schema.tasks.c.output_lines + bindparam("output_lines"),
        output_bytes=schema.tasks.c.output_bytes + bindparam("output_bytes"),
        last_seq=bindparam("last_seq"),
        last_event_id=bindparam("last_event_id"),
    ),
    raw=True,
)


def fold(
    connection: Connection,
    events: Sequence[Event],
    prices: Prices = NO_PRICES,
    running: Container[str] = frozenset(),
) -> set[str]:
    """Fold events, in order and all newer than the checkpoint, into the tables; move the checkpoint.

    Args:
        connection: In the transaction that keeps the events.
        events: To fold.
        prices: For costs that results don't say.
        running: Channels of tasks that are known to be stored and to have left ``queued``. What they wrote is
            added to their rows without reading them. Only somebody who alone writes to the tables can know.

    Returns:
        The channels among the events of which that is known when the transaction is committed.
    """
    if not events:
        return set()
    retention.count(connection, len(events))
    by_task: dict[str, list[Event]] = {}
    changed: set[str] = set()
    for event in events:
        if event.channel.startswith("task:"):
            by_task.setdefault(event.channel, []).append(event)
            if event.topic in CHANGING:
                changed.add(event.channel)
    progressing = {channel for channel in by_task if channel in running and channel not in changed}
    _add_progress(connection, [by_task[channel] for channel in progressing])
    changing = [event for event in events if event.channel in by_task and event.channel not in progressing]
    started = _fold_tasks(connection, changing, prices)
    upsert(connection, schema.checkpoints, [{"name": schema.FOLDED, "event_id": events[-1].id}])
    return progressing | started


def _add_progress(connection: Connection, by_task: Sequence[Sequence[Event]]) -> None:
    """Add what running tasks wrote to their rows.

    Raises:
        RuntimeError: Some task is not there: somebody else has written to the tables.
    """
    rows = []
    for events in by_task:
        progress = Progress(events[0].timestamp)
        for event in events:
            progress.add(event)
        rows.append(
            {
                "at_task_id": events[0].channel[5:],
                "updated_at": to_microseconds(progress.updated_at),
                "output_lines": progress.output_lines,
                "output_bytes": progress.output_bytes,
                "last_seq": progress.last_seq,
                "last_event_id": progress.last_event_id,
            }
        )
    if rows and PROGRESS.run(connection, rows) != len(rows):
        raise RuntimeError("a task that was stored is not there any more")


def read_checkpoint(connection: Connection) -> EventId:
    """Return the id of the last folded event, ``OLDEST`` before the first."""
    found = connection.execute(
        select(schema.checkpoints.c.event_id).where(schema.checkpoints.c.name == schema.FOLDED)
    ).scalar()
    return OLDEST if found is None else EventId(found)


def begin_checkpoint(connection: Connection) -> EventId:
    """Return the checkpoint, written down first if it was not: only a row that is there can be a fence."""
    checkpoint = read_checkpoint(connection)
    upsert(connection, schema.checkpoints, [{"name": schema.FOLDED, "event_id": checkpoint}])
    return checkpoint


def _fold_tasks(connection: Connection, events: Sequence[Event], prices: Prices) -> set[str]:
    """Fold events into tasks' rows and the rollups; return the channels of those that left ``queued``."""
    if not events:
        return set()
    tasks: dict[str, Task] = {}
    for some in chunks(sorted({event.channel[5:] for event in events})):
        rows = connection.execute(TASKS, {"wanted": some})
        tasks.update((row["task_id"], Task(**row)) for row in rows.mappings())
    before: dict[str, Contribution] = {name: contribution(task) for name, task in tasks.items()}
    ended = {name for name, task in tasks.items() if task.finished}
    corrections: list[Correction] = []
    for event in events:
        name = event.channel[5:]
        task = tasks.get(name)
        if task is None:
            task = tasks[name] = Task.first_seen(event)
            if event.seq > 1:
                corrections.append(Correction(event.id, name, None))
        finished = facts(task) if task.finished else None
        task.apply(event, prices)
        if finished is not None and facts(task) != finished:
            corrections.append(Correction(event.id, name, finished))
    for name in ended:
        if tasks[name].result is not None:
            _correct_result(connection, tasks[name])
    _write_tasks(connection, tasks.values())
    after = {name: contribution(task) for name, task in tasks.items()}
    changes = [Change(before.get(name), now) for name, now in after.items() if now != before.get(name)]
    write_changes(connection, changes, events[-1].id)
    write_corrections(connection, corrections)
    return {f"task:{name}" for name, task in tasks.items() if task.status != "queued"}


def _correct_result(connection: Connection, task: Task) -> None:
    """Write what a batch has said of the result of a task that had ended before.

    Only here is a result read that was kept: of one task at a time, since it may be large.
    """
    assert task.result is not None
    mine = schema.tasks.c.task_id == task.task_id
    stored = connection.scalar(select(schema.tasks.c.result).where(mine))
    values: dict[str, Any] = {"result": merged(stored or {}, task.result)}
    if "error" in task.result:
        values["error"] = task.error
    connection.execute(update(schema.tasks).where(mine).values(values))
    task.result = None


def _write_tasks(connection: Connection, tasks: Iterable[Task]) -> None:
    """Write tasks' rows, except what was not read, or not whole, and no event has set."""
    rows: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for task in tasks:
        row = attrs.asdict(task, recurse=False)
        kept = {name for name in UNREAD if row[name] is None}
        if task.result is None:
            kept.add("error")  # it comes with a result
        row = {name: value for name, value in row.items() if name not in kept}
        rows.setdefault(tuple(row), []).append(row)
    for alike in rows.values():
        upsert(connection, schema.tasks, alike)
