"""Counts of requests by endpoint: their statuses and durations."""

from __future__ import annotations

from collections import Counter

import attrs

from heliograph.model.durations import Durations


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
        durations.add(seconds)
