"""The prices of tokens: a table by model, with the days on which each price holds.

The cost in a result is taken as it is. If a result has tokens and no cost, the table computes the cost, and
the task shows that (``cost_computed``). A price in dollars for a million tokens is a thousand times that
number in nano-dollars for one, so the arithmetic is exact until the single rounding at the end.

*A model's price* is that of the first of these names that the table has, in any case: the name that the task
gives; the name without the provider before it (all up to the last ``/``); either without its version at the
end (a date, ``-latest``, ``-v1:0``, or several of these). So ``anthropic/claude-sonnet-4-5-20250929`` has the
price of ``claude-sonnet-4-5``, unless the table has the name with the date. A model without a price has that
of ``*``, if there is one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import attrs
from attrs import validators

from heliograph.model.errors import SettingsError

MAX_PRICE = 1_000_000
ANY = "*"
"""The name of the price for all models without one."""


_IN_RANGE = [validators.ge(Decimal(0)), validators.le(Decimal(MAX_PRICE))]


_VERSION = re.compile(r"(?:[-@](?:\d{8}|\d{4}-\d{2}-\d{2}|latest|v\d+)(?::\d+)?)+$")


class Usage(NamedTuple):
    """Tokens, each counted once.

    Args:
        fresh: Input tokens that were neither read from a cache nor written to one.
        cached: Input tokens that came from a cache.
        written: Input tokens that were written to a cache.
        output: Output tokens.
    """

    fresh: int = 0
    cached: int = 0
    written: int = 0
    output: int = 0

    @property
    def input(self) -> int:
        """All input tokens."""
        return self.fresh + self.cached + self.written


NO_USAGE = Usage()


@attrs.frozen
class Price:
    """The prices of one model's tokens, in dollars for a million of them.

    Args:
        model: The model's name, as tasks give it.
        input: The price of input tokens.
        output: The price of output tokens.
        cached: The price of input tokens that came from a cache; by default ``input``.
        cache_write: The price of input tokens that were written to a cache; by default ``input``.
        valid_from: The first day (UTC) on which it holds; by default all earlier days.
        valid_until: The first day (UTC) on which it no longer holds; by default it holds for ever.
    """

    model: str
    input: Decimal = attrs.field(validator=_IN_RANGE)
    output: Decimal = attrs.field(validator=_IN_RANGE)
    cached: Decimal | None = attrs.field(default=None, validator=validators.optional(_IN_RANGE))
    cache_write: Decimal | None = attrs.field(default=None, validator=validators.optional(_IN_RANGE))
    valid_from: date | None = None
    valid_until: date | None = None

    @property
    def span(self) -> tuple[date, date]:
        """The days on which it holds: the first one, and the day after the last."""
        return self.valid_from or date.min, self.valid_until or date.max

    def of(self, usage: Usage) -> int:
        """Return the cost of tokens, in nano-dollars."""
        cached = self.input if self.cached is None else self.cached
        written = self.input if self.cache_write is None else self.cache_write
        cost = usage.fresh * self.input + usage.output * self.output
        cost += usage.cached * cached + usage.written * written
        return int((cost * 1000).to_integral_value(ROUND_HALF_EVEN))


class Prices:
    """The table of prices.

    Raises:
        SettingsError: Two prices of a model hold on the same day, or one ends before it begins.
    """

    def __init__(self, prices: Sequence[Price] = ()) -> None:
        self._by_model: dict[str, list[Price]] = {}
        for price in sorted(prices, key=lambda price: price.span):
            self._by_model.setdefault(price.model.casefold(), []).append(price)
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

    def cost(self, model: str | None, moment: datetime, usage: Usage | None) -> int | None:
        """Compute a cost in nano-dollars, rounded half to even.

        Args:
            model: The model's name, as the task gives it.
            moment: The aware time at which the task finished.
            usage: The task's tokens.

        Returns:
            The cost; ``None`` if there are no tokens, or no price for them.
        """
        if usage is None or not self._by_model:
            return None
        day = moment.astimezone(UTC).date()
        for name in names_of(model or ""):
            for price in self._by_model.get(name, ()):
                if price.span[0] <= day < price.span[1]:
                    return price.of(usage)
        return None


NO_PRICES = Prices()


@lru_cache(1000)
def names_of(model: str) -> tuple[str, ...]:
    """Return the names under which the table may have a model, the most exact one first."""
    whole = model.casefold()
    bare = whole.rpartition("/")[2]
    return tuple(dict.fromkeys((whole, bare, _VERSION.sub("", whole), _VERSION.sub("", bare), ANY)))
