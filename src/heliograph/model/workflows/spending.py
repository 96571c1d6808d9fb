"""The cost of a run's model calls, as the callers publish it.

Callers know only their session, which is the run's id, and not its workflow, so their events are on no
workflow's channel. A runner names both when it starts. Here the two are joined, in whatever order they come,
and the spending is added to the run.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

import attrs

from heliograph.model.event import Event
from heliograph.model.ids import OLDEST, EventId, from_microseconds, to_microseconds
from heliograph.model.kind import Key, Kind
from heliograph.model.prices import Prices
from heliograph.model.workflows import facts
from heliograph.model.workflows.facts import Mark, Spent
from heliograph.model.workflows.vocabulary import CALL, OF_RUNS, id_of, run_of

WAITING = timedelta(days=7)
"""The longest time that the spending of calls waits for an event that names the workflow of their run."""
MAX_CALLS = 1_000
"""The number of a run's calls that are kept apart, so that a repeated event counts once."""


@attrs.define
class Spending:
    """The spending of a run's calls.

    Args:
        run_id: The run.
        workflow_id: Its workflow, once an event has named it.
        calls: The spending of its calls, by time.
        earlier: The spending of older calls together, which are no longer kept apart.
        last_event_id: Its last event.
    """

    run_id: str
    workflow_id: str | None = None
    calls: dict[str, list[int | None]] = attrs.field(factory=dict)
    earlier: list[int | None] = attrs.field(factory=lambda: list(Spent()))
    last_event_id: EventId = attrs.field(default=OLDEST, eq=False)

    @classmethod
    def first_seen(cls, event: Event) -> Spending:
        """Begin at the first event that names the run."""
        run_id = run_of(event)
        assert run_id is not None
        return cls(run_id)

    @property
    def spent(self) -> Spent:
        """The spending of all calls together."""
        spent = Spent(*self.earlier)
        for call in self.calls.values():
            spent = spent.plus(Spent(*call))
        return spent.capped

    @property
    def times(self) -> tuple[datetime, datetime] | None:
        """The times at which the first and the last call ended, of those that are kept apart."""
        if not self.calls:
            return None
        first, last = (int(key.partition(":")[0]) for key in (min(self.calls), max(self.calls)))
        return from_microseconds(first), from_microseconds(last)

    def apply(self, event: Event, prices: Prices) -> None:
        """Add one call, or the workflow; ``prices`` are not used, since the caller publishes the cost."""
        self.last_event_id = event.id
        family, _, name = event.channel.partition(":")
        if family == "workflow":
            self.workflow_id = min(name, self.workflow_id or name)
        cost = event.payload.get("cost")
        spent = Spent.from_payload(cost) if event.topic == CALL and isinstance(cost, dict) else None
        if spent is not None:
            at = to_microseconds(event.timestamp)
            key = f"{at:020}:{Mark.of(at, event.payload).digest}"
            gone = facts.remember(self.calls, key, list(spent), MAX_CALLS)
            if gone is not None:
                self.earlier = list(Spent(*self.earlier).plus(Spent(*gone)))


class SpendingShare(NamedTuple):
    """The share of the calls in their run."""

    run_id: str
    workflow_id: str
    spent: Spent
    times: tuple[datetime, datetime] | None = None
    """The times of the first and the last call, of those that are kept apart."""

    @property
    def owner(self) -> Key:
        """The run's key."""
        return (id_of(self.run_id, self.workflow_id),)


def share_of(spending: Spending) -> SpendingShare | None:
    """Return the share of calls in their run; ``None`` while the run's workflow is unknown."""
    if spending.workflow_id is None:
        return None
    return SpendingShare(spending.run_id, spending.workflow_id, spending.spent, spending.times)


def _key_of(event: Event) -> Key | None:
    starts = OF_RUNS.get(event.topic, ("", ""))[1] == "began" and event.channel.startswith("workflow:")
    run_id = run_of(event) if starts or event.topic == CALL else None
    return None if run_id is None else (run_id,)


SPENDING = Kind(
    name="spending",
    value=Spending,
    key=("run_id",),
    order=("run_id",),
    family="workflow",
    further=("topic",),
    key_of=_key_of,
    first_seen=Spending.first_seen,
)
