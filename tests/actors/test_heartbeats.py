"""Tasks that fall silent: which are lost and when, and how they come back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from tests.polling import until

from heliograph.actors import heartbeats as module
from heliograph.actors.appender import Appender
from heliograph.actors.clock import Clock
from heliograph.actors.heartbeats import Heartbeats
from heliograph.model.channels import Selection
from heliograph.model.event import Draft, Event
from heliograph.model.ids import OLDEST
from heliograph.model.intake import parse_item
from heliograph.model.task import TASK, Task
from heliograph.storage.embedded import sqlite
from heliograph.storage.embedded.form import Embedded, open_embedded
from heliograph.storage.protocols import Receipt

LEAST = 60.0
BEGUN = 1_800_000_000.0
"""When each test begins, in seconds since the epoch; time passes where the test says so, and nowhere else."""


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look all the time, and take a clock that is moved on for time that passes."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.002)
    monkeypatch.setattr(module, "PAUSE_SECONDS", 10_000)


@attrs.define
class Opened:
    """Storage, the actor, and the time that both go by: of what is heard late the id is late too.

    Args:
        ahead: The seconds that have passed.
        clock_trouble: How many seconds the actor's clock is wrong.
        trouble: What is wrong with the storage, as the actor is told.
        before: Called with what the actor appends, before it is appended.
    """

    storage: Embedded
    appender: Appender
    actor: Heartbeats = attrs.field(init=False)
    ahead: float
    clock_trouble: float = 0.0
    trouble: str | None = None
    looks: int = 0
    before: list[str] = attrs.field(factory=list)

    def wall(self) -> float:
        """Tell the actor the time; each look asks for it."""
        self.looks += 1
        return BEGUN + self.ahead + self.clock_trouble

    def time_ns(self) -> int:
        """Tell the log the time, of which ids are made."""
        return round((BEGUN + self.ahead) * 10**9)

    async def append(self, drafts: Sequence[Draft]) -> Receipt:
        """Append for the actor, behind what a task says in the last moment."""
        while self.before:
            await self.say("task.output", "t", output=self.before.pop())
        return await self.appender.append(drafts)

    async def checks(self) -> dict[str, str | None]:
        """Tell what is wrong."""
        return {"log": self.trouble}

    async def say(self, topic: str, task: str, **payload: Any) -> None:
        """Append an event of a task."""
        item = {"topic": topic, "channel": f"task:{task}", "payload": {"task_id": task, **payload}}
        await self.appender.append([parse_item(item, 1 << 20)])

    async def begin(self, task: str, heartbeat: float | None = 15) -> None:
        """Begin a task."""
        await self.say("task.created", task, heartbeat_seconds=heartbeat)
        await self.say("task.status", task, status="running")

    async def task(self, task: str) -> Task:
        """Return a task."""
        found = await self.storage.store.get(TASK, task)
        assert found is not None
        return found

    async def events(self, task: str) -> Sequence[Event]:
        """Return all that was said on a task's channel."""
        return (await self.storage.log.read(Selection.of([f"task:{task}"]), OLDEST, 1000)).events

    async def looked(self) -> None:
        """Wait until the actor has looked twice from now on; a look asks for the time up to four times."""
        looks = self.looks

        async def has_looked() -> bool:
            return self.looks > looks + 12

        await until(has_looked)

    async def becomes(self, task: str, status: str) -> None:
        """Wait until a task has a status."""

        async def has() -> bool:
            return (await self.task(task)).status == status

        await until(has)


@asynccontextmanager
async def opened(folder: Path, least: float = LEAST, ahead: float = 0.0) -> AsyncIterator[Opened]:
    """Open storage in a folder whose clock can be moved on, with the actor."""
    async with open_embedded(folder, timedelta(days=1)) as storage, trio.open_nursery() as nursery:
        appender = Appender(storage.log, 100)
        nursery.start_soon(appender.run)
        world = Opened(storage, appender, ahead)
        clock = Clock(lambda: storage.log.position, world.wall, lambda: world.ahead)
        world.actor = Heartbeats(
            storage.log, storage.store, world.append, storage.turn("x"), clock, world.checks, least
        )
        nursery.start_soon(world.actor.run)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sqlite, "time", world)
            await world.looked()
            yield world
        nursery.cancel_scope.cancel()


async def test_a_task_that_falls_silent_is_lost(tmp_path: Path) -> None:
    """It is told once, with the reason; a task that has announced nothing is silent as long as it likes."""
    async with opened(tmp_path) as world:
        await world.begin("t")
        await world.begin("quiet", None)
        world.ahead = 30
        await world.looked()
        assert (await world.task("t")).status == "running"
        world.ahead = 61.5
        await world.becomes("t", "lost")
        await world.looked()
        task = await world.task("t")
        assert task.error is not None
        assert task.error.startswith("no heartbeat for 61 s; it was to be heard every 15 s")
        assert [event.payload.get("status") for event in await world.events("t")] == [None, "running", "lost"]
        assert (await world.task("quiet")).status == "running"
        assert world.actor.stats() == module.HeartbeatStats(1, 0)


