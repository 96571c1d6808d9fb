"""What the tests of agents' programs share: the real service, three worlds, and a line that breaks."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
import trio
from tests.proxy import Proxy
from tests.servers import Server, free_port, wait_until

import heliograph


class Service(Server):
    """``heliograph serve`` in the embedded form, on a port that it keeps."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "heliograph", "serve", "--port", str(self.port)]
        environment = {**os.environ, "HELIOGRAPH_DATA": str(folder / "data"), "LOG_LEVEL": "WARNING"}
        environment |= settings or {}
        super().__init__(command, folder / "log", self._healthy, env=environment, cwd=folder)

    def _healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/api/health", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def lines(self, task_id: str) -> list[str]:
        """Return a task's output lines that the service has."""
        with heliograph.Client(self.url) as client:
            found: list[str] = []
            seq = 0
            while page := client.logs(task_id, from_seq=seq + 1, limit=1000):
                found += [line.output for line in page]
                seq = page[-1].seq
            return found

    def events(self, channel: str) -> list[heliograph.Event]:
        """Return what happened on a channel, in order."""
        with heliograph.Client(self.url) as client:
            return list(reversed(client.events(channel=channel, limit=500).events))

    def task(self, task_id: str) -> heliograph.TaskState:
        """Return a task."""
        with heliograph.Client(self.url) as client:
            return client.task(task_id)

    def wait_for(self, task_id: str, status: str) -> heliograph.TaskState:
        """Wait until a task has a status; return it."""

        def is_so() -> bool:
            try:
                return self.task(task_id).status == status
            except heliograph.HeliographError:
                return False

        wait_until(is_so, f"{task_id} is {status}")
        return self.task(task_id)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that runs."""
    service = Service(tmp_path_factory.mktemp("service"))
    service.start()
    yield service
    service.kill()


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Service]:
    """A service that a test may kill; it does not run yet."""
    service = Service(tmp_path / "service")
    yield service
    service.kill()


@pytest.fixture
def spools(tmp_path: Path) -> Path:
    """The folder of the test's spools."""
    return tmp_path / "spools"


@pytest.fixture
def publishing(service: Service, spools: Path) -> Iterator[Service]:
    """The service, and this process publishes to it."""
    heliograph.configure(url=service.url, spools=spools)
    yield service
    heliograph.close(5)
    heliograph.configure(enabled=False)


class World(Protocol):
    """Runs the same scene in plain code, or as a coroutine under asyncio or Trio."""

    name: str

    def __call__(self, plain: Callable[[], Any], coroutine: Callable[[], Awaitable[Any]]) -> Any:
        """Run one of them; return what it does."""


class _Plain:
    name = "plain"

    def __call__(self, plain: Callable[[], Any], coroutine: Callable[[], Awaitable[Any]]) -> Any:
        return plain()


class _Asyncio:
    name = "asyncio"

    def __call__(self, plain: Callable[[], Any], coroutine: Callable[[], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            return await coroutine()

        return asyncio.run(main())


class _Trio:
    name = "trio"

    def __call__(self, plain: Callable[[], Any], coroutine: Callable[[], Awaitable[Any]]) -> Any:
        return trio.run(coroutine)


@pytest.fixture
def worlds() -> list[World]:
    """All three worlds."""
    return [_Plain(), _Asyncio(), _Trio()]


@pytest.fixture(params=[_Plain, _Asyncio, _Trio], ids=["plain", "asyncio", "trio"])
def world(request: pytest.FixtureRequest) -> World:
    """Each of the three worlds."""
    made: World = request.param()
    return made


@pytest.fixture
def breaking() -> Callable[[int], AbstractContextManager[str]]:
    """Runs a proxy in front of a port that breaks every connection now and then; gives its URL."""
    return _breaking


@contextmanager
def _breaking(port: int, seed: int = 1) -> Iterator[str]:
    urls: list[str] = []
    ready, ended = threading.Event(), threading.Event()

    async def break_and_break(proxy: Proxy) -> None:
        chance = random.Random(seed)
        while not ended.is_set():
            await trio.sleep(chance.uniform(0.02, 0.15))
            proxy.cut()

    async def serve() -> None:
        proxy = Proxy(port)
        async with trio.open_nursery() as nursery:
            await nursery.start(proxy.run)
            urls.append(f"http://127.0.0.1:{proxy.port}")
            ready.set()
            await break_and_break(proxy)
            nursery.cancel_scope.cancel()

    thread = threading.Thread(target=trio.run, args=(serve,), name="breaking")
    thread.start()
    try:
        assert ready.wait(10)
        yield urls[0]
    finally:
        ended.set()
        thread.join()
