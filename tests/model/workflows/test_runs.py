"""Runs, steps and what runs add up to: the same, in whatever order and however often their events come."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.recorded import AGENTS, BEGUN, NODES, WORKFLOW, recorded_run

from heliograph.model.analytics.sketch import bin_of
from heliograph.model.event import Event
from heliograph.model.ids import EventId, from_microseconds
from heliograph.model.intake import parse_items
from heliograph.model.prices import NO_PRICES
from heliograph.model.task import MAX_COST_USD, MAX_TOKENS
from heliograph.model.workflows import run as runs
from heliograph.model.workflows import spending as spendings
from heliograph.model.workflows import step as steps
from heliograph.model.workflows.facts import MAX_ERROR, Spent, remember
from heliograph.model.workflows.record import Record
from heliograph.model.workflows.run import RUN, Run, RunShare
from heliograph.model.workflows.spending import SPENDING, Spending
from heliograph.model.workflows.step import Step, attempts_of
from heliograph.model.workflows.vocabulary import run_of, step_of

START = datetime(2026, 1, 1, tzinfo=UTC)


def said(topic: str, seconds: float, correlation_id: str | None = None, /, **payload: Any) -> Event:
    """Make an event of the workflow ``w``, so many seconds after the start."""
    at = START + timedelta(seconds=seconds)
    return Event(EventId(1), "workflow:w", 1, topic, at, payload, correlation_id=correlation_id)


def told(topic: str, seconds: float, **payload: Any) -> Event:
    """Make an event of the run ``r``."""
    return said(topic, seconds, None, run_id="r", **payload)


Folded = tuple[dict[str, Run], dict[tuple[str, str], Step]]


def fold(events: Iterable[Event]) -> Folded:
    """Fold events into runs and steps as the store does: shares of steps and calls are added to their run."""
    of_run: dict[str, Run] = {}
    of_step: dict[tuple[str, str], Step] = {}
    of_spending: dict[str, Spending] = {}
    for event in events:
        run_id, name = run_of(event), step_of(event)
        if run_id is None:
            continue
        if event.channel.startswith("workflow:") and RUN.key_of(event) is not None:
            run = of_run.get(run_id) or of_run.setdefault(run_id, Run.first_seen(event))
            run.apply(event, NO_PRICES)
        if SPENDING.key_of(event) is not None:
            spending = of_spending.get(run_id)
            before = None if spending is None else spendings.share_of(spending)
            spending = spending or of_spending.setdefault(run_id, Spending.first_seen(event))
            spending.apply(event, NO_PRICES)
            _refeed(of_run, before, spendings.share_of(spending))
        if name is not None:
            step = of_step.get((run_id, name))
            earlier = None if step is None else steps.share_of(step)
            step = step or of_step.setdefault((run_id, name), Step.first_seen(event))
            step.apply(event, NO_PRICES)
            _refeed(of_run, earlier, steps.share_of(step))
    return of_run, of_step


def _refeed(of_run: dict[str, Run], before: Any, after: Any) -> None:
    for share, sign in ((before, -1), (after, 1)):
        if share is not None:
            of_run[share.run_id].feed(share, sign)


def run_after(*events: Event) -> Run:
    """Fold the events of the run ``r``."""
    return fold(events)[0]["r"]


def step_after(*events: Event) -> Step:
    """Fold the events of one step of the run ``r``."""
    (step,) = fold(events)[1].values()
    return step


def recorded() -> list[Event]:
    """Return the recorded run as events, each on the channel that the intake chooses."""
    return [
        Event(
            EventId(number),
            draft.channel,
            number,
            draft.topic,
            draft.timestamp or START,
            draft.payload,
            draft.sender,
            draft.correlation_id,
        )
        for number, draft in enumerate(parse_items(recorded_run(), 10_000), 1)
    ]


def test_a_recorded_run_is_one_run_with_its_steps() -> None:
    """Of 47 messages, none of which says that a run began or ended, one run with ten steps comes out."""
    events = recorded()
    assert len(events) == 47
    of_run, of_step = fold(events)
    (run,) = of_run.values()
    assert (run.run_id, run.workflow_id, run.status) == ("0123456789abcdef", WORKFLOW, "success")
    assert run.started_at == BEGUN + timedelta(milliseconds=200)
    assert run.finished_at == datetime.fromisoformat(recorded_run()[-1]["timestamp"])
    assert run.duration_ms == 4321.5
    assert run.steps == {"success": 10}
    assert (run.cost_nanos, run.input_tokens, run.output_tokens, run.cached_tokens) == (
        6_300_000,
        3600,
        1050,
        600,
    )
    assert [name for _, name in of_step] == list(NODES)
    assert {(step.status, step.duration_ms, step.attempts) for step in of_step.values()} == {
        ("success", 95.5, 1)
    }


@pytest.mark.parametrize("seed", range(20))
def test_order_and_repetition_do_not_matter(seed: int) -> None:
    """Shuffled, and partly told twice, the recorded messages give the same run and the same steps."""
    events = recorded()
    shuffled = [*events, *random.Random(seed).sample(events, 20)]
    random.Random(seed).shuffle(shuffled)
    in_order, out_of_order = fold(events), fold(shuffled)
    assert out_of_order == in_order


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ([told("run.created", 0)], "pending"),
        ([told("pipeline.adk_completed", 0, cost={"cost_usd": 1})], "pending"),
        ([told("run.created", 0), told("run.started", 0)], "running"),
        ([told("run.created", 0), told("step.started", 0, step="a")], "running"),
        ([told("run.started", 0)], "running"),
        ([told("step.started", 0, step="a")], "running"),
        ([told("run.started", 0), told("run.paused", 1)], "paused"),
        ([told("run.started", 0), told("run.paused", 1), told("run.resumed", 2)], "running"),
        ([told("run.started", 0), told("run.paused", 1), told("step.started", 2, step="a")], "running"),
        ([told("run.started", 0), told("run.finished", 1)], "success"),
        ([told("run.started", 0), told("run.finished", 1, error="x")], "failed"),
        *(
            ([told("run.started", 0), told("run.finished", 1, status=word)], status)
            for word, status in [
                *((status, status) for status in ("success", "failed", "skipped", "cancelled")),
                ("completed", "success"),
                ("error", "failed"),
            ]
        ),
        (
            [told("run.started", 0), told("run.finished", 1, status="failed"), told("run.started", 2)],
            "running",
        ),
        ([told("run.finished", 1, status="failed"), told("run.finished", 2, status="success")], "success"),
        ([told("run.finished", 1, status="failed"), told("step.started", 2, step="a")], "failed"),
        ([told("dag.started", 0, dag="d"), told("dag.failed", 1, dag="d", error="x")], "failed"),
        ([told("pipeline.started", 0), told("pipeline.paused", 1), told("pipeline.completed", 1)], "paused"),
        (
            [told("pipeline.started", 0), told("pipeline.paused", 1), told("pipeline.completed", 1.5)],
            "paused",
        ),
        (
            [
                *(told("pipeline.started", 0), told("pipeline.paused", 1), told("pipeline.completed", 1)),
                *(told("api.hitl_resumed", 5), told("pipeline.completed", 9)),
            ],
            "success",
        ),
        ([told("react.started", 0, runner="x"), told("react.goal_met", 1)], "running"),
        ([told("react.started", 0, runner="x"), told("react.completed", 1, runner="x")], "success"),
        ([told("router.started", 0), told("router.failed", 1, error="x")], "failed"),
        ([told("dag.started", 0), told("api.run_cancelled", 1)], "cancelled"),
        (
            [told("dag.started", 0), told("api.run_cancelled", 1), told("stage.started", 2, step="a")],
            "cancelled",
        ),
        # Something that works inside another does not end it.
        (
            [
                told("dag.started", 0, dag="o"),
                told("dag.started", 1, dag="i"),
                told("dag.completed", 2, dag="i"),
            ],
            "running",
        ),
        ([told("dag.started", 0), told("pipeline.started", 1), told("pipeline.completed", 2)], "running"),
        ([told("run.started", 0), told("dag.started", 1), told("dag.completed", 2)], "running"),
        (
            [told("pipeline.started", 0), told("pipeline.completed", 2), told("stage.started", 3, step="b")],
            "running",
        ),
    ],
)
def test_a_runs_status(events: list[Event], status: str) -> None:
    """What a run's events say of it comes to one of seven statuses, in whatever order they come."""
    for order in (events, events[::-1], [*events, *events]):
        run = run_after(*order)
        assert run.status == status
        assert (run.finished_at is not None) == run.ended
        assert (run.duration_ms is not None) == run.ended


