"""Asking until the service answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from heliograph.model.backoff import Backoff
from heliograph.model.errors import HeliographError, TooMany, Unavailable

T = TypeVar("T")


async def insist(ask: Callable[[], Awaitable[T]], on_retry: Callable[[HeliographError, float], object]) -> T:
    """Ask without end while the service is away or asks to come again; callers put a cancel scope around it.

    Under Trio and under asyncio alike.

    Args:
        ask: One try; it must be harmless to try again.
        on_retry: Told of each failed try, and of the seconds until the next.

    Raises:
        ClientFault: The service refuses; trying again would not help.
    """
    backoff = Backoff()
    while True:
        try:
            return await ask()
        except (Unavailable, TooMany) as error:
            delay = backoff.next(error)
            on_retry(error, delay)
        await anyio.sleep(delay)
