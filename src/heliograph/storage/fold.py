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
from heliograph.model.prices import NO_PRICES, Prices
from heliograph.model.rollup import Change, Contribution, contribution, facts
from heliograph.model.task import Task
from heliograph.storage import retention, schema
from heliograph.storage.database import chunks, in_list, upsert
from heliograph.storage.rollups import Correction, write_changes, write_corrections

TASKS = select(schema.tasks).where(in_list(schema.tasks.c.task_id))


def fold(connection: Connection, events: Sequence[Event], prices: Prices = NO_PRICES) -> None:
    """Fold events, in order and all newer than the checkpoint, into the tables; move the checkpoint."""
    if not events:
        return
    retention.count(connection, len(events))
    _fold_tasks(connection, [event for event in events if event.channel.startswith("task:")], prices)
    upsert(connection, schema.checkpoints, [{"name": schema.FOLDED, "event_id": events[-1].id}])


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


def _fold_tasks(connection: Connection, events: Sequence[Event], prices: Prices) -> None:
    if not events:
        return
    tasks: dict[str, Task] = {}
    for some in chunks(sorted({event.channel.removeprefix("task:") for event in events})):
        rows = connection.execute(TASKS, {"wanted": some})
        tasks.update((row["task_id"], Task(**row)) for row in rows.mappings())
    before: dict[str, Contribution] = {name: contribution(task) for name, task in tasks.items()}
    corrections: list[Correction] = []
    for event in events:
        name = event.channel.removeprefix("task:")
        task = tasks.get(name)
        if task is None:
            task = tasks[name] = Task.first_seen(event)
            if event.seq > 1:
                corrections.append(Correction(event.id, name, None))
        finished = facts(task) if task.finished else None
        task.apply(event, prices)
        if finished is not None and facts(task) != finished:
            corrections.append(Correction(event.id, name, finished))
    upsert(connection, schema.tasks, [attrs.asdict(task, recurse=False) for task in tasks.values()])
    after = {name: contribution(task) for name, task in tasks.items()}
    changes = [Change(before.get(name), now) for name, now in after.items() if now != before.get(name)]
    write_changes(connection, changes, events[-1].id)
    write_corrections(connection, corrections)
