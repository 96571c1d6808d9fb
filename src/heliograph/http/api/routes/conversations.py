"""Conversations and their messages, as the platform API has them.

A long module, since a third of it are the declarations of its endpoints with their examples; the changes of
conversations are in ``talking``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import attrs
from werkzeug.exceptions import RequestTimeout

from heliograph.http.api import samples, talking
from heliograph.http.api.endpoint import Described, Endpoint
from heliograph.http.api.services import Services
from heliograph.http.api.shared import ListMeta, Meta
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.bodies import JsonBody
from heliograph.http.rules.parameters import (
    Flag,
    Text,
    Whole,
    Words,
    encode_cursor,
    page_cursor,
    page_limit,
    path,
    query,
)
from heliograph.http.rules.schema import says
from heliograph.model.conversations.conversation import (
    CLEARED,
    CONVERSATION,
    DEFAULT_USER,
    DELETED,
    UPDATED,
    Conversation,
    ConversationFilter,
)
from heliograph.model.conversations.message import MESSAGES, ROLES, ConversationMessage, MessageFilter
from heliograph.model.errors import (
    Invalid,
    Malformed,
    NotFound,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from heliograph.model.ids import NEWEST, OLDEST, EventId, from_microseconds, to_microseconds
from heliograph.model.rules import DESCRIPTION_CHARACTERS

Line = Annotated[str, says(maxLength=DESCRIPTION_CHARACTERS)]


def _conversation_key(microseconds: int, conversation_id: str) -> tuple[datetime, str]:
    if not 0 <= microseconds < 2**58:
        raise ValueError("no conversation has such a key")
    return from_microseconds(microseconds), conversation_id


def _message_key(stored_id: int, name: str) -> tuple[EventId, str]:
    if not OLDEST < stored_id <= NEWEST:
        raise ValueError("no message has such a key")
    return EventId(stored_id), name


@attrs.frozen
class ConversationListing:
    """The filters and the page of a list of conversations."""

    search: str | None = query(
        Text(), "The title must have, for each of these words, one that begins with it."
    )
    archived: bool = query(
        Flag(), "Whether to list archived conversations instead of the others.", default=False
    )
    user_id: str | None = query(Text(), "Only this value, exactly.")
    flow_id: str | None = query(Text(), "Only this value, exactly.")
    limit: int = page_limit()
    cursor: tuple[datetime, str] | None = page_cursor(_conversation_key, int, str)


@attrs.frozen
class OfConversation:
    """One conversation."""

    conversation_id: str = path(Text(), "The conversation's id.")


@attrs.frozen
class OfFlow:
    """One flow."""

    flow_id: str = path(Text(), "The flow's id, such as github:acme/app#12, escaped.")


@attrs.frozen
class MessageListing(OfConversation):
    """The filters and the page of a conversation's messages."""

    tail: int | None = query(Whole(1, 500), "The number of the newest messages to return, instead of a page.")
    limit: int = page_limit()
    cursor: tuple[EventId, str] | None = page_cursor(_message_key, int, str)


@attrs.frozen
class Saying(OfConversation):
    """The conversation that a message is added to."""

    run: bool = query(Flag(), "Whether a user's message without a task asks the engine.", default=True)


@attrs.frozen
class Context(OfConversation):
    """The part of a conversation to give an engine."""

    max_messages: int = query(Whole(1, 500), "The number of the newest messages to return.", default=20)
    roles: tuple[str, ...] = query(
        Words(ROLES), "Only messages of these roles.", default=("user", "assistant")
    )


@attrs.frozen
class ConversationMaking:
    """No parameters: the body has everything."""


@attrs.frozen
class NewConversation:
    """A conversation to be."""

    title: Line
    user_id: Line = DEFAULT_USER
    flow_id: Line | None = None
    source: Line | None = None
    metadata: Mapping[str, Any] | None = None

    def created_payload(self) -> Mapping[str, Any]:
        """Return the payload of its first event; its origin goes into its metadata."""
        metadata = {**(self.metadata or {}), **({"source": self.source} if self.source else {})}
        return {"title": self.title, "user_id": self.user_id, "flow_id": self.flow_id, "metadata": metadata}


@attrs.frozen
class ConversationChange:
    """Changes of a conversation; a field that is left out stays as it is."""

    title: Line | None = None
    is_archived: bool | None = None
    metadata: Mapping[str, Any] | None = None


