"""Runs, steps and workflows' records over both forms of storage, however their events arrive."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.conformance.clients import DEADLINE, ask, get, open_sse
from tests.conformance.conftest import Launch
from tests.conformance.serving import process
from tests.conformance.test_storage import event, kept, read_all
from tests.model.workflows.test_runs import fold
from tests.polling import until
from tests.recorded import BEGUN, EXAMPLES, NODES, RUN_ID, WORKFLOW, recorded_run
from tests.storages import DistributedForm, Form, Storage, archived

from heliograph.actors.clock import Clock
from heliograph.actors.retention import Retention, RetentionStats
from heliograph.model.errors import Invalid
from heliograph.model.event import Draft, Event
from heliograph.model.ids import OLDEST
from heliograph.model.intake import parse_items
from heliograph.model.settings import RetentionSettings
from heliograph.model.workflows.record import RECORD, Record, RecordFilter
from heliograph.model.workflows.run import RUN, Run, RunFilter, share_of
from heliograph.model.workflows.spending import SPENDING
from heliograph.model.workflows.step import STEP, Step, StepFilter
from heliograph.model.workflows.vocabulary import BY_SESSION, OF_RUNS, OF_STEPS, id_of
from heliograph.storage.artifacts import FolderArtifacts
from heliograph.storage.protocols import Artifacts, RunName


def drafts_of(messages: Iterable[dict[str, Any]]) -> list[Draft]:
    """Check messages as a publisher's, and make drafts of them."""
    return parse_items(messages, 100_000)


async def publish(storage: Storage, drafts: Sequence[Draft], size: int) -> None:
    """Append drafts, so many at a time, and fold them."""
    for start in range(0, len(drafts), size):
        await kept(storage, drafts[start : start + size])
    await archived(storage)


async def whole(storage: Storage, run_id: str) -> tuple[Run, list[Step]]:
    """Return a run of the recorded workflow with its steps."""
    run = await storage.store.get(RUN, id_of(run_id, WORKFLOW))
    assert run is not None
    steps, more = await storage.store.list(STEP, StepFilter(run_id, WORKFLOW), None, 500)
    assert not more
    return run, list(steps)


@pytest.mark.parametrize("size", [1, 47])
async def test_a_recorded_run_is_kept_with_its_steps(form: Form, size: int) -> None:
    """However its 47 messages are cut into batches, one run is there with ten steps and all that it cost."""
    async with form.open() as storage:
        await publish(storage, drafts_of(recorded_run()), size)
        run, steps = await whole(storage, RUN_ID)
        assert (run.status, run.duration_ms, run.steps) == ("success", 4321.5, {"success": 10})
        assert (run.cost_nanos, run.input_tokens, run.output_tokens) == (6_300_000, 3600, 1050)
        assert [step.name for step in steps] == list(NODES)
        record = await storage.store.get(RECORD, WORKFLOW)
        assert record is not None
        assert (record.runs, record.cost_nanos, record.success_rate) == ({"success": 1}, 6_300_000, 100.0)
        assert record.last_run_id == run.run_id


@pytest.mark.parametrize("seed", range(2))
async def test_order_and_repetition_do_not_matter(form: Form, seed: int) -> None:
    """Out of order, and in part twice, the same messages give the same rows."""
    chance = random.Random(seed)
    messages = recorded_run()
    async with form.open() as storage:
        await publish(storage, drafts_of(messages), 47)
        expected = await whole(storage, RUN_ID)
        again = [*messages, *chance.sample(messages, 20)]
        chance.shuffle(again)
        await publish(storage, drafts_of(again), 9)
        assert await whole(storage, RUN_ID) == expected
    async with form.open() as storage:
        await publish(storage, drafts_of(again), 5)
        assert await whole(storage, RUN_ID) == expected


