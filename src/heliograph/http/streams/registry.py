"""The registry: all open streams, their counters, and their limits."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import ClassVar, NoReturn, Protocol

import attrs
import trio

from heliograph.config import StreamSettings
from heliograph.http.streams.reason import Reason
from heliograph.http.wire.lot import Lot
from heliograph.model.errors import TooMany

PAUSE_EVERY = 100
"""The number of streams that are ended between two checkpoints."""

ANONYMOUS = "anonymous"
"""The owner of streams whose client has yet to send ``auth``."""


class OpenStream(Protocol):
    """An open stream, as the registry sees it."""

    transport: ClassVar[str]
    owner: str
    key: str
    session: str | None
    reason: Reason
    watched: int
    due: float

    @property
    def pending_bytes(self) -> int:
        """Bytes that the client has not taken yet."""
        ...

    def sweep(self, now: float) -> None:
        """Do what is due at ``now``, a Trio time."""
        ...

    def end(self, reason: Reason) -> None:
        """Say farewell and close."""
        ...


@attrs.define
class StreamRegistry:
    """All open streams, and counters over all streams since the start.

    Args:
        limits: The settings of streams.
        start_task: Starts a task in the nursery that outlives every stream.
        lot: Reads the sockets of the streams.
    """

    limits: StreamSettings
    start_task: Callable[..., None]
    lot: Lot
    streams: set[OpenStream] = attrs.field(factory=set)
    opened: Counter[str] = attrs.field(factory=Counter)
    ended: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    refused: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    dropped: Counter[str] = attrs.field(factory=Counter)
    per_owner: Counter[str] = attrs.field(factory=Counter)
    watched: Counter[str] = attrs.field(factory=Counter)
    """By owner: the number of channels and patterns that its streams watch."""
    draining: bool = False
    lapsed: dict[str, Reason] = attrs.field(factory=dict)
    """Keys that were revoked or have expired, and the reason for which their streams end."""

    @property
    def sessions(self) -> int:
        """The number of different pages with a stream of their own, ``/ws/<session>``."""
        return len({stream.session for stream in self.streams if stream.session is not None})

    def admit(self, transport: str, owner: str) -> None:
        """Check that one more stream is within the limits.

        Nothing is reserved: the caller must add the stream without an await in between.

        Raises:
            TooMany: There are too many in all, or of this owner.
        """
        if len(self.streams) >= self.limits.max_streams:
            self._refuse(transport, "max_streams", f"{len(self.streams)} streams are open; come back later")
        self._admit_owner(transport, owner)

    def _admit_owner(self, transport: str, owner: str) -> None:
        count = self.per_owner[owner]
        if owner == ANONYMOUS:
            if count >= self.limits.max_streams_before_auth:
                text = f"{count} streams have still to say auth; come back later"
                self._refuse(transport, "max_streams_before_auth", text)
        elif count >= self.limits.max_streams_per_key:
            self._refuse(transport, "max_streams_per_key", f"{owner} has {count} streams open; close some")

    def admit_watching(self, stream: OpenStream, more: int) -> None:
        """Check that a stream may watch ``more`` further channels and patterns.

        Raises:
            TooMany: The streams of its owner would watch too many together.
        """
        most = self.limits.max_subscriptions_per_key
        if self.watched[stream.owner] + more > most:
            text = f"{stream.owner} watches {self.watched[stream.owner]} channels; {most} is the most"
            self._refuse(stream.transport, "max_subscriptions_per_key", text)

    def _refuse(self, transport: str, limit: str, text: str) -> NoReturn:
        self.refused[transport, limit] += 1
        raise TooMany(text)

    def add(self, stream: OpenStream) -> None:
        """Add a stream, and count it."""
        self.streams.add(stream)
        self.per_owner[stream.owner] += 1
        self.opened[stream.transport] += 1

    def remove(self, stream: OpenStream) -> None:
        """Remove a stream, and count its end by reason."""
        self.streams.discard(stream)
        self.count_watched(stream, 0)
        self._take_one(stream.owner)
        self.ended[stream.transport, stream.reason.name.lower()] += 1

    def count_watched(self, stream: OpenStream, count: int) -> None:
        """Set the number of channels and patterns that a stream watches to ``count``."""
        self.watched[stream.owner] += count - stream.watched
        if not self.watched[stream.owner]:
            del self.watched[stream.owner]
        stream.watched = count

    def rename(self, stream: OpenStream, owner: str) -> None:
        """Move an open stream to another owner, whose key it has just shown.

        Raises:
            TooMany: That owner has as many streams as are allowed.
        """
        if owner != stream.owner:
            self._admit_owner(stream.transport, owner)
            watched = stream.watched
            self.count_watched(stream, 0)
            self._take_one(stream.owner)
            self.per_owner[owner] += 1
            stream.owner = owner
            self.count_watched(stream, watched)

    async def end_of_keys(self, lapsed: Mapping[str, Reason]) -> None:
        """End every stream of the keys in ``lapsed``, including those whose handshakes are under way."""
        self.lapsed.update(lapsed)
        for number, stream in enumerate(list(self.streams)):
            if stream.key in lapsed:
                stream.end(lapsed[stream.key])
            if number % PAUSE_EVERY == 0:
                await trio.lowlevel.checkpoint()

    def _take_one(self, owner: str) -> None:
        self.per_owner[owner] -= 1
        if not self.per_owner[owner]:
            del self.per_owner[owner]


async def drain(registry: StreamRegistry, window: float) -> None:
    """End every stream at its own random moment within ``window`` seconds; new ones end at once."""
    registry.draining = True
    begin = trio.current_time()
    moments = sorted((random.uniform(0, window), id(stream), stream) for stream in registry.streams)
    for moment, _, stream in moments:
        await trio.sleep_until(begin + moment)
        stream.end(Reason.SHUTDOWN)
