from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.model.analytics.measured import LONGEST_MS, contribution
from heliograph.model.analytics.rollup import (
    Cell,
    Contribution,
    Effect,
    error_kind,
    summed,
)
from heliograph.model.analytics.totals import Totals, pack, unpack
from heliograph.model.task import Task

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def _finished(**facts: Any) -> Task:
    usual: dict[str, Any] = {
        "status": "completed",
        "agent": "planner",
        "finished_at": NOON + timedelta(minutes=20),
        "cost_nanos": 5,
        "input_tokens": 7,
    }
    return Task("t", NOON, NOON, **usual | facts)


def test_a_task_counts_where_it_was_created_and_where_it_finished() -> None:
    """Created counts in the slot of created_at, everything else in that of finished_at."""
    cells = summed([Effect(None, contribution(_finished()))])
    slot = contribution(_finished()).created_slot
    dimensions = ("unknown", "planner", "unknown", "completed")
    assert {place: unpack(cell.sums) for place, cell in cells.items()} == {
        (slot, dimensions): Totals(created=1),
        (slot + 1, dimensions): Totals(
            finished=1, succeeded=1, cost_nanos=5, input_tokens=7, duration_ms=1_200_000
        ),
    }


def test_a_corrected_task_moves() -> None:
    """Taking the old contribution away and adding the new one leaves nothing where the task was."""
    before = contribution(_finished())
    after = contribution(_finished(status="failed", error="Timeout: 3 s", cost_nanos=9))
    changes = summed([Effect(None, before), Effect(before, after)])
    moved = {place: cell for place, cell in changes.items() if cell}
    assert moved == summed([Effect(None, after)])
    (failed,) = [cell for cell in moved.values() if unpack(cell.sums).failed]
    assert failed.errors == {"Timeout": 1}


def test_millennia_are_counted_as_a_century() -> None:
    """A duration between times that only a publisher believes in does not use up the range of sums."""
    counted = contribution(_finished(finished_at=datetime(9998, 1, 1, tzinfo=UTC)))
    assert unpack(counted.outcome).duration_ms == LONGEST_MS
    assert LONGEST_MS * 2_000_000 < 2**63


def test_a_cell_that_comes_to_nothing_is_false() -> None:
    """Adding a change and its opposite makes a cell empty again."""
    cell = Cell(pack(Totals(failed=1)), {3: 1}, {"Timeout": 1})
    cell.add(Cell(-cell.sums, {3: -1}, {"Timeout": -1}))
    assert not cell
    assert cell == Cell()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("TimeoutError: read timed out", "TimeoutError"),
        ("httpx.ReadTimeout: \nmore", "httpx.ReadTimeout"),
        ("RateLimited", "RateLimited"),
        ("exit status 137", "exit status #"),
        ("exit status 1\ntraceback", "exit status #"),
        ("segfault at 0xdeadbeef", "segfault at #"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_errors_are_sorted_under_short_names(error: str | None, kind: str) -> None:
    """The name before the colon is the kind; else the first line with numbers made equal."""
    assert error_kind(error) == kind


@given(st.text())
def test_the_kind_of_a_kind_is_itself(error: str) -> None:
    """A kind is short, and sorting it again changes nothing: kinds are kept in place of whole errors."""
    kind = error_kind(error)
    assert error_kind(kind) == kind
    assert 0 < len(kind) <= 80


def test_dimensions_are_cut_to_length() -> None:
    """A dimension as long as a publisher likes still fits a database key."""
    task = _finished(agent="x" * 1000)
    assert contribution(task).dimensions[1] == "x" * 100
    assert isinstance(contribution(task), Contribution)