def history(chance: random.Random) -> Iterable[Draft]:
    """Draw events of some runs of two workflows, in any order of their times."""
    for _ in range(100):
        at = (BEGUN + timedelta(seconds=chance.randrange(60))).isoformat()
        named = {"run_id": f"r{chance.randrange(4)}", "workflow_id": chance.choice("vw")}
        step = {**named, "step": chance.choice("xyz")}
        cost = {"cost_usd": chance.randrange(100) / 100}
        topic, payload = chance.choice(
            [
                ("run.started", {**named, "trigger": "manual", "trigger_data": {"n": chance.randrange(3)}}),
                ("run.paused", named),
                (
                    "run.finished",
                    {**named, "status": chance.choice(["success", "failed", "cancelled"]), **cost},
                ),
                ("run.finished", {**named, "result": {"n": chance.randrange(3)}, "duration_ms": 5}),
                ("step.started", step),
                ("step.completed", {**step, **cost, "output": [chance.randrange(3)]}),
                ("step.failed", {**step, "error": "e"}),
            ]
        )
        yield event(topic, payload=payload, timestamp=at)


@pytest.mark.parametrize("seed", range(3))
async def test_any_history_equals_a_recount(form: Form, seed: int) -> None:
    """Whatever is told, in whatever batches: runs, steps and counters are what the whole log comes to."""
    chance = random.Random(seed)
    async with form.open() as storage:
        drafts = list(history(chance))
        while drafts:
            count = chance.choice([1, 4, 25])
            await kept(storage, drafts[:count])
            del drafts[:count]
            if chance.random() < 0.2:
                await archived(storage)
        await archived(storage)
        log: list[Event] = list(await read_all(storage))
        for workflow in "vw":
            mine = [one for one in log if one.channel == f"workflow:{workflow}"]
            runs, steps = fold(mine)
            for run_id, run in runs.items():
                assert await storage.store.get(RUN, id_of(run_id, workflow)) == run
                listed, _ = await storage.store.list(STEP, StepFilter(run_id, workflow), None, 100)
                assert {(run_id, step.name): step for step in listed} == {
                    key: step for key, step in steps.items() if key[0] == run_id
                }
            record = await storage.store.get(RECORD, workflow)
            assert record is not None
            assert record.runs == Counter(run.status for run in runs.values())
            assert record.cost_nanos == sum(run.cost_nanos or 0 for run in runs.values() if run.ended)
            if not record.doubtful:
                last = max(runs.values(), key=lambda run: (run.started_at, run.run_id))
                assert record.last_run_id == last.run_id


ODD = (
    *(None, True, 0, -1, 1.5, 10**17, 2**64 - 1, 1e300, "", "x", "failed", "é" * 300, "\u2028", "a/b", ".."),
    *([1, [2]], {"type": 5}, {"type": "t", "x": 1}, {"a": {"b": [None]}}, "x" * 5000),
)
FIELDS = (
    *(
        "status",
        "duration_ms",
        "cost_usd",
        "input_tokens",
        "error",
        "result",
        "trigger",
        "trigger_data",
        "dag",
    ),
    *(
        "attempt",
        "cost",
        "output",
        "node",
        "agent",
        "name",
        "run_id",
        "execution_id",
        "session_id",
        "enabled",
    ),
)


async def test_whatever_is_said_of_runs_is_folded(form: Form) -> None:
    """What the intake takes can be kept, however odd: no event stands in the way of those behind it."""
    chance = random.Random(3)
    topics = (*OF_RUNS, *OF_STEPS, *BY_SESSION, "workflow.updated", "agent.started")
    drafts: list[Draft] = []
    while len(drafts) < 400:
        payload = {field: chance.choice(ODD) for field in chance.sample(FIELDS, 6)}
        payload |= {"workflow_id": "w", "step": chance.choice("ab")}
        if chance.random() < 0.9:
            payload["run_id"] = chance.choice(["r1", "r2"])
        moment = chance.choice(["1970-01-01", "9998-12-31T23:59:59Z", "2026-01-01T00:00:00.123456Z"])
        channel = chance.choice(["workflow:w", "topic:x"])
        item = {"topic": chance.choice(topics), "payload": payload, "channel": channel, "timestamp": moment}
        with suppress(Invalid):
            drafts.append(parse_items([item], 100_000)[0])
    async with form.open() as storage:
        await publish(storage, drafts, 40)
        runs, _ = await storage.store.list(RUN, RunFilter("w"), None, 50)
        assert {"r1", "r2"} <= {run.run_id for run in runs}
        assert await storage.store.get(RECORD, "w") is not None


