"""Deliveries are kept once, whichever nodes they come to, and whatever becomes of a node."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio
from tests.archived import read_archive
from tests.recorded import EXAMPLES
from tests.servers import READY_SECONDS, wait_until

if TYPE_CHECKING:
    from tests.chaos.conftest import NodeMaker
    from tests.deployment import Node

SECRET = "shared"
HOOKS = f"webhooks = {str(EXAMPLES.with_name('webhooks'))!r}\n"


async def deliver(http: httpx.AsyncClient, node: Node, number: int) -> int:
    """Deliver as GitHub does; return the status, 0 when the node was not there."""
    body = json.dumps({"comment": {"body": f"@agent look at {number}"}, "n": number}).encode()
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    headers = {
        "X-GitHub-Event": "issue_comment",
        "X-GitHub-Delivery": f"d-{number}",
        "X-Hub-Signature-256": f"sha256={signature}",
    }
    try:
        answer = await http.post(f"{node.url}/webhooks/github", content=body, headers=headers)
    except httpx.TransportError:
        return 0
    return answer.status_code


async def test_a_delivery_to_two_nodes_at_once_is_one_task(
    make_node: NodeMaker, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same delivery to both nodes one is kept; retries after a kill are kept, or were already."""
    monkeypatch.setenv("GITHUB_WEBHOOK_SECRET", SECRET)
    nodes = [make_node(name, settings=HOOKS) for name in ("a", "b")]
    for node in nodes:
        await node.begin()
    answers: dict[int, list[int]] = {number: [] for number in range(60)}
    limit = trio.CapacityLimiter(8)

    async def to_both(http: httpx.AsyncClient, number: int) -> None:
        async with limit, trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(one, http, node, number)

    async def one(http: httpx.AsyncClient, node: Node, number: int) -> None:
        answers[number].append(await deliver(http, node, number))

    async with httpx.AsyncClient(verify=False, timeout=30) as http:
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(to_both, http, number)
        assert {tuple(sorted(answers[number])) for number in range(30)} == {(200, 409)}
        async with trio.open_nursery() as nursery:
            for number in range(30, 60):
                nursery.start_soon(to_both, http, number)
            nodes[0].kill()
        await nodes[0].begin()
        for number in range(30, 60):
            answers[number].append(await deliver(http, nodes[0], number))
    assert all(answers[number][-1] in {200, 409} for number in answers)
    assert all(answers[number].count(200) <= 1 for number in answers)

    def archived() -> Counter[str]:
        received = [event for event in read_archive(database_url).events if event.topic == "webhook.received"]
        return Counter(event.payload["delivery_id"] for event in received)

    expected = Counter(f"d-{number}" for number in range(60))
    await trio.to_thread.run_sync(wait_until, lambda: archived() == expected, "each delivery is kept once")
    tasks = read_archive(database_url).tasks
    assert len(tasks) == 60
    assert {task.agent for task in tasks.values()} == {"planning"}


async def test_what_is_made_over_http_is_on_every_node(make_node: NodeMaker) -> None:
    """A webhook that one node was told of takes signed deliveries on the other, and its secret lives on."""
    nodes = [make_node(name) for name in ("a", "b")]
    for node in nodes:
        await node.begin()
    async with httpx.AsyncClient(verify=False, timeout=30) as http:
        made = await http.post(f"{nodes[0].url}/api/v1/webhooks", json={"name": "mine", "secret": SECRET})
        assert made.status_code == 201
        body = b'{"text": "go"}'
        signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()

        async def taken(node: Node, **more: Any) -> int:
            headers = {"X-Hub-Signature-256": signature, **more}
            answer = await http.post(f"{node.url}/webhooks/mine", content=body, headers=headers)
            return answer.status_code

        with trio.fail_after(READY_SECONDS):
            while await taken(nodes[1], **{"X-Delivery-Id": "1"}) != 200:  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.05)
        for node in nodes:
            node.kill()
        await nodes[1].begin()
        assert await taken(nodes[1], **{"X-Delivery-Id": "2"}) == 200
        assert (await http.post(f"{nodes[1].url}/webhooks/mine", content=body)).status_code == 401
