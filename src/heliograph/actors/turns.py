"""Taking turns at work that any node can do, and one at a time does.

Every node waits for its turn. The node whose turn it is works until it fails or is deposed, and then waits
again. So a fault, on any node, is never more than a pause. How a turn is won (a lock, a lease) is storage's
business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
import trio

from heliograph.model.errors import Unavailable
from heliograph.storage.protocols import Deposed

TURN_SECONDS = 1.0
"""Seconds between two tries of a node that waits for its turn."""

log = structlog.get_logger(__name__)


class Turns:
    """One node's turns at one piece of work.

    Args:
        work: The name of the work, such as ``archiving``, for log lines.

    Attributes:
        active: Whether this node has its turn now, and has begun to work.
        count: The number of turns that have begun.
        error: The reason why the last turn ended or could not begin; ``None`` since one goes well.
    """

    def __init__(self, work: str) -> None:
        self._work = work
        self.active = False
        self.count = 0
        self.error: str | None = None

    async def take(
        self,
        begin: Callable[[], Awaitable[bool]],
        serve: Callable[[], Awaitable[None]],
        end: Callable[[], Awaitable[None]],
    ) -> None:
        """Take turns until cancelled.

        Args:
            begin: Tries to win the turn; tells whether this node has it now.
            serve: Works for as long as the turn lasts; calls ``started`` when it goes well.
            end: Gives the turn up, also when ``take`` is cancelled; harmless if this node did not have it.
        """
        while True:
            try:
                if await begin():
                    await serve()
                self.error = None
            except (Unavailable, Deposed) as error:
                self.fault(error)
            finally:
                self.active = False
                await end()
            await trio.sleep(TURN_SECONDS)

    def started(self) -> None:
        """Note that the turn has begun and goes well."""
        log.info(self._work)
        self.active = True
        self.count += 1
        self.error = None

    def fault(self, error: Exception) -> None:
        """Note a fault; the first of a series is logged."""
        if self.error is None:
            log.warning(f"not {self._work}", reason=str(error))
        self.error = str(error)
