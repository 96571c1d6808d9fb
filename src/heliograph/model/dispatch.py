"""A dispatch: the order to give a task to the engine, and its progress.

It is appended in the same request as the message that the task answers, so an acknowledged message is
dispatched, whatever crashes. The task is given to the engine at least once. Only the task's own events show
that the engine has taken it, so a dispatch stays open until its task has ended.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import attrs

from heliograph.model.event import Event
from heliograph.model.ids import OLDEST, EventId
from heliograph.model.kind import Key, Kind
from heliograph.model.prices import Prices
from heliograph.model.rules import DESCRIPTION, NAME, TEXT, Rules, whole

REQUESTED = "engine.requested"
SENT = "engine.sent"
SETTLED = "engine.settled"


@attrs.define
class Dispatch:
    """The state of a dispatch.

    Args:
        request: The payload of the request, which is given to the engine.
        attempts: The number of times that it was given.
        alias: The engine's own id of the task, if it has one.
        open: Whether the task has not ended yet.
    """

    task_id: str
    requested_at: datetime
    request: dict[str, Any] | None = None
    attempts: int = 0
    sent_at: datetime | None = None
    alias: str | None = None
    open: bool = True
    last_event_id: EventId = OLDEST

    @classmethod
    def first_seen(cls, event: Event) -> Dispatch:
        """Begin a dispatch at its first event."""
        return cls(event.channel.partition(":")[2], event.timestamp)

    def apply(self, event: Event, prices: Prices) -> None:
        """Fold one event of this dispatch."""
        self.last_event_id = event.id
        match event.topic:
            case "engine.requested":
                self.request = event.payload
            case "engine.sent":
                self.attempts = max(self.attempts, event.payload["attempt"])
                self.sent_at = event.timestamp
                self.alias = event.payload.get("alias") or self.alias
            case "engine.settled":
                self.open = False


@attrs.frozen
class DispatchFilter:
    """The dispatches that a list shows; ``None`` does not filter."""

    open: bool | None = None
    alias: str | None = None


def _key_of(event: Event) -> Key | None:
    return (event.channel.partition(":")[2],) if event.topic in DISPATCH.topics else None


DISPATCH = Kind(
    name="dispatch",
    value=Dispatch,
    key=("task_id",),
    order=("requested_at", "task_id"),
    ascending=True,
    family="task",
    field="task_id",
    topics={
        REQUESTED: Rules(
            {
                "task_id": NAME,
                "prompt": TEXT,
                "session_id": DESCRIPTION,
                "conversation_id": DESCRIPTION,
                "repo_path": DESCRIPTION,
            }
        ),
        SENT: Rules(
            {"task_id": NAME, "attempt": attrs.evolve(whole(1_000_000), required=True), "alias": DESCRIPTION}
        ),
        SETTLED: Rules({"task_id": NAME}),
    },
    key_of=_key_of,
    first_seen=Dispatch.first_seen,
)
