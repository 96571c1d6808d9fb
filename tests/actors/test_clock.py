"""A clock that can't be believed is told from one that is corrected."""

from __future__ import annotations

import attrs

from heliograph.actors.clock import Clock
from heliograph.model.ids import OLDEST, EventId, make_id

NOON = 1_800_000_000.0


@attrs.define
class Machine:
    """A machine whose clock can be set."""

    wall: float = NOON
    uptime: float = 50.0
    newest: EventId = OLDEST

    def clock(self) -> Clock:
        """Begin to watch."""
        return Clock(lambda: self.newest, lambda: self.wall, lambda: self.uptime)

    def wait(self, seconds: float, set_by: float = 0.0) -> None:
        """Let time pass, and set the clock."""
        self.uptime += seconds
        self.wall += seconds + set_by


def test_time_that_passes_is_believed() -> None:
    """Neither waiting, however long, nor small corrections are a problem."""
    machine = Machine()
    clock = machine.clock()
    machine.wait(86400 * 365)
    assert clock.problem() is None
    machine.wait(10, set_by=-60)
    assert clock.problem() is None
    assert clock.now().timestamp() == machine.wall


def test_a_clock_that_was_set_is_a_problem_until_it_is_right() -> None:
    """A jump is told with its direction and size, and forgotten when it is undone."""
    machine = Machine()
    clock = machine.clock()
    machine.wait(10, set_by=86400)
    assert "set forward by 86400 s" in str(clock.problem())
    machine.wait(10, set_by=-2 * 86400)
    assert "set back by 86400 s" in str(clock.problem())
    machine.wait(10, set_by=86400)
    assert clock.problem() is None


def test_events_ahead_of_the_clock_are_a_problem() -> None:
    """A newest event of tomorrow says that the clock was wrong then, or is now."""
    machine = Machine(newest=make_id(int(NOON + 3600) * 1000))
    clock = machine.clock()
    assert "3600 s ahead of the clock" in str(clock.problem())
    machine.wait(3600)
    assert clock.problem() is None


def test_a_clock_that_another_server_does_not_share_is_a_problem() -> None:
    """One that was wrong from the start is told by the clocks of other servers, with its way and size."""
    others = {"Redis": 1.0, "PostgreSQL": -119.0}
    clock = Clock(lambda: OLDEST, lambda: NOON, lambda: 50.0, lambda: others)
    assert clock.problem() is None
    others["Redis"] = 86400.0
    assert "86400 s ahead of that of Redis" in str(clock.problem())
    others["Redis"], others["PostgreSQL"] = 0.0, -500.0
    assert "500 s behind that of PostgreSQL" in str(clock.problem())
