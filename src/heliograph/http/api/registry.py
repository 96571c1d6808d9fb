"""Every endpoint there is. A route module is served once it stands here."""

from __future__ import annotations

from heliograph.http.api.routes import (
    agents,
    analytics,
    documents,
    events,
    page,
    runs,
    streams,
    system,
    tasks,
    workflows,
)

ENDPOINTS = documents.with_descriptions(
    [
        endpoint
        for module in (tasks, events, streams, workflows, runs, agents, analytics, system, page)
        for endpoint in module.ENDPOINTS
    ]
)
