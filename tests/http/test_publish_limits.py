"""How much one publish request may carry."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import trio
from tests.conformance.serving import serve, settings_for
from tests.http.conftest import Start


@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson"])
async def test_a_request_has_a_limit_of_events(nursery: trio.Nursery, tmp_path: Path, kind: str) -> None:
    """Just as many events as the limit are kept; with one more nothing is, and the limit is named."""
    served = await serve(nursery, settings_for(tmp_path, events={"max_per_request": 3}))
    async with httpx.AsyncClient(base_url=served.url, verify=False) as http:
        answers = [
            await http.post(
                "/api/v1/events",
                content=b"[%s]" % b",".join([b'{"topic":"x.y"}'] * number)
                if kind == "application/json"
                else b'{"topic":"x.y"}\n' * number,
                headers={"Content-Type": kind},
            )
            for number in (3, 4)
        ]
        kept = (await http.get("/api/v1/events")).json()["events"]
    assert [answer.status_code for answer in answers] == [201, 413]
    assert "at most 3 events" in answers[1].json()["detail"]
    assert len(kept) == 3
    await served.terminate()


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_that_is_too_large_has_one_code(start: Start, announced: bool) -> None:
    """Whether the size is announced or only found out, the error is the same."""
    api = await start(server={"max_request_bytes": 4096})
    body = b" " * 5000

    async def unannounced() -> AsyncIterator[bytes]:
        yield body

    problem = await api.problem("POST", "/api/v1/events", content=body if announced else unannounced())
    assert (problem["status"], problem["code"]) == (413, "too_large")
