"""The archiver: takes its turn at moving the log into the store.

Every node runs one; they take turns (see ``turns``). The active one works in steps, each a batch that is
folded and committed with its checkpoint. Events that are not committed when a turn ends are still in the log.
Where log and store are one database there is no archiver.
"""

from __future__ import annotations

import attrs

from heliograph.actors.turns import Turns
from heliograph.storage.protocols import Archive


@attrs.frozen
class ArchiverStats:
    """Counters since the start.

    Args:
        active: Whether this node archives now.
        terms: The number of terms that it has begun.
        events: Events archived.
        error: The reason why the last term ended or could not begin; ``None`` since one goes well.
    """

    active: bool
    terms: int
    events: int
    error: str | None


class Archiver:
    """One node's archiver.

    Args:
        archive: Storage's side of the archiver.
    """

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._turns = Turns("archiving")
        self._events = 0

    def stats(self) -> ArchiverStats:
        """Return a snapshot of the counters."""
        turns = self._turns
        return ArchiverStats(turns.active, turns.count, self._events, turns.error)

    async def run(self) -> None:
        """Archive whenever it is this node's turn, until cancelled."""
        await self._turns.take(self._archive.begin, self._serve, self._end)

    async def _serve(self) -> None:
        self._events += await self._archive.step()
        self._turns.started()
        while True:
            self._events += await self._archive.step()

    async def _end(self) -> None:
        self._archive.end()
