"""The service's paths that clients use."""

from __future__ import annotations

from urllib.parse import quote

EVENTS = "/api/v1/events"
STREAM = "/api/v1/events/stream"
TASKS = "/api/v1/tasks"
TASK_KEYS = "/api/v1/task-keys"
WORKFLOWS = "/api/v1/workflows"


def artifact_path(workflow_id: str, run_id: str, key: str) -> str:
    """Return the path of a run's artifact."""
    return f"{WORKFLOWS}/{quote(workflow_id)}/runs/{quote(run_id)}/artifacts/{quote(key)}"
