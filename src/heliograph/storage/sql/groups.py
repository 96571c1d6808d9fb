"""Groups of entities: a column's values and their counts; the group with the newest entity comes first."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, literal, literal_column, select, tuple_, type_coerce

from heliograph.model.ids import from_microseconds
from heliograph.storage.protocols import Group
from heliograph.storage.sql.checkpoint import note_checkpoint
from heliograph.storage.sql.entity import Entity
from heliograph.storage.sql.queries import see_one_moment
from heliograph.storage.sql.schema import Big


def list_groups(
    connection: Connection,
    entity: Entity[Any],
    name: str,
    split: str,
    wanted: Any,
    after: tuple[int, str] | None,
    limit: int,
) -> tuple[list[Group], bool]:
    """List the groups of the entities that pass a filter, after a position; tell whether there are more.

    Only the listed groups are counted: there may be as many groups as entities.
    """
    see_one_moment(connection)
    note_checkpoint(connection)
    narrowed, values = entity.narrowed(connection, wanted)
    # A literal, not a parameter: PostgreSQL would not see that both expressions are the same.
    group = func.coalesce(entity.table.c[name], literal_column("''")).label("grouped")
    newest = func.max(type_coerce(entity.table.c.created_at, Big), type_=Big).label("newest")
    listed = select(group, newest).where(*narrowed).group_by(group)
    if after is not None:
        there = tuple_(literal(after[0], Big), literal(after[1]))
        listed = listed.having(tuple_(newest, group) < there)
    listed = listed.order_by(newest.desc(), group.desc()).limit(limit + 1)
    found = connection.execute(listed, values).all()
    shown = found[:limit]
    counts: dict[str, dict[Any, int]] = {row.grouped: {} for row in shown}
    parts = select(group, entity.table.c[split], func.count()).where(*narrowed, group.in_(list(counts)))
    for key, value, count in connection.execute(parts.group_by(group, entity.table.c[split]), values):
        counts[key][value] = count
    groups = [Group(row.grouped or None, from_microseconds(row.newest), counts[row.grouped]) for row in shown]
    return groups, len(found) > limit
