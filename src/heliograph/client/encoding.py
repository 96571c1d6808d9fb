"""Items as the NDJSON that is published, exactly as the program has them, or refused by the field's name.

orjson alone would turn NaN into null, and would say of what it can't write neither the item nor the field.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from heliograph.model.errors import FieldError, Invalid
from heliograph.model.exact_json import HALF

MAX_LEVELS = 254
"""orjson writes no deeper nesting."""


def keyed_lines(items: Iterable[Mapping[str, Any]]) -> bytes:
    """Encode items as NDJSON; each item without a key is given one.

    Raises:
        Invalid: An item has a number or a text that JSON can't hold as it is.
        TypeError: It has anything else that is not JSON.
    """
    prefix = secrets.token_hex(8)
    return b"".join(_line(_with_key(item, f"{prefix}/{index}"), index) for index, item in enumerate(items))


def _line(item: dict[str, Any], index: int) -> bytes:
    try:
        line = orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        _refuse(item, index)
        raise
    if b"null" in line:  # perhaps of NaN
        _refuse(item, index)
    return line


def _refuse(item: dict[str, Any], index: int) -> None:
    if faults := [FieldError(path, detail, index) for path, detail in _faults(item, "", MAX_LEVELS)]:
        raise Invalid(faults)


def _faults(value: Any, path: str, levels: int) -> Iterator[tuple[str, str]]:
    """Yield the path and the fault of each number and text that would not be published as it is."""
    match value:
        case float() if not math.isfinite(value):
            yield path, f"is {value}, which JSON does not have"
        case int() if not -(2**63) <= value < 2**64:
            yield path, "is a whole number beyond 64 bits, which would be rounded: send it as text"
        case str() if HALF.search(value):
            yield path, "has half a character, which UTF-8 does not have"
        case dict() if levels:
            for name, member in value.items():
                yield from _faults(member, f"{path}.{name}" if path else str(name), levels - 1)
        case list() | tuple() if levels:
            for position, member in enumerate(value):
                yield from _faults(member, f"{path}[{position}]", levels - 1)


def _with_key(item: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return an item with ``key``, unless it has one; ``null``, as serializers write it, counts as none."""
    return {**item, "key": key if item.get("key") is None else item["key"]}
