"""The service and a browser, as the tests of the page use them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from tests.browser.chromium import CHROMIUM, Page, chromium, new_page
from tests.servers import free_port

from heliograph import service
from heliograph.config import AuthSettings, ServerSettings, Settings, StorageSettings, TaskSettings

DEADLINE = 90


@attrs.define
class Service:
    """The real service on a port of its own, which it keeps when it is started again."""

    nursery: trio.Nursery
    data: Path
    auth: AuthSettings = attrs.field(factory=AuthSettings)
    workflows: Path | None = None
    tasks: TaskSettings = attrs.field(factory=TaskSettings)
    port: int = attrs.field(factory=free_port)
    url: str = ""
    _scope: trio.CancelScope | None = None
    _stopped: trio.Event = attrs.field(factory=trio.Event)

    async def start(self) -> None:
        """Serve."""
        settings = Settings(
            server=ServerSettings(port=self.port),
            storage=StorageSettings(data=self.data),
            auth=self.auth,
            tasks=self.tasks,
            workflows=() if self.workflows is None else (self.workflows,),
        )
        self.url = await self.nursery.start(self._run, settings)

    async def _run(self, settings: Settings, *, task_status: trio.TaskStatus[str]) -> None:
        with trio.CancelScope() as self._scope:
            await service.run(settings, task_status=task_status)
        self._stopped.set()

    async def stop(self) -> None:
        """Stop at once, without a word to anybody."""
        assert self._scope is not None
        self._scope.cancel()
        await self._stopped.wait()
        self._stopped = trio.Event()

    async def start_anew(self) -> None:
        """Stop, and serve again with a log of its own, as if the data had been wiped."""
        await self.stop()
        self.data = self.data.with_name("another")
        await self.start()

    async def publish(self, *items: dict[str, Any], key: str | None = None) -> None:
        """Publish items in either form."""
        headers = {} if key is None else {"X-API-Key": key}
        async with httpx.AsyncClient(timeout=30, headers=headers) as client:
            answer = await client.post(f"{self.url}/api/v1/events", json=items)
            assert answer.status_code == 201, answer.text

    async def write(self, task_id: str, *lines: str) -> None:
        """Publish lines of a task's output."""
        for first in range(0, len(lines), 5000):
            batch = lines[first : first + 5000]
            await self.publish(
                *({"type": "task_output", "task_id": task_id, "output": line} for line in batch)
            )


@pytest.fixture(scope="session")
def browser() -> Iterator[str]:
    """Give the address of a browser; each test has a page of its own in it."""
    if not CHROMIUM.exists():
        pytest.skip(f"Chromium is not installed ({CHROMIUM})")
    with chromium() as address:
        yield address


@pytest.fixture
async def stopped_service(nursery: trio.Nursery, tmp_path: Path) -> Service:
    """Give a service that is not started yet."""
    return Service(nursery, tmp_path / "data")


@pytest.fixture
async def served(stopped_service: Service) -> Service:
    """Give a running service without keys."""
    await stopped_service.start()
    return stopped_service


@pytest.fixture
async def page(browser: str, stopped_service: Service) -> AsyncIterator[Page]:
    """Give a new page, with an overall deadline."""
    with trio.fail_after(DEADLINE):
        async with new_page(browser) as page:
            yield page
