"""What one node at a time does."""

from __future__ import annotations

from collections.abc import Callable

import structlog
import trio
import trio.testing

from heliograph.actors.turns import TURN_SECONDS, Turns
from heliograph.model.errors import Unavailable
from heliograph.storage.protocols import Deposed


class Work:
    """Work whose turns go as a script says: ``False`` is not its turn, an error ends it."""

    def __init__(self, turns: Turns, *script: Exception | bool) -> None:
        self.turns = turns
        self.script = list(script)
        self.ended = 0
        self.seen: list[tuple[bool, str | None]] = []

    async def begin(self) -> bool:
        """Tell whether it is its turn."""
        self.seen.append((self.turns.active, self.turns.error))
        await trio.lowlevel.checkpoint()
        return bool(self.script[0]) if self.script else False

    async def serve(self) -> None:
        """Work until the script ends the turn."""
        outcome = self.script.pop(0)
        self.turns.started()
        if isinstance(outcome, Exception):
            raise outcome

    async def end(self) -> None:
        """Count the ends."""
        self.ended += 1


async def run(turns: Turns, work: Work, done: Callable[[], bool]) -> None:
    """Take turns until a condition holds."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.take, work.begin, work.serve, work.end)
        while not done():  # noqa: ASYNC110 - virtual time
            await trio.sleep(TURN_SECONDS / 4)
        nursery.cancel_scope.cancel()


async def test_a_fault_ends_the_turn_and_the_next_one_comes(autojump_clock: trio.testing.MockClock) -> None:
    """After an outage, or deposed, a node stands in line again; a turn that goes well forgets the error."""
    turns = Turns("working")
    work = Work(turns, Unavailable("away"), Deposed("another"), True)
    with structlog.testing.capture_logs() as told:
        await run(turns, work, lambda: not work.script)
    assert turns.count == 3
    assert turns.error is None
    assert work.seen[:3] == [(False, None), (False, "away"), (False, "another")]
    events = [line["event"] for line in told]
    assert events == ["working", "not working", "working", "not working", "working"]


async def test_a_turn_is_given_up_even_when_it_never_came(autojump_clock: trio.testing.MockClock) -> None:
    """Each try ends by giving the turn up, so that no half-taken one is kept; the last when cancelled."""
    turns = Turns("working")
    work = Work(turns)
    await run(turns, work, lambda: work.ended >= 3)
    assert turns.count == 0
    assert not turns.active
