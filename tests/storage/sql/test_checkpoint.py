"""The checkpoint beside an answer, whose first statement tells it."""

from __future__ import annotations

import sqlite3

import trio
from sqlalchemy import Connection
from tests.storage.conftest import Embedded

from heliograph.model.ids import EventId
from heliograph.model.intake import parse_item
from heliograph.model.task import TASK, Task, TaskFilter
from heliograph.storage.sql import queries
from heliograph.storage.sql.checkpoint import with_checkpoint
from heliograph.storage.sql.entities.task import TASKS

Answer = tuple[tuple[list[Task], bool], EventId]


def asked(connection: Connection) -> Answer:
    """List tasks with the checkpoint."""
    return with_checkpoint(
        connection, lambda: queries.list_entities(connection, TASKS, TaskFilter(), None, 10, None, 0)
    )


async def say(embedded: Embedded, task_id: str) -> None:
    """Append an event of a task."""
    line = {"type": "task_output", "task_id": task_id, "output": "-"}
    await embedded.log.append([[parse_item(line, 1 << 20)]])


async def test_it_comes_with_the_rows(embedded: Embedded) -> None:
    """One statement gives the rows and the checkpoint, whole and in order."""
    for task_id in "abc":
        await say(embedded, task_id)
    statements: list[str] = []

    def traced(connection: Connection) -> Answer:
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        driver.set_trace_callback(statements.append)
        try:
            return asked(connection)
        finally:
            driver.set_trace_callback(None)

    (found, more), position = await embedded.database.read(traced)
    assert len(statements) == 1
    assert position == embedded.log.position
    assert (found, more) == await embedded.store.list(TASK, TaskFilter(), None, 10)


async def test_without_rows_it_is_not_newer_than_the_answer(embedded: Embedded) -> None:
    """A task that comes after an empty answer, and before the checkpoint is read, is in what is answered."""
    token = trio.lowlevel.current_trio_token()

    def ask(connection: Connection) -> Answer:
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)

        def traced(sql: str) -> None:
            if sql.startswith("SELECT checkpoints.event_id"):
                driver.set_trace_callback(None)
                trio.from_thread.run(say, embedded, "1", trio_token=token)

        driver.set_trace_callback(traced)
        return asked(connection)

    (found, _), position = await embedded.database.read(ask)
    assert [task.task_id for task in found] == ["1"]
    assert position == embedded.log.position