def test_a_run_keeps_what_is_told_of_it() -> None:
    """Trigger, result, error, duration and cost are kept; a later word replaces an earlier one."""
    run = run_after(
        told("run.started", 0, trigger_type="webhook", trigger_data={"path": "/x"}),
        told(
            "run.finished",
            3,
            status="failed",
            result={"rows": 3},
            error="out of paper",
            duration_ms=2500,
            cost_usd=0.25,
            input_tokens=10,
            output_tokens=4,
        ),
        told("run.finished", 2, status="success", result={"rows": 2}, cost_usd=9),
    )
    assert (run.trigger_type, run.trigger_data) == ("webhook", {"path": "/x"})
    assert (run.status, run.result, run.error) == ("failed", {"rows": 3}, "out of paper")
    assert (run.duration_ms, run.finished_at) == (2500.0, START + timedelta(seconds=3))
    assert (run.cost_nanos, run.input_tokens, run.output_tokens, run.cached_tokens) == (
        25 * 10**7,
        10,
        4,
        None,
    )


def test_a_trigger_may_be_one_object() -> None:
    """``trigger`` with a type inside is the same as the type and the data apart; text alone is the type."""
    run = run_after(told("run.started", 0, trigger={"type": "scheduled", "schedule": "@daily"}))
    assert (run.trigger_type, run.trigger_data) == ("scheduled", {"schedule": "@daily"})
    run = run_after(told("run.started", 0, trigger="manual"))
    assert (run.trigger_type, run.trigger_data) == ("manual", None)


