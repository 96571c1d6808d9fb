"""Retention: removes old events, entities, runs and artifacts, and forgets channels, part by part.

It wakes now and then, and removes small parts until nothing is over the retention, with pauses between them
for writers. It never removes silently: the store remembers for each channel up to where events were removed.

Artifacts are removed when their run is gone and none of them was written for as long as runs are kept. A run
is removed before its artifacts, so a run with news meanwhile loses none. Artifacts that a crash has left in
between, and those of runs that never had an event, are found by a walk over all artifacts, part by part, once
an hour.

Another walk, once an hour, forgets the channels of which nothing is kept, and counts the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta

import attrs
import structlog
import trio

from heliograph.actors.clock import Clock
from heliograph.actors.retry import until_it_works
from heliograph.model.errors import Unavailable
from heliograph.model.settings import RetentionSettings
from heliograph.storage.protocols import BEGINNING, Artifacts, Forgotten, Keeper, RunName

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 30.0
PAUSE_SECONDS = 0.02


WALK_SECONDS = 3600.0
"""The shortest time between two walks over all artifacts, or over all channels."""
WALK_PART = 1000
"""The number of runs whose artifacts are checked in one part of a walk."""


@attrs.frozen
class RetentionStats:
    """Counters since the start.

    Args:
        removed: Removed events and entities.
        runs: Removed runs.
        left: Runs whose artifacts were removed.
        forgotten: Forgotten channels.
        channels: The channels that were kept at the newest walk; ``None``: this node has made none.
    """

    removed: int
    runs: int = 0
    left: int = 0
    forgotten: int = 0
    channels: int | None = None


class Retention:
    """Keeps the store within its bounds.

    Args:
        keeper: Storage's side of retention.
        artifacts: The artifacts of runs, which are removed after their runs.
        policy: What is kept, and for how long.
        clock: Gives the time; while it can't be believed nothing is removed.
    """

    def __init__(self, keeper: Keeper, artifacts: Artifacts, policy: RetentionSettings, clock: Clock) -> None:
        self._clock = clock
        self._keeper = keeper
        self._artifacts = artifacts
        self._policy = policy
        self._removed = self._runs = self._left = 0
        self._place: RunName | None = None
        self._walk_at = -math.inf
        self._looked = Forgotten(0, 0, None)
        self._look_at = -math.inf
        self._forgotten = 0
        self._channels: int | None = None

    def stats(self) -> RetentionStats:
        """Return a snapshot of the counters."""
        return RetentionStats(self._removed, self._runs, self._left, self._forgotten, self._channels)

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            while removed := await until_it_works(self._sweep, "removing"):
                self._removed += removed
                await trio.sleep(PAUSE_SECONDS)
            while removed := await until_it_works(self._sweep_runs, "removing runs"):
                self._runs += removed
                await trio.sleep(PAUSE_SECONDS)
            while names := await until_it_works(self._walk, "removing artifacts"):
                self._place = names[-1]
                await trio.sleep(PAUSE_SECONDS)
            self._place = None
            while part := await until_it_works(self._forget, "forgetting channels"):
                self._forgotten += part.number
                await trio.sleep(PAUSE_SECONDS)
            await trio.sleep(INTERVAL_SECONDS)

    async def _sweep(self) -> int:
        if self._clock.problem() is not None:
            return 0
        return await self._keeper.sweep(self._policy, self._clock.now())

    @property
    def _idle(self) -> bool:
        """Whether no runs are removed: by the policy, for a doubtful clock, or as another node does it."""
        return (
            not self._policy.runs_max_age_seconds
            or self._clock.problem() is not None
            or not self._keeper.active
        )

    async def _sweep_runs(self) -> int:
        if self._idle:
            return 0
        removed = await self._keeper.remove_runs(self._policy, self._clock.now())
        try:
            await self._remove_artifacts(removed)
        except Unavailable as error:
            log.warning("artifacts of removed runs stay for now", runs=len(removed), reason=str(error))
            self._walk_at = -math.inf  # a walk will find them
        return len(removed)

    async def _walk(self) -> Sequence[RunName]:
        """Remove the artifacts of a part of the runs, if these are not kept; return the runs of that part."""
        if self._idle or (self._place is None and trio.current_time() < self._walk_at + WALK_SECONDS):
            return ()
        if self._place is None:
            self._walk_at = trio.current_time()
        names = await self._artifacts.runs(self._place, WALK_PART)
        await self._remove_artifacts(await self._keeper.unknown_runs(names))
        return names

    async def _forget(self) -> Forgotten | None:
        """Forget those of the next channels of which nothing is kept; ``None``: no walk is due."""
        if self._clock.problem() is not None or not self._keeper.active:
            self._channels = None
            return None
        place = self._looked.place
        if place is None and trio.current_time() < self._look_at:
            return None
        looked = Forgotten(0, 0, BEGINNING) if place is None else self._looked
        part = await self._keeper.forget(self._clock.now(), BEGINNING if place is None else place)
        looked = Forgotten(looked.channels + part.channels, looked.number + part.number, part.place)
        self._looked = looked
        if looked.place is None:
            self._channels, self._look_at = looked.channels, trio.current_time() + WALK_SECONDS
            if looked.number:
                log.info("channels forgotten", number=looked.number, kept=looked.channels)
        return part

    async def _remove_artifacts(self, names: Sequence[RunName]) -> None:
        before = self._clock.now() - timedelta(seconds=self._policy.runs_max_age_seconds)
        for workflow_id, run_id in names:
            if await self._artifacts.delete_old(workflow_id, run_id, before):
                self._left += 1
