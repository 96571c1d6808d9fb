"""The dashboard API, below ``/api``: the first document's paths, in the forms that its clients read.

Its page computes with the values that it gets, so these are never null here, but 0 and "". Lists are bare
arrays, whose cursors are in headers. If the platform API (``/api/v1``) answers the same question, the view is
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

MODULES = (
    tasks,
    changes,
    logs,
    analytics,
    overview,
    conversations,
    sessions,
    webhooks,
)
"""The modules whose endpoints are served, in the order of the documents."""
