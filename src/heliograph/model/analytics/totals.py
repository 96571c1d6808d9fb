"""Sums over tasks, packed into one integer.

Answers need millions of additions of the same ten numbers. Packed side by side into one integer, 64 bits
each, all ten are added (or subtracted) by a single operation: ten times as fast as a tuple, in half the
memory, and just as exact. A packed sum may also be a difference with negative numbers; ``unpack`` reads both,
as long as each number is between -2**63 and 2**63.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

Packed = int


class Totals(NamedTuple):
    """The numbers that are summed up.

    Args:
        created: Tasks that began.
        finished: Tasks that ended, whatever the outcome.
        succeeded: Finished tasks that completed.
        failed: Finished tasks that failed; the rest were cancelled.
        cost_nanos: The tasks' cost, in nano-dollars.
        costs_computed: Tasks whose cost comes from the price table.
        costs_unknown: Tasks that have used tokens at an unknown cost.
        input_tokens: Input tokens, including those that came from a cache or were written to one.
        output_tokens: Output tokens.
        duration_ms: The tasks' time from start to finish.
    """

    created: int = 0
    finished: int = 0
    succeeded: int = 0
    failed: int = 0
    cost_nanos: int = 0
    costs_computed: int = 0
    costs_unknown: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    duration_ms: int = 0


_LANE = 64
BITS = _LANE * len(Totals._fields)
"""The number of bits of a packed sum; another value may be packed above them."""

_HALF = 1 << _LANE - 1
_HALVES = sum(_HALF << _LANE * position for position in range(len(Totals._fields)))
_MASK = (1 << BITS) - 1
_LANE_MASK = (1 << _LANE) - 1
_COST, *_TASKS = map(Totals._fields.index, ("cost_nanos", "created", "finished", "failed"))
_FORMAT = struct.Struct(f"<{len(Totals._fields)}Q")


def pack(totals: Totals) -> Packed:
    """Pack sums; each must be from 0 to 2**63."""
    return int.from_bytes(_FORMAT.pack(*totals), "little")


def unpack(packed: Packed) -> Totals:
    """Return the sums that were packed; anything above them is ignored."""
    # With half a lane's range added to each, no lane is negative, so none borrows from the next.
    raw = (packed + _HALVES & _MASK).to_bytes(BITS // 8, "little")
    return Totals._make(number - _HALF for number in _FORMAT.unpack(raw))


def weight(packed: Packed) -> tuple[int, int]:
    """Return the key by which groups are compared: the cost, then the number of tasks."""
    return _lane(packed, _COST), sum(_lane(packed, position) for position in _TASKS)


def _lane(packed: Packed, position: int) -> int:
    return ((packed + _HALVES) >> _LANE * position & _LANE_MASK) - _HALF


def above(packed: Packed) -> int:
    """Return the integer that was packed above the sums."""
    return packed + _HALVES >> BITS
