"""Read-your-writes for the dashboard API: waits until the store has followed the log.

Where log and store are two databases, watchers and publishers learn of an event some milliseconds before the
store has it. The platform API gives the position of each list (``meta.stream_cursor``). The clients of the
dashboard API know no cursors: a page that is notified of an end reads again at once, and an engine names in
its second request what its first one has made.
"""

from __future__ import annotations

import trio

from heliograph.model.ids import OLDEST, EventId
from heliograph.storage.protocols import Log, Store

MOST_SECONDS = 1.0
"""The most seconds to wait for a store that is far behind; then a reader gets what the store has."""

INTERVAL = 0.01


class CaughtUp:
    """The position up to which the store is known to be folded.

    Args:
        log: The log of this node's watchers and publishers.
        store: The store that follows it.
    """

    def __init__(self, log: Log, store: Store) -> None:
        self._log = log
        self._store = store
        self._known: EventId = OLDEST

    async def wait(self) -> None:
        """Wait until the store has the log's current position, but for at most ``MOST_SECONDS``."""
        wanted = self._log.position
        with trio.move_on_after(MOST_SECONDS):
            while self._known < wanted:
                self._known = max(self._known, await self._store.checkpoint())
                if self._known < wanted:
                    await trio.sleep(INTERVAL)
