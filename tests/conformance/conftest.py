"""The forms of storage with data of its own for every test, and a service in each test's own nursery."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from math import inf
from pathlib import Path
from typing import Any
from uuid import uuid4

import outcome
import pytest
import trio
import trio.testing
from tests.conformance.clients import TRANSPORTS
from tests.conformance.serving import Served, serve, settings_for
from tests.storages import DistributedForm, Form, embedded_form, migrated_template, new_database

from heliograph.storage.settings import RedisSettings
from heliograph.storage.sql.worker import Done, Job, Worker

Launch = Callable[..., Awaitable[Served]]

MOMENT = 0.005

embedded = pytest.mark.parametrize("form", ["sqlite"], indirect=True)
"""Marks what is decided before storage is asked, or without it: over the embedded form alone."""


@pytest.fixture(scope="session")
def template(postgres_url: str) -> Iterator[str]:
    """Return the name of a migrated, empty database to make others from."""
    with migrated_template(postgres_url) as name:
        yield name


@pytest.fixture(params=["sqlite", "distributed"])
def form(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Form]:
    """Return each form in turn."""
    if request.param == "sqlite":
        yield embedded_form(tmp_path / "data")
    else:
        yield request.getfixturevalue("distributed")


@pytest.fixture
def distributed(redis_url: str, postgres_url: str, template: str) -> Iterator[DistributedForm]:
    """Return the distributed form."""
    with new_database(postgres_url, template) as url:
        yield DistributedForm(url, redis_url, RedisSettings(prefix=f"test-{uuid4().hex}", bridge=""))


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Each test runs over both."""
    name: str = request.param
    return name


@pytest.fixture
def launch(nursery: trio.Nursery, tmp_path: Path, form: Form) -> Launch:
    """Starts a service with some settings over each form in turn; started again it has the same data."""

    async def start(**sections: Any) -> Served:
        return await serve(nursery, form.place(settings_for(tmp_path, **sections)))

    return start


@pytest.fixture
async def url(launch: Launch) -> str:
    """A service with the settings as they are by default."""
    return (await launch()).url


@pytest.fixture
def fast_clock(monkeypatch: pytest.MonkeyPatch) -> trio.testing.MockClock:
    """Virtual time over real sockets: it jumps when nothing has happened for a moment and no thread works.

    What a thread does, such as a commit, takes real time, and on a busy machine more than a moment: no
    deadline may pass by jumping over it.
    """
    clock = trio.testing.MockClock(autojump_threshold=MOMENT)
    working = 0

    def begin() -> None:
        nonlocal working
        working += 1
        clock.autojump_threshold = inf

    def end() -> None:
        nonlocal working
        working -= 1
        clock.autojump_threshold = inf if working else MOMENT

    async def run_sync(work: Callable[..., Any], *args: Any, **options: Any) -> Any:
        begin()
        try:
            return await in_thread(work, *args, **options)
        finally:
            end()

    def hand(worker: Worker, job: Job, done: Done) -> None:
        def done_now(found: outcome.Outcome[Any]) -> None:
            end()
            done(found)

        begin()
        hand_on(worker, job, done_now)

    in_thread, hand_on = trio.to_thread.run_sync, Worker.hand
    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    monkeypatch.setattr(Worker, "hand", hand)
    return clock
