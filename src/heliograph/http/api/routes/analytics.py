"""Analytics: sums and percentiles over any range, in any time zone, by any dimension.

Every route takes the same parameters and answers from the aggregator's memory, all of one moment:
``meta.stream_cursor`` is where the channel ``analytics`` goes on from exactly these numbers. A route checks
all parameters and ignores those that it has no use for. JSON, or CSV by ``Accept: text/csv``.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any
from zoneinfo import ZoneInfo

import attrs
import trio
from quart import Blueprint, Response, request

from heliograph.actors.histogram import Figures, Question
from heliograph.http.api.app import services
from heliograph.http.rules.requests import identity, listed, refuse_unknown, require_utf8, to_json
from heliograph.model.analytics import sketch
from heliograph.model.analytics.cube import ALL, ALL_TIME, ERRORS, View
from heliograph.model.analytics.rollup import DIMENSIONS, dimension, slot_start
from heliograph.model.analytics.timeline import (
    GRANULARITIES,
    Bucket,
    Range,
    buckets,
    make_range,
    parse_moment,
    parse_zone,
)
from heliograph.model.analytics.totals import Totals, above, unpack
from heliograph.model.channels import ANALYTICS
from heliograph.model.errors import Invalid
from heliograph.model.ids import EventId, format_id
from heliograph.model.task import STATUSES, TERMINAL

blueprint = Blueprint("analytics", __name__)

PARAMETERS = ("from", "to", "granularity", "tz", "group_by", *DIMENSIONS, "ticket")
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
MAX_SUMS = 50_000
"""Buckets times groups in one answer."""

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Spreadsheets take text that begins with one of these, four of them in full width, for a formula."""

PAUSE = 500
"""Buckets written between two pauses for others."""

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
"""What can be shown of sums; averages are of finished tasks."""

MEASURES = ("cost_usd", "tasks", "succeeded", "failed", "input_tokens", "output_tokens")
"""What every histogram shows."""

COST_MEASURES = (*MEASURES, "cost_nanos", "costs_computed", "costs_unknown")
TASK_MEASURES = (*MEASURES, "created", "cancelled", "success_rate")
TOKEN_MEASURES = (*MEASURES, "total_tokens")
SUMMARY_MEASURES = (
    *MEASURES,
    "cost_nanos",
    "costs_computed",
    "costs_unknown",
    "created",
    "cancelled",
    "success_rate",
    "total_tokens",
    "average_tokens",
    "average_cost_usd",
    "average_duration_ms",
)
SUMMARY_GROUPS = ("model", "agent_type")
PERFORMANCE_GROUPS = ("agent", "agent_type", "model")
COMPARED = ("cost_usd", "tasks", "created", "succeeded", "failed", "total_tokens", "success_rate")
"""What the summary compares with the previous period."""


@attrs.frozen
class Asked:
    """The parameters of a request, read.

    Args:
        span: The range, in whole slots.
        granularity: Of the buckets.
        zone: Whose clock cuts them.
        group_by: A dimension, or ``None``.
        filters: As ``View`` takes them.
    """

    span: Range
    granularity: str
    zone: ZoneInfo
    group_by: str | None
    filters: tuple[frozenset[str] | None, ...]

    def view(self, group_by: str | None, *, durations: bool = False) -> View:
        """Return the view of these filters that groups by something."""
        return View(group_by, self.filters, durations)

    def meta(self, cursor: EventId, **more: Any) -> dict[str, Any]:
        """Return what every answer says of itself."""
        return {
            "from": slot_start(self.span.first).astimezone(self.zone).isoformat(),
            "to": slot_start(self.span.last).astimezone(self.zone).isoformat(),
            "tz": self.zone.key,
            **more,
            "stream_cursor": format_id(cursor),
        }


