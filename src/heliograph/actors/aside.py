"""Long work on values, done beside the event loop so that it holds up nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")


async def aside(long: bool, work: Callable[[], T]) -> T:
    """Return the result of ``work``, which is done in a thread if it is ``long``.

    A thread costs a fifth of a millisecond. Its work takes as long as here, but every few milliseconds the
    interpreter gives all others a turn.
    """
    return await trio.to_thread.run_sync(work) if long else work()
