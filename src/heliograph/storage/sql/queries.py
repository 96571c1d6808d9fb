"""The questions, as functions of a connection; the same SQL on SQLite and PostgreSQL.

Lists go by keyset; OFFSET is used only for the bounded ``skip``. A selection of several channels is a union
of one limited index range per channel, since ``channel IN (…) ORDER BY id`` would sort all events of the
channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Text,
    bindparam,
    func,
    select,
    union_all,
)

from heliograph.model.channels import EVERYTHING, Selection, topic_matches
from heliograph.model.event import Event
from heliograph.model.ids import EventId, from_microseconds
from heliograph.model.kind import Key, V
from heliograph.storage.sql.checkpoint import note_checkpoint
from heliograph.storage.sql.entity import Entity, Probed
from heliograph.storage.sql.pages import MOST, Paged, Raw, asked_of, within_bytes
from heliograph.storage.sql.prepared import Prepared
from heliograph.storage.sql.schema import (
    NO_AUDIT,
    NO_OUTPUT,
    OUTPUT,
    UNNAMED,
    events,
)

SHAPES = 512
"""The number of forms of one question that stay compiled."""


def see_one_moment(connection: Connection) -> None:
    """Have all further questions of the transaction answered as of one moment; to be called first."""
    if connection.dialect.name == "postgresql":  # SQLite's transactions see one moment anyway
        connection.exec_driver_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")


def to_event(row: Raw) -> Event:
    """Make an event of a row of the table of events."""
    event_id, channel, seq, topic, timestamp, sender, correlation_id, payload = row[:8]
    return Event(
        event_id,
        channel,
        seq,
        topic,
        from_microseconds(timestamp),
        orjson.loads(payload),
        sender,
        correlation_id,
        payload.encode(),
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
        newest: Whether to begin at the newest and go back; otherwise at the oldest.
        sender: Only events of this sender.
        correlation_id: Only events with this correlation id.

    Returns:
        The events in the order read, and whether there may be more: a limit was reached.
    """
    given = {"after": after, "before": before, "sender": sender, "correlation_id": correlation_id}
    window = {name: value for name, value in given.items() if value is not None}
    asked, values = _selected(selection, tuple(window), newest=newest, whole=True)
    found, more = within_bytes(connection, asked, {**values, **window, "most": limit})
    return list(map(to_event, found)), more or len(found) == limit


def last_ids(
    connection: Connection, selection: Selection, count: int, *, before: int | None = None
) -> list[EventId]:
    """Return the ids of a selection's last ``count`` events, newest first; only those below ``before``."""
    window = {} if before is None else {"before": before}
    asked, values = _selected(selection, tuple(window), newest=True, whole=False)
    rows = asked.statement.rows(connection, {**values, **window, "most": count})
    return [EventId(row[0]) for row in rows]


def _selected(
    selection: Selection, window: tuple[str, ...], *, newest: bool, whole: bool
) -> tuple[Paged, dict[str, Any]]:
    """Return the question for a selection's first (or ``newest``) events in a window, and its parameters."""
    forms, values = [], dict[str, Any]()
    for number, selector in enumerate(selection.selectors):
        form = UNNAMED.get(selector) or ("prefix" if selector.endswith(":*") else "one")
        forms.append(form)
        values |= _pattern(f"channel_{number}", selector, form)
    topic = selection.topic
    form = "all" if topic == EVERYTHING else "prefix" if topic.endswith(".*") else "one"
    values |= _pattern("topic", topic, form)
    no_output = not topic_matches(topic, OUTPUT)
    return _events_asked(tuple(forms), form, no_output, window, newest, whole), values


def _pattern(name: str, pattern: str, form: str) -> dict[str, Any]:
    if form == "prefix":
        return {name: pattern[:-1], f"{name}_length": len(pattern) - 1}
    return {name: pattern} if form == "one" else {}


@lru_cache(maxsize=SHAPES)
def _events_asked(
    channels: tuple[str, ...],
    topic: str,
    no_output: bool,
    window: tuple[str, ...],
    newest: bool,
    whole: bool,
) -> Paged:
    what = select(events) if whole else select(events.c.id)
    order = events.c.id.desc() if newest else events.c.id
    conditions = [WINDOWS[name] for name in window] + _matches(events.c.topic, "topic", topic)
    ranges = [
        # Saying that there is no output among the topics lets the database use the index without output.
        what.where(
            *conditions,
            *([NO_AUDIT] if form == "all" else _matches(events.c.channel, f"channel_{number}", form)),
            *([NO_OUTPUT] if no_output and form == "one" else []),
        )
        for number, form in enumerate(channels)
    ]
    long = ("payload",) if whole else ()
    if len(ranges) == 1:
        return asked_of(ranges[0], [order], long)
    limited = (one.order_by(order).limit(MOST).subquery() for one in ranges)
    merged = union_all(*map(select, limited)).subquery()
    return asked_of(select(merged), [merged.c.id.desc() if newest else merged.c.id], long)


WINDOWS: Mapping[str, ColumnElement[bool]] = {
    "after": events.c.id > bindparam("after"),
    "before": events.c.id < bindparam("before"),
    "sender": events.c.sender == bindparam("sender"),
    "correlation_id": events.c.correlation_id == bindparam("correlation_id"),
}


