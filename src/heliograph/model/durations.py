"""Durations, counted by upper bounds, as for a histogram of Prometheus."""

from __future__ import annotations

from bisect import bisect_left

import attrs

BOUNDS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5)
"""Upper bounds of durations in seconds; longer ones have a count of their own."""


@attrs.define
class Durations:
    """Counts of durations by ``BOUNDS``, and their sum in seconds."""

    counts: list[int] = attrs.field(factory=lambda: [0] * (len(BOUNDS) + 1))
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    def copy(self) -> Durations:
        """Return the counts as they are now."""
        return Durations([*self.counts], self.seconds)
