"""What agents publish to Redis's pub/sub reaches watchers once, whichever node bridges it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import trio
from tests.archived import await_outputs, read_archive
from tests.deployment import Node
from tests.polling import until
from tests.servers import READY_SECONDS, wait_until

from heliograph.client import Client, Following, follow
from heliograph.model.event import Event

if TYPE_CHECKING:
    from tests.chaos.conftest import NodeMaker
    from tests.servers import RedisServer


def bridging(nodes: list[Node]) -> list[Node]:
    """Return which nodes bridge."""
    return [node for node in nodes if node.running and node.metric("bridge_active") == 1]


def message(text: str) -> bytes:
    """Make a line of output as agents publish it."""
    return orjson.dumps(
        {"type": "task_output", "task_id": "1", "output": text, "timestamp": "2026-01-31T12:00:00Z"}
    )


async def test_messages_reach_watchers_of_every_node_once(
    make_node: NodeMaker, redis: RedisServer, database_url: str
) -> None:
    """With two nodes, what plain redis-py publishes arrives once over WebSocket and SSE, odd or not."""
    nodes = [make_node("a"), make_node("b")]
    for node in nodes:
        await node.begin()
    await trio.to_thread.run_sync(wait_until, lambda: len(bridging(nodes)) == 1, "one bridges")
    status = {"type": "task_status", "task_id": "1", "status": "completed", "result": {"cost_usd": 0.05}}
    odd = [
        b"\xff",
        b"[]",
        b'{"type":"task_output"}',
        b'{"type":"task_status","status":"odd"}',
        b'{"type":[]}',
    ]
    with redis.client() as agent:
        for n in range(50):
            assert agent.publish("task:1", message(str(n))) == 1
        for data in odd:
            agent.publish("task:1", data)
        agent.publish("task:1", orjson.dumps(status | {"host": "kept, though unknown"}))
        agent.publish("other", message("not bridged"))
    for node in nodes:
        for transport in ("ws", "sse"):
            found: list[Event] = []
            following = Following("task:1", after="0-0")
            with trio.fail_after(READY_SECONDS):
                async with Client(node.url) as client, follow(client, following, transport) as items:
                    async for item in items:
                        assert isinstance(item, Event)
                        if item.topic != "task.message":
                            found.append(item)
                        if len(found) == 51:
                            break
            assert [event.payload["output"] for event in found[:50]] == [str(n) for n in range(50)]
            assert found[0].timestamp.isoformat() == "2026-01-31T12:00:00+00:00"
            assert found[50].payload["host"] == "kept, though unknown"
    await trio.to_thread.run_sync(await_outputs, database_url, 50)

    async def finished() -> bool:
        return read_archive(database_url).tasks["1"].status == "completed"

    await until(finished)
    assert len(read_archive(database_url).outputs()) == 50
    [holder] = bridging(nodes)
    assert holder.metric("bridge_refused_total") == 0
    # An event is seen as soon as it is in the log; it is counted when the answer has come back.
    await trio.to_thread.run_sync(
        wait_until, lambda: holder.metric("bridged_events_total") == 51 + len(odd), "every one is counted"
    )


def test_another_node_bridges_after_a_kill_and_none_does_twice(
    make_node: NodeMaker, redis: RedisServer, database_url: str
) -> None:
    """The lease moves when its holder is killed, and from a paused one, which then appends nothing."""
    nodes = [make_node("a"), make_node("b")]
    for node in nodes:
        node.start()
    wait_until(lambda: len(bridging(nodes)) == 1, "one bridges")
    [holder] = bridging(nodes)
    [other] = [node for node in nodes if node is not holder]
    holder.kill()
    wait_until(lambda: bridging(nodes) == [other], "the other one bridges")
    holder.start()
    with redis.client() as agent:
        agent.publish("task:1", message("first"))
        await_outputs(database_url, 1)
        other.pause()
        wait_until(lambda: holder.metric("bridge_active") == 1, "the first one bridges again")
        assert agent.publish("task:1", message("second")) == 2  # the paused one still has its connection
        await_outputs(database_url, 2)
        other.resume()
        wait_until(lambda: other.metric("bridge_active") == 0, "it sees that it was replaced")
        agent.publish("task:1", message("third"))
    await_outputs(database_url, 3)
    assert read_archive(database_url).outputs() == ["first", "second", "third"]


def test_messages_wait_while_the_log_is_full(
    make_node: NodeMaker, redis: RedisServer, database_url: str
) -> None:
    """A message that the log can't take yet is tried until it can, and kept once."""
    node = make_node("node")
    node.start()
    wait_until(lambda: node.metric("bridge_active") == 1, "it bridges")
    with redis.client() as agent:
        agent.config_set("maxmemory-policy", "volatile-lru")
        agent.config_set("maxmemory", "1gb")
        wait_until(lambda: _refused(node), "the log refuses")
        agent.publish("task:1", message("one"))
        wait_until(lambda: "not appending messages" in node.output.read_text(), "it waits")
        agent.config_set("maxmemory", "0")
    await_outputs(database_url, 1)
    assert read_archive(database_url).outputs() == ["one"]


def _refused(node: Node) -> bool:
    return node.publish({"topic": "x.y"}).status_code == 503
