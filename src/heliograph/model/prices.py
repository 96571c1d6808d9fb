"""What tokens cost: a table by model, with the days on which each price holds.

A result that says its cost is believed. Where it says tokens and no cost, the table computes one, and
the task says so (``cost_computed``). A price in dollars for a million tokens is a price in micro-dollars
for one, so the arithmetic is exact until the single rounding at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import pairwise

import attrs
from attrs import validators

from heliograph.model.errors import SettingsError

MAX_PRICE = 1_000_000


_IN_RANGE = [validators.ge(Decimal(0)), validators.le(Decimal(MAX_PRICE))]


@attrs.frozen
class Price:
    """What one model's tokens cost, in dollars for a million of them.

    Args:
        model: As tasks name it.
        input: Of the tokens that went in.
        output: Of the tokens that came out.
        cached: Of those input tokens that came from a cache; as ``input`` when not given.
        valid_from: First day (UTC) it holds; from ever when not given.
        valid_until: First day (UTC) it holds no more; for ever when not given.
    """

    model: str
    input: Decimal = attrs.field(validator=_IN_RANGE)
    output: Decimal = attrs.field(validator=_IN_RANGE)
    cached: Decimal | None = attrs.field(default=None, validator=validators.optional(_IN_RANGE))
    valid_from: date | None = None
    valid_until: date | None = None

    @property
    def span(self) -> tuple[date, date]:
        """The days on which it holds: the first, and the first no more."""
        return self.valid_from or date.min, self.valid_until or date.max


class Prices:
    """The table.

    Raises:
        SettingsError: Two prices of a model hold on the same day, or one ends before it begins.
    """

    def __init__(self, prices: Sequence[Price] = ()) -> None:
        self._by_model: dict[str, list[Price]] = {}
        for price in sorted(prices, key=lambda price: price.span):
            self._by_model.setdefault(price.model, []).append(price)
        problems = [
            f"prices: {price.model}: valid_until must be after valid_from"
            for price in prices
            if price.span[0] >= price.span[1]
        ]
        for model, listed in self._by_model.items():
            problems += [
                f"prices: {model}: two prices hold on {later.span[0]}; end the one with valid_until"
                for earlier, later in pairwise(listed)
                if later.span[0] < earlier.span[1]
            ]
        if problems:
            raise SettingsError(problems)

    def cost(
        self,
        model: str | None,
        moment: datetime,
        input_tokens: int | None,
        output_tokens: int | None,
        cached_tokens: int | None,
    ) -> int | None:
        """Compute a cost in micro-dollars, rounded half to even.

        Args:
            model: As the task names it.
            moment: When the task finished, aware.
            input_tokens: All that went in, the cached ones included.
            output_tokens: What came out.
            cached_tokens: Those of the input that came from a cache.

        Returns:
            ``None`` when there are no tokens, or no price for them.
        """
        if model not in self._by_model or (input_tokens is None and output_tokens is None):
            return None
        day = moment.astimezone(UTC).date()
        for price in self._by_model[model]:
            if price.span[0] <= day < price.span[1]:
                whole = input_tokens or 0
                cached = 0 if price.cached is None else min(cached_tokens or 0, whole)
                cost = (whole - cached) * price.input + (output_tokens or 0) * price.output
                cost += cached * (price.cached or 0)
                return int(cost.to_integral_value(ROUND_HALF_EVEN))
        return None


NO_PRICES = Prices()
