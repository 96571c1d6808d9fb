"""A service in each test's own nursery, and a client that talks to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from tests.conformance.conftest import fast_clock, launch
from tests.conformance.serving import serve, settings_for
from tests.storages import Form, embedded_form

from heliograph.config import KeySettings

__all__ = ["fast_clock", "launch"]

Start = Callable[..., Awaitable["Api"]]


@attrs.define
class Api:
    """A running service and a client that keeps its connections."""

    url: str
    http: httpx.AsyncClient

    async def get(self, path: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Any:
        """Get JSON, checking the status."""
        answer = await self.http.get(path, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def publish(self, *items: Any, status: int = 201, headers: Mapping[str, str] | None = None) -> Any:
        """Publish items, checking the status."""
        answer = await self.http.post("/api/v1/events", json=items, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def send(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        """Send a body as JSON, if there is one, checking the status; return the answer."""
        sent = {} if body is None else {"json": body}
        answer = await self.http.request(method, path, **sent)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def problem(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """Make a request that is refused; check the form of the problem, and return it."""
        answer = await self.http.request(method, path, **request)
        assert 400 <= answer.status_code < 600, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        problem: dict[str, Any] = answer.json()
        assert problem["status"] == answer.status_code
        assert problem["type"] == f"urn:heliograph:problem:{problem['code']}"
        assert problem["title"]
        assert "Traceback" not in answer.text
        return problem


@pytest.fixture
def form(tmp_path: Path) -> Form:
    """Where services that are launched here have their data: none of these tests depends on it."""
    return embedded_form(tmp_path / "data")


@pytest.fixture
async def start(nursery: trio.Nursery, tmp_path: Path) -> AsyncIterator[Start]:
    """Start a service with some settings, by section."""
    clients: list[httpx.AsyncClient] = []

    async def begin(**sections: Any) -> Api:
        served = await serve(nursery, settings_for(embedded_form(tmp_path / "data").folder, **sections))
        clients.append(httpx.AsyncClient(base_url=served.url, timeout=30))
        return Api(served.url, clients[-1])

    yield begin
    for client in clients:
        await client.aclose()
    nursery.cancel_scope.cancel()


@pytest.fixture
async def api(start: Start) -> Api:
    """Start a service with its defaults."""
    return await start()


def key(name: str, secret: str, *channels: str) -> KeySettings:
    """Make a key that may read and publish."""
    return KeySettings(name, sha256(secret.encode()).hexdigest(), channels=channels)


def output(task: str = "1", text: str = "x", **more: Any) -> dict[str, Any]:
    """Make an item of output."""
    return {"type": "task_output", "task_id": task, "output": text, **more}


def status(name: str, task: str = "1", **more: Any) -> dict[str, Any]:
    """Make an item of a status."""
    return {"type": "task_status", "task_id": task, "status": name, **more}


def created(task: str = "1", timestamp: str | None = None, **payload: Any) -> dict[str, Any]:
    """Make an item that creates a task."""
    made: dict[str, Any] = {"topic": "task.created", "payload": {"task_id": task, **payload}}
    return made if timestamp is None else {**made, "timestamp": timestamp}
