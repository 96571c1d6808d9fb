"""What a publisher may send, and how it becomes a draft.

An item comes in the event form (``topic`` and ``payload``, the rest optional) or in the dashboard's
message form (``{"type": "task_output", "task_id": …, "output": …}``, ``task_status`` likewise). The
envelope is strict: an unknown field is an error, since a typo would otherwise lose what it meant. A
payload belongs to its publisher and is kept whole; only the fields that tasks are folded from are
checked, when the topic is one of those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs
import orjson

from heliograph.model import channels
from heliograph.model.errors import FieldError, Invalid, Malformed, TooLarge
from heliograph.model.event import JSON_OPTIONS, Draft
from heliograph.model.ids import parse_time
from heliograph.model.task import DESCRIPTIONS, STATUSES

MAX_DEPTH = 100
MAX_TOKENS = 10**12
MAX_COST_USD = 10**6
"""Far above any task, and low enough that millions of them add up within the databases' 64 bits."""
DESCRIPTION_CHARACTERS = 1000
DESCRIPTION_BYTES = 2000
"""Tasks are found by such texts, and PostgreSQL takes no entry of an index above 2,704 bytes: one event with
more could never be archived, and nothing behind it. Ids, channels and topics are far below by their forms."""
STREAMS = ("stdout", "stderr")
MAX_KEY = 200
"""Characters of an event's idempotency key."""
BRIDGE_KEYS = "bridge/"
OWN_KEYS = ("analytics/", BRIDGE_KEYS, "workflows/")
"""How the keys begin under which the service itself publishes; a publisher's would stand in its way."""


@attrs.frozen
class Rule:
    """What one field must be.

    Args:
        test: Decides.
        expected: The sentence that says it to a publisher.
        schema: The same as JSON Schema, as far as that can say it: it refuses nothing that passes the test.
        required: Whether the field must be there.
    """

    test: Callable[[Any], bool]
    expected: str
    schema: Mapping[str, Any]
    required: bool = False


class Rules:
    """The rules of an object's fields, by name.

    Args:
        by_name: What each field must be.
        closed: Whether a field without a rule is an error.
    """

    def __init__(self, by_name: Mapping[str, Rule], *, closed: bool = False) -> None:
        self.by_name = by_name
        self.closed = closed
        self._required = {name for name, rule in by_name.items() if rule.required}
        self._tests = {name: rule.test for name, rule in by_name.items()}

    def check(self, item: Mapping[str, Any], path: str = "") -> list[FieldError]:
        """Check the fields of an object; ``path`` stands before their names in the errors."""
        if self._pass(item):
            return []
        errors = [error for name, value in item.items() for error in self._errors(name, value, path)]
        missing = [name for name in self.by_name if name in self._required and item.get(name) is None]
        errors += [
            FieldError(path + name, f"is missing; it {self.by_name[name].expected}") for name in missing
        ]
        return errors

    def _pass(self, item: Mapping[str, Any]) -> bool:
        """Tell quickly of most objects that nothing is wrong with them."""
        tests = self._tests
        for name, value in item.items():
            if name in tests:
                if not tests[name](value) or (type(value) is str and "\0" in value):
                    return False
            elif self.closed:
                return False
        return self._required <= item.keys()

    def _errors(self, name: str, value: Any, path: str) -> Iterator[FieldError]:
        rule = self.by_name.get(name)
        if rule is None:
            if self.closed:
                yield FieldError(str(name)[:100], f"is unknown; known are {', '.join(self.by_name)}")
        elif value is None:
            return
        elif not rule.test(value):
            yield FieldError(path + name, rule.expected)
        elif isinstance(value, str) and "\0" in value:
            yield FieldError(path + name, "must not contain NUL (U+0000)")


def _text(limit: int) -> Rule:
    return Rule(
        lambda v: isinstance(v, str) and len(v) <= limit,
        f"must be text of at most {limit} characters",
        {"type": "string", "maxLength": limit},
    )


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS


def _amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_COST_USD


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _matching(pattern: str) -> Mapping[str, Any]:
    return {"type": "string", "pattern": f"^(?:{pattern})$"}


_TOKENS = Rule(
    _whole,
    f"must be a whole number from 0 to {MAX_TOKENS}",
    {"type": "integer", "minimum": 0, "maximum": MAX_TOKENS},
)

