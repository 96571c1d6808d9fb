"""Runs in the form of answers, and sums over a workflow's runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import attrs

from heliograph.http.rules.schema import says
from heliograph.model.analytics import sketch
from heliograph.model.workflows.record import Record, bins_of
from heliograph.model.workflows.run import Run

Status = Annotated[str, says("pending, running, success, failed, skipped, paused or cancelled.")]
Tokens = Annotated[int | None, says(minimum=0)]
Dollars = Annotated[float | None, says("Dollars, exact to the billionth.")]


@attrs.frozen
class RunView:
    """A run of a workflow."""

    id: str
    workflow_id: str
    status: Status
    trigger_type: Annotated[str | None, says("The kind of trigger, such as manual.")]
    trigger_data: Annotated[dict[str, Any], says("The trigger's own data.")]
    trigger: Annotated[str | None, says("The trigger's type again.")]
    result: dict[str, Any]
    error: str | None
    started_at: datetime
    completed_at: datetime | None
    finished_at: Annotated[datetime | None, says("The same as completed_at.")]
    duration_ms: Annotated[float | None, says("The published duration, else the time from start to end.")]
    updated_at: datetime
    cost_usd: Dollars
    input_tokens: Tokens
    output_tokens: Tokens
    cached_tokens: Tokens
    steps: Annotated[Mapping[str, int], says("The number of its steps by status.")]


def view_of(run: Run) -> RunView:
    """Return a run in the form of answers."""
    return RunView(
        id=run.run_id,
        workflow_id=run.workflow_id,
        status=run.status,
        trigger_type=run.trigger_type,
        trigger_data=run.trigger_data or {},
        trigger=run.trigger_type,
        result=run.result or {},
        error=None if run.status == "success" else run.error,
        started_at=run.started_at,
        completed_at=run.finished_at,
        finished_at=run.finished_at,
        duration_ms=run.duration_ms,
        updated_at=run.updated_at,
        cost_usd=dollars(run.cost_nanos),
        input_tokens=run.input_tokens,
        output_tokens=run.output_tokens,
        cached_tokens=run.cached_tokens,
        steps=run.steps,
    )


def dollars(nanos: float | None) -> float | None:
    """Return nano-dollars as dollars."""
    return None if nanos is None else nanos / 10**9


@attrs.frozen
class Spread:
    """Percentiles of the runs that have ended; each is at most 1 % off."""

    p50: float | None
    p95: float | None


@attrs.frozen
class Stats:
    """Sums over a workflow's runs."""

    total: Annotated[int, says(minimum=0)]
    successful: Annotated[int, says(minimum=0)]
    by_status: Mapping[str, int]
    duration_ms: Spread
    cost_usd: Spread
    total_cost_usd: float


def stats_of(kept: Record) -> Stats:
    """Return the sums of a record."""
    p50, p95 = _percentiles(kept.costs)
    return Stats(
        total=kept.total,
        successful=kept.successful,
        by_status=kept.runs,
        duration_ms=Spread(*_percentiles(kept.durations)),
        cost_usd=Spread(dollars(p50), dollars(p95)),
        total_cost_usd=kept.cost_nanos / 10**9,
    )


def _percentiles(counts: dict[str, int]) -> tuple[float | None, float | None]:
    found = sketch.quantiles(sketch.merged(sketch.dump(bins_of(counts))), [0.5, 0.95])
    return (None, None) if found is None else (found[0], found[1])
