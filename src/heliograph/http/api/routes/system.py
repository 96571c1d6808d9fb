"""Health, readiness, status and metrics: views of the actors' own ``stats()``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal

import attrs
import trio
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from heliograph import __version__
from heliograph.actors.monitor import MachineState, Part
from heliograph.http.api import metrics, samples
from heliograph.http.api.endpoint import Described, Endpoint
from heliograph.http.api.routes.workflows import is_enabled, records_of
from heliograph.http.api.services import Services
from heliograph.http.api.shared import Meta
from heliograph.http.rules.answer import Answer
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.bodies import JSON
from heliograph.http.rules.parameters import Nothing
from heliograph.http.rules.schema import TEXT, one_of, ref, says
from heliograph.http.rules.shapes import write
from heliograph.model.errors import Invalid, Unavailable
from heliograph.model.ids import SEQUENCE_BITS, EventId
from heliograph.model.task import STATUSES, TASK
from heliograph.model.workflows.record import Record

STARTED = time.time()

Count = Annotated[int, says(minimum=0)]


@attrs.frozen
class Workflows:
    """Counts of workflows."""

    total: Count
    enabled: Count


@attrs.frozen
class Bus:
    """Counters of the bus on this node."""

    published: Count
    delivered: Count
    errors: Count


@attrs.frozen
class PlatformHealth:
    """The health of the platform."""

    status: Literal["healthy"]
    workflows: Workflows
    bus: Bus


async def platform_health(services: Services, who: Identity, asked: Nothing) -> PlatformHealth:
    """Count the workflows that the key may see, and the events that this node has dispatched."""
    appender = services.appender.stats()
    deliveries = services.hub.stats().deliveries
    catalogue = services.registry.catalogue
    workflows = {name: one for name, one in catalogue.workflows.items() if who.covers(f"workflow:{name}")}
    records = await records_of(services.store, workflows)
    enabled = sum(is_enabled(one, records.get(name, Record(name))) for name, one in workflows.items())
    return PlatformHealth(
        "healthy",
        Workflows(len(workflows), enabled),
        Bus(appender.events, deliveries, appender.failed + appender.refused),
    )


@attrs.frozen
class Readiness:
    """The state of each part that the service needs."""

    status: Literal["ready", "not ready"]
    checks: Mapping[str, Annotated[str, says("ok, or the fault.")]]


async def ready(services: Services, who: Identity) -> Readiness | Answer:
    """Tell whether every part is reachable; 503 names what is missing."""
    checks = {name: reason or "ok" for name, reason in (await services.ready()).items()}
    if all(state == "ok" for state in checks.values()):
        return Readiness("ready", checks)
    return Answer(503, write(Readiness("not ready", checks)))


@attrs.frozen
class EngineView:
    """The engine, as this node knows it."""

    form: Literal["http", "queue", "none"]
    state: Annotated[Literal["ok", "down", "unknown", "none"], says("unknown: another node looks after it.")]
    since: datetime
    latency_ms: Annotated[float | None, says("The time that its last answer took.")]
    waiting: Annotated[Count, says("Tasks that are dispatched or will be, and that have not ended.")]
    error: str | None


@attrs.frozen
class Status:
    """The state of the machine and of the service."""

    status: Literal["healthy"]
    node: str
    version: str
    uptime_seconds: Count
    at: Annotated[datetime, says("The time of these figures, at most a second ago.")]
    machine: MachineState
    parts: Annotated[
        Mapping[str, Part],
        says(
            "The parts that the service needs: log, store, postgres, redis, …; "
            "`since` when this node has found each of them so, ten seconds late at most."
        ),
    ]
    lag_ms: Annotated[Mapping[str, int], says("The delay of the subscriber and of the store behind the log.")]
    events_per_second: float
    tasks: Annotated[
        Mapping[str, Count], says("The number of tasks by status.", propertyNames=one_of(STATUSES))
    ]
    engine: EngineView
    streams: Count
    subscriptions: Count
    events: Count
    deliveries: Count
    position: EventId
    meta: Meta


def engine_view(services: Services, who: Identity) -> EngineView:
    """Return the state of the engine; a key for some channels learns nothing of the fleet's tasks."""
    stats = services.engine.stats()
    since = datetime.fromtimestamp(stats.since, UTC)
    waiting = stats.waiting if who.covers("task:*") else 0
    return EngineView(stats.form, stats.state, since, stats.latency_ms, waiting, stats.error)