RESULT = Rules(
    {
        "cost_usd": Rule(
            _amount,
            f"must be a number from 0 to {MAX_COST_USD}",
            {"type": "number", "minimum": 0, "maximum": MAX_COST_USD},
        ),
        "input_tokens": _TOKENS,
        "output_tokens": _TOKENS,
        "cached_tokens": _TOKENS,
    }
)

_NAME = Rule(channels.is_name, f"must be {channels.NAME_HELP}", _matching(channels.NAME), required=True)
_OUTPUT = Rule(lambda v: isinstance(v, str), "must be text", {"type": "string"}, required=True)
_STREAM = Rule(lambda v: v in STREAMS, "must be stdout or stderr", {"enum": STREAMS})
_STATUS = Rule(
    lambda v: v in STATUSES, f"must be one of {', '.join(STATUSES)}", {"enum": STATUSES}, required=True
)
_OBJECT = Rule(_object, "must be an object", {"type": "object"})
_DESCRIPTION = Rule(
    lambda v: (
        isinstance(v, str)
        and len(v) <= DESCRIPTION_CHARACTERS
        and len(v.encode("utf-8", "surrogatepass")) <= DESCRIPTION_BYTES
    ),
    f"must be text of at most {DESCRIPTION_CHARACTERS} characters, and of {DESCRIPTION_BYTES} bytes in UTF-8",
    {"type": "string", "maxLength": DESCRIPTION_CHARACTERS},
)

_FIELDS: Mapping[str, Rule] = {
    "topic": Rule(
        channels.is_topic,
        f"must be {channels.TOPIC_HELP}, and none of {', '.join(sorted(channels.RESERVED_TOPICS))}: "
        "streams use these names themselves",
        {**_matching(channels.TOPIC), "not": {"enum": channels.RESERVED_TOPICS}},
        required=True,
    ),
    "payload": _OBJECT,
    "channel": Rule(channels.is_channel, f"must be {channels.CHANNEL_HELP}", _matching(channels.CHANNEL)),
    "sender": _text(200),
    "timestamp": Rule(
        lambda v: isinstance(v, str),
        "must be an ISO 8601 time, such as 2026-01-31T12:00:00Z",
        {"type": "string"},
    ),
    "correlation_id": _text(200),
    "key": Rule(
        lambda v: isinstance(v, str) and 0 < len(v) <= MAX_KEY,
        f"must be text of 1 to {MAX_KEY} characters",
        {"type": "string", "minLength": 1, "maxLength": MAX_KEY},
    ),
}

_COMMON = {name: rule for name, rule in _FIELDS.items() if name not in {"topic", "payload", "channel"}}
ENVELOPE = Rules(_FIELDS, closed=True)
_AROUND = {"type", *_COMMON}
"""What in a message is not payload."""

_TYPE = Rule(
    lambda v: isinstance(v, str), "must be task_output or task_status", {"type": "string"}, required=True
)

_CREATED_PAYLOAD = {
    "task_id": _NAME,
    **dict.fromkeys(DESCRIPTIONS, _DESCRIPTION),
    "metadata": _OBJECT,
}
_OUTPUT_PAYLOAD = {"task_id": _NAME, "output": _OUTPUT, "stream": _STREAM}
_STATUS_PAYLOAD = {"task_id": _NAME, "status": _STATUS, "result": _OBJECT}

PAYLOADS = {
    "task.created": Rules(_CREATED_PAYLOAD),
    "task.output": Rules(_OUTPUT_PAYLOAD),
    "task.status": Rules(_STATUS_PAYLOAD),
}
"""The fields of known payloads that the fold reads."""

MESSAGE_FORMS = {
    "task_output": ("task.output", Rules({"type": _TYPE, **_OUTPUT_PAYLOAD, **_COMMON}, closed=True)),
    "task_status": ("task.status", Rules({"type": _TYPE, **_STATUS_PAYLOAD, **_COMMON}, closed=True)),
}


