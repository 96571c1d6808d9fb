from __future__ import annotations

import math
from typing import Any

import orjson
import pytest

from heliograph.client.encoding import keyed_lines
from heliograph.model.errors import Invalid


@pytest.mark.parametrize("value", [math.nan, -math.inf, 2**64, -(2**63) - 1, "cut \ud83d"])
def test_what_would_not_be_published_as_it_is_is_refused(value: Any) -> None:
    """A number or a text that JSON can't hold is refused by its item and field; nothing becomes null."""
    items: list[dict[str, Any]] = [{"topic": "a.b"}, {"topic": "a.b", "payload": {"x": [{"n": value}]}}]
    with pytest.raises(Invalid) as refused:
        keyed_lines(items)
    (error,) = refused.value.errors
    assert (error.index, error.field) == (1, "payload.x[0].n")


def test_null_and_large_numbers_are_published() -> None:
    """What JSON can hold is written as it is."""
    payload = {"none": None, "text": "null", "most": 2**64 - 1, "least": -(2**63), "small": 5e-324}
    (line,) = keyed_lines([{"topic": "a.b", "payload": payload}]).splitlines()
    assert orjson.loads(line)["payload"] == payload


@pytest.mark.parametrize("value", [{1}, b"x", {1: 2}])
def test_what_is_no_json_is_a_mistake_of_the_program(value: Any) -> None:
    """An object that is not JSON raises TypeError, and so does a value that contains itself."""
    loop: list[Any] = [value]
    loop.append(loop)
    for payload in (value, loop):
        with pytest.raises(TypeError):
            keyed_lines([{"topic": "a.b", "payload": {"x": payload}}])
