"""Streams behave alike in both forms of the parking lot."""

from __future__ import annotations

import pytest

from heliograph import service
from heliograph.http.wire.lot import EpollLot, TaskLot


@pytest.fixture(autouse=True, params=[EpollLot, TaskLot], ids=["epoll", "tasks"])
def lot(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have services park their streams in this form of the lot."""
    monkeypatch.setattr(service, "open_lot", request.param)
