"""Counts of requests by endpoint: how they were answered, and how long that took."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

import attrs

BOUNDS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5)
"""Upper bounds of durations in seconds; there is one more for all that is longer."""


@attrs.define
class Durations:
    """A histogram of durations: a count for each of ``BOUNDS``, and the seconds in all."""

    counts: list[int] = attrs.field(factory=lambda: [0] * (len(BOUNDS) + 1))
    seconds: float = 0.0


@attrs.define
class RequestCounts:
    """Requests by method, path (as it is declared) and status, and their durations by method and path."""

    answered: Counter[tuple[str, str, int]] = attrs.field(factory=Counter)
    durations: dict[tuple[str, str], Durations] = attrs.field(factory=dict)

    def add(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count one request."""
        self.answered[method, path, status] += 1
        durations = self.durations.get((method, path))
        if durations is None:
            durations = self.durations[method, path] = Durations()
        durations.counts[bisect_left(BOUNDS, seconds)] += 1
        durations.seconds += seconds
