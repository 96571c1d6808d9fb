"""Measures of sums, and the classes of answers with measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Annotated, Any, TypeVar

import attrs

from heliograph.http.api.shared import StreamCursor
from heliograph.http.rules.schema import says
from heliograph.model.analytics.rollup import DIMENSIONS
from heliograph.model.analytics.timeline import GRANULARITIES
from heliograph.model.analytics.totals import Totals, unpack

MEASURED: Mapping[str, Callable[[Totals], float | None]] = {
    **{name: attrgetter(name) for name in Totals._fields},
    "tasks": lambda t: t.finished,
    "cancelled": lambda t: t.finished - t.succeeded - t.failed,
    "cost_usd": lambda t: t.cost_nanos / 10**9,
    "total_tokens": lambda t: t.input_tokens + t.output_tokens,
    "success_rate": lambda t: t.succeeded / t.finished if t.finished else None,
    "average_tokens": lambda t: (t.input_tokens + t.output_tokens) / t.finished if t.finished else None,
    "average_cost_usd": lambda t: t.cost_nanos / t.finished / 10**9 if t.finished else None,
    "average_duration_ms": lambda t: t.duration_ms / t.finished if t.finished else None,
}
"""The measures that follow from sums; averages are of finished tasks."""

IsoTime = Annotated[str, says(format="date-time")]
Count = Annotated[int, says(minimum=0)]


@attrs.frozen
class Measures:
    """Measures that every histogram has."""

    cost_usd: float
    tasks: int
    succeeded: int
    failed: int
    input_tokens: int
    output_tokens: int


@attrs.frozen
class CostMeasures(Measures):
    """Measures of cost."""

    cost_nanos: int
    costs_computed: int
    costs_unknown: int


@attrs.frozen
class TaskMeasures(Measures):
    """Measures of how tasks ended."""

    created: int
    cancelled: int
    success_rate: float | None


@attrs.frozen
class TokenMeasures(Measures):
    """Measures of tokens."""

    total_tokens: int


@attrs.frozen
class SummaryMeasures(Measures):
    """All measures but durations."""

    cost_nanos: int
    costs_computed: int
    costs_unknown: int
    created: int
    cancelled: int
    success_rate: float | None
    total_tokens: int
    average_tokens: float | None
    average_cost_usd: float | None
    average_duration_ms: float | None


def names_of(cls: type) -> tuple[str, ...]:
    """Return the names of the measures among a class's fields."""
    return tuple(field.name for field in attrs.fields(cls) if field.name in MEASURED)


def measure(value: int, names: Iterable[str]) -> dict[str, Any]:
    """Return some measures of packed sums by name."""
    totals = unpack(value)
    return {name: MEASURED[name](totals) for name in names}


M = TypeVar("M")


def show(value: int, cls: type[M], **more: Any) -> M:
    """Make a value of a class of measures from packed sums; ``more`` are its other fields."""
    return cls(**measure(value, [name for name in names_of(cls) if name not in more]), **more)


@attrs.frozen
class PeriodMeta:
    """The period of an answer, in whole slots, and the answer's position in the log."""

    from_: IsoTime
    to: IsoTime
    tz: str
    stream_cursor: StreamCursor


@attrs.frozen
class HistogramMeta(PeriodMeta):
    """The period of a histogram, and its buckets."""

    granularity: Annotated[str, says(enum=GRANULARITIES)]
    group_by: Annotated[str, says(enum=DIMENSIONS)] | None
    groups: Sequence[str]


@attrs.frozen
class Change:
    """The change of each measure, as a share of the previous value; null where there was none."""

    cost_usd: float | None
    tasks: float | None
    created: float | None
    succeeded: float | None
    failed: float | None
    total_tokens: float | None
    success_rate: float | None


@attrs.frozen(kw_only=True)
class Summary(SummaryMeasures):
    """Sums over a period."""

    active_tasks: Annotated[
        int, says("The tasks that are not finished now, whenever they were created.", minimum=0)
    ]
    by_model: Mapping[str, SummaryMeasures]
    by_agent_type: Mapping[str, SummaryMeasures]
    by_agent: Mapping[str, SummaryMeasures] | None = None
    by_status: Mapping[str, SummaryMeasures] | None = None
    previous: Annotated[SummaryMeasures, says("The period of equal length before this one.")]
    change: Change
    meta: PeriodMeta


@attrs.frozen
class Percentiles:
    """Quantiles of durations, in milliseconds."""

    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None


@attrs.frozen(kw_only=True)
class PerformanceMeasures(SummaryMeasures):
    """All measures."""

    duration_ms: Percentiles


@attrs.frozen(kw_only=True)
class Performance(PerformanceMeasures):
    """Durations of tasks, their success and the kinds of their failures."""

    by_agent: Mapping[str, PerformanceMeasures]
    by_agent_type: Mapping[str, PerformanceMeasures]
    by_model: Mapping[str, PerformanceMeasures]
    by_status: Mapping[str, PerformanceMeasures] | None = None
    failures: Annotated[Mapping[str, Count], says("Failed tasks by kind of error, most frequent first.")]
    meta: PeriodMeta


@attrs.frozen(kw_only=True, slots=False)
class BucketBounds:
    """The bounds of a bucket; without ``__slots__``, since a class can't have two bases with slots."""

    start: IsoTime
    end: IsoTime
    utc_offset: str


@attrs.frozen(kw_only=True)
class CostBucket(BucketBounds, CostMeasures):
    """A bucket of the period; with group_by, ``groups`` has those groups that have any tasks here."""

    groups: Mapping[str, CostMeasures] | None = None


@attrs.frozen(kw_only=True)
class TaskBucket(BucketBounds, TaskMeasures):
    """A bucket of the period; with group_by, ``groups`` has those groups that have any tasks here."""

    groups: Mapping[str, TaskMeasures] | None = None


@attrs.frozen(kw_only=True)
class TokenBucket(BucketBounds, TokenMeasures):
    """A bucket of the period; with group_by, ``groups`` has those groups that have any tasks here."""

    groups: Mapping[str, TokenMeasures] | None = None


@attrs.frozen
class CostsHistogram:
    """Costs, bucket by bucket."""

    buckets: Sequence[CostBucket]
    meta: HistogramMeta


@attrs.frozen
class TasksHistogram:
    """Tasks, bucket by bucket."""

    buckets: Sequence[TaskBucket]
    meta: HistogramMeta


@attrs.frozen
class TokensHistogram:
    """Tokens, bucket by bucket."""

    buckets: Sequence[TokenBucket]
    meta: HistogramMeta
