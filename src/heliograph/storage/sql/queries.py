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
    func,
    select,
    text,
    union_all,
)

from heliograph.model.channels import AUDIT, EVERYTHING, WHOLE, Selection, topic_matches
from heliograph.model.event import Event
from heliograph.model.ids import OLDEST, EventId
from heliograph.model.kind import Key, V
from heliograph.storage.sql.entity import Entity
from heliograph.storage.sql.schema import NO_OUTPUT, OUTPUT, channels, events

PAGE_BYTES = 1024 * 1024
FETCH_ROWS = 50


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
        body=row.payload.encode(),
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
    found, more = within_bytes(
        connection, _selected(select(events), selection, window, limit, newest), payload_size
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
        what.where(
            *window, *_topic(selection.topic), *_channel(selector), *_others(selection.topic, selector)
        )
        .order_by(order)
        .limit(limit)
        for selector in selection.selectors
    ]
    if len(ranges) == 1:
        return ranges[0]
    merged = union_all(*(select(one.subquery()) for one in ranges)).subquery()
    return select(merged).order_by(merged.c.id.desc() if newest else merged.c.id).limit(limit)


def within_bytes(
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


def payload_size(row: Row[Any]) -> int:
    """Measure a row of the table of events."""
    return len(row.payload)


def _channel(selector: str) -> Iterable[ColumnElement[bool]]:
    if selector == WHOLE:
        return []
    if selector == EVERYTHING:
        return [events.c.channel != AUDIT]
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


def _others(pattern: str, selector: str) -> list[ColumnElement[bool]]:
    """Say of a channel's events that no output is among them, where that is so."""
    whole = selector in {WHOLE, EVERYTHING} or selector.endswith(":*")
    return [] if whole or topic_matches(pattern, OUTPUT) else [NO_OUTPUT]


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
    if selector == WHOLE:
        return []
    if selector == EVERYTHING:
        return [channels.c.name != AUDIT]
    if selector.endswith(":*"):
        # A range in the order of bytes, which SQLite's index has; a PostgreSQL's locale may have another.
        name = channels.c.name.collate("C") if dialect == "postgresql" else channels.c.name
        return [name >= selector[:-1], name < selector[:-2] + ";"]
    return [channels.c.name == selector]


def list_entities(
    connection: Connection,
    entity: Entity[V],
    wanted: Any,
    after: Sequence[Any] | None,
    limit: int,
    sort: str | None,
    skip: int,
) -> tuple[list[V], bool]:
    """List entities in their order, or sorted, behind a keyset cursor; tell whether there are more.

    Returns fewer than ``limit`` when they reach ``PAGE_BYTES``; none only when there are none.
    """
    statement: Select[Any] = select(entity.table, entity.size.label("_size")).where(
        *entity.narrowed(connection, wanted)
    )
    if after is not None:
        statement = statement.where(entity.after(after, sort))
    order = [column.desc() for column in entity.sorted_by(sort)] if sort else entity.listed
    statement = statement.order_by(*order).limit(limit + 1).offset(skip or None)
    found, more = within_bytes(connection, statement, lambda row: row._mapping["_size"])
    return [entity.to_value(row._mapping) for row in found[:limit]], more or len(found) > limit


def get_entity(connection: Connection, entity: Entity[V], key: Key) -> V | None:
    """Return one entity."""
    row = connection.execute(select(entity.table).where(entity.of_key(key))).mappings().one_or_none()
    return None if row is None else entity.to_value(row)


def count_entities(connection: Connection, entity: Entity[V], name: str, wanted: Any) -> dict[Any, int]:
    """Count the entities of each value of a column, of those that pass a filter."""
    column = entity.table.c[name]
    narrowed = [] if wanted is None else entity.narrowed(connection, wanted)
    rows = connection.execute(select(column, func.count()).where(*narrowed).group_by(column))
    return {row[0]: row[1] for row in rows}


def newest_entities(
    connection: Connection, entity: Entity[V], name: str, values: Iterable[str]
) -> dict[str, V]:
    """Return the newest entity of each value of a column, without what may be large, by looks at an index."""
    newest = select(*entity.small).order_by(*entity.listed).limit(1)
    found = {}
    for value in values:
        row = connection.execute(newest.where(entity.table.c[name] == value)).mappings().one_or_none()
        if row is not None:
            found[value] = entity.to_value(row)
    return found