def test_a_result_that_is_no_object_is_wrapped() -> None:
    """A result is an object, always."""
    assert run_after(told("run.finished", 0, result="done")).result == {"value": "done"}


def test_what_steps_cost_adds_up_unless_the_run_says_it() -> None:
    """The sum over steps, all attempts of them, stands in for what nobody told of the whole."""
    events = [
        told("step.started", 0, step="a"),
        told("step.failed", 1, step="a", cost_usd=0.1, input_tokens=5),
        told("step.started", 2, step="a"),
        told("step.completed", 3, step="a", cost_usd=0.2),
        told("step.completed", 4, step="b", cost_usd=0.3),
    ]
    run = run_after(*events)
    assert (run.cost_nanos, run.input_tokens) == (600_000_000, 5)
    run = run_after(*events, told("run.finished", 5, cost_usd=1))
    assert (run.cost_nanos, run.input_tokens) == (1_000_000_000, 5)


def test_which_run_an_event_belongs_to() -> None:
    """The payload names it; the correlation id does for topics of runs only; what is no name is none."""
    assert run_of(said("x", 0, "c", run_id="a", execution_id="b")) == "a"
    assert run_of(said("x", 0, "c", execution_id="b")) == "b"
    assert run_of(said("dag.started", 0, "c")) == "c"
    assert run_of(said("stage.started", 0, "c")) == "c"
    assert run_of(said("x", 0, "c")) is None
    assert run_of(said("pipeline.adk_completed", 0, "c", session_id="s")) == "s"
    assert run_of(said("pipeline.adk_completed", 0, "c")) is None
    for wrong in ("", "a b", "../x", 5, ["a"], {"a": 1}, "x" * 200):
        assert run_of(said("run.started", 0, None, run_id=wrong)) is None


def test_a_step_that_is_tried_again() -> None:
    """Each beginning is an attempt with an end, a duration and an error of its own; the last one counts."""
    events = [
        told("step.started", 0, step="a"),
        told("step.failed", 1, step="a", error="timeout", duration_ms=900),
        told("step.started", 5, step="a"),
        told("step.completed", 7, step="a", output={"n": 1}),
    ]
    for order in (events, events[::-1], events * 2):
        step = step_after(*order)
        assert (step.status, step.attempts, step.duration_ms) == ("success", 2, 2000.0)
        assert (step.started_at, step.finished_at) == (START, START + timedelta(seconds=7))
        assert (step.error, step.output) == ("timeout", {"n": 1})
        assert [attrs.astuple(attempt) for attempt in attempts_of(step)] == [
            (START, START + timedelta(seconds=1), "failed", 900.0, "timeout"),
            (START + timedelta(seconds=5), START + timedelta(seconds=7), "success", 2000.0, None),
        ]


def test_a_step_whose_beginning_nobody_told() -> None:
    """It has one attempt, which ended."""
    step = step_after(told("dag.node_completed", 3, node="a", duration_ms=50))
    assert (step.status, step.attempts, step.duration_ms) == ("success", 1, 50.0)
    assert attempts_of(step)[0].started_at is None