async def test_runs_are_listed_newest_first_and_filtered(form: Form) -> None:
    """Pages go on where the one before ended; workflow, statuses and times narrow the list."""
    async with form.open() as storage:
        drafts = [
            event(
                topic,
                payload={"run_id": f"r{n}", "workflow_id": "w", "status": "success" if n % 2 else "failed"},
                timestamp=(BEGUN + timedelta(minutes=n)).isoformat(),
            )
            for n in range(6)
            for topic in ("run.started", "run.finished")
        ]
        other = event(
            "run.started", payload={"run_id": "r1", "workflow_id": "v"}, timestamp=BEGUN.isoformat()
        )
        await publish(storage, [*drafts, other], 5)
        store = storage.store
        first, more = await store.list(RUN, RunFilter("w"), None, 4)
        assert ([run.run_id for run in first], more) == (["r5", "r4", "r3", "r2"], True)
        rest, more = await store.list(RUN, RunFilter("w"), RUN.position(first[-1]), 4)
        assert ([run.run_id for run in rest], more) == (["r1", "r0"], False)
        good, _ = await store.list(RUN, RunFilter("w", ("success",)), None, 9)
        assert [run.run_id for run in good] == ["r5", "r3", "r1"]
        window = RunFilter("w", since=BEGUN + timedelta(minutes=1), until=BEGUN + timedelta(minutes=3))
        some, _ = await store.list(RUN, window, None, 9)
        assert [run.run_id for run in some] == ["r2", "r1"]
        mine, theirs = await store.get(RUN, id_of("r1", "w")), await store.get(RUN, id_of("r1", "v"))
        assert mine is not None
        assert theirs is not None
        assert (mine.status, theirs.status) == ("success", "running")


