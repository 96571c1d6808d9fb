from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pytest
import trio
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests import recount
from tests.nodes import Node, deployment

from heliograph.http.api.routes import analytics
from heliograph.model.analytics import ledger
from heliograph.model.analytics.timeline import GRANULARITIES
from heliograph.model.intake import parse_items

DIMENSIONS = ("agent_type", "agent", "model", "status")
ZONES = sorted(available_timezones())
HISTOGRAMS = ("costs", "tasks", "tokens")


@st.composite
def _queries(draw: st.DrawFn, anchor: datetime) -> dict[str, Any]:
    """Draw the parameters of a question around a clock change."""
    start = anchor - timedelta(minutes=draw(st.integers(-1000, 4000)))
    end = start + timedelta(minutes=draw(st.integers(1, 8000)))
    query: dict[str, Any] = {
        "from": start.isoformat(),
        "to": end.isoformat(),
        "tz": draw(st.sampled_from(ZONES)),
        "granularity": draw(st.sampled_from(GRANULARITIES)),
    }
    group_by = draw(st.sampled_from([None, *DIMENSIONS]))
    if group_by:
        query["group_by"] = group_by
    if draw(st.integers(0, 3)) == 0:
        query["model"] = draw(st.sampled_from(["m1", "unknown"]))
    if draw(st.integers(0, 3)) == 0:
        query["status"] = draw(st.sampled_from(["completed", "failed,cancelled"]))
    return query


@st.composite
def _stories(draw: st.DrawFn) -> list[Any]:
    """Draw what happens to two nodes: publishing, archiving, restarts and questions, in any order."""
    anchor = draw(st.sampled_from(recount.ANCHORS))
    waiting = draw(recount.histories(anchor))
    story: list[Any] = []
    while waiting:
        story.append(waiting[: (size := draw(st.integers(1, 6)))])
        waiting = waiting[size:]
        story += draw(st.lists(st.sampled_from(["archive", "restart near", "restart far"]), max_size=3))
        if draw(st.integers(0, 3)) == 0:
            story.append(draw(_queries(anchor)))
    whole = {
        "from": (anchor - timedelta(days=3)).isoformat(),
        "to": (anchor + timedelta(days=3)).isoformat(),
        "tz": draw(st.sampled_from(ZONES)),
        "granularity": "day",
        "group_by": "status",
    }
    return [*story, whole, "restart near", "restart far", whole, draw(_queries(anchor))]


# Without shrinking: with real databases it takes minutes, and the story that failed reads well enough.
@settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(_stories())
async def test_every_answer_equals_a_recount(story: list[Any]) -> None:
    """Whatever happened in whatever order, each node answers what counting the raw events gives."""
    with TemporaryDirectory() as folder, trio.fail_after(120), pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "RECENTLY_FINISHED", 1)  # else no finished task would ever be looked up
        async with deployment(Path(folder)) as deployed:
            near, far = deployed.node(), deployed.node(far=True)
            published: list[recount.Item] = []
            for step in story:
                match step:
                    case "archive":
                        await deployed.archive()
                    case "restart near":
                        near.start(deployed.nursery)
                    case "restart far":
                        far.start(deployed.nursery)
                    case list():
                        await deployed.publish(step)
                        published += step
                    case query:
                        for node in (near, far):
                            await _check(node, query, recount.tasks_of(published))


