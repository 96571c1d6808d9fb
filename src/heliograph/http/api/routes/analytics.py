"""Analytics: sums and percentiles over any range, in any time zone, by any dimension.

Every endpoint takes the same parameters and answers from the aggregator's memory, as of one moment:
``meta.stream_cursor`` is where the channel ``analytics`` goes on from exactly these numbers. It checks all
parameters and ignores those that it has no use for. Answers are JSON, or CSV by ``Accept: text/csv``.

A long module, since the endpoints share their parameters, their question and their tables; the measures are
in ``measures``.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import attrs

from heliograph.actors.aside import aside
from heliograph.actors.figures import Figures, Question
from heliograph.http.api import samples
from heliograph.http.api.endpoint import Described, Endpoint
from heliograph.http.api.routes.measures import (
    Change,
    CostBucket,
    CostMeasures,
    CostsHistogram,
    HistogramMeta,
    Measures,
    Percentiles,
    Performance,
    PerformanceMeasures,
    PeriodMeta,
    Summary,
    SummaryMeasures,
    TaskBucket,
    TaskMeasures,
    TasksHistogram,
    TokenBucket,
    TokenMeasures,
    TokensHistogram,
    measure,
    names_of,
    show,
)
from heliograph.http.api.services import Services
from heliograph.http.rules.answer import Answer
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.bodies import JSON
from heliograph.http.rules.parameters import Media, Text, Texts, Word, Words, header, query
from heliograph.http.rules.schema import TEXT, described
from heliograph.http.rules.shapes import plain, write
from heliograph.model.analytics import sketch
from heliograph.model.analytics.cube import ALL, ALL_TIME, ERRORS, View
from heliograph.model.analytics.rollup import DIMENSIONS, dimension, slot_start
from heliograph.model.analytics.timeline import (
    GRANULARITIES,
    MAX_BUCKETS,
    TIME_HELP,
    Bucket,
    Range,
    about_buckets,
    buckets,
    make_range,
    parse_moment,
    parse_zone,
)
from heliograph.model.analytics.totals import Totals, above, pack, unpack
from heliograph.model.channels import ANALYTICS
from heliograph.model.errors import Invalid, Unavailable
from heliograph.model.ids import EventId, format_id
from heliograph.model.task import STATUSES, TERMINAL

CSV = "text/csv"
MAX_SUMS = 50_000
"""The most buckets times groups in one answer."""

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Spreadsheets read text that begins with one of these, four of them in full width, as a formula."""

AT_ONCE = 250
"""The most buckets and groups that are shown without a thread; that many take a few milliseconds."""

T = TypeVar("T")

MOMENT = f"{TIME_HELP[0].upper()}{TIME_HELP[1:]}."
ONLY = "Only these; repeatable."
SUMMARY_GROUPS = ("model", "agent_type")
PERFORMANCE_GROUPS = ("agent", "agent_type", "model")
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


@attrs.frozen
class Period:
    """The period, its buckets and groups, and the filters of tasks."""

    from_: str = query(Text(), MOMENT, default="-24h", name="from")
    to: str = query(Text(), MOMENT, default="now")
    tz: str = query(Text(example="Europe/Berlin"), "An IANA time zone.", default="UTC")
    granularity: str = query(
        Word(GRANULARITIES), f"Of the buckets, of which there may be {MAX_BUCKETS}.", default="hour"
    )
    group_by: str | None = query(Word(DIMENSIONS), "Show the groups of this, too.")
    agent_type: tuple[str, ...] = query(Texts(), ONLY, default=())
    agent: tuple[str, ...] = query(Texts(), ONLY, default=())
    model: tuple[str, ...] = query(Texts(), ONLY, default=())
    status: tuple[str, ...] = query(Words(STATUSES), ONLY, default=())
    form: str = header("Accept", Media((JSON, CSV)), "JSON or a table.", default=JSON)

    def range(self) -> Range:
        """Return the period in whole slots.

        Raises:
            Invalid: The parameters don't make a period.
        """
        zone = parse_zone(self.tz)
        now = datetime.now(UTC)
        end = parse_moment(self.to, now, zone, "to")
        return make_range(parse_moment(self.from_, now, zone, "from"), end)

    def view(self, group_by: str | None, *, durations: bool = False) -> View:
        """Return the view with these filters, grouped by ``group_by``."""
        given = {
            "agent_type": map(dimension, self.agent_type),
            "agent": map(dimension, self.agent),
            "model": map(dimension, self.model),
            "status": self.status,
        }
        filters = tuple(frozenset(given[name]) or None for name in DIMENSIONS)
        return View(group_by, filters, durations)

    def meta(self, span: Range, cursor: EventId) -> PeriodMeta:
        """Return the period of an answer."""
        zone = parse_zone(self.tz)
        return PeriodMeta(
            from_=slot_start(span.first).astimezone(zone).isoformat(),
            to=slot_start(span.last).astimezone(zone).isoformat(),
            tz=zone.key,
            stream_cursor=cursor,
        )


