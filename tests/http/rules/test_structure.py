"""A JSON value becomes a value of a class, or each bad field is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import attrs
import pytest
from hypothesis import given
from jsonschema import Draft202012Validator
from tests.strategies import json_objects

from heliograph.http.rules.schema import Components, says
from heliograph.http.rules.structure import structure
from heliograph.model.errors import Invalid


@attrs.frozen
class Part:
    """A part of a thing."""

    n: Annotated[int, says(minimum=1, maximum=9)]


@attrs.frozen
class Thing:
    """Something of everything."""

    name: Annotated[str, says(minLength=1, maxLength=5)]
    kind: Literal["a", "b"]
    parts: Sequence[Part] = ()
    labels: Mapping[str, str] = attrs.field(factory=dict)
    at: datetime | None = None
    ratio: float = 0.5
    on: bool = False
    class_: str | None = None
    extra: Any = None


def test_a_whole_value_is_read() -> None:
    """Every type has its form in JSON."""
    value = {
        "name": "x",
        "kind": "b",
        "parts": [{"n": 1}],
        "labels": {"a": "b"},
        "at": "2026-01-31T12:00:00Z",
        "ratio": 1,
        "on": True,
        "class": "c",
        "extra": [1],
    }
    moment = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert structure(value, Thing) == Thing("x", "b", (Part(1),), {"a": "b"}, moment, 1, True, "c", [1])
    assert structure({"name": "x", "kind": "a"}, Thing) == Thing("x", "a")


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"name": ""}, ["name"]),
        ({"name": "toolong"}, ["name"]),
        ({"name": "a\0"}, ["name"]),
        ({"name": 1, "kind": "c"}, ["name", "kind"]),
        ({"parts": [{"n": 1}, {"n": 10}, {"n": True}, {}]}, ["parts[1].n", "parts[2].n", "parts[3].n"]),
        ({"parts": {}}, ["parts"]),
        ({"labels": {"a": 1}}, ["labels.a"]),
        ({"labels": []}, ["labels"]),
        ({"at": "soon"}, ["at"]),
        ({"at": 5}, ["at"]),
        ({"ratio": "1"}, ["ratio"]),
        ({"on": 1}, ["on"]),
        ({"nonsense": 1}, ["nonsense"]),
    ],
)
def test_each_bad_field_is_named(change: dict[str, Any], fields: list[str]) -> None:
    """The path of each field is said, with what would be right."""
    with pytest.raises(Invalid) as caught:
        structure({"name": "x", "kind": "a", **change}, Thing)
    assert [error.field for error in caught.value.errors] == fields


def test_what_is_missing_is_named() -> None:
    """Fields without a default must be there."""
    with pytest.raises(Invalid, match="name: is missing; kind: is missing"):
        structure({}, Thing)
    with pytest.raises(Invalid, match="must be an object"):
        structure([], Thing)


COMPONENTS = Components({})
COMPONENTS.of(Thing)
SCHEMA = {"components": {"schemas": COMPONENTS.schemas}, "$ref": "#/components/schemas/Thing"}


@given(json_objects())
def test_what_is_taken_is_of_the_schema(change: dict[str, Any]) -> None:
    """Whatever object is taken, the schema takes as well."""
    value = {"name": "x", "kind": "a", **change}
    try:
        structure(value, Thing)
    except Invalid:
        return
    assert Draft202012Validator(SCHEMA).is_valid(value)


@attrs.frozen
class Open:
    """A thing that takes whatever else is said."""

    name: str
    others: Mapping[str, Any] = attrs.field(factory=dict)


def test_what_else_is_said_may_be_taken() -> None:
    """A class with a field for the others refuses no field, and its schema says so."""
    assert structure({"name": "x", "a": 1, "others": 2}, Open) == Open("x", {"a": 1, "others": 2})
    assert structure({"name": "x"}, Open) == Open("x")
    components = Components({})
    components.of(Open)
    schema = components.schemas["Open"]
    assert list(schema["properties"]) == ["name"]
    assert Draft202012Validator(schema).is_valid({"name": "x", "a": 1})