async def _check(node: Node, query: Mapping[str, Any], tasks: list[recount.Counted]) -> None:
    """Compare every endpoint's answer with the recount."""
    zone = ZoneInfo(query["tz"])
    first = _slot(datetime.fromisoformat(query["from"]))
    last = _slot(datetime.fromisoformat(query["to"]) - timedelta(microseconds=1)) + timedelta(minutes=15)
    wanted = [task for task in tasks if _passes(task, query)]
    for kind in HISTOGRAMS:
        answer = await node.get(f"/api/v1/analytics/{kind}/histogram", query)
        _check_buckets(answer["buckets"], query, zone, first, last, wanted)

    def inside(moment: datetime) -> bool:
        return first <= moment < last

    def before(moment: datetime) -> bool:
        return first - (last - first) <= moment < first

    summary = await node.get("/api/v1/analytics/summary", query)
    _same(summary, recount.sums(wanted, inside))
    _same(summary["previous"], recount.sums(wanted, before))
    assert summary["active_tasks"] == sum(task.finished_at is None for task in wanted)
    performance = await node.get("/api/v1/analytics/performance", query)
    done = [task for task in wanted if task.finished_at and inside(task.finished_at)]
    _same(performance, recount.sums(wanted, inside))
    _same_durations(performance["duration_ms"], done)
    for name in ("agent", "agent_type", "model"):
        groups = recount.grouped(wanted, name, inside)
        assert performance[f"by_{name}"].keys() == groups.keys()
        for group, right in groups.items():
            _same(performance[f"by_{name}"][group], right)
            _same_durations(
                performance[f"by_{name}"][group]["duration_ms"],
                [task for task in done if task.value(name) == group],
            )
            if name != "agent":
                _same(summary[f"by_{name}"][group], right)
    failures: dict[str, int] = {}
    for task in done:
        if task.status in {"failed", "lost"}:
            said = task.result.get("error")
            kind = {"TimeoutError: read": "TimeoutError", "exit status 3": "exit status #", None: "unknown"}[
                said
            ]
            failures[kind] = failures.get(kind, 0) + 1
    assert performance["failures"] == failures


def _check_buckets(
    buckets: list[dict[str, Any]],
    query: Mapping[str, Any],
    zone: ZoneInfo,
    first: datetime,
    last: datetime,
    tasks: list[recount.Counted],
) -> None:
    assert datetime.fromisoformat(buckets[0]["start"]) == first
    assert datetime.fromisoformat(buckets[-1]["end"]) == last
    ends = [bucket["end"] for bucket in buckets[:-1]]
    assert ends == [bucket["start"] for bucket in buckets[1:]]
    labels = [recount.label(datetime.fromisoformat(b["start"]), query["granularity"], zone) for b in buckets]
    assert len(set(labels)) == len(labels)
    for bucket, here in zip(buckets, labels, strict=True):

        def inside(moment: datetime, here: object = here) -> bool:
            return first <= moment < last and recount.label(moment, query["granularity"], zone) == here

        _same(bucket, recount.sums(tasks, inside))
        if "group_by" in query:
            groups = recount.grouped(tasks, query["group_by"], inside)
            assert bucket["groups"].keys() == groups.keys()
            for group, right in groups.items():
                _same(bucket["groups"][group], right)


def _passes(task: recount.Counted, query: Mapping[str, Any]) -> bool:
    return all(task.value(name) in query[name].split(",") for name in DIMENSIONS if name in query)


def _same(answer: Mapping[str, Any], right: Mapping[str, Any]) -> None:
    common = answer.keys() & right.keys()
    assert {"tasks", "cost_usd"} <= common
    assert {name: answer[name] for name in common} == pytest.approx({name: right[name] for name in common})
    for name in common - {"success_rate", "average_tokens", "average_cost_usd", "average_duration_ms"}:
        assert answer[name] == right[name], name


def _same_durations(answer: Mapping[str, float | None], tasks: list[recount.Counted]) -> None:
    for name, share in {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}.items():
        right = recount.percentile(tasks, share)
        assert answer[name] == (right if right is None else pytest.approx(right, rel=0.01))


def _slot(moment: datetime) -> datetime:
    return moment - timedelta(
        minutes=moment.minute % 15, seconds=moment.second, microseconds=moment.microsecond
    )


BERLIN = {"from": "2026-03-28", "to": "2026-03-31", "tz": "Europe/Berlin", "granularity": "day"}


