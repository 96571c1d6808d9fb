"""What a question costs on the wire to PostgreSQL, and what its position promises."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import attrs
import psycopg
import pytest
import trio
from sqlalchemy import Connection, make_url
from tests.polling import until
from tests.proxy import Proxy, RoundTrips
from tests.storages import KEY_TTL, DistributedForm, Form, archived

from heliograph.http.api.routes import deliveries, events, runs, sessions, tasks
from heliograph.http.rules.auth import NOBODY
from heliograph.model.intake import parse_item
from heliograph.model.task import TASK, TaskFilter
from heliograph.storage.distributed.form import open_distributed

Ask = Callable[[Any], Awaitable[Any]]


def view(of: Callable[..., Awaitable[Any]], asked: Any) -> Ask:
    """Return a view that is asked something."""
    return lambda services: of(services, NOBODY, asked)


ASKED: dict[str, tuple[Ask, int]] = {
    "first page": (view(tasks.list_tasks, tasks.TaskListing()), 1),
    "by agent": (view(tasks.list_tasks, tasks.TaskListing(agent="a")), 1),
    "by status": (view(tasks.list_tasks, tasks.TaskListing(status=("running", "failed"))), 1),
    "by text": (view(tasks.list_tasks, tasks.TaskListing(text="fix")), 1),
    "one task": (view(tasks.get_task, tasks.OfTask(task_id="t1")), 1),
    "lines": (view(tasks.read_log, tasks.LineRange(task_id="t1")), 1),
    "last lines": (view(tasks.read_log, tasks.LineRange(task_id="t1", tail=2)), 1),
    "events": (view(events.history, events.EventListing()), 1),
    "sessions": (view(sessions.list_sessions, sessions.SessionListing()), 1),
    "one session": (view(sessions.get_session, sessions.OfSession(session_id="s")), 1),
    "runs and their sums": (view(runs.list_runs, runs.RunListing(workflow_id="w")), 2),
    "page and counts": (view(tasks.list_tasks, tasks.TaskListing(counts=True)), 2),
    # Nothing tells the checkpoint then: it is read, and the question is asked again.
    "an empty page": (view(deliveries.list_deliveries, deliveries.DeliveryListing()), 3),
}


async def test_a_question_is_one_round_trip(distributed: DistributedForm, nursery: trio.Nursery) -> None:
    """An answer and its position come together, and nothing is said around them."""
    async with distributed.open() as storage:
        items: list[dict[str, Any]] = [
            {"topic": "task.created", "payload": {"task_id": "t1", "agent": "a", "session_id": "s"}},
            {"type": "task_output", "task_id": "t1", "output": "a line"},
            {"type": "task_status", "task_id": "t1", "status": "running"},
            {"topic": "pipeline.started", "payload": {"workflow_id": "w", "run_id": "r"}},
        ]
        items[0]["payload"]["name"] = "fix it"
        await storage.log.append([[parse_item(item, 1 << 20)] for item in items])
        await archived(storage)
    trips = RoundTrips()
    proxy = Proxy(make_url(distributed.postgres_url).port or 0, hear=trips.connection)
    await nursery.start(proxy.run)
    url = make_url(distributed.postgres_url).set(port=proxy.port).render_as_string(hide_password=False)
    async with attrs.evolve(distributed, postgres_url=url).node() as node:
        services = SimpleNamespace(store=node.store, registry=None)
        counted = {}
        for name, (ask, _) in ASKED.items():
            await ask(services)
            before = trips.number
            await ask(services)
            counted[name] = trips.number - before
    assert counted == {name: expected for name, (_, expected) in ASKED.items()}


async def test_who_has_gone_leaves_no_connection(distributed: DistributedForm) -> None:
    """A question that was abandoned closes its connection when it is answered, after all else has ended."""
    lock = "SELECT pg_advisory_lock(1, 1)"

    def ask(connection: Connection) -> None:
        connection.exec_driver_sql(lock)

    with psycopg.connect(distributed.postgres_url, autocommit=True) as holder:
        holder.execute(lock)

        async def count(asked: str) -> int:
            row = holder.execute(asked.encode()).fetchone()
            assert row is not None
            return int(row[0])

        async def waiting() -> bool:
            return await count("SELECT count(*) FROM pg_locks WHERE NOT granted AND classid = 1") == 1

        async def gone() -> bool:
            mine = "datname = current_database() AND application_name = 'heliograph'"
            left = await count(f"SELECT count(*) FROM pg_stat_activity WHERE {mine}")
            return left == 0 and "reader" not in {thread.name for thread in threading.enumerate()}

        opened = open_distributed(
            distributed.postgres_url, distributed.redis_url, distributed.postgres, distributed.redis, KEY_TTL
        )
        async with opened as node, trio.open_nursery() as nursery:
            nursery.start_soon(node.database.read, ask)
            await until(waiting)
            nursery.cancel_scope.cancel()
        assert not await gone()
        holder.execute("SELECT pg_advisory_unlock(1, 1)")
        await until(gone)


async def test_a_usual_page_is_planned_once(distributed: DistributedForm) -> None:
    """PostgreSQL keeps its plan for a page of the usual size: there is nothing in it that it doesn't know."""

    def plans(connection: Connection) -> list[tuple[int, int]]:
        asked = (
            "SELECT custom_plans, generic_plans FROM pg_prepared_statements WHERE statement LIKE '%_before%'"
        )
        return [(row[0], row[1]) for row in connection.exec_driver_sql(asked.replace("%", "%%"))]

    async with distributed.node() as node:
        for _ in range(20):
            await node.store.list(TASK, TaskFilter(), None, 50)
        ((custom, generic),) = await node.database.read(plans)
    assert custom == 0
    assert generic > 0


@pytest.mark.parametrize("empty", [False, True])
async def test_an_answer_shows_everything_up_to_its_position(form: Form, empty: bool) -> None:
    """While tasks are made, a list never names a position at which it lacks one; also not an empty one."""
    made: dict[str, int] = {}
    async with form.open() as storage:

        async def make() -> None:
            for number in range(60):
                draft = parse_item({"topic": "task.created", "payload": {"task_id": f"t{number}"}}, 1 << 20)
                (receipt,) = await storage.log.append([[draft]])
                made[f"t{number}"] = receipt.cursor  # type: ignore[union-attr]
            await archived(storage)
            making.cancel()

        with trio.fail_after(60), trio.CancelScope() as making:
            async with trio.open_nursery() as nursery:
                if not empty:
                    await storage.log.append(
                        [[parse_item({"type": "task_output", "task_id": "0", "output": "-"}, 1 << 20)]]
                    )
                nursery.start_soon(make)
                while True:
                    look = storage.store.look()
                    found, _ = await look.list(TASK, TaskFilter(), None, 500)
                    shown = {task.task_id for task in found}
                    await trio.lowlevel.checkpoint()
                    assert {name for name, at in made.items() if at <= look.position} <= shown
        assert len(made) == 60