def test_an_agent_that_failed_is_its_step_that_failed() -> None:
    """Runners tell of no node that failed; when the node ends well after all, it did."""
    failed = [told("dag.node_started", 0, node="a"), told("agent.failed", 1, agent="a", error="no quota")]
    assert (step_after(*failed).status, step_after(*failed).error) == ("failed", "no quota")
    assert step_after(*failed, told("dag.node_completed", 2, node="a")).status == "success"


def test_an_attempt_that_is_told_by_number_counts() -> None:
    """A publisher may say which attempt it is, also when the earlier ones were not heard of."""
    step = step_after(
        told("step.started", 0, step="a", attempt=3), told("step.started", 0, step="a", attempt=2)
    )
    assert step.attempts == 3


def test_the_newest_attempts_are_told_apart() -> None:
    """A step that begins ten thousand times keeps a bounded memory of it, and its first beginning."""
    events = [
        event
        for n in range(150)
        for event in (
            told("step.started", 2 * n, step="a"),
            told("step.completed", 2 * n + 1, step="a", cost_usd=0.01),
        )
    ]
    step = step_after(*events)
    assert step.started_at == START
    assert len(step.starts) == len(step.ends) == steps.MAX_ATTEMPTS
    assert step.cost_nanos == 150 * 10_000_000
    assert len(attempts_of(step)) == steps.MAX_ATTEMPTS


