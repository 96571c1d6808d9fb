"""What keys did stands in the log, for administrators alone; over both forms."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import attrs
import httpx
import pytest
import trio
from tests.conformance.clients import watch
from tests.conformance.conftest import Launch, embedded
from tests.conformance.test_keys import Type, keys, made
from tests.http.rules.test_auth import KEYS, key
from tests.polling import until

from heliograph.actors import audit
from heliograph.actors.audit import Audit, AuditedCall
from heliograph.config import KeySettings

__all__ = ["keys"]

ADMIN = {"X-API-Key": "o"}
READER = {"X-API-Key": "r"}
BOTH = {"X-API-Key": "b"}
OURS: tuple[KeySettings, ...] = (*KEYS, key("both", "b"))


@attrs.frozen
class Asked:
    """A service, and what its audit says."""

    url: str
    http: httpx.AsyncClient

    async def told(self, topic: str) -> list[dict[str, Any]]:
        """Return the payloads of the audit's events of a topic, oldest first."""
        answer = await self.http.get(
            f"{self.url}/api/v1/events?channel=audit&topic={topic}&limit=500", headers=ADMIN
        )
        assert answer.status_code == 200, answer.text
        return [event["payload"] for event in reversed(answer.json()["events"])]

    async def until_told(self, topic: str, count: int) -> list[dict[str, Any]]:
        """Return them when there are so many."""

        async def enough() -> bool:
            return len(await self.told(topic)) >= count

        await until(enough)
        return await self.told(topic)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """A client that keeps its connections."""
    async with httpx.AsyncClient(timeout=30) as client:
        yield client


@pytest.fixture
async def asked(launch: Launch, http: httpx.AsyncClient) -> Asked:
    """Start a service with keys."""
    return Asked((await launch(auth={"keys": OURS})).url, http)


async def test_calls_are_told(asked: Asked) -> None:
    """Tickets, sessions, task keys, webhooks and removals are told with their key, address and answer."""
    http, url = asked.http, asked.url
    for _ in range(3):
        await http.post(f"{url}/api/v1/stream-tickets", headers=READER)
    begun = await http.post(f"{url}/api/v1/session", headers=READER)
    http.cookies.clear()
    cookie = begun.headers["set-cookie"].partition(";")[0]
    await http.post(f"{url}/api/v1/task-keys", headers=BOTH, json={"task_id": "1"})
    hook = await http.post(f"{url}/api/v1/webhooks", headers=ADMIN, json={"name": "hook"})
    assert hook.status_code == 201, hook.text
    await http.post(f"{url}/api/v1/stream-tickets", headers={"Cookie": cookie})
    await http.delete(f"{url}/api/v1/webhooks/none", headers=ADMIN)
    told = await asked.until_told("audit.called", 6)
    sums: dict[tuple[Any, ...], int] = {}
    for one in told:
        assert one["address"] == "127.0.0.1"
        place = (one["key"], one["by"], one["method"], one["path"].removeprefix("/api/v1/"), one["status"])
        sums[place] = sums.get(place, 0) + one["count"]
    assert sums == {
        ("reader", "key", "POST", "stream-tickets", 201): 3,
        ("reader", "key", "POST", "session", 201): 1,
        ("both", "key", "POST", "task-keys", 201): 1,
        ("ops", "key", "POST", "webhooks", 201): 1,
        ("reader", "session", "POST", "stream-tickets", 201): 1,
        ("ops", "key", "DELETE", "webhooks/none", 404): 1,
    }


