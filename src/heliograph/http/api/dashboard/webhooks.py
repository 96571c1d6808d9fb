"""Webhooks in the dashboard's form: bare arrays, and the contents of its cards."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import attrs

from heliograph.http.api.endpoint import DASHBOARD, Described, Endpoint, of_view
from heliograph.http.api.routes import deliveries, webhooks
from heliograph.http.api.routes.deliveries import DeliveryList, DeliveryListing, DeliveryView
from heliograph.http.api.routes.webhooks import (
    BrokenFile,
    Count,
    NewWebhook,
    RemovedWebhook,
    WebhookList,
    WebhookView,
    of_webhooks,
)
from heliograph.http.api.services import Services
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.bodies import JsonBody
from heliograph.http.rules.parameters import Nothing
from heliograph.http.rules.schema import says
from heliograph.model.errors import Invalid, Unavailable
from heliograph.model.webhooks.config import PROVIDERS


@attrs.frozen
class WebhookRow:
    """A webhook, in short."""

    webhook_id: str
    name: str
    provider: str
    endpoint: str
    is_builtin: bool
    enabled: bool


@attrs.frozen
class WebhookCard(WebhookRow):
    """A webhook, as its card shows it."""

    public_url: str | None
    event_count: Count
    last_event_at: datetime | None
    created_at: datetime | None
    has_secret: bool


@attrs.frozen
class WebhookCards:
    """All webhooks, as their view shows them."""

    webhooks: Sequence[WebhookCard]
    total_count: Count
    active_count: Count
    public_domain: str | None
    broken: Sequence[BrokenFile]


@attrs.frozen
class WebhooksStatus:
    """The status of all webhooks."""

    success: bool
    data: WebhookCards


@attrs.frozen
class RecentDeliveries:
    """The newest deliveries."""

    success: bool
    data: Sequence[DeliveryView]


@attrs.frozen
class WebhookDone:
    """The outcome of a change of a webhook."""

    success: bool
    message: str
    data: WebhookRow


@attrs.frozen
class WebhookGone:
    """A webhook that is no more."""

    success: bool
    message: str


@attrs.frozen(kw_only=True)
class ConfiguredWebhook(NewWebhook):
    """A webhook to be made, with its provider."""

    name: Annotated[str, says(maxLength=200)]
    provider: Annotated[str, says(f"One of {', '.join(PROVIDERS)}.")]


async def configure_webhook(
    services: Services, who: Identity, asked: Nothing, new: ConfiguredWebhook
) -> WebhookView:
    """Make a webhook; it takes deliveries at once."""
    return await webhooks.make_webhook(services, who, asked, new)


def _row(view: WebhookView) -> WebhookRow:
    return WebhookRow(**{field.name: getattr(view, field.name) for field in attrs.fields(WebhookRow)})


def _card(view: WebhookView) -> WebhookCard:
    return WebhookCard(**{field.name: getattr(view, field.name) for field in attrs.fields(WebhookCard)})


def rows(found: WebhookList) -> list[WebhookRow]:
    """Present all webhooks."""
    return [_row(view) for view in found.webhooks]


def delivery_rows(found: DeliveryList) -> list[DeliveryView]:
    """Present a page of deliveries."""
    return list(found.events)


def done(found: WebhookView) -> WebhookDone:
    """Present a webhook that was changed."""
    return WebhookDone(True, f"The webhook {found.name} is {'on' if found.enabled else 'off'}", _row(found))


def gone(found: RemovedWebhook) -> WebhookGone:
    """Present the end of a webhook."""
    return WebhookGone(True, f"The webhook {found.webhook_id} is removed")


async def recent_deliveries(services: Services, who: Identity, asked: DeliveryListing) -> RecentDeliveries:
    """List the newest deliveries."""
    return RecentDeliveries(True, (await deliveries.list_deliveries(services, who, asked)).events)


async def webhooks_status(services: Services, who: Identity, asked: Nothing) -> WebhooksStatus:
    """Return the contents of all webhooks' cards."""
    found = await webhooks.list_webhooks(services, who, asked)
    return WebhooksStatus(True, _cards(found, services.settings.webhook_public_domain or None))


def _cards(found: WebhookList, domain: str | None) -> WebhookCards:
    cards = [_card(view) for view in found.webhooks]
    return WebhookCards(cards, len(cards), sum(card.enabled for card in cards), domain, found.broken)


_ALL, _ONE = "/api/webhooks", "/api/webhooks/{webhook_id}"
_CONFIGURED, _DELIVERED = webhooks.ENDPOINTS, deliveries.ENDPOINTS

ENDPOINTS = [
    of_view(_CONFIGURED, webhooks.list_webhooks).in_dashboard(_ALL, "All webhooks.", rows),
    of_view(_DELIVERED, deliveries.list_deliveries).in_dashboard(
        f"{_ALL}/events", "A page of deliveries.", delivery_rows
    ),
    Endpoint(
        "GET",
        f"{_ALL}/events/recent",
        recent_deliveries,
        DASHBOARD,
        Described("The newest deliveries."),
        channels=of_webhooks,
        refuses=(Invalid, Unavailable),
        example=RecentDeliveries(True, [deliveries.DELIVERED]),
    ),
    of_view(_DELIVERED, deliveries.get_delivery).in_dashboard(f"{_ALL}/events/{{event_id}}", "The delivery."),
    of_view(_DELIVERED, deliveries.webhook_stats).in_dashboard(f"{_ALL}/stats", "Counts."),
    Endpoint(
        "GET",
        "/api/webhooks-status",
        webhooks_status,
        DASHBOARD,
        Described("All webhooks."),
        channels=of_webhooks,
        refuses=(Invalid, Unavailable),
        example=WebhooksStatus(True, WebhookCards([_card(webhooks.EXAMPLE)], 1, 1, None, [])),
    ),
    of_view(_CONFIGURED, webhooks.get_webhook).in_dashboard(_ONE, "The webhook."),
    of_view(_DELIVERED, deliveries.receive).in_dashboard(_ONE, "The delivery is kept."),
    attrs.evolve(
        of_view(_CONFIGURED, webhooks.make_webhook).in_dashboard(_ALL, "The changed webhook.", done),
        view=configure_webhook,
        body=JsonBody(ConfiguredWebhook),
    ),
    of_view(_CONFIGURED, webhooks.change_webhook).in_dashboard(_ONE, "The changed webhook.", done),
    of_view(_CONFIGURED, webhooks.remove_webhook).in_dashboard(_ONE, "The webhook is removed.", gone),
    of_view(_CONFIGURED, webhooks.enable_webhook).in_dashboard(
        f"{_ONE}/enable", "The changed webhook.", done
    ),
    of_view(_CONFIGURED, webhooks.disable_webhook).in_dashboard(
        f"{_ONE}/disable", "The changed webhook.", done
    ),
]
