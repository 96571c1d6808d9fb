"""The forms of a publisher's items, and the way from an item to a draft.

An item comes in the event form (``topic`` and ``payload``, the rest optional) or in the dashboard's message
form (``{"type": "task_output", "task_id": …, "output": …}``, ``task_status`` likewise). The envelope is
strict: an unknown field is an error, since a typo would otherwise lose a field. A payload belongs to its
publisher and is kept whole; only the fields that entities are folded from are checked, for the topics that
have such fields.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

import attrs
import orjson

from heliograph.model import channels
from heliograph.model.errors import FieldError, Invalid, Malformed, TooLarge
from heliograph.model.event import JSON_OPTIONS, Draft, plain_json
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

MESSAGE_FORMS = {
    form: (topic, Rules({"type": _TYPE, **kind.topics[topic].by_name, **_COMMON}, closed=True))
    for kind in KINDS
    for form, topic in kind.forms.items()
}


_LONG = re.compile(rb"[0-9][0-9.]{15,}(?:[eE][-+]?[0-9]+)?")
_TINY = re.compile(rb"(?:e-|E-)[0-9]{3,}(?=[\],}\s]|$)")
_HUGE = re.compile(rb"[0-9.](?:[eE][+]?[0-9]{3,}|[0-9]{300})")
"""In JSON: a possible number that a double can't hold exactly, or part of a text. orjson refuses numbers that
are too large for a double. A double keeps any 15 digits, whatever their exponent."""

_HALF = re.compile("[\ud800-\udfff]")


_DIGITS = bytes(ord("0") if chr(byte) in "0123456789." else 0 for byte in range(256))
_MANY_DIGITS = b"0" * 16
"""A run of digits and dots, once all are zeros; a regular expression would take several times as long."""


def is_kept(number: str) -> bool:
    """Tell whether a number in JSON would be read back as the same number.

    Whole numbers are, within 64 bits; others are as far as a double distinguishes them.
    """
    if number.removeprefix("-").isdigit():
        return len(number) <= 20 and -(2**63) <= int(number) < 2**64
    try:
        value = float(number)
        return math.isfinite(value) and Decimal(number) == Decimal(repr(value))
    except (ValueError, ArithmeticError):  # not a number but part of a text; or its exponent has 20 digits
        return False


def all_kept(body: bytes) -> bool:
    """Tell quickly whether all numbers in JSON would be read back as the same; false may be wrong."""
    numbers = _LONG.findall(body) if _MANY_DIGITS in body.translate(_DIGITS) else []
    if numbers and any(len(number) > 18 and number.isdigit() for number in numbers):
        return False  # probably a number of about 63 bits or more, or part of a text
    if numbers and not _written_alike(b"[%b]" % b",".join(numbers)):
        said = (number.decode() for number in numbers)
        if not all(number.count(".") > 1 or is_kept(number) for number in said):  # two dots: text
            return False
    return not ((b"e-" in body or b"E-" in body) and _TINY.search(body))


def _written_alike(numbers: bytes) -> bool:
    """Tell whether numbers would be written in the same digits, as is true for nearly all doubles."""
    try:
        return orjson.dumps(orjson.loads(numbers)) == numbers
    except orjson.JSONDecodeError:
        return False


PARTS_STEP = 1024 * 1024
"""The number of bytes that are counted without letting go of the GIL."""

_PARTS = (b"[", b"]", b"{", b"}", b",", b":", b'"')


def parts_of(body: bytes | bytearray) -> int:
    """Return the brackets, commas, colons and quotes in JSON: a bound of its values, told without parsing it.

    The parser holds the GIL for 20 ms where a million of these stand, whatever thread it is in. Written anew,
    the JSON has as many of them, however it was escaped; so it is at least as long.
    """
    starts = range(0, len(body), PARTS_STEP)
    return sum(body.count(part, start, start + PARTS_STEP) for start in starts for part in _PARTS)


def parse_json(body: bytes, what: str) -> Any:
    """Parse JSON strictly (UTF-8, no NaN, no lone surrogates).

    Raises:
        Malformed: The data is not JSON; the message names ``what`` and the position.
        Invalid: It has numbers that would be read back as others.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if _HUGE.search(body):
            _refuse_numbers(body, what)
        raise Malformed(f"{what} is not valid JSON: {_fault(body) or error}") from None
    if not all_kept(body):
        _refuse_numbers(body, what)
    return value


def _refuse_numbers(body: bytes, what: str) -> None:
    """Refuse numbers that would be read back as others.

    Raises:
        Invalid: There are such numbers; it has an entry for each item that has one.
    """
    try:
        value = json.loads(body, parse_int=_number, parse_float=_number)
    except RecursionError:
        raise Malformed(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise Malformed(f"{what} is not valid JSON: {error}") from None
    entries = enumerate(value) if isinstance(value, list) else [(None, value)]
    errors = [
        FieldError(path, f"is {member.said}, which would be rounded: send it as text", index)
        for index, entry in entries
        for path, member in _members(entry, "")
        if isinstance(member, _NotKept)
    ]
    if errors:
        raise Invalid(errors)


@attrs.frozen
class _NotKept:
    """Marks a number that would be read back as another one."""

    said: str


def _number(number: str) -> int | float | _NotKept:
    if is_kept(number):
        return int(number) if number.removeprefix("-").isdigit() else float(number)
    whole = number.removeprefix("-").isdigit()
    return _NotKept("a whole number beyond 64 bits" if whole else "a number beyond what a double tells apart")


def _fault(body: bytes) -> str | None:
    """Describe the first thing in a body that keeps it from being JSON, where only orjson refuses it."""
    try:
        value = json.loads(body.decode(), parse_constant=_NotKept)
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 from byte {error.start} on"
    except (ValueError, RecursionError):
        return None
    for path, member in _members(value, ""):
        if _HALF.search(path):
            return f"the name {path.encode('utf-8', 'replace').decode()} has half a character"
        where = f"{path} " if path else ""
        if isinstance(member, _NotKept):
            return f"{where}is {member.said}, which JSON does not have"
        if isinstance(member, str) and (half := _HALF.search(member)):
            return f"{where}has half a character (U+{ord(half[0]):04X} alone)"
    return None


def _members(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield whatever is neither an object nor an array in a value, each with its path."""
    match value:
        case dict():
            for name, member in value.items():
                yield from _members(member, f"{path}.{name}" if path else str(name))
        case list():
            for position, member in enumerate(value):
                yield from _members(member, f"{path}[{position}]")
        case _:
            yield path, value


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
    if channel == channels.ANALYTICS:
        errors.append(FieldError("channel", "analytics is written by the service itself"))
    if channel == channels.AUDIT:
        errors.append(FieldError("channel", "audit is written by the service itself"))
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
        sender=item.get("sender"),
        correlation_id=item.get("correlation_id"),
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
        body = orjson.dumps(payload, option=JSON_OPTIONS)
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
