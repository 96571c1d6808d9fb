"""Health, readiness, status and metrics: views of the actors' own ``stats()``."""

from __future__ import annotations

import os
import time
from typing import Any

import psutil
import trio
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from quart import Blueprint, Response, request

from heliograph import __version__
from heliograph.http.api import metrics
from heliograph.http.api.app import services
from heliograph.http.rules.requests import identity, refuse_unknown, to_json
from heliograph.model.ids import format_id
from heliograph.model.task import STATUSES, TASK

blueprint = Blueprint("system", __name__)

STARTED = time.time()
PROCESS = psutil.Process()


@blueprint.get("/api/health")
async def health() -> Response:
    """Tell that the process answers: live."""
    return _json(
        {"status": "healthy", "version": __version__, "uptime_seconds": round(time.time() - STARTED)}
    )


@blueprint.get("/api/v1/health")
async def platform_health() -> Response:
    """Tell what this node has carried; of workflows none is registered yet."""
    service = services()
    appender = service.appender.stats()
    return _json(
        {
            "status": "healthy",
            "workflows": {"total": 0, "enabled": 0},
            "bus": {
                "published": appender.events,
                "delivered": service.hub.stats().deliveries,
                "errors": appender.failed + appender.refused,
            },
        }
    )


@blueprint.get("/api/ready")
async def ready() -> Response:
    """Tell whether every part is reachable; 503 names what is missing."""
    checks = await services().ready()
    missing = {name: reason for name, reason in checks.items() if reason is not None}
    body = {
        "status": "not ready" if missing else "ready",
        "checks": {name: reason or "ok" for name, reason in checks.items()},
    }
    return _json(body, 503 if missing else 200)


@blueprint.get("/api/status")
async def status() -> Response:
    """Tell how the machine and the service are doing."""
    refuse_unknown(request, "ticket")
    identity().require("read")
    service = services()
    hub = service.hub.stats()
    memory = psutil.virtual_memory()
    checkpoint = await service.store.checkpoint()
    counts = dict.fromkeys(STATUSES, 0) | await service.store.count(TASK, "status")
    return _json(
        {
            "status": "healthy",
            "version": __version__,
            "uptime_seconds": round(time.time() - STARTED),
            "machine": {
                "cpu_count": os.cpu_count(),
                "load_average": os.getloadavg(),
                "memory_total_bytes": memory.total,
                "memory_available_bytes": memory.available,
                "process_memory_bytes": PROCESS.memory_info().rss,
            },
            "tasks": counts,
            "streams": len(service.streams.streams),
            "subscriptions": hub.subscriptions,
            "events": hub.events,
            "deliveries": hub.deliveries,
            "position": format_id(hub.position),
            "meta": {"stream_cursor": format_id(checkpoint)},
        }
    )


@blueprint.get("/metrics")
async def prometheus() -> Response:
    """Expose the counters for Prometheus."""
    identity().require("read")
    text = await trio.to_thread.run_sync(metrics.render, metrics.snapshot(services()))
    return Response(text, content_type=CONTENT_TYPE_LATEST)


def _json(body: dict[str, Any], status: int = 200) -> Response:
    return Response(to_json(body), status, content_type="application/json")
