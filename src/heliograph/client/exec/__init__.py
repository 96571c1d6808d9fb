"""Run a program as a task.

Names are imported when they are first used: an agent's own program needs only the line assembler.
"""

from typing import TYPE_CHECKING

from heliograph.client.lazily import homes

if TYPE_CHECKING:
    from heliograph.client.exec.command import CommandOutcome, Execution
    from heliograph.client.exec.job import Job, new_task_id, visible
    from heliograph.client.exec.lines import LineAssembler, Piece
    from heliograph.client.exec.run import Service, execute

__all__ = [
    "CommandOutcome",
    "Execution",
    "Job",
    "LineAssembler",
    "Piece",
    "Service",
    "execute",
    "new_task_id",
    "visible",
]

__getattr__ = homes(
    __name__,
    {
        **dict.fromkeys(("CommandOutcome", "Execution"), "heliograph.client.exec.command"),
        **dict.fromkeys(("Job", "new_task_id", "visible"), "heliograph.client.exec.job"),
        **dict.fromkeys(("LineAssembler", "Piece"), "heliograph.client.exec.lines"),
        **dict.fromkeys(("Service", "execute"), "heliograph.client.exec.run"),
    },
)