def parse_json(body: bytes, what: str) -> Any:
    """Read JSON strictly (UTF-8, no NaN, no lone surrogates).

    Raises:
        Malformed: Not JSON; the message names ``what`` and the position.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"{what} is not valid JSON: {error}") from None


def parse_items(items: Iterable[Any], max_event_bytes: int, request_key: str | None = None) -> list[Draft]:
    """Check every item of a publish request; all or nothing.

    Args:
        items: The decoded JSON items.
        max_event_bytes: Limit of one event's payload as JSON.
        request_key: The request's idempotency key, from which items without a ``key`` get theirs.

    Raises:
        Invalid: With one entry for each bad field of each item.
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
        topic, payload = _open_message(item)
        channel = f"task:{payload['task_id']}"
        errors: list[FieldError] = []
    else:
        topic, payload = _open_event(item)
        channel = item.get("channel") or channels.channel_for(topic, payload)
        errors = _payload_errors(topic, payload, channel)
    if topic == "task.status" and isinstance(payload.get("result"), dict):
        errors += RESULT.check(payload["result"], "payload.result.")
    if channel == channels.ANALYTICS:
        errors.append(FieldError("channel", "analytics is written by the service itself"))
    timestamp = None
    if item.get("timestamp") is not None:
        try:
            timestamp = parse_time(item["timestamp"], "timestamp")
        except Invalid as invalid:
            errors += invalid.errors
    key = default_key if item.get("key") is None else item["key"]
    if key is not None and key.startswith(OWN_KEYS):
        errors.append(FieldError("key", f"must not begin with {', '.join(OWN_KEYS[:-1])} or {OWN_KEYS[-1]}"))
    if errors:
        raise Invalid(errors)
    body = _write(payload)
    if len(body) > max_event_bytes:
        raise TooLarge(f"the payload has {len(body)} bytes; at most {max_event_bytes} are taken")
    if b"\\u0000" in body:
        _refuse_nul(payload, "payload")
    return Draft(
        channel=channel,
        topic=topic,
        payload=payload,
        body=body,
        timestamp=timestamp,
        sender=item.get("sender"),
        correlation_id=item.get("correlation_id"),
        key=key,
    )


def _open_message(item: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Check an item in the message form; return the topic and the payload."""
    form = MESSAGE_FORMS.get(item["type"]) if isinstance(item["type"], str) else None
    if form is None:
        raise Invalid.field("type", f"must be one of {', '.join(MESSAGE_FORMS)}")
    topic, rules = form
    _raise_if(rules.check(item))
    return topic, {name: value for name, value in item.items() if name not in _AROUND}


def _open_event(item: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Check the envelope of an item in the event form; return the topic and the payload."""
    _raise_if(ENVELOPE.check(item))
    payload = item.get("payload") or {}
    channel = item.get("channel") or ""
    if item["topic"] in PAYLOADS and "task_id" not in payload and channel.startswith("task:"):
        payload = {"task_id": channel[5:], **payload}
    return item["topic"], payload


def _payload_errors(topic: str, payload: dict[str, Any], channel: str) -> list[FieldError]:
    rules = PAYLOADS.get(topic)
    if rules is None:
        return []
    errors = rules.check(payload, "payload.")
    if not errors and channel != f"task:{payload['task_id']}":
        errors.append(FieldError("channel", f"must be task:{payload['task_id']} for this payload"))
    return errors


def _raise_if(errors: list[FieldError]) -> None:
    if errors:
        raise Invalid(errors)


def _write(payload: dict[str, Any]) -> bytes:
    """Write a payload as JSON, unless it is nested deeper than every reader and encoder behind us takes."""
    try:
        body = orjson.dumps(payload, option=JSON_OPTIONS)
    except orjson.JSONEncodeError:
        body = None  # it gives up at 254 levels
    # Few payloads have so many brackets at all; only those are walked through.
    if body is None or (body.count(b"{") + body.count(b"[") > MAX_DEPTH and _deeper(payload, MAX_DEPTH)):
        raise Invalid.field("payload", f"must not be nested deeper than {MAX_DEPTH} levels")
    return body


def _deeper(value: Any, levels: int) -> bool:
    """Tell whether a value is nested in more than so many levels."""
    if not isinstance(value, dict | list):
        return False
    members = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(member, levels - 1) for member in members)


def _refuse_nul(value: Any, path: str) -> None:
    """Refuse NUL anywhere in a payload: PostgreSQL can't keep it, and both forms must keep the same."""
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
