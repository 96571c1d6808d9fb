"""A step of a run, folded from its events in any order (see ``facts``).

A step may begin several times: it is retried, or a loop repeats it. Its beginnings and its ends are kept; an
attempt is a beginning with the last end before the next beginning. A step without an event of its beginning
still has one attempt.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import attrs

from heliograph.model.event import Event
from heliograph.model.ids import from_microseconds, to_microseconds
from heliograph.model.kind import Key, Kind
from heliograph.model.prices import Prices
from heliograph.model.rules import Rule, Rules, whole
from heliograph.model.workflows import facts
from heliograph.model.workflows.facts import MAX_ERROR, NAMED, TOLD, Spent
from heliograph.model.workflows.vocabulary import MAX_NAME, OF_STEPS, id_of, run_of, step_of

STATUSES = ("running", "success", "failed", "skipped")

MAX_ATTEMPTS = 100
"""The number of a step's beginnings and ends that are kept."""
MAX_ATTEMPT = 10**6
SHORT_ERROR = 500
"""The most characters of each attempt's error that are kept."""


@attrs.frozen
class Attempt:
    """One attempt at a step.

    Args:
        started_at: The time at which it began; ``None`` if it is unknown.
        finished_at: The time at which it ended; ``None`` until then.
        status: One of ``STATUSES``.
        duration_ms: The published duration, else the time from beginning to end.
        error: Why it failed.
    """

    started_at: datetime | None
    finished_at: datetime | None
    status: str
    duration_ms: float | None
    error: str | None


@attrs.define
class Step:
    """The state of one step of a run.

    Args:
        id: Unique over all runs, as ``id_of`` makes it.
        run_id: The run.
        workflow_id: The run's workflow.
        name: Unique within the run.
        started_at: The time at which it first began.
        updated_at: The time of its last event.
        status: The status of its last attempt.
        attempts: The number of its attempts.
        finished_at: The time at which its last attempt ended.
        duration_ms: The duration of its last attempt.
        error: The last published error.
        output: The output, if an event has it.
        cost_nanos: The cost of all attempts.
        input_tokens: Tokens that its models read.
        output_tokens: Tokens that its models wrote.
        cached_tokens: Input tokens that came from a cache.
        began: The time at which it first began, if it is known.
        starts: The time at which each attempt began, in microseconds, by the same time as text.
        ends: Its ends by time and status: duration, error, and spending.
        earlier: The spending of older attempts together, which are no longer kept apart.
        marks: By field: the mark of its latest value.
    """

    id: str
    run_id: str
    workflow_id: str
    name: str
    started_at: datetime
    updated_at: datetime
    status: str = "running"
    attempts: int = 1
    finished_at: datetime | None = None
    duration_ms: float | None = None
    error: str | None = None
    output: Any = None
    cost_nanos: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    began: datetime | None = None
    starts: dict[str, int] = attrs.field(factory=dict)
    ends: dict[str, list[Any]] = attrs.field(factory=dict)
    earlier: list[int | None] = attrs.field(factory=lambda: list(Spent()))
    marks: dict[str, list[Any]] = attrs.field(factory=dict)

    @classmethod
    def first_seen(cls, event: Event) -> Step:
        """Begin a step at its first event."""
        run_id, name = run_of(event), step_of(event)
        assert run_id is not None
        assert name is not None
        workflow_id = event.channel.partition(":")[2]
        step_id = id_of(run_id, workflow_id, name)
        return cls(step_id, run_id, workflow_id, name, event.timestamp, event.timestamp)

    @property
    def spent(self) -> Spent:
        """The spending of all attempts together."""
        return Spent(self.cost_nanos, self.input_tokens, self.output_tokens, self.cached_tokens)

    def apply(self, event: Event, prices: Prices) -> None:
        """Add the facts of one event."""
        at = to_microseconds(event.timestamp)
        self.updated_at = max(self.updated_at, event.timestamp)
        word = OF_STEPS[event.topic]
        payload = event.payload
        if word == "began":
            self.began = min(event.timestamp, self.began or event.timestamp)
            facts.remember(self.starts, f"{at:020}", at, MAX_ATTEMPTS)
        else:
            self._end(at, word, payload)
        if facts.amount(payload.get("attempt"), MAX_ATTEMPT):
            self.attempts = max(self.attempts, int(payload["attempt"]))
        self._conclude(event.timestamp)

    def _end(self, at: int, status: str, payload: Mapping[str, Any]) -> None:
        error = facts.text(payload.get("error"), MAX_ERROR)
        spent = Spent.from_payload(payload) or Spent()
        duration = facts.milliseconds(payload.get("duration_ms"))
        end = [duration, None if error is None else error[:SHORT_ERROR], list(spent)]
        gone = facts.remember(self.ends, f"{at:020}:{status}", end, MAX_ATTEMPTS)
        if gone is not None:
            self.earlier = list(Spent(*self.earlier).plus(Spent(*gone[2])))
        if error is not None:
            self._say("error", at, error)
        if payload.get("output") is not None:
            self._say("output", at, payload["output"])

    def _say(self, field: str, at: int, value: Any) -> None:
        """Set a field if the value is the latest one."""
        if facts.later(self.marks, field, at, value):
            setattr(self, field, value)

    def _conclude(self, seen: datetime) -> None:
        """Compute the shown state from the facts; ``seen`` is the time of the current event."""
        attempts = attempts_of(self)
        last = attempts[-1]
        self.status, self.finished_at, self.duration_ms = last.status, last.finished_at, last.duration_ms
        self.started_at = self.began or min(self.started_at, seen)
        self.attempts = max(self.attempts, len(self.starts))
        spent = Spent(*self.earlier)
        for _, _, its in self.ends.values():
            spent = spent.plus(Spent(*its))
        self.cost_nanos, self.input_tokens, self.output_tokens, self.cached_tokens = spent.capped


