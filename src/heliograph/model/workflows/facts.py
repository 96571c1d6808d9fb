"""The facts of runs and steps, for which neither the order nor the repetition of events matters.

Several publishers report a run at once (its starter, its runner, its agents), over a bus that may deliver an
event twice or out of order. So a run is not a state machine. Events add facts, and the shown state is
computed from the facts. There are three kinds: the earliest and the latest time of something, the latest
value of a field, and sets. All times are the publishers' own, in microseconds since the epoch.
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
"""The most characters of an error that are kept."""

Value = TypeVar("Value")

NAMED = {"workflow_id": NAME, "run_id": attrs.evolve(NAME, required=False)}
"""The rules of the fields that name a run, in the documented topics."""

TOLD = {
    "duration_ms": rules.amount(MAX_MILLISECONDS),
    "cost_usd": rules.amount(MAX_COST_USD),
    **dict.fromkeys(("input_tokens", "output_tokens", "cached_tokens"), rules.whole(MAX_TOKENS)),
}
"""The rules of further fields at the end of a run or a step."""


def written(value: Any) -> bytes:
    """Encode a JSON value, with whole numbers of any size, so that equal values are equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class Mark(NamedTuple):
    """The time of a field's value, and the value's digest, which orders two values of the same time."""

    at: int
    digest: str

    @classmethod
    def of(cls, at: int, value: Any) -> Mark:
        """Make the mark of a value."""
        return cls(at, hashlib.sha256(written(value)).hexdigest()[:16])


def later(marks: dict[str, list[Any]], field: str, at: int, value: Any) -> bool:
    """Tell whether a field's value is later than the one before; if so, remember its mark."""
    mark = list(Mark.of(at, value))
    if mark <= marks.get(field, []):
        return False
    marks[field] = mark
    return True


def remember(entries: dict[str, Value], key: str, value: Value, most: int) -> Value | None:
    """Add an entry to a bounded set of the newest ones; return the entry that was dropped for it.

    Args:
        entries: The entries by keys whose order is that of age.
        key: The key of the entry; an entry of the same key is joined with it.
        value: The entry.
        most: The number of entries to keep; an entry that is older than all of a full set is ignored.
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
    """Join two entries of the same form: the greater value at each index, where ``None`` is the least."""
    if isinstance(one, list) and isinstance(other, list):
        return list(map(joined, one, other))
    return max((one, other), key=lambda value: (value is not None, value))


class Spent(NamedTuple):
    """A published cost: whole nano-dollars, and tokens."""

    cost_nanos: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Spent | None:
        """Read the spending in an object, by the publishers' names of the fields; ``None`` if it has none."""
        cost = first(payload, "cost_usd", "estimated_cost_usd", "est_cost_usd")
        outputs = [
            tokens(first(payload, "output_tokens", "candidates_tokens")),
            tokens(payload.get("thoughts_tokens")),
        ]
        spent = cls(
            nano_dollars(cost) if amount(cost, MAX_COST_USD) else None,
            tokens(first(payload, "input_tokens", "prompt_tokens")),
            total(outputs),
            tokens(payload.get("cached_tokens")),
        )
        return None if spent == cls() else spent

    def plus(self, other: Spent, sign: int = 1) -> Spent:
        """Add another one, or subtract it (``sign`` -1); fields that neither has stay unknown."""
        return Spent(
            *(
                mine if its is None else (mine or 0) + sign * its
                for mine, its in zip(self, other, strict=True)
            )
        )

    @property
    def capped(self) -> Spent:
        """The shown spending: at most what one event may have, so that sums stay within 64 bits."""
        capped = (None if mine is None else min(mine, most) for mine, most in zip(self, CAPS, strict=True))
        return Spent(*capped)


CAPS = (nano_dollars(MAX_COST_USD), MAX_TOKENS, MAX_TOKENS, MAX_TOKENS)


def first(said: Mapping[str, Any], *names: str) -> Any:
    """Return the first of some fields that is present and not null."""
    return next((said[name] for name in names if said.get(name) is not None), None)


def total(counts: list[int | None]) -> int | None:
    """Return the sum of the known numbers; ``None`` if none is known."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def amount(value: Any, most: float) -> bool:
    """Tell whether a value is a number from 0 to ``most``."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most


def tokens(value: Any) -> int | None:
    """Return a count of tokens; ``None`` if the value is not one."""
    return value if amount(value, MAX_TOKENS) and isinstance(value, int) else None


def milliseconds(value: Any) -> float | None:
    """Return a duration; ``None`` if the value is not one."""
    return float(value) if amount(value, MAX_MILLISECONDS) and math.isfinite(value) else None


def text(value: Any, most: int) -> str | None:
    """Return a value as shortened text, JSON if it is not text; ``None`` for an empty value."""
    if value is None or value == "":
        return None
    shown = value if isinstance(value, str) else written(value).decode()
    return shown[:most]
