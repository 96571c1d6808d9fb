"""What a service is told of what the factories make, as engines and owners tell it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
from tests.factories.task_factory import Task, TaskStatus
from tests.factories.webhook_factory import WebhookConfig


def told_of(task: Task, **more: Any) -> Iterator[dict[str, Any]]:
    """Yield the items that tell how a task came to be as it is.

    Args:
        task: It.
        more: Further fields of what creates it, such as ``agent``.
    """
    payload = {
        "task_id": task.task_id,
        "session_id": task.session_id,
        "agent_type": task.agent_type,
        "input": task.input_message,
        "source": task.source,
        **more,
    }
    yield {"topic": "task.created", "payload": payload, "timestamp": task.created_at.isoformat()}
    status = {"type": "task_status", "task_id": task.task_id}
    if task.started_at is not None:
        yield {**status, "status": "running", "timestamp": task.started_at.isoformat()}
    if task.status is TaskStatus.WAITING_INPUT:
        yield {**status, "status": task.status.value}
    if task.completed_at is not None:
        result = {
            "stdout": task.result,
            "error": task.error,
            "cost_usd": task.cost_usd,
            "input_tokens": task.input_tokens,
            "output_tokens": task.output_tokens,
        }
        end = {"status": task.status.value, "timestamp": task.completed_at.isoformat()}
        yield {
            **status,
            **end,
            "result": {name: value for name, value in result.items() if value is not None},
        }


def body_of(webhook: WebhookConfig) -> dict[str, Any]:
    """Return the request that makes a webhook."""
    commands = [
        {"name": one.name, "template": one.template, "agent": one.agent, "priority": one.priority}
        for one in webhook.commands
    ]
    fields = ("name", "provider", "endpoint", "enabled", "secret", "default_command")
    said = attrs.asdict(webhook, filter=lambda field, value: field.name in fields and value is not None)
    return {**said, "commands": commands}
