"""The listener: receives what agents publish to Redis by pub/sub and in a stream, on one node at a time.

Pub/sub gives every subscriber its own copy, so only the node that holds the lease may append messages. The
lease is a key that expires by itself and holds a token of this term. Every append passes the token to the
appending script, which compares it: a paused node that wakes with messages in its socket can't append them
beside its successor. The position in the stream is written under the same check.

An engine publishes the end of a task on pub/sub first and in the stream second. So entries are read before
the messages, and returned after them: a message that was published before an entry also comes before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from secrets import token_hex
from typing import Any, TypeVar

import trio
from redis.client import PubSub
from redis.exceptions import RedisError

from heliograph.model.errors import HeliographError, Unavailable
from heliograph.model.event import Draft
from heliograph.model.publishers import CLI_STATUS
from heliograph.storage.distributed.redis_client import translated
from heliograph.storage.distributed.redis_log import RedisLog
from heliograph.storage.distributed.redis_stream import Lease, RedisStream
from heliograph.storage.protocols import Deposed, Entry, PubSubMessage, Receipt
from heliograph.storage.settings import RedisSettings

T = TypeVar("T")

LEASE_SECONDS = 4.0
WAIT_SECONDS = 0.1
RENEW_SECONDS = 1.0
MOST_MESSAGES = 1000
MOST_ENTRIES = 200
"""The number of stream entries that are read at a time; engines write entries of up to 200 KB."""


class RedisListener:
    """Receives messages while this node holds the lease; implements ``protocols.Listener``.

    Args:
        stream: The Redis stream and its client.
        log: The log that the messages go to.
        settings: The channels and the stream to receive from, and the longest silence of a connection.
    """

    def __init__(self, stream: RedisStream, log: RedisLog, settings: RedisSettings) -> None:
        self._stream = stream
        self._log = log
        self._settings = settings
        self._silence = settings.timeout
        self._limiter = trio.CapacityLimiter(1)
        self._pubsub: PubSub | None = None
        self._failure: RedisError | None = None
        self._lease = Lease(f"{stream.prefix}:bridge", "")
        self._position_key = f"{stream.prefix}:bridge:{settings.bridge_stream}"
        self._position = "0-0"
        self._renewed = self._heard = self._asked = 0.0

    async def begin(self) -> bool:
        """Take the lease if it is free, and subscribe; see ``protocols.Listener``."""
        return await self._call(self._begin)

    async def receive(self) -> Sequence[PubSubMessage | Entry]:
        """Return what has arrived, waiting a while for something; see ``protocols.Listener``."""
        return await self._call(self._receive)

    async def hold(self) -> None:
        """Renew the lease if it is time; see ``protocols.Listener``."""
        await self._call(self._hold)

    async def append(self, drafts: Sequence[Draft]) -> Sequence[Receipt | HeliographError]:
        """Append drafts, each by itself, if the lease is still held; see ``protocols.Listener``."""
        return await self._log.append([[draft] for draft in drafts], self._lease)

    async def done(self, entry: Entry) -> None:
        """Write down that entries up to ``entry`` are in the log; see ``protocols.Listener``."""
        await self._call(partial(self._done, entry))

    async def end(self) -> None:
        """Release the lease, and unsubscribe."""
        await self._call(self._end)

    async def _call(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(partial(self._translated, work), limiter=self._limiter)

    def _translated(self, work: Callable[[], T]) -> T:
        with translated():
            return work()

    def _begin(self) -> bool:
        lease = Lease(self._lease.key, token_hex(8))
        if not self._stream.take(lease, LEASE_SECONDS):
            return False
        self._lease, self._failure = lease, None
        self._renewed = self._heard = self._asked = time.monotonic()
        self._pubsub = self._stream.client.pubsub()
        self._pubsub.psubscribe(self._settings.bridge, CLI_STATUS)
        known: Any = self._stream.client.get(self._position_key)
        self._position = known.decode() if known else "0-0"
        return True

    def _receive(self) -> list[PubSubMessage | Entry]:
        assert self._pubsub is not None
        if self._failure is not None:
            raise self._failure
        self._hold()
        entries = self._entries()
        found: list[PubSubMessage | Entry] = []
        wait = 0 if entries else WAIT_SECONDS
        while len(found) < MOST_MESSAGES:
            try:
                message = self._pubsub.get_message(timeout=wait)
            except RedisError as error:
                if not found:
                    raise
                self._failure = error  # raised by the next call: what was received is not sent again
                return found
            if message is None:
                found += entries
                break
            wait = 0
            self._heard = time.monotonic()
            if message["type"] == "pmessage":
                found.append(PubSubMessage(message["channel"].decode(errors="replace"), message["data"]))
        self._listen_for_life(self._pubsub)
        return found

    def _entries(self) -> list[Entry]:
        name = self._settings.bridge_stream
        if not name:
            return []
        answer: Any = self._stream.client.xread({name: self._position}, count=MOST_ENTRIES)
        return [
            Entry(
                entry_id.decode(), {field.decode(errors="replace"): value for field, value in fields.items()}
            )
            for _, entries in answer
            for entry_id, fields in entries
        ]

    def _done(self, entry: Entry) -> None:
        if not self._stream.advance(self._lease, self._position_key, entry.id):
            raise Deposed("the lease of the bridge was lost")
        self._position = entry.id

    def _listen_for_life(self, pubsub: PubSub) -> None:
        """Tell a silent connection from a dead one by a ping now and then."""
        now = time.monotonic()
        if now > self._heard + self._silence:
            raise Unavailable("the connection to Redis is silent")
        if now > max(self._heard, self._asked) + self._silence / 4:
            pubsub.ping()
            self._asked = now

    def _hold(self) -> None:
        now = time.monotonic()
        if now < self._renewed + RENEW_SECONDS:
            return
        if not self._stream.renew(self._lease, LEASE_SECONDS):
            raise Deposed("the lease of the bridge was lost")
        self._renewed = now

    def _end(self) -> None:
        if self._pubsub is None:
            return
        self._pubsub.close()
        self._pubsub = None
        self._stream.release(self._lease)