def _matches(column: ColumnElement[str], name: str, form: str) -> list[ColumnElement[bool]]:
    if form in {"all", "whole"}:
        return []
    if form == "prefix":
        # substr, not LIKE: the database would read LIKE as a range in the order of names, and then sort it
        return [
            func.substr(column, 1, bindparam(f"{name}_length", type_=Integer)) == bindparam(name, type_=Text)
        ]
    return [column == bindparam(name)]


def list_entities(
    connection: Connection,
    entity: Entity[V],
    wanted: Any,
    after: Sequence[Any] | None,
    limit: int,
    sort: str | None,
    skip: int,
) -> tuple[list[V], bool]:
    """List entities in their order, or sorted, after a keyset cursor; tell whether there are more.

    Returns fewer than ``limit`` when they reach ``PAGE_BYTES``; none only when there are none.
    """
    shape, probed, values = _narrowing(connection, entity, wanted)
    values |= {"most": limit + 1, "skip": skip}
    if after is not None:
        values |= {f"after_{n}": value for n, value in enumerate(after)}
    compiled = _list_asked if _is_shaped(probed) else _list_asked.__wrapped__
    asked = compiled(entity, shape, probed, after is not None, sort, skip > 0)
    found, more = within_bytes(connection, asked, values)
    return list(map(_decoder(entity), found[:limit])), more or len(found) > limit


def _is_list(value: Any) -> bool:
    return isinstance(value, tuple | list | frozenset | set)


def _form(value: Any) -> Any:
    """Return the part of a value that changes the statement: a boolean itself, or a list's length."""
    return value if isinstance(value, bool) else len(value) if _is_list(value) else None


Shape = tuple[tuple[str, Any], ...]
"""The fields of a filter that are set, with the form of each."""


def _narrowing(
    connection: Connection, entity: Entity[Any], wanted: Any
) -> tuple[Shape, tuple[Probed, ...], dict[str, Any]]:
    """Return the shape of a filter, its probed conditions, and all parameters."""
    shape, probed, values = [], [], dict[str, Any]()
    for name, value in entity.given(wanted).items():
        if name in entity.probed:
            one = entity.probed[name](connection, value)
            probed.append(one)
            values |= one.values
        else:
            shape.append((name, _form(value)))
            values |= {f"{name}_{n}": v for n, v in enumerate(value)} if _is_list(value) else {name: value}
    return tuple(shape), tuple(probed), values


def _is_shaped(probed: Iterable[Probed]) -> bool:
    return all(one.shape is not None for one in probed)


@lru_cache(maxsize=SHAPES)
def _list_asked(
    entity: Entity[Any], shape: Shape, probed: tuple[Probed, ...], after: bool, sort: str | None, skip: bool
) -> Paged:
    statement = select(entity.table).where(*_conditions(entity, shape, probed))
    if after:
        statement = statement.where(entity.after(sort))
    if skip:
        statement = statement.offset(bindparam("skip", type_=Integer))
    order = [column.desc() for column in entity.sorted_by(sort)] if sort else entity.listed
    return asked_of(statement, order, entity.long)


def _conditions(entity: Entity[Any], shape: Shape, probed: Iterable[Probed]) -> list[ColumnElement[bool]]:
    conditions = [one.condition() for one in probed]
    for name, form in shape:
        value: Any = bindparam(name) if form is None else form
        if isinstance(form, int) and not isinstance(form, bool):
            value = [bindparam(f"{name}_{n}") for n in range(form)]
        conditions.append(entity.condition(name, value))
    return conditions


@cache
def _decoder(entity: Entity[V]) -> Callable[[Raw], V]:
    return entity.decoder()


@cache
def _get_asked(entity: Entity[Any]) -> Prepared:
    named = [column == bindparam(column.name) for column in entity.key]
    return Prepared(select(entity.table).where(*named))


def get_entity(connection: Connection, entity: Entity[V], key: Key) -> V | None:
    """Return one entity."""
    named = dict(zip(entity.kind.key, key, strict=True))
    rows = list(_get_asked(entity).rows(connection, named))
    return _decoder(entity)(rows[0]) if rows else None


def count_entities(connection: Connection, entity: Entity[V], name: str, wanted: Any) -> dict[Any, int]:
    """Count the entities of each value of a column, of those that pass a filter."""
    shape, probed, values = _narrowing(connection, entity, wanted) if wanted is not None else ((), (), {})
    compiled = _count_asked if _is_shaped(probed) else _count_asked.__wrapped__
    return dict(compiled(entity, name, shape, probed).rows(connection, values))


@lru_cache(maxsize=SHAPES)
def _count_asked(entity: Entity[Any], name: str, shape: Shape, probed: tuple[Probed, ...]) -> Prepared:
    column = entity.table.c[name]
    return Prepared(select(column, func.count()).where(*_conditions(entity, shape, probed)).group_by(column))


def newest_entities(
    connection: Connection, entity: Entity[V], name: str, values: Iterable[str]
) -> dict[str, V]:
    """Return the newest entity of each value of a column, without large columns, by lookups in an index."""
    note_checkpoint(connection)
    newest = select(*entity.small).order_by(*entity.listed).limit(1)
    found = {}
    for value in values:
        row = connection.execute(newest.where(entity.table.c[name] == value)).mappings().one_or_none()
        if row is not None:
            found[value] = entity.to_value(row)
    return found
