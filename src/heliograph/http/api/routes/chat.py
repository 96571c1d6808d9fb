"""Chat: a message for the engine, and the task that answers it."""

from __future__ import annotations

from typing import Annotated

import attrs
from werkzeug.exceptions import RequestTimeout

from heliograph.http.api import samples, talking
from heliograph.http.api.endpoint import Described, Endpoint
from heliograph.http.api.routes.events import MAX_REQUEST_KEY
from heliograph.http.api.services import Services
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.bodies import JsonBody
from heliograph.http.rules.parameters import Text, header, query
from heliograph.http.rules.schema import says
from heliograph.model.errors import (
    Conflict,
    Invalid,
    Malformed,
    NotFound,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from heliograph.model.rules import DESCRIPTION_CHARACTERS


@attrs.frozen
class Chatting:
    """The session and the conversation of a question."""

    session_id: str | None = query(Text(1, DESCRIPTION_CHARACTERS), "The session of the task.")
    conversation_id: str | None = query(Text(), "The conversation; without one, one is made.")
    request_key: str | None = header(
        "Idempotency-Key", Text(1, MAX_REQUEST_KEY), "A retry of the request with the same key is harmless."
    )


@attrs.frozen
class ChatMessage:
    """A question to the engine."""

    message: Annotated[str, says(minLength=1)]


@attrs.frozen
class ChatTask:
    """The task that answers, and where."""

    task_id: str
    conversation_id: str


@attrs.frozen
class ChatAnswer:
    """The receipt of a question that is kept and will be given to the engine."""

    success: bool
    message: str
    data: ChatTask
    error: str | None


async def chat(services: Services, who: Identity, asked: Chatting, body: ChatMessage) -> ChatAnswer:
    """Ask the engine; its answer comes as a message of the conversation."""
    conversation = None
    if asked.conversation_id is not None:
        conversation = await talking.known(services, asked.conversation_id)
    own_key = None if asked.request_key is None else f"{who.name}/{asked.request_key}"
    conversation, stored = await talking.ask(services, body.message, asked.session_id, conversation, own_key)
    done = "the engine will answer" if services.engine.configured else "kept; no engine is configured"
    data = ChatTask(str(stored.task_id), conversation.conversation_id)
    return ChatAnswer(success=True, message=done, data=data, error=None)


ENDPOINTS = [
    Endpoint(
        "POST",
        "/api/v1/chat",
        chat,
        "conversations",
        Described("The message is kept."),
        scope="publish",
        channels=lambda asked: ("conversation:*", "task:*"),
        body=JsonBody(ChatMessage),
        status=201,
        refuses=(
            *(NotFound, Malformed, RequestTimeout, Conflict),
            *(TooLarge, UnsupportedMedia, Invalid, Unavailable),
        ),
        example=ChatAnswer(
            success=True,
            message="the engine will answer",
            data=ChatTask(samples.TASK.task_id, "conv-0123456789ab"),
            error=None,
        ),
    ),
]
