"""Retention: removes, part by part, what the store need not keep any longer.

It wakes now and then, and removes small parts until nothing is over the retention, leaving room between
them for those who write. It never removes silently: what is gone is remembered per channel by the store.
"""

from __future__ import annotations

import attrs
import trio

from heliograph.actors.clock import Clock
from heliograph.actors.retry import until_it_works
from heliograph.model.settings import RetentionSettings
from heliograph.storage.protocols import Artifacts, Keeper

INTERVAL_SECONDS = 30.0
PAUSE_SECONDS = 0.02


@attrs.frozen
class RetentionStats:
    """Counters since the start: events and runs that were removed."""

    removed: int
    runs: int = 0


class Retention:
    """Keeps the store within its bounds.

    Args:
        keeper: The store's side.
        artifacts: The artifacts of runs, which are removed with their runs.
        policy: The rules of what is kept, and for how long.
        clock: Says what is old; while it can't be believed nothing is removed.
    """

    def __init__(self, keeper: Keeper, artifacts: Artifacts, policy: RetentionSettings, clock: Clock) -> None:
        self._clock = clock
        self._keeper = keeper
        self._artifacts = artifacts
        self._policy = policy
        self._removed = self._runs = 0

    def stats(self) -> RetentionStats:
        """Return a snapshot of the counters."""
        return RetentionStats(self._removed, self._runs)

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            while removed := await until_it_works(self._sweep, "removing"):
                self._removed += removed
                await trio.sleep(PAUSE_SECONDS)
            while removed := await until_it_works(self._sweep_runs, "removing runs"):
                self._runs += removed
                await trio.sleep(PAUSE_SECONDS)
            await trio.sleep(INTERVAL_SECONDS)

    async def _sweep(self) -> int:
        if self._clock.problem() is not None:
            return 0
        return await self._keeper.sweep(self._policy, self._clock.now())

    async def _sweep_runs(self) -> int:
        if self._clock.problem() is not None:
            return 0
        old = await self._keeper.old_runs(self._policy, self._clock.now())
        for run in old:  # first, since nobody would find them any more
            await self._artifacts.delete_all(run.workflow_id, run.run_id)
        if old:
            await self._keeper.remove_runs(old)
        return len(old)
