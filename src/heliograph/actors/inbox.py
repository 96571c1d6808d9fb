"""An actor's inbox: a bounded channel whose owner, while it rests, takes what comes in the sender's turn.

Waking a task costs as much as the work that most items are. So an item is first offered to the owner, by a
plain call, if it rests: it waits for an item, and none is on the way to it. What the owner does not take
goes through the channel, where a full channel makes the sender wait. So items keep their order, and a turn
stays short, since the owner leaves what is large.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Inbox(Generic[T]):
    """The items for one actor, from one sender.

    Args:
        size: The number of items that may wait.
        take: Takes an item, or a part of it, without an await; returns what is left of it, or ``None``.
    """

    def __init__(self, size: int, take: Callable[[T], T | None]) -> None:
        self._send, self._receive = trio.open_memory_channel[T](size)
        self._take = take
        self._resting = False

    @property
    def waiting(self) -> int:
        """The number of items that wait."""
        return self._receive.statistics().current_buffer_used

    async def send(self, item: T) -> None:
        """Hand an item over; wait while the inbox is full."""
        if self._resting:
            left = self._take(item)
            if left is None:
                return
            item, self._resting = left, False
        try:
            self._send.send_nowait(item)  # without a checkpoint
        except trio.WouldBlock:
            await self._send.send(item)

    def close(self) -> None:
        """Take no more items; the owner's loop ends after those that wait."""
        self._send.close()

    def __aiter__(self) -> Inbox[T]:
        return self

    async def __anext__(self) -> T:
        try:
            return self._receive.receive_nowait()
        except trio.WouldBlock:
            self._resting = True
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        finally:
            self._resting = False
