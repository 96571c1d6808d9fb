"""How long to wait before trying again what is away: capped, and jittered so that nodes spread out."""

from __future__ import annotations

import random

import attrs


@attrs.define
class Backoff:
    """Delays in seconds that double up to a cap, each one somewhere in its upper half."""

    first: float = 0.05
    cap: float = 1.0
    _next: float = attrs.field(init=False, default=0.0)

    def delay(self) -> float:
        """Return the next delay."""
        self._next = min(self.cap, self._next * 2 or self.first)
        return self._next * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Begin again at the first delay: it went well."""
        self._next = 0.0
