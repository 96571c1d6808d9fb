"""A webhook, folded from the log: its configuration over HTTP, and the counts of its deliveries.

A webhook from a file has only counts here: its configuration is in the file. An event of a configuration has
all of it except the secret, which is in no event.

Refused requests are not deliveries, since anybody can send them. The node that refuses them counts them, and
publishes the counts once a second, together with the durations of accepted deliveries: ``webhook.measured``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import attrs

from heliograph.model.channels import WEBHOOKS
from heliograph.model.event import Event
from heliograph.model.ids import OLDEST, EventId
from heliograph.model.kind import Key, Kind
from heliograph.model.prices import Prices
from heliograph.model.webhooks.delivery import DELIVERY, HOUR_FORMAT, LONGEST, DeliveryShare, share_of

CONFIGURED = "webhook.configured"
SWITCHED = "webhook.switched"
REMOVED = "webhook.removed"
MEASURED = "webhook.measured"
OWN_TOPICS = frozenset({CONFIGURED, SWITCHED, REMOVED, MEASURED})
"""The topics of the service itself: a key that may publish need not be one that may configure."""

HOURS = 48
"""The number of hours whose counts are kept."""


@attrs.define
class Webhook:
    """The state of a webhook.

    Args:
        definition: Its configuration, as it was made over HTTP; ``None``: it comes from a file, or is
            unknown.
        enabled: Whether deliveries are taken.
        removed: Whether it was deleted.
        deliveries: The number of its deliveries, by status.
        refused: The number of refused requests, by reason.
        latencies: The number of deliveries by the time until they were kept, in bins of microseconds.
        hours: The number of deliveries in each of the last hours.
        last_event_at: The time of the last delivery.
        last_event_id: The last event that configured it, switched it or removed it.
    """

    webhook_id: str
    created_at: datetime
    updated_at: datetime
    definition: dict[str, Any] | None = None
    created_by: str | None = None
    enabled: bool = True
    removed: bool = False
    provider: str | None = None
    deliveries: dict[str, int] = attrs.field(factory=dict)
    refused: dict[str, int] = attrs.field(factory=dict)
    latencies: dict[str, int] = attrs.field(factory=dict)
    hours: dict[str, int] = attrs.field(factory=dict)
    last_event_at: datetime | None = None
    last_event_id: EventId = OLDEST

    @classmethod
    def first_seen(cls, event: Event) -> Webhook:
        """Begin a webhook at its first event."""
        return cls(event.payload["webhook_id"], event.timestamp, event.timestamp)

    @classmethod
    def fed(cls, share: DeliveryShare) -> Webhook:
        """Begin a webhook at its first delivery."""
        return cls(share.webhook_id, share.seen, share.seen, provider=share.provider)

    @property
    def received(self) -> int:
        """The number of its deliveries."""
        return sum(self.deliveries.values())

    def apply(self, event: Event, prices: Prices) -> None:
        """Fold one event of this webhook."""
        payload = event.payload
        match event.topic:
            case "webhook.configured":
                if self.definition is None or self.removed:
                    self.created_at = event.timestamp
                self.definition, self.removed = payload["definition"], False
                self.enabled = payload["enabled"]
                self.created_by = payload.get("created_by") or self.created_by
            case "webhook.switched":
                self.enabled = payload["enabled"]
            case "webhook.removed":
                self.removed, self.enabled, self.definition = True, False, None
            case "webhook.measured":
                for counts, said in (
                    (self.refused, payload["refused"]),
                    (self.latencies, payload["latencies"]),
                ):
                    for name, number in said.items():
                        counts[name] = counts.get(name, 0) + number
        if event.topic != MEASURED:
            self.last_event_id = event.id
            self.updated_at = max(self.updated_at, event.timestamp)

    def feed(self, share: DeliveryShare, sign: int) -> None:
        """Add a delivery, or take it away again.

        Args:
            share: The share of a delivery.
            sign: 1 to add it, -1 to take it away.
        """
        _count(self.deliveries, share.status, sign)
        _count(self.hours, share.seen.astimezone(UTC).strftime(HOUR_FORMAT), sign)
        for hour in sorted(self.hours)[:-HOURS]:
            del self.hours[hour]
        if sign > 0:
            self.provider = share.provider
            self.last_event_at = max(self.last_event_at or share.seen, share.seen)


def _count(counts: dict[str, int], name: str, sign: int) -> None:
    count = counts.pop(name, 0) + sign
    if count > 0:
        counts[name] = count


def _key_of(event: Event) -> Key | None:
    name, form = event.payload.get("webhook_id"), _FORMS.get(event.topic)
    if form is None or not isinstance(name, str) or not 0 < len(name) <= LONGEST:
        return None
    # A log may have older events of these topics, from when publishers could use them.
    return (name,) if all(isinstance(event.payload.get(field), cls) for field, cls in form.items()) else None


_FORMS: Mapping[str, Mapping[str, type]] = {
    CONFIGURED: {"enabled": bool, "definition": dict},
    SWITCHED: {"enabled": bool},
    REMOVED: {},
    MEASURED: {"refused": dict, "latencies": dict},
}


@attrs.frozen
class WebhookFilter:
    """The webhooks that a list shows; ``None`` does not filter."""

    removed: bool | None = None


WEBHOOK = Kind(
    name="webhook",
    value=Webhook,
    key=("webhook_id",),
    order=("created_at", "webhook_id"),
    family=WEBHOOKS,
    own=OWN_TOPICS,
    key_of=_key_of,
    first_seen=Webhook.first_seen,
    fed_by={DELIVERY: share_of},
    fed=Webhook.fed,
)
