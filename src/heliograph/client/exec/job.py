"""A command as a task: its events, and the environment that it runs in."""

from __future__ import annotations

import os
import re
import secrets
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from heliograph.client.environment import API_KEY, TASK_ID, URL

NAME_CHARACTERS = 200
COMMAND_WORDS = 100
WORD_CHARACTERS = 1000
"""The most characters of a command's words that are published; the command itself may have megabytes."""

SECRETS = ("HELIOGRAPH_API_KEY", "HELIOGRAPH_API_KEYS", "API_KEY_SECRET")
"""Variables that the command does not get: it is not ours, and every watcher sees its output."""


def visible(text: str) -> str:
    """Return an argument, or the name of a folder, as valid text; its bytes may be anything."""
    return os.fsencode(text).decode("utf-8", "replace")


def _seen(text: str | None) -> str | None:
    return None if text is None else visible(text)


@attrs.frozen
class Job:
    """A command, and the task that it becomes.

    Args:
        task_id: The task's id.
        command: The program and its arguments.
        name: The name for people; by default the command.
        agent: The agent that runs it.
        model: The model that it uses.
        metadata: Anything else to be kept with the task.
        usage: Fields for the task's result, such as ``cost_usd``, that the program does not publish itself.
        detached: Whether it runs without the terminal: without input, and out of reach of Ctrl-C.
        pty: Whether its output goes to a pseudo-terminal, so that stdout and stderr are one stream in order.
        url: The service's URL, for programs that use it themselves.
        api_key: A key for such programs, which reaches this task.
    """

    task_id: str
    command: tuple[str, ...]
    name: str | None = attrs.field(default=None, converter=_seen)
    agent: str | None = attrs.field(default=None, converter=_seen)
    model: str | None = attrs.field(default=None, converter=_seen)
    metadata: Mapping[str, Any] = attrs.Factory(dict)
    usage: Mapping[str, Any] = attrs.Factory(dict)
    detached: bool = False
    pty: bool = False
    url: str | None = None
    api_key: str | None = None

    def environment(self) -> dict[str, str]:
        """Return the environment of the command, with the service's URL, the task's id and its key."""
        said = {TASK_ID: self.task_id, URL: self.url, API_KEY: self.api_key}
        ours = {name: text for name, text in said.items() if text is not None}
        return {name: value for name, value in os.environ.items() if name not in SECRETS} | ours

    def event(self, topic: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Make an item of this task, as of now."""
        event = {
            "topic": topic,
            "payload": {"task_id": self.task_id, **payload},
            "timestamp": datetime.now(UTC).isoformat(),
        }
        return event if self.agent is None else {**event, "sender": self.agent}

    def created(self) -> dict[str, Any]:
        """Make the event that begins the task."""
        command = [visible(word)[:WORD_CHARACTERS] for word in self.command[:COMMAND_WORDS]]
        described: dict[str, Any] = {
            "name": self.name or shlex.join(command)[:NAME_CHARACTERS],
            "agent": self.agent,
            "model": self.model,
            "input": {"command": command},
            "metadata": dict(self.metadata),
        }
        if len(self.command) > COMMAND_WORDS:
            described["input"]["words"] = len(self.command)
        return self.event(
            "task.created", {name: value for name, value in described.items() if value is not None}
        )


def new_task_id(program: str) -> str:
    """Make an id for a task that runs a program; it contains the program's name for people."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(visible(program)).name).strip("-._")[:40]
    return f"{name or 'task'}-{secrets.token_hex(8)}"
