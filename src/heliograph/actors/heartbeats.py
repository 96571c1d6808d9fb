"""The heartbeats: publishes which tasks are lost, and which have come back.

A task that has announced a heartbeat (``task.created`` with ``heartbeat_seconds``) is lost after a silence of
``least_seconds`` and of three heartbeats: its machine is gone, or the network to it. The loss is an event on
the task's channel, so it is watched and folded like any other. When a lost task publishes again without a
status of its own, another event says that it runs.

One node at a time looks. Both events are appended only if the task's channel has no other event since it was
read (``Draft.follows``). So neither is published twice, even if a node is killed on the way, and neither is
published of a task that has just spoken.

Silence that is not the task's own fault does not count. It counts from when this node began to look, and anew
after an outage of log or store and after this process was stopped for a while. While the clock can't be
believed no task is lost. Where the store is behind the log, silence is measured up to the store's checkpoint.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import attrs
import structlog
import trio

from heliograph.actors.clock import Clock
from heliograph.actors.turns import Turns
from heliograph.model.channels import Selection
from heliograph.model.errors import Overtaken, Unavailable
from heliograph.model.event import Draft
from heliograph.model.ids import EventId, make_id, to_microseconds
from heliograph.model.task import LOST, TASK, Silence, Task, TaskFilter
from heliograph.storage.protocols import Log, Receipt, Store, Turn

LOOK_SECONDS = 1.0
PAUSE_SECONDS = 10.0
"""The longest time between two looks; after a longer one the process was stopped or overloaded."""

TASKS = 200
"""The most tasks that are handled in one look."""

TRIES = 20
"""The most tries to append behind a task's last event before the next one comes."""

PAGE = 500
FAREWELL_SECONDS = 1.0
SENDER = "heliograph"

Append = Callable[[Sequence[Draft]], Awaitable[Receipt]]
Checks = Callable[[], Awaitable[Mapping[str, str | None]]]

log = structlog.get_logger(__name__)


@attrs.frozen
class HeartbeatStats:
    """Counters since the start: tasks that this node has published as lost, and as back."""

    lost: int
    back: int


class Heartbeats:
    """One node's look at the tasks' heartbeats.

    Args:
        log: The log, read for a task's last events.
        store: The store of tasks.
        append: Appends drafts to the log.
        turn: This node's side of the lease.
        clock: Gives the time.
        checks: Returns the problems of log and store.
        least_seconds: The shortest silence of a lost task; 0: no task becomes lost.
    """

    def __init__(
        self,
        log: Log,
        store: Store,
        append: Append,
        turn: Turn,
        clock: Clock,
        checks: Checks,
        least_seconds: float,
    ) -> None:
        self._log, self._store, self._append = log, store, append
        self._turn, self._turns = turn, Turns("looking after heartbeats")
        self._clock, self._checks = clock, checks
        self._least_ms = round(least_seconds * 1000)
        self._since = self._looked = EventId(0)
        self._lost = self._back = 0

    def stats(self) -> HeartbeatStats:
        """Return a snapshot of the counters."""
        return HeartbeatStats(self._lost, self._back)

    async def run(self) -> None:
        """Look whenever it is this node's turn, until cancelled."""
        await self._turns.take(self._turn.begin, self._serve, self._end)

    async def _end(self) -> None:
        with trio.move_on_after(FAREWELL_SECONDS, shield=True), suppress(Unavailable):
            await self._turn.end()

    async def _serve(self) -> None:
        self._turns.started()
        self._since = self._looked = self._now()
        while True:
            await self._turn.hold()
            await self._look()
            await trio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        """Look through the tasks once."""
        now = self._now()
        paused = not 0 <= now - self._looked <= make_id(round(PAUSE_SECONDS * 1000))
        self._looked = now
        if self._clock.problem() is not None or paused or any((await self._checks()).values()):
            self._since = now
            return
        for task in await self._find(TaskFilter(heard_since_lost=True)):
            await self._welcome(task)
        if not self._least_ms:
            return
        # In this order: events that are appended after ``position`` was read are newer than ``now``.
        position = self._log.position
        folded = await self._store.checkpoint()
        silence = Silence(self._since, now if folded >= position else min(now, folded), self._least_ms)
        for task in await self._find(TaskFilter(overdue=silence)):
            await self._turn.hold()
            await self._lose(task, silence)

    async def _find(self, wanted: TaskFilter) -> Sequence[Task]:
        found, _ = await self._store.list(TASK, wanted, None, TASKS)
        return found

    async def _lose(self, task: Task, silence: Silence) -> None:
        assert task.heartbeat_ms is not None
        silent = (silence.until - task.last_event_id) // make_id(1000)
        reason = f"no heartbeat for {silent} s; it was to be heard every {task.heartbeat_ms / 1000:g} s"
        if await self._say(task, task.last_seq, LOST, result={"error": reason}):
            self._lost += 1
            log.warning("task lost", task=task.task_id, reason=reason)

    async def _welcome(self, task: Task) -> None:
        """Publish that a lost task runs, unless it has published a status itself."""
        seq, after = task.last_seq, task.last_event_id
        channel = Selection.of([f"task:{task.task_id}"])
        for _ in range(TRIES):
            page = await self._log.read(channel, after, PAGE)
            after = page.through
            for event in page.events:
                if event.topic == "task.status":
                    return
                seq = event.seq
            if page.more:
                continue
            if await self._say(task, seq, "running"):
                self._back += 1
                log.info("task back", task=task.task_id)
                return

    async def _say(self, task: Task, follows: int, status: str, **more: Any) -> bool:
        """Append a status if the task's last ``seq`` is ``follows``; tell whether it was appended."""
        payload = {"task_id": task.task_id, "status": status, **more}
        draft = Draft.own(f"task:{task.task_id}", "task.status", payload, sender=SENDER, follows=follows)
        try:
            await self._append([draft])
        except Overtaken:
            return False
        return True

    def _now(self) -> EventId:
        return make_id(to_microseconds(self._clock.now()) // 1000)
