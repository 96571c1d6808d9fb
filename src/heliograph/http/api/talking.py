"""Talking: what requests do to conversations, as events on their channels.

An answer is made of what the store knew and of the event that was just appended, so it waits for no fold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from secrets import token_hex
from typing import Any

import attrs

from heliograph.http.api.services import Services
from heliograph.model.channels import Selection, is_name
from heliograph.model.conversations import conversation as topics
from heliograph.model.conversations.conversation import CONVERSATION, Conversation
from heliograph.model.conversations.message import DELTA, MESSAGE, MESSAGES, Message, MessageFilter, grown
from heliograph.model.errors import Conflict, NotFound
from heliograph.model.event import Draft, Event
from heliograph.model.ids import EventId, time_of
from heliograph.model.intake import parse_item
from heliograph.model.prices import NO_PRICES

PIECES = 5000
"""Pieces of a growing text that are read at a time."""


def new_id(kind: str) -> str:
    """Return a new id, such as ``conv-0123456789ab``."""
    return f"{kind}-{token_hex(6)}"


def draft(
    services: Services,
    topic: str,
    conversation_id: str,
    payload: Mapping[str, Any],
    key: str | None = None,
) -> Draft:
    """Make the draft of an event of a conversation; what is ``None`` is left out.

    Raises:
        Invalid: The payload breaks a rule of its topic.
        TooLarge: It is too large for one event.
    """
    said = {name: value for name, value in payload.items() if value is not None}
    item = {"topic": topic, "channel": f"conversation:{conversation_id}", "payload": said}
    made = parse_item(item, services.settings.events.max_bytes)
    return made._replace(key=key)


def event_of(made: Draft, event_id: EventId) -> Event:
    """Return the event that a draft became, without its number."""
    moment = made.timestamp or time_of(event_id)
    return Event(event_id, made.channel, 0, made.topic, moment, made.payload, body=made.body)


async def known(services: Services, conversation_id: str) -> Conversation:
    """Return a conversation.

    Raises:
        NotFound: There is none of that id.
    """
    found = None
    if is_name(conversation_id):
        found = await services.store.get(CONVERSATION, conversation_id)
    if found is None or not found.shown:
        raise NotFound(
            f"there is no conversation {conversation_id[:200]!r}; "
            "GET /api/v1/conversations lists those that exist"
        )
    return found


async def create(services: Services, said: Mapping[str, Any]) -> Conversation:
    """Make a conversation of what is said of it."""
    made = draft(services, topics.CREATED, new_id("conv"), said)
    receipt = await services.appender.append([made])
    event = event_of(made, receipt.ids[0])
    conversation = Conversation.first_seen(event)
    conversation.apply(event, NO_PRICES)
    return conversation


async def change(
    services: Services, conversation_id: str, topic: str, said: Mapping[str, Any]
) -> Conversation:
    """Change a conversation by an event of a topic; return it as it is then.

    Raises:
        NotFound: There is none of that id.
    """
    conversation = attrs.evolve(await known(services, conversation_id))
    made = draft(services, topic, conversation_id, said)
    receipt = await services.appender.append([made])
    conversation.apply(event_of(made, receipt.ids[0]), NO_PRICES)
    return conversation


async def say(services: Services, conversation_id: str, said: Mapping[str, Any]) -> Message:
    """Store a message.

    An assistant's message that answers a task is that task's answer: there is one. An engine that was started
    again may give it twice, and the first one stays.

    Raises:
        NotFound: There is no such conversation.
    """
    await known(services, conversation_id)
    answers = said["task_id"] if said["role"] == "assistant" and said.get("task_id") else None
    message_id = said.get("message_id") or (_answer_id(answers) if answers else new_id("msg"))
    key = f"heliograph/message/{conversation_id}/{message_id}"
    made = draft(services, MESSAGE, conversation_id, {**said, "message_id": message_id}, key)
    try:
        receipt = await services.appender.append([made])
    except Conflict:
        first = await services.store.get(MESSAGES, f"{conversation_id}/{message_id}")
        if first is None:
            raise
        return first
    event = event_of(made, receipt.ids[0])
    message = Message.first_seen(event)
    message.apply(event, NO_PRICES)
    return message


def _answer_id(task_id: str) -> str:
    return f"msg-{hashlib.blake2b(task_id.encode(), digest_size=6).hexdigest()}"


async def last_messages(
    services: Services, conversation: Conversation, count: int, roles: Sequence[str] = ()
) -> list[Message]:
    """Return the last ``count`` messages, oldest first."""
    wanted = MessageFilter(conversation.conversation_id, conversation.cleared_id, tuple(roles))
    found, _ = await services.store.list(MESSAGES, wanted, None, count, sort="newest")
    return list(reversed(found))


async def growing_messages(services: Services, conversation: Conversation) -> list[Message]:
    """Return the messages that grow, each with its text so far: up to its ``last_event_id``."""
    wanted = MessageFilter(conversation.conversation_id, growing=True)
    found, _ = await services.store.list(MESSAGES, wanted, None, 100)
    return [
        attrs.evolve(message, content=await _text_so_far(services, message))
        for message in found
        if message.text_from > conversation.cleared_id
    ]


async def _text_so_far(services: Services, message: Message) -> str:
    selection = Selection((f"conversation:{message.conversation_id}",), DELTA)
    before, after = EventId(message.last_event_id + 1), EventId(message.text_from - 1)
    pieces: list[Mapping[str, Any]] = []
    more = True
    while more:
        page, more = await services.store.events(selection, before, PIECES, after=after)
        pieces += [event.payload for event in page]
        before = page[-1].id if page else after
    return grown(message.message_id, reversed(pieces))
