"""What programs put into payloads, and what the service takes of it."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.client.agent.payload import MAX_BYTES, encode
from heliograph.model.intake import parse_item

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.decimals()
    | st.datetimes()
    | st.builds(object)
    | st.sets(st.integers()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=20,
)


def written(payload: dict[str, Any]) -> dict[str, Any]:
    """Return what the service reads."""
    item: dict[str, Any] = orjson.loads(orjson.dumps({"topic": "t", "payload": encode(payload)}))
    return parse_item(item, 1024 * 1024).payload


@given(st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\0")), JSON, max_size=4))
def test_json_stays_what_it_is(payload: dict[str, Any]) -> None:
    """What is JSON already, and holds no NUL, arrives unchanged."""
    if b"\\u0000" not in orjson.dumps(payload):
        assert written(payload) == payload


@given(st.dictionaries(st.text(st.characters()), ANYTHING, max_size=4))
def test_anything_is_taken(payload: dict[str, Any]) -> None:
    """Whatever a program puts into a payload, the service takes what becomes of it."""
    written(payload)


class Broken:
    """An object that can't be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("value", "becomes"),
    [
        (2**70, str(2**70)),
        (Decimal("0.10"), "0.10"),
        (Path("/tmp/x"), "/tmp/x"),
        (Broken(), "<Broken>"),
        ("half \ud83d", "half ?"),
        ("nul \0", "nul \u2400"),
        (math.inf, None),
        ({1: "one"}, {"1": "one"}),
        ({"a"}, "{'a'}"),
    ],
)
def test_what_is_no_json(value: Any, becomes: Any) -> None:
    """Each thing that is no JSON has one form in which it is kept."""
    assert written({"value": value})["value"] == becomes


def test_a_circle_ends() -> None:
    """An object that holds itself is cut, not followed for ever."""
    circle: list[Any] = []
    circle.append(circle)
    assert b"[[[" in orjson.dumps(encode({"circle": circle}))


def test_what_is_too_large_is_shortened() -> None:
    """A payload over the service's limit keeps whose it is, its size and how it begins."""
    shortened = written({"task_id": "t1", "blob": "x" * 2 * MAX_BYTES})
    assert shortened["task_id"] == "t1"
    assert shortened["shortened"] is True
    assert shortened["bytes"] > 2 * MAX_BYTES
    assert shortened["preview"].startswith('{"task_id":"t1","blob":"xxx')


def test_a_status_with_a_huge_result_stays_a_status() -> None:
    """A task's end is never lost for the size of its result."""
    shortened = written({"task_id": "t1", "status": "completed", "result": {"blob": "x" * 2 * MAX_BYTES}})
    assert shortened["status"] == "completed"
    assert shortened["result"]["shortened"] is True
