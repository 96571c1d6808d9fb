"""Sitting out an outage."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
import trio
import trio.testing

from heliograph.actors.retry import LONGEST_SECONDS, until_it_works
from heliograph.model.errors import Conflict, Unavailable


class Flaky:
    """Fails a number of times before it works."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.errors: Iterator[Exception] = iter([error] * failures)
        self.tries: list[float] = []

    async def __call__(self) -> str:
        """Fail, or answer."""
        self.tries.append(trio.current_time())
        for error in self.errors:
            raise error
        return "answer"


async def test_it_tries_until_it_works(autojump_clock: trio.testing.MockClock) -> None:
    """The call is repeated with growing, bounded delays, and its answer is returned."""
    flaky = Flaky(20, Unavailable("away", retry_after=100))
    assert await until_it_works(flaky, "following") == "answer"
    delays = [after - before for before, after in zip(flaky.tries, flaky.tries[1:], strict=False)]
    assert len(delays) == 20
    assert delays[0] < LONGEST_SECONDS / 10
    assert all(LONGEST_SECONDS / 2 <= delay <= LONGEST_SECONDS for delay in delays[10:])


async def test_an_outage_is_logged_once_and_so_is_its_end(autojump_clock: trio.testing.MockClock) -> None:
    """However often it fails, there are two lines; each failure is told to the caller."""
    heard: list[Unavailable] = []
    with structlog.testing.capture_logs() as told:
        await until_it_works(Flaky(5, Unavailable("away")), "following", heard.append)
        await until_it_works(Flaky(0, Unavailable("away")), "following", heard.append)
    assert [line["event"] for line in told] == ["not following", "following"]
    assert told[0]["reason"] == "away"
    assert len(heard) == 5


async def test_another_error_is_not_an_outage() -> None:
    """What waiting can't mend is raised at once."""
    flaky = Flaky(1, Conflict("no"))
    with pytest.raises(Conflict):
        await until_it_works(flaky, "following")
    assert len(flaky.tries) == 1
