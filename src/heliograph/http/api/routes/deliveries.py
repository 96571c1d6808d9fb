"""Deliveries to webhooks: their receipt, their list, and sums over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import attrs
from werkzeug.exceptions import RequestTimeout

from heliograph.actors.webhooks import Hook
from heliograph.config import Settings
from heliograph.http.api import samples
from heliograph.http.api.endpoint import Described, Endpoint
from heliograph.http.api.routes.webhooks import EXAMPLE, Count, OfWebhook, of_webhooks, rows_of
from heliograph.http.api.services import Services
from heliograph.http.api.shared import ListMeta
from heliograph.http.rules.asked import Asked, Headers
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.bodies import JSON, WholeReader
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
from heliograph.model.errors import (
    BadSignature,
    Forbidden,
    Invalid,
    Malformed,
    NotFound,
    RepeatedDelivery,
    TooLarge,
    Unavailable,
)
from heliograph.model.ids import from_microseconds, to_microseconds
from heliograph.model.webhooks.delivery import DELIVERY, DELIVERY_STATUSES, Delivery, DeliveryFilter
from heliograph.model.webhooks.webhook import Webhook

QUANTILES = (0.5, 0.9, 0.99)


@attrs.frozen
class Parcel:
    """A delivery, unopened."""

    headers: Headers
    body: bytes


class AnyBody:
    """A body of any media type, which is signed as it is."""

    def reader(self, asked: Asked, settings: Settings) -> _ParcelReader:
        """Make the reader of a body."""
        return _ParcelReader(asked.headers, settings.server.max_request_bytes)

    def describe(self, settings: Settings, components: Components) -> Mapping[str, Any]:
        """Describe it for OpenAPI."""
        return {"required": True, "content": {JSON: {"schema": {"type": "object"}}}}


class _ParcelReader(WholeReader):
    def __init__(self, headers: Headers, most: int) -> None:
        super().__init__(most)
        self._headers = headers

    def end(self) -> Parcel:
        return Parcel(self._headers, self.whole())


@attrs.frozen
class DeliveryReceipt:
    """A delivery, and its outcome."""

    success: bool
    webhook_id: str
    event_type: str
    event_id: Annotated[str | None, says("The delivery's id here.")]
    matched_command: Annotated[str | None, says("The command that it asks for.")]
    task_id: Annotated[str | None, says("The task that was made of it.")]
    reason: Annotated[str | None, says("The reason why no task was made.")]
    challenge: Annotated[str | None, says("The answer to a provider's challenge.")] = None


async def receive(services: Services, who: Identity, asked: OfWebhook, parcel: Parcel) -> DeliveryReceipt:
    """Take a delivery in; the answer comes when it is durable, before any work on it."""
    received = await services.receiver.receive(asked.webhook_id, parcel.headers.get, parcel.body)
    return DeliveryReceipt(True, **attrs.asdict(received))


def _delivery_key(microseconds: int, event_id: str) -> tuple[datetime, str]:
    if not 0 <= microseconds < 2**58:
        raise ValueError("no delivery has such a key")
    return from_microseconds(microseconds), event_id


@attrs.frozen
class DeliveryListing:
    """The filters and the page of a list of deliveries."""

    webhook_id: str | None = query(Text(), "Only deliveries of this webhook.")
    provider: str | None = query(Text(), "Only deliveries of this provider.")
    status: str | None = query(Word(DELIVERY_STATUSES), "Only these.")
    event_type: str | None = query(Text(), "Only deliveries of this event.")
    task_id: str | None = query(Text(), "Only the delivery that this task was made of.")
    limit: int = page_limit()
    cursor: tuple[datetime, str] | None = page_cursor(_delivery_key, int, str)

    def filter(self) -> DeliveryFilter:
        """Return the filter for the store."""
        return DeliveryFilter(self.webhook_id, self.provider, self.status, self.event_type, self.task_id)


@attrs.frozen
class OfDelivery:
    """One delivery."""

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
    look = services.store.look()
    found, more = await look.list(DELIVERY, asked.filter(), asked.cursor, asked.limit)
    last = encode_cursor(to_microseconds(found[-1].created_at), found[-1].event_id) if more else None
    return DeliveryList([_delivery_view(one) for one in found], ListMeta(last, look.position))


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


@attrs.frozen
class HourOfWebhook:
    """An hour."""

    hour: str
    count: Count


@attrs.frozen
class WebhookStats:
    """Counters of one webhook."""

    webhook_id: str
    name: str
    enabled: bool
    received: Count
    accepted: Count
    skipped: Count
    refused: Annotated[
        Mapping[str, int], says("The number by reason: unsigned, mismatch, stale, repeated, …")
    ]
    last_event_at: datetime | None
    latency_ms: Annotated[Mapping[str, float], says("The time until deliveries were kept: p50, p90, p99.")]
    per_hour: Annotated[Sequence[HourOfWebhook], says("The newest 48 hours with deliveries.")]


@attrs.frozen
class WebhooksStats:
    """Counters of all webhooks."""

    total_webhooks: Count
    active_webhooks: Count
    events_by_webhook: Mapping[str, int]
    received: Count
    accepted: Count
    skipped: Count
    refused: Mapping[str, int]
    webhooks: Sequence[WebhookStats]


async def webhook_stats(services: Services, who: Identity, asked: Nothing) -> WebhooksStats:
    """Count deliveries by outcome, and refusals by reason; tell how long deliveries took."""
    rows = await rows_of(services)
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


DELIVERED = DeliveryView(
    event_id="evt-00112233445566778899aabb",
    webhook_id=EXAMPLE.webhook_id,
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
    True, EXAMPLE.webhook_id, "deploy", DELIVERED.event_id, "run", DELIVERED.task_id, None
)
_STATS = WebhooksStats(
    total_webhooks=1,
    active_webhooks=1,
    events_by_webhook={EXAMPLE.webhook_id: 1},
    received=1,
    accepted=1,
    skipped=0,
    refused={"mismatch": 2},
    webhooks=[
        WebhookStats(
            webhook_id=EXAMPLE.webhook_id,
            name=EXAMPLE.name,
            enabled=True,
            received=1,
            accepted=1,
            skipped=0,
            refused={"mismatch": 2},
            last_event_at=samples.OUTPUT.timestamp,
            latency_ms={"p50": 2.0, "p90": 2.0, "p99": 2.0},
            per_hour=[HourOfWebhook("2026-01-31T12:00:00Z", 1)],
        )
    ],
)

ENDPOINTS = [
    Endpoint(
        "POST",
        "/webhooks/{webhook_id}",
        receive,
        "webhooks",
        Described(
            "The delivery is kept.",
            more="Its signature is checked as its provider makes it; no API key is asked for.",
        ),
        scope=None,
        body=AnyBody(),
        refuses=(
            *(NotFound, Forbidden, BadSignature, RepeatedDelivery, Malformed),
            *(RequestTimeout, TooLarge, Unavailable),
        ),
        example=_RECEIPT,
    ),
    Endpoint(
        "GET",
        "/api/v1/webhooks/events",
        list_deliveries,
        "webhooks",
        Described("A page of deliveries."),
        channels=of_webhooks,
        refuses=(Invalid, Unavailable),
        example=DeliveryList([DELIVERED], samples.LAST_PAGE),
    ),
    Endpoint(
        "GET",
        "/api/v1/webhooks/events/{event_id}",
        get_delivery,
        "webhooks",
        Described("The delivery."),
        channels=of_webhooks,
        refuses=(NotFound, Invalid, Unavailable),
        example=DELIVERED,
    ),
    Endpoint(
        "GET",
        "/api/v1/webhooks/stats",
        webhook_stats,
        "webhooks",
        Described("Counts."),
        channels=of_webhooks,
        refuses=(Invalid, Unavailable),
        example=_STATS,
    ),
]
