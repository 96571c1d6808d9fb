"""Giving tasks to an engine: at least once, again when it was away, and not for ever."""

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

from heliograph.actors import engine as module
from heliograph.actors.appender import Appender
from heliograph.actors.engine import Engine, Form, HttpLink
from heliograph.model.dispatch import DISPATCH, Dispatch
from heliograph.model.errors import Unavailable
from heliograph.model.intake import parse_item
from heliograph.model.task import TASK
from heliograph.storage.embedded.form import Embedded, open_embedded

pytestmark = pytest.mark.usefixtures("fast")


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look through what is open all the time."""
    for name in ("POLL_SECONDS", "IDLE_SECONDS", "PROBE_SECONDS"):
        monkeypatch.setattr(module, name, 0.01)
    monkeypatch.setattr(module, "Backoff", lambda first, cap: Soon())


class Soon:
    """Waits for nothing."""

    def next(self) -> float:
        """Return the next delay."""
        return 0.01

    def reset(self) -> None:
        """Begin again."""


@attrs.define
class Fake:
    """A link to an engine that is well or not."""

    form: Form = "http"
    well: bool = True
    instance: str | None = "1"
    alias: str | None = None
    given: list[str] = attrs.field(factory=list)
    probes: int = 0

    async def give(self, dispatch: Dispatch) -> str | None:
        """Take a task."""
        self._require_well()
        self.given.append(dispatch.task_id)
        return self.alias

    async def probe(self) -> str | None:
        """Tell whether it is well."""
        self.probes += 1
        self._require_well()
        return self.instance

    async def close(self) -> None:
        """Do nothing."""

    def _require_well(self) -> None:
        if not self.well:
            raise Unavailable("away")


@attrs.define
class Opened:
    """Storage, and an engine that looks after it."""

    storage: Embedded
    appender: Appender
    engine: Engine

    async def say(self, topic: str, task: str, **payload: Any) -> None:
        """Append an event of a task."""
        item = {"topic": topic, "channel": f"task:{task}", "payload": {"task_id": task, **payload}}
        await self.appender.append([parse_item(item, 1 << 20)])

    async def request(self, *tasks: str) -> None:
        """Ask for tasks to be dispatched."""
        for task in tasks:
            await self.say("engine.requested", task, prompt="p")

    async def dispatch(self, task: str) -> Dispatch:
        """Return a dispatch."""
        found = await self.storage.store.get(DISPATCH, task)
        assert found is not None
        return found


@asynccontextmanager
async def opened(folder: Path, link: Fake, **options: Any) -> AsyncIterator[Opened]:
    """Open storage in a folder, with an engine behind a link."""
    async with open_embedded(folder, timedelta(days=1)) as storage, trio.open_nursery() as nursery:
        appender = Appender(storage.log, 100)
        nursery.start_soon(appender.run)
        made = Engine(
            link, storage.turn("engine"), storage.store, appender.append, max_bytes=1 << 20, **options
        )
        nursery.start_soon(made.run)
        yield Opened(storage, appender, made)
        nursery.cancel_scope.cancel()


async def given(link: Fake, tasks: Sequence[str]) -> None:
    """Wait until an engine has been given just these tasks."""

    async def is_so() -> bool:
        return link.given == list(tasks)

    await until(is_so)


async def test_what_is_asked_for_is_given_once_and_settled(tmp_path: Path) -> None:
    """Each task is given to the engine in the order asked, and left alone when it has ended."""
    link = Fake()
    async with opened(tmp_path, link) as here:
        await here.request("a", "b")
        await given(link, ["a", "b"])
        await here.say("task.status", "a", status="completed")

        async def settled() -> bool:
            return not (await here.dispatch("a")).open

        await until(settled)
        assert (await here.dispatch("b")).open
        assert link.given == ["a", "b"]


async def test_a_restart_gives_nothing_twice_that_was_given(tmp_path: Path) -> None:
    """What was written down as given is not given again by the next process; what was not, is."""
    link = Fake()
    async with opened(tmp_path, link) as here:
        await here.request("a")
        await given(link, ["a"])

        async def sent() -> bool:
            return (await here.dispatch("a")).attempts == 1

        await until(sent)
    async with opened(tmp_path, link) as here:
        await here.request("b")
        await given(link, ["a", "b"])


@pytest.mark.parametrize("how", ["away", "instance"])
async def test_an_engine_that_was_away_is_given_its_tasks_again(tmp_path: Path, how: str) -> None:
    """What an engine was given before it went away, or before it was started anew, it is given once more."""
    link = Fake()
    async with opened(tmp_path, link) as here:
        await here.request("a")
        await given(link, ["a"])
        if how == "away":
            link.well = False

            async def down() -> bool:
                return here.engine.stats().state == "down"

            await until(down)
            await here.request("b")  # waits for it
            link.well = True
            await given(link, ["a", "a", "b"])
        else:
            probes = link.probes

            async def probed() -> bool:
                return link.probes > probes + 1

            await until(probed)
            link.instance = "2"
            await given(link, ["a", "a"])
        assert here.engine.stats().state == "ok"


async def test_a_task_that_nobody_answers_fails(tmp_path: Path) -> None:
    """A task of which nothing is heard is given again, and fails after the last attempt."""
    link = Fake()
    async with opened(tmp_path, link, patience_seconds=0.05, attempts=3) as here:
        await here.request("a")

        async def failed() -> bool:
            task = await here.storage.store.get(TASK, "a")
            return task is not None and task.status == "failed"

        await until(failed)
        assert link.given == ["a"] * 3


async def test_an_engine_may_call_a_task_by_a_name_of_its_own(tmp_path: Path) -> None:
    """Its name leads to ours, also for a node that did not dispatch; ours stays ours."""
    link = Fake(alias="theirs")
    async with opened(tmp_path, link) as here:
        await here.request("a")
        await given(link, ["a"])

        async def sent() -> bool:
            return (await here.dispatch("a")).alias == "theirs"

        await until(sent)
        turn = here.storage.turn("engine")
        other = Engine(link, turn, here.storage.store, here.appender.append, max_bytes=1 << 20)
        assert await here.engine.our_name("theirs") == await other.our_name("theirs") == "a"
        assert await other.our_name("a") == "a"


async def test_an_engine_that_refuses_is_away(nursery: trio.Nursery) -> None:
    """Whatever keeps an engine from answering well is an outage: nobody there, or a status that says no."""
    link = HttpLink("http://127.0.0.1:9", 1)
    with pytest.raises(Unavailable, match="the engine is away"):
        await link.probe()
    await link.close()
