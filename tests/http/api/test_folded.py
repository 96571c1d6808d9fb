"""Waiting until the store has followed the log."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
from tests.http.conftest import Api
from trio.testing import MockClock

from heliograph.http.api.folded import MOST_SECONDS, CaughtUp
from heliograph.http.api.registry import ENDPOINTS
from heliograph.model.ids import OLDEST, EventId


class Behind:
    """A store that is as many questions behind."""

    def __init__(self, *checkpoints: int) -> None:
        self.checkpoints = [EventId(one) for one in checkpoints]
        self.asked = 0

    async def checkpoint(self) -> EventId:
        """Return the next of its checkpoints, at last always the same."""
        self.asked += 1
        return self.checkpoints.pop(0) if len(self.checkpoints) > 1 else self.checkpoints[0]


async def test_it_waits_for_what_the_log_had(autojump_clock: MockClock) -> None:
    """It asks until the store is there, and not at all where it is known to be."""
    store = Behind(OLDEST, 3, 5, 9)
    log: Any = SimpleNamespace(position=EventId(5))
    folded = CaughtUp(log, store)  # type: ignore[arg-type]
    await folded.wait()
    assert store.asked == 3
    await folded.wait()
    assert store.asked == 3
    log.position = EventId(9)
    await folded.wait()
    assert store.asked == 4


async def test_it_does_not_wait_for_ever(autojump_clock: MockClock) -> None:
    """A store that does not follow keeps a reader for a moment only."""
    log: Any = SimpleNamespace(position=EventId(5))
    began = trio.current_time()
    await CaughtUp(log, Behind(OLDEST)).wait()  # type: ignore[arg-type]
    assert trio.current_time() - began == pytest.approx(MOST_SECONDS)


async def test_a_conversation_that_was_just_made_is_found(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an engine names in its second request is there, though the store follows late."""
    waits: list[None] = []

    async def wait(self: CaughtUp) -> None:
        waits.append(None)

    monkeypatch.setattr(CaughtUp, "wait", wait)
    await api.problem("GET", "/api/v1/conversations/none")
    assert len(waits) == 1
    await api.get("/api/tasks")
    assert len(waits) == 2
    await api.get("/api/health")
    await api.get("/api/v1/tasks")
    assert len(waits) == 2


def test_receivers_never_wait() -> None:
    """Of the dashboard's endpoints all wait that ask the store, except for deliveries."""
    others = {one.name for one in ENDPOINTS if one.tag == "dashboard" and not one.finds_all_told}
    assert others == {"health", "machine", "registered_skills", "dashboard_receive"}
