"""The facts that events say of runs, for which neither order nor repetition matters.

A run is told by several publishers at once (what starts it, what carries it out, its agents), over a bus that
may deliver twice, or in another order. So a run is no machine that events drive on. Events add facts, and
what is shown is computed of them. There are three kinds: the earliest and the latest time of something, the
latest word on a field, and sets. All times are those that publishers gave, in microseconds since the epoch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import attrs

from heliograph.model import rules
from heliograph.model.rules import NAME
from heliograph.model.task import MAX_COST_USD, MAX_TOKENS, nano_dollars

MAX_MILLISECONDS = 10**12
MAX_ERROR = 10_000
"""Characters that are kept of an error."""

Value = TypeVar("Value")

NAMED = {"workflow_id": NAME, "run_id": attrs.evolve(NAME, required=False)}
"""Rules of what names a run in the documented words."""

TOLD = {
    "duration_ms": rules.amount(MAX_MILLISECONDS),
    "cost_usd": rules.amount(MAX_COST_USD),
    **dict.fromkeys(("input_tokens", "output_tokens", "cached_tokens"), rules.whole(MAX_TOKENS)),
}
"""Rules of what the end of a run, or of a step, may tell of it."""


def written(value: Any) -> bytes:
    """Write a JSON value, with whole numbers of any size, so that equal values are equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class Mark(NamedTuple):
    """The time of a word on a field, and a digest of the word: of two words at one time one must be later."""

    at: int
    digest: str

    @classmethod
    def of(cls, at: int, value: Any) -> Mark:
        """Make the mark of a word."""
        return cls(at, hashlib.sha256(written(value)).hexdigest()[:16])


def later(marks: dict[str, list[Any]], field: str, at: int, value: Any) -> bool:
    """Tell whether a word on a field is later than all before, and if so remember when it was said."""
    mark = list(Mark.of(at, value))
    if mark <= marks.get(field, []):
        return False
    marks[field] = mark
    return True


def remember(entries: dict[str, Value], key: str, value: Value, most: int) -> Value | None:
    """Add an entry to a set of the newest; return the one that had to go.

    Args:
        entries: The entries by keys whose order is their age.
        key: The key of the entry; it is joined with one that is there already.
        value: The entry.
        most: The number that is kept. When the set is full, an entry that is older than all of them counts as
            one that had to go before.
    """
    if key in entries:
        entries[key] = joined(entries[key], value)
        return None
    gone = None
    if len(entries) >= most:
        oldest = min(entries)
        if key < oldest:
            return None
        gone = entries.pop(oldest)
    entries[key] = value
    return gone


def joined(one: Any, other: Any) -> Any:
    """Join two entries of the same kind: in each place the greater, and anything before nothing."""
    if isinstance(one, list) and isinstance(other, list):
        return list(map(joined, one, other))
    return max((one, other), key=lambda value: (value is not None, value))


class Spent(NamedTuple):
    """The told cost of something: whole nano-dollars, and tokens."""

    cost_nanos: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None

    @classmethod
    def told(cls, said: Mapping[str, Any]) -> Spent | None:
        """Read the spending that an object tells, in its publisher's words; ``None`` if it tells none."""
        cost = first(said, "cost_usd", "estimated_cost_usd", "est_cost_usd")
        outputs = [
            tokens(first(said, "output_tokens", "candidates_tokens")),
            tokens(said.get("thoughts_tokens")),
        ]
        spent = cls(
            nano_dollars(cost) if amount(cost, MAX_COST_USD) else None,
            tokens(first(said, "input_tokens", "prompt_tokens")),
            total(outputs),
            tokens(said.get("cached_tokens")),
        )
        return None if spent == cls() else spent

    def plus(self, other: Spent, sign: int = 1) -> Spent:
        """Add another, or take it away; what neither tells stays unknown."""
        return Spent(
            *(
                mine if its is None else (mine or 0) + sign * its
                for mine, its in zip(self, other, strict=True)
            )
        )

    @property
    def capped(self) -> Spent:
        """The shown cost: no more than one event may tell, so that sums of it stay within 64 bits."""
        capped = (None if mine is None else min(mine, most) for mine, most in zip(self, CAPS, strict=True))
        return Spent(*capped)


CAPS = (nano_dollars(MAX_COST_USD), MAX_TOKENS, MAX_TOKENS, MAX_TOKENS)


def first(said: Mapping[str, Any], *names: str) -> Any:
    """Return the first of some fields that says something."""
    return next((said[name] for name in names if said.get(name) is not None), None)


def total(counts: list[int | None]) -> int | None:
    """Add up what is known; ``None`` when nothing is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def amount(value: Any, most: float) -> bool:
    """Tell whether this is a number from 0 to ``most``."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most


def tokens(value: Any) -> int | None:
    """Read a count of tokens; ``None`` if it is none."""
    return value if amount(value, MAX_TOKENS) and isinstance(value, int) else None


def milliseconds(value: Any) -> float | None:
    """Read a duration; ``None`` if it is none."""
    return float(value) if amount(value, MAX_MILLISECONDS) and math.isfinite(value) else None


def text(value: Any, most: int) -> str | None:
    """Read text, or write what is none as JSON, shortened; ``None`` stays ``None``, as does nothing."""
    if value is None or value == "":
        return None
    shown = value if isinstance(value, str) else written(value).decode()
    return shown[:most]
