"""The declaration of the kind of entity that is added up, and of the facts that count.

The ledger, the aggregator and the rollups use this declaration alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Generic

import attrs

from heliograph.model.analytics import sketch
from heliograph.model.analytics.rollup import Contribution, dimension, error_kind, slot_of
from heliograph.model.analytics.totals import Totals, pack
from heliograph.model.kind import Kind, V
from heliograph.model.prices import NO_USAGE
from heliograph.model.task import CHANGING, LOST, STATUSES, TASK, TERMINAL, Task, TaskFilter

LONGEST_MS = 100 * 365 * 86_400_000
"""A longer duration counts as these hundred years: publishers set their own times, and sums of millions of
tasks must stay within the databases' 64 bits."""


@attrs.frozen(eq=False)
class Measured(Generic[V]):
    """A kind of entity that is added up; each has a channel of its own.

    Args:
        kind: The kind of entity.
        facts: The fields that decide an entity's contribution, now or after further events.
        of_facts: Makes an entity from its id and its facts.
        contribution: Returns what an entity currently adds to the sums.
        finished: Tells whether an entity has finished. It then hardly ever changes, and followers need not
            keep it.
        unfinished: The kind's filter for all other entities.
        is_steady: Tells whether only events of ``changing`` can change an entity's facts; once true, it
            remains true.
        changing: The topics whose events can change the sums.
        large: Fields that are not facts and may be large; ``None`` will do for them.
    """

    kind: Kind[V]
    facts: tuple[str, ...]
    of_facts: Callable[[str, Mapping[str, Any]], V]
    contribution: Callable[[V], Contribution]
    finished: Callable[[V], bool]
    unfinished: Any
    is_steady: Callable[[V], bool]
    changing: frozenset[str]
    large: tuple[str, ...]

    @property
    def prefix(self) -> str:
        """The beginning of the channels' names; an entity's id follows."""
        return f"{self.kind.family}:"

    def facts_of(self, value: V) -> tuple[object, ...]:
        """Return an entity's facts, to tell whether an event changed any of them."""
        return tuple(getattr(value, name) for name in self.facts)


def contribution(task: Task) -> Contribution:
    """Return the current contribution of a task to the sums."""
    dimensions = (
        dimension(task.agent_type),
        dimension(task.agent),
        dimension(task.model),
        task.status,
    )
    created_slot = slot_of(task.created_at)
    if task.finished_at is None:
        return Contribution(dimensions, created_slot)
    usage = task.usage or NO_USAGE
    failed = task.status in {"failed", LOST}  # a lost task counts as failed until it comes back
    duration = min(task.duration_ms or 0, LONGEST_MS)
    outcome = Totals(
        created=0,
        finished=1,
        succeeded=task.status == "completed",
        failed=failed,
        cost_nanos=task.cost_nanos or 0,
        costs_computed=task.cost_computed,
        costs_unknown=task.cost_unknown,
        input_tokens=usage.input,
        output_tokens=usage.output,
        duration_ms=duration,
    )
    return Contribution(
        dimensions,
        created_slot,
        slot_of(task.finished_at),
        pack(outcome),
        sketch.bin_of(duration),
        error_kind(task.error) if failed else None,
    )


def _of_facts(task_id: str, facts: Mapping[str, Any]) -> Task:
    return Task(task_id=task_id, updated_at=facts["created_at"], **facts)


MEASURED = Measured(
    kind=TASK,
    facts=(
        "created_at",
        "started_at",
        "finished_at",
        "status",
        "agent_type",
        "agent",
        "model",
        "cost_nanos",
        "cost_computed",
        "input_tokens",
        "output_tokens",
        "cached_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
        "earlier",
        "error",
    ),
    of_facts=_of_facts,
    contribution=contribution,
    finished=attrgetter("finished"),
    unfinished=TaskFilter(statuses=tuple(status for status in STATUSES if status not in TERMINAL)),
    is_steady=attrgetter("begun"),
    changing=CHANGING,
    large=("input", "metadata", "result"),
)
