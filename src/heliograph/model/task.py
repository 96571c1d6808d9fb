"""A task, folded from its events.

``Task.apply`` alone defines the effect of an event on a task; the store calls it in the same transaction that
appends (or archives) the event, so the table is always the fold of the log. Statuses go ``queued → running ⇄
waiting_input → completed | failed | cancelled | lost``. A finished task stays finished: a late output still
counts its lines, a late ``running`` changes nothing, and only another terminal status corrects the outcome.
Some agents publish an end several times, each time with other fields. So a correction merges: fields that its
result leaves out stay, and the first end is the time at which the task finished.

The service publishes ``lost`` for a task that had announced a heartbeat and fell silent
(``actors.heartbeats``). It corrects no other end, and is an end itself until the task publishes again: then
its attempt goes on as if it had never been lost, or ends with the status that it gives.

A long module, since everything that decides a task's state stands in one place.

The cost is the sum of the ``task.cost`` events while the task runs; a cost in the result replaces that sum.
If the result has tokens and no cost, the price table computes the cost, at the latest when the model becomes
known.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import attrs

from heliograph.model.event import SEED_TYPES, Event
from heliograph.model.ids import OLDEST, EventId, format_id, to_microseconds
from heliograph.model.kind import Kind
from heliograph.model.prices import NO_PRICES, Prices, Usage
from heliograph.model.rules import DESCRIPTION, NAME, OBJECT, TEXT, Rules, amount, of_object, one_of, whole

LOST = "lost"
STATUSES = ("queued", "running", "waiting_input", "completed", "failed", "cancelled", LOST)
TERMINAL = frozenset({"completed", "failed", "cancelled", LOST})
DESCRIPTIONS = ("name", "agent", "agent_type", "model", "session_id", "conversation_id")
"""Fields of ``task.created`` that are plain text."""

TOKENS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cached_tokens": "cached_tokens",
    "cache_read_input_tokens": "cache_read_tokens",
    "cache_creation_input_tokens": "cache_write_tokens",
}
"""The fields of a task that count tokens, by their names in a result."""

SPENDING = ("cost_nanos", *TOKENS.values())
"""The fields of a task that add up over its attempts."""

ORIGIN = ("source", "source_metadata", "user_id", "flow_id")
"""Fields of ``task.created`` with the task's origin; they join its metadata."""

CHANGING = frozenset({"task.created", "task.cost", "task.status"})
"""Topics that can change more than the ``Progress`` of a task that has left ``queued``."""

QUESTION = "task.question"
ANSWER = "task.input"
"""The topics of a task's questions to its watchers, and of their answers."""

STREAMS = ("stdout", "stderr")
HEARTBEATS_MISSED = 3
"""The number of heartbeats in a row that a task must miss to be lost."""

MAX_HEARTBEAT_SECONDS = 86_400
MAX_TOKENS = 10**12
MAX_COST_USD = 10**4
"""The most that a task may cost: far above real costs, but 900,000 times that fits into 64 bits."""

NANO = Decimal(1_000_000_000)


def nano_dollars(amount: float | int | str) -> int:
    """Turn dollars as published into whole nano-dollars, rounding half to even.

    Goes through the shortest decimal form of a float, so 0.05 is 50,000,000 and sums are exact.
    """
    return int((Decimal(str(amount)) * NANO).to_integral_value(ROUND_HALF_EVEN))


class AddedMetadata(dict[str, Any]):
    """Metadata to be added to the stored metadata, which a plain object replaces.

    The fold does not read a task's metadata; this class tells the store that it must.
    """


class MergedResult(dict[str, Any]):
    """A result that ``merged`` has made: no event has it, so the next one is merged into it in place."""


def merged(result: dict[str, Any], later: dict[str, Any]) -> MergedResult:
    """Return a result, corrected by a later one.

    Null in the later one changes nothing, except that a null error removes the error.
    """
    # To copy it for each of thousands of corrections would take a time that grows with their square.
    whole = result if isinstance(result, MergedResult) else MergedResult(result)
    for name, value in later.items():
        if value is not None or name == "error":
            whole[name] = value
        else:
            whole.setdefault(name, None)
    return whole