async def summary(services: Services, who: Identity, asked: Period) -> Summary | Answer:
    """Sum up a period, compare it with the one before it, and count the tasks that are active now."""
    span = asked.range()
    now, before = _slots(span), _slots(span.previous)
    groupings = _groupings(*SUMMARY_GROUPS, asked.group_by)
    answer = await _ask(
        services,
        Question(asked.view("status"), [ALL_TIME]),
        Question(asked.view(None), [now, before]),
        *(Question(asked.view(name), [now]) for name in groupings),
    )
    return await _shown(answer, partial(_show_summary, asked, span, groupings, answer))


def _show_summary(asked: Period, span: Range, groupings: Sequence[str], answer: Figures) -> Summary | Answer:
    (by_status,), (these, those), *grouped = answer.sums
    active = [unpack(value).created for status, value in by_status.items() if status not in TERMINAL]
    groups = {
        f"by_{name}": {group: show(value, SummaryMeasures) for group, value in _nonzero(sums)}
        for name, (sums,) in zip(groupings, grouped, strict=True)
    }
    totals, previous = these.get(ALL, 0), show(those.get(ALL, 0), SummaryMeasures)
    if asked.form == CSV:
        rows = [_row("", "", show(totals, SummaryMeasures)), _row("previous", "", previous)]
        return _csv(("by", "group", *names_of(SummaryMeasures)), rows + _group_rows(groups), answer.cursor)
    changes = {
        field.name: _change(getattr(previous, field.name), measure(totals, [field.name])[field.name])
        for field in attrs.fields(Change)
    }
    return show(
        totals,
        Summary,
        active_tasks=sum(active),
        **groups,
        previous=previous,
        change=Change(**changes),
        meta=asked.meta(span, answer.cursor),
    )


async def costs_histogram(services: Services, who: Identity, asked: Period) -> CostsHistogram | Answer:
    """Add up costs, bucket by bucket."""
    return await _histogram(services, asked, CostMeasures, CostBucket, CostsHistogram)


async def tasks_histogram(services: Services, who: Identity, asked: Period) -> TasksHistogram | Answer:
    """Count created tasks and their outcomes, bucket by bucket."""
    return await _histogram(services, asked, TaskMeasures, TaskBucket, TasksHistogram)


async def tokens_histogram(services: Services, who: Identity, asked: Period) -> TokensHistogram | Answer:
    """Add up input and output tokens, bucket by bucket."""
    return await _histogram(services, asked, TokenMeasures, TokenBucket, TokensHistogram)


async def performance(services: Services, who: Identity, asked: Period) -> Performance | Answer:
    """Give durations, success rates and failures of tasks, by agent, agent type and model."""
    span = asked.range()
    slots = [_slots(span)]
    groupings = _groupings(*PERFORMANCE_GROUPS, asked.group_by)
    answer = await _ask(
        services,
        Question(asked.view(None, durations=True), slots),
        *(Question(asked.view(name, durations=True), slots) for name in groupings),
        Question(asked.view(ERRORS), slots),
    )
    return await _shown(answer, partial(_show_performance, asked, span, groupings, answer))