@attrs.frozen
class NewMessage:
    """A message to be stored. One with the same ``message_id`` is stored once."""

    role: Literal["user", "assistant", "system"]
    content: str
    message_id: Annotated[str, says(maxLength=128)] | None = None
    task_id: Line | None = None
    metadata: Mapping[str, Any] | None = None


@attrs.frozen
class ConversationView:
    """A conversation, and the sums over its messages and tasks."""

    conversation_id: str
    user_id: str
    title: str | None
    flow_id: str | None
    created_at: datetime
    updated_at: datetime
    is_archived: bool
    metadata: Mapping[str, Any]
    message_count: int
    total_cost_usd: Annotated[float, says("The cost of its tasks in dollars.")]
    total_tasks: int
    total_duration_seconds: Annotated[float, says("The sum of its tasks' durations, in seconds.")]
    started_at: Annotated[datetime | None, says("The time at which the first of its tasks began.")]
    completed_at: Annotated[datetime | None, says("The time at which the last of its tasks ended.")]


@attrs.frozen
class MessageView:
    """A message."""

    message_id: str
    conversation_id: str
    role: str
    content: str
    task_id: str | None
    created_at: datetime
    metadata: Mapping[str, Any]
    last_event_id: Annotated[
        EventId, says("The last event in it. A message that grows gets its later pieces from the stream.")
    ]


@attrs.frozen
class ConversationList:
    """A page of conversations."""

    conversations: Sequence[ConversationView]
    meta: ListMeta


@attrs.frozen
class OneConversation(ConversationView):
    """A conversation, its first messages, and where the answer stands."""

    messages: Sequence[MessageView]
    meta: Meta


@attrs.frozen
class MessageList:
    """Messages, oldest first, and those that still grow, with their text so far."""

    messages: Sequence[MessageView]
    growing: Sequence[MessageView]
    meta: ListMeta


@attrs.frozen
class ContextMessage:
    """A message in the form for an engine."""

    role: str
    content: str
    created_at: datetime


@attrs.frozen
class ContextList:
    """The last messages, oldest first."""

    messages: Sequence[ContextMessage]
    meta: Meta


@attrs.frozen
class ConversationMetrics:
    """Sums over the tasks of a conversation."""

    conversation_id: str
    message_count: int
    total_cost_usd: float
    total_tasks: int
    total_duration_seconds: float
    started_at: datetime | None
    completed_at: datetime | None


@attrs.frozen
class Outcome:
    """The outcome of a change."""

    success: bool
    message: str
    data: Mapping[str, Any] | None
    error: str | None


def _done(message: str) -> Outcome:
    return Outcome(success=True, message=message, data=None, error=None)


def conversation_view(conversation: Conversation) -> ConversationView:
    """Return a conversation in the form of answers."""
    return ConversationView(
        conversation.conversation_id,
        conversation.user_id,
        conversation.title,
        conversation.flow_id,
        conversation.created_at,
        conversation.updated_at,
        conversation.is_archived,
        conversation.metadata,
        conversation.message_count,
        conversation.total_cost_nanos / 10**9,
        conversation.total_tasks,
        conversation.total_duration_ms / 1000,
        conversation.started_at,
        conversation.completed_at,
    )


def message_view(message: ConversationMessage) -> MessageView:
    """Return a message in the form of answers."""
    return MessageView(
        message.message_id,
        message.conversation_id,
        message.role,
        message.content or "",
        message.task_id,
        message.created_at,
        message.metadata or {},
        message.last_event_id,
    )


def metrics_of(conversation: Conversation) -> ConversationMetrics:
    """Return the sums of a conversation."""
    view = conversation_view(conversation)
    return ConversationMetrics(
        **{field.name: getattr(view, field.name) for field in attrs.fields(ConversationMetrics)}
    )


async def list_conversations(
    services: Services, who: Identity, asked: ConversationListing
) -> ConversationList:
    """List conversations, the one that changed last first."""
    look = services.store.look()
    wanted = ConversationFilter(asked.user_id, asked.flow_id, asked.archived, asked.search)
    found, more = await look.list(CONVERSATION, wanted, asked.cursor, asked.limit)
    following = None
    if more:
        following = encode_cursor(to_microseconds(found[-1].updated_at), found[-1].conversation_id)
    return ConversationList([conversation_view(one) for one in found], ListMeta(following, look.position))


