"""The entities that are kept; an entity stands before those that it feeds."""

from __future__ import annotations

from typing import Any

from heliograph.model.kind import Kind
from heliograph.storage.sql.entities.conversation import CONVERSATIONS, MESSAGES_KEPT
from heliograph.storage.sql.entities.dispatch import DISPATCHES
from heliograph.storage.sql.entities.session import SESSIONS
from heliograph.storage.sql.entities.task import TASKS
from heliograph.storage.sql.entities.webhook import DELIVERIES, WEBHOOKS
from heliograph.storage.sql.entities.workflow import RECORDS, RUNS, SPENDINGS, STEPS
from heliograph.storage.sql.entity import Entity

ENTITIES: tuple[Entity[Any], ...] = (
    TASKS,
    DISPATCHES,
    SESSIONS,
    MESSAGES_KEPT,
    CONVERSATIONS,
    STEPS,
    SPENDINGS,
    RUNS,
    RECORDS,
    DELIVERIES,
    WEBHOOKS,
)

ENTITY_OF: dict[Kind[Any], Entity[Any]] = {entity.kind: entity for entity in ENTITIES}
