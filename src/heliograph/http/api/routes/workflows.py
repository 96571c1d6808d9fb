"""Workflows: their list, one with the content of its files, its pipeline, its agents, and its switch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import attrs
from werkzeug.exceptions import RequestTimeout

from heliograph.http.api import samples
from heliograph.http.api.endpoint import Described, Endpoint
from heliograph.http.api.run_shapes import RunView, Stats, stats_of, view_of
from heliograph.http.api.services import Services
from heliograph.http.api.shared import Meta
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.bodies import JsonBody
from heliograph.http.rules.parameters import Nothing, Text, path
from heliograph.http.rules.schema import Components, Schema, record, says
from heliograph.http.rules.shapes import plain, written_as
from heliograph.model.errors import (
    Invalid,
    Malformed,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
    WorkflowNotFound,
)
from heliograph.model.event import Draft
from heliograph.model.workflows.cards import Card
from heliograph.model.workflows.manifest import Manifest, Setting
from heliograph.model.workflows.pipeline import Edge, Node, Pipeline
from heliograph.model.workflows.reading import FileProblem
from heliograph.model.workflows.record import RECORD, TOPIC, Record, RecordFilter
from heliograph.model.workflows.run import RUN, Run, RunFilter
from heliograph.model.workflows.vocabulary import id_of
from heliograph.model.workflows.workflow import Broken, Workflow
from heliograph.storage.protocols import Questions

ONLY_WHERE_SAID: Mapping[type, tuple[str, ...]] = {
    Node: ("body", "condition_expr", "max_iterations", "children")
}
"""Fields that are left out if a file does not have them; all other fields are always there."""


def _whole(cls: type) -> None:
    """Have a class of the model written with all its fields, except for those in ``ONLY_WHERE_SAID``."""
    names = [field.name for field in attrs.fields(cls)]
    optional = ONLY_WHERE_SAID.get(cls, ())

    def write(value: Any) -> dict[str, Any]:
        shown = {name: getattr(value, name) for name in names}
        return {name: plain(one) for name, one in shown.items() if one is not None or name not in optional}

    def describe(components: Components) -> Schema:
        return record(components.fields(cls), optional)

    written_as(cls, write, describe)


for _cls in (Manifest, Setting, Pipeline, Node, Edge, Card, FileProblem, Broken):
    _whole(_cls)


@attrs.frozen
class OfWorkflow:
    """One workflow."""

    workflow_id: str = path(Text(), "The workflow's id.")


def of_workflow(asked: Any) -> tuple[str, ...]:
    """Return the channel that the caller must be allowed to read."""
    return (f"workflow:{asked.workflow_id}",)


@attrs.frozen
class WorkflowSummary:
    """A workflow, in the list of them."""

    id: str
    display_name: str
    description: str
    version: str
    icon: str
    color: str
    enabled: bool
    triggers: Annotated[
        Sequence[dict[str, Any]], says("Each has a type, and the fields that the type needs.")
    ]
    tags: Sequence[str]
    strategy: Annotated[str, says("SEQUENTIAL or DAG.")]
    step_count: Annotated[int, says("Steps of the top level.", minimum=0)]
    agent_count: Annotated[
        int, says("The agents with cards; without cards, the agents that the manifest names.", minimum=0)
    ]
    total_runs: Annotated[int, says(minimum=0)]
    success_rate: Annotated[
        float, says("The percentage of ended runs that succeeded.", minimum=0, maximum=100)
    ]
    last_run: Annotated[RunView | None, says("The run that began last.")]
    problems: Annotated[Sequence[FileProblem], says("Mistakes in its files.")]


@attrs.frozen
class WorkflowList:
    """All workflows."""

    workflows: Sequence[WorkflowSummary]
    total: Annotated[int, says(minimum=0)]
    broken: Annotated[Sequence[Broken], says("Folders that should be workflows, and their problems.")]
    meta: Meta


@attrs.frozen
class WorkflowDetail:
    """One workflow, with the content of its files."""

    manifest: Manifest
    pipeline: Pipeline
    agents: Sequence[Card]
    stats: Stats
    problems: Sequence[FileProblem]
    meta: Meta


@attrs.frozen
class CardList:
    """The agents of a workflow."""

    agents: Sequence[Card]
    total: Annotated[int, says(minimum=0)]


@attrs.frozen
class WorkflowChange:
    """A change of a workflow."""

    enabled: Annotated[bool, says("Whether it is switched on.")]


async def list_workflows(services: Services, who: Identity, asked: Nothing) -> WorkflowList:
    """List all workflows, with sums over their runs."""
    position = await services.store.checkpoint()
    catalogue = services.registry.catalogue
    records = await records_of(services.store, catalogue.workflows)
    last = await last_runs(services.store, records.values())
    summaries = [
        _summary(workflow, records.get(name, Record(name)), last.get(name))
        for name, workflow in catalogue.workflows.items()
    ]
    return WorkflowList(summaries, len(summaries), catalogue.broken, Meta(position))


async def get_workflow(services: Services, who: Identity, asked: OfWorkflow) -> WorkflowDetail:
    """Return one workflow: its manifest, pipeline and agents, and sums over its runs."""
    look = services.store.look()
    workflow = services.registry.catalogue.get(asked.workflow_id, who.covers)
    kept = await look.get(RECORD, workflow.id) or Record(workflow.id)
    return WorkflowDetail(
        manifest=attrs.evolve(workflow.manifest, enabled=is_enabled(workflow, kept)),
        pipeline=workflow.pipeline,
        agents=workflow.cards,
        stats=stats_of(kept),
        problems=workflow.problems,
        meta=Meta(look.position),
    )


async def get_pipeline(services: Services, who: Identity, asked: OfWorkflow) -> Pipeline:
    """Return the graph of a workflow's steps, to be drawn."""
    return services.registry.catalogue.get(asked.workflow_id, who.covers).pipeline


