"""A conversation: its own fields, and the sums over its messages and its tasks.

A task belongs to the conversation that it names, and adds its cost, its time and itself, however it ended. A
conversation that only tasks name is kept, but not shown: it is ``known`` from its first own event on.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, NamedTuple

import attrs

from heliograph.model.conversations.message import DELTA, MESSAGES, ConversationMessage
from heliograph.model.event import Event
from heliograph.model.ids import OLDEST, EventId
from heliograph.model.kind import Key, Kind
from heliograph.model.prices import Prices
from heliograph.model.rules import DESCRIPTION, FLAG, NAME, OBJECT, Rules
from heliograph.model.task import TASK, Task

CREATED = "conversation.created"
UPDATED = "conversation.updated"
CLEARED = "conversation.cleared"
DELETED = "conversation.deleted"

DEFAULT_USER = "default-user"
TITLE_WORDS = 32
WORD_CHARACTERS = 40
"""The number of words of a title by which a conversation is found, and the characters of each."""

_WORD = re.compile(r"\w+")


class ConversationShare(NamedTuple):
    """The share of one task, or one message, in its conversation."""

    conversation_id: str
    seen: datetime
    messages: int = 0
    tasks: int = 0
    cost_nanos: int = 0
    duration_ms: int = 0
    started_at: datetime | None = None
    completed_at: datetime | None = None

    @property
    def owner(self) -> Key:
        """The conversation's key."""
        return (self.conversation_id,)


@attrs.define
class Conversation:
    """The state of a conversation.

    Args:
        message_count: Its messages since it was cleared.
        total_cost_nanos: The cost of its tasks.
        total_duration_ms: The sum of the durations of its ended tasks.
        started_at: The time at which the first of its tasks began.
        completed_at: The time at which the last of them ended.
        cleared_id: Messages that became whole up to this event are not shown any more.
        known: Whether it has an event of its own.
    """

    conversation_id: str
    created_at: datetime
    updated_at: datetime
    user_id: str = DEFAULT_USER
    title: str | None = None
    flow_id: str | None = None
    metadata: dict[str, Any] = attrs.field(factory=dict)
    is_archived: bool = False
    message_count: int = 0
    total_cost_nanos: int = 0
    total_tasks: int = 0
    total_duration_ms: int = 0
    started_at: datetime | None = None
    completed_at: datetime | None = None
    cleared_id: EventId = OLDEST
    known: bool = False
    deleted: bool = False
    last_event_id: EventId = OLDEST

    @classmethod
    def first_seen(cls, event: Event) -> Conversation:
        """Begin a conversation at its first event."""
        return cls(event.channel.partition(":")[2], event.timestamp, event.timestamp)

    @classmethod
    def fed(cls, share: ConversationShare) -> Conversation:
        """Begin a conversation at the first share."""
        return cls(share.conversation_id, share.seen, share.seen)

    @property
    def shown(self) -> bool:
        """Whether answers include it."""
        return self.known and not self.deleted

    def apply(self, event: Event, prices: Prices) -> None:
        """Fold one event of this conversation's channel."""
        if not self.known:
            self.created_at, self.known = event.timestamp, True
        self.updated_at = max(self.updated_at, event.timestamp)
        self.last_event_id = event.id
        match event.topic:
            case "conversation.created" | "conversation.updated":
                for field in ("title", "user_id", "flow_id", "is_archived", "metadata"):
                    if event.payload.get(field) is not None:
                        setattr(self, field, event.payload[field])
                if event.topic == CREATED:
                    self.deleted = False
            case "conversation.cleared":
                self._clear(event)
            case "conversation.deleted":
                self._clear(event)
                self.deleted = True

    def _clear(self, event: Event) -> None:
        self.cleared_id = event.id
        self.message_count = 0

    def feed(self, share: ConversationShare, sign: int) -> None:
        """Add a share, or take it away again.

        Args:
            share: The share of a task or a message.
            sign: 1 to add it, -1 to take it away.
        """
        self.message_count += sign * share.messages
        self.total_tasks += sign * share.tasks
        self.total_cost_nanos += sign * share.cost_nanos
        self.total_duration_ms += sign * share.duration_ms
        if sign > 0 and share.messages:
            self.updated_at = max(self.updated_at, share.seen)
        if sign > 0 and share.started_at is not None:
            self.started_at = min(self.started_at or share.started_at, share.started_at)
        if sign > 0 and share.completed_at is not None:
            self.completed_at = max(self.completed_at or share.completed_at, share.completed_at)


def words(text: str | None) -> frozenset[str]:
    """Return the words by which a title is found, in lower case."""
    found = _WORD.findall((text or "").casefold())
    return frozenset(word[:WORD_CHARACTERS] for word in found[:TITLE_WORDS])


def _of_task(task: Task) -> ConversationShare | None:
    if not task.conversation_id:
        return None
    return ConversationShare(
        task.conversation_id,
        task.created_at,
        tasks=1,
        cost_nanos=task.cost_nanos or 0,
        duration_ms=task.duration_ms or 0,
        started_at=task.started_at,
        completed_at=task.finished_at,
    )


def _of_message(message: ConversationMessage) -> ConversationShare | None:
    if message.growing:
        return None
    return ConversationShare(message.conversation_id, message.updated_at, messages=1)


def _key_of(event: Event) -> Key | None:
    if not event.topic.startswith("conversation.") or event.topic == DELTA:
        return None  # pieces are most of the events, and do not change the conversation
    return (event.channel.partition(":")[2],)


@attrs.frozen
class ConversationFilter:
    """The conversations that a list shows; ``None`` does not filter.

    Args:
        archived: Only those that are archived, or only those that are not.
        text: The title has, for each of these words, a word that begins with it.
        since: Changed at or after.
        until: Changed before.
    """

    user_id: str | None = None
    flow_id: str | None = None
    archived: bool | None = None
    text: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    shown: bool = True


_SAID = {
    "conversation_id": NAME,
    **dict.fromkeys(("title", "user_id", "flow_id"), DESCRIPTION),
    "is_archived": FLAG,
    "metadata": OBJECT,
}

CONVERSATION = Kind(
    name="conversation",
    value=Conversation,
    key=("conversation_id",),
    order=("updated_at", "conversation_id"),
    family="conversation",
    field="conversation_id",
    topics={
        CREATED: Rules(_SAID),
        UPDATED: Rules(_SAID),
        CLEARED: Rules({"conversation_id": NAME}),
        DELETED: Rules({"conversation_id": NAME}),
    },
    key_of=_key_of,
    first_seen=Conversation.first_seen,
    fed_by={TASK: _of_task, MESSAGES: _of_message},
    fed=Conversation.fed,
)