@blueprint.get("/api/analytics/summary")
async def summary() -> Response:
    """Tell what a period comes to, how it compares with the one before it, and what is active now."""
    asked = _asked()
    now, before = _slots(asked.span), _slots(asked.span.previous)
    groupings = _groupings(*SUMMARY_GROUPS, asked.group_by)
    answer = await _ask(
        Question(asked.view("status"), [ALL_TIME]),
        Question(asked.view(None), [now, before]),
        *(Question(asked.view(name), [now]) for name in groupings),
    )
    (by_status,), (these, those), *grouped = answer.sums
    active = {status: unpack(value).created for status, value in by_status.items() if status not in TERMINAL}
    totals, previous = (show(sums.get(ALL, 0), SUMMARY_MEASURES) for sums in (these, those))
    groups = {
        f"by_{name}": {group: show(value, SUMMARY_MEASURES) for group, value in _nonzero(sums)}
        for name, (sums,) in zip(groupings, grouped, strict=True)
    }
    if _wants_csv():
        rows = [{"by": "", "group": "", **totals}, {"by": "previous", "group": "", **previous}]
        rows += [
            {"by": name.removeprefix("by_"), "group": group, **shown}
            for name, shown_groups in groups.items()
            for group, shown in shown_groups.items()
        ]
        return _csv(("by", "group", *SUMMARY_MEASURES), rows, answer.cursor)
    return _json(
        {
            **totals,
            "active_tasks": sum(active.values()),
            **groups,
            "previous": previous,
            "change": {name: _change(previous[name], totals[name]) for name in COMPARED},
            "meta": asked.meta(answer.cursor),
        }
    )


@blueprint.get("/api/analytics/costs/histogram")
async def costs_histogram() -> Response:
    """Tell what was spent, bucket by bucket."""
    return await _histogram(COST_MEASURES)


@blueprint.get("/api/analytics/tasks/histogram")
async def tasks_histogram() -> Response:
    """Tell how many tasks were created and how they ended, bucket by bucket."""
    return await _histogram(TASK_MEASURES)


@blueprint.get("/api/analytics/tokens/histogram")
async def tokens_histogram() -> Response:
    """Tell how many tokens went in and came out, bucket by bucket."""
    return await _histogram(TOKEN_MEASURES)


@blueprint.get("/api/analytics/performance")
async def performance() -> Response:
    """Tell how long tasks take, how often they succeed and why they fail, by agent, agent type and model."""
    asked = _asked()
    span = [_slots(asked.span)]
    groupings = _groupings(*PERFORMANCE_GROUPS, asked.group_by)
    answer = await _ask(
        Question(asked.view(None, durations=True), span),
        *(Question(asked.view(name, durations=True), span) for name in groupings),
        Question(asked.view(ERRORS), span),
    )
    (overall,), *grouped, (errors,) = answer.sums
    everything = _perform(overall.get(ALL, 0))
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for name, (sums,) in zip(groupings, grouped, strict=True):
        groups[f"by_{name}"] = {group: _perform(value) for group, value in _nonzero(sums)}
        await trio.lowlevel.checkpoint()
    failures = sorted(((kind, unpack(value).failed) for kind, value in _nonzero(errors)), key=_by_count)
    if _wants_csv():
        rows = [{"by": "", "group": "", **_flat(everything)}]
        rows += [
            {"by": name.removeprefix("by_"), "group": group, **_flat(shown)}
            for name, shown_groups in groups.items()
            for group, shown in shown_groups.items()
        ]
        rows += [{"by": ERRORS, "group": kind, "failed": count} for kind, count in failures]
        return _csv(("by", "group", *_flat(everything)), rows, answer.cursor)
    return _json({**everything, **groups, "failures": dict(failures), "meta": asked.meta(answer.cursor)})


async def _histogram(measures: Sequence[str]) -> Response:
    asked = _asked()
    cut = buckets(asked.span, asked.granularity, asked.zone)
    spans = [(bucket.first, bucket.last) for bucket in cut]
    questions = [Question(asked.view(None), spans)]
    if asked.group_by is not None:
        questions.append(Question(asked.view(asked.group_by), spans))
    answer = await _ask(*questions)
    grouped = answer.sums[1] if asked.group_by is not None else ()
    groups = sorted({group for sums in grouped for group, _ in _nonzero(sums)})
    if len(groups) * len(cut) > MAX_SUMS:
        raise Invalid.field(
            "group_by",
            f"{len(groups)} groups in {len(cut)} buckets would make more than {MAX_SUMS} sums; filter by "
            f"{' or '.join(DIMENSIONS)}, or take a coarser granularity or a shorter range",
        )
    shown = await _show_buckets(cut, answer, measures)
    if _wants_csv():
        columns = ("start", "end", "utc_offset", *(["group"] if asked.group_by else []), *measures)
        return _csv(columns, _rows(shown), answer.cursor)
    meta = asked.meta(answer.cursor, granularity=asked.granularity, group_by=asked.group_by, groups=groups)
    return _json({"buckets": shown, "meta": meta})


