"""The fold: what a batch of events does to the store, inside the transaction that keeps them.

The id of the last folded event is written in the same transaction, so folding is exactly-once: after
a crash either both are there or neither is, and a restart goes on from the checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from sqlalchemy import Connection, select

from heliograph.model.event import Event
from heliograph.model.ids import OLDEST, EventId
from heliograph.model.task import Task
from heliograph.storage import retention, schema
from heliograph.storage.database import chunks, in_list, upsert

CHECKPOINT = "fold"
TASKS = select(schema.tasks).where(in_list(schema.tasks.c.task_id))


def fold(connection: Connection, events: Sequence[Event]) -> None:
    """Fold events, in order and all newer than the checkpoint, into the tables; move the checkpoint."""
    if not events:
        return
    retention.count(connection, len(events))
    _fold_tasks(connection, [event for event in events if event.channel.startswith("task:")])
    upsert(connection, schema.checkpoints, [{"name": CHECKPOINT, "event_id": events[-1].id}])


def read_checkpoint(connection: Connection) -> EventId:
    """Return the id of the last folded event, ``OLDEST`` before the first."""
    found = connection.execute(
        select(schema.checkpoints.c.event_id).where(schema.checkpoints.c.name == CHECKPOINT)
    ).scalar()
    return OLDEST if found is None else EventId(found)


def begin_checkpoint(connection: Connection) -> EventId:
    """Return the checkpoint, written down first if it was not: only a row that is there can be a fence."""
    checkpoint = read_checkpoint(connection)
    upsert(connection, schema.checkpoints, [{"name": CHECKPOINT, "event_id": checkpoint}])
    return checkpoint


def _fold_tasks(connection: Connection, events: Sequence[Event]) -> None:
    names = {event.channel.removeprefix("task:") for event in events}
    tasks: dict[str, Task] = {}
    for some in chunks(sorted(names)):
        rows = connection.execute(TASKS, {"wanted": some})
        tasks.update((row["task_id"], Task(**row)) for row in rows.mappings())
    for event in events:
        name = event.channel.removeprefix("task:")
        task = tasks.get(name)
        if task is None:
            task = tasks[name] = Task.first_seen(event)
        task.apply(event)
    upsert(connection, schema.tasks, [attrs.asdict(task, recurse=False) for task in tasks.values()])
