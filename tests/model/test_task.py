from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import attrs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.model.event import Event
from heliograph.model.ids import make_id
from heliograph.model.task import LOST, STATUSES, TERMINAL, Task, merged, nano_dollars, task_json

START = datetime(2026, 1, 31, 12, tzinfo=UTC)


@attrs.define
class History:
    """Builds the events of one task, a second apart."""

    events: list[Event] = attrs.field(factory=list)

    def add(self, topic: str, payload: dict[str, Any], seconds: float | None = None) -> None:
        """Add an event at this many seconds from the start."""
        seq = len(self.events) + 1
        moment = START + timedelta(seconds=seq if seconds is None else seconds)
        self.events.append(Event(make_id(seq), "task:1", seq, topic, moment, {"task_id": "1", **payload}))

    def status(self, status: str, seconds: float | None = None, **result: Any) -> None:
        """Add a status, with a result if there is one."""
        self.add("task.status", {"status": status, **({"result": result} if result else {})}, seconds)

    def output(self, text: str = "x", seconds: float | None = None) -> None:
        """Add a line of output."""
        self.add("task.output", {"output": text}, seconds)

    def fold(self) -> Task:
        """Fold them as the store does."""
        task = Task.first_seen(self.events[0])
        for event in self.events:
            task.apply(event)
        return task


RESULTS = st.fixed_dictionaries(
    {},
    optional={
        "cost_usd": st.floats(0, 10**9) | st.integers(0, 10**9) | st.none(),
        "input_tokens": st.integers(0, 10**15) | st.none(),
        "output_tokens": st.integers(0, 10**15) | st.none(),
        "error": st.text() | st.none() | st.dictionaries(st.text(), st.integers()),
        "model": st.text() | st.integers(),
    },
)
STEPS = st.tuples(
    st.just("task.status"),
    st.fixed_dictionaries({"status": st.sampled_from(STATUSES), "result": st.none() | RESULTS}),
)
STEPS |= st.tuples(st.just("task.output"), st.fixed_dictionaries({"output": st.text()}))
STEPS |= st.tuples(
    st.just("task.created"),
    st.dictionaries(st.sampled_from(["name", "agent", "model"]), st.text() | st.none()),
)
STEPS |= st.tuples(st.just("task.progress"), st.just({"percent": 5}))


def test_a_task_runs_its_course() -> None:
    """Created, first output, terminal status: each sets its time and the status that it means."""
    history = History()
    history.add("task.created", {"name": "n", "agent": "a", "input": [1], "metadata": {"k": "v"}}, 0)
    history.output("héllo", 2)
    history.status("completed", 5.5, cost_usd=0.05, input_tokens=10, output_tokens=20, model="m")
    task = history.fold()
    assert (task.status, task.finished, task.name, task.agent, task.model) == (
        "completed",
        True,
        "n",
        "a",
        "m",
    )
    assert (task.input, task.metadata) == ([1], {"k": "v"})
    assert (task.created_at, task.started_at) == (START, START + timedelta(seconds=2))
    assert (task.finished_at, task.duration_ms) == (START + timedelta(seconds=5.5), 3500)
    assert (task.output_lines, task.output_bytes) == (1, 6)
    assert (task.cost_nanos, task.input_tokens, task.output_tokens) == (50_000_000, 10, 20)
    assert (task.last_seq, task.last_event_id, task.finished_event_id) == (3, make_id(3), make_id(3))


@pytest.mark.parametrize(
    ("topic", "payload", "status"),
    [
        ("task.output", {"output": "x"}, "running"),
        ("task.status", {"status": "running"}, "running"),
        ("task.status", {"status": "queued"}, "queued"),
        ("task.created", {}, "queued"),
        ("task.status", {"status": "failed"}, "failed"),
        ("task.progress", {}, "queued"),
    ],
)
def test_any_event_makes_an_unknown_task(topic: str, payload: dict[str, Any], status: str) -> None:
    """The first event that mentions a task makes it, whatever that event is."""
    history = History()
    history.add(topic, payload)
    task = history.fold()
    assert (task.task_id, task.status, task.created_at) == ("1", status, START + timedelta(seconds=1))


@given(st.lists(STEPS, max_size=8), st.sampled_from(sorted(TERMINAL - {LOST})), st.lists(STEPS, max_size=8))
def test_a_late_event_never_reopens_a_task(
    before: list[tuple[str, dict[str, Any]]], end: str, after: list[tuple[str, dict[str, Any]]]
) -> None:
    """Nothing that was said before the end reopens a task; another end corrects it, but no loss does."""
    history = History()
    for step in before:
        history.add(*step)
    history.status(end)
    ended, outcome, first = len(history.events), end, history.fold().finished_at
    assert first is not None
    for topic, payload in after:
        history.add(topic, payload, (first - START).total_seconds() - 0.5)
        if payload.get("status") in TERMINAL - {LOST}:
            outcome, ended = payload["status"], len(history.events)
        task = history.fold()
        assert task.status == outcome
        assert task.finished
        assert task.finished_event_id == make_id(ended)
        assert task.finished_at == first


