"""Webhooks: their configuration, in files or over HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from secrets import token_hex
from typing import Annotated, Any

import attrs
from werkzeug.exceptions import RequestTimeout

from heliograph.actors.webhooks import Hook
from heliograph.http.api import samples
from heliograph.http.api.endpoint import Described, Endpoint
from heliograph.http.api.services import Services
from heliograph.http.api.shared import Meta
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.bodies import JsonBody
from heliograph.http.rules.parameters import Nothing, Text, path
from heliograph.http.rules.schema import says
from heliograph.model.channels import WEBHOOKS
from heliograph.model.errors import (
    FieldError,
    Invalid,
    Malformed,
    NotFound,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from heliograph.model.webhooks.config import PROVIDERS, Command
from heliograph.model.webhooks.webhook import WEBHOOK, Webhook, WebhookFilter

DEFAULT_COMMAND: Mapping[str, Any] = {"name": "run", "template": "{{ full_text or payload }}"}
"""The one command of a webhook that was made without commands: it passes on the text of a delivery."""

Count = Annotated[int, says(minimum=0)]


@attrs.frozen
class NewWebhook:
    """A webhook to be made, or the changes of one."""

    name: Annotated[str | None, says(maxLength=200)] = None
    provider: Annotated[str | None, says(f"One of {', '.join(PROVIDERS)}; custom if none is said.")] = None
    endpoint: Annotated[str | None, says("/webhooks/ and a name; made of the name if none is said.")] = None
    description: Annotated[str | None, says(maxLength=2000)] = None
    enabled: bool | None = None
    secret: Annotated[
        str | None,
        says("The secret; it is kept apart and never shown. Empty text removes it.", maxLength=500),
    ] = None
    commands: Annotated[
        Sequence[Mapping[str, Any]] | None,
        says("Each has name and template, and the optional fields of files; none: any text becomes a task."),
    ] = None
    default_command: str | None = None
    target_agent: Annotated[str | None, says(maxLength=200)] = None
    agent_trigger: Annotated[Mapping[str, Any] | None, says("prefix, aliases, assignee_trigger")] = None
    security: Annotated[Mapping[str, Any] | None, says("requires_signature, signature_header")] = None

    def without_secret(self) -> dict[str, Any]:
        """Return the fields that are set, but the secret."""
        fields = attrs.asdict(self, recurse=False)
        del fields["secret"]
        if self.commands is not None:
            fields["commands"] = list(self.commands)
        return {name: value for name, value in fields.items() if value is not None}


@attrs.frozen
class OfWebhook:
    """One webhook."""

    webhook_id: str = path(Text(), "The webhook's id; to deliver to, its endpoint's last part will do.")


@attrs.frozen
class CommandView:
    """A command."""

    name: str
    aliases: Sequence[str]
    description: str
    agent: str
    template: str
    trigger: str
    conditions: dict[str, Any]
    priority: int
    requires_approval: bool


@attrs.frozen
class WebhookView:
    """A webhook, without its secret."""

    webhook_id: str
    name: str
    provider: str
    endpoint: str
    public_url: str | None
    description: str
    enabled: bool
    is_builtin: Annotated[bool, says("Whether it comes from a file, and is changed only there.")]
    has_secret: bool
    requires_signature: bool
    signature_header: Annotated[str, says("Its header; empty: the provider's usual one.")]
    target_agent: str
    default_command: str | None
    prefix: str
    aliases: Sequence[str]
    assignee: Annotated[str, says("Being assigned to this one asks for the default command; empty: to none.")]
    commands: Sequence[CommandView]
    event_count: Count
    last_event_at: datetime | None
    created_at: datetime | None
    created_by: str | None


@attrs.frozen
class BrokenFile:
    """A file that should be a webhook but is broken."""

    file: str
    detail: str
    errors: Sequence[FieldError]


@attrs.frozen
class WebhookList:
    """All webhooks."""

    webhooks: Sequence[WebhookView]
    broken: Annotated[Sequence[BrokenFile], says("Files that should be webhooks, and their faults.")]
    meta: Meta


@attrs.frozen
class RemovedWebhook:
    """A webhook that is gone."""

    webhook_id: str
    removed: bool


async def list_webhooks(services: Services, who: Identity, asked: Nothing) -> WebhookList:
    """List all webhooks, those in files first, and the files that are broken."""
    position = await services.store.checkpoint()
    return WebhookList(await _views(services), broken_files(services), Meta(position))


async def get_webhook(services: Services, who: Identity, asked: OfWebhook) -> WebhookView:
    """Return one webhook."""
    hook = services.webhooks.get(asked.webhook_id)
    row = await services.store.get(WEBHOOK, hook.webhook_id)
    return _view(services, hook, row)


async def make_webhook(services: Services, who: Identity, asked: Nothing, new: NewWebhook) -> WebhookView:
    """Make a webhook; it takes deliveries at once."""
    return _view(services, await _make(services, who, new), None)


async def change_webhook(
    services: Services, who: Identity, asked: OfWebhook, change: NewWebhook
) -> WebhookView:
    """Change a webhook that was made over HTTP; fields that are left out stay."""
    hook = await _change(services, who, asked.webhook_id, change)
    row = await services.store.get(WEBHOOK, hook.webhook_id)
    return _view(services, hook, row)


async def remove_webhook(services: Services, who: Identity, asked: OfWebhook) -> RemovedWebhook:
    """Remove a webhook that was made over HTTP, and its secret."""
    await services.webhooks.remove(asked.webhook_id)
    return RemovedWebhook(asked.webhook_id, removed=True)


async def enable_webhook(services: Services, who: Identity, asked: OfWebhook) -> WebhookView:
    """Let a webhook take deliveries."""
    return _view(services, await services.webhooks.switch(asked.webhook_id, True), None)


async def disable_webhook(services: Services, who: Identity, asked: OfWebhook) -> WebhookView:
    """Let a webhook refuse deliveries."""
    return _view(services, await services.webhooks.switch(asked.webhook_id, False), None)


async def _make(services: Services, who: Identity, new: NewWebhook) -> Hook:
    said = new.without_secret()
    if not said.get("commands"):
        said |= {"commands": [dict(DEFAULT_COMMAND)], "default_command": DEFAULT_COMMAND["name"]}
    return await services.webhooks.configure(f"wh-{token_hex(6)}", said, new.secret, who.name)


async def _change(services: Services, who: Identity, webhook_id: str, change: NewWebhook) -> Hook:
    enabled = services.webhooks.get(webhook_id).config.enabled
    said = {**services.webhooks.definition(webhook_id), "enabled": enabled, **change.without_secret()}
    return await services.webhooks.configure(webhook_id, said, change.secret, who.name)


async def rows_of(services: Services) -> Mapping[str, Webhook]:
    """Return the counters of each webhook, by its id."""
    rows: dict[str, Webhook] = {}
    after, more = None, True
    while more:
        found, more = await services.store.list(WEBHOOK, WebhookFilter(), after, 500)
        rows.update((row.webhook_id, row) for row in found)
        after = WEBHOOK.position(found[-1]) if found else None
    return rows


async def _views(services: Services) -> list[WebhookView]:
    rows = await rows_of(services)
    return [_view(services, hook, rows.get(hook.webhook_id)) for hook in services.webhooks.hooks]


def _view(services: Services, hook: Hook, row: Webhook | None) -> WebhookView:
    config = hook.config
    domain = services.settings.webhook_public_domain
    return WebhookView(
        webhook_id=hook.webhook_id,
        name=config.name,
        provider=config.provider,
        endpoint=config.endpoint,
        public_url=f"https://{domain}{config.endpoint}" if domain else None,
        description=config.description,
        enabled=config.enabled,
        is_builtin=config.is_builtin,
        has_secret=hook.secret is not None,
        requires_signature=config.requires_signature,
        signature_header=config.signature_header,
        target_agent=config.agent,
        default_command=config.default_command,
        prefix=config.prefix,
        aliases=config.aliases,
        assignee=config.assignee,
        commands=[_command_view(command) for command in config.commands],
        event_count=0 if row is None else row.received,
        last_event_at=None if row is None else row.last_event_at,
        created_at=hook.created_at,
        created_by=hook.created_by,
    )


def _command_view(command: Command) -> CommandView:
    return CommandView(
        command.name,
        command.aliases,
        command.description,
        command.agent,
        command.template,
        command.trigger,
        dict(command.conditions),
        command.priority,
        command.requires_approval,
    )


def broken_files(services: Services) -> list[BrokenFile]:
    """Return the files that should be webhooks but are broken."""
    return [
        BrokenFile(file, str(error), error.errors) for file, error in sorted(services.webhooks.broken.items())
    ]


def of_webhooks(asked: Any) -> tuple[str, ...]:
    """Return the channel that the caller must be allowed to read."""
    return (WEBHOOKS,)


def _changing(
    method: str, url: str, view: Any, example: Any, body: JsonBody | None = None, status: int = 200
) -> Endpoint:
    refuses = (Invalid, Unavailable, *((NotFound,) if "{" in url else ()))
    if body is not None:
        refuses = (*refuses, RequestTimeout, Malformed, TooLarge, UnsupportedMedia)
    return Endpoint(
        method,
        url,
        view,
        "webhooks",
        Described("The changed webhook."),
        scope="admin",
        channels=of_webhooks,
        refuses=refuses,
        body=body,
        status=status,
        example=example,
    )


EXAMPLE = WebhookView(
    webhook_id="wh-0a1b2c3d4e5f",
    name="Deploys",
    provider="custom",
    endpoint="/webhooks/deploys",
    public_url=None,
    description="",
    enabled=True,
    is_builtin=False,
    has_secret=True,
    requires_signature=False,
    signature_header="",
    target_agent="brain",
    default_command=None,
    prefix="",
    aliases=(),
    assignee="",
    commands=[_command_view(Command("run", "{{ text }}"))],
    event_count=1,
    last_event_at=samples.OUTPUT.timestamp,
    created_at=samples.CREATED.timestamp,
    created_by="ada",
)

ALL = "/api/v1/webhooks"
ONE = f"{ALL}/{{webhook_id}}"
_BODY = JsonBody(NewWebhook)

ENDPOINTS = [
    Endpoint(
        "GET",
        ALL,
        list_webhooks,
        "webhooks",
        Described("All webhooks."),
        channels=of_webhooks,
        refuses=(Invalid, Unavailable),
        example=WebhookList([EXAMPLE], [], samples.META),
    ),
    Endpoint(
        "GET",
        ONE,
        get_webhook,
        "webhooks",
        Described("The webhook."),
        channels=of_webhooks,
        refuses=(NotFound, Invalid, Unavailable),
        example=EXAMPLE,
    ),
    _changing("POST", ALL, make_webhook, EXAMPLE, _BODY, 201),
    _changing("PUT", ONE, change_webhook, EXAMPLE, _BODY),
    _changing("DELETE", ONE, remove_webhook, RemovedWebhook(EXAMPLE.webhook_id, removed=True)),
    _changing("POST", f"{ONE}/enable", enable_webhook, EXAMPLE),
    _changing("POST", f"{ONE}/disable", disable_webhook, EXAMPLE),
]
