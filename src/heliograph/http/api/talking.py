"""Changes of conversations by requests, as events on their channels.

An answer is made from the store's state and the event that was just appended, so it waits for no fold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from secrets import token_hex
from typing import Any

import attrs

from heliograph.http.api.services import Services
from heliograph.http.rules.auth import Identity
from heliograph.model.channels import Selection, is_name
from heliograph.model.conversations import conversation as topics
from heliograph.model.conversations.conversation import CONVERSATION, Conversation
from heliograph.model.conversations.message import (
    DELTA,
    MESSAGE,
    MESSAGES,
    ConversationMessage,
    MessageFilter,
    grown,
    together,
)
from heliograph.model.dispatch import REQUESTED
from heliograph.model.errors import Conflict, NotFound
from heliograph.model.event import Draft, Event
from heliograph.model.ids import EventId, time_of
from heliograph.model.intake import parse_item
from heliograph.model.prices import NO_PRICES
from heliograph.model.task import TASK

PIECES = 5000
"""The number of pieces of a growing text that are read at a time."""


CONTEXT_MESSAGES = 50
CONTEXT_CHARACTERS = 100_000
"""The number of earlier messages that an engine is given."""

TITLE_CHARACTERS = 50
AGENT, AGENT_TYPE = "brain", "planning"
"""The name of the agent that answers in a chat."""


def new_id(kind: str, seed: str | None = None) -> str:
    """Return a new id, such as ``conv-0123456789ab``; the same seed gives the same id."""
    if seed is None:
        return f"{kind}-{token_hex(8)}"
    return f"{kind}-{hashlib.blake2b(f'{kind}/{seed}'.encode(), digest_size=6).hexdigest()}"


def draft(
    services: Services,
    topic: str,
    conversation_id: str,
    payload: Mapping[str, Any],
    key: str | None = None,
) -> Draft:
    """Make the draft of a conversation's event; fields that are ``None`` are left out.

    Raises:
        Invalid: The payload breaks a rule of its topic.
        TooLarge: The payload is too large for one event.
    """
    said = {name: value for name, value in payload.items() if value is not None}
    item = {"topic": topic, "channel": f"conversation:{conversation_id}", "payload": said}
    made = parse_item(item, services.settings.events.max_bytes)
    return made._replace(key=key)


def event_of(made: Draft, event_id: EventId) -> Event:
    """Return the event that a draft became, without its ``seq``."""
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
        if found is None:  # it may be too new for the store
            await services.folded.wait()
            found = await services.store.get(CONVERSATION, conversation_id)
    if found is None or not found.shown:
        raise NotFound(
            f"there is no conversation {conversation_id[:200]!r}; "
            "GET /api/v1/conversations lists those that exist"
        )
    return found


async def create(services: Services, said: Mapping[str, Any]) -> Conversation:
    """Make a conversation of the fields ``said``."""
    made = draft(services, topics.CREATED, new_id("conv"), said)
    receipt = await services.appender.append([made])
    event = event_of(made, receipt.ids[0])
    conversation = Conversation.first_seen(event)
    conversation.apply(event, NO_PRICES)
    return conversation


async def change(
    services: Services, conversation_id: str, topic: str, said: Mapping[str, Any]
) -> Conversation:
    """Change a conversation by an event of a topic; return the changed conversation.

    Raises:
        NotFound: There is none of that id.
    """
    conversation = attrs.evolve(await known(services, conversation_id))
    made = draft(services, topic, conversation_id, said)
    receipt = await services.appender.append([made])
    conversation.apply(event_of(made, receipt.ids[0]), NO_PRICES)
    return conversation


async def say(
    services: Services, who: Identity, conversation_id: str, said: Mapping[str, Any]
) -> ConversationMessage:
    """Store a message.

    A task has one answer, an assistant's message. An engine that was restarted may send it twice; the first
    one stays.

    Raises:
        NotFound: There is no such conversation.
    """
    await known(services, conversation_id)
    if said.get("task_id"):
        said = {**said, "task_id": await services.engine.our_name(said["task_id"])}
    answers = said["task_id"] if said["role"] == "assistant" and said.get("task_id") else None
    message_id = said.get("message_id") or (_answer_id(answers) if answers else new_id("msg"))
    key = f"heliograph/message/{conversation_id}/{message_id}"
    made = draft(services, MESSAGE, conversation_id, {**said, "message_id": message_id}, key)
    drafts = [made]
    task = None
    if answers and is_name(answers) and who.covers(f"task:{answers}"):
        task = await services.store.get(TASK, answers)
    if task is not None and task.finished:  # have pages that watch for ends read again, and find the answer
        again = _of_task(services, "task.status", {"task_id": answers, "status": task.status})
        drafts.append(again._replace(key=f"{key}/again"))
    try:
        receipt = await services.appender.append(drafts)
    except Conflict:
        first = await services.store.get(MESSAGES, f"{conversation_id}/{message_id}")
        if first is None:
            raise
        return first
    event = event_of(made, receipt.ids[0])
    message = ConversationMessage.first_seen(event)
    message.apply(event, NO_PRICES)
    return message


def _answer_id(task_id: str) -> str:
    return new_id("msg", task_id)


async def ask(
    services: Services,
    message: str,
    session_id: str | None,
    conversation: Conversation | None,
    seed: str | None = None,
) -> tuple[Conversation, ConversationMessage]:
    """Ask the engine: store the message and make the task that answers it, both or neither.

    Args:
        message: The message to the engine.
        session_id: The session of the task.
        conversation: The conversation; ``None`` makes one, named by the beginning of the message.
        seed: Makes a retry harmless: the same seed and message are asked once.

    Returns:
        The conversation, and the message, which names the task.
    """
    drafts = []
    if conversation is None:
        made = draft(services, topics.CREATED, new_id("conv", seed), {"title": message[:TITLE_CHARACTERS]})
        drafts.append(made._replace(key=seed and f"heliograph/chat/{seed}/conversation"))
        name = made.channel.partition(":")[2]
        context: Sequence[ConversationMessage] = ()
    else:
        name = conversation.conversation_id
        context = await last_messages(services, conversation, CONTEXT_MESSAGES)
    task_id = new_id("task", seed)
    of_task = {"task_id": task_id, "session_id": session_id, "conversation_id": name}
    created = {**of_task, "agent": AGENT, "agent_type": AGENT_TYPE, "input": message}
    message_id = new_id("msg", seed)
    said = {"message_id": message_id, "role": "user", "content": message, "task_id": task_id}
    drafts += [
        _of_task(services, "task.created", {**created, "metadata": {"source": "chat"}}),
        # Pages get only statuses, so a status tells them of the task.
        _of_task(services, "task.status", {**of_task, "status": "queued"}),
        draft(services, MESSAGE, name, said),
    ]
    if services.engine.configured:
        repo_path = services.settings.engine.repo_path
        request = {**of_task, "prompt": prompt(context, message), "repo_path": repo_path}
        drafts.append(_of_task(services, REQUESTED, request))
    if seed is not None:
        drafts = [
            one._replace(key=one.key or f"heliograph/chat/{seed}/{number}")
            for number, one in enumerate(drafts)
        ]
    try:
        receipt = await services.appender.append(drafts)
    except Conflict:
        first = await services.store.get(MESSAGES, f"{name}/{message_id}")
        if conversation is None or first is None or first.content != message:
            raise
        return conversation, first  # the engine was asked before, when less had been said
    services.engine.wake()
    events = [event_of(one, event_id) for one, event_id in zip(drafts, receipt.ids, strict=True)]
    if conversation is None:
        conversation = Conversation.first_seen(events[0])
        conversation.apply(events[0], NO_PRICES)
    (spoken,) = (event for event in events if event.topic == MESSAGE)
    stored = ConversationMessage.first_seen(spoken)
    stored.apply(spoken, NO_PRICES)
    return conversation, stored


def prompt(context: Sequence[ConversationMessage], message: str) -> str:
    """Return the engine's input: the earlier messages, and the message."""
    lines = [f"{one.role}: {one.content}" for one in context]
    before = "\n".join(lines)[-CONTEXT_CHARACTERS:]
    return f"{before}\nuser: {message}" if before else message