async def test_steps_are_paged_in_the_order_in_which_they_began(form: Form) -> None:
    """A run of many steps is read part by part, the earliest first."""
    async with form.open() as storage:
        drafts = [
            event(
                "step.started",
                payload={"run_id": "r", "workflow_id": "w", "step": f"s{n % 13}-{n}"},
                timestamp=(BEGUN + timedelta(milliseconds=n // 3)).isoformat(),
            )
            for n in range(60)
        ]
        chance = random.Random(1)
        await publish(storage, chance.sample(drafts, 60), 20)
        names: list[str] = []
        after = None
        while True:
            page, more = await storage.store.list(STEP, StepFilter("r", "w"), after, 17)
            names += [step.name for step in page]
            if not more:
                break
            after = STEP.position(page[-1])
        expected = sorted(drafts, key=lambda draft: (draft.timestamp, draft.payload["step"]))
        assert names == [draft.payload["step"] for draft in expected]


async def test_a_switch_is_kept_beside_the_counters(form: Form) -> None:
    """A workflow without runs can be switched off, and what its runs add up to leaves that as it is."""
    async with form.open() as storage:
        await publish(storage, [event("workflow.updated", payload={"workflow_id": "w", "enabled": False})], 1)
        started = event("run.started", payload={"run_id": "r", "workflow_id": "w"})
        await publish(storage, [started], 1)
        (record,), _ = await storage.store.list(RECORD, RecordFilter(), None, 9)
        assert (record.workflow_id, record.enabled, record.runs) == ("w", False, {"running": 1})


MONTH = RetentionSettings(runs_max_age_seconds=30 * 86400)


def written(root: Path, name: str, days: int) -> None:
    """Let a run of the workflow ``w`` have left something behind some days ago."""
    folder = root / "w" / name
    folder.mkdir(parents=True)
    (folder / "s.json").write_bytes(b"{}")
    at = (datetime.now(UTC) - timedelta(days=days)).timestamp()
    for path in (folder / "s.json", folder):
        os.utime(path, (at, at))


async def retained(storage: Storage, artifacts: Artifacts, left: int) -> RetentionStats:
    """Let retention work until it has removed the artifacts of so many runs."""
    retention = Retention(storage.keeper, artifacts, MONTH, Clock(lambda: OLDEST))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(retention.run)

        async def removed() -> bool:
            return retention.stats().left >= left

        await until(removed)
        nursery.cancel_scope.cancel()
    return retention.stats()


def of_run(name: str, days: int) -> list[Draft]:
    """Make the events of a run of the workflow ``w`` that was some days ago."""
    at = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    named = {"run_id": name, "workflow_id": "w"}
    return [
        event("run.started", payload=named, timestamp=at),
        event("step.completed", payload={**named, "step": "s"}, timestamp=at),
        event("run.finished", payload={**named, "cost_usd": 0.5}, timestamp=at),
    ]


async def test_old_runs_go_with_what_they_left_behind(form: Form, tmp_path: Path) -> None:
    """Runs of which nothing was heard for long go, with steps, artifacts, and what they counted for.

    So do artifacts of runs that no event ever told of, when they are old themselves.
    """
    artifacts = FolderArtifacts(tmp_path)
    async with form.open() as storage:
        for name, days in (("old", 40), ("new", 1)):
            await publish(storage, of_run(name, days), 3)
        for name, days in (("old", 40), ("new", 40), ("unheard", 40), ("unheard-new", 1)):
            written(tmp_path, name, days)
        stats = await retained(storage, artifacts, 2)
        assert (stats.runs, stats.left) == (1, 2)
        left, _ = await storage.store.list(RUN, RunFilter("w"), None, 9)
        assert [run.run_id for run in left] == ["new"]
        for name, there in (("old", 0), ("new", 1)):
            steps, _ = await storage.store.list(STEP, StepFilter(name, "w"), None, 9)
            assert len(steps) == there
        assert [name.run_id for name in await artifacts.runs(None, 9)] == ["new", "unheard-new"]
        record = await storage.store.get(RECORD, "w")
        assert record is not None
        assert (record.runs, record.cost_nanos, record.last_run_id) == ({"success": 1}, 500_000_000, "new")


async def test_a_run_that_speaks_up_again_begins_anew(form: Form) -> None:
    """A run that was removed and says something after all counts once; of none left nothing stays."""
    now = datetime.now(UTC)
    async with form.open() as storage:
        await publish(storage, of_run("r", 40), 3)
        assert await storage.keeper.remove_runs(MONTH, now) == [RunName("w", "r")]
        assert await storage.store.get(RECORD, "w") is None
        assert await storage.keeper.unknown_runs([RunName("w", "r")]) == [RunName("w", "r")]
        await publish(storage, of_run("r", 1), 3)
        assert await storage.keeper.remove_runs(MONTH, now) == []
        assert await storage.keeper.unknown_runs([RunName("w", "r"), RunName("w", "q")]) == [
            RunName("w", "q")
        ]
        record = await storage.store.get(RECORD, "w")
        assert record is not None
        assert record.runs == {"success": 1}


async def test_retention_leaves_just_what_a_recount_of_the_rest_gives(form: Form) -> None:
    """Whichever runs go, a workflow's counters are those of the runs that are kept."""
    chance = random.Random(5)
    drafts = [
        event(
            topic,
            payload={"run_id": f"r{n}", "workflow_id": chance.choice("vw"), **told},
            timestamp=(BEGUN + timedelta(days=n)).isoformat(),
        )
        for n in range(40)
        for topic, told in (
            ("run.started", {}),
            ("run.finished", {"cost_usd": n / 100, "duration_ms": n, "error": chance.choice([None, "e"])}),
        )
    ]
    async with form.open() as storage:
        await publish(storage, drafts, 80)
        while await storage.keeper.remove_runs(MONTH, BEGUN + timedelta(days=50)):
            pass
        for workflow in "vw":
            runs, _ = await storage.store.list(RUN, RunFilter(workflow), None, 50)
            assert min(run.started_at for run in runs) >= BEGUN + timedelta(days=20)
            recount = Record(workflow)
            for run in runs:
                recount.feed(share_of(run), 1)
            record = await storage.store.get(RECORD, workflow)
            assert record is not None
            for name in ("runs", "durations", "costs", "cost_nanos"):
                assert getattr(record, name) == getattr(recount, name)


async def test_what_nobody_claims_goes(form: Form) -> None:
    """What model calls spent waits a week for somebody to name their run's workflow, and no longer."""
    call = {"cost": {"estimated_cost_usd": 0.25}}
    drafts = [event("pipeline.adk_completed", payload={**call, "session_id": name}) for name in ("a", "b")]
    begun = event("dag.started", payload={"execution_id": "a", "pipeline": "w", "dag": "d"})
    now = datetime.now(UTC)
    async with form.open() as storage:
        await publish(storage, [*drafts, begun], 3)
        assert await storage.sweep(RetentionSettings(), now + timedelta(days=6)) == 0
        assert await storage.store.get(SPENDING, "b") is not None
        assert await storage.sweep(RetentionSettings(), now + timedelta(days=8)) == 1
        assert await storage.store.get(SPENDING, "b") is None
        run = await storage.store.get(RUN, id_of("a", "w"))
        assert run is not None
        assert run.cost_nanos == 250_000_000


async def test_a_run_is_asked_for_and_streamed_over_both_forms(launch: Launch, nursery: trio.Nursery) -> None:
    """Its list, its trace and its stream tell one and the same run; the stream goes on behind a cursor."""
    url = (await launch(workflows=(EXAMPLES,))).url
    messages = recorded_run()
    for part in (messages[:20], messages[20:]):
        assert (await ask(url, "POST", "/api/v1/events", json=part)).status == 201
    path = f"/api/v1/workflows/{WORKFLOW}/runs"

    async def folded() -> bool:  # on the distributed form a moment later
        answer = await ask(url, "GET", f"{path}/{RUN_ID}")
        return answer.status == 200 and bool(answer.json()["run"]["status"] == "success")

    await until(folded)
    trace = await get(url, f"{path}/{RUN_ID}")
    assert [step["status"] for step in trace["steps"]] == ["success"] * 10
    assert trace["run"]["cost_usd"] == 0.0063
    (listed,) = (await get(url, path))["runs"]
    assert listed == trace["run"]
    mine = [
        message["topic"] for message in messages if {"execution_id", "session_id"} & message["payload"].keys()
    ]
    async with await open_sse(url, f"{path}/{RUN_ID}/stream") as stream:
        story = await stream.story(len(mine))
    assert [told.fields["topic"] for told in story] == mine
    headers = {"Last-Event-ID": str(story[-3].id)}
    async with await open_sse(url, f"{path}/{RUN_ID}/stream", headers) as stream:
        assert await stream.story(2) == story[-2:]
    answer = await ask(url, "PATCH", f"/api/v1/workflows/{WORKFLOW}", json={"enabled": False})
    assert (answer.status, answer.json()["enabled"]) == (200, False)
    nursery.cancel_scope.cancel()


RUNS, WATCHERS, STEPS = 200, 50, 4


async def test_many_runs_at_once_are_told_whole(launch: Launch, form: Form, nursery: trio.Nursery) -> None:
    """200 runs of one workflow, watched by 50 streams that hop and are cut: nothing is lost or doubled."""
    nodes = 2 if isinstance(form, DistributedForm) else 1
    settings: dict[str, Any] = {"workflows": (EXAMPLES,), "streams": {"rotate_seconds": 0.5}}
    urls = [(await launch(**settings)).url for _ in range(nodes)]
    runs = [f"r{number}" for number in range(RUNS)]
    await post(urls[0], [told("run.started", one, 0) for one in runs])
    await until(partial(listed, urls, RUNS))
    parts = [
        [told("step.started", one, 1, step=f"s{step}"), told("step.completed", one, 2, step=f"s{step}")]
        for step in range(STEPS)
        for one in runs
    ]
    expected = 2 + 2 * STEPS
    heard: dict[int, list[tuple[str, str]]] = {number: [] for number in range(WATCHERS)}

    async def follow(number: int) -> None:
        path = f"/api/v1/workflows/nightly_quality/runs/r{number * 4}/stream"
        chance = random.Random(number)
        cursor = ""
        while len(heard[number]) < expected:
            headers = {"Last-Event-ID": cursor} if cursor else None
            async with await open_sse(chance.choice(urls), path, headers) as stream:
                for _ in range(chance.randrange(1, 5)):
                    one = await stream.until("event", "reconnect")
                    if one.kind == "reconnect":
                        break
                    heard[number].append((one.fields["topic"], str(one.fields["payload"].get("step"))))
                    cursor = str(one.id)
                    if len(heard[number]) == expected:
                        break

    async def publish_all() -> None:
        random.Random(0).shuffle(parts)
        for first in range(0, len(parts), 20):
            url = urls[first // 20 % nodes]
            await post(url, [item for part in parts[first : first + 20] for item in part])
        await post(urls[0], [told("run.finished", one, 3) for one in runs])

    with trio.fail_after(2 * DEADLINE):
        async with trio.open_nursery() as crowd:
            crowd.start_soon(publish_all)
            for number in range(WATCHERS):
                crowd.start_soon(follow, number)
    whole = Counter(
        [
            *(("run.started", "None"), ("run.finished", "None")),
            *((f"step.{word}", f"s{step}") for word in ("started", "completed") for step in range(STEPS)),
        ]
    )
    assert all(Counter(events) == whole for events in heard.values())

    async def all_ended() -> bool:
        answer = await get(urls[-1], "/api/v1/workflows/nightly_quality/runs?limit=1")
        return bool(answer["stats"]["by_status"] == {"success": RUNS})

    await until(all_ended)
    trace = await get(urls[-1], "/api/v1/workflows/nightly_quality/runs/r7")
    assert trace["run"]["steps"] == {"success": STEPS}
    nursery.cancel_scope.cancel()


def told(topic: str, run_id: str, seconds: float, **payload: Any) -> dict[str, Any]:
    """Make an event of a run of the nightly workflow."""
    named = {"workflow_id": "nightly_quality", "run_id": run_id, **payload}
    at = (BEGUN + timedelta(seconds=seconds)).isoformat()
    return {"topic": topic, "payload": named, "timestamp": at}


async def post(url: str, items: list[dict[str, Any]]) -> None:
    """Publish items, which must be kept."""
    assert (await ask(url, "POST", "/api/v1/events", json=items)).status == 201


async def listed(urls: list[str], number: int) -> bool:
    """Tell whether every node knows of so many runs."""
    path = "/api/v1/workflows/nightly_quality"
    return all([(await get(url, path))["stats"]["total"] == number for url in urls])


@pytest.mark.chaos
async def test_a_run_that_is_cut_by_a_kill_is_one_run(tmp_path: Path) -> None:
    """Killed in the middle of its telling, and told again from the beginning, it is the same run."""
    messages = recorded_run()
    path = f"/api/v1/workflows/{WORKFLOW}/runs/{RUN_ID}"
    traces = []
    for kill in (False, True):
        folder = tmp_path / str(kill)
        folder.mkdir()
        async with process(folder) as served:
            if kill:
                assert (await ask(served.url, "POST", "/api/v1/events", json=messages[:23])).status == 201
                served.kill()
                await served.start()
                assert (await get(served.url, path))["run"]["status"] == "running"
            assert (await ask(served.url, "POST", "/api/v1/events", json=messages)).status == 201
            trace = await get(served.url, path)
            traces.append({"run": trace["run"], "steps": trace["steps"]})
    assert traces[0] == traces[1]
    assert (traces[0]["run"]["status"], len(traces[0]["steps"])) == ("success", 10)
