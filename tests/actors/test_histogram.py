from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
from tests.nodes import PRICES, Deployment, Node, deployment
from tests.polling import until
from tests.recount import Item

from heliograph.actors import histogram
from heliograph.actors.figures import Figures, Question
from heliograph.actors.histogram import USUAL_VIEWS
from heliograph.actors.subscriber import Subscriber
from heliograph.model.analytics import deltas, ledger
from heliograph.model.analytics.cube import ALL, View
from heliograph.model.analytics.totals import Totals, unpack
from heliograph.model.channels import ANALYTICS, Selection
from heliograph.model.errors import Unavailable
from heliograph.model.event import Draft, Event
from heliograph.model.ids import parse_id
from heliograph.model.intake import parse_items
from heliograph.storage.protocols import Receipt, RollupSnapshot
from heliograph.storage.sql.store import SqlStore

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVERYTHING = [Question(View(), [(0, 1 << 30)])]
RARELY = 1000.0


@pytest.fixture
async def deployed(tmp_path: Path) -> AsyncIterator[Deployment]:
    """A log, two stores, and no node yet."""
    with trio.fail_after(90):
        async with deployment(tmp_path) as opened:
            yield opened


def _item(task: int, topic: str, key: str, minutes: int = 0, **payload: Any) -> Item:
    return {
        "topic": topic,
        "payload": {"task_id": f"t{task}", **payload},
        "timestamp": (NOON + timedelta(minutes=minutes)).isoformat(),
        "key": f"{topic} {task} {key}",
    }


def _created(task: int, **described: str) -> Item:
    return _item(task, "task.created", "", minutes=task, **described)


def _ended(task: int, status: str = "completed", key: str = "", **result: Any) -> Item:
    return _item(task, "task.status", status + key, minutes=task + 20, status=status, result=result)


async def _totals(node: Node) -> tuple[Figures, Totals]:
    answer = await node.histogram.ask(EVERYTHING, node.log.position)
    return answer, unpack(answer.sums[0][0].get(ALL, 0))


async def _deltas(deployed: Deployment, after: int = 0) -> list[Event]:
    return await deployed.events(after, Selection((ANALYTICS,)))


def _added(events: Sequence[Event]) -> Totals:
    """Add deltas up as a watcher does."""
    sums = dict.fromkeys(Totals._fields, 0)
    for event in events:
        assert event.topic == deltas.DELTA
        for bucket in event.payload["buckets"]:
            for name in sums:
                sums[name] += bucket[name]
    return Totals(**sums)


async def test_an_answer_and_the_deltas_after_it_are_a_later_answer(deployed: Deployment) -> None:
    """At whatever moment an answer is taken, adding every later delta gives the last answer exactly."""
    nodes = [deployed.node(), deployed.node()]
    taken = []
    for task in range(30):
        await deployed.publish([_created(task), _ended(task, cost_usd=task)])
        taken.append(await _totals(nodes[task % 2]))
    last, totals = await _totals(nodes[0])
    assert totals.finished == 30
    for answer, before in taken:
        later = [e for e in await _deltas(deployed, answer.cursor) if e.id <= last.cursor]
        assert Totals._make(a + b for a, b in zip(before, _added(later), strict=True)) == totals


async def test_many_nodes_publish_one_chain_of_deltas(deployed: Deployment) -> None:
    """However many nodes there are, each delta begins where the one before it ended."""
    nodes = [deployed.node() for _ in range(3)]
    for task in range(20):
        await deployed.publish([_created(task)])
        await trio.lowlevel.checkpoint()
    for node in nodes:
        await _totals(node)
    chain = [deltas.Span.of(event) for event in await _deltas(deployed)]
    assert chain[0].after == 0
    assert [span.after for span in chain[1:]] == [span.through for span in chain[:-1]]
    assert _added(await _deltas(deployed)).created == 20
    assert len({node.histogram.stats().cursor for node in nodes}) == 1


