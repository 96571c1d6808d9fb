"""Every endpoint there is. A route module is served once it stands here."""

from __future__ import annotations

from heliograph.http.api.routes import (
    agents,
    analytics,
    conversations,
    documents,
    events,
    page,
    sessions,
    streams,
    system,
    tasks,
)

ENDPOINTS = documents.with_descriptions(
    [
        endpoint
        for module in (tasks, sessions, conversations, events, streams, agents, analytics, system, page)
        for endpoint in module.ENDPOINTS
    ]
)
