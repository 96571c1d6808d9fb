"""The clock: tells whether this machine's time can be believed.

Ids of events are made of the time, and retention goes by it. A clock that is set to next year for a moment
would have all events removed as old. So the wall clock is compared with the machine's uptime, which can't be
set, with the newest event, and with the clocks of storage's servers. Only those servers show a clock that was
ahead from the start: without them it looks the same as a log that was not written to for a year.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import structlog

from heliograph.model.ids import EventId, time_of

MOST_SECONDS = 120.0
"""The most that the clock may drift from the uptime, or events be ahead; corrections are far smaller."""

log = structlog.get_logger(__name__)


class Clock:
    """Watches the clock since it was made.

    Args:
        position: Returns the newest event's id.
        wall: Returns the time in seconds since the epoch.
        uptime: Returns seconds of a clock that can't be set and goes on while the machine sleeps.
        others: Returns, by the names of other servers, the seconds by which this clock is ahead of theirs.
    """

    def __init__(
        self,
        position: Callable[[], EventId],
        wall: Callable[[], float] = time.time,
        uptime: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        others: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self._position, self._others = position, others
        self._wall, self._uptime = wall, uptime
        self._begun = wall() - uptime()
        self._said: str | None = None

    def now(self) -> datetime:
        """Return the time, whether it can be believed or not."""
        return datetime.fromtimestamp(self._wall(), UTC)

    def problem(self) -> str | None:
        """Return why the time can't be believed, ``None`` if it can; log when that begins and ends."""
        found = self._problem()
        if (found is None) != (self._said is None):
            if found is None:
                log.info("the clock is right again")
            else:
                log.error("the clock is wrong", reason=found)
        self._said = found
        return found

    def _problem(self) -> str | None:
        ahead = self._wall() - self._uptime() - self._begun
        if abs(ahead) > MOST_SECONDS:
            way = "forward" if ahead > 0 else "back"
            return f"the clock was set {way} by {abs(ahead):.0f} s; nothing is removed by it"
        for server, seconds in self._others().items():
            if abs(seconds) > MOST_SECONDS:
                way = "ahead of" if seconds > 0 else "behind"
                return f"the clock is {abs(seconds):.0f} s {way} that of {server}; nothing is removed by it"
        newest = self._position()
        if newest and (lead := (time_of(newest) - self.now()).total_seconds()) > MOST_SECONDS:
            return f"the newest event is {lead:.0f} s ahead of the clock; nothing is removed by it"
        return None
