"""A session: sums over the tasks that name it.

A session is seen when one of its tasks begins, starts or ends; lines of output don't move ``last_seen``. When
a task moves to another session its sums move with it, but ``last_seen`` of the old session stays.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import attrs

from heliograph.model.kind import Key, Kind
from heliograph.model.prices import NO_USAGE
from heliograph.model.task import TASK, Task


class SessionShare(NamedTuple):
    """The share of one task in its session."""

    session_id: str
    status: str
    first_seen: datetime
    last_seen: datetime
    cost_nanos: int
    input_tokens: int
    output_tokens: int

    @property
    def owner(self) -> Key:
        """The session's key."""
        return (self.session_id,)


@attrs.define
class Session:
    """The state of a session; ``tasks`` counts its tasks by status, without unused statuses."""

    session_id: str
    first_seen: datetime
    last_seen: datetime
    tasks: dict[str, int] = attrs.field(factory=dict)
    cost_nanos: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @classmethod
    def fed(cls, share: SessionShare) -> Session:
        """Begin a session at the first share."""
        return cls(share.session_id, share.first_seen, share.last_seen)

    def feed(self, share: SessionShare, sign: int) -> None:
        """Add a share, or take it away again.

        Args:
            share: The share of a task.
            sign: 1 to add it, -1 to take it away.
        """
        count = self.tasks.pop(share.status, 0) + sign
        if count:
            self.tasks[share.status] = count
        self.cost_nanos += sign * share.cost_nanos
        self.input_tokens += sign * share.input_tokens
        self.output_tokens += sign * share.output_tokens
        if sign > 0:
            self.first_seen = min(self.first_seen, share.first_seen)
            self.last_seen = max(self.last_seen, share.last_seen)


def share_of(task: Task) -> SessionShare | None:
    """Return the share of a task in its session; ``None`` if the task names no session."""
    if not task.session_id:
        return None
    usage = task.usage or NO_USAGE
    moments = [moment for moment in (task.created_at, task.started_at, task.finished_at) if moment]
    return SessionShare(
        task.session_id,
        task.status,
        min(moments),
        max(moments),
        task.cost_nanos or 0,
        usage.input,
        usage.output,
    )


@attrs.frozen
class SessionFilter:
    """The sessions that a list shows; ``None`` does not filter.

    Args:
        since: Last seen at or after.
        until: Last seen before.
    """

    since: datetime | None = None
    until: datetime | None = None


SESSION = Kind(
    name="session",
    value=Session,
    key=("session_id",),
    order=("last_seen", "session_id"),
    fed_by={TASK: share_of},
    fed=Session.fed,
)
