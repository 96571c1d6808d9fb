"""Retention: finds events that are too old or too many, and removes them in small parts.

Events go oldest first, by the time in their id, so retention always removes the beginning of the log. Each
channel has the newest id that it has lost (``channels.trimmed_id``): a reader of earlier events is told of
the loss. The number of events is counted as they come and go, since no database can tell it without reading
them all.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from datetime import datetime, timedelta

import attrs
from sqlalchemy import Connection, bindparam, delete, func, select, update

from heliograph.model.ids import EventId, make_id, to_microseconds
from heliograph.model.settings import RetentionSettings
from heliograph.model.workflows.run import Run, share_of
from heliograph.model.workflows.spending import WAITING
from heliograph.model.workflows.vocabulary import id_of
from heliograph.storage.protocols import RunName
from heliograph.storage.sql.database import chunks
from heliograph.storage.sql.entities import ENTITIES
from heliograph.storage.sql.entities.workflow import RECORDS, RUNS, records, runs, spendings, steps
from heliograph.storage.sql.prepared import Prepared, upsert
from heliograph.storage.sql.schema import FOLDED, channels, checkpoints, counters, events

EVENTS = "events"
COUNT = Prepared(
    update(counters)
    .where(counters.c.name == bindparam("counter"))
    .values(value=counters.c.value + bindparam("change"))
)
PART = 1000
"""The most events that one transaction removes, since writers wait for it."""
RUNS_PART = 50
"""The most runs that one transaction removes, each with its steps."""


@attrs.frozen
class Removed:
    """The number of removed entities, and the channels of those that a writer may remember as steady."""

    number: int = 0
    channels: Set[str] = frozenset()


def count(connection: Connection, change: int) -> None:
    """Add ``change``, which may be negative, to the number of events that are kept."""
    COUNT.run(connection, [{"counter": EVENTS, "change": change}])


def due(connection: Connection, policy: RetentionSettings, now: datetime) -> EventId | None:
    """Return the newest id of the next part to remove; ``None`` if nothing is over the retention."""
    last: int = 0
    if policy.max_age_seconds:
        oldest_kept = now - timedelta(seconds=policy.max_age_seconds)
        limit = make_id(to_microseconds(oldest_kept) // 1000)
        last = _last_of(connection, PART, before=limit)
    if policy.max_events:
        kept = connection.scalar(select(counters.c.value).where(counters.c.name == EVENTS)) or 0
        last = max(last, _last_of(connection, min(kept - policy.max_events, PART)))
    return EventId(last) if last else None


def _last_of(connection: Connection, number: int, before: int | None = None) -> int:
    """Return the newest id of the oldest ``number`` events; 0 if there are none."""
    if number <= 0:
        return 0
    oldest = select(events.c.id).order_by(events.c.id).limit(number)
    if before is not None:
        oldest = oldest.where(events.c.id < before)
    return connection.scalar(select(func.max(oldest.subquery().c.id))) or 0


def remove(connection: Connection, through: EventId) -> int:
    """Remove every event up to ``through``; return how many were removed."""
    rows = connection.execute(
        delete(events).where(events.c.id <= through).returning(events.c.channel, events.c.id)
    )
    newest: dict[str, int] = {}
    removed = 0
    for channel, event_id in rows:
        newest[channel] = max(event_id, newest.get(channel, 0))
        removed += 1
    if removed:
        connection.execute(
            update(channels)
            .where(channels.c.name == bindparam("channel"))
            .values(trimmed_id=bindparam("lost")),
            [{"channel": channel, "lost": event_id} for channel, event_id in sorted(newest.items())],
        )
        count(connection, -removed)
    return removed


def remove_entities(connection: Connection, policy: RetentionSettings, now: datetime) -> Removed:
    """Remove a part of the entities without news for longer than they are kept.

    Their shares in other entities stay: those count all that there were.
    """
    number, channels_left = _remove_waiting(connection, now), set[str]()
    if not policy.entities_max_age_seconds:
        return Removed(number)
    oldest_kept = now - timedelta(seconds=policy.entities_max_age_seconds)
    for entity in ENTITIES:
        if entity.retired is None:
            continue
        (key,) = entity.key
        old = select(key).where(entity.retired.since < oldest_kept, entity.retired.only(oldest_kept))
        names = connection.scalars(old.order_by(entity.retired.since).limit(PART)).all()
        for some in chunks(names):
            for column in (*entity.retired.along, key):
                connection.execute(delete(column.table).where(column.in_(some)))
        number += len(names)
        if entity.steady is not None:
            channels_left |= {f"{entity.kind.family}:{name}" for name in names}
    return Removed(number, channels_left)


def _remove_waiting(connection: Connection, now: datetime) -> int:
    """Remove a part of the spendings of model calls whose run has had no known workflow for long."""
    limit = make_id(to_microseconds(now - WAITING) // 1000)
    old = (
        select(spendings.c.run_id)
        .where(spendings.c.workflow_id.is_(None), spendings.c.last_event_id < limit)
        .order_by(spendings.c.last_event_id)
        .limit(PART)
    )
    return connection.execute(delete(spendings).where(spendings.c.run_id.in_(old))).rowcount


def remove_runs(connection: Connection, policy: RetentionSettings, now: datetime) -> Sequence[RunName]:
    """Remove a part of the runs without news for longer than they are kept, with their steps.

    Their shares are taken back from their workflows' records, which count just the runs that are kept. A
    record that is then empty is removed, too.
    """
    if not policy.runs_max_age_seconds:
        return []
    # Not while any node folds a batch, which would write back rows that it has read before.
    connection.execute(
        select(checkpoints.c.event_id).where(checkpoints.c.name == FOLDED).with_for_update()
    ).all()
    oldest_kept = now - timedelta(seconds=policy.runs_max_age_seconds)
    old = select(*RUNS.small).where(runs.c.updated_at < oldest_kept)
    rows = connection.execute(old.order_by(runs.c.updated_at).limit(RUNS_PART)).mappings().all()
    gone = [RUNS.to_value(row) for row in rows]
    for run in gone:
        for table in (steps, spendings):
            mine = table.c.run_id == run.run_id, table.c.workflow_id == run.workflow_id
            connection.execute(delete(table).where(*mine))
    connection.execute(delete(runs).where(runs.c.id.in_([run.id for run in gone])))
    _forget(connection, gone)
    return [RunName(run.workflow_id, run.run_id) for run in gone]


def _forget(connection: Connection, gone: Sequence[Run]) -> None:
    """Take the shares of runs back from their workflows' records."""
    wanted = {"wanted": sorted({run.workflow_id for run in gone})}
    rows = connection.execute(RECORDS.reading(), wanted).mappings() if gone else ()
    kept = {record.workflow_id: record for record in map(RECORDS.to_value, rows)}
    for run in gone:
        kept[run.workflow_id].forget(share_of(run))
    empty = [name for name, record in kept.items() if not record.runs and record.enabled is None]
    connection.execute(delete(records).where(records.c.workflow_id.in_(empty)))
    upsert(connection, records, [RECORDS.to_row(kept[name]) for name in kept if name not in empty])


def unknown_runs(connection: Connection, names: Sequence[RunName]) -> Sequence[RunName]:
    """Return the runs among ``names`` of which nothing is kept."""
    known: set[str] = set()
    for some in chunks([id_of(name.run_id, name.workflow_id) for name in names]):
        known.update(connection.scalars(select(runs.c.id).where(runs.c.id.in_(some))))
    return [name for name in names if id_of(name.run_id, name.workflow_id) not in known]