@given(st.lists(STEPS, min_size=1, max_size=15))
def test_counts_are_those_of_the_output(steps: list[tuple[str, dict[str, Any]]]) -> None:
    """Every line counts, also late ones, in lines and in UTF-8 bytes."""
    history = History()
    for topic, payload in steps:
        if "output" in payload:
            payload = {"output": payload["output"].encode(errors="ignore").decode()}
        history.add(topic, payload)
    task = history.fold()
    outputs = [event.payload["output"] for event in history.events if event.topic == "task.output"]
    assert task.output_lines == len(outputs)
    assert task.output_bytes == sum(len(text.encode()) for text in outputs)
    assert (task.last_seq, task.last_event_id) == (len(steps), make_id(len(steps)))
    assert task.finished == (task.finished_at is not None) == (task.status in TERMINAL)


def test_a_lost_task_goes_on_with_its_attempt() -> None:
    """What is said of it then stands alone: nothing of the loss is left, and what it has spent stays."""
    history = History()
    history.status("running", 1)
    history.add("task.cost", {"cost_usd": 1}, 2)
    history.status("lost", 3, error="no heartbeat")
    lost = history.fold()
    assert (lost.status, lost.error, lost.finished_at) == (
        "lost",
        "no heartbeat",
        START + timedelta(seconds=3),
    )
    history.add("task.output", {"output": "late"}, 4)
    assert history.fold().status == "lost"
    history.status("waiting_input", 1.5)
    back = history.fold()
    assert (back.status, back.error, back.finished_at, back.attempts) == ("waiting_input", None, None, 1)
    assert (back.started_at, back.cost_nanos) == (START + timedelta(seconds=1), 10**9)
    history.status("lost", 5, error="no heartbeat")
    history.status("completed", 6, n=1)
    done = history.fold()
    assert (done.status, done.error, done.result) == ("completed", None, {"n": 1})
    assert done.finished_at == START + timedelta(seconds=6)


def test_a_later_terminal_status_corrects_the_outcome() -> None:
    """A second terminal status replaces what it says; the first one's time, and what it leaves out, stay."""
    history = History()
    history.status("running", 1)
    history.status("failed", 2, error="boom", cost_usd=1, input_tokens=5, stdout="so far")
    history.status("completed", 3, cost_usd=2, input_tokens=None, error=None, output_tokens=7)
    task = history.fold()
    assert (task.status, task.finished_at) == ("completed", START + timedelta(seconds=2))
    assert (task.error, task.cost_nanos, task.input_tokens, task.output_tokens) == (None, 2_000_000_000, 5, 7)
    assert task.result == {
        "error": None,
        "cost_usd": 2,
        "input_tokens": 5,
        "stdout": "so far",
        "output_tokens": 7,
    }


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers() | st.none()), min_size=3, max_size=3))
def test_corrections_merge_in_any_grouping(results: list[dict[str, Any]]) -> None:
    """Whether later corrections are merged first or last decides nothing: a fold may begin with either."""
    one, two, three = results
    assert merged(merged(one, two), three) == merged(one, merged(two, three))


def test_corrections_are_merged_in_place_but_for_the_first() -> None:
    """A result of an event is never changed; one that was merged is, so that thousands cost no copies."""
    one = {"a": 1}
    two = merged(one, {"b": 2})
    assert merged(two, {"c": 3}) is two
    assert (one, two) == ({"a": 1}, {"a": 1, "b": 2, "c": 3})


@given(st.lists(st.decimals(0, 100, places=9), max_size=10))
def test_costs_add_up_while_the_task_runs(amounts: list[Decimal]) -> None:
    """Each ``task.cost`` adds, exactly; a result that says a cost counts instead."""
    history = History()
    history.status("running")
    for amount in amounts:
        history.add("task.cost", {"cost_usd": float(amount), "input_tokens": 2})
    task = history.fold()
    assert task.status == "running"
    assert (task.cost_nanos or 0) == sum(amounts) * 10**9
    assert (task.input_tokens or 0) == 2 * len(amounts)
    history.status("completed", output_tokens=1)
    assert (history.fold().cost_nanos or 0) == sum(amounts) * 10**9
    history.status("completed", cost_usd=0.5)
    assert history.fold().cost_nanos == 500_000_000


def test_a_cost_makes_a_queued_task_run() -> None:
    """What spends is running."""
    history = History()
    history.add("task.created", {})
    history.add("task.cost", {"output_tokens": 3})
    assert history.fold().status == "running"


