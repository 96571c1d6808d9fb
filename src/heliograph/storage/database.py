"""The seam to SQLAlchemy: engines, calls in worker threads, and the little SQL that two dialects share.

Every call runs in a worker thread behind a limiter of its own, so a slow query holds up neither the
event loop nor other users of threads; there are as many pooled connections as the limiter lets in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import trio
from sqlalchemy import ColumnElement, Connection, Engine, bindparam
from sqlalchemy.exc import OperationalError

from heliograph.model.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")

LOOKUP = 500
"""Values in one IN list: under SQLite's limit of variables, and few enough shapes for the statement cache."""


def chunks(values: Sequence[T], size: int = LOOKUP) -> Iterator[Sequence[T]]:
    """Cut a sequence into pieces of at most ``size``."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def in_list(column: ColumnElement[Any]) -> ColumnElement[bool]:
    """Return ``column IN (…)`` for a statement built once; the values are its parameter ``wanted``."""
    return column.in_(bindparam("wanted", expanding=True))


class Database:
    """An engine whose calls run in worker threads.

    Args:
        engine: With a pool of at least ``threads`` connections.
        threads: How many calls may run at once; more wait their turn.
    """

    def __init__(self, engine: Engine, threads: int) -> None:
        self.engine = engine
        self._limiter = trio.CapacityLimiter(threads)

    async def read(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``query(connection, …)`` in a thread, in a transaction that is rolled back.

        Raises:
            Unavailable: The database can't be read now.
        """
        try:
            return await self._call(
                self.engine.connect, lambda connection: query(connection, *args, **kwargs)
            )
        except OperationalError as error:
            raise Unavailable(f"the database can't be read: {error.orig}") from error

    async def read_long(self, query: Callable[[Connection], T]) -> T:
        """Do what ``read`` does, for an answer that takes its time to read.

        Raises:
            Unavailable: The database can't be read now.
        """
        return await self.read(query)

    async def write(
        self, change: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``change(connection, …)`` in a thread, in a transaction that is committed."""
        return await self._call(self.engine.begin, lambda connection: change(connection, *args, **kwargs))

    async def _call(self, connect: Callable[[], Any], work: Callable[[Connection], T]) -> T:
        def run() -> T:
            with connect() as connection:
                return work(connection)

        return await trio.to_thread.run_sync(run, limiter=self._limiter)


class Writer:
    """The one connection that writes to an embedded database.

    It stays open: to take it from the pool and give it back costs more than what is mostly written.

    Args:
        engine: Has room for one more connection.
    """

    def __init__(self, engine: Engine) -> None:
        self._connection = engine.connect()
        self._limiter = trio.CapacityLimiter(1)

    async def write(
        self, change: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``change(connection, …)`` in a thread, in a transaction that is committed."""

        def run() -> T:
            with self._connection.begin():
                return change(self._connection, *args, **kwargs)

        return await trio.to_thread.run_sync(run, limiter=self._limiter)

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()
