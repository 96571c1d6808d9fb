from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from heliograph.model.errors import SettingsError
from heliograph.model.event import Event
from heliograph.model.ids import EventId
from heliograph.model.prices import Price, Prices, Usage
from heliograph.model.task import Task

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SONNET = Price("sonnet", Decimal(3), Decimal(15), Decimal("0.3"), Decimal("3.75"))


def test_a_cost_is_exact_and_rounded_once() -> None:
    """Tokens times prices are added exactly; only the sum is rounded, half to even, to the nano-dollar."""
    prices = Prices([Price("m", Decimal("0.0005"), Decimal("0.001"))])
    assert prices.cost("m", NOON, Usage(1, output=1)) == 2  # 1.5 to even
    assert prices.cost("m", NOON, Usage(1)) == 0  # 0.5 to even
    assert prices.cost("m", NOON, Usage(1_000_000)) == 500_000


def test_each_kind_of_token_has_its_price() -> None:
    """Tokens from a cache and to one cost their own price, or that of the input when there is none."""
    usage = Usage(600, 400, 200, 10)
    assert Prices([SONNET]).cost("sonnet", NOON, usage) == 600 * 3000 + 400 * 300 + 200 * 3750 + 10 * 15_000
    plain = Prices([Price("sonnet", Decimal(3), Decimal(15))])
    assert plain.cost("sonnet", NOON, usage) == 1200 * 3000 + 10 * 15_000


@pytest.mark.parametrize(
    ("result", "usage"),
    [
        ({"input_tokens": 1000, "output_tokens": 10}, Usage(1000, 0, 0, 10)),
        ({"input_tokens": 1000, "cached_tokens": 400}, Usage(600, 400)),
        ({"input_tokens": 3, "cached_tokens": 109_075}, Usage(3, 109_075)),
        (
            {"input_tokens": 1000, "cache_read_input_tokens": 400, "cache_creation_input_tokens": 50},
            Usage(1000, 400, 50),
        ),
        ({"cached_tokens": 7}, Usage(0, 7)),
        ({"output_tokens": None}, None),
        ({}, None),
    ],
)
def test_both_ways_of_counting_cached_tokens(result: dict[str, Any], usage: Usage | None) -> None:
    """Cached tokens are within the input or beside it; each token counts once, whichever way."""
    task = Task.first_seen(_event(1, "task.status"))
    task.apply(_event(1, "task.status", status="completed", result=result))
    assert task.usage == usage
    assert task.cost_unknown == (usage is not None)


@pytest.mark.parametrize(
    ("model", "dollars"),
    [
        ("claude-sonnet-4-5", 3),
        ("Claude-Sonnet-4-5", 3),
        ("claude-sonnet-4-5-20250929", 3),
        ("anthropic/claude-sonnet-4-5", 3),
        ("openrouter/anthropic/claude-sonnet-4-5-20250929", 3),
        ("claude-sonnet-4-5@20250929", 3),
        ("claude-sonnet-4-5-20250929-v1:0", 3),
        ("claude-sonnet-4-5-latest", 3),
        ("claude-sonnet-4-5-20250101", 7),
        ("azure/gpt-4o-2024-08-06", 2),
        ("vertex/gpt-4o", 5),
        ("claude-sonnet-4", None),
        ("claude-sonnet-4-5-thinking", None),
        ("", None),
        (None, None),
    ],
)
def test_a_model_is_priced_by_its_nearest_name(model: str | None, dollars: int | None) -> None:
    """The exact name comes first, then the one without provider, then those without a version's mark."""
    table = {"claude-sonnet-4-5": 3, "claude-sonnet-4-5-20250101": 7, "gpt-4o": 2, "Vertex/gpt-4o": 5}
    prices = Prices([Price(name, Decimal(price), Decimal(0)) for name, price in table.items()])
    assert prices.cost(model, NOON, Usage(1)) == (None if dollars is None else dollars * 1000)


def test_nothing_to_go_by_gives_no_cost() -> None:
    """Without a price for the model, or without tokens, there is no cost."""
    prices = Prices([SONNET])
    assert prices.cost("other", NOON, Usage(1, output=1)) is None
    assert prices.cost("sonnet", NOON, None) is None


def test_a_price_holds_on_its_days() -> None:
    """The price of the day on which the task finished counts, in UTC."""
    prices = Prices(
        [
            Price("m", Decimal(1), Decimal(1), valid_until=date(2026, 3, 1)),
            Price("m", Decimal(2), Decimal(1), valid_from=date(2026, 3, 1), valid_until=date(2026, 4, 1)),
        ]
    )
    midnight = datetime(2026, 3, 1, tzinfo=UTC)
    assert prices.cost("m", midnight - timedelta(seconds=1), Usage(5)) == 5000
    assert prices.cost("m", midnight, Usage(5)) == 10_000
    assert prices.cost("m", datetime(2026, 4, 1, tzinfo=UTC), Usage(5)) is None


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
    assert (task.cost_nanos, task.cost_computed) == (60_000, True)
    task.apply(
        _event(3, "task.status", status="completed", result={"cost_usd": 1, "input_tokens": 10}), prices
    )
    assert (task.cost_nanos, task.cost_computed) == (10**9, False)


def test_a_model_known_late_is_priced_late() -> None:
    """A cost is computed when the model becomes known, even after the task has finished."""
    prices = Prices([SONNET])
    task = Task.first_seen(_event(1, "task.status"))
    task.apply(_event(1, "task.status", status="completed", result={"input_tokens": 10}), prices)
    assert not task.cost_computed
    task.apply(_event(2, "task.created", task_id="t", model="sonnet"), prices)
    assert (task.cost_nanos, task.cost_computed) == (30_000, True)
