"""The bridge: takes what agents publish to Redis into the log, from pub/sub and from a stream.

Every node runs one; they take turns (see ``turns``), and the one that holds a lease appends. Messages become
events by ``model.publishers``, which leaves out invalid fields instead of refusing the message, since no
publisher would learn of a refusal.

Pub/sub keeps nothing, so the bridge can't promise what the rest of the service does. A received message is
appended once: the append is retried, under the same key, until the log takes it. Messages are lost while no
node holds the lease: for about a second after a node is stopped, and until the lease expires after one that
was killed. Messages that a node has received but not appended when it loses the lease are dropped and
counted, since its successor may have received them, too.

The stream keeps its entries, so none is lost, whoever was away and for how long. The position in the stream
is written to Redis after the entries are in the log; entries that are read again have the same keys.
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
from heliograph.model.errors import HeliographError, Malformed, Unavailable
from heliograph.model.event import Draft
from heliograph.model.intake import BRIDGE_KEYS
from heliograph.model.publishers import from_pubsub, from_stream
from heliograph.storage.protocols import Deposed, Entry, Listener, PubSubMessage, Receipt

TELL_SECONDS = 10.0
FAREWELL_SECONDS = 1.0

log = structlog.get_logger(__name__)


@attrs.frozen
class BridgeStats:
    """Counters since the start.

    Args:
        active: Whether this node bridges now.
        terms: The number of terms that it has begun.
        events: Events that messages and entries became.
        refused: Messages that could not be taken: of no task, or with a key that has other content.
        dropped: Messages received but not appended when the lease was lost.
        error: The reason why the last term ended or could not begin; ``None`` since one goes well.
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
        listener: Storage's side of the bridge.
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
        """Release the lease if that goes quickly; otherwise it expires."""
        with trio.move_on_after(FAREWELL_SECONDS, shield=True):
            with suppress(Unavailable):
                await self._listener.end()

    async def _serve(self) -> None:
        self._turns.started()
        while True:
            heard = await self._listener.receive()
            try:
                await self._keep([draft for one in heard for draft in await self._drafts(one)])
            except Deposed:
                self._dropped += sum(isinstance(one, PubSubMessage) for one in heard)
                raise
            if heard and isinstance(heard[-1], Entry):
                await until_it_works(
                    partial(self._listener.done, heard[-1]), "writing down the place", self._wait
                )

    async def _drafts(self, heard: PubSubMessage | Entry) -> list[Draft]:
        await trio.lowlevel.checkpoint()  # some are large
        if isinstance(heard, Entry):
            return from_stream(heard.id, heard.fields, self._max_bytes)
        try:
            drafts = from_pubsub(heard.channel, heard.data, self._max_bytes)
        except Malformed as error:
            self._refuse(heard.channel, error)
            return []
        return [
            # A key for every draft, so that a retry is harmless.
            draft if draft.key else draft._replace(key=f"{BRIDGE_KEYS}{self._name}/{next(self._numbers)}")
            for draft in drafts
        ]

    def _refuse(self, channel: str, error: HeliographError) -> None:
        """Count a bad message; log one now and then, since there may be thousands."""
        self._refused += 1
        if trio.current_time() >= self._told_at + TELL_SECONDS:
            self._told_at = trio.current_time()
            log.warning("bad message", channel=channel, reason=str(error), refused=self._refused)

    async def _keep(self, drafts: Sequence[Draft]) -> None:
        """Append, retrying until the log has the drafts or the lease is lost."""
        answers = await until_it_works(partial(self._append, drafts), "appending messages", self._wait)
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
