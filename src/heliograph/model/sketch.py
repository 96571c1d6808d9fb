"""A quantile sketch that can take a value back.

The scheme is DDSketch (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch with
relative-error guarantees", PVLDB 12, 2019): values are counted in bins whose limits grow by a constant
factor, so a value read from the middle of its bin is wrong by at most a fixed share of itself, whatever
the value. A sketch is nothing but counts, and merging is adding them.

Here it is **one integer, with 32 bits for each bin**. Merging two sketches of hundreds of bins is then one
addition, and taking values back, as correcting a task's outcome needs, is one subtraction: exact, and at
the speed of the machine. (The library of that name adds only, a bin at a time.) A difference of
sketches is an integer as well, which has a meaning once it is added to the sketch it belongs to.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence

Sketch = int

RELATIVE_ERROR = 0.0099
"""A little under one percent, so that the rounding of floats stays within one."""

_LANE = 32
_ENTRY = struct.Struct("<HI")
_GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GAMMA = math.log(_GAMMA)


def of_value(value: int) -> Sketch:
    """Return the sketch of a single value; what is less than zero counts as zero."""
    return 1 << _LANE * _bin_of(value)


def of_counts(counts: Iterable[tuple[int, int]]) -> Sketch:
    """Return the sketch that has these counts, given as pairs of bin and count; a bin may come again."""
    lanes: dict[int, int] = {}
    for position, count in counts:
        lanes[position] = lanes.get(position, 0) + count
    dense = [0] * (max(lanes, default=-1) + 1)
    for position, count in lanes.items():
        dense[position] = count
    return int.from_bytes(struct.pack(f"<{len(dense)}I", *dense), "little")


def counts_of(sketch: Sketch) -> list[tuple[int, int]]:
    """Return the bins that count anything, ascending, as pairs of bin and count."""
    lanes = -(-sketch.bit_length() // _LANE)
    counts = struct.unpack(f"<{lanes}I", sketch.to_bytes(lanes * 4, "little"))
    return [(position, count) for position, count in enumerate(counts) if count]


def dump(sketch: Sketch) -> bytes:
    """Write a sketch in 6 bytes for each bin that counts anything: how sketches rest."""
    return b"".join(_ENTRY.pack(*entry) for entry in counts_of(sketch))


def load(dumped: bytes) -> Sketch:
    """Read what ``dump`` wrote; several dumps joined are read as their sum."""
    return of_counts(_ENTRY.iter_unpack(dumped))


def quantiles(sketch: Sketch, wanted: Sequence[float]) -> list[float] | None:
    """Return the values at some quantiles, by nearest rank; ``None`` when nothing was counted.

    Args:
        sketch: What was counted.
        wanted: Ascending, each above 0 and at most 1: 0.5 is the median.
    """
    counts = counts_of(sketch)
    total = sum(count for _, count in counts)
    if not total:
        return None
    found: list[float] = []
    seen = 0
    for position, count in counts:
        seen += count
        while len(found) < len(wanted) and seen >= math.ceil(wanted[len(found)] * total):
            found.append(_middle_of(position))
    return found


def _bin_of(value: int) -> int:
    """Return the bin of a value: 0 for zero, else from 1 on."""
    return 1 + math.ceil(math.log(value) / _LOG_GAMMA) if value > 0 else 0


def _middle_of(position: int) -> float:
    """Return the value that stands for all of a bin, at most 1 % from each of them."""
    return 2 * _GAMMA ** (position - 1) / (_GAMMA + 1) if position else 0.0
