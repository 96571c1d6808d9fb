"""What few events match is read in steps that each look at little of the log; on both forms."""

from __future__ import annotations

import sqlite3
from itertools import pairwise

import pytest
from sqlalchemy import Connection
from tests.conformance.conftest import embedded
from tests.conformance.test_storage import event, kept, output
from tests.storages import Form, SqliteForm, archived

from heliograph.model.channels import Selection
from heliograph.model.ids import OLDEST, EventId
from heliograph.storage.embedded.sqlite import engine_of
from heliograph.storage.sql import steps

ROWS = 50


@pytest.mark.parametrize(
    ("channel", "topic"), [("*", "rare.*"), ("topic:*", "rare.*"), ("topic:*", "*"), ("workflow:*", "*")]
)
async def test_each_step_looks_at_a_bounded_part_of_the_log(
    form: Form, monkeypatch: pytest.MonkeyPatch, channel: str, topic: str
) -> None:
    """A reading that finds little gets on by so many rows at most, says so, and finds everything."""
    monkeypatch.setattr(steps, "ROWS", ROWS)
    async with form.open() as storage:
        drafts = [event("rare.one") if n % 150 == 75 else output("t", str(n)) for n in range(320)]
        ids = await kept(storage, drafts)
        await archived(storage)
    wanted = [i for i, draft in zip(ids, drafts, strict=True) if draft.topic == "rare.one"]
    async with form.open() as storage:  # with an empty memory, so that the database is read
        reached, found = [OLDEST], list[EventId]()
        more = True
        while more:
            page = await storage.log.read(Selection.of([channel], topic), reached[-1], 10)
            found += [one.id for one in page.events]
            reached.append(page.through)
            more = page.more
    assert found == (wanted if channel != "workflow:*" else [])
    assert reached[-1] == ids[-1]
    for before, after in pairwise(reached):
        assert sum(before < i <= after for i in ids) <= ROWS


@embedded
async def test_a_step_costs_what_it_looks_at(form: SqliteForm) -> None:
    """SQLite works a fraction for a step of what it works for the whole log."""
    async with form.open() as storage:
        await kept(storage, [output("t", str(n)) for n in range(3000)])
    worked = 0

    def count() -> None:
        nonlocal worked
        worked += 1

    def cost(connection: Connection) -> int:
        nonlocal worked
        worked = 0
        assert not steps.read_step(connection, Selection.of(["*"], "rare.*"), OLDEST, 10).events
        return worked

    engine = engine_of(form.folder / "heliograph.db")
    with engine.connect() as connection, pytest.MonkeyPatch.context() as patch:
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        driver.set_progress_handler(count, 1)
        whole = cost(connection)
        patch.setattr(steps, "ROWS", 100)
        assert cost(connection) < whole / 10
    engine.dispose()
