"""The endpoints of the platform API, and the page's."""

from heliograph.http.api.routes import (
    agents,
    analytics,
    artifacts,
    changes,
    conversations,
    deliveries,
    events,
    page,
    runs,
    session,
    sessions,
    streams,
    system,
    tasks,
    webhooks,
    workflows,
)

__all__ = [
    "agents",
    "analytics",
    "artifacts",
    "changes",
    "conversations",
    "deliveries",
    "events",
    "page",
    "runs",
    "session",
    "sessions",
    "streams",
    "system",
    "tasks",
    "webhooks",
    "workflows",
]
