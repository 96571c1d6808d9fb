"""Every endpoint there is. A route module is served once it stands here."""

from __future__ import annotations

from heliograph.http.api.routes import (
    agents,
    analytics,
    artifacts,
    documents,
    events,
    page,
    runs,
    sessions,
    streams,
    system,
    tasks,
    webhooks,
    workflows,
)

ENDPOINTS = documents.with_descriptions(
    [
        endpoint
        for module in (
            *(tasks, sessions, events, streams, workflows, runs, artifacts, webhooks),
            *(agents, analytics, system, page),
        )
        for endpoint in module.ENDPOINTS
    ]
)