def _show_performance(
    asked: Period, span: Range, groupings: Sequence[str], answer: Figures
) -> Performance | Answer:
    (overall,), *grouped, (errors,) = answer.sums
    everything = overall.get(ALL, 0)
    groups = {
        f"by_{name}": {group: _perform(value) for group, value in _nonzero(sums)}
        for name, (sums,) in zip(groupings, grouped, strict=True)
    }
    failures = sorted(((kind, unpack(value).failed) for kind, value in _nonzero(errors)), key=_by_count)
    if asked.form == CSV:
        rows = [_row("", "", _perform(everything)), *_group_rows(groups)]
        columns = [name for name in rows[0] if name not in {"by", "group"}]
        rows += [{"by": ERRORS, "group": kind, "failed": count} for kind, count in failures]
        return _csv(("by", "group", *columns), rows, answer.cursor)
    return show(
        everything,
        Performance,
        duration_ms=_quantiles(everything),
        **groups,
        failures=dict(failures),
        meta=asked.meta(span, answer.cursor),
    )


async def _histogram(
    services: Services,
    asked: Period,
    measures: type[Measures],
    bucket: type,
    histogram: Callable[..., object],
) -> Answer:
    span = asked.range()
    long = about_buckets(span, asked.granularity) > AT_ONCE
    cut = await aside(long, partial(buckets, span, asked.granularity, parse_zone(asked.tz)))
    spans = [(one.first, one.last) for one in cut]
    questions = [Question(asked.view(None), spans)]
    if asked.group_by is not None:
        questions.append(Question(asked.view(asked.group_by), spans))
    answer = await _ask(services, *questions)

    def show_histogram() -> Answer:
        grouped = answer.sums[1] if asked.group_by is not None else ()
        groups = sorted({group for sums in grouped for group, value in sums.items() if value})
        if len(groups) * len(cut) > MAX_SUMS:
            raise Invalid.field(
                "group_by",
                f"{len(groups)} groups in {len(cut)} buckets would make more than {MAX_SUMS} sums; filter by "
                f"{' or '.join(DIMENSIONS)}, or take a coarser granularity or a shorter range",
            )
        filled = _show_buckets(cut, answer, measures, bucket)
        if asked.form == CSV:
            group = ["group"] if asked.group_by else []
            columns = ("start", "end", "utc_offset", *group, *names_of(measures))
            return _csv(columns, _bucket_rows(filled), answer.cursor)
        meta = HistogramMeta(
            **attrs.asdict(asked.meta(span, answer.cursor), recurse=False),
            granularity=asked.granularity,
            group_by=asked.group_by,
            groups=groups,
        )
        return Answer(200, write(histogram(filled, meta)))

    return await _shown(answer, show_histogram)


def _show_buckets(cut: Sequence[Bucket], answer: Figures, measures: type[Measures], made: type) -> list[Any]:
    sums, *grouped = answer.sums
    shown: list[Any] = []
    for position, bucket in enumerate(cut):
        groups = None
        for all_groups in grouped:
            groups = {group: show(value, measures) for group, value in _nonzero(all_groups[position])}
        shown.append(
            show(
                sums[position].get(ALL, 0),
                made,
                start=bucket.start,
                end=bucket.end,
                utc_offset=bucket.utc_offset,
                groups=groups,
            )
        )
    return shown


async def _shown(answer: Figures, show: Callable[[], T]) -> T:
    """Return what ``show`` makes of an answer, in a thread if that takes long."""
    return await aside(sum(1 + len(groups) for sums in answer.sums for groups in sums) > AT_ONCE, show)


async def _ask(services: Services, *questions: Question) -> Figures:
    return await services.histogram.ask(questions, services.log.position)


def _slots(span: Range) -> tuple[int, int]:
    return span.first, span.last


def _groupings(*names: str | None) -> list[str]:
    return list(dict.fromkeys(name for name in names if name is not None))


