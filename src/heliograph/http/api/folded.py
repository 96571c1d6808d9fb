"""Reading what one has been told of: the store follows the log, and this waits until it has.

Where log and store are two databases, an event is told to watchers, and to who published it, some
milliseconds before the store knows it. The platform API says with each list where it stands
(``meta.stream_cursor``). The clients of the dashboard API know no cursors: one that hears of an end reads
again at once, and an engine names in its second request what its first one has made.
"""

from __future__ import annotations

import trio

from heliograph.model.ids import OLDEST, EventId
from heliograph.storage.protocols import Log, Store

MOST_SECONDS = 1.0
"""Seconds to wait for a store that is far behind; then a reader gets what is there."""

INTERVAL = 0.01


class CaughtUp:
    """The position up to which the store is known to be folded.

    Args:
        log: The log that this node's watchers and publishers were told of.
        store: The store that follows it.
    """

    def __init__(self, log: Log, store: Store) -> None:
        self._log = log
        self._store = store
        self._known: EventId = OLDEST

    async def wait(self) -> None:
        """Wait until the store knows what the log had when this was called, but not for long."""
        wanted = self._log.position
        with trio.move_on_after(MOST_SECONDS):
            while self._known < wanted:
                self._known = max(self._known, await self._store.checkpoint())
                if self._known < wanted:
                    await trio.sleep(INTERVAL)
