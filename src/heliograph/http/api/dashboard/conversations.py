"""Conversations and messages in the dashboard's form: bare arrays, by ``limit`` and ``offset``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any

import attrs

from heliograph.http.api import talking
from heliograph.http.api.endpoint import DASHBOARD, Described, Endpoint, of_view
from heliograph.http.api.routes import chat, conversations
from heliograph.http.api.routes.chat import ChatAnswer, ChatMessage, Chatting
from heliograph.http.api.routes.conversations import (
    ContextList,
    ContextMessage,
    ConversationView,
    MessageView,
    NewMessage,
    OfConversation,
    OneConversation,
    conversation_view,
    message_view,
    of_conversation,
)
from heliograph.http.api.services import Services
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.parameters import Flag, Moment, Text, Whole, query
from heliograph.http.rules.schema import says
from heliograph.model.conversations.conversation import CONVERSATION, ConversationFilter
from heliograph.model.conversations.message import MESSAGES, MessageFilter
from heliograph.model.errors import Invalid, NotFound, Unavailable
from heliograph.model.rules import DESCRIPTION_CHARACTERS

MAX_OFFSET = 10_000
"""The largest offset into a list, since a page costs as much as all rows before it."""

MAX_SUMMED = 500
"""The most conversations that one request sums up."""


@attrs.frozen
class ConversationRows:
    """The filters and the page of a list of conversations."""

    user_id: str | None = query(Text(), "Only this value, exactly.")
    include_archived: bool = query(Flag(), "Whether to list archived conversations, too.", default=False)
    search: str | None = query(
        Text(), "The title must have, for each of these words, one that begins with it."
    )
    limit: int = query(Whole(1, 200), "The most items on a page.", default=50)
    offset: int = query(Whole(0, MAX_OFFSET), "The number of entries to leave out first.", default=0)


@attrs.frozen
class MessageRows(OfConversation):
    """The page of a conversation's messages."""

    limit: int = query(Whole(1, 500), "The most items on a page.", default=100)
    offset: int = query(Whole(0, MAX_OFFSET), "The number of entries to leave out first.", default=0)


@attrs.frozen
class MessageRow:
    """A message, as the dashboard's page reads it."""

    message_id: str
    conversation_id: str
    role: str
    content: str
    task_id: str | None
    created_at: datetime
    metadata: Any


@attrs.frozen
class ConversationDetail(ConversationView):
    """A conversation with its messages."""

    messages: Sequence[MessageRow]


def _row(message: MessageView) -> MessageRow:
    return MessageRow(**{field.name: getattr(message, field.name) for field in attrs.fields(MessageRow)})


def detail(found: OneConversation) -> ConversationDetail:
    """Present a conversation."""
    view = {field.name: getattr(found, field.name) for field in attrs.fields(ConversationView)}
    return ConversationDetail(**view, messages=[_row(one) for one in found.messages])


def context_rows(found: ContextList) -> list[ContextMessage]:
    """Present the last messages."""
    return list(found.messages)


async def conversation_rows(
    services: Services, who: Identity, asked: ConversationRows
) -> list[ConversationView]:
    """List conversations, the one that changed last first."""
    archived = None if asked.include_archived else False
    wanted = ConversationFilter(asked.user_id, archived=archived, text=asked.search)
    found, _ = await services.store.list(CONVERSATION, wanted, None, asked.limit, skip=asked.offset)
    return [conversation_view(one) for one in found]


async def message_rows(services: Services, who: Identity, asked: MessageRows) -> list[MessageRow]:
    """List messages, oldest first."""
    conversation = await talking.known(services, asked.conversation_id)
    wanted = MessageFilter(conversation.conversation_id, conversation.cleared_id)
    found, _ = await services.store.list(MESSAGES, wanted, None, asked.limit, skip=asked.offset)
    return [_row(message_view(one)) for one in found]


async def say_in_dashboard(
    services: Services, who: Identity, asked: OfConversation, body: NewMessage
) -> MessageRow:
    """Store a message; it starts nothing."""
    said = attrs.asdict(body, recurse=False)
    return _row(message_view(await talking.say(services, who, asked.conversation_id, said)))


@attrs.frozen
class Between:
    """The order and the page of a list of conversations, by their last change."""

    start_date: datetime | None = query(Moment(), "Changed at or after this ISO 8601 time or date.")
    end_date: datetime | None = query(Moment(), "Changed before it.")