async def status(services: Services, who: Identity, asked: Nothing) -> Status:
    """Describe the state of the machine and of the service."""
    hub, state = services.hub.stats(), await services.monitor.state()
    checkpoint = await services.store.checkpoint()
    counts: dict[str, int] = {}
    if who.covers("task:*"):  # a key for some channels learns nothing of the fleet
        counts = dict.fromkeys(STATUSES, 0) | await services.store.count(TASK, "status")
    return Status(
        status="healthy",
        node=services.monitor.node,
        version=__version__,
        uptime_seconds=round(time.time() - STARTED),
        at=state.at,
        machine=state.machine,
        parts=state.parts,
        lag_ms=lags(services, store=checkpoint),
        events_per_second=state.events_per_second,
        tasks=counts,
        engine=engine_view(services, who),
        streams=len(services.streams.streams),
        subscriptions=hub.subscriptions,
        events=hub.events,
        deliveries=hub.deliveries,
        position=hub.position,
        meta=Meta(checkpoint),
    )


def lags(services: Services, **others: EventId) -> dict[str, int]:
    """Return the milliseconds by which the subscriber, and followers at ``others``, are behind the log."""
    behind = {"subscriber": services.subscriber.stats().position, **others}
    head = services.log.position
    return {name: max(0, (head >> SEQUENCE_BITS) - (at >> SEQUENCE_BITS)) for name, at in behind.items()}


async def prometheus(services: Services, who: Identity, asked: Nothing) -> Answer:
    """Expose the counters for Prometheus."""
    text = await trio.to_thread.run_sync(metrics.render, metrics.snapshot(services))
    return Answer(200, text, CONTENT_TYPE_LATEST)


MACHINE = MachineState(
    cpu_percent=12.5,
    cpu_count=2,
    load_average=[0.5, 0.25, 0.25],
    memory_total_bytes=8_589_934_592,
    memory_available_bytes=4_294_967_296,
    memory_percent=50.0,
    process_memory_bytes=67_108_864,
    disk_total_bytes=68_719_476_736,
    disk_free_bytes=34_359_738_368,
    disk_percent=50.0,
)
PARTS = {
    "postgres": Part("ok", samples.NOON, 1.25, None),
    "redis": Part("down", samples.NOON, None, "Redis: connection refused"),
}

ENDPOINTS = [
    Endpoint(
        "GET",
        "/api/v1/health",
        platform_health,
        "service",
        Described("Live."),
        refuses=(Invalid, Unavailable),
        example=PlatformHealth("healthy", Workflows(3, 2), Bus(3, 6, 0)),
    ),
    Endpoint(
        "GET",
        "/api/ready",
        ready,
        "service",
        Described(
            "Ready.",
            others={"503": {"description": "Not ready.", "content": {JSON: {"schema": ref("Readiness")}}}},
        ),
        scope=None,
        example=Readiness("ready", dict.fromkeys(("log", "store", "subscriber", "analytics"), "ok")),
    ),
    Endpoint(
        "GET",
        "/api/v1/status",
        status,
        "service",
        Described("The state of the service."),
        refuses=(Invalid, Unavailable),
        example=Status(
            status="healthy",
            node="studio",
            version=__version__,
            uptime_seconds=3600,
            at=samples.NOON,
            machine=MACHINE,
            parts=PARTS,
            lag_ms={"subscriber": 0, "store": 2},
            events_per_second=1.5,
            tasks={"completed": 1},
            engine=EngineView("http", "ok", samples.NOON, 1.5, 0, None),
            streams=2,
            subscriptions=2,
            events=3,
            deliveries=6,
            position=samples.HEAD,
            meta=samples.META,
        ),
    ),
    Endpoint(
        "GET",
        "/metrics",
        prometheus,
        "service",
        Described(
            "Counters.",
            media={
                CONTENT_TYPE_LATEST.partition(";")[0]: {
                    "schema": TEXT,
                    "example": "heliograph_streams 2.0\n",
                }
            },
        ),
        channels=lambda asked: ("*",),
        refuses=(Invalid,),
    ),
]
