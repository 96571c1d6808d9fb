"""A delivery: a request of a provider to a webhook, and its outcome.

It is folded from the events on the channel ``webhooks`` that name it (``webhook_event_id``). They come from
this service, or from a gateway that receives deliveries and publishes their stages. Each event is one stage:
received, validated, matched, task created, immediate response sent, or skipped with the reason.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import attrs

from heliograph.model.channels import WEBHOOKS
from heliograph.model.event import Event
from heliograph.model.ids import OLDEST, EventId
from heliograph.model.kind import Key, Kind
from heliograph.model.prices import Prices

RECEIVED = "webhook.received"
TASK_CREATED = "webhook.task_created"
SKIPPED = "webhook.skipped"
ANSWERED = "response.immediate"

DELIVERY_STATUSES = ("received", "accepted", "skipped")
LONGEST = 200
"""The most characters of a delivery's texts that are kept, some of which are indexed."""

HOUR_FORMAT = "%Y-%m-%dT%H:00:00Z"


class DeliveryShare(NamedTuple):
    """The share of one delivery in its webhook."""

    webhook_id: str
    provider: str
    seen: datetime
    status: str

    @property
    def owner(self) -> Key:
        """The webhook's key."""
        return (self.webhook_id,)


@attrs.define
class Delivery:
    """The state of a delivery.

    Args:
        webhook_id: The webhook that it came to; if a gateway does not name it, the webhook of its source.
        provider: The sender.
        event_type: The event at the provider.
        status: ``received``; ``accepted``: a task was made of it; ``skipped``: no task was made.
        reason: Why no task was made.
        matched_command: The command that it asked for.
        task_id: The task that was made of it.
        response_sent: Whether its sender got an immediate response.
        delivery_id: The provider's id.
        payload_size: The size of its payload in bytes.
    """

    event_id: str
    created_at: datetime
    updated_at: datetime
    webhook_id: str | None = None
    provider: str | None = None
    event_type: str | None = None
    status: str = "received"
    reason: str | None = None
    matched_command: str | None = None
    task_id: str | None = None
    response_sent: bool = False
    delivery_id: str | None = None
    payload_size: int | None = None
    last_event_id: EventId = OLDEST

    @classmethod
    def first_seen(cls, event: Event) -> Delivery:
        """Begin a delivery at the first event that names it."""
        return cls(event.payload["webhook_event_id"], event.timestamp, event.timestamp)

    def apply(self, event: Event, prices: Prices) -> None:
        """Fold one event of this delivery."""
        payload = event.payload
        self.last_event_id = event.id
        self.updated_at = max(self.updated_at, event.timestamp)
        self.provider = _text(payload.get("source")) or self.provider
        self.event_type = _text(payload.get("event_type")) or self.event_type
        self.delivery_id = _text(payload.get("delivery_id")) or self.delivery_id
        self.task_id = _text(payload.get("task_id")) or self.task_id
        self.webhook_id = _text(payload.get("webhook_id")) or self.webhook_id or _static(self.provider)
        self.matched_command = (
            _text(payload.get("matched_command"), payload.get("matched_handler")) or self.matched_command
        )
        size = payload.get("payload_size")
        if isinstance(size, int) and 0 <= size < 2**50:
            self.payload_size = size
        match event.topic:
            case "webhook.task_created":
                self.status, self.reason = "accepted", None
            case "webhook.skipped":
                self.status, self.reason = "skipped", _text(payload.get("reason"))
            case "response.immediate":
                self.response_sent = True


def _text(*values: Any) -> str | None:
    return next((value[:LONGEST] for value in values if isinstance(value, str) and value), None)


def _static(provider: str | None) -> str | None:
    return f"static-{provider}" if provider else None


def share_of(delivery: Delivery) -> DeliveryShare | None:
    """Return the share of a delivery in its webhook; ``None`` while its webhook is unknown."""
    if delivery.webhook_id is None:
        return None
    return DeliveryShare(
        delivery.webhook_id, delivery.provider or "custom", delivery.created_at, delivery.status
    )


def _key_of(event: Event) -> Key | None:
    name = event.payload.get("webhook_event_id")
    return (name,) if isinstance(name, str) and 0 < len(name) <= LONGEST else None


@attrs.frozen
class DeliveryFilter:
    """The deliveries that a list shows; ``None`` and empty ids do not filter."""

    webhook_id: str | None = None
    provider: str | None = None
    status: str | None = None
    event_type: str | None = None
    task_id: str | None = None
    event_ids: tuple[str, ...] = ()


DELIVERY = Kind(
    name="delivery",
    value=Delivery,
    key=("event_id",),
    order=("created_at", "event_id"),
    family=WEBHOOKS,
    key_of=_key_of,
    first_seen=Delivery.first_seen,
)
