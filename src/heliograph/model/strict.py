"""Plain data, from TOML and the environment, structured strictly into attrs classes.

Text is converted to a number where a number is wanted, since environment variables are text; nothing else is
converted. All mistakes are collected, as ``path: what would be right``.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, get_args, get_origin

import attrs
import cattrs

_converter = cattrs.Converter(detailed_validation=False)


@_converter.register_structure_hook
def _structure_int(value: Any, _: type) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError("expected a whole number")
    try:
        return int(value)
    except ValueError:
        raise TypeError(f"expected a whole number, got {value!r}") from None


@_converter.register_structure_hook
def _structure_float(value: Any, _: type) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError("expected a number")
    try:
        return float(value)
    except ValueError:
        raise TypeError(f"expected a number, got {value!r}") from None


@_converter.register_structure_hook
def _structure_decimal(value: Any, _: type) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError("expected a number")
    try:
        number = Decimal(str(value))  # a float's shortest form is the one in the file
    except InvalidOperation:
        raise TypeError(f"expected a number, got {value!r}") from None
    if not number.is_finite():
        raise TypeError(f"expected a number, got {value!r}")
    return number


@_converter.register_structure_hook
def _structure_date(value: Any, _: type) -> date:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError):
        raise TypeError(f"expected a date such as 2026-01-31, got {value!r}") from None


@_converter.register_structure_hook
def _structure_str(value: Any, _: type) -> str:
    if not isinstance(value, str):
        raise TypeError("expected text")
    return value


def structure(value: Any, cls: type, path: str, problems: list[str]) -> object:
    """Structure one section.

    Args:
        value: Plain data; a dictionary unless it is a mistake.
        cls: The attrs class of the section.
        path: The path of the section, with a dot at its end; empty for the whole.
        problems: Each mistake is appended, beginning with its path.

    Returns:
        An instance of ``cls``, or ``None`` if there was any mistake.
    """
    if not isinstance(value, dict):
        problems.append(f"{path.rstrip('.')}: expected a section [{path.rstrip('.')}]")
        return None
    fields = attrs.fields_dict(attrs.resolve_types(cls))
    known = ", ".join(fields)
    problems += [f"{path}{name}: is unknown; known are {known}" for name in value if name not in fields]
    arguments: dict[str, Any] = {}
    for name, field in fields.items():
        where = path + name
        if name not in value:
            if field.default is attrs.NOTHING:
                problems.append(f"{where}: is missing")
            continue
        before = len(problems)
        read = _structure_value(value[name], field.type, where, problems)
        if len(problems) == before:
            try:
                read = read if field.converter is None else field.converter(read)  # type: ignore[operator]
                if field.validator is not None:
                    field.validator(None, field, read)
            except Exception as error:
                problems.append(_explain(where, error))
        arguments[name] = read
    return None if problems else cls(**arguments)


def _structure_value(value: Any, kind: Any, path: str, problems: list[str]) -> object:
    """Structure the value of one setting: a section, a list, or something simple."""
    if isinstance(kind, type) and attrs.has(kind):
        return structure(value, kind, f"{path}.", problems)
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            problems.append(f"{path}: expected a list")
            return None
        member = get_args(kind)[0]
        return tuple(
            _structure_value(one, member, f"{path}[{index}]", problems) for index, one in enumerate(value)
        )
    try:
        return _converter.structure(value, kind)
    except Exception as error:
        problems.append(_explain(path, error))
        return None


def _explain(where: str, error: Exception) -> str:
    return f"{where}: {error.args[0] if error.args else error}"
