"""Channels and the patterns that watch several of them.

A channel is ``task:{id}``, ``workflow:{id}``, ``conversation:{id}``, ``webhooks``, ``analytics``,
``status``, ``audit`` or ``topic:{topic}``. A pattern is ``*`` (everything but the audit) or a kind with a
star, ``task:*``.
Names are plain ASCII so that they pass unchanged through URLs, Redis keys, headers and log lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from heliograph.model.errors import Invalid

NAME = r"[A-Za-z0-9][A-Za-z0-9._:@+=~-]{0,127}"
TOPIC = r"[A-Za-z0-9_-]{1,64}(?:\.[A-Za-z0-9_-]{1,64}){0,7}"
FAMILIES = ("task", "conversation", "workflow")
"""The families with a channel for each entity, ``{family}:{id}``; payloads name it in ``{family}_id``.

An event that names no channel belongs to an entity of its topic's family; if its payload names none of that
family, to one of the first family here of which it does.
"""

SINGLE_CHANNELS = ("webhooks", "analytics", "status", "audit")
CHANNEL = rf"(?:{'|'.join(FAMILIES)}):{NAME}|topic:{TOPIC}|{'|'.join(SINGLE_CHANNELS)}"
TOPIC_PATTERN = rf"\*|{TOPIC}(?:\.\*)?"
KINDS_WITH_ID = (*FAMILIES, "topic")
EVERYTHING = "*"
WEBHOOKS = "webhooks"
ANALYTICS = "analytics"
STATUS = "status"
AUDIT = "audit"
"""The channel of the audit: ``*`` does not cover it, and only the scope ``admin`` may read it."""

WHOLE = "**"
"""The selector of the whole log, audit included, for the service itself; clients can't use it."""


MACHINE_STATUS = "machine.status"
"""The topic of nodes' own states; publishers can't use it."""

RESERVED_TOPICS = (
    *("authenticated", "gap", "keepalive", "pong", "reconnect", "reset", "subscribed", "unsubscribed"),
    *("error", "message", "open"),
)
"""The names of streams' notices and of EventSource's own events: on SSE an event's name is its topic."""

NAME_HELP = "1 to 128 of A-Z a-z 0-9 . _ : @ + = ~ -, beginning with a letter or digit"
TOPIC_HELP = "a dotted name such as task.output (letters, digits, _ and -, at most 8 parts)"
CHANNEL_HELP = (
    f"{', '.join(f'{family}:{{id}}' for family in FAMILIES)}, topic:{{topic}}, "
    f"{', '.join(SINGLE_CHANNELS[:-1])} or {SINGLE_CHANNELS[-1]}"
)

_FAMILY_OF = {**{one: one for one in FAMILIES}, **dict.fromkeys(("pipeline", "run", "step"), "workflow")}
_OWNERS = {
    first: [(one, f"{one}_id") for one in sorted(FAMILIES, key=lambda one: one != family)]
    for first, family in _FAMILY_OF.items()
}
"""By the topic's first part: the families that an event may belong to, likeliest first, with their fields."""

_name = re.compile(NAME, re.ASCII)
_topic = re.compile(TOPIC, re.ASCII)
_channel = re.compile(CHANNEL, re.ASCII)
_topic_pattern = re.compile(TOPIC_PATTERN, re.ASCII)


def is_name(text: object) -> bool:
    """Tell whether a text is a valid id of a task, workflow or conversation."""
    return isinstance(text, str) and _name.fullmatch(text) is not None


def is_topic(text: object) -> bool:
    """Tell whether a text is a topic that an event may have."""
    return isinstance(text, str) and _topic.fullmatch(text) is not None and text not in RESERVED_TOPICS


def is_channel(text: object) -> bool:
    """Tell whether a text names one channel."""
    return isinstance(text, str) and _channel.fullmatch(text) is not None


def is_pattern(text: object) -> bool:
    """Tell whether a text is a pattern of channels, such as ``*`` or ``task:*``."""
    return text == EVERYTHING or (
        isinstance(text, str) and text.endswith(":*") and text[:-2] in KINDS_WITH_ID
    )


