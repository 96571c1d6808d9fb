"""Answers that fail while they are written: each is a refusal or a visible cut, never a short answer."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import trio
from structlog.testing import capture_logs
from tests.conformance.serving import serve, settings_for
from tests.storage.embedded.test_damage import damage
from tests.storages import embedded_form
from tests.strategies import output

from heliograph.storage.embedded.form import open_embedded

FULL_LOG = "/api/v1/tasks/t/logs/full"


async def test_a_log_on_damaged_pages_is_refused_or_cut(nursery: trio.Nursery, tmp_path: Path) -> None:
    """Damage on the first page is answered 503; damage behind it cuts the answer, which the log tells."""
    folder = embedded_form(tmp_path / "data").folder
    async with open_embedded(folder, timedelta(days=1)) as storage:
        for first in range(0, 20_000, 5000):
            await storage.log.append([[output("t", f"{first + n} " + "x" * 500) for n in range(5000)]])
    damage(folder / "heliograph.db")
    with capture_logs() as logs:
        served = await serve(nursery, settings_for(folder, server={"port": 0}))
        async with httpx.AsyncClient(base_url=served.url) as client:
            refused = await client.get(FULL_LOG)
            assert refused.status_code == 503
            assert "is damaged" in refused.json()["detail"]
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(FULL_LOG, headers={"Accept": "application/x-ndjson"})
    [cut] = [line for line in logs if line["event"] == "an answer was cut"]
    assert (cut["path"], cut["log_level"]) == (FULL_LOG, "warning")
    assert "is damaged" in cut["reason"]
    nursery.cancel_scope.cancel()