@attrs.define
class Task:
    """The folded state of one task; times are aware UTC, money is whole nano-dollars."""

    task_id: str
    created_at: datetime
    updated_at: datetime
    status: str = "queued"
    name: str | None = None
    agent: str | None = None
    agent_type: str | None = None
    model: str | None = None
    session_id: str | None = None
    conversation_id: str | None = None
    input: Any = None
    metadata: dict[str, Any] | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    output_lines: int = 0
    output_bytes: int = 0
    cost_nanos: int | None = None
    cost_computed: bool = False
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    error: str | None = None
    result: dict[str, Any] | None = None
    last_seq: int = 0
    last_event_id: EventId = OLDEST
    finished_event_id: EventId | None = None
    attempts: int = 1
    earlier: dict[str, int] | None = None
    """The spending of the attempts before this one; the result of this one is added to it."""

    heartbeat_ms: int | None = None
    """The longest silence that the task has announced, in milliseconds; ``None``: it has announced none."""

    @classmethod
    def first_seen(cls, event: Event) -> Task:
        """Begin a task at the first event that mentions it, whatever that event is."""
        return cls(event.channel.removeprefix("task:"), event.timestamp, event.timestamp)

    @property
    def begun(self) -> bool:
        """Whether it has left ``queued``."""
        return self.status != "queued"

    @property
    def finished(self) -> bool:
        """Whether the task reached a terminal status."""
        return self.status in TERMINAL

    @property
    def duration_ms(self) -> int | None:
        """Whole milliseconds from start to finish; ``None`` until finished."""
        if self.finished_at is None:
            return None
        begun = self.started_at or self.created_at
        return max(0, round((self.finished_at - begun).total_seconds() * 1000))

    @property
    def usage(self) -> Usage | None:
        """The task's tokens by their prices; ``None`` if none are known.

        Some publishers include cached tokens in the input, some don't. Anthropic's own fields for them are
        not included; ``cached_tokens`` are, unless they are more than the whole input.
        """
        if all(getattr(self, name) is None for name in TOKENS.values()):
            return None
        said, cached = self.input_tokens or 0, self.cached_tokens or 0
        return Usage(
            fresh=said - cached if cached <= said else said,
            cached=cached + (self.cache_read_tokens or 0),
            written=self.cache_write_tokens or 0,
            output=self.output_tokens or 0,
        )

    @property
    def cost_unknown(self) -> bool:
        """Whether the task has used tokens at an unknown cost."""
        return self.finished and self.cost_nanos is None and self.usage is not None

    def apply(self, event: Event, prices: Prices = NO_PRICES) -> None:
        """Fold one event of this task's channel into the state; other topics only touch it.

        Args:
            event: An event that is newer than every event folded before.
            prices: The prices for a cost that the result does not give.
        """
        self.last_seq = event.seq
        self.last_event_id = event.id
        self.updated_at = max(self.updated_at, event.timestamp)
        match event.topic:
            case "task.created":
                self._created(event.payload)
                self._price(prices)
            case "task.output":
                self._output(event)
            case "task.cost":
                self._add_cost(event)
                self._price(prices)
            case "task.status":
                self._status(event)
                self._price(prices)

    def _created(self, payload: Mapping[str, Any]) -> None:
        for field in (*DESCRIPTIONS, "input", "metadata"):
            if payload.get(field) is not None:
                setattr(self, field, payload[field])
        origin = {name: payload[name] for name in ORIGIN if payload.get(name) is not None}
        if payload.get("heartbeat_seconds"):
            self.heartbeat_ms = max(1, round(payload["heartbeat_seconds"] * 1000))
        if origin:
            known = AddedMetadata() if self.metadata is None else self.metadata
            self.metadata = type(known)({**known, **origin})

    def _output(self, event: Event) -> None:
        self._run(event.timestamp)
        self.output_lines += 1
        self.output_bytes += output_bytes(event)

    def _add_cost(self, event: Event) -> None:
        self._run(event.timestamp)
        added = event.payload
        if added.get("cost_usd") is not None:
            sofar = 0 if self.cost_computed else self.cost_nanos or 0
            self.cost_nanos = min(sofar + nano_dollars(added["cost_usd"]), nano_dollars(MAX_COST_USD))
            self.cost_computed = False
        for name, field in TOKENS.items():
            if added.get(name) is not None:
                setattr(self, field, min((getattr(self, field) or 0) + added[name], MAX_TOKENS))

    def _status(self, event: Event) -> None:
        status: str = event.payload["status"]
        if status == LOST and self.finished:
            return
        if self.status == LOST and status != "queued":
            self._come_back()
        if status in TERMINAL:
            self.status = status
            self.finished_at = self.finished_at or event.timestamp
            self.finished_event_id = event.id
            if event.payload.get("result") is not None:
                self._result(event.payload["result"])
        elif status in {"running", "waiting_input"}:
            # Statuses from before the end may arrive after it. Only one from after it begins again.
            if self.finished_at is not None and status == "running" and event.timestamp >= self.finished_at:
                self._begin_again()
            if not self.finished:
                self._run(event.timestamp)
                self.status = status

    def _begin_again(self) -> None:
        """Begin another attempt, as when a session is resumed under the task's id."""
        self.attempts += 1
        self.earlier = {name: spent for name in SPENDING if isinstance(spent := getattr(self, name), int)}
        self.status = "queued"
        self._unfinish()

    def _come_back(self) -> None:
        """Go on with the attempt that was lost."""
        self.status = "running" if self.started_at is not None else "queued"
        self._unfinish()

    def _unfinish(self) -> None:
        self.finished_at = self.finished_event_id = self.error = None
        self.result = {}

    def _run(self, moment: datetime) -> None:
        if self.status == "queued":
            self.status = "running"
            self.started_at = moment

    def _result(self, result: dict[str, Any]) -> None:
        self.result = result if self.result is None else merged(self.result, result)
        earlier = self.earlier or {}
        if result.get("cost_usd") is not None:
            most = nano_dollars(MAX_COST_USD)
            self.cost_nanos = min(earlier.get("cost_nanos", 0) + nano_dollars(result["cost_usd"]), most)
            self.cost_computed = False
        for name, field in TOKENS.items():
            if result.get(name) is not None:
                setattr(self, field, min(earlier.get(field, 0) + result[name], MAX_TOKENS))
        if "error" in result:
            self.error = error_text(result["error"])
        if self.model is None and isinstance(result.get("model"), str):
            self.model = result["model"]

    def _price(self, prices: Prices) -> None:
        if self.finished_at is not None and (self.cost_nanos is None or self.cost_computed):
            self.cost_nanos = prices.cost(self.model, self.finished_at, self.usage)
            self.cost_computed = self.cost_nanos is not None


