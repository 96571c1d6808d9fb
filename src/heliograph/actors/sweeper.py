"""The sweeper: one task that serves the deadlines of all streams.

Pings, keepalives, pong deadlines, the planned rotation and idle checks all mean "look at this stream at that
moment". A timer or a task per stream would cost more memory than the stream; one pass over a set, comparing
one number each, costs less than a millisecond for ten thousand streams.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

import attrs
import trio

STEP_STREAMS = 1000


class Swept(Protocol):
    """An object with a deadline that the sweeper serves."""

    due: float

    def sweep(self, now: float) -> None:
        """Do what is due at ``now``, and set ``due`` to the next moment."""
        ...


@attrs.frozen
class SweeperStats:
    """Counters since the start: passes made, and streams that were due."""

    passes: int
    swept: int


class Sweeper:
    """Calls ``sweep`` on every stream that is due.

    Args:
        streams: Returns the current streams.
        interval: Seconds between two passes, and so the most that a stream is swept too late.
    """

    def __init__(self, streams: Callable[[], Collection[Swept]], interval: float) -> None:
        self._streams = streams
        self._interval = interval
        self._passes = self._swept = 0

    def stats(self) -> SweeperStats:
        """Return a snapshot of the counters."""
        return SweeperStats(self._passes, self._swept)

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await trio.sleep(self._interval)
            now = trio.current_time()
            due = [stream for stream in self._streams() if stream.due <= now]
            for start in range(0, len(due), STEP_STREAMS):
                for stream in due[start : start + STEP_STREAMS]:
                    stream.sweep(now)
                await trio.lowlevel.checkpoint()
            self._passes += 1
            self._swept += len(due)
