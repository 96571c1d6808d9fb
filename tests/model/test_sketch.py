from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from heliograph.model import sketch

values = st.lists(st.integers(0, 10**12), min_size=1, max_size=60)
QUANTILES = (0.01, 0.5, 0.9, 0.95, 0.99, 1.0)


def _exact(numbers: list[int], quantile: float) -> int:
    return sorted(numbers)[ceil(quantile * len(numbers)) - 1]


@given(values)
def test_quantiles_are_within_one_percent(numbers: list[int]) -> None:
    """Every quantile is within 1 % of the value at the nearest rank."""
    found = sketch.quantiles(sum(map(sketch.of_value, numbers)), QUANTILES)
    assert found is not None
    for quantile, value in zip(QUANTILES, found, strict=True):
        right = _exact(numbers, quantile)
        assert abs(value - right) <= 0.01 * right


@given(values, values)
def test_values_can_be_taken_back(kept: list[int], dropped: list[int]) -> None:
    """Subtracting a sketch leaves exactly the sketch of the other values."""
    both = sum(map(sketch.of_value, kept + dropped))
    assert both - sum(map(sketch.of_value, dropped)) == sum(map(sketch.of_value, kept))


@given(values, values)
def test_dumps_are_read_back_and_joined_dumps_as_their_sum(some: list[int], more: list[int]) -> None:
    """A dump is read back unchanged, and two dumps joined are the merged sketch."""
    first, second = (sum(map(sketch.of_value, numbers)) for numbers in (some, more))
    assert sketch.load(sketch.dump(first)) == first
    assert sketch.load(sketch.dump(first) + sketch.dump(second)) == first + second


def test_nothing_has_no_quantiles() -> None:
    """An empty sketch answers None."""
    assert sketch.quantiles(0, QUANTILES) is None
    assert sketch.load(sketch.dump(0)) == 0


def test_a_sketch_of_zeros_is_zero() -> None:
    """Values of zero are counted, and are exactly zero."""
    assert sketch.quantiles(2 * sketch.of_value(0) + sketch.of_value(-5), (0.5, 1.0)) == [0.0, 0.0]
