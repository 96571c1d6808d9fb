"""Statements of the hot path: written in SQLAlchemy Core, compiled once, then run by the driver as they are.

To execute a Core statement costs SQLAlchemy several times more than SQLite takes to run it. What is appended
and folded with every publish is therefore compiled once per dialect, with the types' own conversions, and
from then on is text and tuples for the driver, inside the same connection and transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Executable, Table
from sqlalchemy import insert as core_insert
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.compiler import SQLCompiler

DIALECTS: dict[str, Dialect] = {
    "sqlite": sqlite.dialect(paramstyle="qmark"),
    "postgresql": psycopg.dialect(paramstyle="format"),  # type: ignore[no-untyped-call]
}

Row = Mapping[str, Any]
Values = Callable[[Any], tuple[Any, ...]]
"""Makes the parameters of a statement, in their order, out of a row."""


class Prepared:
    """One statement, compiled for a dialect when it is first run there.

    Args:
        statement: A Core statement whose parameters have names.
        columns: The columns that the rows of an insert have.
        raw: Rows have values as the database keeps them, such as microseconds for a time, and with
            ``columns`` are tuples of them: converting and naming them costs more than the rest.
    """

    def __init__(
        self, statement: Executable, columns: Sequence[str] | None = None, *, raw: bool = False
    ) -> None:
        self._statement = statement
        self._columns = columns
        self._raw = raw
        self._forms: dict[str, tuple[str, Values]] = {}

    def run(self, connection: Connection, rows: Iterable[Row | tuple[Any, ...]]) -> int:
        """Run it once for each row; return how many rows of the table it touched.

        Raises:
            Exception: The driver's own errors, not SQLAlchemy's.
        """
        sql, values = self._forms.get(connection.dialect.name) or self._compile(connection.dialect.name)
        cursor = connection.connection.dbapi_connection.cursor()  # type: ignore[union-attr]  # it is open
        cursor.executemany(sql, list(map(values, rows)))
        return cursor.rowcount

    def fetch(self, connection: Connection, **values: Any) -> Sequence[Any]:
        """Run it once; return its rows with the values as the driver gives them.

        Raises:
            Exception: The driver's own errors, not SQLAlchemy's.
        """
        sql, take = self._forms.get(connection.dialect.name) or self._compile(connection.dialect.name)
        cursor = connection.connection.dbapi_connection.cursor()  # type: ignore[union-attr]  # it is open
        cursor.execute(sql, take(values))
        return cursor.fetchall()

    def _compile(self, name: str) -> tuple[str, Values]:
        dialect = DIALECTS[name]
        compiled = self._statement.compile(dialect=dialect, column_keys=self._columns)  # type: ignore[attr-defined]
        assert isinstance(compiled, SQLCompiler)
        names = list(compiled.positiontup or ())
        types = [compiled.binds[name].type.dialect_impl(dialect) for name in names]
        if self._raw and self._columns is not None:
            values: Values = itemgetter(*map(self._columns.index, names))
        else:
            values = _values(names, [None if self._raw else kind.bind_processor(dialect) for kind in types])
        form = self._forms[name] = str(compiled), values
        return form


def _values(names: Sequence[str], converts: Sequence[Callable[[Any], Any] | None]) -> Values:
    if len(names) > 1 and not any(converts):
        return itemgetter(*names)
    parameters = list(zip(names, converts, strict=True))
    return lambda row: tuple(
        [row[name] if convert is None else convert(row[name]) for name, convert in parameters]
    )


def insert(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows; all have the same columns."""
    if rows:
        _insert(table, tuple(rows[0])).run(connection, rows)


def upsert(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows, replacing those whose primary key is there; all have the same columns."""
    if rows:
        _upsert(connection.dialect.name, table, tuple(rows[0])).run(connection, rows)


def upsertion(dialect: str, table: Table, columns: Sequence[str]) -> Executable:
    """Return the statement that inserts a row of these columns, or replaces the one of its primary key."""
    statement: Any = (postgresql if dialect == "postgresql" else sqlite).insert(table)
    key = [column.name for column in table.primary_key]
    changed = {name: statement.excluded[name] for name in columns if name not in key}
    made: Executable = statement.on_conflict_do_update(index_elements=key, set_=changed)
    return made


@cache
def _insert(table: Table, columns: tuple[str, ...]) -> Prepared:
    return Prepared(core_insert(table), columns)


@cache
def _upsert(dialect: str, table: Table, columns: tuple[str, ...]) -> Prepared:
    return Prepared(upsertion(dialect, table, columns), columns)
