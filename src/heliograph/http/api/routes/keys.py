"""Keys for programs that are tasks: each reaches its own task, and those that it begins."""

from __future__ import annotations

from typing import Annotated

import attrs
from werkzeug.exceptions import RequestTimeout

from heliograph.http.api import samples
from heliograph.http.api.endpoint import Described, Endpoint
from heliograph.http.api.services import Services
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.bodies import JsonBody
from heliograph.http.rules.parameters import Nothing
from heliograph.http.rules.schema import says
from heliograph.model.channels import NAME
from heliograph.model.errors import Forbidden, Invalid, Malformed, TooLarge, UnsupportedMedia


@attrs.frozen
class NewTaskKey:
    """The task that a key is for."""

    task_id: Annotated[str, says("It need not exist yet.", pattern=f"^(?:{NAME})$")]


@attrs.frozen
class TaskKey:
    """A key that reaches one task, and tasks whose ids begin with its id and a dot."""

    key: str
    expires_at: Annotated[float, says("Seconds since 1970.")]


async def make_task_key(services: Services, who: Identity, asked: Nothing, new: NewTaskKey) -> TaskKey:
    """Make a key for the program that a task runs."""
    if who.by not in {"key", "network"}:
        raise Forbidden(f"a task's key is made with a key, not with a {who.by}")
    who.require_channel(f"task:{new.task_id}")
    key, expires_at = services.authenticator.task_key_for(who, new.task_id)
    return TaskKey(key, expires_at)


ENDPOINTS = [
    Endpoint(
        "POST",
        "/api/v1/task-keys",
        make_task_key,
        "tasks",
        Described("The key, for `X-API-Key`."),
        scope="publish",
        body=JsonBody(NewTaskKey),
        audited=True,
        status=201,
        refuses=(Malformed, Invalid, TooLarge, UnsupportedMedia, RequestTimeout),
        example=TaskKey("task.WyJmbGVldCIsIjQyIl0.aX3zAA.…", samples.NOON.timestamp()),
    )
]
