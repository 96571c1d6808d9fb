"""A task whose machine is gone is lost, and may come back: seen by everybody, over both forms."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from tests.conformance.conftest import Launch
from tests.conformance.test_storage import output
from tests.polling import until
from tests.storages import Form

from heliograph.actors import heartbeats
from heliograph.client import Client, Following, follow
from heliograph.model.errors import Overtaken
from heliograph.model.event import Draft, Event
from heliograph.storage.protocols import Receipt


async def test_a_lost_task_is_seen_everywhere_and_comes_back(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a status in lists, sums and both APIs; its stream ends with it, and goes on when it is back."""
    monkeypatch.setattr(heartbeats, "LOOK_SECONDS", 0.05)
    url = (await launch(tasks={"lost_after_seconds": 0.3})).url
    async with httpx.AsyncClient(base_url=url, timeout=30) as http, Client(url) as client:

        async def get(path: str) -> Any:
            return (await http.get(path)).raise_for_status().json()

        async def say(topic: str, **payload: Any) -> None:
            item = {"topic": topic, "payload": {"task_id": "t", **payload}}
            (await http.post("/api/v1/events", json=item)).raise_for_status()

        async def counted(**wanted: int) -> None:
            async def are() -> bool:
                found = await get("/api/v1/analytics/summary")
                session = await http.get("/api/v1/sessions/s")
                lost = session.json()["tasks"]["lost"] if session.status_code == 200 else None
                return found["failed"] == wanted["failed"] and lost == wanted["lost"]

            await until(are, 30)

        await say("task.created", session_id="s", heartbeat_seconds=0.1)
        await say("task.status", status="running")
        heard = []
        async with follow(client, Following("task:t", after="0-0"), "sse") as items:
            async for item in items:
                if isinstance(item, Event) and item.topic == "task.status":
                    heard.append(item.payload["status"])
                    if heard[-1] == "lost":
                        break
        assert heard == ["running", "lost"]
        ended = await http.get("/api/tasks/t/stream")  # to its end, which has come
        assert '"status":"lost"' in ended.text
        await counted(failed=1, lost=1)
        [task] = (await get("/api/v1/tasks?status=lost"))["tasks"]
        assert task["heartbeat_seconds"] == 0.1
        assert "no heartbeat for" in task["error"]
        [row] = await get("/api/tasks?status=failed")
        assert (row["status"], row["error"]) == ("failed", task["error"])
        assert (await get("/api/tasks/table?status=failed"))["total"] == 1

        await say("task.created", heartbeat_seconds=3600)
        await say("task.output", output="it was the network")

        async def is_back() -> bool:
            task = await get("/api/v1/tasks/t")
            return (task["status"], task["attempts"], task["error"]) == ("running", 1, None)

        await until(is_back, 30)
        await counted(failed=0, lost=0)


async def test_an_event_may_have_to_follow_another(form: Form) -> None:
    """One that must follow what is not the last event of its channel is refused, and nothing is kept."""
    async with form.open() as storage:
        await storage.log.append([[output("t", "1")]])

        async def say(follows: int) -> Any:
            said = Draft.own("task:t", "task.heartbeat", {"task_id": "t"}, sender="x", follows=follows)
            [answer] = await storage.log.append([[said]])
            return answer

        assert isinstance(await say(0), Overtaken)
        assert isinstance(await say(2), Overtaken)
        assert isinstance(await say(1), Receipt)
        assert isinstance(await say(1), Overtaken)
        other = Draft.own("task:new", "task.heartbeat", {"task_id": "new"}, sender="x", follows=0)
        mixed = await storage.log.append([[output("t", "3")], [other], [other]])
        assert [isinstance(answer, Overtaken) for answer in mixed] == [False, False, True]
