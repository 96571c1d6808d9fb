"""Questions to the histogram aggregator, its answers, and its own figures."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from heliograph.model.analytics.cube import View
from heliograph.model.ids import EventId

MAX_GROUPS = 200
"""The most groups in an answer, since publishers choose the names of agents, models and errors."""


@attrs.frozen
class HistogramStats:
    """The contents and the work of the aggregator.

    Args:
        position: Id of the newest event folded.
        cursor: Id of the delta that answers include last.
        pending: Changes since that delta.
        cells: Places with sums.
        views: Views with cached sums.
        kept_bytes: Bytes of these cached sums.
        active: Tasks that are not finished.
        events: Events folded.
        published: Deltas and resets published by this node.
        looked_up: Finished tasks that the store was asked for.
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
    """A question for sums by group, over one or several spans of time.

    Args:
        view: The part of each cell that counts.
        spans: The spans, as pairs of the first slot and the slot after the last.
        most: The most groups; the smallest ones beyond are summed up as ``OTHER``. ``None``: all groups, for
            callers that page through them.
    """

    view: View
    spans: Sequence[tuple[int, int]]
    most: int | None = MAX_GROUPS


@attrs.frozen
class Figures:
    """The answers to some questions, all as of one delta.

    Args:
        cursor: Id of the delta; the stream after it continues these numbers.
        sums: The sums by group, for each span of each question.
    """

    cursor: EventId
    sums: Sequence[Sequence[dict[str, int]]]
