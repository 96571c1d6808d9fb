"""Heliograph: the live backend of dashboards for AI-agent fleets, and the client of agents' programs.

    import heliograph

    with heliograph.task("summarise", agent="writer") as task:
        task.print("reading")

Names are imported when they are first used, and the service's modules never. Publishing needs attrs and
orjson in the program's own threads; asking and following also need httpx.
"""

from typing import TYPE_CHECKING

from heliograph.client.lazily import homes

if TYPE_CHECKING:
    from heliograph.client.agent.configure import configure
    from heliograph.client.agent.courier import close, flush
    from heliograph.client.agent.logs import LoggingHandler, StructlogProcessor
    from heliograph.client.agent.run import Run, Step, run
    from heliograph.client.agent.task import AsyncTask, Task, current_task, task
    from heliograph.client.answers import Accepted, EventPage, OutputLine, TaskPage, TaskState
    from heliograph.client.api import Client as AsyncClient
    from heliograph.client.following import Gap, Item, Reset
    from heliograph.client.plain import Client
    from heliograph.client.streams import EventStream, follow
    from heliograph.model.errors import ClientFault, HeliographError, Unavailable
    from heliograph.model.event import Event

__version__ = "0.1.0"

__all__ = [
    "Accepted",
    "AsyncClient",
    "AsyncTask",
    "Client",
    "ClientFault",
    "Event",
    "EventPage",
    "EventStream",
    "Gap",
    "HeliographError",
    "Item",
    "LoggingHandler",
    "OutputLine",
    "Reset",
    "Run",
    "Step",
    "StructlogProcessor",
    "Task",
    "TaskPage",
    "TaskState",
    "Unavailable",
    "close",
    "configure",
    "current_task",
    "flush",
    "follow",
    "run",
    "task",
]

__getattr__ = homes(
    __name__,
    {
        "configure": "heliograph.client.agent.configure",
        **dict.fromkeys(("close", "flush"), "heliograph.client.agent.courier"),
        **dict.fromkeys(("LoggingHandler", "StructlogProcessor"), "heliograph.client.agent.logs"),
        **dict.fromkeys(("Run", "Step", "run"), "heliograph.client.agent.run"),
        **dict.fromkeys(("AsyncTask", "Task", "current_task", "task"), "heliograph.client.agent.task"),
        **dict.fromkeys(
            ("Accepted", "EventPage", "OutputLine", "TaskPage", "TaskState"), "heliograph.client.answers"
        ),
        "AsyncClient": ("heliograph.client.api", "Client"),
        **dict.fromkeys(("Gap", "Item", "Reset"), "heliograph.client.following"),
        "Client": "heliograph.client.plain",
        **dict.fromkeys(("EventStream", "follow"), "heliograph.client.streams"),
        **dict.fromkeys(("ClientFault", "HeliographError", "Unavailable"), "heliograph.model.errors"),
        "Event": "heliograph.model.event",
    },
)
