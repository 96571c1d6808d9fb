"""The messages of a client of ``/ws``: JSON, checked field by field."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Collection
from typing import Any

import orjson

from heliograph.actors.subscription import Overflow
from heliograph.http.streams.watching import MAX_TAIL, WatchRequest
from heliograph.http.wire.frames import json_frame
from heliograph.model.channels import Selection, parse_selector, parse_topic_pattern
from heliograph.model.errors import ClientFault, Invalid
from heliograph.model.exact_json import parse_json
from heliograph.model.ids import is_time, parse_position
from heliograph.model.mend import read_json

MAX_EVERY = 60
"""The longest interval, in seconds, of a subscription to each channel's newest event."""

FIELDS = {
    "subscribe": {"type", "channel", "topic", "after", "tail", "every", "overflow", "ref"},
    "unsubscribe": {"type", "channel", "topic", "every", "ref"},
    "ping": {"type", "ref"},
    "auth": {"type", "key", "ticket", "ref"},
}


def message_of(text: bytes) -> dict[str, Any]:
    """Parse a message.

    Raises:
        Malformed: It is not JSON.
        Invalid: It is not an object, or has numbers that would be read back as others.
    """
    message = parse_json(text.removeprefix(BOM_UTF8), "the message")
    if not isinstance(message, dict):
        raise Invalid.field("", "a message must be a JSON object")
    return message


def kind_of(message: dict[str, Any], actions: Collection[str]) -> str:
    """Return a message's ``type``, after a check that the message has only the fields of that type.

    Args:
        message: The message as it came.
        actions: Further types, whose fields the caller checks.

    Raises:
        Invalid: The type is unknown, or a field is.
    """
    kind = message.get("type")
    if isinstance(kind, str) and kind in actions:
        return kind
    if not isinstance(kind, str) or kind not in FIELDS:
        raise Invalid.field("type", f"must be one of {', '.join((*FIELDS, *actions))}")
    for name in message.keys() - FIELDS[kind]:
        raise Invalid.field(name[:100], f"is unknown; {kind} takes {', '.join(sorted(FIELDS[kind]))}")
    return kind


def selection_of(message: dict[str, Any]) -> Selection:
    """Return the selection that a message names.

    Raises:
        Invalid: It names none, or one of its fields is wrong.
    """
    selector = parse_selector(message.get("channel"))
    topic = text_of(message, "topic")
    every = message.get("every") or 0
    if isinstance(every, bool) or not isinstance(every, int | float) or not 0 <= every <= MAX_EVERY:
        raise Invalid.field("every", f"must be a number of seconds from 0 to {MAX_EVERY}")
    return Selection((selector,), "*" if topic is None else parse_topic_pattern(topic), every)


def request_of(message: dict[str, Any]) -> WatchRequest:
    """Return the request that a ``subscribe`` message makes.

    Raises:
        Invalid: A field is wrong, or does not go with another one.
    """
    after = text_of(message, "after")
    tail = message.get("tail")
    if tail is not None and (
        isinstance(tail, bool) or not isinstance(tail, int) or not 0 <= tail <= MAX_TAIL
    ):
        raise Invalid.field("tail", f"must be a whole number from 0 to {MAX_TAIL}")
    if message.get("every") and (tail or after is not None):
        raise Invalid.field("every", "goes with neither after nor tail: it begins with what is new")
    overflow = text_of(message, "overflow") or Overflow.DISCONNECT
    if overflow not in list(Overflow):
        raise Invalid.field("overflow", f"must be one of {', '.join(Overflow)}")
    return WatchRequest(
        selection=selection_of(message),
        after=None if after is None else parse_position(after, "after"),
        after_is_time=after is not None and is_time(after),
        tail=tail or 0,
        overflow=Overflow(overflow),
        ref=message.get("ref"),
    )


def ref_of(message: dict[str, Any]) -> Any:
    """Return the message's ``ref``, checked to be encodable: orjson reads deeper nesting than it writes.

    Raises:
        Invalid: It is nested too deeply.
    """
    ref = message.get("ref")
    try:
        json_frame({"ref": ref})
    except orjson.JSONEncodeError:
        raise Invalid.field("ref", "is nested too deeply to be returned") from None
    return ref


def ref_of_refused(text: bytes) -> Any:
    """Return the ``ref`` of a message that was refused as JSON, as far as it can be read; else ``None``."""
    try:
        message = read_json(text)
        return ref_of(message) if isinstance(message, dict) else None
    except ClientFault:
        return None


def text_of(message: dict[str, Any], name: str) -> str | None:
    """Return the field ``name``, which must be text; ``None`` if it is missing or null.

    Raises:
        Invalid: It is something else.
    """
    value = message.get(name)
    if value is not None and not isinstance(value, str):
        raise Invalid.field(name, "must be text")
    return value
