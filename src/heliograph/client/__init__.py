"""The Python client: publish, ask, and follow what happens.

    async with Client("http://127.0.0.1:5000") as client:
        await client.publish([{"type": "task_output", "task_id": "t1", "output": "hello"}])
        async with follow(client, Following("task:t1", after="0-0")) as items:
            async for item in items:
                print(item)

``Client`` runs under Trio and asyncio, ``follow`` under Trio; ``heliograph`` itself offers the names for
agents' programs, in plain code too. A name is imported when it is first used: a program that only publishes
never imports the code that follows. Failures are errors of ``heliograph.model.errors``. Running programs as
tasks (``exec``), the demo fleet and the load engine are packages of their own below this one.
"""

from typing import TYPE_CHECKING

from heliograph.client.lazily import homes

if TYPE_CHECKING:
    from heliograph.client.answers import Accepted, EventPage, OutputLine, TaskPage, TaskState
    from heliograph.client.api import Client
    from heliograph.client.follower import follow
    from heliograph.client.following import Following, Gap, Item, Reset
    from heliograph.client.publish import publish_items, publish_stream

__all__ = [
    "Accepted",
    "Client",
    "EventPage",
    "Following",
    "Gap",
    "Item",
    "OutputLine",
    "Reset",
    "TaskPage",
    "TaskState",
    "follow",
    "publish_items",
    "publish_stream",
]

__getattr__ = homes(
    __name__,
    {
        **dict.fromkeys(
            ("Accepted", "EventPage", "OutputLine", "TaskPage", "TaskState"), "heliograph.client.answers"
        ),
        "Client": "heliograph.client.api",
        "follow": "heliograph.client.follower",
        **dict.fromkeys(("Following", "Gap", "Item", "Reset"), "heliograph.client.following"),
        **dict.fromkeys(("publish_items", "publish_stream"), "heliograph.client.publish"),
    },
)
