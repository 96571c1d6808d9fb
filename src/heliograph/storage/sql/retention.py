"""Retention: which events are over their age or their number, and their removal in small parts.

Events go oldest first, by the time in their id, so what is removed is always a beginning of the log. A
channel remembers the newest id it has lost (``channels.trimmed_id``): whoever asks for something before
that is told, instead of being given what is left as if it were all. How many events there are is counted
as they come and go, since no database can tell without reading them all.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from datetime import datetime, timedelta

import attrs
from sqlalchemy import Connection, bindparam, delete, func, select, update

from heliograph.model.ids import EventId, make_id, to_microseconds
from heliograph.model.settings import RetentionSettings
from heliograph.model.workflows.vocabulary import id_of
from heliograph.storage.protocols import OldRun
from heliograph.storage.sql.database import chunks
from heliograph.storage.sql.entities import ENTITIES
from heliograph.storage.sql.entities.workflow import runs, spendings, steps
from heliograph.storage.sql.prepared import Prepared
from heliograph.storage.sql.schema import channels, counters, events

EVENTS = "events"
COUNT = Prepared(
    update(counters)
    .where(counters.c.name == bindparam("counter"))
    .values(value=counters.c.value + bindparam("change"))
)
PART = 1000
"""How many events are removed in one transaction: writers wait for no more than that."""
RUNS_PART = 50
"""How many runs, each with its steps."""


@attrs.frozen
class Removed:
    """How many entities were removed, and the channels of those that a writer may remember as steady."""

    number: int = 0
    channels: Set[str] = frozenset()


def count(connection: Connection, change: int) -> None:
    """Add ``change``, which may be negative, to the number of events that are kept."""
    COUNT.run(connection, [{"counter": EVENTS, "change": change}])


def due(connection: Connection, policy: RetentionSettings, now: datetime) -> EventId | None:
    """Return the newest id of the next part to remove, ``None`` when nothing is over the retention."""
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
    """Return the newest id of the oldest events, 0 when there are none."""
    if number <= 0:
        return 0
    oldest = select(events.c.id).order_by(events.c.id).limit(number)
    if before is not None:
        oldest = oldest.where(events.c.id < before)
    return connection.scalar(select(func.max(oldest.subquery().c.id))) or 0


def remove(connection: Connection, through: EventId) -> int:
    """Remove every event up to an id; return how many."""
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
    """Remove a part of the entities of which nothing was heard for longer than they are kept.

    What they added to others stays: those tell of all that there were.
    """
    if not policy.entities_max_age_seconds:
        return Removed()
    oldest_kept = now - timedelta(seconds=policy.entities_max_age_seconds)
    number, channels_left = 0, set[str]()
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


def due_runs(connection: Connection, policy: RetentionSettings, now: datetime) -> Sequence[OldRun]:
    """Return the next part of the runs of which nothing was heard for longer than they are kept."""
    if not policy.runs_max_age_seconds:
        return []
    oldest_kept = now - timedelta(seconds=policy.runs_max_age_seconds)
    rows = connection.execute(
        select(runs.c.run_id, runs.c.workflow_id, runs.c.updated_at)
        .where(runs.c.updated_at < oldest_kept)
        .order_by(runs.c.updated_at)
        .limit(RUNS_PART)
    )
    return [OldRun(*row) for row in rows]


def remove_runs(connection: Connection, old: Sequence[OldRun]) -> None:
    """Remove runs with their steps, but for those of which something was heard meanwhile.

    What they added to their workflow's counters stays: these tell of all runs that there were.
    """
    for run in old:
        removed = connection.execute(
            delete(runs).where(
                runs.c.id == id_of(run.run_id, run.workflow_id), runs.c.updated_at == run.updated_at
            )
        )
        if removed.rowcount:
            mine = steps.c.run_id == run.run_id, steps.c.workflow_id == run.workflow_id
            connection.execute(delete(steps).where(*mine))
            connection.execute(
                delete(spendings).where(
                    spendings.c.run_id == run.run_id, spendings.c.workflow_id == run.workflow_id
                )
            )
