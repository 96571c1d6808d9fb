"""Answers as JSON: values of attrs classes, written by one converter.

A field with a default is left out when it has that value; ids become cursors. Values that are JSON already
(``Any``, objects with arbitrary names) stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import attrs
import cattrs
import orjson
from cattrs.gen import make_dict_unstructure_fn, override

from heliograph.http.rules.schema import Describe, described_by, json_name
from heliograph.model.event import JSON_OPTIONS
from heliograph.model.ids import EventId, format_id, format_ids

_writing = cattrs.Converter()


def _as_it_is(value: Any) -> Any:
    return value


@_writing.register_unstructure_hook_factory(attrs.has)
def _write_fields(cls: type) -> Callable[[Any], Any]:
    names: dict[str, Any] = {f.name: override(rename=json_name(f.name)) for f in attrs.fields(cls)}
    return make_dict_unstructure_fn(cls, _writing, _cattrs_omit_if_default=True, **names)


@_writing.register_unstructure_hook_factory(lambda hint: hint in {Any, dict[str, Any], Mapping[str, Any]})
def _write_json(hint: Any) -> Callable[[Any], Any]:
    return _as_it_is


_writing.register_unstructure_hook(EventId, format_id)


@_writing.register_unstructure_hook_factory(lambda hint: hint == Sequence[EventId])
def _write_ids(hint: Any) -> Callable[[Any], Any]:
    return format_ids


def written_as(cls: type, write: Callable[[Any], Any], describe: Describe) -> None:
    """Set the writer and the schema of a class whose JSON does not follow from its fields."""
    _writing.register_unstructure_hook(cls, write)
    described_by(cls, describe)


_writer = cache(_writing.get_unstructure_hook)


def plain(value: Any) -> Any:
    """Return a value as dicts, lists and other values that orjson encodes."""
    return _writing.unstructure(value)


def to_json(value: Any) -> bytes:
    """Encode a value, or plain JSON data."""
    return orjson.dumps(value, option=JSON_OPTIONS)


def write(value: Any) -> bytes:
    """Encode an answer."""
    cls: Any = type(value)
    return orjson.dumps(_writer(cls)(value), option=JSON_OPTIONS)
