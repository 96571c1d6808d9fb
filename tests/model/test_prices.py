from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from heliograph.model.errors import SettingsError
from heliograph.model.event import Event
from heliograph.model.ids import EventId
from heliograph.model.prices import Price, Prices
from heliograph.model.task import Task

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SONNET = Price("sonnet", Decimal(3), Decimal(15), Decimal("0.3"))


def test_a_cost_is_exact_and_rounded_once() -> None:
    """Tokens times prices are added exactly; only the sum is rounded, half to even."""
    prices = Prices([Price("m", Decimal("0.25"), Decimal("1.25"))])
    assert prices.cost("m", NOON, 1, 1, None) == 2  # 1.5 to even
    assert prices.cost("m", NOON, 2, 0, None) == 0  # 0.5 to even
    assert prices.cost("m", NOON, 1_000_000, 0, None) == 250_000


def test_cached_tokens_are_a_part_of_the_input() -> None:
    """Cached tokens cost their own price, the rest of the input the full one."""
    assert Prices([SONNET]).cost("sonnet", NOON, 1000, 10, 400) == 600 * 3 + 10 * 15 + 120
    uncached = Prices([Price("sonnet", Decimal(3), Decimal(15))])
    assert uncached.cost("sonnet", NOON, 1000, 0, 400) == 3000


def test_nothing_to_go_by_gives_no_cost() -> None:
    """Without a price for the model, or without tokens, there is no cost."""
    prices = Prices([SONNET])
    assert prices.cost("other", NOON, 1, 1, None) is None
    assert prices.cost(None, NOON, 1, 1, None) is None
    assert prices.cost("sonnet", NOON, None, None, None) is None


def test_a_price_holds_on_its_days() -> None:
    """The price of the day on which the task finished counts, in UTC."""
    prices = Prices(
        [
            Price("m", Decimal(1), Decimal(1), valid_until=date(2026, 3, 1)),
            Price("m", Decimal(2), Decimal(1), valid_from=date(2026, 3, 1), valid_until=date(2026, 4, 1)),
        ]
    )
    midnight = datetime(2026, 3, 1, tzinfo=UTC)
    assert prices.cost("m", midnight - timedelta(seconds=1), 5, 0, None) == 5
    assert prices.cost("m", midnight, 5, 0, None) == 10
    assert prices.cost("m", datetime(2026, 4, 1, tzinfo=UTC), 5, 0, None) is None


@pytest.mark.parametrize(
    ("prices", "problem"),
    [
        (
            [
                Price("m", Decimal(1), Decimal(1)),
                Price("m", Decimal(2), Decimal(1), valid_from=date(2026, 1, 1)),
            ],
            "prices: m: two prices hold on 2026-01-01",
        ),
        (
            [Price("m", Decimal(1), Decimal(1), valid_from=date(2026, 1, 2), valid_until=date(2026, 1, 2))],
            "valid_until must be after valid_from",
        ),
    ],
)
def test_contradicting_prices_are_refused(prices: list[Price], problem: str) -> None:
    """Two prices for one day, or a span that ends before it begins, are errors that say so."""
    with pytest.raises(SettingsError, match=problem):
        Prices(prices)


def _event(seq: int, topic: str, **payload: Any) -> Event:
    return Event(EventId(seq), "task:t", seq, topic, NOON, payload)


def test_a_task_marks_a_computed_cost() -> None:
    """A result without a cost gets one from the table, marked; a result with a cost is believed."""
    prices = Prices([SONNET])
    task = Task.first_seen(_event(1, "task.created"))
    task.apply(_event(1, "task.created", task_id="t", model="sonnet"), prices)
    task.apply(
        _event(2, "task.status", status="completed", result={"input_tokens": 10, "output_tokens": 2}), prices
    )
    assert (task.cost_micros, task.cost_computed) == (60, True)
    task.apply(
        _event(3, "task.status", status="completed", result={"cost_usd": 1, "input_tokens": 10}), prices
    )
    assert (task.cost_micros, task.cost_computed) == (1_000_000, False)


def test_a_model_known_late_is_priced_late() -> None:
    """A cost is computed when the model becomes known, even after the task has finished."""
    prices = Prices([SONNET])
    task = Task.first_seen(_event(1, "task.status"))
    task.apply(_event(1, "task.status", status="completed", result={"input_tokens": 10}), prices)
    assert not task.cost_computed
    task.apply(_event(2, "task.created", task_id="t", model="sonnet"), prices)
    assert (task.cost_micros, task.cost_computed) == (30, True)
