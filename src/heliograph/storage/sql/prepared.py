"""Statements of the hot path: written in SQLAlchemy Core, compiled once, then run by the driver as they are.

SQLAlchemy takes several times longer to execute a Core statement than SQLite takes to run it. So the
statements of every publish are compiled once per dialect, with the types' own conversions. From then on the
driver gets text and tuples, in the same connection and transaction.

A question may want to know up to which event its answer is folded. Then the checkpoint is a column beside the
rows of its first statement: both are of one snapshot, and it costs no round trip of its own
(see ``checkpoint``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import Any

import attrs
from sqlalchemy import BindParameter, Connection, Executable, Select, Table, literal_column, select
from sqlalchemy import insert as core_insert
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.compiler import SQLCompiler

from heliograph.model.ids import OLDEST, EventId
from heliograph.storage.sql.schema import FOLDED, checkpoints

DIALECTS: dict[str, Dialect] = {
    "sqlite": sqlite.dialect(paramstyle="qmark"),
    "postgresql": psycopg.dialect(paramstyle="format"),  # type: ignore[no-untyped-call]
}

Row = Mapping[str, Any]
Values = Callable[[Any], tuple[Any, ...]]
"""Makes the parameters of a statement, in their order, from a row."""


CHECKPOINT = select(checkpoints.c.event_id).where(checkpoints.c.name == literal_column(f"'{FOLDED}'"))


NOTE = "checkpoint"
"""Where a connection has the ``Note`` of its present question, if that wants the checkpoint."""


@attrs.define
class Note:
    """A place for the checkpoint as of the first statement of a question; ``None``: there was none yet."""

    position: EventId | None = None


class Prepared:
    """One statement, compiled for a dialect when it is first run there.

    Args:
        statement: A Core statement whose parameters have names.
        columns: The columns of an insert's rows.
        raw: Whether rows hold the database's own values, such as microseconds for a time, and are tuples if
            ``columns`` are given: converting and naming values costs more than the rest.
    """

    def __init__(
        self, statement: Executable, columns: Sequence[str] | None = None, *, raw: bool = False
    ) -> None:
        self._statement = statement
        self._columns = columns
        self._raw = raw
        self._forms: dict[str, tuple[str, Values]] = {}
        self._beside: dict[str, str] = {}

    def run(self, connection: Connection, rows: Iterable[Row | tuple[Any, ...]]) -> int:
        """Run the statement once for each row; return how many rows of the table it touched.

        Raises:
            Exception: The driver's own errors, not SQLAlchemy's.
        """
        sql, values = self._forms.get(connection.dialect.name) or self._compile(connection.dialect.name)
        cursor = connection.connection.dbapi_connection.cursor()  # type: ignore[union-attr]  # it is open
        cursor.executemany(sql, list(map(values, rows)))
        return cursor.rowcount

    def fetch(self, connection: Connection, **values: Any) -> Sequence[Any]:
        """Run the statement once; return its rows in the driver's values.

        Raises:
            Exception: The driver's own errors, not SQLAlchemy's.
        """
        sql, take = self._forms.get(connection.dialect.name) or self._compile(connection.dialect.name)
        cursor = connection.connection.dbapi_connection.cursor()  # type: ignore[union-attr]  # it is open
        cursor.execute(sql, take(values))
        return cursor.fetchall()

    def rows(self, connection: Connection, values: Row) -> Iterator[tuple[Any, ...]]:
        """Run the statement once; yield its rows in the driver's values.

        Raises:
            Exception: The driver's own errors, not SQLAlchemy's.
        """
        sql, take = self._forms.get(connection.dialect.name) or self._compile(connection.dialect.name)
        driver = connection.connection
        cursor = driver.cursor()
        try:
            note: Note | None = driver.info.get(NOTE)
            if note is not None and note.position is None:
                name = connection.dialect.name
                beside = self._beside.get(name) or self._compile_beside(name)
                cursor.execute(beside, take(values))
                first: Any = cursor.fetchone()
                if first is not None:
                    note.position = EventId(first[-1] or OLDEST)
                    yield first[:-1]
                    for row in cursor:  # type: ignore[attr-defined]
                        yield row[:-1]
                    return
                # There is no row to tell it. What is read now is not newer than what is asked for again.
                cursor.execute(str(CHECKPOINT))
                told: Any = cursor.fetchone()
                note.position = EventId(told[0]) if told else OLDEST
            cursor.execute(sql, take(values))
            yield from cursor  # type: ignore[misc]
        finally:
            cursor.close()

    def _compile_beside(self, name: str) -> str:
        """Compile the statement with the checkpoint as its last column; its parameters are the same."""
        assert isinstance(self._statement, Select)
        statement = self._statement.add_columns(CHECKPOINT.scalar_subquery())
        sql = self._beside[name] = str(statement.compile(dialect=DIALECTS[name]))
        return sql

    def _compile(self, name: str) -> tuple[str, Values]:
        dialect = DIALECTS[name]
        compiled = self._statement.compile(dialect=dialect, column_keys=self._columns)  # type: ignore[attr-defined]
        assert isinstance(compiled, SQLCompiler)
        names = list(compiled.positiontup or ())
        binds = [compiled.binds[name] for name in names]
        converts = [one.type.dialect_impl(dialect).bind_processor(dialect) for one in binds]
        if self._raw and self._columns is not None:
            values: Values = itemgetter(*map(self._columns.index, names))
        elif self._columns is None and not all(one.required for one in binds):
            values = _mixed(binds, converts, raw=self._raw)
        else:
            values = _values(names, [None if self._raw else convert for convert in converts])
        form = self._forms[name] = str(compiled), values
        return form


def _values(names: Sequence[str], converts: Sequence[Callable[[Any], Any] | None]) -> Values:
    if len(names) > 1 and not any(converts):
        return itemgetter(*names)
    parameters = list(zip(names, converts, strict=True))
    return lambda row: tuple(
        [row[name] if convert is None else convert(row[name]) for name, convert in parameters]
    )


def _mixed(
    binds: Sequence[BindParameter[Any]], converts: Sequence[Callable[[Any], Any] | None], *, raw: bool
) -> Values:
    """Return the function that makes the parameters of a statement with constants of its own."""
    parts: list[tuple[str | None, Any]] = []
    for bind, convert in zip(binds, converts, strict=True):
        if bind.required:
            parts.append((bind.key, None if raw else convert))
        else:
            value = bind.effective_value
            parts.append((None, value if convert is None else convert(value)))
    return lambda row: tuple(
        [what if name is None else row[name] if what is None else what(row[name]) for name, what in parts]
    )


def insert(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows, which all have the same columns."""
    if rows:
        _insert(table, tuple(rows[0])).run(connection, rows)


def upsert(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert or replace rows by primary key; they all have the same columns."""
    if rows:
        _upsert(connection.dialect.name, table, tuple(rows[0])).run(connection, rows)


def upsertion(dialect: str, table: Table, columns: Sequence[str]) -> Executable:
    """Return the statement that inserts a row of ``columns``, or updates the row of its primary key."""
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
