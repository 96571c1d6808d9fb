from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, func, select
from tests import recount
from tests.nodes import deployment

from heliograph.model.analytics.cube import View
from heliograph.model.analytics.rollup import DIMENSIONS, error_kind
from heliograph.model.analytics.totals import unpack
from heliograph.model.event import Event
from heliograph.model.ids import make_id
from heliograph.storage.sql import rollups, schema
from heliograph.storage.sql.fold import fold
from heliograph.storage.sql.store import SqlStore

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
WHOLE = [(0, 1 << 30)]


def _event(number: int, channel: str, seq: int, topic: str, **payload: Any) -> Event:
    moment = NOON + timedelta(minutes=number)
    task_id = channel.removeprefix("task:")
    return Event(make_id(10**12 + number), channel, seq, topic, moment, {"task_id": task_id, **payload})


@settings(max_examples=10, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(recount.histories(recount.ANCHORS[0]), st.integers(1, 7))
async def test_rollups_are_the_recount_of_the_log(history: list[recount.Item], size: int) -> None:
    """Whatever the batches, the table holds what counting the events gives, and no empty row."""
    with TemporaryDirectory() as folder:
        async with deployment(Path(folder)) as deployed:
            for start in range(0, len(history), size):
                await deployed.publish(history[start : start + size])
            snapshot = await SqlStore(deployed.near).rollup_snapshot()
            empty = await deployed.near.read(_empty_rows)
    tasks = recount.tasks_of(history)
    for name in DIMENSIONS:
        found = {g: unpack(value) for g, value in snapshot.cube.query(View(name), WHOLE)[0].items()}
        right = recount.grouped(tasks, name, lambda _: True)
        assert found.keys() == right.keys()
        for group, sums in right.items():
            assert found[group].finished == sums["tasks"]
            common = sums.keys() & {*found[group]._fields}
            assert {field: getattr(found[group], field) for field in common} == {
                field: sums[field] for field in common
            }
    assert len(snapshot.unfinished) == sum(task.finished_at is None for task in tasks)
    assert empty == 0


def _empty_rows(connection: Connection) -> int:
    table = rollups.rollups
    statement = select(func.count()).where(table.c.created == 0, table.c.finished == 0)
    return int(connection.execute(statement).scalar() or 0)


async def test_a_batch_may_touch_more_places_than_one_statement_looks_up(tmp_path: Path) -> None:
    """A batch with hundreds of agents adds up in as many rows, and again into the same ones."""
    async with deployment(tmp_path) as deployed:
        for round_ in range(2):
            await deployed.publish(
                [
                    {
                        "topic": "task.created",
                        "payload": {"task_id": f"t{round_}-{n}", "agent": f"a{n}"},
                        "timestamp": NOON.isoformat(),
                    }
                    for n in range(350)
                ]
            )
        snapshot = await SqlStore(deployed.near).rollup_snapshot()
    groups = snapshot.cube.query(View("agent"), WHOLE)[0]
    assert len(groups) == 350
    assert {unpack(value).created for value in groups.values()} == {2}


async def test_what_a_task_was_is_known_for_each_of_its_corrections(tmp_path: Path) -> None:
    """Asked about any event of a finished task, the store tells what the task was before it."""
    ends = [("completed", 1), ("failed", 2), ("cancelled", 3)]
    events = [_event(1, "task:t", 1, "task.created", agent="a")]
    events += [
        _event(seq, "task:t", seq, "task.status", status=status, result={"cost_usd": cost})
        for seq, (status, cost) in enumerate(ends, start=2)
    ]
    events.append(_event(5, "task:t", 5, "task.output", output="late"))
    async with deployment(tmp_path) as deployed:
        await deployed.far.write(fold, events)
        store = SqlStore(deployed.far)
        for event, (status, cost) in zip([events[2], events[3], events[4]], ends, strict=True):
            before = (await store.before({"t": event.id}))["t"]
            assert before.value is not None
            assert (before.value.status, before.value.cost_nanos) == (status, cost * 10**9)
            assert before.through >= event.id - 1
        unknown = (await store.before({"other": events[0].id}))["other"]
        assert (unknown.value, unknown.through) == (None, 0)


async def test_a_task_that_retention_removed_begins_anew(tmp_path: Path) -> None:
    """A late event of a removed task makes it again, and the store says that there was nothing before."""
    late = _event(9, "task:t", 9, "task.output", output="late")
    async with deployment(tmp_path) as deployed:
        await deployed.far.write(fold, [late])
        before = (await SqlStore(deployed.far).before({"t": late.id}))["t"]
    assert (before.value, before.through) == (None, late.id)


async def test_an_error_keeps_its_kind_when_its_task_moves(tmp_path: Path) -> None:
    """However long an error is, and whatever space it begins with, it moves with its task and is one kind."""
    errors = {
        "plain": "no luck " * 50,
        "name": "\u2003\n \t\x1f\x85" + "a.B.TimeoutError: " + "x" * 500,
        "space": " " * 1000,
        "cut": " " * 300 + "a" * 199 + " " * 100 + "b",
        "lines": "\n\n" + "é" * 150 + "\n" * 100 + "é",
    }
    first = [
        _event(n, f"task:{name}", 1, "task.status", status="failed", result={"error": error})
        for n, (name, error) in enumerate(errors.items())
    ]
    second = [_event(n + 9, f"task:{name}", 2, "task.created", agent=name) for n, name in enumerate(errors)]
    async with deployment(tmp_path) as deployed:
        for events in (first, second):
            await deployed.far.write(fold, events)
        found = await deployed.far.read(_errors_by_agent)
        befores = await SqlStore(deployed.far).before({event.channel[5:]: event.id for event in second})
    expected = {name: {error_kind(error): 1} for name, error in errors.items()}
    assert found == expected
    for name, before in befores.items():
        assert before.value is not None
        assert {error_kind(before.value.error): 1} == expected[name]


def _errors_by_agent(connection: Connection) -> dict[str, dict[str, int]]:
    rows = connection.execute(select(rollups.rollups.c.agent, rollups.rollups.c.errors)).all()
    assert len({row.agent for row in rows}) == len(rows)
    return {row.agent: row.errors for row in rows}


async def test_a_batch_takes_no_memory_for_what_its_tasks_hold(tmp_path: Path) -> None:
    """What tasks hold already, up to megabytes each, is not read when a batch only adds to them."""
    tasks, size = 20, 200_000
    created = [
        _event(n, f"task:t{n}", 1, "task.created", input="i" * size, metadata={"m": "m" * size})
        for n in range(tasks)
    ]
    failed = [
        _event(n + 20, f"task:t{n}", 2, "task.status", status="failed", result={"error": "e" * size})
        for n in range(tasks)
    ]
    late = [_event(n + 40, f"task:t{n}", 3, "task.output", output="late") for n in range(tasks)]
    async with deployment(tmp_path) as deployed:
        await deployed.far.write(fold, created)
        await deployed.far.write(fold, failed)
        tracemalloc.start()
        try:
            await deployed.far.write(fold, late)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < tasks * size / 2


async def test_corrections_are_kept_for_as_long_as_a_follower_may_need_them(tmp_path: Path) -> None:
    """A new correction drops those that are days older."""
    async with deployment(tmp_path) as deployed:
        for day in range(4):
            moment = 10**12 + day * 86_400_000
            events = [
                Event(make_id(moment, n), f"task:t{day}", n, "task.status", NOON, {"status": status})
                for n, status in enumerate(["completed", "failed"], start=1)
            ]
            await deployed.far.write(fold, events)
        kept = await deployed.far.read(_corrected)
    assert kept == ["t1", "t2", "t3"]


def _corrected(connection: Connection) -> list[str]:
    return list(connection.execute(select(rollups.corrections.c.task_id).order_by("task_id")).scalars())


async def test_the_migration_makes_the_schema(tmp_path: Path) -> None:
    """The migrations end at the schema that the code declares."""
    async with deployment(tmp_path) as deployed:
        assert await deployed.far.read(_differences) == []


def _differences(connection: Connection) -> list[Any]:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def declared(name: str | None, kind: str, parents: object) -> bool:
        """Leave out the index for texts, which the databases keep by themselves."""
        return not (name or "").startswith(("task_texts", "task_grams", "tasks_grams", "tasks_long"))

    context = MigrationContext.configure(connection, opts={"include_name": declared})
    return list(compare_metadata(context, schema.metadata))
