"""Questions whose answer may be large: a page ends by a number of rows, or shortly after ``PAGE_BYTES``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

import attrs
from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    Select,
    Text,
    bindparam,
    cast,
    func,
    literal_column,
    select,
)
from sqlalchemy.sql.operators import desc_op

from heliograph.storage.sql.prepared import Prepared

PAGE_BYTES = 1024 * 1024
ZERO: ColumnElement[int] = literal_column("0")

Raw = Sequence[Any]
"""A row in the driver's values."""

USUAL = frozenset({21, 51, 101, 501})
"""Limits that PostgreSQL is given in the statement. For a limit that is a parameter it finds no plan that is
good enough to be kept, so it would plan each time, which takes longer than to run a page."""


@attrs.frozen(eq=False)
class Paged:
    """A question whose answer may be large.

    Args:
        statement: The query for the first ``most`` rows.
        make: Makes the same for PostgreSQL from the limit. Where rows may be large it ends them itself
            shortly after ``PAGE_BYTES``, since its answers come whole; a last column then gives the size of
            all rows before each.
        long: The indexes of the columns that may be large.
    """

    statement: Prepared
    make: Callable[[ColumnElement[int]], Select[Any]]
    long: tuple[int, ...]
    _made: dict[int | None, Prepared] = attrs.field(factory=dict)

    def on_postgresql(self, most: int) -> Prepared:
        """Return PostgreSQL's form of the question for a limit."""
        written = most if most in USUAL else None
        found = self._made.get(written)
        if found is None:
            limit = MOST if written is None else literal_column(str(written), Integer)
            found = self._made[written] = Prepared(self.make(limit))
        return found


MOST = bindparam("most", type_=Integer)


def asked_of(statement: Select[Any], order: Sequence[ColumnElement[Any]], long: Sequence[str]) -> Paged:
    """Make a question of a statement, its order and the names of the columns that may be large."""
    names = list(statement.selected_columns.keys())

    def whole(limit: ColumnElement[int]) -> Select[Any]:
        return statement.order_by(*order).limit(limit)

    def bounded(limit: ColumnElement[int]) -> Select[Any]:
        falling = [getattr(one, "modifier", None) is desc_op for one in order]
        raw = [one.element if down else one for one, down in zip(order, falling, strict=True)]

        def sorted_as(source: FromClause) -> list[ColumnElement[Any]]:
            columns = [source.c[f"_order_{n}"] for n in range(len(raw))]
            return [one.desc() if down else one for one, down in zip(columns, falling, strict=True)]

        sorting = [one.label(f"_order_{n}") for n, one in enumerate(raw)]
        inner = whole(limit).add_columns(*sorting).subquery()
        size = reduce(
            add, (func.coalesce(func.octet_length(cast(inner.c[name], Text)), ZERO) for name in long)
        )
        # One window for both, or the database would go over the rows twice.
        window: Any = {"order_by": sorted_as(inner), "rows": (None, 0)}
        before = func.sum(size).over(**window) - size
        earlier = before - func.lag(size, literal_column("1"), ZERO).over(**window)
        sized = select(inner, before.label("_before"), earlier.label("_earlier")).subquery()
        # One row more than fills the page, which tells that there are more.
        return (
            select(*(sized.c[name] for name in names), sized.c["_before"])
            .where(sized.c["_earlier"] < literal_column(str(PAGE_BYTES)))
            .order_by(*sorted_as(sized))
        )

    return Paged(Prepared(whole(MOST)), bounded if long else whole, tuple(map(names.index, long)))


def within_bytes(connection: Connection, asked: Paged, values: Mapping[str, Any]) -> tuple[list[Raw], bool]:
    """Fetch rows until they reach ``PAGE_BYTES``; tell whether that cut the result."""
    found: list[Raw] = []
    long = asked.long
    if connection.dialect.name == "postgresql":
        rows = asked.on_postgresql(values["most"]).rows(connection, values)
        if not long:
            return list(rows), False
        for row in rows:
            if row[-1] >= PAGE_BYTES:
                return found, True
            found.append(row[:-1])
        return found, False
    size = 0
    for row in asked.statement.rows(connection, values):
        if size >= PAGE_BYTES:
            return found, True
        found.append(row)
        for place in long:
            size += len(row[place] or "")
    return found, False