@attrs.define
class Progress:
    """The changes by events of other topics than ``CHANGING`` to a task that has left ``queued``."""

    updated_at: datetime
    output_lines: int = 0
    output_bytes: int = 0
    last_seq: int = 0
    last_event_id: EventId = OLDEST

    def add(self, event: Event) -> None:
        """Count one event, as ``Task.apply`` would."""
        self.last_seq = event.seq
        self.last_event_id = event.id
        if event.timestamp > self.updated_at:
            self.updated_at = event.timestamp
        if event.topic == "task.output":
            self.output_lines += 1
            self.output_bytes += output_bytes(event)


def output_bytes(event: Event) -> int:
    """Return the length of a ``task.output`` event's text in UTF-8."""
    output: str = event.payload["output"]
    return len(output) if output.isascii() else len(output.encode())


@attrs.frozen
class Silence:
    """The silence after which a task with a heartbeat is lost.

    Args:
        since: The position from which silence counts, even if it began earlier.
        until: The position up to which all events are known.
        least_ms: The shortest silence of a lost task; it is longer for a task with a slow heartbeat.
    """

    since: EventId
    until: EventId
    least_ms: int


@attrs.frozen
class TaskFilter:
    """The tasks that a list shows; empty or ``None`` does not filter.

    Args:
        statuses: Any of these.
        without: Only tasks that lack all of these fields.
        text: Words, each of which must be in the id, name, agent, agent type, model or error, in any case.
        since: Created at or after.
        until: Created before.
        overdue: Only tasks with a heartbeat that have been silent for too long.
        heard_since_lost: Only lost tasks with later events.
        heard_before: Only tasks without events since this time.
    """

    statuses: tuple[str, ...] = ()
    agent: str | None = None
    agent_type: str | None = None
    model: str | None = None
    session_id: str | None = None
    conversation_id: str | None = None
    without: tuple[str, ...] = ()
    text: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    overdue: Silence | None = None
    heard_since_lost: bool | None = None
    heard_before: datetime | None = None


