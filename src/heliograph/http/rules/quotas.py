"""Quotas: bounds of one key's use, refused with 429 and told on every answer to a key that has one.

Rates are token buckets of a minute's worth that fill evenly. A request is let in while there is something in
each bucket that it takes from, and may take more than is there: the bucket then owes, and whoever comes next
waits. So a request is refused by its head, before its body is read, and none is too large ever to pass.

The headers are those of draft-ietf-httpapi-ratelimit-headers-11, "RateLimit header fields for HTTP":
``RateLimit-Policy`` says what may be used (``q``) in which time (``w``) of what (``qu``), ``RateLimit`` what
is left (``r``) and in how many seconds all of it is there again (``t``).

Each node counts for itself: a key that spreads over n nodes may use n times as much. To share the counts
would cost every request a call to Redis, and an outage of Redis would decide who is let in.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import attrs
import trio

from heliograph.model.errors import TooMany
from heliograph.model.event import Draft
from heliograph.model.ids import NEWEST, EventId
from heliograph.model.settings import Quota
from heliograph.model.task import TERMINAL

WINDOW = 60
TASK = "task:"
TASKS_RETRY_SECONDS = 5.0

UNITS = {"requests": "requests", "events": "events", "bytes": "content-bytes"}


class QuotaExceeded(TooMany):
    """A key has used what it may; ``headers`` say of what."""

    code = "rate_limit_exceeded"
    title = "Over the key's quota"

    def __init__(self, message: str, retry_after: float, headers: Mapping[str, str]) -> None:
        super().__init__(message, retry_after)
        self.headers = headers


@attrs.define
class _Bucket:
    """The rest of a rate."""

    quota: int
    left: float
    at: float

    def fill(self, now: float) -> float:
        """Return what is left now; less than nothing is owed."""
        self.left = min(self.quota, self.left + (now - self.at) * self.quota / WINDOW)
        self.at = now
        return self.left

    def seconds_to(self, level: float) -> float:
        """Return in how many seconds so much is left."""
        return max(0.0, (level - self.left) * WINDOW / self.quota)


class Allowance:
    """The rest of one key's quota, on this node.

    Args:
        name: The key's.
        quota: Of which it may use a part, and not everything.

    Attributes:
        refused: How often it was refused, by what it had used up.
    """

    def __init__(self, name: str, quota: Quota) -> None:
        self.name = name
        self.quota = quota
        self.refused: Counter[str] = Counter()
        rates = {unit: getattr(quota, unit) for unit in UNITS}
        self._buckets = {unit: _Bucket(rate, rate, _now()) for unit, rate in rates.items() if rate}
        self._tasks: dict[str, EventId] = {}
        self._policy = ", ".join(
            [
                *(
                    f'"{unit}";q={one.quota};w={WINDOW};qu="{UNITS[unit]}"'
                    for unit, one in self._buckets.items()
                ),
                *([f'"tasks";q={quota.tasks};qu="tasks"'] if quota.tasks else []),
            ]
        )

    def admit(self, *, sends: bool) -> None:
        """Let a request in, and count it.

        Args:
            sends: It has a body, or says something: what is owed of events and bytes holds it up too.

        Raises:
            QuotaExceeded: There is nothing left for it.
        """
        now = _now()
        for unit, bucket in self._buckets.items():
            least = 1.0 if unit == "requests" else 0.0
            if (sends or unit == "requests") and (bucket.fill(now) < least or bucket.left <= 0):
                each = "requests" if unit == "requests" else f"{unit} published"
                self._refuse(unit, f"{bucket.quota} {each} a minute", bucket.seconds_to(1.0))
        self.charge("requests", 1)

    def charge(self, unit: str, count: int) -> None:
        """Take from what is left, and more if need be."""
        bucket = self._buckets.get(unit)
        if bucket is not None:
            bucket.left -= count

    def _refuse(self, unit: str, what: str, seconds: float) -> None:
        self.refused[unit] += 1
        raise QuotaExceeded(
            f"{self.name} may have {what}; come back in {math.ceil(seconds)} s", seconds, self.headers()
        )

    def headers(self) -> dict[str, str]:
        """Return the headers that tell what is left."""
        now = _now()
        left = []
        for unit, bucket in self._buckets.items():
            bucket.fill(now)
            full = math.ceil(bucket.seconds_to(bucket.quota))
            left.append(f'"{unit}";r={max(0, math.floor(bucket.left))};t={full}')
        if self.quota.tasks:
            left.append(f'"tasks";r={max(0, self.quota.tasks - len(self._tasks))}')
        return {"RateLimit-Policy": self._policy, "RateLimit": ", ".join(left)}

    # Tasks under way

    def begin(
        self, drafts: Sequence[Draft], active: Callable[[Collection[str]], Collection[str]], through: EventId
    ) -> list[str]:
        """Count the tasks that events are of; return those that were not counted yet.

        Args:
            drafts: The events.
            active: Returns which of some tasks have not ended.
            through: As of which event it knows.

        Raises:
            QuotaExceeded: So many can't be under way.
        """
        if not self.quota.tasks:
            return []
        fresh = [name for name in _named(drafts, ended=False) if name not in self._tasks]
        if len(self._tasks) + len(fresh) > self.quota.tasks:
            told = [name for name, last in self._tasks.items() if last <= through]
            for name in set(told) - set(active(told)):  # ended by somebody else
                del self._tasks[name]
        if len(self._tasks) + len(fresh) > self.quota.tasks:
            self._refuse("tasks", f"{self.quota.tasks} tasks under way", TASKS_RETRY_SECONDS)
        self._tasks.update(dict.fromkeys(fresh, NEWEST))
        return fresh

    def appended(self, drafts: Sequence[Draft], last: EventId) -> None:
        """Note that events are kept: their tasks are under way, or have ended."""
        if self.quota.tasks:
            self._tasks |= dict.fromkeys(_named(drafts, ended=False), last)
            self.forget(_named(drafts, ended=True))

    def forget(self, tasks: Iterable[str]) -> None:
        """Count these tasks no more."""
        for name in tasks:
            self._tasks.pop(name, None)


def _named(drafts: Sequence[Draft], *, ended: bool) -> dict[str, None]:
    """Return the tasks that events are of: those that have ended by their last word, or the others."""
    last = {draft.channel: draft for draft in drafts if draft.channel.startswith(TASK)}
    return {
        channel.removeprefix(TASK): None
        for channel, draft in last.items()
        if (draft.topic == "task.status" and draft.payload.get("status") in TERMINAL) is ended
    }


def _now() -> float:
    return trio.current_time()
