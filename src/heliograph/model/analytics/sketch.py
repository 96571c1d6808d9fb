"""A quantile sketch that can take a value back.

The scheme is DDSketch (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch with
relative-error guarantees", PVLDB 12, 2019): values are counted in bins whose limits grow by a constant
factor, so the middle of a value's bin deviates from the value by at most a fixed fraction. A sketch consists
of counts only. So merging is addition, and taking a value back, as for a corrected task, is subtraction; both
are exact. (The library of that name only adds.)

It has three forms. ``Bins``, a dictionary, is for changing a few counts. A dump, 6 bytes for each bin that is
not empty, is for storage in memory and in the database. ``Sketch``, one integer with 32 bits for each bin, is
for merging: two sketches of hundreds of bins are merged by a single addition.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

Bins = dict[int, int]
Sketch = int

RELATIVE_ERROR = 0.0099
"""A little under one percent, so that the rounding of floats stays within one."""

_LANE = 32
_ENTRY = struct.Struct("<HI")
_GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GAMMA = math.log(_GAMMA)


def bin_of(value: int) -> int:
    """Return the bin of a value: 0 for zero and less, else from 1 on."""
    return 1 + math.ceil(math.log(value) / _LOG_GAMMA) if value > 0 else 0


def dump(bins: Bins) -> bytes:
    """Return the dump of counts, none of which may be negative."""
    return b"".join(_ENTRY.pack(*entry) for entry in bins.items())


def load(dumped: bytes) -> Bins:
    """Read a sketch that ``dump`` wrote."""
    return dict(_ENTRY.iter_unpack(dumped))


def merged(dumps: bytes) -> Sketch:
    """Merge concatenated dumps into a sketch."""
    bins: Bins = {}
    for position, count in _ENTRY.iter_unpack(dumps):
        bins[position] = bins.get(position, 0) + count
    lanes = [0] * (max(bins, default=-1) + 1)
    for position, count in bins.items():
        lanes[position] = count
    return int.from_bytes(struct.pack(f"<{len(lanes)}I", *lanes), "little")


def quantiles(sketch: Sketch, wanted: Sequence[float]) -> list[float] | None:
    """Return the values at some quantiles, by nearest rank; ``None`` for an empty sketch.

    Args:
        sketch: The counts to read from.
        wanted: The quantiles, ascending, each above 0 and at most 1: 0.5 is the median.
    """
    lanes = -(-sketch.bit_length() // _LANE)
    counts = struct.unpack(f"<{lanes}I", sketch.to_bytes(lanes * 4, "little"))
    through = list(accumulate(counts))
    if not through:
        return None
    ranks = (math.ceil(quantile * through[-1]) for quantile in wanted)
    return [_middle_of(bisect_left(through, rank)) for rank in ranks]


def _middle_of(position: int) -> float:
    """Return the value that represents a bin, at most 1 % away from each value in it."""
    return 2 * _GAMMA ** (position - 1) / (_GAMMA + 1) if position else 0.0
