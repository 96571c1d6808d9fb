"""The monitor looks once a second at most, remembers since when parts are down, and tells who watches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from heliograph.actors.monitor import FRESH_SECONDS, LOOK_SECONDS, TELL_SECONDS, MachineState, Monitor
from heliograph.model.errors import Unavailable
from heliograph.model.event import Draft


class World:
    """What a monitor looks at."""

    def __init__(self) -> None:
        self.problems: dict[str, str | None] = {"redis": None, "log": None}
        self.looks = self.carried = 0
        self.watching = False
        self.told: list[Draft] = []
        self.away = False

    async def check(self) -> dict[str, str | None]:
        """Count a look."""
        self.looks += 1
        return dict(self.problems)

    async def append(self, drafts: Sequence[Draft]) -> None:
        """Keep what is told."""
        if self.away:
            raise Unavailable("away")
        self.told += drafts


@pytest.fixture
def world() -> World:
    """Make a world in which all is well."""
    return World()


@pytest.fixture
def monitor(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Monitor:
    """Make a monitor of that world, whose folder is not made yet; virtual time does not wait for threads."""

    async def at_once(look: Callable[[], MachineState]) -> MachineState:
        return look()

    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)
    folder = tmp_path / "not" / "yet"
    return Monitor(
        "node",
        folder,
        world.check,
        {"redis": 1.25},
        lambda: world.carried,
        lambda channel: world.watching and channel == "status",
        world.append,
    )


async def test_many_who_ask_cost_one_look(world: World, monitor: Monitor, autojump_clock: MockClock) -> None:
    """Within a second all get the same answer; after it there is a new look."""
    states = []

    async def ask() -> None:
        states.append(await monitor.state())

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask)
    assert world.looks == 1
    assert all(state is states[0] for state in states)
    machine = states[0].machine
    assert machine.memory_total_bytes > machine.process_memory_bytes > 0
    assert 0 <= machine.disk_percent <= 100
    await trio.sleep(FRESH_SECONDS)
    assert await monitor.state() is not states[0]


async def test_a_part_says_since_when(world: World, monitor: Monitor, autojump_clock: MockClock) -> None:
    """The time of a part's state is that of its last change, and its error is the newest."""
    first = (await monitor.state()).parts
    assert (first["redis"].state, first["redis"].latency_ms, first["log"].latency_ms) == ("ok", 1.25, None)
    world.problems["redis"] = "refused"
    await trio.sleep(FRESH_SECONDS)
    down = (await monitor.state()).parts
    assert (down["redis"].state, down["redis"].error) == ("down", "refused")
    assert down["redis"].since > first["redis"].since
    assert down["log"].since == first["log"].since
    world.problems["redis"] = "still refused"
    await trio.sleep(FRESH_SECONDS)
    later = (await monitor.state()).parts["redis"]
    assert (later.since, later.error) == (down["redis"].since, "still refused")


async def test_it_knows_since_when_without_being_asked(
    world: World, monitor: Monitor, autojump_clock: MockClock
) -> None:
    """The time of a part's state is when the node found it so, and not when it was first asked."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(monitor.run)
        await trio.sleep(LOOK_SECONDS)
        world.problems["redis"] = "refused"
        await trio.sleep(2 * LOOK_SECONDS)
        before_the_question = datetime.now(UTC)
        await trio.sleep(FRESH_SECONDS)
        parts = (await monitor.state()).parts
        assert parts["log"].since < parts["redis"].since < before_the_question
        looks = world.looks
        await trio.sleep(60 * LOOK_SECONDS)
        assert 59 <= world.looks - looks <= 61
        nursery.cancel_scope.cancel()


async def test_it_tells_while_somebody_watches(
    world: World, monitor: Monitor, autojump_clock: MockClock
) -> None:
    """With a watcher the state is an event every few seconds, and an outage of the log passes."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(monitor.run)
        await trio.sleep(3 * TELL_SECONDS)
        assert world.told == []
        world.watching = True
        for _ in range(4):
            world.carried += 100
            await trio.sleep(TELL_SECONDS)
        assert 3 <= len(world.told) <= 5
        draft = world.told[-1]
        assert (draft.channel, draft.topic, draft.sender) == ("status", "machine.status", "node")
        assert draft.payload["node"] == "node"
        assert draft.payload["parts"]["redis"]["state"] == "ok"
        assert draft.payload["events_per_second"] > 0
        world.away = True
        await trio.sleep(2 * TELL_SECONDS)
        world.away = world.watching = False
        await trio.sleep(0.5)  # both may wake at the same moment, in either order
        told = len(world.told)
        await trio.sleep(3 * TELL_SECONDS)
        assert len(world.told) == told
        nursery.cancel_scope.cancel()
