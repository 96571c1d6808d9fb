"""Engines and gateways that publish to Redis as they always did are seen, heard or not, once."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson
import trio
from redis import Redis
from tests.archived import await_topic, check_archive, read_archive
from tests.servers import wait_until

from heliograph.model.task import MAX_COST_USD

if TYPE_CHECKING:
    from tests.chaos.conftest import NodeMaker
    from tests.deployment import Node
    from tests.servers import RedisServer

STREAM = "task_events"
SECONDS = "2026-01-31T12:00:00Z"


def write(redis: Redis, kind: str, data: dict[str, Any], **ids: str) -> None:
    """Add an entry as engines and gateways do."""
    fields: Any = {"type": kind, "timestamp": SECONDS, **ids, "data": orjson.dumps(data)}
    redis.xadd(STREAM, fields)


def say(redis: Redis, task: str, **message: Any) -> None:
    """Publish a status as engines do: no type, no id in the body, the same text in a hash."""
    text = orjson.dumps(message)
    redis.publish(f"task:{task}:status", text)
    redis.hset(f"task:{task}", "data", text)


def await_task(url: str, task: str, status: str) -> None:
    """Wait until a task has a status in the store."""

    def has() -> bool:
        found = read_archive(url).tasks.get(task)
        return found is not None and found.status == status

    wait_until(has, f"{task} is {status}")


def bridges(node: Node) -> None:
    """Wait until a node bridges."""
    wait_until(lambda: node.metric("bridge_active") == 1, "it bridges")


def test_a_task_as_an_engine_tells_it(make_node: NodeMaker, redis: RedisServer, database_url: str) -> None:
    """A chat's task and a gateway's, told by all that their systems publish, is folded whole and once."""
    node = make_node("node")
    node.start()
    bridges(node)
    with redis.client() as engine:
        delivery = {"webhook_event_id": "evt-1"}
        write(engine, "webhook:received", {"source": "github", "event_type": "issues"}, **delivery)
        write(engine, "webhook:validated", {"source": "github", "signature_valid": True}, **delivery)
        write(engine, "webhook:payload", {"source": "github", "payload": {"action": "opened"}}, **delivery)
        write(engine, "webhook:matched", {"source": "github", "matched_handler": "fix"}, **delivery)
        made = {"task_id": "t1", "source": "github", "event_type": "issues", "input_message": "fix it"}
        write(engine, "webhook:task_created", made, **delivery)
        write(engine, "response:immediate", {"task_id": "t1", "source": "github"}, **delivery)
        write(engine, "notification:ops", {"task_id": "t1", "channel": "#ops"}, **delivery)
        write(engine, "webhook:skipped", {"source": "github", "reason": "bot"}, webhook_event_id="evt-2")
        described = {"session_id": "s1", "input_message": "fix it", "assigned_agent": "brain"}
        write(engine, "task:created", described, task_id="t1")
        say(engine, "t1", status="in_progress")
        write(engine, "task:started", {**described, "conversation_id": "c1"}, task_id="t1")
        write(engine, "task:context_built", {"enriched_prompt": "p", "flow_id": "github:a/b#1"}, task_id="t1")
        write(engine, "task:thinking", {"type": "thinking", "content": "hm"}, task_id="t1")
        write(engine, "task:tool_call", {"name": "Bash", "input": {"command": "ls"}}, task_id="t1")
        write(engine, "knowledge:query", {"tool_name": "search", "query": "q"}, task_id="t1")
        write(engine, "knowledge:result", {"tool_name": "search", "results_count": 3}, task_id="t1")
        write(engine, "task:tool_result", {"name": "Bash", "content": "x", "is_error": False}, task_id="t1")
        write(engine, "task:raw_output", {"raw_output": "x" * 200_000}, task_id="t1")
        write(engine, "task:output", {"content": "the answer"}, task_id="t1")
        said = {"output": "the answer", "cost_usd": 0.25, "success": True, "error": None, "tool_events": []}
        say(engine, "t1", status="completed", result=said)
        ended = {"status": "completed", "result": "the answer", "duration_seconds": 2, "input_tokens": 5}
        write(engine, "task:completed", {**ended, "session_id": "s1", "conversation_id": "c1"}, task_id="t1")
        write(engine, "task:response_posted", {"method": "mcp", "source": "github"}, task_id="t1")
        engine.set("task:t1:output", "the answer", ex=3600)
        engine.publish("cli:status", orjson.dumps({"step": "ready", "status": "healthy", "version": "2"}))
        say(engine, "t2", status="failed", result={"error": "boom"})
        write(engine, "task:failed", {"error": "boom"}, task_id="t2")
        write(engine, "task:output", {"content": "late"}, task_id="t2")
    await_topic(database_url, "task.output", 2)
    await_topic(database_url, "cli.status", 1)
    archived = read_archive(database_url)
    first, second = archived.tasks["t1"], archived.tasks["t2"]
    assert (first.status, first.agent, first.session_id, first.conversation_id, first.input) == (
        "completed",
        "brain",
        "s1",
        "c1",
        "fix it",
    )
    assert (first.cost_nanos, first.input_tokens, first.output_lines) == (250_000_000, 5, 1)
    assert first.result is not None
    assert first.result.items() >= {"stdout": "the answer", "duration_seconds": 2, "success": True}.items()
    assert (second.status, second.error) == ("failed", "boom")
    topics = Counter((event.channel, event.topic) for event in archived.events)
    on_webhooks = ["received", "validated", "payload", "matched", "task_created", "skipped"]
    others = ["response.immediate", "notification.ops", "knowledge.query", "knowledge.result"]
    expected = [("webhooks", topic) for topic in [*(f"webhook.{stage}" for stage in on_webhooks), *others]]
    expected += [("task:t1", topic) for topic in ["webhook.task_created", *others]]
    expected += [
        ("task:t1", f"task.{topic}")
        for topic in (
            *("context_built", "thinking", "tool_call", "tool_result", "raw_output"),
            *("output", "response_posted"),
        )
    ]
    assert {one: topics[one] for one in expected} == dict.fromkeys(expected, 1)
    stages = [event for event in archived.events if event.correlation_id == "evt-1"]
    assert [event.topic for event in stages if event.channel == "webhooks"][:5] == [
        f"webhook.{stage}" for stage in on_webhooks[:5]
    ]
    [cli] = [event for event in archived.events if event.channel == "status"]
    assert (cli.topic, cli.payload["active"]) == ("cli.status", True)
    check_archive(database_url, ["the answer", "late"])


def test_an_outcome_with_odd_values_arrives(
    make_node: NodeMaker, redis: RedisServer, database_url: str
) -> None:
    """Half an emoji, NUL, a cost that is none: each costs itself, and the task ends."""
    node = make_node("node")
    node.start()
    bridges(node)
    with redis.client() as agent:
        agent.publish("task:cut", b'{"type": "task_status", "task_id": "cut", "status": "running"}')
        agent.publish("task:cut", b'{"type": "task_output", "task_id": "cut", "output": "\\u0000working"}')
        agent.publish(
            "task:cut",
            b'{"type": "task_status", "task_id": "cut", "status": "completed",'
            b' "result": {"stdout": "done \\ud83d", "cost_usd": "cheap", "output_tokens": 3}}',
        )
        agent.publish("task:", b"{}")
    await_task(database_url, "cut", "completed")
    task = read_archive(database_url).tasks["cut"]
    assert task.result is not None
    assert (task.result["stdout"], task.output_tokens, task.cost_nanos) == ("done \ufffd", 3, None)
    assert task.result["left_out"] == [f"payload.result.cost_usd: must be a number from 0 to {MAX_COST_USD}"]
    assert read_archive(database_url).outputs() == ["␀working"]
    wait_until(lambda: node.metric("bridge_refused_total") == 1, "what names no task is counted")


async def test_the_stream_is_read_whole_whoever_was_away(
    make_node: NodeMaker, redis: RedisServer, database_url: str
) -> None:
    """Entries from before, from while nodes are killed and from while none runs: each becomes one event."""
    nodes = [make_node("a"), make_node("b")]
    written = itertools.count()

    def write_some(number: int) -> None:
        with redis.client() as engine:
            for _ in range(number):
                n = next(written)
                write(engine, "task:output", {"content": str(n)}, task_id=f"t{n % 3}")

    await trio.to_thread.run_sync(write_some, 700)
    for node in nodes:
        await node.begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, write_some, 1500)
        for turn in range(4):
            node = nodes[turn % 2]
            await trio.to_thread.run_sync(await_topic, database_url, "task.output", 300 * (turn + 1))
            node.kill()
            await node.begin()
    for node in nodes:
        node.kill()
    await trio.to_thread.run_sync(write_some, 200)
    await nodes[0].begin()
    await trio.to_thread.run_sync(await_topic, database_url, "task.output", 2400)
    await trio.to_thread.run_sync(check_archive, database_url, [str(n) for n in range(2400)])
    with redis.client() as engine:
        assert engine.xlen(STREAM) == 2400
        assert not engine.xinfo_groups(STREAM)