def test_a_task_may_wait_for_its_user() -> None:
    """Waiting for input is no end: lines don't end it, ``running`` does, and the start is the first one."""
    history = History()
    history.status("waiting_input", 1)
    history.output("Continue? [y/n]", 2)
    task = history.fold()
    assert (task.status, task.finished, task.started_at) == (
        "waiting_input",
        False,
        START + timedelta(seconds=1),
    )
    history.status("running", 3)
    assert (history.fold().status, history.fold().started_at) == ("running", START + timedelta(seconds=1))
    history.status("completed", 4)
    history.status("waiting_input", 5)
    assert (history.fold().status, history.fold().duration_ms) == ("completed", 3000)


def test_a_correction_without_a_result_keeps_what_was_known() -> None:
    """A terminal status that brings no result leaves the earlier one standing."""
    history = History()
    history.status("completed", 1, cost_usd=2)
    history.status("failed", 2)
    task = history.fold()
    assert (task.status, task.cost_nanos) == ("failed", 2_000_000_000)


def test_a_finished_task_still_counts_late_lines() -> None:
    """A line that arrives after the end is counted and does not start the task again."""
    history = History()
    history.status("completed", 1)
    history.output("late", 2)
    history.status("waiting_input", 3)
    task = history.fold()
    assert (task.status, task.output_lines, task.started_at) == ("completed", 1, None)


def test_a_late_description_is_kept() -> None:
    """A ``task.created`` that arrives late describes the task without touching its course."""
    history = History()
    history.status("completed", 1)
    history.add("task.created", {"name": "n", "agent": None}, 2)
    task = history.fold()
    assert (task.status, task.name, task.agent) == ("completed", "n", None)


def test_time_never_runs_backwards() -> None:
    """An event with an older timestamp moves neither the update time nor the duration below zero."""
    history = History()
    history.status("running", 10)
    history.status("completed", 5)
    task = history.fold()
    assert task.updated_at == START + timedelta(seconds=10)
    assert task.duration_ms == 0


def test_a_task_without_a_start_lasts_from_its_creation() -> None:
    """The duration of a task that never ran is counted from when it was created."""
    history = History()
    history.add("task.created", {}, 1)
    history.status("cancelled", 2.25)
    assert history.fold().duration_ms == 1250


@pytest.mark.parametrize(
    ("amount", "nanos"),
    [
        (0, 0),
        (0.05, 50_000_000),
        (0.1, 100_000_000),
        (4e-7, 400),
        (1e-9, 1),
        (5e-10, 0),
        (1.5e-9, 2),
        (10**9, 10**18),
        ("0.3", 300_000_000),
    ],
)
def test_dollars_become_whole_nano_dollars(amount: float | str, nanos: int) -> None:
    """Amounts are rounded half to even at the ninth decimal."""
    assert nano_dollars(amount) == nanos


@given(st.lists(st.decimals(0, 1000, places=9), max_size=50))
def test_money_adds_up_exactly(amounts: list[Decimal]) -> None:
    """The sum of many amounts published as JSON numbers is exact to the nano-dollar."""
    total = sum(nano_dollars(orjson.loads(str(float(amount)))) for amount in amounts)
    assert Fraction(total, 10**9) == sum((Fraction(amount) for amount in amounts), Fraction(0))


@given(st.lists(STEPS, min_size=1, max_size=8))
def test_a_task_is_written_as_json(steps: list[tuple[str, dict[str, Any]]]) -> None:
    """The JSON of a task has every field under its public name, cursors as text and dollars as dollars."""
    history = History()
    for step in steps:
        history.add(*step)
    task = history.fold()
    view = task_json(task)
    assert "cost_nanos" not in view
    assert view["cost_usd"] == (None if task.cost_nanos is None else task.cost_nanos / 10**9)
    assert view["last_event_id"] == f"{len(steps)}-0"
    assert (view["finished_event_id"] is None) == (task.finished_event_id is None)
    assert view["duration_ms"] == task.duration_ms
    assert set(view) >= {field.name for field in attrs.fields(Task)} - {
        "cost_nanos",
        "earlier",
        "heartbeat_ms",
    }


def test_a_task_that_runs_again_begins_another_attempt() -> None:
    """A task that is resumed runs; its costs are added, and nothing of its first end is left."""
    history = History()
    history.status("running", 0)
    history.status("failed", 1, cost_usd=0.5, input_tokens=10, error="rate limited")
    history.status("running", 5)
    again = history.fold()
    assert (again.status, again.attempts, again.error, again.result) == ("running", 2, None, {})
    assert (again.finished_at, again.finished_event_id, again.duration_ms) == (None, None, None)
    history.status("completed", 7, cost_usd=0.25, input_tokens=4, output_tokens=2)
    history.status("completed", 8, output_tokens=3)  # which corrects the second attempt
    task = history.fold()
    assert (task.status, task.cost_nanos, task.duration_ms) == ("completed", 750_000_000, 2000)
    assert (task.input_tokens, task.output_tokens) == (14, 3)
