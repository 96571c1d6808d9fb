"""The store over any SQL database: the questions of ``queries``, asked in worker threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from heliograph.model.channels import Selection
from heliograph.model.event import Event
from heliograph.model.ids import EventId
from heliograph.model.task import Task
from heliograph.storage.protocols import LogLine, NewestTask, RollupSnapshot, TaskBefore, TaskFilter, TaskKey
from heliograph.storage.sql import fold, queries, rollups
from heliograph.storage.sql.database import Database


class SqlStore:
    """Answers questions about tasks and events; implements ``protocols.Store``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def tasks(
        self, wanted: TaskFilter, after: TaskKey | None, limit: int
    ) -> tuple[Sequence[Task], bool]:
        """List tasks, newest first; tell whether there are more."""
        return await self._database.read(queries.list_tasks, wanted, after, limit)

    async def task(self, task_id: str) -> Task | None:
        """Return one task."""
        return await self._database.read(queries.get_task, task_id)

    async def task_counts(self) -> dict[str, int]:
        """Count the tasks of each status."""
        return await self._database.read(queries.count_tasks)

    async def newest_tasks(self, agents: Sequence[str]) -> Mapping[str, NewestTask]:
        """Return what the newest task of each agent tells."""
        return await self._database.read(queries.newest_tasks, agents)

    async def lines(
        self, task_id: str, first_seq: int, last_seq: int | None, limit: int, *, newest: bool = False
    ) -> tuple[Sequence[LogLine], bool]:
        """Read lines of output in a range of ``seq``; tell whether it has more."""
        return await self._database.read(queries.read_lines, task_id, first_seq, last_seq, limit, newest)

    async def events(
        self,
        selection: Selection,
        before: EventId | None,
        limit: int,
        *,
        after: EventId | None = None,
        sender: str | None = None,
        correlation_id: str | None = None,
    ) -> tuple[Sequence[Event], bool]:
        """List events, newest first; tell whether there are more."""
        found, more = await self._database.read(
            queries.read_events,
            selection,
            limit + 1,
            after=after,
            before=before,
            newest=True,
            sender=sender,
            correlation_id=correlation_id,
        )
        return found[:limit], more

    async def checkpoint(self) -> EventId:
        """Return the id of the last folded event."""
        return await self._database.read(fold.read_checkpoint)

    async def rollup_snapshot(self) -> RollupSnapshot:
        """Read the rollups, and what is needed to go on from them."""
        return await self._database.read_long(rollups.read_snapshot)

    async def tasks_before(self, wanted: Mapping[str, EventId]) -> Mapping[str, TaskBefore]:
        """Return what finished tasks were before an event of theirs, given by id of the task."""
        return await self._database.read(rollups.tasks_before, wanted)