def test_model_calls_are_bounded_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the bound the older calls are only a sum."""
    monkeypatch.setattr(spendings, "MAX_CALLS", 10)
    call = {"session_id": "r", "cost": {"estimated_cost_usd": 0.5}}
    calls = [said("pipeline.adk_completed", n, None, **call) for n in range(25)]
    spending = Spending("r")
    for event in (*calls, *calls[-3:]):
        spending.apply(event, NO_PRICES)
    assert len(spending.calls) == 10
    assert spending.spent.cost_nanos == 25 * 500_000_000


def test_calls_find_their_run_in_any_order() -> None:
    """A call names only its session; with the runner that names the workflow, the run is told its cost."""
    call = said("pipeline.adk_completed", 1, None, session_id="r", cost={"estimated_cost_usd": 0.5})
    call = call._replace(channel="topic:pipeline.adk_completed")
    start = told("dag.started", 0, dag="d")
    for order in ([call, start], [start, call], [start, call, call, start]):
        assert run_after(*order).cost_nanos == 500_000_000


@pytest.mark.parametrize("wrong", [None, True, -1, "x", [1], {"a": 1}, 10**30, float("1e300"), "x" * 100_000])
def test_payloads_may_hold_anything(wrong: Any) -> None:
    """A field of the wrong type says nothing, or is shortened; nothing raises."""
    names = (
        "status",
        "duration_ms",
        "cost_usd",
        "input_tokens",
        "error",
        "result",
        "trigger",
        "trigger_type",
    )
    more = ("trigger_data", "dag", "attempt", "cost", "output", "thoughts_tokens", "candidates_tokens")
    payload = dict.fromkeys((*names, *more), wrong)
    for topic in ("run.started", "run.finished", "dag.completed", "pipeline.adk_completed", "step.completed"):
        run = run_after(told(topic, 1, step="a", **payload))
        assert run.duration_ms is None or run.duration_ms >= 0
        assert (run.cost_nanos or 0) >= 0
        assert run.error is None or len(run.error) <= MAX_ERROR


topics = st.sampled_from(
    [
        *("run.created", "run.started", "run.paused", "run.resumed", "run.finished", "agent.started"),
        *(
            "dag.started",
            "dag.completed",
            "dag.failed",
            "pipeline.started",
            "pipeline.paused",
            "pipeline.completed",
        ),
        *("step.started", "step.completed", "step.failed", "agent.failed", "pipeline.adk_completed"),
    ]
)
payloads = st.fixed_dictionaries(
    {"run_id": st.sampled_from("ab")},
    optional={
        "step": st.sampled_from("xy"),
        "status": st.sampled_from(["success", "failed", "skipped", "cancelled"]),
        "error": st.sampled_from(["e1", "e2"]),
        "duration_ms": st.integers(0, 5),
        "cost_usd": st.integers(0, 3),
        "result": st.dictionaries(st.sampled_from("pq"), st.integers(0, 2), max_size=2),
        "trigger": st.sampled_from(["manual", {"type": "webhook", "path": "/"}]),
        "cost": st.fixed_dictionaries({"estimated_cost_usd": st.integers(0, 3)}),
        "attempt": st.integers(1, 4),
    },
)
histories = st.lists(
    st.builds(
        lambda topic, seconds, payload: said(topic, seconds, None, **payload),
        topics,
        st.integers(0, 8),
        payloads,
    ),
    max_size=14,
)


@given(histories, st.randoms(use_true_random=False))
def test_any_history_is_a_set(events: list[Event], chance: random.Random) -> None:
    """Whatever was told, in whatever order and however often: the runs and the steps are the same."""
    again = [*events, *(chance.choice(events) for _ in range(len(events) // 2))]
    chance.shuffle(again)
    assert fold(again) == fold(events)


@given(histories)
def test_runs_agree_with_a_recount(events: list[Event]) -> None:
    """What is folded is what is counted afresh from the set of all events."""
    of_run, of_step = fold(events)
    for run_id, run in of_run.items():
        mine = [event for event in events if event.payload["run_id"] == run_id and RUN.key_of(event)]
        assert run.started_at == min(event.timestamp for event in mine)
        assert run.updated_at == max(event.timestamp for event in mine)
        names = {event.payload["step"] for event in mine if step_of(event)}
        assert {name for owner, name in of_step if owner == run_id} == names
        assert run.steps == Counter(of_step[run_id, name].status for name in names)
        assert run.status == recounted_status(mine)
        for name in names:
            assert_recounted(of_step[run_id, name], [e for e in mine if step_of(e) == name])


def recounted_status(events: Sequence[Event]) -> str:
    """Tell a run's status by walking through its events in the order of time, as a person would."""
    begun: dict[str, datetime] = {}
    for event in sorted(events, key=lambda event: event.timestamp):
        runner, _, word = event.topic.partition(".")
        if word == "started" and runner in {"run", "dag", "pipeline"}:
            begun.setdefault(runner, event.timestamp)
    spoken = [
        e
        for e in events
        if e.topic.partition(".")[0] in {"run", "dag", "pipeline"} and e.topic != "pipeline.adk_completed"
    ]
    deciding = "run"
    if "run" not in begun and begun:
        deciding = min(begun, key=lambda runner: (begun[runner], runner))
    elif "run" not in begun and spoken:
        latest: dict[str, datetime] = {}
        for event in spoken:
            runner = event.topic.partition(".")[0]
            latest[runner] = max(event.timestamp, latest.get(runner, event.timestamp))
        deciding = max(latest, key=lambda runner: (latest[runner], runner))
    words = []
    for event in spoken:
        runner, _, word = event.topic.partition(".")
        if runner in {deciding, "run"}:
            words.append((event.timestamp, meaning(word, event.payload)))
    ends_badly = any(word in {"failed", "cancelled", "skipped"} for _, word in words)
    words += [(e.timestamp, "running") for e in events if e.topic == "step.started" and not ends_badly]
    pauses = [at for at, word in words if word == "paused"]
    successes = [at for at, word in words if word == "success"]
    goings = [at for at, word in words if word == "running"]
    if pauses and successes and max(successes) >= max(pauses) and not any(at > max(pauses) for at in goings):
        words = [(at, word) for at, word in words if word != "success"]
    order = ("pending", "running", "paused", "success", "skipped", "cancelled", "failed")
    return max(words, key=lambda said: (said[0], order.index(said[1])))[1] if words else "pending"


def meaning(word: str, payload: Any) -> str:
    """Return the status that a runner's word means."""
    if word == "finished":
        return str(payload.get("status", "failed" if "error" in payload else "success"))
    return {"created": "pending", "started": "running", "resumed": "running", "completed": "success"}.get(
        word, word
    )


def assert_recounted(step: Step, events: Sequence[Event]) -> None:
    """Hold a step against its events, counted afresh."""
    starts = {event.timestamp for event in events if event.topic == "step.started"}
    ends = {event.timestamp for event in events if event.topic != "step.started"}
    numbers = [event.payload.get("attempt", 1) for event in events]
    assert step.attempts == max(len(starts), *numbers, 1)
    assert step.started_at == (min(starts) if starts else min(ends))
    last = max(starts, default=START)
    if ends and max(ends) > last:
        assert step.finished_at == max(ends)
    if not ends:
        assert step.status == "running"
    assert sum(attempt.finished_at is not None for attempt in attempts_of(step)) <= max(1, len(ends))


