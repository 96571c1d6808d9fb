"""The list of all kinds of entities."""

from __future__ import annotations

from typing import Any

from heliograph.model.conversations.conversation import CONVERSATION
from heliograph.model.conversations.message import MESSAGES
from heliograph.model.dispatch import DISPATCH
from heliograph.model.kind import Kind
from heliograph.model.session import SESSION
from heliograph.model.task import TASK
from heliograph.model.webhooks.delivery import DELIVERY
from heliograph.model.webhooks.webhook import WEBHOOK
from heliograph.model.workflows.record import RECORD
from heliograph.model.workflows.run import RUN
from heliograph.model.workflows.spending import SPENDING
from heliograph.model.workflows.step import STEP

KINDS: tuple[Kind[Any], ...] = (
    TASK,
    DISPATCH,
    SESSION,
    MESSAGES,
    CONVERSATION,
    STEP,
    SPENDING,
    RUN,
    RECORD,
    DELIVERY,
    WEBHOOK,
)
