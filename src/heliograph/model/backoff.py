"""The delays before a failed call is retried.

Delays double up to a cap, so that a peer that is away for long is not called too often. Each is jittered, so
that callers that failed together do not come back together.
"""

from __future__ import annotations

import random

import attrs

from heliograph.model.errors import HeliographError, TooMany, Unavailable


@attrs.define
class Backoff:
    """The delays of one series of tries.

    Args:
        first: The first delay in seconds, before the jitter.
        cap: The longest delay in seconds, before the jitter.
    """

    first: float = 0.1
    cap: float = 10.0
    _last: float = attrs.field(init=False, default=0.0)

    def next(self, error: HeliographError | None = None) -> float:
        """Return the next delay in seconds.

        Args:
            error: The reason for waiting; its ``retry_after`` is the least delay.
        """
        self._last = min(self.cap, self._last * 2 or self.first)
        asked = error.retry_after if isinstance(error, Unavailable | TooMany) else 0.0
        return max(self._last * random.uniform(0.5, 1.0), asked * random.uniform(1.0, 1.25))

    def reset(self) -> None:
        """Begin again at the first delay, after a success."""
        self._last = 0.0
