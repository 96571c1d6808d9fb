from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import trio

from heliograph.client.demo import fleet as demo
from heliograph.client.demo import programs
from heliograph.model.errors import Unauthenticated
from heliograph.model.intake import parse_items

if TYPE_CHECKING:
    from tests.client.conftest import FakeService

Until = Callable[[Callable[[], object]], Awaitable[None]]


def tasks_with_output(service: FakeService) -> set[str]:
    """Return the ids of the tasks that have put out something."""
    return {item["payload"]["task_id"] for item in service.kept if item["topic"] == "task.output"}


async def test_fleet(service: FakeService, tmp_path: Path, until: Until) -> None:
    """The fleet puts out real lines, all of it marked; when it is cancelled, no child is left."""
    others = set(psutil.Process().children(recursive=True))  # servers of other tests
    async with trio.open_nursery() as fleet:
        fleet.start_soon(partial(demo.run, service.url, None, spools=tmp_path))
        await until(lambda: len(tasks_with_output(service)) >= 3)
        children = set(psutil.Process().children(recursive=True)) - others
        assert 0 < len(children) <= len(demo.FLEET) + 1
        fleet.cancel_scope.cancel()
    assert not any(child.is_running() for child in children)
    created = [item["payload"] for item in service.kept if item["topic"] == "task.created"]
    assert all(payload["metadata"]["demo"] is True for payload in created)
    assert all(payload["agent"].startswith("demo: ") for payload in created)
    assert all(item["payload"].get("demo") for item in service.kept if not item["topic"].startswith("task."))
    parse_items(service.kept, 1024 * 1024)


async def test_next_fleet(service: FakeService, tmp_path: Path, until: Until) -> None:
    """What a fleet was doing when it was cancelled is ended by the next one, wherever its service is."""
    async with trio.open_nursery() as fleet:
        fleet.start_soon(partial(demo.run, service.url, None, spools=tmp_path))
        await until(lambda: len(tasks_with_output(service)) >= 3)
        fleet.cancel_scope.cancel()
    cut_off = tasks_with_output(service)
    async with trio.open_nursery() as fleet:
        await fleet.start(partial(demo.run, service.url, None, spools=tmp_path))
        fleet.cancel_scope.cancel()
    ends = [item["payload"] for item in service.kept if item["topic"] == "task.status"]
    assert cut_off <= {payload["task_id"] for payload in ends if payload["status"] == "cancelled"}


async def test_refused(service: FakeService, tmp_path: Path) -> None:
    """A fleet that may not publish says so and runs nothing."""
    service.script.append((401, {}, {"detail": "unknown key"}))
    with pytest.raises(Unauthenticated):
        await demo.run(service.url, None, spools=tmp_path)


@pytest.mark.parametrize(
    "work", dict.fromkeys(work for agent in (*demo.FLEET, demo.RELEASER) for work in agent.works), ids=str
)
def test_programs_exist(work: demo.Work) -> None:
    """Every work names a program that exists, with packages that exist."""
    name, *arguments = work.program
    assert name in programs.PROGRAMS
    if name in {"compile", "check", "index"}:
        assert len(list(programs.sources(*arguments))) > 2
