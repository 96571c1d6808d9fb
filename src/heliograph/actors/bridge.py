"""The bridge: takes what agents publish to Redis's pub/sub into the log.

Every node runs one; they take turns (see ``turns``), and the one that holds a lease appends. A message takes
the same way as a published item (``model.intake``), so what is wrong with it is found here; it is counted and
told, and the next one follows.

Pub/sub keeps nothing, so neither can the bridge promise what the rest of the service does. A message that
it has heard is appended once: it is tried again, under the same key, until the log takes it. What is
published while nobody holds the lease is heard by nobody: for about a second after a node is stopped, and
until the lease expires after one that was killed. What a node had heard but not appended when it loses the
lease is dropped and counted, since its successor may have heard it too. Agents that need more publish over
HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from secrets import token_hex

import attrs
import structlog
import trio

from heliograph.actors.retry import until_it_works
from heliograph.actors.turns import Turns
from heliograph.model.errors import HeliographError, Unavailable
from heliograph.model.event import Draft
from heliograph.model.intake import parse_message
from heliograph.storage.protocols import Deposed, Heard, Listener, Receipt

TELL_SECONDS = 10.0
FAREWELL_SECONDS = 1.0

log = structlog.get_logger(__name__)


@attrs.frozen
class BridgeStats:
    """Counters since the start.

    Args:
        active: Whether this node bridges now.
        terms: How often it began to.
        events: Messages that became events.
        refused: Messages that could not be taken, being malformed.
        dropped: Messages heard but not appended when the lease was lost.
        error: What ended the last term, or kept it from beginning; ``None`` since one goes well.
    """

    active: bool
    terms: int
    events: int
    refused: int
    dropped: int
    error: str | None


class Bridge:
    """One node's bridge.

    Args:
        listener: The side of storage.
        max_bytes: Limit of one event's payload.
    """

    def __init__(self, listener: Listener, max_bytes: int) -> None:
        self._listener = listener
        self._max_bytes = max_bytes
        self._turns = Turns("bridging")
        self._events = self._refused = self._dropped = 0
        self._told_at = -math.inf
        self._name, self._numbers = token_hex(8), count()

    def stats(self) -> BridgeStats:
        """Return a snapshot of the counters."""
        turns = self._turns
        return BridgeStats(turns.active, turns.count, self._events, self._refused, self._dropped, turns.error)

    async def run(self) -> None:
        """Bridge whenever it is this node's turn, until cancelled."""
        await self._turns.take(self._listener.begin, self._serve, self._end)

    async def _end(self) -> None:
        """Hand the lease back, if that can be done quickly: it expires anyway."""
        with trio.move_on_after(FAREWELL_SECONDS, shield=True):
            with suppress(Unavailable):
                await self._listener.end()

    async def _serve(self) -> None:
        self._turns.started()
        while True:
            await self._keep(self._parse(await self._listener.hear()))

    def _parse(self, heard: Sequence[Heard]) -> list[Draft]:
        drafts = []
        for message in heard:
            try:
                draft = parse_message(message.channel, message.data, self._max_bytes)
            except HeliographError as error:
                self._refuse(message.channel, error)
                continue
            if draft.key is None:  # so that trying again is harmless
                draft = draft._replace(key=f"bridge/{self._name}/{next(self._numbers)}")
            drafts.append(draft)
        return drafts

    def _refuse(self, channel: str, error: HeliographError) -> None:
        """Count a bad message; tell of one now and then, since there may be thousands."""
        self._refused += 1
        if trio.current_time() >= self._told_at + TELL_SECONDS:
            self._told_at = trio.current_time()
            log.warning("bad message", channel=channel, reason=str(error), refused=self._refused)

    async def _keep(self, drafts: Sequence[Draft]) -> None:
        """Append until it is done, or the lease is lost."""
        try:
            answers = await until_it_works(partial(self._append, drafts), "appending messages", self._wait)
        except Deposed:
            self._dropped += len(drafts)
            raise
        self._turns.error = None
        for draft, answer in zip(drafts, answers, strict=True):
            if isinstance(answer, Receipt):
                self._events += 1
            else:
                self._refuse(draft.channel, answer)

    def _wait(self, error: Unavailable) -> None:
        self._turns.error = str(error)

    async def _append(self, drafts: Sequence[Draft]) -> Sequence[Receipt | HeliographError]:
        if not drafts:
            return ()
        await self._listener.hold()
        return await self._listener.append(drafts)
