"""A run of a workflow, folded from its events in any order (see ``facts``).

A runner may work inside another one, in the same run. The runner that began first decides the run's status;
if there is a ``run.started``, the run's own events do. Its latest status counts, with two exceptions for real
runners: a pipeline that pauses publishes ``completed`` after ``paused``, which does not end it; and a step
that begins after a success shows that the run goes on.

Events that only name a run, such as those of its agents, belong to it and change nothing. The run's cost is
the one that is published for the whole run; without it, the sum over its model calls and its steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import attrs

from heliograph.model.event import Event
from heliograph.model.ids import EPOCH, OLDEST, EventId, from_microseconds, to_microseconds
from heliograph.model.kind import Key, Kind
from heliograph.model.prices import Prices
from heliograph.model.rules import OBJECT, Rule, Rules, one_of, text
from heliograph.model.workflows import facts
from heliograph.model.workflows.facts import MAX_ERROR, NAMED, TOLD, Spent
from heliograph.model.workflows.spending import SPENDING, SpendingShare
from heliograph.model.workflows.spending import share_of as share_of_spending
from heliograph.model.workflows.step import STEP, StepShare
from heliograph.model.workflows.step import share_of as share_of_step
from heliograph.model.workflows.vocabulary import (
    ENDS,
    FINISHED,
    OF_RUNS,
    OF_STEPS,
    id_of,
    run_of,
    tells_of_runs,
)

STATUSES = ("pending", "running", "success", "failed", "skipped", "paused", "cancelled")
RANKS = ("pending", "running", "paused", "success", "skipped", "cancelled", "failed")
"""The order of statuses of the same time: the last one of these counts."""

MAX_RUNNERS = 20
"""The most runners of one run whose events count."""


@attrs.define
class Run:
    """The state of one run; times are aware UTC, money is whole nano-dollars.

    Args:
        id: Unique over all workflows, as ``id_of`` makes it.
        run_id: Unique within its workflow.
        workflow_id: The workflow.
        started_at: The time of its first event.
        updated_at: The time of its last event.
        status: One of ``STATUSES``.
        finished_at: The time at which it ended.
        duration_ms: The published duration, else the time from start to end.
        trigger_type: The kind of cause that started it.
        trigger_data: The data of that cause.
        result: The outcome's value.
        error: The last error of the run or of a part of it.
        cost_nanos: The run's cost.
        input_tokens: Tokens that its models read.
        output_tokens: Tokens that its models wrote.
        cached_tokens: Input tokens that came from a cache.
        steps: The number of its steps in each status.
        status_times: By runner (``run``: the run's own events), by the status that it told: the latest time
            at which it did, in microseconds since the epoch; for ``began`` the earliest.
        durations: By runner: the last published duration, and the time of its event.
        marks: By field: the mark of its latest value.
        active: The time at which a step last began.
        whole: The spending that was published for the whole run.
        parts: The spending of its steps and its model calls.
        first_event_id: Its first event in the log; a stream of the run begins there.
    """

    id: str
    run_id: str
    workflow_id: str
    started_at: datetime
    updated_at: datetime
    status: str = "pending"
    finished_at: datetime | None = None
    duration_ms: float | None = None
    trigger_type: str | None = None
    trigger_data: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    error: str | None = None
    cost_nanos: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    steps: dict[str, int] = attrs.field(factory=dict)
    status_times: dict[str, dict[str, int]] = attrs.field(factory=dict)
    durations: dict[str, list[Any]] = attrs.field(factory=dict)
    marks: dict[str, list[Any]] = attrs.field(factory=dict)
    active: int | None = None
    whole: list[int | None] = attrs.field(factory=lambda: list(Spent()))
    parts: list[int | None] = attrs.field(factory=lambda: list(Spent()))
    first_event_id: EventId = attrs.field(default=OLDEST, eq=False)

    @classmethod
    def first_seen(cls, event: Event) -> Run:
        """Begin a run at the first event that mentions it, whatever that event is."""
        run_id = run_of(event)
        assert run_id is not None
        workflow_id = event.channel.partition(":")[2]
        name, at = id_of(run_id, workflow_id), event.timestamp
        return cls(name, run_id, workflow_id, at, at, first_event_id=event.id)

    @classmethod
    def fed(cls, share: StepShare | SpendingShare) -> Run:
        """Begin a run at a share, since the run itself was removed before."""
        (name,) = share.owner
        times = (share.started_at,) if isinstance(share, StepShare) else share.times
        at = times[0] if times else EPOCH
        return cls(name, share.run_id, share.workflow_id, at, at)

    @property
    def ended(self) -> bool:
        """Whether the run has ended."""
        return self.status in ENDS

    def apply(self, event: Event, prices: Prices) -> None:
        """Add the facts of one event; ``prices`` are not used, since callers of models publish the cost."""
        at = to_microseconds(event.timestamp)
        self.started_at = min(self.started_at, event.timestamp)
        self.updated_at = max(self.updated_at, event.timestamp)
        payload = event.payload
        if event.topic in OF_RUNS:
            self._tell(at, *OF_RUNS[event.topic], payload)
        elif OF_STEPS.get(event.topic) == "began":
            self.active = max(at, self.active or at)
        self._trigger(at, payload)
        self._conclude()

    def feed(self, share: StepShare | SpendingShare, sign: int) -> None:
        """Add the share of a step, or of model calls, or subtract it (``sign`` -1)."""
        if isinstance(share, StepShare):
            count = self.steps.pop(share.status, 0) + sign
            if count:
                self.steps[share.status] = count
        elif share.times is not None:  # the calls' own times
            self.started_at = min(self.started_at, share.times[0])
            self.updated_at = max(self.updated_at, share.times[1])
        self.parts = list(Spent(*self.parts).plus(share.spent, sign))
        self._conclude()

    def _tell(self, at: int, runner: str, status: str, payload: Mapping[str, Any]) -> None:
        """Add the status that a runner told at a time."""
        if status == "finished":
            fallback = "success" if payload.get("error") is None else "failed"
            status = FINISHED.get(str(payload.get("status")), fallback)
        name = payload.get("dag")
        if runner == "dag" and isinstance(name, str):
            runner = f"dag:{name[:200]}"
        times = self.status_times.setdefault(runner, {}) if self._counts(runner) else {}
        if status == "began":
            times["began"] = min(at, times.get("began", at))
            status = "running"
        times[status] = max(at, times.get(status, at))
        if status in ENDS:
            self._end(at, runner, payload)

    def _counts(self, runner: str) -> bool:
        return runner in self.status_times or len(self.status_times) < MAX_RUNNERS

    def _end(self, at: int, runner: str, payload: Mapping[str, Any]) -> None:
        duration = facts.milliseconds(payload.get("duration_ms"))
        if duration is not None and self._counts(runner):
            self.durations[runner] = max(self.durations.get(runner, [at, duration]), [at, duration])
        result = payload.get("result")
        if result is not None:
            self._say("result", at, result if isinstance(result, dict) else {"value": result})
        self._say("error", at, facts.text(payload.get("error"), MAX_ERROR))
        spent = Spent.from_payload(payload) or (
            Spent.from_payload(result) if isinstance(result, dict) else None
        )
        if spent is not None and facts.later(self.marks, "whole", at, list(spent)):
            self.whole = list(spent)

    def _trigger(self, at: int, payload: Mapping[str, Any]) -> None:
        trigger = payload.get("trigger")
        if isinstance(trigger, dict):
            self._say("trigger_type", at, facts.text(trigger.get("type"), 200))
            self._say("trigger_data", at, {name: said for name, said in trigger.items() if name != "type"})
        elif isinstance(trigger, str):
            self._say("trigger_type", at, facts.text(trigger, 200))
        if isinstance(payload.get("trigger_type"), str):
            self._say("trigger_type", at, facts.text(payload["trigger_type"], 200))
        if isinstance(payload.get("trigger_data"), dict):
            self._say("trigger_data", at, payload["trigger_data"])

    def _say(self, field: str, at: int, value: Any) -> None:
        """Set a field if the value is the latest one; ``None`` and ``{}`` are ignored."""
        if value and facts.later(self.marks, field, at, value):
            setattr(self, field, value)

    def _conclude(self) -> None:
        """Compute the shown state from the facts."""
        runner = self._deciding_runner()
        times, own = self.status_times.get(runner, {}), self.status_times.get("run", {})
        latest = {told: max(some[told] for some in (times, own) if told in some) for told in {**times, **own}}
        status, at = _standing(latest, self.active)
        self.status = status
        self.finished_at = from_microseconds(at) if status in ENDS else None
        self.duration_ms = None
        if self.finished_at is not None:
            told = (self.durations.get(name, (None, None)) for name in (runner, "run"))
            between = (self.finished_at - self.started_at).total_seconds() * 1000
            self.duration_ms = next((span for when, span in told if when == at), round(between, 3))
        known = (
            parts if whole is None else whole for whole, parts in zip(self.whole, self.parts, strict=True)
        )
        self.cost_nanos, self.input_tokens, self.output_tokens, self.cached_tokens = Spent(*known).capped

    def _deciding_runner(self) -> str:
        """Return the runner that decides the status: ``run`` if it began, else the one that began first."""
        began = {runner: times["began"] for runner, times in self.status_times.items() if "began" in times}
        if "run" in began or not self.status_times:
            return "run"
        if began:
            return min(began, key=lambda runner: (began[runner], runner))
        return max(self.status_times, key=lambda runner: (max(self.status_times[runner].values()), runner))


def _standing(latest: Mapping[str, int], active: int | None) -> tuple[str, int]:
    """Return the status that follows from the statuses that a runner told, and its time.

    Args:
        latest: By status: the latest time at which it was told.
        active: The time at which a step last began.
    """
    said = {status: at for status, at in latest.items() if status != "began"}
    paused, success = said.get("paused"), said.get("success")
    if active is not None and not (ENDS - {"success"}) & said.keys():
        said["running"] = max(active, said.get("running", active))
    if paused is not None and success is not None and success >= paused >= said.get("running", paused):
        del said["success"]
    if not said:
        return "pending", 0
    status = max(said, key=lambda told: (said[told], RANKS.index(told)))
    return status, said[status]


class RunShare(NamedTuple):
    """The share of a run in its workflow."""

    workflow_id: str
    run_id: str
    status: str
    started_at: datetime
    duration_ms: float | None
    cost_nanos: int | None

    @property
    def owner(self) -> Key:
        """The workflow's key."""
        return (self.workflow_id,)


def share_of(run: Run) -> RunShare:
    """Return the share of a run in its workflow: its status, and after its end its duration and cost."""
    return RunShare(
        run.workflow_id,
        run.run_id,
        run.status,
        run.started_at,
        run.duration_ms,
        run.cost_nanos if run.ended else None,
    )


@attrs.frozen
class RunFilter:
    """The runs that a list shows; ``None`` does not filter.

    Args:
        workflow_id: Only runs of this workflow.
        statuses: Only runs in one of these statuses; empty: any.
        ids: Only runs with these ids, as ``id_of`` makes them; empty: any.
        since: Started at or after.
        until: Started before.
    """

    workflow_id: str | None = None
    statuses: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None


def _key_of(event: Event) -> Key | None:
    run_id = run_of(event) if tells_of_runs(event.topic) else None
    return None if run_id is None else (id_of(run_id, event.channel.partition(":")[2]),)


_TRIGGER = Rule(
    lambda v: isinstance(v, str | dict),
    "must be text, or an object with a type",
    {"anyOf": [{"type": kind} for kind in ("string", "object", "null")]},
)

RUN = Kind(
    name="run",
    value=Run,
    key=("id",),
    order=("started_at", "id"),
    family="workflow",
    field="workflow_id",
    topics={
        **dict.fromkeys(
            ("run.created", "run.started"),
            Rules({**NAMED, "trigger": _TRIGGER, "trigger_type": text(200), "trigger_data": OBJECT}),
        ),
        "run.paused": Rules(NAMED),
        "run.resumed": Rules(NAMED),
        "run.finished": Rules({**NAMED, **TOLD, "status": one_of(tuple(FINISHED))}),
    },
    key_of=_key_of,
    first_seen=Run.first_seen,
    fed_by={STEP: share_of_step, SPENDING: share_of_spending},
    fed=Run.fed,
)