def attempts_of(step: Step) -> list[Attempt]:
    """Return a step's attempts, the earliest first; at least one, at most ``MAX_ATTEMPTS``."""
    starts: list[int | None] = [*sorted(step.starts.values())] or [None]
    ends: list[tuple[int, str] | None] = [None] * len(starts)
    told = [start for start in starts if start is not None]
    for key in sorted(step.ends):
        at, _, status = key.partition(":")
        index = max(0, bisect_right(told, int(at)) - 1)
        if index and told[index] == int(at) and ends[index - 1] is None:
            index -= 1  # at one time: the end of one attempt, and the beginning of the next
        ends[index] = int(at), status
    return [_attempt(step, start, end) for start, end in zip(starts, ends, strict=True)]


def _attempt(step: Step, start: int | None, end: tuple[int, str] | None) -> Attempt:
    begun = None if start is None else from_microseconds(start)
    if end is None:
        return Attempt(begun, None, "running", None, None)
    at, status = end
    duration, error, _ = step.ends[f"{at:020}:{status}"]
    if duration is None and start is not None:
        duration = max(0, at - start) / 1000
    return Attempt(begun, from_microseconds(at), status, duration, error)


class StepShare(NamedTuple):
    """The share of a step in its run."""

    run_id: str
    workflow_id: str
    started_at: datetime
    status: str
    spent: Spent

    @property
    def owner(self) -> Key:
        """The run's key."""
        return (id_of(self.run_id, self.workflow_id),)


def share_of(step: Step) -> StepShare:
    """Return the share of a step in its run."""
    return StepShare(step.run_id, step.workflow_id, step.started_at, step.status, step.spent)


@attrs.frozen
class StepFilter:
    """The steps that a list shows; ``None`` and empty values do not filter.

    Args:
        run_id: Only steps of this run.
        workflow_id: Only steps of this workflow.
        ids: Only steps with these ids, as ``id_of`` makes them.
        but: Only steps without one of these names.
    """

    run_id: str | None = None
    workflow_id: str | None = None
    ids: tuple[str, ...] = ()
    but: tuple[str, ...] = ()


def _key_of(event: Event) -> Key | None:
    run_id, name = run_of(event), step_of(event)
    if run_id is None or name is None:
        return None
    return (id_of(run_id, event.channel.partition(":")[2], name),)


_STEP = Rule(
    lambda v: isinstance(v, str) and 0 < len(v) <= MAX_NAME,
    f"must be text of 1 to {MAX_NAME} characters",
    {"type": "string", "minLength": 1, "maxLength": MAX_NAME},
    required=True,
)
_ABOUT = {**NAMED, "step": _STEP, "attempt": whole(MAX_ATTEMPT)}

STEP = Kind(
    name="step",
    value=Step,
    key=("id",),
    order=("started_at", "id"),
    ascending=True,
    family="workflow",
    field="workflow_id",
    topics={
        "step.started": Rules(_ABOUT),
        **{topic: Rules({**_ABOUT, **TOLD}) for topic in ("step.completed", "step.failed", "step.skipped")},
    },
    key_of=_key_of,
    first_seen=Step.first_seen,
)
