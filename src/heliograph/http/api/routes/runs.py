"""Runs of a workflow: their list, one run's trace of steps, and its stream of events."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import attrs

from heliograph.config import Settings
from heliograph.http.api import samples
from heliograph.http.api.endpoint import Described, Endpoint, TakeOver
from heliograph.http.api.routes.streams import BLOCKS, UNTIL, Resuming, open_stream
from heliograph.http.api.routes.workflows import OfWorkflow, of_workflow
from heliograph.http.api.run_shapes import RunView, Stats, stats_of, view_of
from heliograph.http.api.services import Services
from heliograph.http.api.shared import ListMeta
from heliograph.http.api.trace_pages import TracePlace, page_of, place_of
from heliograph.http.api.traces import TraceStep, trace_of, traced
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.parameters import (
    Keyset,
    Moment,
    Text,
    Words,
    encode_cursor,
    page_limit,
    path,
    query,
)
from heliograph.http.rules.schema import TEXT, Schema
from heliograph.model.channels import Selection
from heliograph.model.errors import Invalid, RunNotFound, Unavailable, WorkflowNotFound
from heliograph.model.ids import OLDEST, EventId, from_microseconds, is_time, parse_time, to_microseconds
from heliograph.model.workflows.record import RECORD, Record
from heliograph.model.workflows.run import RUN, STATUSES, Run, RunFilter
from heliograph.model.workflows.vocabulary import id_of
from heliograph.storage.protocols import Questions

MAX_STEPS = 500
"""The number of steps on one page of a trace."""


def _run_key(microseconds: int, name: str) -> tuple[datetime, str]:
    if not 0 <= microseconds < 2**58 or "\0" in name:
        raise ValueError("no run has such a key")
    return from_microseconds(microseconds), name


@attrs.frozen
class RunPosition:
    """The position where a list of runs goes on: its cursor, or the time before which the next runs began."""

    def read(self, texts: Sequence[str], name: str, settings: Settings) -> tuple[datetime, str]:
        """Read it."""
        cursor = Keyset((int, str), _run_key)
        try:
            key: tuple[datetime, str] = cursor.read(texts, name, settings)
        except Invalid:
            if not is_time(texts[0]):
                raise
            return parse_time(texts[0].replace(" ", "+"), name), ""
        return key

    def schema(self, settings: Settings) -> Schema:
        """Describe it."""
        return TEXT


@attrs.frozen
class RunListing(OfWorkflow):
    """The filters and the page of a list of runs."""

    status: tuple[str, ...] = query(
        Words(STATUSES), "Any of these; repeated, or separated by commas.", default=()
    )
    since: datetime | None = query(Moment(), "Started at or after this ISO 8601 time or date.")
    until: datetime | None = query(Moment(), "Started before this ISO 8601 time or date.")
    limit: int = page_limit()
    start_after: tuple[datetime, str] | None = query(
        RunPosition(), "A next_cursor of this list, unchanged; or a time: runs that started before it."
    )


@attrs.frozen
class OfRun(OfWorkflow):
    """One run."""

    run_id: str = path(Text(), "The run's id.")


@attrs.frozen
class WatchingRun(Resuming):
    """The run that a stream shows."""

    workflow_id: str = path(Text(), "The workflow's id.")
    run_id: str = path(Text(), "The run's id.")


@attrs.frozen
class RunTrace:
    """A run and its steps."""

    run: RunView
    steps: Sequence[TraceStep]
    meta: ListMeta


@attrs.frozen
class RunList:
    """A page of runs."""

    workflow_id: str
    runs: Sequence[RunView]
    meta: ListMeta
    stats: Stats


async def list_runs(services: Services, who: Identity, asked: RunListing) -> RunList:
    """List the runs of a workflow, newest first, and sums over all of them."""
    look = services.store.look()
    kept = await known_workflow(services, look, who, asked.workflow_id)
    wanted = RunFilter(asked.workflow_id, asked.status, since=asked.since, until=asked.until)
    found, more = await look.list(RUN, wanted, asked.start_after, asked.limit)
    last = encode_cursor(to_microseconds(found[-1].started_at), found[-1].id) if more else None
    return RunList(
        asked.workflow_id, [view_of(run) for run in found], ListMeta(last, look.position), stats_of(kept)
    )


async def known_workflow(services: Services, store: Questions, who: Identity, workflow_id: str) -> Record:
    """Return the record of a workflow that has a folder, or has had a run.

    Raises:
        WorkflowNotFound: It has neither.
    """
    kept = await store.get(RECORD, workflow_id)
    if kept is None:
        services.registry.catalogue.get(workflow_id, who.covers)
    return kept or Record(workflow_id)


async def known_run(store: Questions, workflow_id: str, run_id: str) -> Run:
    """Return a run.

    Raises:
        RunNotFound: No event has named it.
    """
    run = await store.get(RUN, id_of(run_id, workflow_id))
    if run is None:
        raise RunNotFound(f"workflow {workflow_id[:200]!r} has no run {run_id[:200]!r}")
    return run


@attrs.frozen
class TraceAsked(OfRun):
    """The page of a run's trace."""

    limit: int = page_limit(MAX_STEPS, MAX_STEPS)
    start_after: TracePlace | None = query(
        Keyset((int, int, str), place_of), "A next_cursor of this trace, unchanged."
    )


