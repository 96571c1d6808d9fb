"""Quotas of keys: refused by the head of a request, and told on every answer to a key that has one."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from tests.conformance.clients import open_ws
from tests.http.conftest import Api, Start, created, output, status
from tests.http.rules.test_auth import key
from tests.polling import until
from trio.testing import MockClock

from heliograph.config import KeySettings
from heliograph.http.rules.quotas import Allowance, QuotaExceeded
from heliograph.model.ids import EventId
from heliograph.model.intake import parse_item
from heliograph.model.settings import Quota

FLEET = {"X-API-Key": "f"}
OTHER = {"X-API-Key": "o"}


def limited(**quota: int) -> tuple[KeySettings, ...]:
    """Configure a key with a quota, and one without."""
    plain = key("fleet", "f")
    return (
        KeySettings(plain.name, plain.sha256, plain.scopes, (), Quota(**quota)),
        key("other", "o"),
    )


async def refused(api: Api, method: str, path: str, **request: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Make a request that is over a quota; return the problem and the headers."""
    answer = await api.http.request(method, path, headers=FLEET, **request)
    assert answer.status_code == 429, answer.text
    assert int(answer.headers["Retry-After"]) >= 1
    problem = answer.json()
    assert problem["error"]["error_code"] == "RATE_LIMIT_EXCEEDED"
    assert problem["error"]["retryable"]
    return problem, dict(answer.headers)


async def test_requests_are_refused_over_the_quota(start: Start) -> None:
    """A minute's worth may be used at once; then 429 says when to come back, to this key alone."""
    api = await start(auth={"keys": limited(requests=3)})
    for left in (2, 1, 0):
        answer = await api.http.get("/api/v1/tasks", headers=FLEET)
        assert answer.status_code == 200
        assert answer.headers["RateLimit-Policy"] == '"requests";q=3;w=60;qu="requests"'
        assert answer.headers["RateLimit"].startswith(f'"requests";r={left};t=')
    problem, headers = await refused(api, "GET", "/api/v1/tasks")
    assert "3 requests a minute" in problem["detail"]
    assert headers["ratelimit"].startswith('"requests";r=0;')
    assert 1 <= int(headers["retry-after"]) <= 20
    other = await api.http.get("/metrics", headers=OTHER)
    assert other.status_code == 200
    assert "RateLimit" not in other.headers
    assert 'heliograph_quota_refused_total{key="fleet",of="requests"} 1.0' in other.text


async def test_events_may_be_owed_once(start: Start) -> None:
    """A request larger than what is left is taken; the next that publishes waits, and questions do not."""
    api = await start(auth={"keys": limited(events=10)})
    await api.publish(*[output() for _ in range(25)], headers=FLEET)
    problem, headers = await refused(api, "POST", "/api/v1/events", json=output())
    assert "10 events published a minute" in problem["detail"]
    assert 60 <= int(headers["retry-after"]) <= 120
    assert (await api.http.get("/api/v1/tasks", headers=FLEET)).status_code == 200
    await api.publish(output(), headers=OTHER)


async def test_bytes_are_counted_as_they_come(start: Start) -> None:
    """Bodies are charged by their bytes on the wire, by either way in."""
    api = await start(auth={"keys": limited(bytes=10_000)})
    await api.publish(output(text="x" * 4000), headers=FLEET)  # by the shortcut
    await api.publish(output(text="x" * 100_000), headers=FLEET)  # by the long way
    await refused(api, "POST", "/api/v1/events", json=output())


async def test_a_ticket_and_a_session_use_the_same_quota(start: Start) -> None:
    """Tickets and sessions of a key count as the key."""
    api = await start(auth={"keys": limited(requests=2)})
    ticket = (await api.http.post("/api/v1/stream-tickets", headers=FLEET)).json()["ticket"]
    assert (await api.http.get(f"/api/v1/tasks?ticket={ticket}")).status_code == 200
    assert (await api.http.get(f"/api/v1/tasks?ticket={ticket}")).status_code == 429