async def _show_buckets(
    cut: Sequence[Bucket], answer: Figures, measures: Sequence[str]
) -> list[dict[str, Any]]:
    sums, *grouped = answer.sums
    shown: list[dict[str, Any]] = []
    for position, bucket in enumerate(cut):
        one = {
            "start": bucket.start,
            "end": bucket.end,
            "utc_offset": bucket.utc_offset,
            **show(sums[position].get(ALL, 0), measures),
        }
        for groups in grouped:
            one["groups"] = {group: show(value, measures) for group, value in _nonzero(groups[position])}
        shown.append(one)
        if position % PAUSE == 0:
            await trio.lowlevel.checkpoint()
    return shown


def _rows(shown: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each bucket, or for each group of each bucket."""
    rows: list[dict[str, Any]] = []
    for bucket in shown:
        times = {name: bucket[name] for name in ("start", "end", "utc_offset")}
        groups = bucket.get("groups")
        if groups is None:
            rows.append(bucket)
        else:
            rows += [{**times, "group": group, **measures} for group, measures in groups.items()]
    return rows


async def _ask(*questions: Question) -> Figures:
    service = services()
    return await service.histogram.ask(questions, service.log.position)


def _asked() -> Asked:
    """Read and check the parameters.

    Raises:
        Invalid: Some parameter is wrong.
    """
    refuse_unknown(request, *PARAMETERS)
    identity().require("read", ANALYTICS)
    zone = parse_zone(request.args.get("tz", "UTC"))
    now = datetime.now(UTC)
    end = parse_moment(request.args.get("to", "now"), now, zone, "to")
    start = parse_moment(request.args.get("from", "-24h"), now, zone, "from")
    return Asked(
        make_range(start, end),
        _one_of("granularity", GRANULARITIES) or "hour",
        zone,
        _one_of("group_by", DIMENSIONS),
        tuple(_filter(name) for name in DIMENSIONS),
    )


def _one_of(name: str, allowed: Sequence[str]) -> str | None:
    text = request.args.get(name)
    if text is None or text in allowed:
        return text
    raise Invalid.field(name, f"must be one of {', '.join(allowed)}")


def _filter(name: str) -> frozenset[str] | None:
    if name == "status":
        values = listed(request, name, STATUSES)
    else:
        values = tuple(dimension(require_utf8(text, name)) for text in request.args.getlist(name))
    return frozenset(values) or None


def _slots(span: Range) -> tuple[int, int]:
    return span.first, span.last


def _groupings(*names: str | None) -> list[str]:
    return list(dict.fromkeys(name for name in names if name is not None))


def _nonzero(sums: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted((group, value) for group, value in sums.items() if value)


def show(value: int, names: Sequence[str]) -> dict[str, Any]:
    """Return some measures of packed sums."""
    totals = unpack(value)
    return {name: MEASURED[name](totals) for name in names}


def _perform(value: int) -> dict[str, Any]:
    shown = show(value, SUMMARY_MEASURES)
    found = sketch.quantiles(above(value), tuple(PERCENTILES.values()))
    shown["duration_ms"] = dict(zip(PERCENTILES, found, strict=True)) if found else dict.fromkeys(PERCENTILES)
    return shown


def _flat(shown: Mapping[str, Any]) -> dict[str, Any]:
    """Return one group's performance as a row of a table."""
    rest = {name: value for name, value in shown.items() if name != "duration_ms"}
    return {**rest, **{f"duration_ms_{name}": value for name, value in shown["duration_ms"].items()}}


def _by_count(failures: tuple[str, int]) -> tuple[int, str]:
    return -failures[1], failures[0]


def _change(before: float | None, now: float | None) -> float | None:
    """Return by what share of itself a number changed; ``None`` when there is nothing to compare with."""
    return (now - before) / before if before and now is not None else None


def _wants_csv() -> bool:
    kinds = ["application/json", "text/csv"]
    return bool(request.accept_mimetypes.best_match(kinds, default="application/json") == "text/csv")


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], cursor: EventId) -> Response:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(map(_harmless, rows))
    response = Response(text.getvalue(), content_type="text/csv; charset=utf-8")
    response.headers["X-Stream-Cursor"] = format_id(cursor)
    return response


def _harmless(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Keep spreadsheets from running what a publisher chose to call its agent, its model or its error."""
    group = row.get("group", "")
    return {**row, "group": f"'{group}"} if group.startswith(FORMULA_STARTS) else row


def _json(body: dict[str, Any]) -> Response:
    return Response(to_json(body), content_type="application/json")
