"""The command that a delivery asks for, and the input of the task that it becomes.

A text addresses us by the prefix or an alias of it, anywhere in the text. The first word after the prefix
names a command; otherwise the text means the default one. Without a configured prefix every text addresses
us. Other deliveries may assign us, which means the default command, or be an event that a command waits for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

import attrs

from heliograph.model.webhooks.config import Command, WebhookConfig
from heliograph.model.webhooks.reading import ParsedDelivery
from heliograph.model.webhooks.templates import fill


@attrs.frozen
class CommandCall:
    """A command that a delivery asks for.

    Args:
        command: The command.
        text: The text after the name, or the whole text if the command was not named.
    """

    command: Command
    text: str


def find_command(config: WebhookConfig, said: ParsedDelivery) -> CommandCall | str:
    """Return the command that a delivery asks for; a sentence with the reason if it asks for none."""
    if said.by_bot:
        return "it was written by a bot"
    default = None if config.default_command is None else config.command(config.default_command)
    rest = _addressed(said.text, config)
    if rest is not None:
        word, *behind = rest.split(maxsplit=1) or [""]
        named = config.command(word.strip("/:,.!?"))
        if named is not None:
            return CommandCall(named, "".join(behind).strip())
        if default is not None and (rest or config.prefix):
            return CommandCall(default, rest)
    if config.assignee and said.assignee.casefold() == config.assignee.casefold() and default is not None:
        return CommandCall(default, said.text)
    awaited = _awaited(config, said)
    if awaited is not None:
        return CommandCall(awaited, said.text)
    if rest is None:
        return f"it does not address {config.prefix or config.name}"
    return "it names no command, and there is no default"


def input_of(asked: CommandCall, config: WebhookConfig, said: ParsedDelivery) -> str:
    """Fill the template of a command.

    Raises:
        BadTemplate: It uses something that does not exist, or exceeds a limit.
    """
    about = {
        "payload": said.payload,
        "event": said.payload.get("event", said.payload),
        "event_type": said.event_type,
        "text": asked.text,
        "full_text": said.text,
        "title": said.title,
        "command": asked.command.name,
        "source": config.provider,
        "provider": config.provider,
        "metadata": said.metadata,
        "flow_id": said.flow_id,
    }
    names: Mapping[str, Any] = {name: value for name, value in said.payload.items() if name.isidentifier()}
    return fill(asked.command.template, {**names, **about})


def _addressed(text: str, config: WebhookConfig) -> str | None:
    """Return the text after the prefix; ``None`` if the prefix is not in the text."""
    prefixes = tuple(filter(None, (config.prefix, *config.aliases)))
    if not prefixes:
        return text.strip()
    found = _address(prefixes).search(text)
    return None if found is None else text[found.end() :].strip()


@lru_cache(500)
def _address(prefixes: tuple[str, ...]) -> re.Pattern[str]:
    any_of = "|".join(map(re.escape, sorted(prefixes, key=len, reverse=True)))
    return re.compile(rf"(?:(?<=\s)|(?<=^))(?:{any_of})(?![\w-])[:,]?", re.IGNORECASE | re.MULTILINE)


def _awaited(config: WebhookConfig, said: ParsedDelivery) -> Command | None:
    """Return the command of the highest priority that waits for this event."""
    waiting = [
        command
        for command in config.commands
        if command.trigger
        and (
            fnmatchcase(said.event_type.casefold(), command.trigger.casefold())
            or said.text.casefold().startswith(command.trigger.casefold())
        )
        and all(_at(said.payload, way) == value for way, value in command.conditions.items())
    ]
    return max(waiting, key=lambda command: command.priority, default=None)


def _at(value: Any, way: str) -> Any:
    for part in way.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
