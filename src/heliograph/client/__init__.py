"""The Python client: publish, ask, and follow what happens.

    async with Client("http://127.0.0.1:5000") as client:
        await client.publish([{"type": "task_output", "task_id": "t1", "output": "hello"}])
        async with follow(client, Following("task:t1", after="0-0")) as items:
            async for item in items:
                print(item)

It runs under Trio. What goes wrong comes out as an error of ``heliograph.model.errors``. Running programs as
tasks (``exec``), the demo fleet and the load engine are packages of their own beneath this one.
"""

from heliograph.client.api import Accepted, Client, EventPage, OutputLine, TaskPage
from heliograph.client.follow import Following, Gap, Item, Reset, follow
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
    "follow",
    "publish_items",
    "publish_stream",
]
