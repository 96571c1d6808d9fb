"""The rules for the fields of a publisher's object: checks, with their sentences and schemas."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import attrs

from heliograph.model import channels
from heliograph.model.errors import MAX_ERRORS, FieldError

DESCRIPTION_CHARACTERS = 1000
DESCRIPTION_BYTES = 2000
"""The most bytes of a text by which entities are found: PostgreSQL refuses index entries above 2,704 bytes,
so an event with more could never be archived, nor any event after it. The forms of ids, channels and topics
keep them far below."""


@attrs.frozen
class Rule:
    """The rule for one field.

    Args:
        test: Tells whether a value passes.
        expected: The rule as a sentence for publishers.
        schema: The rule as JSON Schema, as far as possible; it refuses nothing that passes the test.
        required: Whether the field must be present.
        inner: The rules of the fields of an object.
    """

    test: Callable[[Any], bool]
    expected: str
    schema: Mapping[str, Any]
    required: bool = False
    inner: Rules | None = None

    def passes(self) -> Callable[[Any], bool]:
        """Return the test of a value and of everything inside it."""
        inner = self.inner
        return self.test if inner is None else lambda value: self.test(value) and inner.pass_(value)


class Rules:
    """The rules of an object's fields, by name.

    Args:
        by_name: The rule for each field.
        closed: Whether a field without a rule is an error.
    """

    def __init__(self, by_name: Mapping[str, Rule], *, closed: bool = False) -> None:
        self.by_name = by_name
        self.closed = closed
        self._required = {name for name, rule in by_name.items() if rule.required}
        self._tests = {name: rule.passes() for name, rule in by_name.items()}

    def check(self, item: Mapping[str, Any], path: str = "") -> list[FieldError]:
        """Check the fields of an object; ``path`` is the prefix of their names in the errors."""
        if self.pass_(item):
            return []
        found = (error for name, value in item.items() for error in self._errors(name, value, path))
        errors = list(islice(found, MAX_ERRORS))
        missing = [name for name in self.by_name if name in self._required and item.get(name) is None]
        errors += [
            FieldError(path + name, f"is missing; it {self.by_name[name].expected}") for name in missing
        ]
        return errors

    def pass_(self, item: Mapping[str, Any]) -> bool:
        """Tell quickly whether an object passes; false may be wrong."""
        tests = self._tests
        for name, value in item.items():
            if name in tests:
                if not tests[name](value) or (type(value) is str and "\0" in value):
                    return False
            elif self.closed:
                return False
        return self._required <= item.keys()

    def _errors(self, name: str, value: Any, path: str) -> Iterator[FieldError]:
        rule = self.by_name.get(name)
        if rule is None:
            if self.closed:
                yield FieldError(str(name)[:100], f"is unknown; known are {', '.join(self.by_name)}")
        elif value is None:
            return
        elif not rule.test(value):
            yield FieldError(path + name, rule.expected)
        elif rule.inner is not None:
            yield from rule.inner.check(value, f"{path}{name}.")
        elif isinstance(value, str) and "\0" in value:
            yield FieldError(path + name, "must not contain NUL (U+0000)")


def text(limit: int) -> Rule:
    """Accept text of up to ``limit`` characters."""
    return Rule(
        lambda v: isinstance(v, str) and len(v) <= limit,
        f"must be text of at most {limit} characters",
        {"type": "string", "maxLength": limit},
    )


def whole(limit: int) -> Rule:
    """Accept whole numbers from 0 to ``limit``."""
    return Rule(
        lambda v: isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= limit,
        f"must be a whole number from 0 to {limit}",
        {"type": "integer", "minimum": 0, "maximum": limit},
    )


def amount(limit: int) -> Rule:
    """Accept numbers from 0 to ``limit``."""
    return Rule(
        lambda v: isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= limit,
        f"must be a number from 0 to {limit}",
        {"type": "number", "minimum": 0, "maximum": limit},
    )


def one_of(words: tuple[str, ...], *, required: bool = False) -> Rule:
    """Accept one of some words."""
    *most, last = words
    listed = f"{', '.join(most)} or {last}" if len(words) == 2 else f"one of {', '.join(words)}"
    return Rule(lambda v: v in words, f"must be {listed}", {"enum": words}, required)


def matching(pattern: str) -> Mapping[str, Any]:
    """Return the JSON Schema of text that a pattern matches whole."""
    return {"type": "string", "pattern": f"^(?:{pattern})$"}


def of_object(inner: Rules) -> Rule:
    """Accept an object whose fields pass their own rules."""
    return attrs.evolve(OBJECT, inner=inner)


NAME = Rule(channels.is_name, f"must be {channels.NAME_HELP}", matching(channels.NAME), required=True)
TEXT = Rule(lambda v: isinstance(v, str), "must be text", {"type": "string"}, required=True)
OBJECT = Rule(lambda v: isinstance(v, dict), "must be an object", {"type": "object"})
FLAG = Rule(lambda v: isinstance(v, bool), "must be true or false", {"type": "boolean"})
DESCRIPTION = Rule(
    lambda v: (
        isinstance(v, str)
        and len(v) <= DESCRIPTION_CHARACTERS
        and len(v.encode("utf-8", "surrogatepass")) <= DESCRIPTION_BYTES
    ),
    f"must be text of at most {DESCRIPTION_CHARACTERS} characters, and of {DESCRIPTION_BYTES} bytes in UTF-8",
    {"type": "string", "maxLength": DESCRIPTION_CHARACTERS},
)
