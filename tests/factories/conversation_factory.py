"""A conversation with its messages and what its tasks add up to, and the factory of such conversations."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from typing import Any, ClassVar

import attrs
from tests.factories.task_factory import Task

ROLES = ("user", "assistant", "system")


@attrs.define
class ConversationMessage:
    """A message."""

    message_id: str
    role: str
    content: str
    task_id: str | None = None
    created_at: datetime = attrs.field(factory=lambda: datetime.now(UTC))


@attrs.define
class Conversation:
    """A conversation; it adds up the tasks that it is given, whatever became of them."""

    conversation_id: str = "conv-001"
    user_id: str = "user-001"
    title: str = "Test conversation"
    created_at: datetime = attrs.field(factory=lambda: datetime.now(UTC))
    updated_at: datetime = attrs.field(factory=lambda: datetime.now(UTC))
    is_archived: bool = False
    metadata: dict[str, Any] = attrs.field(factory=dict)
    total_cost_usd: float = 0.0
    total_tasks: int = 0
    total_duration_seconds: float = 0.0
    started_at: datetime | None = None
    completed_at: datetime | None = None
    messages: list[ConversationMessage] = attrs.field(factory=list)

    def add_message(
        self, message_id: str, role: str, content: str, task_id: str | None = None
    ) -> ConversationMessage:
        """Add a message."""
        if role not in ROLES:
            raise ValueError(f"role must be one of {', '.join(ROLES)}")
        message = ConversationMessage(message_id, role, content, task_id)
        self.messages.append(message)
        self.updated_at = message.created_at
        return message

    def add_task(self, task: Task) -> None:
        """Add up a task: its cost, its time, when the first began and the last ended."""
        self.total_tasks += 1
        self.total_cost_usd += task.cost_usd
        self.total_duration_seconds += task.duration_seconds
        if task.started_at is not None:
            self.started_at = min(filter(None, (self.started_at, task.started_at)))
        if task.completed_at is not None:
            self.completed_at = max(filter(None, (self.completed_at, task.completed_at)))

    def archive(self) -> None:
        """Put it away; nothing of it is lost."""
        self.is_archived = True

    def get_messages_ordered(self) -> list[ConversationMessage]:
        """Return the messages, oldest first."""
        return sorted(self.messages, key=lambda message: message.created_at)


class ConversationFactory:
    """Makes conversations with ids of their own, from conv-001 on."""

    _numbers: ClassVar[count[int]] = count(1)

    @classmethod
    def create(cls, **fields: Any) -> Conversation:
        """Make a conversation; what is not given is as usual."""
        fields.setdefault("conversation_id", f"conv-{next(cls._numbers):03}")
        return Conversation(**fields)

    @classmethod
    def create_with_messages(cls, message_count: int = 3, **fields: Any) -> Conversation:
        """Make a conversation in which user and assistant have spoken in turn."""
        conversation = cls.create(**fields)
        for number in range(1, message_count + 1):
            role = "user" if number % 2 else "assistant"
            conversation.add_message(f"msg-{number:03}", role, f"Message {number}")
        return conversation

    @classmethod
    def create_archived(cls, **fields: Any) -> Conversation:
        """Make a conversation that was put away."""
        conversation = cls.create(**fields)
        conversation.archive()
        return conversation

    @classmethod
    def reset(cls) -> None:
        """Begin the ids anew."""
        cls._numbers = count(1)
