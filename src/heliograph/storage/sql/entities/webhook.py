"""The tables of webhooks and of their deliveries."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Index, Table, Text, false, true

from heliograph.model.webhooks.delivery import DELIVERY
from heliograph.model.webhooks.webhook import WEBHOOK
from heliograph.storage.sql.entity import Entity, Retired
from heliograph.storage.sql.schema import Big, Json, UtcMoment, metadata

deliveries = Table(
    "deliveries",
    metadata,
    Column("event_id", Text, primary_key=True),
    Column("created_at", UtcMoment, nullable=False),
    Column("updated_at", UtcMoment, nullable=False),
    *(Column(name, Text) for name in ("webhook_id", "provider", "event_type")),
    Column("status", Text, nullable=False),
    *(Column(name, Text) for name in ("reason", "matched_command", "task_id")),
    Column("response_sent", Boolean, nullable=False, server_default=false()),
    Column("delivery_id", Text),
    Column("payload_size", Big),
    Column("last_event_id", Big, nullable=False),
    Index("deliveries_created", "created_at", "event_id"),
    Index("deliveries_webhook_created", "webhook_id", "created_at", "event_id"),
    Index("deliveries_task", "task_id"),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("webhook_id", Text, primary_key=True),
    Column("created_at", UtcMoment, nullable=False),
    Column("updated_at", UtcMoment, nullable=False),
    Column("definition", Json),
    Column("created_by", Text),
    Column("enabled", Boolean, nullable=False, server_default=true()),
    Column("removed", Boolean, nullable=False, server_default=false()),
    Column("provider", Text),
    *(Column(name, Json, nullable=False) for name in ("deliveries", "refused", "latencies", "hours")),
    Column("last_event_at", UtcMoment),
    Column("last_event_id", Big, nullable=False),
    Index("webhooks_created", "created_at", "webhook_id"),
)

DELIVERIES = Entity(
    kind=DELIVERY,
    table=deliveries,
    filters={"event_ids": deliveries.c.event_id.in_},
    retired=Retired(deliveries.c.created_at),
)
WEBHOOKS = Entity(kind=WEBHOOK, table=webhooks)