async def list_cards(services: Services, who: Identity, asked: OfWorkflow) -> CardList:
    """Return the cards of a workflow's agents."""
    cards = services.registry.catalogue.get(asked.workflow_id, who.covers).cards
    return CardList(cards, len(cards))


async def change_workflow(
    services: Services, who: Identity, asked: OfWorkflow, change: WorkflowChange
) -> WorkflowSummary:
    """Switch a workflow on or off; the change is kept, and published on its channel."""
    workflow = services.registry.catalogue.get(asked.workflow_id, who.covers)
    payload = {"workflow_id": workflow.id, "enabled": change.enabled}
    draft = Draft.own(f"workflow:{workflow.id}", TOPIC, payload, sender=who.name)
    await services.appender.append([draft])
    kept = await services.store.get(RECORD, workflow.id) or Record(workflow.id)
    last = await last_runs(services.store, [kept])
    return _summary(workflow, attrs.evolve(kept, enabled=change.enabled), last.get(workflow.id))


def is_enabled(workflow: Workflow, kept: Record) -> bool:
    """Tell whether a workflow is switched on: by the API, or by its files if the API never switched it."""
    return workflow.manifest.enabled if kept.enabled is None else kept.enabled


async def records_of(store: Questions, names: Iterable[str]) -> Mapping[str, Record]:
    """Return the existing records of some workflows."""
    wanted = tuple(names)
    records: dict[str, Record] = {}
    more, after = bool(wanted), None
    while more:
        found, more = await store.list(RECORD, RecordFilter(wanted), after, len(wanted))
        records.update((record.workflow_id, record) for record in found)
        after = RECORD.position(found[-1]) if found else None
    return records


async def last_runs(store: Questions, records: Iterable[Record]) -> Mapping[str, Run]:
    """Return the last run of each workflow that has any."""
    wanted = {
        id_of(kept.last_run_id, kept.workflow_id): kept for kept in records if kept.last_run_id is not None
    }
    ids = tuple(name for name, kept in wanted.items() if not kept.doubtful)
    last: dict[str, Run] = {}
    more, after = bool(ids), None
    while more:
        found, more = await store.list(RUN, RunFilter(ids=ids), after, len(ids))
        last.update((run.workflow_id, run) for run in found)
        after = RUN.position(found[-1]) if found else None
    for kept in wanted.values():
        if kept.workflow_id not in last:  # its start was corrected, or the run is no longer kept
            found, _ = await store.list(RUN, RunFilter(kept.workflow_id), None, 1)
            last.update((run.workflow_id, run) for run in found)
    return last


def _summary(workflow: Workflow, kept: Record, last: Run | None) -> WorkflowSummary:
    said = workflow.manifest
    return WorkflowSummary(
        id=workflow.id,
        display_name=said.display_name,
        description=said.description,
        version=said.version,
        icon=said.icon,
        color=said.color,
        enabled=is_enabled(workflow, kept),
        triggers=said.triggers,
        tags=said.tags,
        strategy=workflow.pipeline.strategy,
        step_count=len(workflow.pipeline.nodes),
        agent_count=len(said.agents),
        total_runs=kept.total,
        success_rate=kept.success_rate,
        last_run=None if last is None else view_of(last),
        problems=workflow.problems,
    )


_SUMMARY = _summary(samples.WORKFLOW, samples.RECORD, samples.RUN)
ONE_WORKFLOW = (WorkflowNotFound, Invalid, Unavailable)
"""The refusals of an endpoint of one workflow."""

ENDPOINTS = [
    Endpoint(
        "GET",
        "/api/v1/workflows",
        list_workflows,
        "workflows",
        Described("All workflows, by id."),
        channels=lambda asked: ("workflow:*",),
        refuses=(Invalid, Unavailable),
        example=WorkflowList([_SUMMARY], 1, [], samples.META),
    ),
    Endpoint(
        "GET",
        "/api/v1/workflows/{workflow_id}",
        get_workflow,
        "workflows",
        Described("The workflow."),
        channels=of_workflow,
        refuses=ONE_WORKFLOW,
        example=WorkflowDetail(
            samples.WORKFLOW.manifest,
            samples.WORKFLOW.pipeline,
            samples.WORKFLOW.cards,
            stats_of(samples.RECORD),
            [],
            samples.META,
        ),
    ),
    Endpoint(
        "PATCH",
        "/api/v1/workflows/{workflow_id}",
        change_workflow,
        "workflows",
        Described("The changed workflow."),
        scope="publish",
        channels=of_workflow,
        body=JsonBody(WorkflowChange),
        audited=True,
        refuses=(*ONE_WORKFLOW, RequestTimeout, Malformed, TooLarge, UnsupportedMedia),
        example=_SUMMARY,
    ),
    Endpoint(
        "GET",
        "/api/v1/workflows/{workflow_id}/pipeline",
        get_pipeline,
        "workflows",
        Described("Nodes, edges and layers; empty where the workflow has no pipeline."),
        channels=of_workflow,
        refuses=(WorkflowNotFound, Invalid),
        example=samples.WORKFLOW.pipeline,
    ),
    Endpoint(
        "GET",
        "/api/v1/workflows/{workflow_id}/agents",
        list_cards,
        "workflows",
        Described("The cards."),
        channels=of_workflow,
        refuses=(WorkflowNotFound, Invalid),
        example=CardList(samples.WORKFLOW.cards, len(samples.WORKFLOW.cards)),
    ),
]
