"""What property tests draw: JSON, names, drafts and events."""

from __future__ import annotations

import string
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from heliograph.model.channels import is_topic
from heliograph.model.event import Draft, Event
from heliograph.model.ids import MILLISECONDS_LIMIT, SEQUENCE_LIMIT, make_id
from heliograph.model.intake import parse_item

NAMES = st.builds(
    str.__add__,
    st.sampled_from(string.ascii_letters + string.digits),
    st.text(string.ascii_letters + string.digits + "._:@+=~-", max_size=12),
)
TOPICS = (
    st.lists(st.text(string.ascii_lowercase, min_size=1, max_size=6), min_size=1, max_size=3)
    .map(".".join)
    .filter(is_topic)
)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
MOMENTS = st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC))


def json_values(text: st.SearchStrategy[str] = TEXT) -> st.SearchStrategy[Any]:
    """Draw any JSON value that orjson writes and reads back unchanged."""
    numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    return st.recursive(
        st.none() | st.booleans() | numbers | text,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
        max_leaves=8,
    )


def json_objects(text: st.SearchStrategy[str] = TEXT) -> st.SearchStrategy[dict[str, Any]]:
    """Draw a JSON object."""
    return st.dictionaries(text, json_values(text), max_size=4)


CHANNELS = (
    st.builds("{}:{}".format, st.sampled_from(["task", "workflow", "conversation"]), NAMES)
    | TOPICS.map("topic:{}".format)
    | st.sampled_from(["webhooks", "analytics", "status"])
)

_MADE = st.builds(
    Event,
    id=st.builds(make_id, st.integers(0, MILLISECONDS_LIMIT - 1), st.integers(0, SEQUENCE_LIMIT - 1)),
    channel=CHANNELS,
    seq=st.integers(1, 2**62),
    topic=TOPICS | st.sampled_from(["task.output", "task.status", "task.created"]),
    timestamp=MOMENTS,
    payload=json_objects(),
    sender=st.none() | TEXT,
    correlation_id=st.none() | TEXT,
    body=st.none(),
)
EVENTS = _MADE | _MADE.map(lambda event: event._replace(body=event.json))
"""Events as a client has them, and as the log gives them: with the JSON of their payload."""


def output(task: str, text: str, key: str | None = None) -> Draft:
    """Make the draft of a line of output."""
    return draft("task.output", {"task_id": task, "output": text}, key=key)


def status(task: str, name: str, result: dict[str, Any] | None = None) -> Draft:
    """Make the draft of a status."""
    return draft("task.status", {"task_id": task, "status": name, "result": result})


def draft(topic: str, payload: dict[str, Any], **envelope: Any) -> Draft:
    """Make a draft as the intake makes it of a publisher's item."""
    return parse_item({"topic": topic, "payload": payload, **envelope}, 1024 * 1024)


def created_at(base: datetime, seconds: float) -> str:
    """Write a moment some seconds after another as publishers do."""
    return (base + timedelta(seconds=seconds)).isoformat()
