"""The declaration of a folded entity: its table, and all that the fold and the lists must know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from datetime import datetime
from functools import cache
from typing import Any, Generic

import attrs
import orjson
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Double,
    Integer,
    RowMapping,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    select,
    true,
    tuple_,
)

from heliograph.model.event import Event
from heliograph.model.ids import from_microseconds
from heliograph.model.kind import Key, Kind, V
from heliograph.storage.sql.database import in_list
from heliograph.storage.sql.prepared import Prepared
from heliograph.storage.sql.schema import Json, UtcMoment

DECODES: Mapping[type, Callable[[Any], Any] | None] = {
    UtcMoment: from_microseconds,
    Json: orjson.loads,
    Boolean: bool,
    **dict.fromkeys((BigInteger, Integer, Text, Double)),
}
"""By type of a column: what makes its value of what the driver gives; ``None``: it is that already."""


@cache
def _fields_of(cls: Any) -> tuple[str, ...]:
    return tuple(field.name for field in attrs.fields(cls))


@attrs.frozen(eq=False)
class Steady(Generic[V]):
    """A fast path: most events only add to what is counted of an entity, and need not read it.

    It is for kinds with channels of their own. As long as an entity is steady, events of other topics than
    ``changing`` are added up per channel, and one statement adds that to the row.

    Args:
        changing: The topics that can do more than add.
        holds: Tells whether an entity is steady; once it is, it remains so.
        add: The statement, run once for each channel.
        row: Makes its parameters, as the database keeps them, from a channel's events.
    """

    changing: frozenset[str]
    holds: Callable[[V], bool]
    add: Prepared
    row: Callable[[Sequence[Event]], Mapping[str, Any]]


@attrs.frozen(eq=False)
class Merging(Generic[V]):
    """The correction of a large column by a batch; the fold has not read that column.

    Args:
        due: Tells of an entity, as it was read, whether events can only correct that column now.
        write: Reads the column if the batch has set it, merges and writes it, and sets it to ``None``. It is
            one entity at a time, since the column may be large.
    """

    due: Callable[[V], bool]
    write: Callable[[Connection, V], None]


@attrs.frozen(eq=False)
class Beside(Generic[V]):
    """Rows of another table that follow from an entity, such as the words that it is found by.

    Args:
        table: All its columns are its key.
        rows: Returns them as tuples in the order of the columns.
    """

    table: Table
    rows: Callable[[V], Set[tuple[Any, ...]]]


@attrs.frozen(eq=False)
class Retired:
    """The entities that need not be kept, given the oldest moment that is kept.

    Args:
        since: An indexed column: only entities of before that moment.
        only: A further condition.
        along: Columns of other tables that name the entity by its key; their rows go with it.
    """

    since: Column[Any]
    only: Callable[[datetime], ColumnElement[bool]] = lambda moment: true()
    along: tuple[Column[Any], ...] = ()


@attrs.frozen
class Probed:
    """A condition of which the database was asked first how to go about it.

    Args:
        shape: Equal ones have the same condition; ``None``: it is compiled each time.
        condition: Makes it.
        values: Of its parameters.
    """

    shape: tuple[Any, ...] | None
    condition: Callable[[], ColumnElement[bool]] = attrs.field(eq=False)
    values: Mapping[str, Any] = attrs.field(factory=dict, eq=False)


@attrs.frozen(eq=False)
class Entity(Generic[V]):
    """A kind of entity, and how it is kept.

    Args:
        kind: The kind of entity.
        table: The table, with a column for each field of the kind's values.
        sorts: The columns that lists may be sorted by, by name, largest first and never null.
        filters: By field of the kind's filter, how a value narrows a list; a field that is not here is a
            column, and must be equal.
        large: Columns of up to a megabyte that the fold never reads: a batch over thousands of entities must
            not read all of theirs. They are written where they were set, and measured in lists.
        cut: Columns that the fold reads in part.
        kept: Names the columns that stay as they are for an entity, besides the large ones that are ``None``.
        steady: The fast path.
        merging: The correction of a large column; ``None``: a new value replaces the old one.
        beside: Rows that follow from it.
        retired: The entities that retention removes; ``None``: none.
        probed: Filters for which the database must be asked first how to go about it.
    """

    kind: Kind[V]
    table: Table
    filters: Mapping[str, Callable[[Any], ColumnElement[bool]]] = attrs.field(factory=dict)
    sorts: Mapping[str, ColumnElement[int]] = attrs.field(factory=dict)
    large: tuple[str, ...] = ()
    cut: Mapping[str, ColumnElement[Any]] = attrs.field(factory=dict)
    kept: Callable[[V], Set[str]] = lambda value: frozenset()
    steady: Steady[V] | None = None
    merging: Merging[V] | None = None
    beside: Beside[V] | None = None
    retired: Retired | None = None
    probed: Mapping[str, Callable[[Connection, Any], Probed]] = attrs.field(factory=dict)

    @property
    def key(self) -> Sequence[Column[Any]]:
        """The columns of the key."""
        return [self.table.c[name] for name in self.kind.key]

    @property
    def small(self) -> Sequence[ColumnElement[Any]]:
        """The columns that the fold reads."""
        return [self.cut.get(c.name, c) for c in self.table.c if c.name not in self.large]

    @property
    def listed(self) -> Sequence[ColumnElement[Any]]:
        """The order of lists."""
        columns = [self.table.c[name] for name in self.kind.order]
        return columns if self.kind.ascending else [column.desc() for column in columns]

    @property
    def long(self) -> Sequence[str]:
        """The names of the columns that may be large."""
        return (*self.large, *self.cut)

    def decoder(self) -> Callable[[Sequence[Any]], V]:
        """Return what makes an entity of a whole row, as the driver gives it.

        The columns of a table are in the order of the fields of its values.
        """
        made, converts = self.kind.value, [(n, DECODES[type(c.type)]) for n, c in enumerate(self.table.c)]
        needed = [(n, convert) for n, convert in converts if convert is not None]

        def decode(row: Sequence[Any]) -> V:
            cells = list(row)
            for n, convert in needed:
                if cells[n] is not None:
                    cells[n] = convert(cells[n])
            return made(*cells)

        return decode

    def reading(self) -> Select[Any]:
        """Return the fold's question for entities; ``wanted`` are the first parts of their keys."""
        return select(*self.small).where(in_list(self.key[0]))

    def of_key(self, key: Key) -> ColumnElement[bool]:
        """Return the condition that finds one entity."""
        return and_(*(column == value for column, value in zip(self.key, key, strict=True)))

    def given(self, wanted: Any) -> dict[str, Any]:
        """Return the fields of a filter that narrow, with their values."""
        return {
            name: value
            for name in _fields_of(wanted.__class__)
            if (value := getattr(wanted, name)) is not None and value != ()
        }

    def narrowed(
        self, connection: Connection, wanted: Any
    ) -> tuple[list[ColumnElement[bool]], dict[str, Any]]:
        """Return the conditions of a filter, and the parameters of those that were probed for."""
        conditions, values = [], dict[str, Any]()
        for name, value in self.given(wanted).items():
            if name in self.probed:
                one = self.probed[name](connection, value)
                conditions.append(one.condition())
                values |= one.values
            else:
                conditions.append(self.condition(name, value))
        return conditions, values

    def condition(self, name: str, value: Any) -> ColumnElement[bool]:
        """Return the condition of one field of a filter that is not probed.

        The value may be a parameter, or a list of them.
        """
        return self.filters[name](value) if name in self.filters else self.table.c[name] == value

    def sorted_by(self, sort: str) -> Sequence[ColumnElement[Any]]:
        """Return the columns of a list that is sorted, each with its largest first."""
        return [self.sorts[sort], *self.key]

    def after(self, sort: str | None = None) -> ColumnElement[bool]:
        """Return the condition of what comes after a position in a list: parameters ``after_0`` and so on."""
        columns = self.sorted_by(sort) if sort else [self.table.c[name] for name in self.kind.order]
        typed = [bindparam(f"after_{n}", type_=column.type) for n, column in enumerate(columns)]
        here, there = tuple_(*columns), tuple_(*typed)
        return here > there if self.kind.ascending and not sort else here < there

    def to_value(self, row: RowMapping) -> V:
        """Make an entity of a row, or of as much of it as was read."""
        return self.kind.value(**{c.name: row[c.name] for c in self.table.c if c.name in row})

    def to_row(self, value: V) -> dict[str, Any]:
        """Return the columns to be written of an entity."""
        row = attrs.asdict(value, recurse=False)  # type: ignore[arg-type]
        left = {name for name in self.large if row[name] is None} | self.kept(value)
        return {name: cell for name, cell in row.items() if name not in left}
