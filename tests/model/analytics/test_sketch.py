from collections import Counter
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from heliograph.model.analytics import sketch

values = st.lists(st.integers(0, 10**12), min_size=1, max_size=60)
QUANTILES = (0.01, 0.5, 0.9, 0.95, 0.99, 1.0)


def _exact(numbers: list[int], quantile: float) -> int:
    return sorted(numbers)[ceil(quantile * len(numbers)) - 1]


@given(values)
def test_quantiles_are_within_one_percent(numbers: list[int]) -> None:
    """Every quantile is within 1 % of the value at the nearest rank."""
    found = sketch.quantiles(_sketch(numbers), QUANTILES)
    assert found is not None
    for quantile, value in zip(QUANTILES, found, strict=True):
        right = _exact(numbers, quantile)
        assert abs(value - right) <= 0.01 * right


@given(values, values)
def test_a_merged_sketch_is_that_of_all_values(some: list[int], more: list[int]) -> None:
    """Adding two sketches, or joining their dumps, gives the sketch of all their values."""
    assert _sketch(some) + _sketch(more) == _sketch(some + more)
    assert sketch.merged(_dump(some) + _dump(more)) == _sketch(some + more)


@given(values, values)
def test_values_can_be_taken_back(kept: list[int], dropped: list[int]) -> None:
    """Subtracting a sketch leaves exactly the sketch of the other values."""
    assert _sketch(kept + dropped) - _sketch(dropped) == _sketch(kept)


@given(values)
def test_dumps_are_read_back(numbers: list[int]) -> None:
    """A dump is read back unchanged, in 6 bytes for each bin."""
    bins = Counter(map(sketch.bin_of, numbers))
    assert sketch.load(sketch.dump(bins)) == bins
    assert len(sketch.dump(bins)) == 6 * len(bins)


def test_nothing_has_no_quantiles() -> None:
    """An empty sketch answers None."""
    assert sketch.quantiles(0, QUANTILES) is None
    assert sketch.merged(b"") == 0


def test_a_sketch_of_zeros_is_zero() -> None:
    """Values of zero are counted, and are exactly zero."""
    assert sketch.quantiles(_sketch([0, 0, -5]), (0.5, 1.0)) == [0.0, 0.0]


def _dump(numbers: list[int]) -> bytes:
    return sketch.dump(Counter(map(sketch.bin_of, numbers)))


def _sketch(numbers: list[int]) -> int:
    return sketch.merged(_dump(numbers))
