"""Analytics in the dashboard's form: four numbers, and parallel lists."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated
from zoneinfo import ZoneInfo

import attrs

from heliograph.actors.aside import aside
from heliograph.actors.figures import Figures, Question
from heliograph.http.api.endpoint import DASHBOARD, Described, Endpoint, of_view
from heliograph.http.api.routes import analytics
from heliograph.http.api.services import Services
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.parameters import Text, Whole, Word, query
from heliograph.http.rules.schema import says
from heliograph.model.analytics.cube import ALL, ALL_TIME, View
from heliograph.model.analytics.rollup import UNKNOWN, slot_of
from heliograph.model.analytics.timeline import Bucket, about_buckets, buckets, make_range, parse_zone
from heliograph.model.analytics.totals import Totals, unpack
from heliograph.model.channels import ANALYTICS
from heliograph.model.errors import Invalid, Unavailable

EVERYTHING = View()
UTC_ZONE = ZoneInfo("UTC")
FORMS = {"day": "%Y-%m-%d", "hour": "%Y-%m-%d %H:00:00"}
"""The format of a bucket's name; the page puts a Z behind it."""


@attrs.frozen
class Today:
    """The bucket in which today begins."""

    tz: str = query(Text(example="Europe/Berlin"), "An IANA time zone.", default="UTC")


@attrs.frozen
class DashboardSummary:
    """Sums of today and of all time."""

    today_cost: float
    today_tasks: int
    total_cost: float
    total_tasks: int


async def overview(services: Services, who: Identity, asked: Today) -> DashboardSummary:
    """Count tasks, and add up their cost, today and ever."""
    midnight = datetime.now(parse_zone(asked.tz)).replace(hour=0, minute=0, second=0, microsecond=0)
    spans = [(slot_of(midnight.astimezone(UTC)), ALL_TIME[1]), ALL_TIME]
    today, ever = _totals(await _ask(services, EVERYTHING, spans))
    return DashboardSummary(_dollars(today), today.created, _dollars(ever), ever.created)


@attrs.frozen
class Days:
    """The period, in days."""

    days: int = query(Whole(1, 365), "Days before now.", default=30)


@attrs.frozen
class DaysOrHours(Days):
    """The period in days, and the size of its buckets."""

    granularity: str = query(Word(tuple(FORMS)), "The pieces.", default="day")


@attrs.frozen
class DashboardHistogram:
    """Parallel lists, with an entry for each piece that has any tasks."""

    dates: Annotated[Sequence[str], says("The beginning of each, in UTC.")]
    costs: Sequence[float]
    task_counts: Sequence[int]
    tokens: Sequence[int]
    avg_latency: Annotated[Sequence[float], says("Mean durations in milliseconds; 0 where none has ended.")]
    error_counts: Sequence[int]


async def histogram(services: Services, who: Identity, asked: DaysOrHours) -> DashboardHistogram:
    """Add up cost and tasks, piece by piece."""
    now = datetime.now(UTC)
    span = make_range(now - timedelta(days=asked.days), now)
    long = about_buckets(span, asked.granularity) > analytics.AT_ONCE
    cut = await aside(long, partial(buckets, span, asked.granularity, UTC_ZONE))
    figures = await _ask(services, EVERYTHING, [(one.first, one.last) for one in cut])
    return await aside(long, partial(_shown, cut, figures, FORMS[asked.granularity]))


def _shown(cut: Sequence[Bucket], figures: Figures, form: str) -> DashboardHistogram:
    filled = [
        (datetime.fromisoformat(bucket.start).strftime(form), totals)
        for bucket, totals in zip(cut, _totals(figures), strict=True)
        if totals.created or totals.finished
    ]
    everything = [totals for _, totals in filled]
    return DashboardHistogram(
        dates=[date for date, _ in filled],
        costs=[_dollars(totals) for totals in everything],
        task_counts=[totals.created for totals in everything],
        tokens=[totals.input_tokens + totals.output_tokens for totals in everything],
        avg_latency=[totals.duration_ms / totals.finished if totals.finished else 0 for totals in everything],
        error_counts=[totals.failed for totals in everything],
    )


@attrs.frozen
class CostsByAgent:
    """Parallel lists of agents, the dearest first."""

    subagents: Sequence[str]
    costs: Sequence[float]
    task_counts: Sequence[int]


async def costs_by_subagent(services: Services, who: Identity, asked: Days) -> CostsByAgent:
    """Add up the cost of each agent."""
    now = datetime.now(UTC)
    span = make_range(now - timedelta(days=asked.days), now)
    figures = await _ask(services, View("agent"), [(span.first, span.last)])
    ((sums,),) = figures.sums
    agents = [(name, unpack(value)) for name, value in sums.items() if value and name != UNKNOWN]
    agents.sort(key=_dearest)
    return CostsByAgent(
        [name for name, _ in agents],
        [_dollars(totals) for _, totals in agents],
        [totals.created for _, totals in agents],
    )


def _dearest(agent: tuple[str, Totals]) -> tuple[float, str]:
    return -_dollars(agent[1]), agent[0]


async def _ask(services: Services, view: View, spans: Sequence[tuple[int, int]]) -> Figures:
    return await services.histogram.ask([Question(view, spans)], services.log.position)


def _totals(figures: Figures) -> list[Totals]:
    (groups,) = figures.sums
    return [unpack(sums.get(ALL, 0)) for sums in groups]


def _dollars(totals: Totals) -> float:
    return totals.cost_nanos / 10**9


def _read_analytics(asked: object) -> tuple[str, ...]:
    return (ANALYTICS,)


_REFUSES = (Invalid, Unavailable)

ENDPOINTS = [
    Endpoint(
        "GET",
        "/api/analytics/summary",
        overview,
        DASHBOARD,
        Described("Today and ever."),
        channels=_read_analytics,
        refuses=_REFUSES,
        example=DashboardSummary(0.05, 1, 12.5, 310),
    ),
    Endpoint(
        "GET",
        "/api/analytics/costs/histogram",
        histogram,
        DASHBOARD,
        Described("The pieces that have any tasks."),
        channels=_read_analytics,
        refuses=_REFUSES,
        example=DashboardHistogram(["2026-01-31"], [0.05], [1], [1500], [2000.0], [0]),
    ),
    Endpoint(
        "GET",
        "/api/analytics/costs/by-subagent",
        costs_by_subagent,
        DASHBOARD,
        Described("The agents that have any tasks."),
        channels=_read_analytics,
        refuses=_REFUSES,
        example=CostsByAgent(["planner"], [0.05], [1]),
    ),
    of_view(analytics.ENDPOINTS, analytics.performance).in_dashboard(
        "/api/analytics/performance", "As of one moment, as JSON or, with X-Stream-Cursor, as CSV."
    ),
]
