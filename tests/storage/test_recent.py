"""The newest events in memory: what they cover, and what they let go."""

from __future__ import annotations

from datetime import UTC, datetime

from heliograph.model.event import Event
from heliograph.model.ids import EventId
from heliograph.storage.recent import EVENTS, Recent


def event(number: int) -> Event:
    """Make the event with an id."""
    return Event(EventId(number), "task:1", number, "x.y", datetime(2026, 1, 1, tzinfo=UTC), {"n": number})


def test_what_retention_removes_is_not_covered_any_more() -> None:
    """Events up to the id go, those after it stay, and who was before it has to ask elsewhere."""
    recent = Recent(EventId(0))
    recent.extend([event(number) for number in range(1, 6)])
    assert recent.covers(EventId(0))
    recent.forget(EventId(3))
    assert [kept.id for kept in recent.after(EventId(0))] == [4, 5]
    assert not recent.covers(EventId(2))
    assert recent.covers(EventId(3))
    recent.forget(EventId(1))
    assert recent.since == 3


def test_forgetting_what_has_not_come_yet_stops_at_the_newest() -> None:
    """A memory that is behind claims nothing beyond what it has been given."""
    recent = Recent(EventId(0))
    recent.extend([event(1)])
    recent.forget(EventId(9))
    assert (recent.since, recent.through) == (1, 1)
    recent.extend([event(10)])
    assert [kept.id for kept in recent.after(EventId(1))] == [10]


def test_it_is_bounded() -> None:
    """The oldest make room, and are not covered any more."""
    recent = Recent(EventId(0))
    recent.extend([event(number) for number in range(1, EVENTS + 11)])
    assert len(recent.after(EventId(0))) == EVENTS
    assert recent.since == 10
