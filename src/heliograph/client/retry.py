"""Retrying until the service answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from heliograph.model.backoff import Backoff
from heliograph.model.errors import HeliographError, TooMany, Unavailable

T = TypeVar("T")


async def insist(ask: Callable[[], Awaitable[T]], on_retry: Callable[[HeliographError, float], object]) -> T:
    """Retry for ever while the service is away or asks for a retry; callers put a cancel scope around it.

    It runs under Trio and under asyncio.

    Args:
        ask: One try; it must be harmless to repeat.
        on_retry: Called with the error of each failed try, and the seconds until the next.

    Raises:
        ClientFault: The service refuses; a retry would not help.
    """
    backoff = Backoff()
    while True:
        try:
            return await ask()
        except (Unavailable, TooMany) as error:
            delay = backoff.next(error)
            on_retry(error, delay)
        await anyio.sleep(delay)
