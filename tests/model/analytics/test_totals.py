from hypothesis import given
from hypothesis import strategies as st

from heliograph.model.analytics import totals
from heliograph.model.analytics.totals import Totals, pack, unpack

numbers = st.integers(0, 2**60)
sums = st.tuples(*[numbers] * len(Totals._fields)).map(Totals._make)


@given(sums, sums)
def test_packed_sums_add_and_subtract_number_by_number(one: Totals, other: Totals) -> None:
    """Adding and subtracting packed sums does so with each number, negative results included."""
    added = Totals._make(a + b for a, b in zip(one, other, strict=True))
    subtracted = Totals._make(a - b for a, b in zip(one, other, strict=True))
    assert unpack(pack(one) + pack(other)) == added
    assert unpack(pack(one) - pack(other)) == subtracted


@given(sums, st.integers(0, 2**200))
def test_what_is_packed_above_does_not_disturb(one: Totals, more: int) -> None:
    """A sum and what is packed above it are read independently."""
    packed = pack(one) + (more << totals.BITS)
    assert unpack(packed) == one
    assert totals.above(packed) == more