shares = st.builds(
    RunShare,
    st.just("w"),
    st.sampled_from("abc"),
    st.sampled_from(runs.STATUSES),
    st.integers(0, 5).map(lambda n: from_microseconds(n)),
    st.none() | st.integers(0, 10**6).map(float),
    st.none() | st.integers(0, 10**6),
)


@given(st.lists(shares, max_size=30))
def test_a_record_is_what_its_runs_add_up_to(history: list[RunShare]) -> None:
    """However runs change, the counters are those of the runs as they are, and the last run is found."""
    record = Record("w")
    now: dict[str, RunShare] = {}
    for share in history:
        before = now.get(share.run_id)
        # A run's beginning can only turn out to be earlier.
        share = (
            share if before is None else share._replace(started_at=min(share.started_at, before.started_at))
        )
        if before is not None:
            record.feed(before, -1)
        record.feed(share, 1)
        now[share.run_id] = share
    current = now.values()
    assert record.runs == Counter(share.status for share in current)
    assert record.total == len(now)
    assert record.cost_nanos == sum(share.cost_nanos or 0 for share in current)
    assert record.durations == Counter(
        str(bin_of(round(share.duration_ms))) for share in current if share.duration_ms is not None
    )
    assert record.costs == Counter(
        str(bin_of(share.cost_nanos)) for share in current if share.cost_nanos is not None
    )
    if now and not record.doubtful:
        assert record.last_run_id == max(current, key=lambda share: (share.started_at, share.run_id)).run_id
    if now:
        assert record.last_started_at is not None
        assert all(share.started_at <= record.last_started_at for share in current)


def test_the_success_rate_is_of_what_has_ended() -> None:
    """Three of five is 60.0, whatever still runs; of none it is 0."""
    assert Record("w").success_rate == 0.0
    assert Record("w", runs={"success": 3, "failed": 1, "cancelled": 1, "running": 9}).success_rate == 60.0


def test_a_switch_is_kept() -> None:
    """The last word on ``enabled`` stands; anything but a boolean is none."""
    record = Record("w")
    for enabled in (False, "yes", None):
        record.apply(said("workflow.updated", 0, None, enabled=enabled), NO_PRICES)
    assert record.enabled is False


def test_what_is_older_than_all_that_is_remembered_counted_before() -> None:
    """A full set takes nothing older, gives back what has to go, and joins what it has already."""
    entries = {"2": [1, None], "3": [0, 0]}
    assert remember(entries, "1", [9, 9], 2) is None
    assert remember(entries, "2", [0, 5], 2) is None
    assert remember(entries, "4", [4, 4], 2) == [1, 5]
    assert entries == {"3": [0, 0], "4": [4, 4]}


def test_spending_adds_up_as_far_as_it_is_known() -> None:
    """What nobody tells stays unknown, and is no zero."""
    assert Spent(1, None, 3, None).plus(Spent(1, None, None, 4)) == Spent(2, None, 3, 4)
    assert Spent.from_payload({"nothing": 1}) is None
    assert set(AGENTS) <= set(NODES)


def test_who_only_names_a_run_makes_none() -> None:
    """An agent's events belong to the run, but whether there is one is told by others."""
    events = [told("agent.started", 0, agent="a"), told("api.workflow_triggered", 0)]
    assert [run_of(event) for event in events] == ["r", "r"]
    assert fold(events) == ({}, {})


def test_sums_stay_within_what_databases_hold() -> None:
    """However often the most is told, what is shown is no more than one event may tell."""
    most = {"cost_usd": MAX_COST_USD, "input_tokens": MAX_TOKENS}
    events = [told("step.completed", n, step="a", **most) for n in range(200)]
    events += [told("step.completed", n, step=f"s{n}", **most) for n in range(200)]
    run = run_after(*events)
    assert (run.cost_nanos, run.input_tokens) == (MAX_COST_USD * 10**9, MAX_TOKENS)


def test_a_share_of_a_run_that_was_removed_begins_it_anew() -> None:
    """What steps and calls still add finds a run, whatever has become of the first one."""
    run = Run.fed(spendings.SpendingShare("r", "w", Spent(5)))
    run.feed(spendings.SpendingShare("r", "w", Spent(5)), 1)
    run.feed(steps.StepShare("r", "w", START, "success", Spent(2)), 1)
    assert (run.id, run.status, run.cost_nanos, run.steps) == ("r/w", "pending", 7, {"success": 1})
