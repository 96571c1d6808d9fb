"""Quotas: limits of one key's use. Requests over a limit get 429, and all answers to the key show the limits.

Rates are token buckets of a minute's worth that fill evenly. A request is admitted while each bucket that it
takes from has something left. It may take more than that: the bucket is then in debt, and later requests
wait. So a request is refused by its head, before its body is read, and no request is too large ever to be
admitted.

The headers are those of draft-ietf-httpapi-ratelimit-headers-11, "RateLimit header fields for HTTP":
``RateLimit-Policy`` gives the quota (``q``), its window in seconds (``w``) and its unit (``qu``);
``RateLimit`` gives the rest (``r``) and the seconds until the quota is whole again (``t``).

Each node counts for itself: a key that uses n nodes may use n times as much. Sharing the counts would cost
every request a call to Redis, and an outage of Redis would decide which requests are admitted.
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
    """A key has used up a quota; ``headers`` tell which one."""

    code = "rate_limit_exceeded"
    title = "Over the key's quota"

    def __init__(self, message: str, retry_after: float, headers: Mapping[str, str]) -> None:
        super().__init__(message, retry_after)
        self.headers = headers


@attrs.define
class _Bucket:
    """A token bucket: the rest of one rate."""

    quota: int
    left: float
    at: float

    def fill(self, now: float) -> float:
        """Fill the bucket up to ``now``; return the rest, which is negative for a debt."""
        self.left = min(self.quota, self.left + (now - self.at) * self.quota / WINDOW)
        self.at = now
        return self.left

    def seconds_to(self, level: float) -> float:
        """Return the seconds until ``level`` is left."""
        return max(0.0, (level - self.left) * WINDOW / self.quota)


class Allowance:
    """The rest of one key's quota, on this node.

    Args:
        name: The key's name.
        quota: The key's quota; a unit without a limit is not counted.

    Attributes:
        refused: The number of refusals by the unit that was used up.
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
        """Admit a request, and count it.

        Args:
            sends: Whether the request changes something: a debt of events or bytes then holds it up, too.

        Raises:
            QuotaExceeded: A quota is used up.
        """
        now = _now()
        for unit, bucket in self._buckets.items():
            least = 1.0 if unit == "requests" else 0.0
            if (sends or unit == "requests") and (bucket.fill(now) < least or bucket.left <= 0):
                each = "requests" if unit == "requests" else f"{unit} published"
                self._refuse(unit, f"{bucket.quota} {each} a minute", bucket.seconds_to(1.0))
        self.charge("requests", 1)

    def charge(self, unit: str, count: int) -> None:
        """Take ``count`` from a bucket, which may go into debt."""
        bucket = self._buckets.get(unit)
        if bucket is not None:
            bucket.left -= count

    def _refuse(self, unit: str, what: str, seconds: float) -> None:
        self.refused[unit] += 1
        raise QuotaExceeded(
            f"{self.name} may have {what}; come back in {math.ceil(seconds)} s", seconds, self.headers()
        )

    def headers(self) -> dict[str, str]:
        """Return the headers that show the quota and its rest."""
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
        """Count the tasks of events that are about to be appended; return those that are new.

        Args:
            drafts: The events.
            active: Returns those of the given tasks that have not ended.
            through: The newest event that ``active`` knows.

        Raises:
            QuotaExceeded: The key would have too many tasks under way.
        """
        if not self.quota.tasks:
            return []
        fresh = [name for name in _named(drafts, ended=False) if name not in self._tasks]
        if len(self._tasks) + len(fresh) > self.quota.tasks:
            told = [name for name, last in self._tasks.items() if last <= through]
            for name in set(told) - set(active(told)):  # another key has ended it
                del self._tasks[name]
        if len(self._tasks) + len(fresh) > self.quota.tasks:
            self._refuse("tasks", f"{self.quota.tasks} tasks under way", TASKS_RETRY_SECONDS)
        self._tasks.update(dict.fromkeys(fresh, NEWEST))
        return fresh

    def appended(self, drafts: Sequence[Draft], last: EventId) -> None:
        """Note that events were appended: their tasks are under way, or have ended."""
        if self.quota.tasks:
            self._tasks |= dict.fromkeys(_named(drafts, ended=False), last)
            self.forget(_named(drafts, ended=True))

    def forget(self, tasks: Iterable[str]) -> None:
        """Stop counting these tasks."""
        for name in tasks:
            self._tasks.pop(name, None)


def _named(drafts: Sequence[Draft], *, ended: bool) -> dict[str, None]:
    """Return the tasks of events: those whose last event ends them, or else the others."""
    last = {draft.channel: draft for draft in drafts if draft.channel.startswith(TASK)}
    return {
        channel.removeprefix(TASK): None
        for channel, draft in last.items()
        if (draft.topic == "task.status" and draft.payload.get("status") in TERMINAL) is ended
    }


def _now() -> float:
    return trio.current_time()