async def test_a_delta_shows_the_open_bucket(deployed: Deployment) -> None:
    """A delta carries the totals of the quarter hour in which its last event was appended."""
    node = deployed.node()
    for task in range(3):
        await deployed.publish([{**_created(task), "timestamp": datetime.now(UTC).isoformat()}])
        await _totals(node)
    last = (await _deltas(deployed))[-1].payload
    through = parse_id(last["through"]) >> 20
    opened = datetime.fromisoformat(last["open"]["start"])
    assert opened.timestamp() <= through / 1000 < opened.timestamp() + 900
    slots = {b["start"] for e in await _deltas(deployed) for b in e.payload["buckets"] if b["created"] > 0}
    if len(slots) == 1:  # unless the test ran over the end of a quarter hour
        assert last["open"]["created"] == 3


async def test_a_question_is_answered_as_of_now_and_not_of_the_last_delta(deployed: Deployment) -> None:
    """What was appended before a question is in its answer, however rarely deltas come by themselves."""
    node = deployed.node(interval=3)
    for task in range(1, 4):
        await deployed.publish([_created(task)])
        assert (await _totals(node))[1].created == task


async def test_output_makes_no_deltas(deployed: Deployment) -> None:
    """Only what changes a sum is published."""
    node = deployed.node()
    await deployed.publish([_created(1), _item(1, "task.output", "0", output="x")])
    await _totals(node)
    before = len(await _deltas(deployed))
    await deployed.publish([_item(1, "task.output", str(n), output="x") for n in range(1, 10)])
    await _totals(node)
    assert len(await _deltas(deployed)) == before


async def test_changes_that_no_delta_told_of_are_a_reset_after_a_restart(deployed: Deployment) -> None:
    """A node that died before its delta leaves a reset to the next, and the chain goes on from there."""
    node = deployed.node(interval=RARELY)
    await deployed.publish([_created(1)])
    await _totals(node)
    await deployed.publish([_created(2)])  # its delta would come in a quarter of an hour
    node.interval = 0.02
    node.start(deployed.nursery)
    assert (await _totals(node))[1].created == 2
    await deployed.publish([_created(3)])
    assert (await _totals(node))[1].created == 3
    found = await _deltas(deployed)
    assert [event.topic for event in found] == [deltas.DELTA, deltas.RESET, deltas.DELTA]
    assert _added(found[2:]).created == 1


async def test_a_restart_after_its_last_delta_needs_no_reset(deployed: Deployment) -> None:
    """A node that starts where the chain ends goes on with it."""
    node = deployed.node()
    await deployed.publish([_created(1), _ended(1)])
    cursor = (await _totals(node))[0].cursor
    node.start(deployed.nursery)
    assert (await _totals(node))[0].cursor == cursor
    assert [event.topic for event in await _deltas(deployed)] == [deltas.DELTA]


