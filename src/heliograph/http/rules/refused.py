"""Refused credentials: counted, said with the address that they came from, and slowed.

An address that has sent ``FREE`` wrong keys, tickets or sessions within a minute is answered 429 from then on
instead of 401, and each such answer is held back for a second. A good key is never slowed, wherever it comes
from: it is judged first, and an address may be that of a whole office. So this keeps programs that are set up
wrongly, and guessers, from costing much; that no key is guessed follows from the length of keys.
"""

from __future__ import annotations

from collections import OrderedDict

import attrs
import structlog
import trio

from heliograph.model.errors import TooMany

WINDOW = 60.0
FREE = 10
MOST_ADDRESSES = 1024
HOLD_SECONDS = 1.0
MOST_HELD = 100
"""Answers that are held back at a time; what is over that is answered at once."""

log = structlog.get_logger(__name__)


@attrs.define
class _Address:
    since: float
    count: int = 0


@attrs.define
class RefusedCredentials:
    """Counts of wrong credentials, and of the addresses that sent them of late.

    Attributes:
        total: Wrong keys, tickets and sessions.
        slowed: Those of them that were answered 429.
    """

    total: int = 0
    slowed: int = 0
    _held: int = 0
    _addresses: OrderedDict[str, _Address] = attrs.field(factory=OrderedDict)

    @property
    def addresses(self) -> int:
        """The number of addresses that are remembered."""
        return len(self._addresses)

    def note(self, address: str | None, path: str, reason: str) -> TooMany | None:
        """Count one; return what it is to be answered with instead, if there were too many."""
        self.total += 1
        now = trio.current_time()
        place = address or "unknown"
        known = self._addresses.get(place)
        if known is None or now - known.since > WINDOW:
            known = self._addresses[place] = _Address(now)
        self._addresses.move_to_end(place)
        if len(self._addresses) > MOST_ADDRESSES:
            self._addresses.popitem(last=False)
        known.count += 1
        if known.count <= FREE:
            log.warning("credentials refused", peer=place, path=path[:100], reason=reason)
            return None
        if known.count == FREE + 1:
            log.warning("credentials refused, and slowed", peer=place, path=path[:100], reason=reason)
        self.slowed += 1
        left = max(HOLD_SECONDS, WINDOW - (now - known.since))
        return TooMany(
            f"{known.count} wrong keys, tickets or sessions came from this address: {reason}", left
        )

    async def hold(self) -> None:
        """Hold an answer back, unless so many are held already."""
        if self._held < MOST_HELD:
            self._held += 1
            try:
                await trio.sleep(HOLD_SECONDS)
            finally:
                self._held -= 1