def duration_micros(task: Task) -> int:
    """Return the duration of a task, in microseconds; -1 while it has not ended."""
    if task.finished_at is None:
        return -1
    return max(0, to_microseconds(task.finished_at) - to_microseconds(task.started_at or task.created_at))


SORTS: Mapping[str, Callable[[Task], int]] = {
    "updated": lambda task: to_microseconds(task.updated_at),
    "silence": lambda task: -to_microseconds(task.updated_at),
    "duration": duration_micros,
    "cost": lambda task: -1 if task.cost_nanos is None else task.cost_nanos,
}
"""The keys by which lists of tasks can be sorted besides creation, largest first; -1 if unknown."""


SPENT = {"cost_usd": amount(MAX_COST_USD), **dict.fromkeys(TOKENS, whole(MAX_TOKENS))}
RESULT = Rules(SPENT)

TASK = Kind(
    name="task",
    value=Task,
    key=("task_id",),
    order=("created_at", "task_id"),
    family="task",
    field="task_id",
    topics={
        "task.created": Rules(
            {
                "task_id": NAME,
                **dict.fromkeys(DESCRIPTIONS, DESCRIPTION),
                "metadata": OBJECT,
                "heartbeat_seconds": amount(MAX_HEARTBEAT_SECONDS),
            }
        ),
        "task.heartbeat": Rules({"task_id": NAME}),
        "task.output": Rules({"task_id": NAME, "output": TEXT, "stream": one_of(STREAMS)}),
        "task.cost": Rules({"task_id": NAME, **SPENT}),
        "task.status": Rules(
            {"task_id": NAME, "status": one_of(STATUSES, required=True), "result": of_object(RESULT)}
        ),
    },
    lines="task.output",
    forms={form: topic for topic, form in SEED_TYPES.items()},
    first_seen=Task.first_seen,
)


def error_text(error: Any) -> str | None:
    """Return the error in a result as text; a value other than text becomes JSON."""
    if error is None or isinstance(error, str):
        return error
    return json.dumps(error, ensure_ascii=False, separators=(",", ":"))


def task_json(task: Task) -> dict[str, Any]:
    """Return a task in the form of answers: ``cost_usd`` in dollars, times as datetimes.

    The dict is made by hand, which is fast, since a page has many.
    """
    cost, finished, heartbeat = task.cost_nanos, task.finished_event_id, task.heartbeat_ms
    return {
        "task_id": task.task_id,
        "created_at": task.created_at,
        "updated_at": task.updated_at,
        "status": task.status,
        "name": task.name,
        "agent": task.agent,
        "agent_type": task.agent_type,
        "model": task.model,
        "session_id": task.session_id,
        "conversation_id": task.conversation_id,
        "input": task.input,
        "metadata": task.metadata,
        "started_at": task.started_at,
        "finished_at": task.finished_at,
        "output_lines": task.output_lines,
        "output_bytes": task.output_bytes,
        "cost_computed": task.cost_computed,
        "input_tokens": task.input_tokens,
        "output_tokens": task.output_tokens,
        "cached_tokens": task.cached_tokens,
        "cache_read_tokens": task.cache_read_tokens,
        "cache_write_tokens": task.cache_write_tokens,
        "error": task.error,
        "result": task.result,
        "last_seq": task.last_seq,
        "last_event_id": format_id(task.last_event_id),
        "finished_event_id": None if finished is None else format_id(finished),
        "attempts": task.attempts,
        "heartbeat_seconds": None if heartbeat is None else heartbeat / 1000,
        "cost_usd": None if cost is None else cost / 10**9,
        "duration_ms": task.duration_ms,
    }
