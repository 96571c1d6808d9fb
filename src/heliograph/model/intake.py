"""The forms of a publisher's items, and the way from an item to a draft.

An item comes in the event form (``topic`` and ``payload``, the rest optional) or in the dashboard's message
form (``{"type": "task_output", "task_id": …, "output": …}``, ``task_status`` likewise). The envelope is
strict: an unknown field is an error, since a typo would otherwise lose a field. A payload belongs to its
publisher and is kept whole; only the fields that entities are folded from are checked, for the topics that
have such fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import orjson

from heliograph.model import channels
from heliograph.model.errors import FieldError, Invalid, TooLarge
from heliograph.model.event import Draft, kept_json, plain_json
from heliograph.model.ids import parse_time
from heliograph.model.kinds import KINDS
from heliograph.model.rules import OBJECT, Rule, Rules, matching, text

MAX_DEPTH = 100
MAX_KEY = 200
"""The most characters of an event's idempotency key."""
BRIDGE_KEYS = "bridge/"
OWN_KEYS = ("analytics/", BRIDGE_KEYS, "webhooks/", "workflows/", "heliograph/")
"""The beginnings of the service's own idempotency keys, which publishers must not take."""

_FIELDS: Mapping[str, Rule] = {
    "topic": Rule(
        channels.is_topic,
        f"must be {channels.TOPIC_HELP}, and none of {', '.join(sorted(channels.RESERVED_TOPICS))}: "
        "streams use these names themselves",
        {**matching(channels.TOPIC), "not": {"enum": channels.RESERVED_TOPICS}},
        required=True,
    ),
    "payload": OBJECT,
    "channel": Rule(channels.is_channel, f"must be {channels.CHANNEL_HELP}", matching(channels.CHANNEL)),
    "sender": text(200),
    "timestamp": Rule(
        lambda v: isinstance(v, str),
        "must be an ISO 8601 time, such as 2026-01-31T12:00:00Z",
        {"type": "string"},
    ),
    "correlation_id": text(200),
    "key": Rule(
        lambda v: isinstance(v, str) and 0 < len(v) <= MAX_KEY,
        f"must be text of 1 to {MAX_KEY} characters",
        {"type": "string", "minLength": 1, "maxLength": MAX_KEY},
    ),
}

_COMMON = {name: rule for name, rule in _FIELDS.items() if name not in {"topic", "payload", "channel"}}
ENVELOPE = Rules(_FIELDS, closed=True)
_AROUND = {"type", *_COMMON}
"""The fields of a message that are not payload."""

_TYPE = Rule(
    lambda v: isinstance(v, str), "must be task_output or task_status", {"type": "string"}, required=True
)

KIND_OF = {topic: kind for kind in KINDS for topic in kind.topics}
"""By topic: the kind of entity whose rules apply to the payload."""

OWN_TOPICS = frozenset(topic for kind in KINDS for topic in kind.own) | {channels.MACHINE_STATUS}
"""The topics of the service itself: a key that may publish need not be one that may configure."""

OWN_CHANNELS = {channels.ANALYTICS, channels.AUDIT}

MESSAGE_FORMS = {
    form: (topic, Rules({"type": _TYPE, **kind.topics[topic].by_name, **_COMMON}, closed=True))
    for kind in KINDS
    for form, topic in kind.forms.items()
}


def parse_items(items: Iterable[Any], max_event_bytes: int, request_key: str | None = None) -> list[Draft]:
    """Check all items of a publish request, and make their drafts.

    Args:
        items: The decoded JSON items.
        max_event_bytes: Limit of one event's payload as JSON.
        request_key: The request's idempotency key, from which items without a ``key`` get theirs.

    Raises:
        Invalid: Some fields are wrong; it has an entry for each.
        TooLarge: An item is over the limit; the message names its index.
    """
    drafts: list[Draft] = []
    errors: list[FieldError] = []
    for index, item in enumerate(items):
        try:
            drafts.append(
                parse_item(item, max_event_bytes, None if request_key is None else f"{request_key}/{index}")
            )
        except Invalid as invalid:
            errors += [attrs.evolve(error, index=index) for error in invalid.errors]
            if len(errors) >= 100:
                break
        except TooLarge as large:
            raise TooLarge(f"item {index}: {large}") from None
    if errors:
        raise Invalid(errors)
    return drafts


