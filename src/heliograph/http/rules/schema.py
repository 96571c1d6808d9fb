"""JSON Schema (2020-12) of values on the wire, derived from the classes that are written and read.

Most of a schema follows from the type: an attrs class is an object with its fields, and a field with a
default may be left out. The rest stands beside the type, as in ``Annotated[int, says("Bytes of it.",
minimum=0)]``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs

from heliograph.model.ids import EventId

Schema = Mapping[str, Any]

OTHERS = "others"
"""The field of a class that takes further members of its JSON; without that field they are refused."""


@attrs.frozen(eq=False)
class Says:
    """An annotation's addition to the schema of its type."""

    more: Schema


def says(description: str | None = None, **more: Any) -> Says:
    """Make an annotation of a description and further members of the schema, such as ``minimum``."""
    return Says(more if description is None else {**more, "description": description})


# The building blocks


def text(pattern: str | None = None, **more: Any) -> Schema:
    """Describe text that matches ``pattern`` as a whole."""
    return {"type": "string", **({} if pattern is None else {"pattern": f"^(?:{pattern})$"}), **more}


def whole(low: int | None = None, high: int | None = None, **more: Any) -> Schema:
    """Describe a whole number from ``low`` to ``high``."""
    limits = {"minimum": low, "maximum": high}
    return {"type": "integer", **{name: limit for name, limit in limits.items() if limit is not None}, **more}


def one_of(values: Iterable[str]) -> Schema:
    """Describe one of some words."""
    return {"type": "string", "enum": list(values)}


def listing(items: Schema, **more: Any) -> Schema:
    """Describe an array."""
    return {"type": "array", "items": items, **more}


def record(properties: Mapping[str, Schema], optional: Sequence[str] = (), **more: Any) -> Schema:
    """Describe an object that has all of these properties, except for the optional ones."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required, **more}


def by_name(values: Schema, **more: Any) -> Schema:
    """Describe an object whose member names are data."""
    return {"type": "object", "additionalProperties": values, **more}


def nullable(schema: Schema) -> Schema:
    """Allow null, too."""
    if "$ref" in schema or "enum" in schema or "not" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    return {**schema, "type": [schema["type"], "null"]} if "type" in schema else schema


def described(schema: Schema, description: str) -> Schema:
    """Add a description."""
    return {**schema, "description": description}


def ref(name: str) -> Schema:
    """Refer to a component by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


TEXT = text()
COUNT = whole(0)
NUMBER: Schema = {"type": "number"}
OBJECT: Schema = {"type": "object"}
ANYTHING: Schema = {}
TIME = text(format="date-time")
CURSOR = ref("Cursor")

_PLAIN: Mapping[Any, Schema] = {
    str: TEXT,
    int: whole(),
    float: NUMBER,
    bool: {"type": "boolean"},
    NoneType: {"type": "null"},
    datetime: TIME,
    EventId: CURSOR,
    Any: ANYTHING,
    object: ANYTHING,
}


class Components:
    """The schemas of classes, each once and by the class's name.

    Args:
        given: Schemas by name that do not come from a class.
    """

    def __init__(self, given: Mapping[str, Schema]) -> None:
        self.schemas: dict[str, Schema] = dict(given)
        self._classes: dict[str, type] = {}

    def of(self, hint: Any) -> Schema:
        """Return the schema of a type's values on the wire; for a class, a reference to it."""
        if hint in _PLAIN:
            return _PLAIN[hint]
        arguments = get_args(hint)
        origin = get_origin(hint)
        if origin is Annotated:
            inner = self.of(arguments[0])
            for one in arguments[1:]:
                inner = {**inner, **one.more}
            return inner
        if origin is Literal:
            return {"const": arguments[0]} if len(arguments) == 1 else one_of(arguments)
        if origin in {Union, UnionType}:
            options = [self.of(option) for option in arguments if option is not NoneType]
            schema = options[0] if len(options) == 1 else {"anyOf": options}
            return nullable(schema) if NoneType in arguments else schema
        if origin is not None and issubclass(origin, Mapping):
            values = self.of(arguments[1])
            return OBJECT if values == ANYTHING else by_name(values)
        if origin is not None and issubclass(origin, Sequence):
            return listing(self.of(arguments[0]))
        return self._of_class(hint)

    def fields(self, cls: type, without: Sequence[str] = ()) -> dict[str, Schema]:
        """Return the schemas of a class's fields by name."""
        hints = get_type_hints(cls, include_extras=True)
        return {name: self.of(hint) for name, hint in hints.items() if name not in without}

    def _of_class(self, cls: type) -> Schema:
        name = cls.__name__
        if name not in self._classes:
            self._classes[name] = cls
            self.schemas[name] = _BY_CLASS.get(cls, partial(_of_fields, cls))(self)
        assert self._classes[name] is cls, f"two classes of answers are named {name}"
        return ref(name)


def json_name(field: str) -> str:
    """Return a field's name in JSON: without the underscore that follows a reserved word of Python."""
    return field.removesuffix("_")


Describe = Callable[[Components], Schema]
_BY_CLASS: dict[type, Describe] = {}


def described_by(cls: type, describe: Describe) -> None:
    """Set the schema of a class whose JSON does not follow from its fields."""
    _BY_CLASS[cls] = describe


def _hints(cls: type) -> Iterable[tuple[str, Any]]:
    """Yield the types of a class's fields; a field that is left out when it is None is never null."""
    hints = get_type_hints(cls, include_extras=True)
    for field in attrs.fields(cls):
        hint = hints[field.name]
        if field.default is None and get_origin(hint) in {Union, UnionType}:
            hint = Union[tuple(one for one in get_args(hint) if one is not NoneType)]  # noqa: UP007
        yield field.name, hint


def _of_fields(cls: type, components: Components) -> Schema:
    fields = [field for field in attrs.fields(cls) if field.name != OTHERS]
    schemas = {name: components.of(hint) for name, hint in _hints(cls)}
    optional = [json_name(field.name) for field in fields if field.default is not attrs.NOTHING]
    summary = (inspect.getdoc(cls) or "").partition("\n")[0]
    properties = {json_name(field.name): schemas[field.name] for field in fields}
    more = {"additionalProperties": ANYTHING} if OTHERS in schemas else {}
    return record(properties, optional, description=summary, **more)
