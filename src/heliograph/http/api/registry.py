"""All endpoints."""

from __future__ import annotations

from heliograph.http.api import dashboard, routes
from heliograph.http.api.routes.documents import with_descriptions

ENDPOINTS = with_descriptions(
    [endpoint for module in (*routes.MODULES, *dashboard.MODULES) for endpoint in module.ENDPOINTS]
)