@attrs.frozen
class ConversationSums:
    """The newest conversations of a range, and sums over them."""

    total_conversations: int
    total_messages: int
    total_tasks: int
    total_cost_usd: float
    total_duration_seconds: float
    avg_messages: float
    avg_tasks: float
    avg_cost_usd: float
    avg_duration_seconds: float
    truncated: Annotated[bool, says(f"There are more than the newest {MAX_SUMMED}, which are summed up.")]
    conversations: Sequence[ConversationView]


async def conversation_sums(services: Services, who: Identity, asked: Between) -> ConversationSums:
    """Sum up conversations, archived ones too."""
    wanted = ConversationFilter(since=asked.start_date, until=asked.end_date)
    found, more = await services.store.list(CONVERSATION, wanted, None, MAX_SUMMED)
    return _summed([conversation_view(one) for one in found], truncated=more)


def _summed(views: Sequence[ConversationView], *, truncated: bool) -> ConversationSums:
    count = max(1, len(views))
    messages, tasks = sum(view.message_count for view in views), sum(view.total_tasks for view in views)
    cost, duration = (
        math.fsum(view.total_cost_usd for view in views),
        math.fsum(view.total_duration_seconds for view in views),
    )
    return ConversationSums(
        total_conversations=len(views),
        total_messages=messages,
        total_tasks=tasks,
        total_cost_usd=cost,
        total_duration_seconds=duration,
        avg_messages=messages / count,
        avg_tasks=tasks / count,
        avg_cost_usd=cost / count,
        avg_duration_seconds=duration / count,
        truncated=truncated,
        conversations=views,
    )


@attrs.frozen
class ChattingInSession(Chatting):
    """The session and the conversation of a question."""

    session_id: str = query(
        Text(1, DESCRIPTION_CHARACTERS), "The session of the task.", default=attrs.NOTHING
    )


async def chat_in_session(
    services: Services, who: Identity, asked: ChattingInSession, body: ChatMessage
) -> ChatAnswer:
    """Ask the engine; its answer comes as a message of the conversation."""
    return await chat.chat(services, who, asked, body)


def _twin(view: Callable[..., Any], answer: str, present: Callable[[Any], Any] | None = None) -> Endpoint:
    endpoint = of_view(conversations.ENDPOINTS, view)
    return endpoint.in_dashboard(endpoint.path.replace("/v1", ""), answer, present)


_LISTS = "/api/conversations"
_MESSAGES = f"{_LISTS}/{{conversation_id}}/messages"
_SAYING = of_view(conversations.ENDPOINTS, conversations.say)
_ROW = _row(_SAYING.example)

ENDPOINTS = [
    Endpoint(
        "GET",
        _LISTS,
        conversation_rows,
        DASHBOARD,
        Described("Conversations."),
        channels=conversations.of_all,
        refuses=(Invalid, Unavailable),
        example=[of_view(conversations.ENDPOINTS, conversations.create_conversation).example],
    ),
    Endpoint(
        "GET",
        "/api/analytics/conversations",
        conversation_sums,
        DASHBOARD,
        Described("The sums."),
        channels=conversations.of_all,
        refuses=(Invalid, Unavailable),
        example=_summed(
            [of_view(conversations.ENDPOINTS, conversations.create_conversation).example], truncated=False
        ),
    ),
    attrs.evolve(_twin(conversations.create_conversation, "The conversation."), status=200),
    _twin(conversations.conversation_of_flow, "The conversation."),
    _twin(conversations.get_conversation, "The conversation.", detail),
    _twin(conversations.change_conversation, "The changed conversation."),
    _twin(conversations.delete_conversation, "The conversation is deleted."),
    _twin(conversations.clear_conversation, "The messages are removed."),
    _twin(conversations.get_context, "The last messages.", context_rows),
    _twin(conversations.get_metrics, "The sums."),
    attrs.evolve(
        of_view(chat.ENDPOINTS, chat.chat), path="/api/chat", view=chat_in_session, tag=DASHBOARD, status=200
    ),
    Endpoint(
        "GET",
        _MESSAGES,
        message_rows,
        DASHBOARD,
        Described("Messages."),
        channels=of_conversation,
        refuses=(NotFound, Invalid, Unavailable),
        example=[_ROW],
    ),
    attrs.evolve(
        _SAYING,
        path=_MESSAGES,
        view=say_in_dashboard,
        tag=DASHBOARD,
        status=200,
        example=_ROW,
    ),
]
