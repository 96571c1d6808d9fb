"""Retrying until it works: how an actor waits out an expected outage.

The log or the store is away for a while, and comes back. The actor that needs it retries, with capped and
jittered delays, and logs twice: when the outage begins, and when it is over. Other errors are bugs and pass
through.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
import trio

from heliograph.model.backoff import Backoff
from heliograph.model.errors import Unavailable

FIRST_SECONDS = 0.05
LONGEST_SECONDS = 1.0
"""The longest delay; it is short, since watchers wait while a node is late to come back."""

log = structlog.get_logger(__name__)

T = TypeVar("T")


async def until_it_works(
    call: Callable[[], Awaitable[T]], doing: str, on_outage: Callable[[Unavailable], object] | None = None
) -> T:
    """Call until the answer is not ``Unavailable``; return it.

    Args:
        call: The call to try; it must be harmless to repeat.
        doing: The work that is interrupted, such as ``following``; log lines say ``not following`` and
            ``following``.
        on_outage: Called with the error of each failed try.

    Raises:
        Exception: Anything else that ``call`` raises.
    """
    backoff: Backoff | None = None
    while True:
        try:
            answer = await call()
        except Unavailable as error:
            if backoff is None:
                log.warning(f"not {doing}", reason=str(error))
                backoff = Backoff(FIRST_SECONDS, LONGEST_SECONDS)
            if on_outage is not None:
                on_outage(error)
            # The error's own delay is meant for clients; here it would hold up all work that waits.
            await trio.sleep(backoff.next())
        else:
            if backoff is not None:
                log.info(doing)
            return answer
