"""Refused credentials: counted, logged with the address that they came from, and slowed.

When an address has sent ``FREE`` wrong keys, tickets or sessions within a minute, each further one is
answered with a delay. The answer is still 401, so that the client learns what is wrong; only if very many
answers are held back already is the next one 429 at once. A good key is never slowed, wherever it comes from:
it is checked first, and an address may be that of a whole office. So wrongly configured programs, and
guessers, can't cost much. That no key can be guessed follows from the length of keys.
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
"""The most answers that are held back at a time."""

log = structlog.get_logger(__name__)


@attrs.define
class _Address:
    since: float
    count: int = 0


@attrs.define
class RefusedCredentials:
    """Counts of wrong credentials, and of the addresses that have recently sent them.

    Attributes:
        total: The number of wrong keys, tickets and sessions.
        slowed: The number of those that were held back, or answered 429.
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
        """Count wrong credentials; tell whether too many came from this address."""
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
        """Wait for ``HOLD_SECONDS`` before an answer.

        Raises:
            TooMany: Too many answers are held back already.
        """
        if self._held >= MOST_HELD:
            raise TooMany("too many wrong keys, tickets or sessions come at once", HOLD_SECONDS)
        self._held += 1
        try:
            await trio.sleep(HOLD_SECONDS)
        finally:
            self._held -= 1
