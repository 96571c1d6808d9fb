"""Refused credentials: counted, said with the address that they came from, and slowed.

From an address that has sent ``FREE`` wrong keys, tickets or sessions within a minute, each further one is
answered after a while. It is still 401, so that a client knows what is wrong; only where very many answers
are held back already, one more is 429 at once. A good key is never slowed, wherever it comes from: it is
judged first, and an address may be that of a whole office. So this keeps programs that are set up wrongly,
and guessers, from costing much; that no key is guessed follows from the length of keys.
"""

from __future__ import annotations

from collections import OrderedDict

import attrs
import structlog
import trio

from heliograph.model.errors import TooMany

WINDOW = 60.0
FREE = 100
MOST_ADDRESSES = 1024
HOLD_SECONDS = 0.5
MOST_HELD = 100
"""Answers that are held back at a time."""

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
        slowed: Those of them that were held back, or answered 429.
    """

    total: int = 0
    slowed: int = 0
    _held: int = 0
    _addresses: OrderedDict[str, _Address] = attrs.field(factory=OrderedDict)

    @property
    def addresses(self) -> int:
        """The number of addresses that are remembered."""
        return len(self._addresses)

    def note(self, address: str | None, path: str, reason: str) -> bool:
        """Count one; tell whether too many came from there."""
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
            return False
        if known.count == FREE + 1:
            log.warning("credentials refused, and slowed", peer=place, path=path[:100], reason=reason)
        self.slowed += 1
        return True

    async def hold(self) -> None:
        """Hold an answer back.

        Raises:
            TooMany: So many are held already that this one is not.
        """
        if self._held >= MOST_HELD:
            raise TooMany("too many wrong keys, tickets or sessions come at once", HOLD_SECONDS)
        self._held += 1
        try:
            await trio.sleep(HOLD_SECONDS)
        finally:
            self._held -= 1
