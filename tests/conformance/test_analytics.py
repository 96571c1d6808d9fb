"""The aggregator over both forms: the same numbers after corrections, restarts and handovers."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
import trio
from tests import recount
from tests.storages import Form, Storage, archived

from heliograph.actors.appender import Appender
from heliograph.actors.figures import Question
from heliograph.actors.histogram import Histogram
from heliograph.actors.subscriber import Subscriber
from heliograph.model.analytics import deltas, ledger
from heliograph.model.analytics.cube import View
from heliograph.model.analytics.totals import unpack
from heliograph.model.channels import ANALYTICS, Selection
from heliograph.model.intake import parse_items
from heliograph.model.prices import NO_PRICES

START = datetime(2026, 3, 1, tzinfo=UTC)


def _history(seed: int) -> list[recount.Item]:
    """Make the events of a few tasks, with corrections and with everything in no order."""
    rng = random.Random(seed)
    items: list[recount.Item] = []
    for number in range(150):
        topic = rng.choice(["task.created", "task.output", "task.status", "task.status"])
        payload: dict[str, object] = {"task_id": f"t{rng.randrange(12)}"}
        if topic == "task.created":
            payload["agent"] = rng.choice(["planner", "coder"])
        elif topic == "task.output":
            payload["output"] = "x"
        else:
            payload["status"] = rng.choice(["running", "completed", "failed", "cancelled"])
            payload["result"] = {"cost_usd": rng.randrange(10**6) / 10**6, "input_tokens": rng.randrange(99)}
        moment = START + timedelta(minutes=rng.randrange(600))
        items.append(
            {"topic": topic, "payload": payload, "timestamp": moment.isoformat(), "key": f"k{number}"}
        )
    return items


@asynccontextmanager
async def _node(storage: Storage, appender: Appender) -> AsyncIterator[Histogram]:
    aggregator = Histogram(storage.log, storage.store, appender.append, NO_PRICES, interval=0.02)
    subscriber = Subscriber(storage.log, storage.log.position, [aggregator.inbox])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(aggregator.run)
        nursery.start_soon(subscriber.run)
        yield aggregator
        nursery.cancel_scope.cancel()


async def _counted(aggregator: Histogram, storage: Storage) -> dict[str, dict[str, int]]:
    """Ask for everything by status."""
    answer = await aggregator.ask([Question(View("status"), [(0, 1 << 30)])], storage.log.position)
    groups = {status: unpack(value) for status, value in answer.sums[0][0].items()}
    return {
        status: {"created": t.created, "tasks": t.finished, "cost_nanos": t.cost_nanos}
        for status, t in groups.items()
        if any(t)
    }


def _recounted(items: list[recount.Item]) -> dict[str, dict[str, int]]:
    groups = recount.grouped(recount.tasks_of(items), "status", lambda _: True)
    return {
        status: {name: sums[name] for name in ("created", "tasks", "cost_nanos")}
        for status, sums in groups.items()
    }


@pytest.mark.parametrize("seed", range(3))
async def test_restarts_and_corrections_lose_nothing(
    form: Form, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An aggregator started at any moment counts what one that never stopped counts: what happened."""
    monkeypatch.setattr(ledger, "RECENTLY_FINISHED", 1)  # else no finished task would ever be looked up
    items = _history(seed)
    with trio.fail_after(60):
        async with form.open() as storage, trio.open_nursery() as nursery:
            appender = Appender(storage.log, 100)
            nursery.start_soon(appender.run)
            async with _node(storage, appender) as steady:
                for start in range(0, len(items), 30):
                    for first in range(start, start + 30, 6):
                        await appender.append(parse_items(items[first : first + 6], 2**20))
                    right = _recounted(items[: start + 30])
                    assert await _counted(steady, storage) == right
                    async with _node(storage, appender) as fresh:
                        assert await _counted(fresh, storage) == right
            await archived(storage)
            async with _node(storage, appender) as fresh:
                assert await _counted(fresh, storage) == _recounted(items)
            page = await storage.log.read(Selection((ANALYTICS,)), 0, 1000)  # type: ignore[arg-type]
            spans = [deltas.Span.of(event) for event in page.events]
            assert [span.after for span in spans[1:]] == [span.through for span in spans[:-1]]
            nursery.cancel_scope.cancel()
