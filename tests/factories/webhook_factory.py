"""A webhook's configuration as a dashboard sees it, held to the service's own rules, and its factory."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from typing import Any, ClassVar

import attrs

from heliograph.model.errors import WebhookValidationError
from heliograph.model.webhooks.config import read_config
from heliograph.model.yaml import Document

__all__ = ["WebhookCommand", "WebhookConfig", "WebhookFactory", "WebhookValidationError"]


@attrs.define
class WebhookCommand:
    """What a delivery may ask for."""

    name: str = "analyze"
    trigger: str = "issues.opened"
    action: str = "create_task"
    template: str = "Analyze: {{ issue.title }}"
    agent: str = "planning"
    conditions: dict[str, Any] = attrs.field(factory=dict)
    priority: int = 0


@attrs.define
class WebhookConfig:
    """A webhook's configuration."""

    webhook_id: str = "webhook-001"
    name: str = "Test webhook"
    provider: str = "github"
    endpoint: str = "/webhooks/test-001"
    commands: list[WebhookCommand] = attrs.field(factory=lambda: [WebhookCommand()])
    secret: str | None = None
    enabled: bool = True
    is_builtin: bool = False
    created_at: datetime = attrs.field(factory=lambda: datetime.now(UTC))
    created_by: str = "user-001"
    default_command: str | None = None

    def validate(self) -> None:
        """Hold it to the rules of the service.

        Raises:
            WebhookValidationError: Something is wrong; every field of it is named.
        """
        said = {name: value for name, value in attrs.asdict(self).items() if value is not None}
        read_config(Document(said, {}), self.webhook_id)

    def is_mutable(self) -> bool:
        """Tell whether it can be changed: what comes from a file can't."""
        return not self.is_builtin


class WebhookFactory:
    """Makes configurations with ids of their own, from webhook-001 on."""

    _numbers: ClassVar[count[int]] = count(1)

    @classmethod
    def create(cls, **fields: Any) -> WebhookConfig:
        """Make a configuration; what is not given is as usual."""
        number = next(cls._numbers)
        fields.setdefault("webhook_id", f"webhook-{number:03}")
        fields.setdefault("endpoint", f"/webhooks/test-{number:03}")
        return WebhookConfig(**fields)

    @classmethod
    def create_github_webhook(cls, **fields: Any) -> WebhookConfig:
        """Make one for GitHub."""
        return cls.create(
            **{"name": "GitHub", "provider": "github", "endpoint": "/webhooks/github", **fields}
        )

    @classmethod
    def create_jira_webhook(cls, **fields: Any) -> WebhookConfig:
        """Make one for Jira."""
        return cls.create(**{"name": "Jira", "provider": "jira", "endpoint": "/webhooks/jira", **fields})

    @classmethod
    def create_builtin(cls, provider: str = "github", **fields: Any) -> WebhookConfig:
        """Make one as it comes from a file."""
        endpoint = f"/webhooks/{provider}"
        return cls.create(
            **{"name": provider, "provider": provider, "endpoint": endpoint, "is_builtin": True, **fields}
        )

    @classmethod
    def create_dynamic(cls, **fields: Any) -> WebhookConfig:
        """Make one as it is made over HTTP."""
        return cls.create(**{"is_builtin": False, **fields})

    @classmethod
    def reset(cls) -> None:
        """Begin the ids anew."""
        cls._numbers = count(1)
