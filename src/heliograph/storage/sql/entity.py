"""The declaration of a folded entity: its table, and what the fold and the lists need to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from datetime import datetime
from functools import cache, lru_cache
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
    # Half of what a row takes to decode are its moments, and a page that is asked for again has the same.
    UtcMoment: lru_cache(maxsize=4096)(from_microseconds),
    Json: orjson.loads,
    Boolean: bool,
    **dict.fromkeys((BigInteger, Integer, Text, Double)),
}
"""By column type: the conversion of the driver's value; ``None``: no conversion is needed."""


@cache
def _fields_of(cls: Any) -> tuple[str, ...]:
    return tuple(field.name for field in attrs.fields(cls))


@attrs.frozen(eq=False)
class Steady(Generic[V]):
    """A fast path: most events only add to an entity's counts, so its row need not be read.

    It is for kinds whose entities have a channel each. While an entity is steady, events of topics other than
    ``changing`` are added up per channel, and one statement adds the sums to the row.

    Args:
        changing: The topics whose events can do more than add.
        is_steady: Tells whether an entity is steady; once it is, it remains so.
        add: The adding statement, run once for each channel.
        row: Makes the parameters of ``add``, in the database's values, from a channel's events.
    """

    changing: frozenset[str]
    is_steady: Callable[[V], bool]
    add: Prepared
    row: Callable[[Sequence[Event]], Mapping[str, Any]]


@attrs.frozen(eq=False)
class Merging(Generic[V]):
    """The correction of a large column by a batch; the fold has not read that column.

    Args:
        due: Tells whether events can only correct that column now, given the entity as it was read.
        write: Reads the column of those entities where the batch has set it, and merges it: into the entity,
            or into the row, and then sets the entity's to ``None``. It reads one at a time where the column
            may be large (``one_by_one``), and what several need only once.
    """

    due: Callable[[V], bool]
    write: Callable[[Connection, Sequence[V]], None]


def one_by_one(write: Callable[[Connection, V], None]) -> Callable[[Connection, Sequence[V]], None]:
    """Make a function of one entity one of several."""

    def write_all(connection: Connection, values: Sequence[V]) -> None:
        for value in values:
            write(connection, value)

    return write_all


@attrs.frozen(eq=False)
class Beside(Generic[V]):
    """Rows of another table that follow from an entity, such as the words that it is found by.

    Args:
        table: The other table; all its columns are its key.
        rows: Returns an entity's rows as tuples in the order of the columns.
    """

    table: Table
    rows: Callable[[V], Set[tuple[Any, ...]]]


@attrs.frozen(eq=False)
class Retired:
    """The entities that retention removes, given the oldest moment that is kept.

    Args:
        since: An indexed column; entities with an earlier moment than the oldest are removed.
        only: A further condition, given that moment.
        along: Columns of other tables that hold the entity's key; their rows are removed with it.
    """

    since: Column[Any]
    only: Callable[[datetime], ColumnElement[bool]] = lambda moment: true()
    along: tuple[Column[Any], ...] = ()


@attrs.frozen
class Probed:
    """A condition that was chosen after a look into the database.

    Args:
        shape: Equal shapes have the same condition; ``None``: the condition is compiled each time.
        condition: Makes the condition.
        values: The values of its parameters.
    """

    shape: tuple[Any, ...] | None
    condition: Callable[[], ColumnElement[bool]] = attrs.field(eq=False)
    values: Mapping[str, Any] = attrs.field(factory=dict, eq=False)


@attrs.frozen(eq=False)
class Entity(Generic[V]):
    """A kind of entity, and how it is stored.

    Args:
        kind: The kind of entity.
        table: The table, with a column for each field of the kind's values.
        sorts: The columns that lists may be sorted by, by name; largest first, and never null.
        filters: By field of the kind's filter, the condition of a value; without one the column of that name
            must equal the value.
        large: Columns of up to a megabyte that the fold never reads, since a batch may touch thousands of
            entities. They are written where the fold has set them, and measured in lists.
        cut: Columns that the fold reads in part.
        kept: Names the columns of an entity that are not written, besides the large ones that are ``None``.
        steady: The fast path.
        merging: The corrections of large columns; in the others a new value replaces the old one.
        beside: Rows of another table that follow from the entity.
        retired: The entities that retention removes; ``None``: none.
        probed: Filters whose condition is chosen after a look into the database.
    """

    kind: Kind[V]
    table: Table
    filters: Mapping[str, Callable[[Any], ColumnElement[bool]]] = attrs.field(factory=dict)
    sorts: Mapping[str, ColumnElement[int]] = attrs.field(factory=dict)
    large: tuple[str, ...] = ()
    cut: Mapping[str, ColumnElement[Any]] = attrs.field(factory=dict)
    kept: Callable[[V], Set[str]] = lambda value: frozenset()
    steady: Steady[V] | None = None
    merging: Sequence[Merging[V]] = ()
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
        """Return the function that makes an entity of a whole row in the driver's values.

        The columns of a table are in the order of its value's fields.
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
        """Return the fold's query for entities; the parameter ``wanted`` is the first parts of their keys."""
        return select(*self.small).where(in_list(self.key[0]))

    def of_key(self, key: Key) -> ColumnElement[bool]:
        """Return the condition that finds one entity."""
        return and_(*(column == value for column, value in zip(self.key, key, strict=True)))

    def given(self, wanted: Any) -> dict[str, Any]:
        """Return the fields of a filter that are set, with their values."""
        return {
            name: value
            for name in _fields_of(wanted.__class__)
            if (value := getattr(wanted, name)) is not None and value != ()
        }

    def narrowed(
        self, connection: Connection, wanted: Any
    ) -> tuple[list[ColumnElement[bool]], dict[str, Any]]:
        """Return the conditions of a filter, and the parameters of the probed ones."""
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

        ``value`` may be a bound parameter, or a list of them.
        """
        return self.filters[name](value) if name in self.filters else self.table.c[name] == value

    def sorted_by(self, sort: str) -> Sequence[ColumnElement[Any]]:
        """Return the columns by which a sorted list is ordered, each largest first."""
        return [self.sorts[sort], *self.key]

    def after(self, sort: str | None = None) -> ColumnElement[bool]:
        """Return the condition of rows after a position in a list, in parameters ``after_0`` and so on."""
        columns = self.sorted_by(sort) if sort else [self.table.c[name] for name in self.kind.order]
        typed = [bindparam(f"after_{n}", type_=column.type) for n, column in enumerate(columns)]
        here, there = tuple_(*columns), tuple_(*typed)
        return here > there if self.kind.ascending and not sort else here < there

    def to_value(self, row: RowMapping) -> V:
        """Make an entity of a row, or of the columns that were read."""
        return self.kind.value(**{c.name: row[c.name] for c in self.table.c if c.name in row})

    def to_row(self, value: V) -> dict[str, Any]:
        """Return the columns of an entity that are to be written."""
        row = attrs.asdict(value, recurse=False)  # type: ignore[arg-type]
        left = {name for name in self.large if row[name] is None} | self.kept(value)
        return {name: cell for name, cell in row.items() if name not in left}
