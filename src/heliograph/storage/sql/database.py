"""The seam to SQLAlchemy: engines, calls in worker threads, and the little SQL that two dialects share.

Every call runs in a worker thread behind a limiter of its own, so a slow query holds up neither the
event loop nor other users of threads; there are as many pooled connections as the limiter lets in.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any, Concatenate, ParamSpec, TypeVar

import outcome
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
        engine: An engine whose pool has at least ``threads`` connections.
        threads: The number of calls that may run at once; more wait their turn.
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
        except (OperationalError, sqlite3.OperationalError) as error:
            words = getattr(error, "orig", error)
            raise Unavailable(f"the database can't be read: {words}") from error

    async def read_long(self, query: Callable[[Connection], T]) -> T:
        """Do what ``read`` does, for an answer that takes long to read.

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
    """The one connection that writes to an embedded database, with a thread of its own.

    Connection and thread stay open: to take them from a pool and a cache, and to have SQLAlchemy begin and
    end the transaction, costs more than most writes. So jobs go to the thread by a queue, which holds one job
    per waiting caller, and the driver itself begins and commits.

    It must be made within a Trio run.

    Args:
        engine: An engine with room for one more connection, whose connections begin no nested transaction.
    """

    def __init__(self, engine: Engine) -> None:
        self._connection = engine.connect()
        driver = self._connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        self._driver = driver
        self._jobs: SimpleQueue[tuple[trio.lowlevel.Task, Callable[[], Any]] | None] = SimpleQueue()
        token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=self._work, args=(token,), name="writer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what was handed in, then give the connection back."""
        self._jobs.put(None)
        self._thread.join()
        self._connection.close()

    async def write(
        self, change: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``change(connection, …)`` in the thread, in a transaction that is committed.

        It can't be cancelled once it waits, since the caller must learn what was committed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        task = trio.lowlevel.current_task()
        self._jobs.put((task, lambda: change(self._connection, *args, **kwargs)))
        written: T = await trio.lowlevel.wait_task_rescheduled(_not_cancelled)
        return written

    def _work(self, token: trio.lowlevel.TrioToken) -> None:
        while (job := self._jobs.get()) is not None:
            task, change = job
            token.run_sync_soon(trio.lowlevel.reschedule, task, outcome.capture(self._commit, change))

    def _commit(self, change: Callable[[], T]) -> T:
        self._driver.execute("BEGIN IMMEDIATE")
        try:
            changed = change()
            self._driver.commit()
        except BaseException:
            self._driver.rollback()
            raise
        finally:
            if self._connection.in_transaction():
                self._connection.rollback()  # ends the transaction that SQLAlchemy believes to have
        return changed


def _not_cancelled(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED
