"""The archiver: takes its turn at moving the log into the store.

Every node runs one; one of them is active, the others ask every second whether it is their turn. The
active one works in steps, each a batch that is folded and committed with its checkpoint. When anything
goes wrong it gives its turn up and stands in line again, so a fault is never more than a pause: what was
not committed is still in the log. Where log and store are one database there is no archiver.
"""

from __future__ import annotations

import attrs
import structlog
import trio

from heliograph.model.errors import Unavailable
from heliograph.storage.protocols import Archive, Deposed

TURN_SECONDS = 1.0

log = structlog.get_logger(__name__)


@attrs.frozen
class ArchiverStats:
    """Counters since the start.

    Args:
        active: Whether this node archives now.
        terms: How often it began to.
        events: Events archived.
        error: What ended the last term, or kept it from beginning; ``None`` since one goes well.
    """

    active: bool
    terms: int
    events: int
    error: str | None


class Archiver:
    """One node's archiver."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._active = False
        self._terms = self._events = 0
        self._error: str | None = None

    def stats(self) -> ArchiverStats:
        """Return a snapshot of the counters."""
        return ArchiverStats(self._active, self._terms, self._events, self._error)

    async def run(self) -> None:
        """Archive whenever it is this node's turn, until cancelled."""
        while True:
            try:
                if await self._archive.begin():
                    await self._term()
                self._error = None
            except (Unavailable, Deposed) as error:
                if self._error is None:
                    log.warning("not archiving", reason=str(error))
                self._error = str(error)
            finally:
                self._active = False
                self._archive.end()
            await trio.sleep(TURN_SECONDS)

    async def _term(self) -> None:
        self._events += await self._archive.step()
        log.info("archiving")
        self._active = True
        self._terms += 1
        self._error = None
        while True:
            self._events += await self._archive.step()
