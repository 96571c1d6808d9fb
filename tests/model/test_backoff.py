"""The delays between tries."""

from __future__ import annotations

from heliograph.model.backoff import Backoff
from heliograph.model.errors import TooMany, Unavailable


def test_delays_grow_to_their_cap() -> None:
    """Delays double up to the cap, and no two are alike."""
    backoff = Backoff(first=0.1, cap=10.0)
    delays = [backoff.next() for _ in range(20)]
    assert 0.05 <= delays[0] <= 0.1
    assert 0.1 <= delays[1] <= 0.2
    assert 5.0 <= delays[-1] <= 10.0
    assert len(set(delays)) == 20


def test_a_success_begins_anew() -> None:
    """After a success the first delay comes again."""
    backoff = Backoff()
    for _ in range(5):
        backoff.next()
    backoff.reset()
    assert backoff.next() <= 0.1


def test_it_waits_at_least_as_long_as_it_was_asked_to() -> None:
    """A refusal that names a time is obeyed."""
    assert Backoff().next(Unavailable("later", 60)) >= 60
    assert Backoff().next(TooMany("later", 7)) >= 7
