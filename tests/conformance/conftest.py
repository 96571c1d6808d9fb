"""A service for each test, in its own nursery."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from tests.conformance.clients import TRANSPORTS
from tests.conformance.serving import Served, serve, settings_for

Launch = Callable[..., Awaitable[Served]]


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Each test runs over both."""
    name: str = request.param
    return name


@pytest.fixture
def launch(nursery: trio.Nursery, tmp_path: Path) -> Launch:
    """Starts a service with some settings; started again it has the same data."""

    async def start(**sections: Any) -> Served:
        return await serve(nursery, settings_for(tmp_path, **sections))

    return start


@pytest.fixture
async def url(launch: Launch) -> str:
    """A service with the settings as they are by default."""
    return (await launch()).url


@pytest.fixture
def fast_clock() -> trio.testing.MockClock:
    """Virtual time over real sockets: it jumps when nothing has happened for a moment."""
    return trio.testing.MockClock(autojump_threshold=0.02)