async def test_a_slow_heartbeat_may_fail_twice(tmp_path: Path) -> None:
    """A task that is heard every minute is lost after three, and one that has ended never."""
    async with opened(tmp_path) as world:
        await world.begin("slow", 60)
        await world.begin("t")
        await world.say("task.status", "t", status="completed")
        world.ahead = 150
        await world.looked()
        assert (await world.task("slow")).status == "running"
        world.ahead = 182
        await world.becomes("slow", "lost")
        assert (await world.task("t")).status == "completed"


async def test_a_lost_task_that_is_heard_again_runs(tmp_path: Path) -> None:
    """It goes on with the attempt that it was in, as if it had not been lost."""
    async with opened(tmp_path) as world:
        await world.begin("t")
        before = await world.task("t")
        world.ahead = 61
        await world.becomes("t", "lost")
        await world.say("task.heartbeat", "t")
        await world.becomes("t", "running")
        task = await world.task("t")
        assert (task.attempts, task.error, task.finished_at, task.result) == (1, None, None, {})
        assert task.started_at == before.started_at
        assert (await world.events("t"))[-1].sender == "heliograph"
        assert world.actor.stats() == module.HeartbeatStats(1, 1)


async def test_a_lost_task_may_say_itself_how_it_is(tmp_path: Path) -> None:
    """Of a lost task that ends after all nothing is told, and nothing is left of the loss."""
    async with opened(tmp_path) as world:
        await world.begin("t")
        world.ahead = 61
        await world.becomes("t", "lost")
        await world.say("task.status", "t", status="completed", result={"n": 1})
        await world.looked()
        task = await world.task("t")
        assert (task.status, task.result, task.error, task.attempts) == ("completed", {"n": 1}, None, 1)
        assert len(await world.events("t")) == 4


async def test_a_task_that_speaks_in_the_last_moment_is_looked_at_again(tmp_path: Path) -> None:
    """What is said between the look and the telling keeps the telling away, until it is silent again."""
    async with opened(tmp_path) as world:
        await world.begin("t")
        for said in (1, 2):
            world.before = ["still here"]
            world.ahead += 61
            await world.looked()
            assert not world.before
            assert (await world.task("t")).output_lines == said
            assert (await world.task("t")).status == "running"
        world.ahead += 61
        await world.becomes("t", "lost")
        topics = [event.topic.removeprefix("task.") for event in await world.events("t")]
        assert topics == ["created", "status", "output", "output", "status"]
        assert world.actor.stats().lost == 1


async def test_a_task_that_is_never_silent_comes_back_all_the_same(tmp_path: Path) -> None:
    """The word is got in between two of its lines, however often another one comes first."""
    async with opened(tmp_path) as world:
        await world.begin("t")
        world.ahead = 61
        await world.becomes("t", "lost")
        world.before = [""] * 5
        await world.say("task.output", "t", output="back")
        await world.becomes("t", "running")
        assert not world.before


async def test_silence_while_nobody_listened_does_not_count(tmp_path: Path) -> None:
    """A service that was down gives everybody the whole time again."""
    async with opened(tmp_path) as world:
        await world.begin("t")
    async with opened(tmp_path, ahead=1000) as world:
        world.ahead = 1059
        await world.looked()
        assert (await world.task("t")).status == "running"
        world.ahead = 1061
        await world.becomes("t", "lost")


@pytest.mark.parametrize("what", ["storage", "clock", "pause"])
async def test_silence_that_is_not_the_tasks_fault_does_not_count(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts anew after an outage, after a clock that was wrong, and after this process was stopped."""
    async with opened(tmp_path) as world:
        await world.begin("t")
        world.ahead = 50
        await world.looked()
        if what == "storage":
            world.trouble = "away"
        elif what == "clock":
            world.clock_trouble = 1000
        else:
            monkeypatch.setattr(module, "PAUSE_SECONDS", 10)
        world.ahead = 100
        await world.looked()
        world.trouble, world.clock_trouble = None, 0
        await world.looked()
        monkeypatch.setattr(module, "PAUSE_SECONDS", 10_000)
        world.ahead = 155
        await world.looked()
        assert (await world.task("t")).status == "running"
        world.ahead = 165
        await world.becomes("t", "lost")


async def test_none_is_lost_where_that_is_not_wanted(tmp_path: Path) -> None:
    """With a setting of 0 silence means nothing."""
    async with opened(tmp_path, 0) as world:
        await world.begin("t")
        world.ahead = 5000
        await world.looked()
        assert (await world.task("t")).status == "running"
