"""Mending of items whose publishers get no answer, until they pass the strict rules.

Over HTTP a bad field is refused, and its publisher corrects it. A publisher to Redis gets no answer and goes
on, so a refusal would lose the whole item because of one bad value: an outcome whose text was cut in the
middle of an emoji, a cost that is not a number. Here the strict rules find the bad fields, and only those are
left out. Their names are added as ``left_out``: in a status's ``result`` or a creation's ``metadata``, so
that the task shows them; otherwise in the payload. A message of no known form is kept as it came, as
``task.message``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import orjson

from heliograph.model.errors import MAX_ERRORS, Invalid, Malformed, TooLarge
from heliograph.model.event import JSON_OPTIONS, Draft
from heliograph.model.exact_json import HALF, all_kept, is_kept
from heliograph.model.intake import ENVELOPE, MAX_DEPTH, MESSAGE_FORMS, parse_item

LEFT_OUT = "left_out"
MESSAGE = "task.message"
"""The topic of agents' messages of no known form."""

MAX_NOTES = 20
LONG_NOTE = 300
SHORT = 200
"""The most bytes of a member that is never taken out to make an item fit, as it may identify the item."""
LONG_TEXT = 1000
"""The most characters of a text that is never cut to make an item fit: something else must be too large."""

_DEEP = MAX_DEPTH - 10
_NEEDED = frozenset({"topic", "payload.status", "payload.output"})
"""The fields that an item can't do without."""
_MARKS = ("\ufffd", "␀")
_KEPT = frozenset({"task_id", "status", LEFT_OUT})
_NAMED_IN = {"task.status": "result", "task.created": "metadata"}
_NOT_A_NAME = re.compile(r"[^A-Za-z0-9._:@+=~-]")


class Digits(str):
    """A text that was a number, or the name of one, which would have been read back as another one."""

    __slots__ = ()


def read_json(data: bytes) -> Any:
    """Parse JSON as leniently as possible without guessing.

    A lone surrogate becomes U+FFFD and NUL becomes ␀. A number that would be read back as another one becomes
    the text of its digits, and NaN and Infinity become the text of their names: ``Digits``.

    Raises:
        Malformed: It is not JSON.
    """
    try:
        if b"\\u0000" not in data and all_kept(data):
            return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        value = json.loads(
            text_of(data), strict=False, parse_int=_number, parse_float=_number, parse_constant=Digits
        )
    except (ValueError, RecursionError) as error:
        raise Malformed(f"it is not JSON: {error}") from None
    return plain(value)


def text_of(data: bytes) -> str:
    """Return text, with replacements for bytes that are not UTF-8, lone surrogates and NUL."""
    return _kept(data.decode("utf-8-sig", "replace"))


def name_of(text: Any) -> str:
    """Return the valid id that is nearest to a text."""
    name = _NOT_A_NAME.sub("-", str(text)).lstrip("._:@+=~-")[:128]
    return name or "unnamed"


def plain(value: Any, levels: int = _DEEP) -> Any:
    """Return a value that can be stored; parts that are nested deeper than ``levels`` become JSON text."""
    match value:
        case Digits():
            return value
        case str():
            return _kept(value)
        case dict() | list() if levels == 0:
            return _kept(json.dumps(value, ensure_ascii=False))
        case dict():
            return {_kept(str(name)): plain(member, levels - 1) for name, member in value.items()}
        case list():
            return [plain(member, levels - 1) for member in value]
    return value


def mend(item: dict[str, Any], max_bytes: int) -> Draft:
    """Make the draft of an item in the event form, without the fields that the strict rules refuse.

    Args:
        item: The item, with values from ``read_json``, the fields of the event form, and a valid task id. It
            is changed in place.
        max_bytes: Limit of its payload as JSON; a longer one is cut.
    """
    return _mended(item, max_bytes)[0]


def _mended(item: dict[str, Any], max_bytes: int) -> tuple[Draft, list[str]]:
    """Make the draft of an item in the event form, and list the fields that were left out."""
    notes: dict[str, str] = {}
    while True:
        try:
            return parse_item(item, max_bytes), _listed(notes)
        except TooLarge:
            if not _shorten(item["payload"], max_bytes, notes):
                notes.popitem()
        except Invalid as invalid:
            notes.update((error.field, error.detail) for error in invalid.errors)
            places = [_place_of(item, error.field) for error in invalid.errors]
            if None in places or any(error.field in _NEEDED for error in invalid.errors):
                if item.get("topic") == MESSAGE:
                    raise  # a MESSAGE needs no field, so this would be a bug
                item["topic"] = MESSAGE
            else:
                for error, place in zip(invalid.errors, filter(None, places), strict=True):
                    _leave_out(item, error.field, place)
            if len(invalid.errors) >= MAX_ERRORS:  # a client decides how many unknown fields there are
                for name in item.keys() - ENVELOPE.by_name.keys():
                    del item[name]
        _write_down(item, notes)