def parse_item(item: Any, max_event_bytes: int, default_key: str | None = None) -> Draft:
    """Check one item, in either form, and make its draft.

    Args:
        item: The decoded JSON item.
        max_event_bytes: Limit of its payload as JSON.
        default_key: Its idempotency key, if it names none.

    Raises:
        Invalid: Some fields are wrong; all of them are listed.
        TooLarge: Its payload is over the limit.
    """
    if not isinstance(item, dict):
        raise Invalid.field("", "each item must be a JSON object")
    if "type" in item and "topic" not in item:
        topic, payload, channel = _open_message(item)
        errors: list[FieldError] = []
    else:
        topic, payload = _open_event(item)
        channel = item.get("channel") or channels.channel_for(topic, payload)
        errors = _payload_errors(topic, payload, channel)
    if topic in OWN_TOPICS:
        errors.append(FieldError("topic", f"{topic} is said by the service itself"))
    if channel in OWN_CHANNELS:
        errors.append(FieldError("channel", f"{channel} is written by the service itself"))
    get = item.get
    timestamp = get("timestamp")
    if timestamp is not None:
        try:
            timestamp = parse_time(timestamp, "timestamp")
        except Invalid as invalid:
            errors += invalid.errors
    key = get("key")
    if key is None:
        key = default_key
    if key is not None and key.startswith(OWN_KEYS):
        errors.append(FieldError("key", f"must not begin with {', '.join(OWN_KEYS[:-1])} or {OWN_KEYS[-1]}"))
    if errors:
        raise Invalid(errors)
    body = _write(payload)
    # This is the size as JSON; streams escape some text, which then takes more room.
    size = len(plain_json(body)) if 3 * len(body) > max_event_bytes else len(body)
    if size > max_event_bytes:
        raise TooLarge(f"the payload has {size} bytes; at most {max_event_bytes} are taken")
    if b"\\u0000" in body and _NUL.search(body):
        _refuse_nul(payload, "payload")
    return Draft(
        channel=channel,
        topic=topic,
        payload=payload,
        body=body,
        timestamp=timestamp,
        sender=get("sender"),
        correlation_id=get("correlation_id"),
        key=key,
    )


def _open_message(item: dict[str, Any]) -> tuple[str, dict[str, Any], str]:
    """Check an item in the message form; return the topic, the payload and the channel."""
    form = MESSAGE_FORMS.get(item["type"]) if isinstance(item["type"], str) else None
    if form is None:
        raise Invalid.field("type", f"must be one of {', '.join(MESSAGE_FORMS)}")
    topic, rules = form
    if topic == "task.status":
        item = _with_object(item)
    _raise_if(rules.check(item))
    kind = KIND_OF[topic]
    payload = {name: value for name, value in item.items() if name not in _AROUND}
    return topic, payload, f"{kind.family}:{item[str(kind.field)]}"


def _open_event(item: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Check the envelope of an item in the event form; return the topic and the payload."""
    _raise_if(ENVELOPE.check(item))
    payload = item.get("payload") or {}
    if item["topic"] == "task.status":
        payload = _with_object(payload)
    channel = item.get("channel") or ""
    kind = KIND_OF.get(item["topic"])
    if kind is not None and kind.field not in payload and channel.startswith(f"{kind.family}:"):
        payload = {kind.field: channel.partition(":")[2], **payload}
    return item["topic"], payload


def _with_object(said: dict[str, Any]) -> dict[str, Any]:
    """Return a status whose result is an object; an engine's result that is text becomes one."""
    result = said.get("result")
    return {**said, "result": {"stdout": result}} if isinstance(result, str) else said


def _payload_errors(topic: str, payload: dict[str, Any], channel: str) -> list[FieldError]:
    kind = KIND_OF.get(topic)
    if kind is None:
        return []
    errors = kind.topics[topic].check(payload, "payload.")
    if not errors and channel != kind.channel_of(payload):
        errors.append(FieldError("channel", f"must be {kind.channel_of(payload)} for this payload"))
    return errors


def _raise_if(errors: list[FieldError]) -> None:
    if errors:
        raise Invalid(errors)


def _write(payload: dict[str, Any]) -> bytes:
    """Encode a payload as JSON, unless it is nested deeper than all later readers and encoders accept."""
    try:
        body = kept_json(payload)
    except orjson.JSONEncodeError as error:  # orjson gives up at 254 levels
        if not _deeper(payload, MAX_DEPTH):
            raise Invalid.field("payload", f"can't be written as JSON: {error}") from None
        body = None
    # Few payloads have that many brackets at all; only those are walked.
    if body is None or (body.count(b"{") + body.count(b"[") > MAX_DEPTH and _deeper(payload, MAX_DEPTH)):
        raise Invalid.field("payload", f"must not be nested deeper than {MAX_DEPTH} levels")
    return body


def _deeper(payload: dict[str, Any], levels: int) -> bool:
    """Tell whether a payload is nested in more than ``levels``.

    Level by level: a call for each member would take ten times as long, and there may be 100,000s of them.
    """
    level: list[Any] = [payload]
    for _ in range(levels):
        members = [one.values() if type(one) is dict else one for one in level]
        level = [one for some in members for one in some if type(one) is dict or type(one) is list]
        if not level:
            return False
    return True


_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""A NUL in JSON as orjson writes it; behind another backslash the same characters are text."""


def _refuse_nul(value: Any, path: str) -> None:
    """Refuse NUL anywhere in a payload: PostgreSQL can't store it, and both forms must store the same."""
    match value:
        case str() if "\0" in value:
            raise Invalid.field(path, "must not contain NUL (U+0000)")
        case dict():
            for name, member in value.items():
                _refuse_nul(name, path)
                _refuse_nul(member, f"{path}.{name}")
        case list():
            for position, member in enumerate(value):
                _refuse_nul(member, f"{path}[{position}]")
