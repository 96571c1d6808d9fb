"""Retention: removes, part by part, what the store need not keep any longer.

It wakes now and then, and removes small parts until nothing is over the retention, leaving room between
them for those who write. It never removes silently: what is gone is remembered per channel by the store.
"""

from __future__ import annotations

from datetime import UTC, datetime

import attrs
import structlog
import trio

from heliograph.model.errors import Unavailable
from heliograph.model.settings import RetentionSettings
from heliograph.storage.protocols import Keeper

INTERVAL_SECONDS = 30.0
PAUSE_SECONDS = 0.02

log = structlog.get_logger(__name__)


@attrs.frozen
class RetentionStats:
    """Counters since the start: what was removed."""

    removed: int


class Retention:
    """Keeps the store within its bounds.

    Args:
        keeper: The store's side.
        policy: What is kept.
    """

    def __init__(self, keeper: Keeper, policy: RetentionSettings) -> None:
        self._keeper = keeper
        self._policy = policy
        self._removed = 0

    def stats(self) -> RetentionStats:
        """Return a snapshot of the counters."""
        return RetentionStats(self._removed)

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                while removed := await self._keeper.sweep(self._policy, datetime.now(UTC)):
                    self._removed += removed
                    await trio.sleep(PAUSE_SECONDS)
            except Unavailable as error:
                log.warning("retention waits", reason=str(error))
            await trio.sleep(INTERVAL_SECONDS)