def parse_leniently(item: Any, max_bytes: int, default_key: str | None) -> tuple[Draft, list[str]]:
    """Make the draft of an item in either form, and list the fields that were left out or replaced.

    Args:
        item: The item from ``read_json``.
        max_bytes: Limit of its payload as JSON; a longer one is cut.
        default_key: Its idempotency key, if it names none.

    Raises:
        Invalid: It is not an object.
    """
    changed: list[str] = []
    try:
        draft = parse_item(item, max_bytes, default_key)
    except (Invalid, TooLarge):
        if not isinstance(item, dict):
            raise
        draft, changed = _mended(_opened(item), max_bytes)
        if draft.key is None and default_key is not None:
            draft = draft._replace(key=default_key)
    changed += [note[:LONG_NOTE] for note in islice(_replaced(draft.payload, "payload"), MAX_NOTES)]
    return draft, changed


def _opened(item: dict[str, Any]) -> dict[str, Any]:
    """Return an item in the event form; without a topic if it has neither a topic nor a known type."""
    if "topic" in item:
        payload = item.get("payload", {})
        return {**item, "payload": payload if isinstance(payload, dict) else {"payload": payload}}
    around = {name: item[name] for name in item if name in ENVELOPE.by_name and name != "payload"}
    payload = {name: value for name, value in item.items() if name not in around}
    form = MESSAGE_FORMS.get(item["type"]) if isinstance(item.get("type"), str) else None
    if form is None:
        return {**around, "payload": payload}
    del payload["type"]
    return {**around, "topic": form[0], "payload": payload}


def _place_of(place: Any, field: str) -> tuple[dict[str, Any], str] | None:
    """Find the member of an error's path: return its container, and its name, which may have dots."""
    if not isinstance(place, dict):
        return None
    if field in place:
        return place, field
    ways = (name for name in place if field.startswith(f"{name}."))
    return next(filter(None, (_place_of(place[name], field[len(name) + 1 :]) for name in ways)), None)


def _leave_out(item: dict[str, Any], field: str, place: tuple[dict[str, Any], str]) -> None:
    if field == "payload":  # the error is too deep nesting
        item["payload"] = plain(item["payload"])
    else:
        place[0].pop(place[1], None)


def _shorten(payload: dict[str, Any], max_bytes: int, notes: dict[str, str]) -> bool:
    """Cut the longest texts of a payload, or take out its largest members; tell whether that was possible."""
    excess = _size(payload) - max_bytes + LONG_NOTE  # room for the note
    texts = sorted(_long_texts(payload, "payload"), key=lambda text: text.size, reverse=True)
    for text in texts:
        if excess <= 0:
            break
        length = max(LONG_TEXT, len(text.value) * (text.size - excess) // text.size - 4)
        text.place[text.name] = text.value[:length] + "…"
        excess -= text.size - _size(text.place[text.name])
        notes[text.path] = f"was cut to {length} characters"
    if not texts:
        result = payload.get("result")
        places = [(payload, "payload")] + ([(result, "payload.result")] if isinstance(result, dict) else [])
        members = [
            (_size(value), place, name, f"{path}.{name}")
            for place, path in places
            for name, value in place.items()
            if value is not result and not (name in _KEPT and _size(value) <= SHORT)
        ]
        for size, place, name, path in sorted(members, key=lambda member: member[0], reverse=True):
            if excess <= 0:
                break
            excess -= size
            del place[name]
            notes[path] = "was too large"
        return bool(members)
    return True


class _Text(NamedTuple):
    """A long text: its container, its name in it, its path, the text, and its bytes as JSON."""

    place: Any
    name: Any
    path: str
    value: str
    size: int


def _long_texts(value: Any, path: str) -> Iterator[_Text]:
    for name, member in _entries(value):
        if isinstance(member, str) and len(member) > LONG_TEXT + 1:
            yield _Text(value, name, f"{path}.{name}", member, _size(member))
        yield from _long_texts(member, f"{path}.{name}")


def _replaced(value: Any, path: str) -> Iterator[str]:
    """Tell of each text and name in which something was replaced, and of each text that was a number."""
    if isinstance(value, Digits):
        yield f"{path}: became text: as a number it can't be kept"
    elif _is_marked(value):
        yield f"{path}: half characters and NUL were replaced by � and ␀, where there were any"
    for name, member in _entries(value):
        if _is_marked(name):
            yield f"{path}.{name}: half characters and NUL were replaced in the name, where there were any"
        yield from _replaced(member, f"{path}.{name}")


def _is_marked(value: Any) -> bool:
    return isinstance(value, str) and any(mark in value for mark in _MARKS)


def _entries(value: Any) -> Iterable[tuple[Any, Any]]:
    """Return the members of a value, each with its name or place."""
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()


def _size(value: Any) -> int:
    return len(orjson.dumps(value, option=JSON_OPTIONS))


def _write_down(item: dict[str, Any], notes: dict[str, str]) -> None:
    """Add the names of the left out fields to an item."""
    payload = item["payload"]
    name = _NAMED_IN.get(item["topic"])
    place = payload if name is None else payload.get(name) or {}
    place[LEFT_OUT] = _listed(notes)
    if name is not None:
        payload[name] = place


def _listed(notes: dict[str, str]) -> list[str]:
    return [f"{field}: {detail}"[:LONG_NOTE] for field, detail in islice(notes.items(), MAX_NOTES)]


def _kept(text: str) -> str:
    return HALF.sub("\ufffd", text).replace("\0", "␀")


def _number(text: str) -> int | float | Digits:
    if not is_kept(text):
        return Digits(text)
    return int(text) if text.removeprefix("-").isdigit() else float(text)
