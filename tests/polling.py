"""Waiting for what nobody announces: conditions in other processes and databases, with a deadline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

INTERVAL = 0.005


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 90.0) -> None:
    """Wait until a condition holds.

    Raises:
        trio.TooSlowError: It does not within so many seconds.
    """
    with trio.fail_after(seconds):
        while not await condition():  # noqa: ASYNC110 - there is no event to wait for
            await trio.sleep(INTERVAL)
