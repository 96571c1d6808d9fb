"""The dashboard API, below ``/api``: the first document's paths, in the forms that its clients read.

Its page computes with what it gets, so what it computes with is never null here: 0 and "". Lists are bare
arrays, whose cursors are in headers. Where the platform API (``/api/v1``) has the same question, the view is
the same, and only presented differently (``Endpoint.in_dashboard``).
"""

from heliograph.http.api.dashboard import (
    analytics,
    changes,
    conversations,
    logs,
    overview,
    sessions,
    tasks,
    webhooks,
)

__all__ = ["analytics", "changes", "conversations", "logs", "overview", "sessions", "tasks", "webhooks"]