async def test_a_delta_that_the_log_has_lost_is_stood_in_for(
    deployed: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a delta was acknowledged and never comes by, a reset goes on from where it began."""
    monkeypatch.setattr(histogram, "LOST_SECONDS", 0.01)
    lost: list[Draft] = []

    async def publish(drafts: Sequence[Draft]) -> Receipt:
        if not lost:
            lost.extend(drafts)
            return Receipt((deployed.log.position,))
        return await deployed.appender.append(drafts)

    node = deployed.node()
    node.stop()
    node.histogram = histogram.Histogram(deployed.log, SqlStore(deployed.near), publish, PRICES)
    subscriber = Subscriber(deployed.log, deployed.log.position, [node.histogram.inbox])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.histogram.run)
        nursery.start_soon(subscriber.run)
        await _totals(node)
        await deployed.appender.append(parse_items([_created(1)], 1000))
        assert (await _totals(node))[1].created == 1
        nursery.cancel_scope.cancel()
    assert [draft.topic for draft in lost] == [deltas.DELTA]
    assert [event.topic for event in await _deltas(deployed)] == [deltas.RESET]


async def test_too_many_changed_buckets_are_a_reset(
    deployed: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would make a huge delta is said by a reset, and answers are right all the same."""
    monkeypatch.setattr(deltas, "MAX_BUCKETS", 5)
    node = deployed.node()
    await deployed.publish([_created(task, agent=f"a{task}") for task in range(10)])
    assert (await _totals(node))[1].created == 10
    assert [event.topic for event in await _deltas(deployed)] == [deltas.RESET]


async def test_finished_tasks_are_forgotten_and_corrected_all_the_same(
    deployed: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory holds active tasks only; a correction of any other moves it, counting nothing twice."""
    monkeypatch.setattr(ledger, "RECENTLY_FINISHED", 2)
    node = deployed.node()
    await deployed.publish(
        [item for task in range(50) for item in (_created(task), _ended(task, cost_usd=1))]
    )
    await deployed.publish([_created(50)])
    await _totals(node)
    assert node.histogram.stats().active == 1
    assert node.histogram._ledger.tracked == 3
    await deployed.publish(
        [_ended(7, "failed", cost_usd=5), _ended(7, "cancelled", cost_usd=2), _ended(8, "failed", cost_usd=3)]
    )
    _, totals = await _totals(node)
    assert (totals.finished, totals.succeeded, totals.failed) == (50, 48, 1)
    assert totals.cost_nanos == 48_000_000_000 + 2_000_000_000 + 3_000_000_000
    assert node.histogram.stats().looked_up == 2


async def test_a_late_output_of_a_forgotten_task_changes_nothing(
    deployed: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output that comes after the end is looked up and counts for nothing."""
    monkeypatch.setattr(ledger, "RECENTLY_FINISHED", 0)
    node = deployed.node()
    await deployed.publish([_created(1), _ended(1)])
    before = await _totals(node)
    await deployed.publish([_item(1, "task.output", "late", output="x")])
    assert await _totals(node) == before


async def test_what_does_not_fit_the_backlog_is_read_again(
    deployed: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An aggregator that is held up by its store never holds up the subscriber, and misses nothing."""
    monkeypatch.setattr(histogram, "BACKLOG_BATCHES", 3)
    held, release = trio.Event(), trio.Event()

    class HeldUp(SqlStore):
        async def rollup_snapshot(self) -> RollupSnapshot:
            snapshot = await super().rollup_snapshot()
            held.set()
            await release.wait()
            return snapshot

    node = deployed.node()
    node.histogram = histogram.Histogram(
        deployed.log, HeldUp(deployed.near), deployed.appender.append, PRICES
    )
    subscriber = Subscriber(deployed.log, deployed.log.position, [node.histogram.inbox])
    deployed.nursery.start_soon(node.histogram.run)
    deployed.nursery.start_soon(subscriber.run)
    await held.wait()
    for task in range(40):
        position = (await deployed.publish([_created(task)])).cursor
        while subscriber.stats().position < position:
            await trio.lowlevel.checkpoint()
    release.set()
    assert (await _totals(node))[1].created == 40


async def test_without_the_store_questions_are_refused_and_then_answered(
    deployed: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the rollups can't be loaded, questions hear to come again; loading is tried until it works."""
    monkeypatch.setattr(histogram, "WAIT_SECONDS", 0.01)
    away = True

    class Away(SqlStore):
        async def rollup_snapshot(self) -> RollupSnapshot:
            if away:
                raise Unavailable("the store is away")
            return await super().rollup_snapshot()

    node = deployed.node()
    await deployed.publish([_created(1)])
    node.histogram = histogram.Histogram(deployed.log, Away(deployed.near), deployed.appender.append, PRICES)
    deployed.nursery.start_soon(node.histogram.run)
    with pytest.raises(Unavailable, match="analytics are being loaded"):
        await _totals(node)
    away = False
    monkeypatch.setattr(histogram, "WAIT_SECONDS", 10)
    assert (await _totals(node))[1].created == 1


async def test_what_is_usually_asked_for_is_ready_before_it_is_asked(deployed: Deployment) -> None:
    """After it has loaded the rollups, the aggregator adds up the usual views by itself."""
    await deployed.publish([_created(1), _ended(1)])
    node = deployed.node(interval=RARELY)

    async def ready() -> bool:
        return set(USUAL_VIEWS) <= set(node.histogram._cube._views)

    await until(ready)
    assert node.histogram.stats().kept_bytes > 0