async def test_the_default_is_for_keys_without_one_of_their_own(start: Start) -> None:
    """``auth.quota`` holds for every key that has none, and not for one that has."""
    api = await start(auth={"keys": limited(requests=5), "quota": Quota(requests=1)})
    assert [(await api.http.get("/api/v1/tasks", headers=OTHER)).status_code for _ in range(2)] == [200, 429]
    assert [(await api.http.get("/api/v1/tasks", headers=FLEET)).status_code for _ in range(2)] == [200, 200]


async def test_tasks_under_way_have_a_bound(start: Start) -> None:
    """So many tasks may be under way; one that ends makes room, whoever ends it."""
    api = await start(auth={"keys": limited(tasks=2)})
    await api.publish(created("1"), created("2"), headers=FLEET)
    problem, _ = await refused(api, "POST", "/api/v1/events", json=output("3"))
    assert "2 tasks under way" in problem["detail"]
    await refused(api, "POST", "/api/v1/tasks", json={"task_id": "3", "source": "api"})
    await api.publish(output("1"), headers=FLEET)
    await api.publish(status("completed", "1"), headers=FLEET)
    await api.publish(created("3"), headers=FLEET)
    await api.publish(status("failed", "2"), headers=OTHER)

    async def room() -> bool:
        answer = await api.http.post("/api/v1/events", json=created("4"), headers=FLEET)
        return answer.status_code == 201

    await until(room)
    await refused(api, "POST", "/api/v1/events", json=created("5"))


async def test_what_a_page_says_is_refused_by_an_error(start: Start) -> None:
    """Over a WebSocket the refusal is an ``error`` message, and what is watched goes on."""
    api = await start(auth={"keys": limited(events=1, requests=2)})
    async with await open_ws(api.url, "/ws/page", headers=FLEET) as page:
        for _ in range(2):
            await page.say("task.stop", task_id="none")
        codes = [(await page.until("error")).fields["code"] for _ in range(2)]
        assert codes == ["not_found", "rate_limit_exceeded"]
        await page.say("ping")
        await page.until("pong")


def draft(item: dict[str, Any]) -> Any:
    """Make the draft of an item."""
    return parse_item(item, 1 << 20)


async def test_a_bucket_fills_evenly(autojump_clock: MockClock) -> None:
    """A part that was used comes back at the rate of the quota, up to a minute's worth."""
    allowance = Allowance("k", Quota(requests=60))
    for _ in range(60):
        allowance.admit(sends=False)
    with pytest.raises(QuotaExceeded) as caught:
        allowance.admit(sends=False)
    assert caught.value.retry_after == pytest.approx(1)
    await trio.sleep(2.001)
    allowance.admit(sends=False)
    allowance.admit(sends=False)
    with pytest.raises(QuotaExceeded):
        allowance.admit(sends=False)
    await trio.sleep(3600)
    assert allowance.headers()["RateLimit"] == '"requests";r=60;t=0'


async def test_a_task_in_flight_is_not_taken_for_ended() -> None:
    """Only what the log is known to say of a task counts it out: one being appended is under way."""
    allowance = Allowance("k", Quota(tasks=1))
    fresh = allowance.begin([draft(created("1"))], lambda names: set(), EventId(9))
    assert fresh == ["1"]
    with pytest.raises(QuotaExceeded):
        allowance.begin([draft(created("2"))], lambda names: set(), EventId(9))
    allowance.forget(fresh)  # it could not be appended
    allowance.begin([draft(created("2"))], lambda names: set(), EventId(9))
    allowance.appended([draft(created("2"))], EventId(10))
    with pytest.raises(QuotaExceeded):
        allowance.begin([draft(created("3"))], lambda names: set(), EventId(9))
    allowance.begin([draft(created("3"))], lambda names: set(), EventId(10))
