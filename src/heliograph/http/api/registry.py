"""All endpoints. A route module must be listed here to be served."""

from __future__ import annotations

from heliograph.http.api import dashboard, routes
from heliograph.http.api.routes.documents import with_descriptions

PLATFORM = (
    routes.tasks,
    routes.groups,
    routes.changes,
    routes.answers,
    routes.keys,
    routes.sessions,
    routes.conversations,
    routes.chat,
    routes.events,
    routes.streams,
    routes.workflows,
    routes.runs,
    routes.artifacts,
    routes.deliveries,
    routes.webhooks,
    routes.agents,
    routes.analytics,
    routes.system,
    routes.session,
    routes.page,
)
DASHBOARD = (
    dashboard.tasks,
    dashboard.changes,
    dashboard.logs,
    dashboard.analytics,
    dashboard.overview,
    dashboard.conversations,
    dashboard.sessions,
    dashboard.webhooks,
)

ENDPOINTS = with_descriptions(
    [endpoint for module in (*PLATFORM, *DASHBOARD) for endpoint in module.ENDPOINTS]
)