def _task(name: str, finished: str, agent: str, **result: Any) -> list[recount.Item]:
    """Make a task that runs for a minute."""
    end = datetime.fromisoformat(finished)
    begin = end - timedelta(minutes=1)
    return [
        _item(f"{name}a", "task.created", begin, task_id=name, agent=agent, model="m1"),
        _item(f"{name}b", "task.status", end, task_id=name, status="completed", result=result),
    ]


def _item(key: str, topic: str, moment: datetime, **payload: Any) -> recount.Item:
    return {"key": key, "topic": topic, "timestamp": moment.isoformat(), "payload": payload}


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """A node over three tasks around Berlin's day of 23 hours."""
    async with deployment(tmp_path) as deployed:
        await deployed.publish(
            [
                *_task("a", "2026-03-28T23:30:00+01:00", "planner", cost_usd=0.1, input_tokens=5),
                *_task("b", "2026-03-29T23:30:00+02:00", "coder", cost_usd=0.2),
                *_task("c", "2026-03-30T00:15:00+02:00", "coder", input_tokens=10, output_tokens=1),
            ]
        )
        yield deployed.node()


async def test_a_histogram_shows_every_bucket_with_its_offset(node: Node) -> None:
    """Days are those of the zone, empty ones are there, and groups are told in the meta data."""
    query = {**BERLIN, "from": "2026-03-27", "group_by": "agent"}
    answer = await node.get("/api/v1/analytics/costs/histogram", query)
    days = [(b["start"], b["utc_offset"], b["cost_usd"], sorted(b["groups"])) for b in answer["buckets"]]
    assert days == [
        ("2026-03-27T00:00:00+01:00", "+01:00", 0, []),
        ("2026-03-28T00:00:00+01:00", "+01:00", 0.1, ["planner"]),
        ("2026-03-29T00:00:00+01:00", "+01:00", 0.2, ["coder"]),
        ("2026-03-30T00:00:00+02:00", "+02:00", 0.000045, ["coder"]),
    ]
    meta = answer["meta"]
    assert (meta["tz"], meta["granularity"], meta["group_by"]) == ("Europe/Berlin", "day", "agent")
    assert (meta["from"], meta["to"]) == ("2026-03-27T00:00:00+01:00", "2026-03-31T00:00:00+02:00")
    assert meta["groups"] == ["coder", "planner"]


async def test_a_summary_compares_with_the_period_before(node: Node) -> None:
    """The previous period is as long as the one asked for and ends where it begins."""
    night = {"from": "2026-03-29T21:00Z", "to": "2026-03-29T22:00Z"}
    answer = await node.get("/api/v1/analytics/summary", night)
    assert (answer["tasks"], answer["previous"]["tasks"], answer["change"]["tasks"]) == (1, 0, None)
    after = {"from": "2026-03-29T22:30Z", "to": "2026-03-31T22:30Z"}
    answer = await node.get("/api/v1/analytics/summary", after)
    assert (answer["tasks"], answer["previous"]["tasks"], answer["change"]["tasks"]) == (0, 3, -1)


async def test_a_range_is_the_last_day_when_nothing_is_said(node: Node) -> None:
    """Without parameters the last 24 hours are shown, hour by hour, in UTC."""
    answer = await node.get("/api/v1/analytics/tasks/histogram", {})
    meta = answer["meta"]
    span = datetime.fromisoformat(meta["to"]) - datetime.fromisoformat(meta["from"])
    assert timedelta(hours=24) <= span <= timedelta(hours=24, minutes=30)
    assert (meta["granularity"], meta["tz"]) == ("hour", "UTC")


