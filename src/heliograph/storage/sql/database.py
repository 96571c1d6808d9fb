"""The seam to SQLAlchemy: engines, calls in worker threads, and the little SQL that two dialects share.

Every question runs in a thread, so a slow one holds up neither the event loop nor other users of threads.
The threads stay, and each keeps its connection: to take both from a cache and a pool for each question costs
more than most questions. A question that ends with an error costs its reader the connection.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

import outcome
import trio
from sqlalchemy import ColumnElement, Connection, Engine, bindparam

from heliograph.storage.sql.worker import Worker

P = ParamSpec("P")
T = TypeVar("T")
Query = Callable[[Connection], T]

LOOKUP = 500
"""Values in one IN list: under SQLite's limit of variables, and few enough shapes for the statement cache."""


def chunks(values: Sequence[T], size: int = LOOKUP) -> Iterator[Sequence[T]]:
    """Cut a sequence into pieces of at most ``size``."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def in_list(column: ColumnElement[Any]) -> ColumnElement[bool]:
    """Return ``column IN (…)`` for a statement built once; the values are its parameter ``wanted``."""
    return column.in_(bindparam("wanted", expanding=True))


class ReadingThread:
    """A thread that answers one question at a time, and the connection that it keeps between them.

    Args:
        connect: Opens a connection; called in the thread.

    Attributes:
        given_up: Whether nobody waits for the present question any longer.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self.worker = Worker("reader")
        self.given_up = False
        self._connect = connect
        self._kept: Connection | None = None

    def ask(self, question: Query[T], seconds: float) -> T:
        """Answer a question within its time, in the thread; what it has begun is rolled back."""
        connection, self._kept = self._kept or self._connect(), None
        try:
            answer = question(connection)
            if connection.in_transaction():
                connection.rollback()
        except BaseException:
            connection.close()
            raise
        self._kept = connection
        return answer

    def drop(self) -> None:
        """Give the connection back, in the thread."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def close(self) -> None:
        """Close the connection and end the thread, after its present question."""
        self.worker.hand(self._leave, lambda _: None)
        self.worker.end()

    def _leave(self) -> None:
        if self._kept is not None:
            self._kept.detach()  # the pool may be gone by then, and nobody else would close it
        self.drop()


class Database:
    """An engine whose questions are answered by readers.

    Args:
        engine: An engine whose pool has a connection for each reader and one more.
        readers: The number of questions that may be answered at once; more wait their turn.
    """

    abandons = False
    """Whether a cancelled caller leaves its reader alone at once; otherwise it waits for the reader."""

    def __init__(self, engine: Engine, readers: int) -> None:
        self.engine = engine
        self._free = trio.Semaphore(readers)
        self._readers: list[ReadingThread] = []
        self._idle: list[ReadingThread] = []
        self._writing = trio.CapacityLimiter(1)

    def close(self) -> None:
        """Close the connections; a reader that was abandoned closes its own when it has its answer."""
        for reader in self._readers:
            reader.close()
        for reader in self._idle:
            reader.worker.join()
        self.engine.dispose()

    def new_reader(self) -> ReadingThread:
        """Make a reader."""
        raise NotImplementedError

    async def read(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``query(connection, …)`` in a thread; what it has begun is rolled back.

        Raises:
            Unavailable: The database can't be read now.
        """
        raise NotImplementedError

    async def read_long(self, query: Query[T]) -> T:
        """Do what ``read`` does, for an answer that takes long to read.

        Raises:
            Unavailable: The database can't be read now.
        """
        raise NotImplementedError

    async def write(
        self, change: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``change(connection, …)`` in a thread, in a transaction that is committed; one at a time."""

        def run() -> T:
            with self.engine.begin() as connection:
                return change(connection, *args, **kwargs)

        return await trio.to_thread.run_sync(run, limiter=self._writing)

    async def _ask(self, question: Query[T], seconds: float) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self._free.acquire_nowait()  # no checkpoint, which would cost a turn of the scheduler
        except trio.WouldBlock:
            await self._free.acquire()
        # The last one first: its connection, and a database's cache in it, are the warmest.
        reader = self._idle.pop() if self._idle else self._another()
        reader.given_up = False
        task = trio.lowlevel.current_task()
        reader.worker.hand(partial(reader.ask, question, seconds), partial(self._answered, reader, task))

        def give_up(_: object) -> trio.lowlevel.Abort:
            reader.given_up = True
            return trio.lowlevel.Abort.SUCCEEDED if self.abandons else trio.lowlevel.Abort.FAILED

        try:
            answer: T = await trio.lowlevel.wait_task_rescheduled(give_up)
        except Exception:
            await trio.lowlevel.checkpoint_if_cancelled()  # an interrupted question is no error
            raise
        return answer

    def _another(self) -> ReadingThread:
        reader = self.new_reader()
        self._readers.append(reader)
        return reader

    def _answered(self, reader: ReadingThread, task: trio.lowlevel.Task, found: outcome.Outcome[Any]) -> None:
        self._idle.append(reader)
        self._free.release()
        if not (reader.given_up and self.abandons):
            trio.lowlevel.reschedule(task, found)


class Writer:
    """The one connection that writes to an embedded database, with a thread of its own.

    Connection and thread stay open, as a reader's do, and the driver itself begins and commits: to have
    SQLAlchemy begin and end the transaction costs more than most writes.

    It must be made within a Trio run.

    Args:
        engine: An engine with room for one more connection, whose connections begin no nested transaction.
    """

    def __init__(self, engine: Engine) -> None:
        self._connection = engine.connect()
        driver = self._connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        self._driver = driver
        self._worker = Worker("writer")

    def close(self) -> None:
        """Write what was handed in, then give the connection back."""
        self._worker.end()
        self._worker.join()
        self._connection.close()

    async def write(
        self, change: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``change(connection, …)`` in the thread, in a transaction that is committed.

        It can't be cancelled once it waits, since the caller must learn what was committed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        task = trio.lowlevel.current_task()
        self._worker.hand(
            lambda: self._commit(lambda: change(self._connection, *args, **kwargs)),
            partial(trio.lowlevel.reschedule, task),
        )
        written: T = await trio.lowlevel.wait_task_rescheduled(_not_cancelled)
        return written

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
