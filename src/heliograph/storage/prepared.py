"""Statements of the hot path: written in SQLAlchemy Core, compiled once, then run by the driver as they are.

To execute a Core statement costs SQLAlchemy several times more than SQLite takes to run it. What is appended
and folded with every publish is therefore compiled once per dialect, with the types' own conversions, and
from then on is text and tuples for the driver, inside the same connection and transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from functools import cache
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

Parameters = Sequence[tuple[str, Callable[[Any], Any] | None]]
"""Names of a statement's parameters in order, each with the conversion of its type."""


class Prepared:
    """One statement, compiled for a dialect when it is first run there.

    Args:
        statement: A Core statement whose parameters have names.
        columns: Of an insert: which columns its rows have.
    """

    def __init__(self, statement: Executable, columns: Sequence[str] | None = None) -> None:
        self._statement = statement
        self._columns = columns
        self._forms: dict[str, tuple[str, Parameters]] = {}

    def run(self, connection: Connection, rows: Iterable[Mapping[str, Any]]) -> int:
        """Run it once for each row; return how many rows of the table it touched.

        Raises:
            Exception: The driver's own errors, not SQLAlchemy's.
        """
        sql, parameters = self._form(connection)
        with closing(connection.connection.cursor()) as cursor:
            cursor.executemany(sql, [_values(parameters, row) for row in rows])
            return cursor.rowcount

    def fetch(self, connection: Connection, **values: Any) -> Sequence[Any]:
        """Run it once; return its rows with the values as the driver gives them.

        Raises:
            Exception: The driver's own errors, not SQLAlchemy's.
        """
        sql, parameters = self._form(connection)
        with closing(connection.connection.cursor()) as cursor:
            cursor.execute(sql, _values(parameters, values))
            return cursor.fetchall()

    def _form(self, connection: Connection) -> tuple[str, Parameters]:
        name = connection.dialect.name
        form = self._forms.get(name)
        if form is None:
            form = self._forms[name] = self._compile(DIALECTS[name])
        return form

    def _compile(self, dialect: Dialect) -> tuple[str, Parameters]:
        compiled = self._statement.compile(dialect=dialect, column_keys=self._columns)  # type: ignore[attr-defined]
        assert isinstance(compiled, SQLCompiler)
        parameters = [
            (name, compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect))
            for name in compiled.positiontup or ()
        ]
        return str(compiled), parameters


def _values(parameters: Parameters, row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple([row[name] if convert is None else convert(row[name]) for name, convert in parameters])


def insert(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; all have the same columns."""
    if rows:
        _insert(table, tuple(rows[0])).run(connection, rows)


def upsert(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, replacing those whose primary key is there; all have the same columns."""
    if rows:
        _upsert(connection.dialect.name, table, tuple(rows[0])).run(connection, rows)


@cache
def _insert(table: Table, columns: tuple[str, ...]) -> Prepared:
    return Prepared(core_insert(table), columns)


@cache
def _upsert(dialect: str, table: Table, columns: tuple[str, ...]) -> Prepared:
    statement: Any = (postgresql if dialect == "postgresql" else sqlite).insert(table)
    key = [column.name for column in table.primary_key]
    changed = {name: statement.excluded[name] for name in columns if name not in key}
    return Prepared(statement.on_conflict_do_update(index_elements=key, set_=changed), columns)
