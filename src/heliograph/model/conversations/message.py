"""A message of a conversation.

A message is published whole, by ``conversation.message``, or it grows: each ``conversation.delta`` adds a
piece of text, and the last one has ``done``. A growing message does not count as one of the conversation's
messages yet. Its text is only in the log, and is put together when the message ends, or for a request
(``grown``). A writer that must begin again sends ``rewind``: that piece replaces the text so far. A message
that has ended stays as it is, unless it is published again whole; late pieces change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import attrs

from heliograph.model.event import Event
from heliograph.model.ids import OLDEST, EventId
from heliograph.model.kind import Key, Kind
from heliograph.model.prices import Prices
from heliograph.model.rules import DESCRIPTION, FLAG, NAME, OBJECT, TEXT, Rules, one_of

ROLES = ("user", "assistant", "system")
MESSAGE = "conversation.message"
DELTA = "conversation.delta"

MAX_TEXT = 2_000_000
"""The most characters of a growing message; no single event has that many."""


@attrs.define
class ConversationMessage:
    """The state of a message.

    Args:
        id: Its conversation's id and its own, joined by a slash.
        created_at: The time at which it was published, or began to grow.
        updated_at: The time of its last change.
        content: Its text; ``None`` while it grows.
        stored_id: The event that made it whole; 0 while it grows.
        text_from: The event of the piece that a growing message's text begins with.
        last_event_id: The last event that changed it.
    """

    id: str
    conversation_id: str
    message_id: str
    created_at: datetime
    updated_at: datetime
    role: str = "assistant"
    content: str | None = None
    task_id: str | None = None
    metadata: dict[str, Any] | None = None
    stored_id: EventId = OLDEST
    text_from: EventId = OLDEST
    last_event_id: EventId = OLDEST

    @classmethod
    def first_seen(cls, event: Event) -> ConversationMessage:
        """Begin a message at its first event."""
        conversation = event.channel.partition(":")[2]
        message: str = event.payload["message_id"]
        return cls(
            f"{conversation}/{message}",
            conversation,
            message,
            event.timestamp,
            event.timestamp,
            text_from=event.id,
        )

    @property
    def growing(self) -> bool:
        """Whether it has not ended yet."""
        return self.stored_id == OLDEST

    def apply(self, event: Event, prices: Prices) -> None:
        """Fold one event of this message."""
        if event.topic == DELTA and not self.growing:
            return
        self.last_event_id, self.updated_at = event.id, event.timestamp
        for field in ("role", "task_id", "metadata"):
            if event.payload.get(field) is not None:
                setattr(self, field, event.payload[field])
        if event.topic == MESSAGE or event.payload.get("rewind") is True:
            self.content = event.payload["content"]
            self.text_from = event.id
        else:
            self.content = ((self.content or "") + event.payload["content"])[:MAX_TEXT]
        if self.growing and (event.topic == MESSAGE or event.payload.get("done") is True):
            self.stored_id = event.id


def together(messages: Iterable[ConversationMessage]) -> Iterator[list[ConversationMessage]]:
    """Yield growing messages in groups whose pieces stand between each other, so that each is read once."""
    group: list[ConversationMessage] = []
    through = OLDEST
    for message in sorted(messages, key=lambda one: one.text_from):
        if group and message.text_from > through:
            yield group
            group = []
        group.append(message)
        through = max(through, message.last_event_id)
    if group:
        yield group


def grown(message_id: str, pieces: Iterable[Mapping[str, Any]]) -> str:
    """Return the text of a message that grew.

    Args:
        message_id: The message.
        pieces: The payloads of its conversation's deltas from ``text_from`` on, in order; those of other
            messages are ignored.
    """
    text = "".join(piece["content"] for piece in pieces if piece["message_id"] == message_id)
    return text[:MAX_TEXT]


@attrs.frozen
class MessageFilter:
    """The messages that a list shows.

    Args:
        conversation_id: The conversation of the messages.
        since: Only messages that became whole after this event.
        roles: Only messages of these roles; empty does not filter.
        growing: Whether to list growing messages instead of whole ones.
    """

    conversation_id: str
    since: EventId | None = None
    roles: tuple[str, ...] = ()
    growing: bool = False


def _key_of(event: Event) -> Key | None:
    if event.topic not in {MESSAGE, DELTA} or not isinstance(event.payload.get("message_id"), str):
        return None
    return (f"{event.channel.partition(':')[2]}/{event.payload['message_id']}",)


_COMMON = {
    "conversation_id": NAME,
    "message_id": NAME,
    "content": TEXT,
    "task_id": DESCRIPTION,
    "metadata": OBJECT,
}

MESSAGES = Kind(
    name="message",
    value=ConversationMessage,
    key=("id",),
    order=("stored_id", "id"),
    ascending=True,
    family="conversation",
    field="conversation_id",
    topics={
        MESSAGE: Rules({**_COMMON, "role": one_of(ROLES, required=True)}),
        DELTA: Rules({**_COMMON, "role": one_of(ROLES), "done": FLAG, "rewind": FLAG}),
    },
    key_of=_key_of,
    first_seen=ConversationMessage.first_seen,
)