def _nonzero(sums: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted((group, value) for group, value in sums.items() if value)


def _perform(value: int) -> PerformanceMeasures:
    return show(value, PerformanceMeasures, duration_ms=_quantiles(value))


def _quantiles(value: int) -> Percentiles:
    found = sketch.quantiles(above(value), tuple(QUANTILES.values()))
    return Percentiles(*found) if found else Percentiles(None, None, None, None)


def _by_count(failures: tuple[str, int]) -> tuple[int, str]:
    return -failures[1], failures[0]


def _change(before: float | None, now: float | None) -> float | None:
    """Return the relative change of a number; ``None`` if there is nothing to compare with."""
    return (now - before) / before if before and now is not None else None


# Tables


def _row(by: str, group: str, measures: Measures) -> dict[str, Any]:
    """Return measures as the row of a table."""
    row = plain(measures)
    durations = row.pop("duration_ms", {})
    return {
        "by": by,
        "group": group,
        **row,
        **{f"duration_ms_{name}": one for name, one in durations.items()},
    }


def _group_rows(groups: Mapping[str, Mapping[str, Measures]]) -> list[dict[str, Any]]:
    return [
        _row(by.removeprefix("by_"), group, measures)
        for by, shown in groups.items()
        for group, measures in shown.items()
    ]


def _bucket_rows(shown: Sequence[Any]) -> list[dict[str, Any]]:
    """Return one row for each bucket, or for each group of each bucket."""
    rows: list[dict[str, Any]] = []
    for bucket in map(plain, shown):
        times = {name: bucket[name] for name in ("start", "end", "utc_offset")}
        groups = bucket.get("groups")
        if groups is None:
            rows.append(bucket)
        else:
            rows += [{**times, "group": group, **measures} for group, measures in groups.items()]
    return rows


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], cursor: EventId) -> Answer:
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(map(_harmless, rows))
    headers = {"X-Stream-Cursor": format_id(cursor)}
    return Answer(200, table.getvalue().encode(), "text/csv; charset=utf-8", headers)


def _harmless(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Keep spreadsheets from running a publisher's name of an agent, a model or an error as a formula."""
    group = row.get("group", "")
    return {**row, "group": f"'{group}"} if group.startswith(FORMULA_STARTS) else row


# Declarations

_SUMS = pack(
    Totals(
        created=1,
        finished=1,
        succeeded=1,
        cost_nanos=50_000_000,
        input_tokens=1200,
        output_tokens=300,
        duration_ms=2000,
    )
)
_META = PeriodMeta("2026-01-31T00:00:00+01:00", "2026-02-01T00:00:00+01:00", "Europe/Berlin", samples.HEAD)
_PERFORMED = show(_SUMS, PerformanceMeasures, duration_ms=Percentiles(2000.0, 2000.0, 2000.0, 2000.0))


def _example(histogram: Callable[..., Any], bucket: type, measures: type) -> Any:
    groups: Mapping[str, Any] = {"sonnet": show(_SUMS, measures)}
    times = {"start": _META.from_, "end": _META.to, "utc_offset": "+01:00"}
    meta = HistogramMeta(
        **attrs.asdict(_META, recurse=False), granularity="day", group_by="model", groups=["sonnet"]
    )
    return histogram([show(_SUMS, bucket, **times, groups=groups)], meta)


EXAMPLES = {
    summary: show(
        _SUMS,
        Summary,
        active_tasks=0,
        by_model={"sonnet": show(_SUMS, SummaryMeasures)},
        by_agent_type={"unknown": show(_SUMS, SummaryMeasures)},
        previous=show(0, SummaryMeasures),
        change=Change(*[None] * len(attrs.fields(Change))),
        meta=_META,
    ),
    performance: show(
        _SUMS,
        Performance,
        duration_ms=_PERFORMED.duration_ms,
        by_agent={"planner": _PERFORMED},
        by_agent_type={"unknown": _PERFORMED},
        by_model={"sonnet": _PERFORMED},
        failures={"TimeoutError": 2},
        meta=_META,
    ),
    costs_histogram: _example(CostsHistogram, CostBucket, CostMeasures),
    tasks_histogram: _example(TasksHistogram, TaskBucket, TaskMeasures),
    tokens_histogram: _example(TokensHistogram, TokenBucket, TokenMeasures),
}
PATHS = {
    "/api/v1/analytics/summary": summary,
    "/api/v1/analytics/costs/histogram": costs_histogram,
    "/api/v1/analytics/tasks/histogram": tasks_histogram,
    "/api/v1/analytics/tokens/histogram": tokens_histogram,
    "/api/v1/analytics/performance": performance,
}

ENDPOINTS = [
    Endpoint(
        "GET",
        path,
        view,
        "analytics",
        Described(
            "As of one moment, as JSON or, with X-Stream-Cursor, as CSV.",
            media={CSV: {"schema": described(TEXT, "The same as a table.")}},
            headers=["X-Stream-Cursor"],
        ),
        channels=lambda asked: (ANALYTICS,),
        refuses=(Invalid, Unavailable),
        example=EXAMPLES[view],
    )
    for path, view in PATHS.items()
]
