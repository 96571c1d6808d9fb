"""Questions to the histogram aggregator, its answers, and its own figures."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from heliograph.model.analytics.cube import View
from heliograph.model.ids import EventId

MAX_GROUPS = 200
"""Groups in an answer; publishers choose the names of agents, models and errors."""


@attrs.frozen
class HistogramStats:
    """The contents and the work of the aggregator.

    Args:
        position: Id of the newest event folded.
        cursor: Id of the delta that answers stand on.
        pending: Changes since.
        cells: Places with sums.
        views: Views with sums kept.
        kept_bytes: Sums kept for views.
        active: Tasks that are not finished.
        events: Events folded.
        published: Deltas and resets published by this node.
        looked_up: Finished tasks that had to be asked for.
        loads: The number of times that the rollups were loaded.
        backlog: Batches waiting now.
    """

    position: EventId
    cursor: EventId
    pending: int
    cells: int
    views: int
    kept_bytes: int
    active: int
    events: int
    published: int
    looked_up: int
    loads: int
    backlog: int


@attrs.frozen
class Question:
    """Sums by group, of one or several stretches of time.

    Args:
        view: The part of each cell that counts.
        spans: Pairs of first slot and slot after the last.
        most: The most groups; the least of more are summed up as ``OTHER``. ``None``: all, for
            those who page through them.
    """

    view: View
    spans: Sequence[tuple[int, int]]
    most: int | None = MAX_GROUPS


@attrs.frozen
class Figures:
    """The answers to some questions, all as of one delta.

    Args:
        cursor: The delta: the stream after it continues these numbers.
        sums: The sums by group, for each span of each question.
    """

    cursor: EventId
    sums: Sequence[Sequence[dict[str, int]]]