def _of_task(services: Services, topic: str, payload: Mapping[str, Any]) -> Draft:
    said = {name: value for name, value in payload.items() if value is not None}
    item = {"topic": topic, "channel": f"task:{payload['task_id']}", "payload": said}
    return parse_item(item, services.settings.events.max_bytes)


async def last_messages(
    services: Services, conversation: Conversation, count: int, roles: Sequence[str] = ()
) -> list[ConversationMessage]:
    """Return the last ``count`` messages, oldest first."""
    wanted = MessageFilter(conversation.conversation_id, conversation.cleared_id, tuple(roles))
    found, _ = await services.store.list(MESSAGES, wanted, None, count, sort="newest")
    return list(reversed(found))


async def growing_messages(services: Services, conversation: Conversation) -> list[ConversationMessage]:
    """Return the messages that grow, each with its text so far: up to its ``last_event_id``."""
    wanted = MessageFilter(conversation.conversation_id, growing=True)
    found, _ = await services.store.list(MESSAGES, wanted, None, 100)
    growing = [one for one in found if one.text_from > conversation.cleared_id]
    texts: dict[str, str] = {}
    for group in together(growing):
        texts |= await _texts_so_far(services, group)
    return [attrs.evolve(one, content=texts[one.message_id]) for one in growing]


async def _texts_so_far(services: Services, group: Sequence[ConversationMessage]) -> dict[str, str]:
    selection = Selection((f"conversation:{group[0].conversation_id}",), DELTA)
    before, after = EventId(max(one.last_event_id for one in group) + 1), EventId(group[0].text_from - 1)
    messages = {one.message_id: one for one in group}
    pieces: dict[str, list[Mapping[str, Any]]] = {name: [] for name in messages}
    more = True
    while more:
        page, more = await services.store.events(selection, before, PIECES, after=after)
        for event in page:
            message = messages.get(event.payload["message_id"])
            if message is not None and message.text_from <= event.id <= message.last_event_id:
                pieces[message.message_id].append(event.payload)
        before = page[-1].id if page else after
    return {name: grown(name, reversed(some)) for name, some in pieces.items()}
