"""The ledger by itself: events in, deltas out, in parts that take no long."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from heliograph.model.analytics import deltas
from heliograph.model.analytics.ledger import STEP_PLACES, Ledger
from heliograph.model.analytics.measured import MEASURED
from heliograph.model.analytics.rollup import Cell, Cells
from heliograph.model.channels import ANALYTICS
from heliograph.model.event import Event
from heliograph.model.ids import EPOCH, EventId
from heliograph.model.prices import Prices


def created(number: int, days: int = 0) -> Event:
    """Make the first event of a task."""
    name = f"t{number}"
    when = EPOCH + timedelta(days=days)
    return Event(EventId(number), f"task:{name}", 1, "task.created", when, {"task_id": name})


def delta(number: int, span: deltas.Span) -> Event:
    """Make the event of a delta."""
    draft = deltas.reset(span, "a test")
    return Event(EventId(number), ANALYTICS, 1, draft.topic, EPOCH, draft.payload)


def total(parts: list[Cells]) -> int:
    """Count the tasks in parts."""
    return sum(cell.sums for part in parts for cell in part.values()) & (1 << 63) - 1


@given(st.integers(0, 400), st.integers(0, 400), st.booleans())
def test_deltas_cover_each_change_once(before: int, after: int, ours: bool) -> None:
    """Whoever's delta comes by, what it covers goes into the sums in small parts, and the rest stays."""
    ledger = Ledger(MEASURED, Prices(()))
    for number in range(1, before + 1):
        ledger.apply(created(number, number))
    span, _ = ledger.offer()
    for number in range(before + 1, before + after + 1):
        ledger.apply(created(number, number))
    if not ours:
        span = deltas.Span(span.after, EventId(span.through // 2))
    parts = list(ledger.take_over(delta(before + after + 1, span)))
    assert all(len(part) <= STEP_PLACES for part in parts)
    assert total(parts) == span.through
    assert ledger.pending == before + after - span.through
    _, rest = ledger.offer()
    assert total([rest]) == before + after - span.through


def test_an_entity_of_a_forgotten_channel_is_another_one() -> None:
    """What begins again at the first ``seq`` is counted beside what its channel told of before."""
    ledger = Ledger(MEASURED, Prices(()))
    ledger.apply(created(1))
    event = Event(EventId(2), "task:t1", 2, "task.status", EPOCH, {"task_id": "t1", "status": "completed"})
    ledger.apply(event)
    ledger.apply(created(1)._replace(id=EventId(3)))
    _, cells = ledger.offer()
    assert total([cells]) == 2
    assert ledger.active == 1


def test_an_offer_in_vain_is_in_the_next() -> None:
    """What was offered and never came by in the log is offered again with what came since."""
    ledger = Ledger(MEASURED, Prices(()))
    ledger.apply(created(1))
    ledger.offer()
    ledger.apply(created(2))
    span, cells = ledger.offer()
    assert span == deltas.Span(EventId(0), EventId(2))
    assert total([cells]) == 2
    assert all(isinstance(cell, Cell) for cell in cells.values())