@pytest.mark.parametrize(
    ("path", "group_by", "columns", "rows"),
    [
        ("costs/histogram", None, ["start", "end", "utc_offset", "cost_usd"], 3),
        ("costs/histogram", "agent", ["start", "end", "utc_offset", "group", "cost_usd"], 3),
        ("summary", None, ["by", "group", "cost_usd"], 4),
        ("performance", "status", ["by", "group", "cost_usd"], 6),
    ],
)
async def test_answers_come_as_csv(
    node: Node, path: str, group_by: str | None, columns: list[str], rows: int
) -> None:
    """With Accept: text/csv the same numbers come as a table, with the cursor in a header."""
    query = BERLIN | ({"group_by": group_by} if group_by else {})
    response = await node.app.test_client().get(
        f"/api/v1/analytics/{path}", query_string=query, headers={"Accept": "text/csv"}
    )
    table = list(csv.DictReader(io.StringIO(await response.get_data(as_text=True))))
    assert response.mimetype == "text/csv"
    assert list(table[0])[: len(columns)] == columns
    assert len(table) == rows
    assert sum(float(row["cost_usd"]) for row in table if not row.get("by")) == pytest.approx(0.300045)
    answer = await node.get(f"/api/v1/analytics/{path}", query)
    assert response.headers["X-Stream-Cursor"] == answer["meta"]["stream_cursor"]


FORMULAS = [
    "=1+1",
    "+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "\uff1d1",
    "\uff0b1",
    "\uff0d1",
    "\uff201",
]


@pytest.mark.parametrize("path", ["summary", "performance", "costs/histogram"])
async def test_a_table_runs_no_formula(node: Node, path: str) -> None:
    """A name that a spreadsheet would run has a quote before it in a table; nothing else has."""
    harmless = ["a=1", "'=1", " -1", "1"]
    items = [
        item
        for number, name in enumerate([*FORMULAS, *harmless])
        for item in _task(f"f{number}", "2026-03-29T12:00Z", name, cost_usd=0.5)
    ]
    await node.appender.append(parse_items(items, 2**20))
    query = {**BERLIN, "group_by": "agent"}
    response = await node.app.test_client().get(
        f"/api/v1/analytics/{path}", query_string=query, headers={"Accept": "text/csv"}
    )
    text = await response.get_data(as_text=True)
    table = list(csv.DictReader(io.StringIO(text, newline="")))
    groups = {row["group"] for row in table if row.get("by", "agent") == "agent"}
    assert groups == {*harmless, *(f"'{name}" for name in FORMULAS), "planner", "coder"}
    assert {row.get("utc_offset", "+01:00") for row in table} <= {"+01:00", "+02:00"}
    answer = await node.get(f"/api/v1/analytics/{path}", query)
    told = answer["meta"]["groups"] if path == "costs/histogram" else answer["by_agent"]
    assert set(told) == {*FORMULAS, *harmless, "planner", "coder"}


@pytest.mark.parametrize(
    ("query", "field", "allowed"),
    [
        ({"tz": "Mars/Base"}, "tz", "IANA"),
        ({"from": "soon"}, "from", "ISO 8601"),
        ({"to": "2026-13-01"}, "to", "ISO 8601"),
        ({"from": "2026-03-02", "to": "2026-03-01"}, "from", "before to"),
        ({"granularity": "minute"}, "granularity", "15m, hour, day, week, month"),
        ({"from": "1990-01-01", "granularity": "15m"}, "granularity", "5000 buckets"),
        ({"group_by": "colour"}, "group_by", "agent_type, agent, model, status"),
        ({"status": "done"}, "status", "queued, running, waiting_input, completed, failed, cancelled"),
        ({"agent": "a\0b"}, "agent", "NUL"),
        ({"bucket": "1"}, "bucket", "granularity"),
    ],
)
async def test_bad_parameters_are_named(node: Node, query: dict[str, str], field: str, allowed: str) -> None:
    """A wrong parameter is answered by 422, its name, and what is allowed."""
    problem = await node.get("/api/v1/analytics/costs/histogram", query, status=422)
    assert [error["field"] for error in problem["errors"]] == [field]
    assert allowed in problem["errors"][0]["detail"]


async def test_too_many_groups_are_refused(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of more sums than allowed is refused with the way out."""
    monkeypatch.setattr(analytics, "MAX_SUMS", 5)
    problem = await node.get("/api/v1/analytics/costs/histogram", {**BERLIN, "group_by": "agent"}, status=422)
    assert "2 groups in 3 buckets" in problem["errors"][0]["detail"]
