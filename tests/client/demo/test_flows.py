"""The demo's runs: told so that they fold, and ended by the next demo if they are cut off."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from tests.model.workflows.test_runs import fold
from tests.recorded import BEGUN, EXAMPLES

from heliograph.client.api import Client
from heliograph.client.demo import flows
from heliograph.model.event import Event
from heliograph.model.ids import EventId
from heliograph.model.intake import parse_items
from heliograph.model.workflows.run import Run

if TYPE_CHECKING:
    from tests.client.conftest import FakeService

Until = Callable[[Callable[[], object]], Awaitable[None]]


def runs_told(items: list[dict[str, Any]]) -> dict[str, Run]:
    """Fold what a service was told into runs; each item is checked as the service would."""
    events = [
        Event(
            EventId(n),
            draft.channel,
            n,
            draft.topic,
            BEGUN + timedelta(seconds=n),
            draft.payload,
            correlation_id=draft.correlation_id,
        )
        for n, draft in enumerate(parse_items(items, 1024 * 1024), 1)
    ]
    return fold(events)[0]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the demo's steps and pauses take no time."""
    monkeypatch.setattr(flows, "STEP", (0.0, 0.001))
    monkeypatch.setattr(flows, "PAUSE", (0.0, 0.001))


async def test_the_examples_run(service: FakeService, tmp_path: Path, until: Until, quick: None) -> None:
    """Every example workflow has runs that end, with steps, and all of it is marked."""
    ended: set[str] = set()

    def all_ended() -> bool:
        ended.update(run.workflow_id for run in runs_told(service.kept).values() if run.ended)
        return ended == set(flows.PLAYS)

    async with Client(service.url) as client, trio.open_nursery() as nursery:
        nursery.start_soon(flows.run, client, tmp_path)
        await until(all_ended)
        nursery.cancel_scope.cancel()
    assert all(item["payload"]["demo"] is True for item in service.kept)
    assert set(flows.PLAYS) == {path.name for path in EXAMPLES.iterdir() if not path.name.startswith("_")}
    assert any(run.steps for run in runs_told(service.kept).values())


async def test_runs_that_were_cut_off_are_ended(
    service: FakeService, tmp_path: Path, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was under way when a demo was stopped is cancelled by the next one."""
    monkeypatch.setattr(flows, "STEP", (600.0, 600.0))
    async with Client(service.url) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flows.run, client, tmp_path)
            await until(lambda: len(runs_told(service.kept)) == len(flows.PLAYS))
            nursery.cancel_scope.cancel()
        cut_off = set(runs_told(service.kept))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flows.run, client, tmp_path)
            await until(lambda: len(runs_told(service.kept)) > len(cut_off))
            nursery.cancel_scope.cancel()
    runs = runs_told(service.kept)
    assert {runs[run_id].status for run_id in cut_off} == {"cancelled"}