async def create_conversation(
    services: Services, who: Identity, asked: ConversationMaking, body: NewConversation
) -> ConversationView:
    """Make a conversation."""
    return conversation_view(await talking.create(services, body.created_payload()))


async def get_conversation(services: Services, who: Identity, asked: OfConversation) -> OneConversation:
    """Return one conversation, with its first messages."""
    position = await services.store.checkpoint()
    conversation = await talking.known(services, asked.conversation_id)
    wanted = MessageFilter(conversation.conversation_id, conversation.cleared_id)
    found, _ = await services.store.list(MESSAGES, wanted, None, 100)
    view = attrs.asdict(conversation_view(conversation), recurse=False)
    return OneConversation(**view, messages=[message_view(one) for one in found], meta=Meta(position))


async def change_conversation(
    services: Services, who: Identity, asked: OfConversation, body: ConversationChange
) -> ConversationView:
    """Rename a conversation, archive it, or change its metadata."""
    said = attrs.asdict(body, recurse=False)
    return conversation_view(await talking.change(services, asked.conversation_id, UPDATED, said))


async def delete_conversation(services: Services, who: Identity, asked: OfConversation) -> Outcome:
    """Delete a conversation and its messages."""
    await talking.change(services, asked.conversation_id, DELETED, {})
    return _done(f"{asked.conversation_id} is deleted")


async def clear_conversation(services: Services, who: Identity, asked: OfConversation) -> Outcome:
    """Remove the messages of a conversation."""
    await talking.change(services, asked.conversation_id, CLEARED, {})
    return _done(f"{asked.conversation_id} is cleared")


async def list_messages(services: Services, who: Identity, asked: MessageListing) -> MessageList:
    """List messages, oldest first. Messages that still grow are among them."""
    position = await services.store.checkpoint()
    conversation = await talking.known(services, asked.conversation_id)
    growing = await talking.growing_messages(services, conversation)
    if asked.tail is not None:
        found: Sequence[ConversationMessage] = await talking.last_messages(services, conversation, asked.tail)
        more = False
    else:
        wanted = MessageFilter(conversation.conversation_id, conversation.cleared_id)
        found, more = await services.store.list(MESSAGES, wanted, asked.cursor, asked.limit)
    stored = {one.message_id for one in found}
    following = encode_cursor(found[-1].stored_id, found[-1].id) if more else None
    return MessageList(
        [message_view(one) for one in found],
        [message_view(one) for one in growing if one.message_id not in stored],
        ListMeta(following, position),
    )


async def say(services: Services, who: Identity, asked: Saying, body: NewMessage) -> MessageView:
    """Store a message; a user's message asks the engine, if there is one."""
    said = attrs.asdict(body, recurse=False)
    if asked.run and body.role == "user" and body.task_id is None and services.engine.configured:
        who.require_channel("task:*")  # the question becomes a task
        conversation = await talking.known(services, asked.conversation_id)
        seed = None if body.message_id is None else f"{asked.conversation_id}/{body.message_id}"
        _, stored = await talking.ask(services, body.content, None, conversation, seed)
        return message_view(stored)
    return message_view(await talking.say(services, who, asked.conversation_id, said))


async def get_context(services: Services, who: Identity, asked: Context) -> ContextList:
    """Return the last messages, for an engine."""
    position = await services.store.checkpoint()
    conversation = await talking.known(services, asked.conversation_id)
    found = await talking.last_messages(services, conversation, asked.max_messages, asked.roles)
    shown = [ContextMessage(one.role, one.content or "", one.created_at) for one in found]
    return ContextList(shown, Meta(position))


async def get_metrics(services: Services, who: Identity, asked: OfConversation) -> ConversationMetrics:
    """Return the sums over the tasks of a conversation."""
    return metrics_of(await talking.known(services, asked.conversation_id))


async def conversation_of_flow(services: Services, who: Identity, asked: OfFlow) -> ConversationView:
    """Return the newest conversation of a flow."""
    wanted = ConversationFilter(flow_id=asked.flow_id)
    found, _ = await services.store.list(CONVERSATION, wanted, None, 1)
    if not found:
        raise NotFound(f"there is no conversation of the flow {asked.flow_id[:200]!r}")
    return conversation_view(found[0])


def of_all(asked: Any) -> tuple[str, ...]:
    """Return the channels that a caller must be allowed to read to list conversations."""
    return ("conversation:*",)


