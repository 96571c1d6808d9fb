"""The record of a workflow beside its files: whether it is switched on, and the sums of its runs."""

from __future__ import annotations

from datetime import datetime

import attrs

from heliograph.model.analytics.sketch import Bins, bin_of
from heliograph.model.event import Event
from heliograph.model.kind import Key, Kind
from heliograph.model.prices import Prices
from heliograph.model.rules import NAME, Rule, Rules
from heliograph.model.workflows.run import RUN, RunShare, share_of
from heliograph.model.workflows.vocabulary import ENDS

TOPIC = "workflow.updated"


@attrs.define
class Record:
    """The state of a workflow's record.

    Args:
        workflow_id: The workflow.
        enabled: Whether the API switched it on or off; ``None``: its files decide.
        runs: The number of its runs in each status.
        durations: The number of its ended runs, by bin of their duration in milliseconds.
        costs: The number of its ended runs with a known cost, by bin of the cost in nano-dollars.
        cost_nanos: The cost of its runs.
        last_run_id: The run that began last; only a hint when ``doubtful``.
        last_started_at: The time at which that run began, as first published: no run began later.
        doubtful: Whether that run proved to have begun earlier, so that another one may be the last.
    """

    workflow_id: str
    enabled: bool | None = None
    runs: dict[str, int] = attrs.field(factory=dict)
    durations: dict[str, int] = attrs.field(factory=dict)
    costs: dict[str, int] = attrs.field(factory=dict)
    cost_nanos: int = 0
    last_run_id: str | None = None
    last_started_at: datetime | None = None
    doubtful: bool = False

    @classmethod
    def first_seen(cls, event: Event) -> Record:
        """Begin a record at the first event."""
        return cls(event.channel.partition(":")[2])

    @classmethod
    def fed(cls, share: RunShare) -> Record:
        """Begin a record at the first run."""
        return cls(share.workflow_id)

    @property
    def total(self) -> int:
        """The number of runs."""
        return sum(self.runs.values())

    @property
    def successful(self) -> int:
        """The number of runs that succeeded."""
        return self.runs.get("success", 0)

    @property
    def success_rate(self) -> float:
        """The percentage of ended runs that succeeded; 0 when none has ended."""
        ended = sum(self.runs.get(status, 0) for status in ENDS)
        return round(self.successful / ended * 100, 1) if ended else 0.0

    def apply(self, event: Event, prices: Prices) -> None:
        """Fold a switch."""
        if isinstance(event.payload.get("enabled"), bool):
            self.enabled = event.payload["enabled"]

    def feed(self, share: RunShare, sign: int) -> None:
        """Add the share of a run, or subtract it (``sign`` -1)."""
        _count(self.runs, share.status, sign)
        if share.duration_ms is not None:
            _count(self.durations, str(bin_of(round(share.duration_ms))), sign)
        if share.cost_nanos is not None:
            _count(self.costs, str(bin_of(share.cost_nanos)), sign)
            self.cost_nanos += sign * share.cost_nanos
        if sign > 0:
            self._last(share)

    def forget(self, share: RunShare) -> None:
        """Subtract the share of a run that is no longer kept."""
        self.feed(share, -1)
        if not self.runs:
            self.last_run_id = self.last_started_at = None
            self.doubtful = False
        elif share.run_id == self.last_run_id:
            self.doubtful = True

    def _last(self, share: RunShare) -> None:
        """Remember the run that began last."""
        now = share.started_at, share.run_id
        if self.last_run_id is None or self.last_started_at is None:
            later = True
        elif share.run_id == self.last_run_id and share.started_at < self.last_started_at:
            self.doubtful = True
            later = False
        else:
            later = now >= (self.last_started_at, self.last_run_id)
        if later:
            self.last_started_at, self.last_run_id = now
            self.doubtful = False


def bins_of(counts: dict[str, int]) -> Bins:
    """Return counts by bin, in the form for a sketch."""
    return {int(position): count for position, count in counts.items()}


def _count(counts: dict[str, int], key: str, sign: int) -> None:
    count = counts.pop(key, 0) + sign
    if count:
        counts[key] = count


@attrs.frozen
class RecordFilter:
    """The records that a list shows.

    Args:
        ids: Only these workflows; empty: any.
    """

    ids: tuple[str, ...] = ()


def _key_of(event: Event) -> Key | None:
    return (event.channel.partition(":")[2],) if event.topic == TOPIC else None


_FLAG = Rule(lambda v: isinstance(v, bool), "must be true or false", {"type": "boolean"}, required=True)

RECORD = Kind(
    name="workflow",
    value=Record,
    key=("workflow_id",),
    order=("workflow_id",),
    family="workflow",
    field="workflow_id",
    topics={TOPIC: Rules({"workflow_id": NAME, "enabled": _FLAG})},
    key_of=_key_of,
    first_seen=Record.first_seen,
    fed_by={RUN: share_of},
    fed=Record.fed,
)
