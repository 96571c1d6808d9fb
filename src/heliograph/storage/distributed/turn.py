"""A lease in Redis for work that one node at a time does, and the lists there that engines read."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from secrets import token_hex
from typing import TypeVar

import trio

from heliograph.storage.distributed.redis_stream import Lease, RedisStream
from heliograph.storage.protocols import Deposed

T = TypeVar("T")

LEASE_SECONDS = 4.0
RENEW_SECONDS = 1.0


class RedisTurn:
    """One node's side of a lease; implements ``protocols.Turn``.

    Args:
        stream: The Redis stream and its client.
        name: The name of the lease.
    """

    def __init__(self, stream: RedisStream, name: str) -> None:
        self._stream = stream
        self._name = name
        self._lease: Lease | None = None
        self._renewed = 0.0

    async def begin(self) -> bool:
        """Take the lease unless another node has it; tell whether this node holds it now."""
        lease = Lease(f"{self._stream.prefix}:{self._name}", token_hex(8))
        taken = await _call(partial(self._stream.take, lease, LEASE_SECONDS))
        self._lease = lease if taken else None
        self._renewed = time.monotonic()
        return taken

    async def hold(self) -> None:
        """Renew the lease when that is due."""
        now = time.monotonic()
        if self._lease is None or now < self._renewed + RENEW_SECONDS:
            return
        if not await _call(partial(self._stream.renew, self._lease, LEASE_SECONDS)):
            raise Deposed(f"the lease of the {self._name} was lost")
        self._renewed = now

    async def end(self) -> None:
        """Release the lease; harmless when it is not held."""
        lease, self._lease = self._lease, None
        if lease is not None:
            await _call(partial(self._stream.release, lease))


class RedisQueue:
    """Lists in Redis; implements ``protocols.Queue``.

    Args:
        stream: The Redis stream and its client.
    """

    def __init__(self, stream: RedisStream) -> None:
        self._stream = stream

    async def push(self, name: str, data: bytes) -> None:
        """Push ``data`` onto the left of the list; an engine takes it from the right."""
        await _call(lambda: self._stream.do(lambda: self._stream.client.lpush(name, data)))

    async def length(self, name: str) -> int:
        """Return how many texts wait in the list."""
        return int(await _call(lambda: self._stream.do(lambda: self._stream.client.llen(name))))


async def _call(work: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(work)
