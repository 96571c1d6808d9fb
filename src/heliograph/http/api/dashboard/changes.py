"""Changing tasks in the dashboard's form."""

from __future__ import annotations

import attrs

from heliograph.http.api.endpoint import of_view
from heliograph.http.api.routes import changes
from heliograph.http.api.routes.changes import TaskChanged, TaskCreated, TaskStopped


@attrs.frozen
class Created:
    """The task that was created."""

    task_id: str
    conversation_id: str | None


@attrs.frozen
class Changed:
    """The task that was changed."""

    task_id: str
    status: str


@attrs.frozen
class Done:
    """The outcome of a change."""

    success: bool
    message: str
    data: None
    error: str | None


def created(found: TaskCreated) -> Created:
    """Present a task that was created."""
    return Created(found.task_id, found.conversation_id)


def changed(found: TaskChanged) -> Changed:
    """Present a task that was changed."""
    return Changed(found.task_id, found.status)


def stopped(found: TaskStopped) -> Done:
    """Present a task that was stopped, or had ended."""
    if found.stopped:
        return Done(True, f"Task {found.task_id} stopped", None, None)
    text = f"Task {found.task_id} has ended already: {found.status}"
    return Done(False, text, None, text)


ENDPOINTS = [
    of_view(changes.ENDPOINTS, changes.create_task).in_dashboard("/api/tasks", "The task is kept.", created),
    of_view(changes.ENDPOINTS, changes.change_task).in_dashboard(
        "/api/tasks/{task_id}", "The change is kept.", changed
    ),
    of_view(changes.ENDPOINTS, changes.stop_task).in_dashboard(
        "/api/tasks/{task_id}/stop", "The outcome.", stopped
    ),
]