def of_conversation(asked: Any) -> tuple[str, ...]:
    """Return the channel that the caller must be allowed to use."""
    return (f"conversation:{asked.conversation_id}",)


_CONVERSATION = ConversationView(
    "conv-0123456789ab",
    DEFAULT_USER,
    "Read the news",
    "slack:C01:171",
    samples.CREATED.timestamp,
    samples.ENDED.timestamp,
    False,
    {},
    1,
    0.05,
    1,
    2.0,
    samples.CREATED.timestamp,
    samples.ENDED.timestamp,
)
_MESSAGE = MessageView(
    "msg-0123456789ab",
    "conv-0123456789ab",
    "user",
    "What is new?",
    "42",
    samples.CREATED.timestamp,
    {},
    samples.CREATED.id,
)
_READING = (NotFound, Invalid, Unavailable)
_MAKING = (Invalid, Unavailable, Malformed, TooLarge, UnsupportedMedia, RequestTimeout)
_WRITING = (*_MAKING, NotFound)
_ONE = "/api/v1/conversations/{conversation_id}"

ENDPOINTS = [
    Endpoint(
        "GET",
        "/api/v1/conversations",
        list_conversations,
        "conversations",
        Described("A page of conversations."),
        channels=of_all,
        refuses=(Invalid, Unavailable),
        example=ConversationList([_CONVERSATION], samples.LAST_PAGE),
    ),
    Endpoint(
        "POST",
        "/api/v1/conversations",
        create_conversation,
        "conversations",
        Described("The conversation."),
        scope="publish",
        channels=of_all,
        body=JsonBody(NewConversation),
        refuses=_MAKING,
        status=201,
        example=_CONVERSATION,
    ),
    Endpoint(
        "GET",
        "/api/v1/conversations/by-flow/{flow_id:path}",
        conversation_of_flow,
        "conversations",
        Described("The conversation."),
        channels=of_all,
        refuses=_READING,
        example=_CONVERSATION,
    ),
    Endpoint(
        "GET",
        _ONE,
        get_conversation,
        "conversations",
        Described("The conversation."),
        channels=of_conversation,
        refuses=_READING,
        example=OneConversation(
            **attrs.asdict(_CONVERSATION, recurse=False), messages=[_MESSAGE], meta=samples.META
        ),
    ),
    Endpoint(
        "PUT",
        _ONE,
        change_conversation,
        "conversations",
        Described("The changed conversation."),
        scope="publish",
        channels=of_conversation,
        body=JsonBody(ConversationChange),
        refuses=_WRITING,
        example=_CONVERSATION,
    ),
    Endpoint(
        "DELETE",
        _ONE,
        delete_conversation,
        "conversations",
        Described("The conversation is deleted."),
        scope="publish",
        channels=of_conversation,
        refuses=_READING,
        example=_done("conv-0123456789ab is deleted"),
    ),
    Endpoint(
        "POST",
        f"{_ONE}/clear",
        clear_conversation,
        "conversations",
        Described("The messages are removed."),
        scope="publish",
        channels=of_conversation,
        refuses=_READING,
        example=_done("conv-0123456789ab is cleared"),
    ),
    Endpoint(
        "GET",
        f"{_ONE}/messages",
        list_messages,
        "conversations",
        Described("A page of messages."),
        channels=of_conversation,
        refuses=_READING,
        example=MessageList([_MESSAGE], [], samples.LAST_PAGE),
    ),
    Endpoint(
        "POST",
        f"{_ONE}/messages",
        say,
        "conversations",
        Described("The message, stored."),
        scope="publish",
        channels=of_conversation,
        body=JsonBody(NewMessage, 16 * 1024 * 1024),
        refuses=_WRITING,
        status=201,
        example=_MESSAGE,
    ),
    Endpoint(
        "GET",
        f"{_ONE}/context",
        get_context,
        "conversations",
        Described("The last messages."),
        channels=of_conversation,
        refuses=_READING,
        example=ContextList(
            [ContextMessage("user", "What is new?", samples.CREATED.timestamp)], samples.META
        ),
    ),
    Endpoint(
        "GET",
        f"{_ONE}/metrics",
        get_metrics,
        "conversations",
        Described("The sums."),
        channels=of_conversation,
        refuses=_READING,
        example=ConversationMetrics(
            "conv-0123456789ab", 1, 0.05, 1, 2.0, samples.CREATED.timestamp, samples.ENDED.timestamp
        ),
    ),
]
