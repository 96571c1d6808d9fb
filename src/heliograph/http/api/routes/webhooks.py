"""Webhooks: the receiver, what is configured, what was delivered, and what that adds up to.

Under ``/api/v1`` answers are objects with ``meta``; under ``/api`` they have the shapes of dashboards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from secrets import token_hex
from typing import Annotated, Any

import attrs
from werkzeug.exceptions import RequestTimeout

from heliograph.actors.webhooks import Hook
from heliograph.config import Settings
from heliograph.http.api import samples
from heliograph.http.api.endpoint import Described, Endpoint
from heliograph.http.api.services import Services
from heliograph.http.api.shared import ListMeta, Meta
from heliograph.http.rules.asked import Asked, Fields
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.bodies import JSON, JsonBody
from heliograph.http.rules.parameters import (
    Nothing,
    Text,
    Word,
    encode_cursor,
    page_cursor,
    page_limit,
    path,
    query,
)
from heliograph.http.rules.schema import Components, says
from heliograph.model.analytics.sketch import dump, merged, quantiles
from heliograph.model.channels import WEBHOOKS
from heliograph.model.errors import (
    BadSignature,
    FieldError,
    Forbidden,
    Invalid,
    Malformed,
    NotFound,
    RepeatedDelivery,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from heliograph.model.ids import from_microseconds, to_microseconds
from heliograph.model.webhooks.config import PROVIDERS, Command, WebhookConfig
from heliograph.model.webhooks.delivery import (
    DELIVERY,
    DELIVERY_STATUSES,
    Delivery,
    DeliveryFilter,
)
from heliograph.model.webhooks.webhook import WEBHOOK, Webhook, WebhookFilter

QUANTILES = (0.5, 0.9, 0.99)
DEFAULT_COMMAND: Mapping[str, Any] = {"name": "run", "template": "{{ full_text or payload }}"}
"""What a webhook does that was made without commands: hand on what it is told."""

Count = Annotated[int, says(minimum=0)]


# The receiver


@attrs.frozen
class Parcel:
    """A delivery, unopened."""

    headers: Fields
    body: bytes


class AnyBody:
    """A body that is signed as it is, whatever it says that it is."""

    def reader(self, asked: Asked, settings: Settings) -> _ParcelReader:
        """Make the reader of a body."""
        return _ParcelReader(asked.headers, settings.server.max_request_bytes)

    def describe(self, settings: Settings, components: Components) -> Mapping[str, Any]:
        """Describe it for OpenAPI."""
        return {"required": True, "content": {JSON: {"schema": {"type": "object"}}}}


class _ParcelReader:
    def __init__(self, headers: Fields, most: int) -> None:
        self._headers = headers
        self._most = most
        self._read = bytearray()

    def feed(self, data: bytes) -> None:
        if len(self._read) + len(data) > self._most:
            raise TooLarge(f"the body may have at most {self._most} bytes")
        self._read += data

    def end(self) -> Parcel:
        return Parcel(self._headers, bytes(self._read))


@attrs.frozen
class AtEndpoint:
    """Which webhook."""

    hook: str = path(Text(), "The last part of the webhook's endpoint.")


@attrs.frozen
class OfWebhook:
    """Which webhook."""

    webhook_id: str = path(Text(), "The webhook's id; to deliver to, its endpoint's last part will do.")


@attrs.frozen
class DeliveryReceipt:
    """What became of a delivery."""

    success: bool
    webhook_id: str
    event_type: str
    event_id: Annotated[str | None, says("Our id of it.")]
    matched_command: Annotated[str | None, says("What it asks for.")]
    task_id: Annotated[str | None, says("The task that was made of it.")]
    reason: Annotated[str | None, says("Why none was made.")]
    challenge: Annotated[str | None, says("Given back to a provider that asks for it.")] = None


async def receive(services: Services, who: Identity, asked: AtEndpoint, parcel: Parcel) -> DeliveryReceipt:
    """Take a delivery in; answered when it is durable, whoever works on it later."""
    return await _receive(services, asked.hook, parcel)


async def receive_under_api(
    services: Services, who: Identity, asked: OfWebhook, parcel: Parcel
) -> DeliveryReceipt:
    """Take a delivery in, under the prefix of the API."""
    return await _receive(services, asked.webhook_id, parcel)


async def _receive(services: Services, name: str, parcel: Parcel) -> DeliveryReceipt:
    received = await services.receiver.receive(name, parcel.headers.get, parcel.body)
    return DeliveryReceipt(True, **attrs.asdict(received))


# What is configured


@attrs.frozen
class NewWebhook:
    """A webhook to be made, or what is to be changed of one."""

    name: Annotated[str | None, says(maxLength=200)] = None
    provider: Annotated[str | None, says(f"One of {', '.join(PROVIDERS)}; custom if none is said.")] = None
    endpoint: Annotated[str | None, says("/webhooks/ and a name; made of the name if none is said.")] = None
    description: Annotated[str | None, says(maxLength=2000)] = None
    enabled: bool | None = None
    secret: Annotated[
        str | None, says("Kept apart, and never shown; empty: there is none any more.", maxLength=500)
    ] = None
    commands: Annotated[
        Sequence[Mapping[str, Any]] | None,
        says("Each has name and template, and what files may say; none: its text becomes a task."),
    ] = None
    default_command: str | None = None
    target_agent: Annotated[str | None, says(maxLength=200)] = None
    agent_trigger: Annotated[Mapping[str, Any] | None, says("prefix, aliases, assignee_trigger")] = None
    security: Annotated[Mapping[str, Any] | None, says("requires_signature, signature_header")] = None

    def said(self) -> dict[str, Any]:
        """Return what is said, without the secret."""
        fields = attrs.asdict(self, recurse=False)
        del fields["secret"]
        if self.commands is not None:
            fields["commands"] = list(self.commands)
        return {name: value for name, value in fields.items() if value is not None}


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
    target_agent: str
    default_command: str | None
    prefix: str
    aliases: Sequence[str]
    commands: Sequence[CommandView]
    event_count: Count
    last_event_at: datetime | None
    created_at: datetime | None
    created_by: str | None


@attrs.frozen
class BrokenFile:
    """A file that should be a webhook and is none."""

    file: str
    detail: str
    errors: Sequence[FieldError]


@attrs.frozen
class WebhookList:
    """All webhooks."""

    webhooks: Sequence[WebhookView]
    broken: Annotated[Sequence[BrokenFile], says("Files that should be webhooks, and why they are none.")]
    meta: Meta


@attrs.frozen
class RemovedWebhook:
    """A webhook that is gone."""

    webhook_id: str
    removed: bool


async def list_webhooks(services: Services, who: Identity, asked: Nothing) -> WebhookList:
    """List all webhooks, those in files first, and the files that are broken."""
    position = await services.store.checkpoint()
    return WebhookList(await _views(services), _broken(services), Meta(position))


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
    """Change a webhook that was made here: what is not said stays."""
    hook = await _change(services, who, asked.webhook_id, change)
    row = await services.store.get(WEBHOOK, hook.webhook_id)
    return _view(services, hook, row)


async def remove_webhook(services: Services, who: Identity, asked: OfWebhook) -> RemovedWebhook:
    """Remove a webhook that was made here, and its secret."""
    await services.webhooks.remove(asked.webhook_id)
    return RemovedWebhook(asked.webhook_id, removed=True)


async def enable_webhook(services: Services, who: Identity, asked: OfWebhook) -> WebhookView:
    """Let a webhook take deliveries."""
    return _view(services, await services.webhooks.switch(asked.webhook_id, True), None)


async def disable_webhook(services: Services, who: Identity, asked: OfWebhook) -> WebhookView:
    """Let a webhook refuse deliveries."""
    return _view(services, await services.webhooks.switch(asked.webhook_id, False), None)


async def _make(services: Services, who: Identity, new: NewWebhook) -> Hook:
    said = new.said()
    if not said.get("commands"):
        said |= {"commands": [dict(DEFAULT_COMMAND)], "default_command": DEFAULT_COMMAND["name"]}
    return await services.webhooks.configure(f"wh-{token_hex(6)}", said, new.secret, who.name)


async def _change(services: Services, who: Identity, webhook_id: str, change: NewWebhook) -> Hook:
    said = {**services.webhooks.definition(webhook_id), **change.said()}
    return await services.webhooks.configure(webhook_id, said, change.secret, who.name)


async def _rows(services: Services) -> Mapping[str, Webhook]:
    rows: dict[str, Webhook] = {}
    after, more = None, True
    while more:
        found, more = await services.store.list(WEBHOOK, WebhookFilter(), after, 500)
        rows.update((row.webhook_id, row) for row in found)
        after = WEBHOOK.position(found[-1]) if found else None
    return rows


async def _views(services: Services) -> list[WebhookView]:
    rows = await _rows(services)
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
        target_agent=config.agent,
        default_command=config.default_command,
        prefix=config.prefix,
        aliases=config.aliases,
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


def _broken(services: Services) -> list[BrokenFile]:
    return [
        BrokenFile(file, str(error), error.errors) for file, error in sorted(services.webhooks.broken.items())
    ]


# What was delivered


def _delivery_key(microseconds: int, event_id: str) -> tuple[datetime, str]:
    if not 0 <= microseconds < 2**58:
        raise ValueError("no delivery has such a key")
    return from_microseconds(microseconds), event_id


@attrs.frozen
class DeliveryListing:
    """Which deliveries to list."""

    webhook_id: str | None = query(Text(), "Of this webhook.")
    provider: str | None = query(Text(), "Of this provider.")
    status: str | None = query(Word(DELIVERY_STATUSES), "Only these.")
    event_type: str | None = query(Text(), "Of just this event.")
    task_id: str | None = query(Text(), "Of which this task was made.")
    limit: int = page_limit()
    cursor: tuple[datetime, str] | None = page_cursor(_delivery_key, int, str)

    def filter(self) -> DeliveryFilter:
        """Return what the store filters by."""
        return DeliveryFilter(self.webhook_id, self.provider, self.status, self.event_type, self.task_id)


@attrs.frozen
class RecentDeliveries:
    """How many deliveries to list."""

    webhook_id: str | None = query(Text(), "Of this webhook.")
    limit: int = page_limit()


@attrs.frozen
class OfDelivery:
    """Which delivery."""

    event_id: str = path(Text(), "The delivery's id.")


@attrs.frozen
class DeliveryView:
    """A delivery."""

    event_id: str
    webhook_id: str | None
    provider: str | None
    event_type: str | None
    status: Annotated[str, says(f"One of {', '.join(DELIVERY_STATUSES)}.")]
    reason: str | None
    matched_command: str | None
    task_id: str | None
    response_sent: bool
    delivery_id: Annotated[str | None, says("The provider's id.")]
    payload_size: int | None
    created_at: datetime
    updated_at: datetime


@attrs.frozen
class DeliveryList:
    """A page of deliveries."""

    events: Sequence[DeliveryView]
    meta: ListMeta


async def list_deliveries(services: Services, who: Identity, asked: DeliveryListing) -> DeliveryList:
    """List deliveries, newest first."""
    position = await services.store.checkpoint()
    found, more = await services.store.list(DELIVERY, asked.filter(), asked.cursor, asked.limit)
    last = encode_cursor(to_microseconds(found[-1].created_at), found[-1].event_id) if more else None
    return DeliveryList([_delivery_view(one) for one in found], ListMeta(last, position))


async def get_delivery(services: Services, who: Identity, asked: OfDelivery) -> DeliveryView:
    """Return one delivery."""
    found = await services.store.get(DELIVERY, asked.event_id)
    if found is None:
        raise NotFound(f"there is no delivery {asked.event_id[:200]!r}")
    return _delivery_view(found)


def _delivery_view(delivery: Delivery) -> DeliveryView:
    fields = attrs.asdict(delivery, recurse=False)
    del fields["last_event_id"]
    return DeliveryView(**fields)


# What that adds up to


@attrs.frozen
class HourOfWebhook:
    """An hour."""

    hour: str
    count: Count


@attrs.frozen
class WebhookStats:
    """What one webhook has done."""

    webhook_id: str
    name: str
    enabled: bool
    received: Count
    accepted: Count
    skipped: Count
    refused: Annotated[Mapping[str, int], says("By reason: unsigned, mismatch, stale, repeated, …")]
    last_event_at: datetime | None
    latency_ms: Annotated[Mapping[str, float], says("How long it took until they were kept: p50, p90, p99.")]
    per_hour: Annotated[Sequence[HourOfWebhook], says("The newest 48 with any.")]


@attrs.frozen
class WebhooksStats:
    """What all webhooks have done."""

    total_webhooks: Count
    active_webhooks: Count
    events_by_webhook: Mapping[str, int]
    received: Count
    accepted: Count
    skipped: Count
    refused: Mapping[str, int]
    webhooks: Sequence[WebhookStats]


async def webhook_stats(services: Services, who: Identity, asked: Nothing) -> WebhooksStats:
    """Tell what came, what was made of it, what was refused and why, and how long it took."""
    rows = await _rows(services)
    hooks = services.webhooks.hooks
    names = {hook.webhook_id: hook for hook in hooks}
    each = [
        _stats(
            rows.get(name) or Webhook(name, samples.CREATED.timestamp, samples.CREATED.timestamp),
            names.get(name),
        )
        for name in (*names, *(name for name, row in rows.items() if name not in names and row.received))
    ]
    refused: dict[str, int] = {}
    for one in each:
        for reason, count in one.refused.items():
            refused[reason] = refused.get(reason, 0) + count
    return WebhooksStats(
        total_webhooks=len(hooks),
        active_webhooks=sum(hook.config.enabled for hook in hooks),
        events_by_webhook={one.webhook_id: one.received for one in each},
        received=sum(one.received for one in each),
        accepted=sum(one.accepted for one in each),
        skipped=sum(one.skipped for one in each),
        refused=refused,
        webhooks=each,
    )


def _stats(row: Webhook, hook: Hook | None) -> WebhookStats:
    bins = {int(position): count for position, count in row.latencies.items()}
    found = quantiles(merged(dump(bins)), QUANTILES)
    latency = (
        {} if found is None else dict(zip(("p50", "p90", "p99"), (v / 1000 for v in found), strict=True))
    )
    return WebhookStats(
        webhook_id=row.webhook_id,
        name=row.webhook_id if hook is None else hook.config.name,
        enabled=hook is not None and hook.config.enabled,
        received=row.received,
        accepted=row.deliveries.get("accepted", 0),
        skipped=row.deliveries.get("skipped", 0),
        refused=row.refused,
        last_event_at=row.last_event_at,
        latency_ms=latency,
        per_hour=[HourOfWebhook(hour, row.hours[hour]) for hour in sorted(row.hours)],
    )


# In the shapes of dashboards


@attrs.frozen
class PlainWebhook:
    """A webhook, in short."""

    webhook_id: str
    name: str
    provider: str
    endpoint: str
    is_builtin: bool
    enabled: bool


@attrs.frozen
class StatusOfWebhook:
    """A webhook, as its card shows it."""

    webhook_id: str
    name: str
    provider: str
    endpoint: str
    public_url: str | None
    enabled: bool
    is_builtin: bool
    event_count: Count
    last_event_at: datetime | None
    created_at: datetime | None
    has_secret: bool


@attrs.frozen
class StatusOfWebhooks:
    """All webhooks, as their view shows them."""

    webhooks: Sequence[StatusOfWebhook]
    total_count: Count
    active_count: Count
    public_domain: str | None
    broken: Sequence[BrokenFile]


@attrs.frozen
class WebhooksStatus:
    """The status of all webhooks."""

    success: bool
    data: StatusOfWebhooks


@attrs.frozen
class RecentList:
    """The newest deliveries."""

    success: bool
    data: Sequence[DeliveryView]


@attrs.frozen
class WebhookDone:
    """What was done to a webhook."""

    success: bool
    message: str
    data: PlainWebhook


@attrs.frozen
class WebhookDoneAway:
    """A webhook that is gone."""

    success: bool
    message: str


async def dashboard_webhooks(services: Services, who: Identity, asked: Nothing) -> Sequence[PlainWebhook]:
    """List all webhooks, in short."""
    return [_plain(hook) for hook in services.webhooks.hooks]


async def dashboard_webhook(services: Services, who: Identity, asked: OfWebhook) -> PlainWebhook:
    """Return one webhook, in short."""
    return _plain(services.webhooks.get(asked.webhook_id))


async def dashboard_deliveries(
    services: Services, who: Identity, asked: RecentDeliveries
) -> Sequence[DeliveryView]:
    """List the newest deliveries."""
    wanted = DeliveryFilter(webhook_id=asked.webhook_id)
    found, _ = await services.store.list(DELIVERY, wanted, None, asked.limit)
    return [_delivery_view(one) for one in found]


async def dashboard_recent(services: Services, who: Identity, asked: RecentDeliveries) -> RecentList:
    """List the newest deliveries, wrapped."""
    return RecentList(True, await dashboard_deliveries(services, who, asked))


async def dashboard_delivery(services: Services, who: Identity, asked: OfDelivery) -> DeliveryView:
    """Return one delivery, for the dashboard."""
    return await get_delivery(services, who, asked)


async def dashboard_stats(services: Services, who: Identity, asked: Nothing) -> WebhooksStats:
    """Tell what came and what became of it, for the dashboard."""
    return await webhook_stats(services, who, asked)


async def webhooks_status(services: Services, who: Identity, asked: Nothing) -> WebhooksStatus:
    """Tell of all webhooks what their cards show."""
    views = await _views(services)
    names = [field.name for field in attrs.fields(StatusOfWebhook)]
    cards = [StatusOfWebhook(**{name: getattr(view, name) for name in names}) for view in views]
    return WebhooksStatus(
        True,
        StatusOfWebhooks(
            webhooks=cards,
            total_count=len(cards),
            active_count=sum(card.enabled for card in cards),
            public_domain=services.settings.webhook_public_domain or None,
            broken=_broken(services),
        ),
    )


async def dashboard_make(services: Services, who: Identity, asked: Nothing, new: NewWebhook) -> WebhookDone:
    """Make a webhook, for the dashboard."""
    return WebhookDone(True, "Webhook created", _plain(await _make(services, who, new)))


async def dashboard_change(
    services: Services, who: Identity, asked: OfWebhook, change: NewWebhook
) -> WebhookDone:
    """Change a webhook, for the dashboard."""
    return WebhookDone(
        True, "Webhook updated", _plain(await _change(services, who, asked.webhook_id, change))
    )


async def dashboard_remove(services: Services, who: Identity, asked: OfWebhook) -> WebhookDoneAway:
    """Remove a webhook, for the dashboard."""
    await services.webhooks.remove(asked.webhook_id)
    return WebhookDoneAway(True, "Webhook deleted")


async def dashboard_enable(services: Services, who: Identity, asked: OfWebhook) -> WebhookDone:
    """Let a webhook take deliveries, for the dashboard."""
    return WebhookDone(
        True, "Webhook enabled", _plain(await services.webhooks.switch(asked.webhook_id, True))
    )


async def dashboard_disable(services: Services, who: Identity, asked: OfWebhook) -> WebhookDone:
    """Let a webhook refuse deliveries, for the dashboard."""
    return WebhookDone(
        True, "Webhook disabled", _plain(await services.webhooks.switch(asked.webhook_id, False))
    )


def _plain(hook: Hook) -> PlainWebhook:
    config = hook.config
    return PlainWebhook(
        hook.webhook_id, config.name, config.provider, config.endpoint, config.is_builtin, config.enabled
    )


# Declarations


def _of_webhooks(asked: Any) -> tuple[str, ...]:
    """Return the channel that who asks for webhooks must be allowed to read."""
    return (WEBHOOKS,)


_CONFIG = WebhookConfig(
    "wh-0a1b2c3d4e5f", "Deploys", "custom", "/webhooks/deploys", (Command("run", "{{ text }}"),)
)
_HOOK = Hook(_CONFIG, created_at=samples.CREATED.timestamp, created_by="ada")
_PLAIN = _plain(_HOOK)
_VIEW = WebhookView(
    webhook_id=_PLAIN.webhook_id,
    name=_PLAIN.name,
    provider=_PLAIN.provider,
    endpoint=_PLAIN.endpoint,
    public_url=None,
    description="",
    enabled=True,
    is_builtin=False,
    has_secret=True,
    requires_signature=False,
    target_agent="brain",
    default_command=None,
    prefix="",
    aliases=(),
    commands=[_command_view(_CONFIG.commands[0])],
    event_count=1,
    last_event_at=samples.OUTPUT.timestamp,
    created_at=samples.CREATED.timestamp,
    created_by="ada",
)
_CARD = StatusOfWebhook(**{field.name: getattr(_VIEW, field.name) for field in attrs.fields(StatusOfWebhook)})
_DELIVERY = DeliveryView(
    event_id="evt-00112233445566778899aabb",
    webhook_id=_PLAIN.webhook_id,
    provider="custom",
    event_type="deploy",
    status="accepted",
    reason=None,
    matched_command="run",
    task_id="task-0a1b2c3d4e5f",
    response_sent=False,
    delivery_id="d-1",
    payload_size=120,
    created_at=samples.OUTPUT.timestamp,
    updated_at=samples.OUTPUT.timestamp,
)
_RECEIPT = DeliveryReceipt(
    True, _PLAIN.webhook_id, "deploy", _DELIVERY.event_id, "run", _DELIVERY.task_id, None
)
_ONE = WebhookStats(
    _PLAIN.webhook_id,
    _PLAIN.name,
    True,
    1,
    1,
    0,
    {"mismatch": 2},
    samples.OUTPUT.timestamp,
    {"p50": 2.0, "p90": 2.0, "p99": 2.0},
    [HourOfWebhook("2026-01-31T12:00:00Z", 1)],
)
_STATS = WebhooksStats(1, 1, {_PLAIN.webhook_id: 1}, 1, 1, 0, {"mismatch": 2}, [_ONE])

_ASKING = (Invalid, Unavailable)
_OF_ONE = (NotFound, Invalid, Unavailable)
_WITH_BODY = (
    *(Invalid, Unavailable),
    *(RequestTimeout, Malformed, TooLarge, UnsupportedMedia),
)
_DELIVERING = (
    *(NotFound, Forbidden, BadSignature, RepeatedDelivery, Malformed),
    *(RequestTimeout, TooLarge, Unavailable),
)
_TAKEN = Described(
    "It is kept.",
    more="What it must be signed by depends on its provider. No key is asked for: the signature is.",
)


def _reading(url: str, view: Any, said: str, example: Any, refuses: Any = _ASKING) -> Endpoint:
    return Endpoint(
        "GET",
        url,
        view,
        "webhooks",
        Described(said),
        channels=_of_webhooks,
        refuses=refuses,
        example=example,
    )


def _changing(method: str, url: str, view: Any, said: str, example: Any, **more: Any) -> Endpoint:
    refuses = _WITH_BODY if "body" in more else (NotFound, Invalid, Unavailable)
    if "{webhook_id}" in url:
        refuses = tuple(dict.fromkeys((NotFound, *refuses)))
    return Endpoint(
        method,
        url,
        view,
        "webhooks",
        Described(said),
        scope="admin",
        channels=_of_webhooks,
        refuses=refuses,
        example=example,
        **more,
    )


_BODY = JsonBody(NewWebhook)
_V1, _API = "/api/v1/webhooks", "/api/webhooks"
_RECENT = RecentList(True, [_DELIVERY])
_DONE = WebhookDone(True, "Webhook updated", _PLAIN)

ENDPOINTS = [
    *(
        Endpoint(
            "POST",
            url,
            view,
            "webhooks",
            _TAKEN,
            scope=None,
            body=AnyBody(),
            refuses=_DELIVERING,
            example=_RECEIPT,
        )
        for url, view in (("/webhooks/{hook}", receive), (f"{_API}/{{webhook_id}}", receive_under_api))
    ),
    _reading(_V1, list_webhooks, "All of them.", WebhookList([_VIEW], [], samples.META)),
    _reading(
        f"{_V1}/events",
        list_deliveries,
        "A page of deliveries.",
        DeliveryList([_DELIVERY], samples.LAST_PAGE),
    ),
    _reading(f"{_V1}/events/{{event_id}}", get_delivery, "The delivery.", _DELIVERY, _OF_ONE),
    _reading(f"{_V1}/stats", webhook_stats, "Counts.", _STATS),
    _reading(f"{_V1}/{{webhook_id}}", get_webhook, "The webhook.", _VIEW, _OF_ONE),
    _changing("POST", _V1, make_webhook, "As it is now.", _VIEW, body=_BODY, status=201),
    _changing("PUT", f"{_V1}/{{webhook_id}}", change_webhook, "As it is now.", _VIEW, body=_BODY),
    _changing(
        "DELETE", f"{_V1}/{{webhook_id}}", remove_webhook, "It is gone.", RemovedWebhook("wh-1", removed=True)
    ),
    _changing("POST", f"{_V1}/{{webhook_id}}/enable", enable_webhook, "As it is now.", _VIEW),
    _changing("POST", f"{_V1}/{{webhook_id}}/disable", disable_webhook, "As it is now.", _VIEW),
    _reading(_API, dashboard_webhooks, "All of them.", [_PLAIN], (Invalid,)),
    _reading(f"{_API}/events", dashboard_deliveries, "The newest deliveries.", [_DELIVERY]),
    _reading(f"{_API}/events/recent", dashboard_recent, "The newest deliveries.", _RECENT),
    _reading(f"{_API}/events/{{event_id}}", dashboard_delivery, "The delivery.", _DELIVERY, _OF_ONE),
    _reading(f"{_API}/stats", dashboard_stats, "Counts.", _STATS),
    _reading(
        "/api/webhooks-status",
        webhooks_status,
        "All of them.",
        WebhooksStatus(True, StatusOfWebhooks([_CARD], 1, 1, None, [])),
    ),
    _reading(f"{_API}/{{webhook_id}}", dashboard_webhook, "The webhook.", _PLAIN, (NotFound, Invalid)),
    _changing("POST", _API, dashboard_make, "As it is now.", _DONE, body=_BODY, status=201),
    _changing("PUT", f"{_API}/{{webhook_id}}", dashboard_change, "As it is now.", _DONE, body=_BODY),
    _changing(
        "DELETE",
        f"{_API}/{{webhook_id}}",
        dashboard_remove,
        "It is gone.",
        WebhookDoneAway(True, "Webhook deleted"),
    ),
    _changing("POST", f"{_API}/{{webhook_id}}/enable", dashboard_enable, "As it is now.", _DONE),
    _changing("POST", f"{_API}/{{webhook_id}}/disable", dashboard_disable, "As it is now.", _DONE),
]