async def get_trace(services: Services, who: Identity, asked: TraceAsked) -> RunTrace:
    """Return a run with its steps, their artifacts, and their times on one axis."""
    look = services.store.look()
    run = await known_run(look, asked.workflow_id, asked.run_id)
    workflow = services.registry.catalogue.workflows.get(run.workflow_id)
    pipeline = None if workflow is None else workflow.pipeline
    page = await page_of(look, services.artifacts, run, pipeline, asked.start_after, asked.limit)
    traces = await traced(services.artifacts, run, page)
    last = None if page.following is None else encode_cursor(*page.following)
    return RunTrace(view_of(run), traces, ListMeta(last, look.position))


async def run_stream(services: Services, who: Identity, asked: WatchingRun) -> TakeOver:
    """Stream the events of one run, from its first one on."""
    run = await known_run(services.store, asked.workflow_id, asked.run_id)
    selection = Selection((f"workflow:{run.workflow_id}",), run=run.run_id)
    before = EventId(max(OLDEST, run.first_event_id - 1))
    return open_stream(services, who, asked.watch(selection, before))


ONE_RUN = (RunNotFound, Invalid, Unavailable)
"""The refusals of an endpoint of one run."""

ENDPOINTS = [
    Endpoint(
        "GET",
        "/api/v1/workflows/{workflow_id}/runs",
        list_runs,
        "workflows",
        Described("A page of runs."),
        channels=of_workflow,
        refuses=(WorkflowNotFound, Invalid, Unavailable),
        example=RunList(
            samples.WORKFLOW.id, [view_of(samples.RUN)], samples.LAST_PAGE, stats_of(samples.RECORD)
        ),
    ),
    Endpoint(
        "GET",
        "/api/v1/workflows/{workflow_id}/runs/{run_id}",
        get_trace,
        "workflows",
        Described(
            "The run and its steps.",
            more="In the pipeline's order, with those of its steps that have not begun. Other steps follow "
            "in the order in which they began, and last steps that have only artifacts.",
        ),
        channels=of_workflow,
        refuses=ONE_RUN,
        example=RunTrace(view_of(samples.RUN), [trace_of(samples.RUN, samples.STEP)], samples.LAST_PAGE),
    ),
    Endpoint(
        "GET",
        "/api/v1/workflows/{workflow_id}/runs/{run_id}/stream",
        run_stream,
        "streams",
        Described(UNTIL, media=BLOCKS, more="It begins at the run's first event, and stays open."),
        channels=of_workflow,
        refuses=ONE_RUN,
    ),
]
