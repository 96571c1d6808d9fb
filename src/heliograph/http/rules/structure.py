"""Reading a JSON value as a value of a type, strictly, naming each bad field.

It follows the annotations that the schemas are made from, so documents and checks agree: ``Annotated[str,
says(maxLength=200)]`` is text of at most 200 characters in both. cattrs would coerce values (``"1"`` becomes
1) and report exceptions, not fields, so the few types that bodies have are checked here instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import attrs

from heliograph.http.rules.schema import OTHERS, Schema, json_name
from heliograph.model.errors import FieldError, Invalid
from heliograph.model.ids import parse_time

T = TypeVar("T")

_EXPECTED: Mapping[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "must be text"),
    int: ((int,), "must be a whole number"),
    float: ((int, float), "must be a number"),
    bool: ((bool,), "must be true or false"),
}
_CHECKS: Mapping[str, tuple[Callable[[Any, Any], bool], str]] = {
    "minLength": (lambda value, limit: len(value) >= limit, "must have at least {} characters"),
    "maxLength": (lambda value, limit: len(value) <= limit, "must have at most {} characters"),
    "minItems": (lambda value, limit: len(value) >= limit, "must have at least {} entries"),
    "maxItems": (lambda value, limit: len(value) <= limit, "must have at most {} entries"),
    "minimum": (lambda value, limit: value >= limit, "must be at least {}"),
    "maximum": (lambda value, limit: value <= limit, "must be at most {}"),
    "pattern": (lambda value, pattern: re.search(pattern, value) is not None, "must match {}"),
    "enum": (lambda value, words: value in words, "must be one of {}"),
}


def structure(value: Any, cls: type[T]) -> T:
    """Make a value of an attrs class from a JSON object.

    Raises:
        Invalid: Some fields are wrong, missing or unknown; all of these are named.
    """
    errors: list[FieldError] = []
    made = _read(value, cls, "", errors)
    if errors:
        raise Invalid(errors)
    result: T = made
    return result


def _read(value: Any, hint: Any, path: str, errors: list[FieldError]) -> Any:
    arguments = get_args(hint)
    origin = get_origin(hint)
    if hint in _EXPECTED:
        return _plain(value, hint, path, errors)
    if hint in {Any, object}:
        return value
    if hint is datetime:
        return _time(value, path, errors)
    if origin is Annotated:
        return _checked(value, arguments[0], [one.more for one in arguments[1:]], path, errors)
    if origin is Literal:
        if value not in arguments:
            errors.append(FieldError(path, f"must be one of {', '.join(map(str, arguments))}"))
        return value
    if origin in {Union, UnionType}:
        if value is None and NoneType in arguments:
            return None
        (other,) = (option for option in arguments if option is not NoneType)
        return _read(value, other, path, errors)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            errors.append(FieldError(path, "must be an object"))
            return value
        return {name: _read(one, arguments[1], _at(path, name), errors) for name, one in value.items()}
    if origin is not None and issubclass(origin, Sequence):
        if not isinstance(value, list):
            errors.append(FieldError(path, "must be an array"))
            return value
        return tuple(_read(one, arguments[0], f"{path}[{n}]", errors) for n, one in enumerate(value))
    return _object(value, hint, path, errors)


def _plain(value: Any, hint: Any, path: str, errors: list[FieldError]) -> Any:
    kinds, expected = _EXPECTED[hint]
    if not isinstance(value, kinds) or (isinstance(value, bool) and hint is not bool):
        errors.append(FieldError(path, expected))
    elif isinstance(value, str) and "\0" in value:
        errors.append(FieldError(path, "must not contain NUL (U+0000)"))
    return value


def _time(value: Any, path: str, errors: list[FieldError]) -> Any:
    if not isinstance(value, str):
        errors.append(FieldError(path, "must be an ISO 8601 time, such as 2026-01-31T12:00:00Z"))
        return value
    try:
        return parse_time(value, path)
    except Invalid as invalid:
        errors += invalid.errors
        return value


def _checked(value: Any, hint: Any, schemas: Sequence[Schema], path: str, errors: list[FieldError]) -> Any:
    before = len(errors)
    made = _read(value, hint, path, errors)
    if made is None or len(errors) > before:
        return made
    for schema in schemas:
        for name, limit in schema.items():
            if name in _CHECKS and not _CHECKS[name][0](made, limit):
                shown = ", ".join(map(str, limit)) if isinstance(limit, list | tuple) else limit
                errors.append(FieldError(path, _CHECKS[name][1].format(shown)))
    return made


def _object(value: Any, cls: type, path: str, errors: list[FieldError]) -> Any:
    if not isinstance(value, dict):
        errors.append(FieldError(path, "must be an object"))
        return None
    before = len(errors)
    hints = get_type_hints(cls, include_extras=True)
    fields = {json_name(field.name): field for field in attrs.fields(cls)}
    values: dict[str, Any] = {}
    others = fields.pop(OTHERS, None)
    for name, one in value.items():
        if name not in fields and others is not None:
            values.setdefault(OTHERS, {})[name] = one
        elif name not in fields:
            errors.append(
                FieldError(_at(path, str(name)[:100]), f"is unknown; known are {', '.join(fields)}")
            )
        else:
            field = fields[name].name
            values[field] = _read(one, hints[field], _at(path, name), errors)
    for name, field in fields.items():
        if name not in value and field.default is attrs.NOTHING:
            errors.append(FieldError(_at(path, name), "is missing"))
    return cls(**values) if len(errors) == before else None


def _at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
