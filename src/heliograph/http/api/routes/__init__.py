"""The endpoints of the platform API, and the page's."""

from heliograph.http.api.routes import agents, analytics, events, page, sessions, streams, system, tasks

__all__ = ["agents", "analytics", "events", "page", "sessions", "streams", "system", "tasks"]