async def test_publishing_is_told_in_sums(
    launch: Launch, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each key's requests and events are added up: one event a minute, whatever it publishes."""
    monkeypatch.setattr(audit, "SUM_SECONDS", 0.2)
    asked = Asked((await launch(auth={"keys": OURS})).url, http)
    items = [{"topic": "a.b"}] * 7
    for _ in range(5):
        await asked.http.post(f"{asked.url}/api/v1/events", headers=BOTH, json=items)

    async def all_told() -> bool:
        return bool(sum(one["events"] for one in await asked.told("audit.published")) == 35)

    await until(all_told)
    told = await asked.told("audit.published")
    assert {one["key"] for one in told} == {"both"}
    assert sum(one["requests"] for one in told) == 5


async def test_keys_are_told_once(
    launch: Launch, keys: Type, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What became of keys is told, that which happened while nothing was served as well, and only once."""
    await made(keys, "early", "--channel", "task:1")
    for number in range(2):
        served = await launch(auth={"keys": OURS})
        asked = Asked(served.url, http)
        if number == 0:
            await asked.until_told("audit.key", 1)
            await keys("revoke", "early")
        told = await asked.until_told("audit.key", 2)
        if number == 0:
            await served.terminate()
    assert [(one["key"], one["change"]) for one in told] == [("early", "made"), ("early", "revoked")]
    assert "@" in told[0]["by"]
    assert told[0]["channels"] == ["task:1"]


@pytest.mark.parametrize("headers", [READER, BOTH])
async def test_only_administrators_read_it(asked: Asked, headers: dict[str, str]) -> None:
    """No other key reads the channel, no pattern covers it, and nobody publishes to it."""
    http, url = asked.http, asked.url
    await http.post(f"{url}/api/v1/stream-tickets", headers=READER)
    await asked.until_told("audit.called", 1)
    for path in ("/api/v1/events?channel=audit", "/api/v1/events/stream?channel=audit"):
        answer = await http.get(url + path, headers=headers)
        assert answer.status_code == 403
        assert "admin" in answer.json()["detail"]
    everything = (await http.get(f"{url}/api/v1/events?limit=500", headers=headers)).json()["events"]
    assert not [event for event in everything if event["channel"] == "audit"]
    async with await watch("ws", url, "audit", headers=headers) as refused:
        assert (await refused.end())["code"] == 4503
    for caller in (headers, ADMIN):
        answer = await http.post(
            f"{url}/api/v1/events", headers=caller, json={"topic": "a.b", "channel": "audit"}
        )
        assert answer.status_code in {403, 422}


async def test_it_is_watched_as_any_channel(asked: Asked, transport: str) -> None:
    """An administrator sees it live and replayed, and who watches everything does not."""
    admin = await watch(transport, asked.url, "audit", headers=ADMIN, after="0-0")
    await admin.live()
    everything = await watch(transport, asked.url, "*", headers=ADMIN, after="0-0")
    await everything.live()
    await asked.http.post(f"{asked.url}/api/v1/stream-tickets", headers=READER)
    seen = await admin.until("event")
    assert seen.fields["payload"]["path"] == "/api/v1/stream-tickets"
    again = await watch(transport, asked.url, "audit", headers=ADMIN, after="0-0")
    assert (await again.until("event")).fields["payload"] == seen.fields["payload"]
    await asked.http.post(f"{asked.url}/api/v1/events", headers=BOTH, json={"topic": "a.b"})
    assert (await everything.until("event")).fields["topic"] == "a.b"
    late = await watch(transport, asked.url, "*", headers=ADMIN, after="0-0")
    assert (await late.until("event")).fields["topic"] == "a.b"
    for one in (admin, everything, again, late):
        await trio.aclose_forcefully(one.stream)


@embedded
async def test_the_end_of_the_process_loses_nothing(launch: Launch, http: httpx.AsyncClient) -> None:
    """What was gathered when the service is stopped is appended before it ends."""
    served = await launch(auth={"keys": OURS})
    await http.post(f"{served.url}/api/v1/events", headers=BOTH, json={"topic": "a.b"})
    await http.post(f"{served.url}/api/v1/stream-tickets", headers=READER)
    await served.terminate()
    asked = Asked((await launch(auth={"keys": OURS})).url, http)
    assert [one["path"] for one in await asked.told("audit.called")] == ["/api/v1/stream-tickets"]
    assert [one["events"] for one in await asked.told("audit.published")] == [1]


async def test_what_waits_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    """Over the bound calls are told as a number, and equal ones take no further place."""
    appended: list[Any] = []

    async def append(drafts: Any) -> None:
        appended.extend(drafts)

    one = Audit("n", append, lambda: (0, 0), timedelta(days=1))
    for number in range(audit.MOST_WAITING + 5):
        for _ in range(2):
            one.called(AuditedCall(f"key {number}", "key", None, "POST", "/x", 200))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        await trio.sleep(2)
        nursery.cancel_scope.cancel()
    assert len(appended) == audit.MOST_WAITING + 1
    assert {draft.payload["count"] for draft in appended} == {2, 10}
    assert (one.written, one.dropped) == (audit.MOST_WAITING + 1, 10)
