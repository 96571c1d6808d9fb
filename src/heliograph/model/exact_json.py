"""Reads JSON exactly: numbers are kept as they were said or refused, and faults are named.

orjson parses; what it can't tell apart, or says without a place, is looked for beside it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import attrs
import orjson

from heliograph.model.errors import FieldError, Invalid, Malformed

_LONG = re.compile(rb"[0-9][0-9.]{15,}(?:[eE][-+]?[0-9]+)?")
_TINY = re.compile(rb"(?:e-|E-)[0-9]{3,}(?=[\],}\s]|$)")
_HUGE = re.compile(rb"[0-9.](?:[eE][+]?[0-9]{3,}|[0-9]{300})")
"""In JSON: a possible number that a double can't hold exactly, or part of a text. orjson refuses numbers that
are too large for a double. A double keeps any 15 digits, whatever their exponent."""

HALF = re.compile("[\ud800-\udfff]")
"""Half a character (a lone surrogate), which UTF-8 does not have."""


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
        if HALF.search(path):
            return f"the name {path.encode('utf-8', 'replace').decode()} has half a character"
        where = f"{path} " if path else ""
        if isinstance(member, _NotKept):
            return f"{where}is {member.said}, which JSON does not have"
        if isinstance(member, str) and (half := HALF.search(member)):
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
