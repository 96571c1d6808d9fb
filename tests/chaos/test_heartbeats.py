"""The node that was about to tell that a task is lost is killed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from tests.polling import until

if TYPE_CHECKING:
    from tests.chaos.conftest import NodeMaker
    from tests.deployment import Node

SETTINGS = "[tasks]\nlost_after_seconds = 2\n"


def _looks(node: Node) -> bool:
    return "looking after heartbeats" in node.output.read_text()


async def test_another_node_tells_once_that_a_task_is_lost(make_node: NodeMaker) -> None:
    """Whichever node dies in the middle of the silence, the other one tells it, and none tells it again."""
    nodes = [make_node(name, settings=SETTINGS) for name in ("one", "two")]
    for node in nodes:
        await node.begin()

    async def someone_looks() -> bool:
        return any(map(_looks, nodes))

    await until(someone_looks)
    first, second = nodes if _looks(nodes[0]) else nodes[::-1]

    async def ask(path: str) -> Any:
        return (await trio.to_thread.run_sync(second.ask, path))[1]

    begun = [
        {"topic": "task.created", "payload": {"task_id": "t", "heartbeat_seconds": 0.1}},
        {"topic": "task.status", "payload": {"task_id": "t", "status": "running"}},
    ]
    assert second.publish(*begun).status_code == 201
    first.kill()

    async def is_lost() -> bool:
        return bool((await ask("/api/v1/tasks/t")).get("status") == "lost")

    await until(is_lost)
    await first.begin()

    async def both_know() -> bool:
        return all([bool(await trio.to_thread.run_sync(node.ask, "/api/v1/tasks/t")) for node in nodes])

    await until(both_know)
    events = (await ask("/api/v1/events?channel=task:t&topic=task.status"))["events"]
    assert [event["payload"]["status"] for event in events] == ["lost", "running"]
    assert second.metric("lost_tasks_total") == 1