def parse_selector(text: object, field: str = "channel") -> str:
    """Check the selector of a subscription: a channel or a pattern.

    Raises:
        Invalid: It is neither; the error names ``field`` and the forms that exist.
    """
    if is_channel(text) or is_pattern(text):
        assert isinstance(text, str)
        return text
    raise Invalid.field(field, f"must be {CHANNEL_HELP}, or a pattern: task:*, workflow:*, …, *")


def parse_topic_pattern(text: str, field: str = "topic") -> str:
    """Check a topic filter: a topic, ``pipeline.*`` (everything below it), or ``*``.

    Raises:
        Invalid: The text is not of that form.
    """
    if _topic_pattern.fullmatch(text):
        return text
    raise Invalid.field(field, f"must be {TOPIC_HELP}, a pattern such as pipeline.*, or *")


def topic_matches(pattern: str, topic: str) -> bool:
    """Tell whether a topic passes a topic filter."""
    if pattern in (EVERYTHING, topic):
        return True
    return pattern.endswith(".*") and topic.startswith(pattern[:-1])


def topic_patterns_of(topic: str) -> list[str]:
    """Return every topic filter but ``*`` that a topic passes: itself, and the patterns of its prefixes."""
    parts = topic.split(".")
    return [topic, *(".".join(parts[:count]) + ".*" for count in range(1, len(parts)))]


def selectors_of(channel: str) -> tuple[str, ...]:
    """Return every selector that covers a channel, the channel itself first."""
    kind, colon, _ = channel.partition(":")
    if channel == AUDIT:
        return (channel, WHOLE)
    return (channel, f"{kind}:*", EVERYTHING) if colon else (channel, EVERYTHING)


def selector_covers(selector: str, channel: str) -> bool:
    """Tell whether a selector covers a channel (or a narrower selector)."""
    if selector == EVERYTHING:
        return channel not in {AUDIT, WHOLE}
    if selector in {WHOLE, channel}:
        return True
    return selector.endswith(":*") and channel.startswith(selector[:-1])


def channel_for(topic: str, payload: Mapping[str, Any]) -> str:
    """Choose the channel of an event that names none, by the entity that its payload names."""
    family = topic.partition(".")[0]
    if family == "webhook":
        return WEBHOOKS
    if family == "cli":
        return STATUS
    for kind, field in _OWNERS.get(family, _OWNERS["task"]):
        name = payload.get(field)
        if is_name(name):
            return f"{kind}:{name}"
    if "execution_id" in payload and is_name(payload.get("pipeline")):
        return f"workflow:{payload['pipeline']}"  # this is how runners name a run and its workflow
    return f"topic:{topic}"


@attrs.frozen
class Selection:
    """The selection of one subscription: some selectors, and a filter on topics.

    Args:
        selectors: Channels and patterns, sorted and without those that another one covers, so that equal
            selections are equal values.
        topic: A topic, a pattern such as ``pipeline.*``, or ``*``.
        every: The interval in seconds in which only the newest event of each channel counts; 0: all events.
        run: Only events of this run of a workflow; ``None``: all events, of runs or not.
    """

    selectors: tuple[str, ...]
    topic: str = EVERYTHING
    every: float = 0
    run: str | None = None

    @classmethod
    def of(cls, selectors: Iterable[str], topic: str = EVERYTHING) -> Selection:
        """Make the canonical selection; no selector at all means everything."""
        distinct = sorted(set(selectors)) or [EVERYTHING]
        kept = [
            selector
            for selector in distinct
            if not any(other != selector and selector_covers(other, selector) for other in distinct)
        ]
        return cls(tuple(kept), topic)

    @property
    def channel(self) -> str | None:
        """The one channel watched, if it is a single channel and not a pattern."""
        return self.selectors[0] if len(self.selectors) == 1 and is_channel(self.selectors[0]) else None

    def covers(self, channel: str, topic: str) -> bool:
        """Tell whether an event of this channel and topic belongs to the selection."""
        return topic_matches(self.topic, topic) and any(
            selector_covers(selector, channel) for selector in self.selectors
        )

    def __str__(self) -> str:
        """Return its form in logs and notices."""
        names = ",".join(self.selectors)
        if self.topic != EVERYTHING:
            names += f" topic={self.topic}"
        if self.run is not None:
            names += f" run={self.run}"
        return f"{names} every={self.every:g}" if self.every else names
