"""The actions of a page on its own stream: ask the engine, stop a task, answer a task's question.

Each does the same as its HTTP request, and needs the same rights of the page's key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import attrs

from heliograph.http.api import talking
from heliograph.http.api.routes.changes import Name, Short, stop_task
from heliograph.http.api.routes.tasks import OfTask, known_task
from heliograph.http.api.services import Services
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.schema import says
from heliograph.http.rules.structure import structure
from heliograph.model.errors import Conflict
from heliograph.model.intake import parse_item


@attrs.frozen
class PageQuestion:
    """A question to the engine."""

    message: Annotated[str, says(minLength=1)]
    conversation_id: Annotated[str | None, says("Where; without one, one is made.")] = None
    session_id: Annotated[Short, says("The task's session; without one, the stream's own.")] = None


@attrs.frozen
class Stop:
    """A task that is to end."""

    task_id: Name


@attrs.frozen
class Input:
    """An answer to a task that waits for one."""

    task_id: Name
    content: Annotated[Any, says("The answer.")]
    question_id: Annotated[Short, says("The question, where the task has asked several.")] = None


ACTIONS: Mapping[str, type] = {"chat.message": PageQuestion, "task.stop": Stop, "task.input": Input}
"""The form of each message, by its type."""


class PageActions:
    """Performs the actions that pages ask for.

    Args:
        services: The actors and stores that views work with.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    async def act(
        self, who: Identity, session: str, kind: str, message: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Perform an action; see ``streams.websocket.Acting``."""
        if who.allowance is not None:
            who.allowance.admit(sends=True)
            who.allowance.charge("events", 1)
        said: Any = structure(dict(message), ACTIONS[kind])
        match said:
            case PageQuestion():
                return await self._ask(who, session, said)
            case Stop():
                who.require("publish", f"task:{said.task_id}")
                stopped = await stop_task(self._services, who, OfTask(task_id=said.task_id))
                return attrs.asdict(stopped)
        return await self._answer(who, said)

    async def _ask(self, who: Identity, session: str, said: PageQuestion) -> Mapping[str, Any]:
        who.require("publish", "conversation:*", "task:*")
        conversation = None
        if said.conversation_id is not None:
            conversation = await talking.known(self._services, said.conversation_id)
        conversation, stored = await talking.ask(
            self._services, said.message, said.session_id or session, conversation
        )
        return {"task_id": stored.task_id, "conversation_id": conversation.conversation_id}

    async def _answer(self, who: Identity, said: Input) -> Mapping[str, Any]:
        channel = f"task:{said.task_id}"
        who.require("publish", channel)
        task = await known_task(self._services.store, said.task_id)
        if task.finished:
            raise Conflict(f"the task {said.task_id} has ended: {task.status}")
        payload = {name: value for name, value in attrs.asdict(said).items() if value is not None}
        item = {"topic": "task.input", "channel": channel, "payload": payload}
        draft = parse_item(item, self._services.settings.events.max_bytes)
        await self._services.append(who, [draft])
        return {"task_id": said.task_id}
