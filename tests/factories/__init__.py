"""Factories of what tests work with: tasks, sessions, conversations, webhooks, with their rules."""

from tests.factories.conversation_factory import Conversation, ConversationFactory, ConversationMessage
from tests.factories.session_factory import Session, SessionFactory
from tests.factories.task_factory import InvalidTransitionError, Task, TaskFactory, TaskStatus
from tests.factories.webhook_factory import WebhookCommand, WebhookConfig, WebhookFactory

__all__ = [
    "Conversation",
    "ConversationFactory",
    "ConversationMessage",
    "InvalidTransitionError",
    "Session",
    "SessionFactory",
    "Task",
    "TaskFactory",
    "TaskStatus",
    "WebhookCommand",
    "WebhookConfig",
    "WebhookFactory",
]
