"""The monitor: the state of this node and its machine, at most a second old.

All requests within the same second get the same answer, so a hundred polling dashboards cost one look. A look
at the machine and at the parts that the service needs takes a moment, and up to three seconds while a part is
silent; the request that caused it waits for it, as do further ones meanwhile. The monitor looks by itself as
well, now and then, so that the time from which a part is up or down is not that of the first question.

While the channel ``status`` has watchers, the state is also published there every few seconds. Without
watchers it is not published, so that the log keeps no events that are never read.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import attrs
import orjson
import psutil
import structlog
import trio

from heliograph.model.channels import MACHINE_STATUS, STATUS
from heliograph.model.durations import Durations
from heliograph.model.errors import HeliographError
from heliograph.model.event import Draft, kept_json

FRESH_SECONDS = 1.0
TELL_SECONDS = 5.0
LOOK_SECONDS = 10.0
RATE_SECONDS = 10
"""The number of seconds over which the rate of events is measured."""

log = structlog.get_logger(__name__)


@attrs.frozen
class Part:
    """A part that the service needs.

    Args:
        state: Whether it answers as it should.
        since: The time from which the node has found it so; it looks every ten seconds at least.
        latency_ms: The time that the answer took; ``None`` for a part in this process.
        error: The fault, if there is one.
    """

    state: Literal["ok", "down"]
    since: datetime
    latency_ms: float | None
    error: str | None


@attrs.frozen
class MachineState:
    """The machine of this node.

    Args:
        cpu_percent: The use of all its processors since the previous look.
        load_average: The averages over 1, 5 and 15 minutes.
        disk_total_bytes: The size of the disk that holds the data of this node.
    """

    cpu_percent: float
    cpu_count: int | None
    load_average: Sequence[float]
    memory_total_bytes: int
    memory_available_bytes: int
    memory_percent: float
    process_memory_bytes: int
    disk_total_bytes: int
    disk_free_bytes: int
    disk_percent: float


@attrs.frozen
class ProcessStats:
    """The process of this node."""

    memory_bytes: int
    cpu_seconds: float
    open_files: int


@attrs.frozen
class NodeState:
    """The state of this node.

    Args:
        at: The time of the look.
        machine: The node's machine.
        parts: The parts that the node needs, by name.
        events_per_second: The rate at which its hub has lately carried events.
    """

    at: datetime
    machine: MachineState
    parts: Mapping[str, Part]
    events_per_second: float


class Monitor:
    """Observes one node.

    Args:
        node: The name of the node.
        folder: A folder on the disk whose size and free space are reported.
        check: Returns each part's problem, ``None`` if it has none.
        latencies: The time that each part took to answer ``check``, in milliseconds.
        carried: Returns the number of events that the hub has dispatched.
        watched: Tells whether a channel has watchers.
        append: Appends drafts to the log.

    Attributes:
        delays: By how much this actor was woken too late, each second, as any other waiting task would be.
    """

    def __init__(
        self,
        node: str,
        folder: Path,
        check: Callable[[], Awaitable[Mapping[str, str | None]]],
        latencies: Mapping[str, float],
        carried: Callable[[], int],
        watched: Callable[[str], bool],
        append: Callable[[Sequence[Draft]], Awaitable[object]],
    ) -> None:
        self.node = node
        self._folder = folder
        self._check = check
        self._latencies = latencies
        self._carried = carried
        self._watched = watched
        self._append = append
        self._looking = trio.Lock()
        self._state: NodeState | None = None
        self._looked_at = -FRESH_SECONDS
        self._counts: deque[tuple[float, int]] = deque(maxlen=RATE_SECONDS + 1)
        self._parts: dict[str, Part] = {}
        self._process = psutil.Process()
        self.delays = Durations()

    async def run(self) -> None:
        """Count events each second, look now and then, and publish the state while it is watched."""
        psutil.cpu_percent()  # the first call has nothing to compare with
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_looking)
            await self._keep_counting()

    async def _keep_looking(self) -> None:
        while True:
            await self.state()
            await trio.sleep(LOOK_SECONDS)

    async def _keep_counting(self) -> None:
        told_at = -TELL_SECONDS
        while True:
            self._counts.append((trio.current_time(), self._carried()))
            if self._watched(STATUS) and trio.current_time() >= told_at + TELL_SECONDS:
                told_at = trio.current_time()
                await self._publish_state()
            due = trio.current_time() + 1
            await trio.sleep_until(due)
            self.delays.add(max(0.0, trio.current_time() - due))

    def process_stats(self) -> ProcessStats:
        """Return the state of this process."""
        with self._process.oneshot():
            times = self._process.cpu_times()
            memory = self._process.memory_info().rss
        return ProcessStats(memory, times.user + times.system, self._process.num_fds())

    async def state(self) -> NodeState:
        """Return the state of the node, at most a second old."""
        async with self._looking:
            if self._state is None or trio.current_time() >= self._looked_at + FRESH_SECONDS:
                machine = await trio.to_thread.run_sync(self._look)
                self._note(await self._check())
                self._state = NodeState(datetime.now(UTC), machine, dict(self._parts), self._rate())
                self._looked_at = trio.current_time()
            return self._state

    def _look(self) -> MachineState:
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(_there(self._folder)))
        return MachineState(
            cpu_percent=psutil.cpu_percent(),
            cpu_count=os.cpu_count(),
            load_average=os.getloadavg(),
            memory_total_bytes=memory.total,
            memory_available_bytes=memory.available,
            memory_percent=memory.percent,
            process_memory_bytes=self._process.memory_info().rss,
            disk_total_bytes=disk.total,
            disk_free_bytes=disk.free,
            disk_percent=disk.percent,
        )

    def _note(self, problems: Mapping[str, str | None]) -> None:
        """Update the parts by their problems; a part's ``since`` changes with its state."""
        now = datetime.now(UTC)
        for name, problem in problems.items():
            state: Literal["ok", "down"] = "ok" if problem is None else "down"
            before = self._parts.get(name)
            since = before.since if before is not None and before.state == state else now
            latency = self._latencies.get(name)
            self._parts[name] = Part(state, since, None if latency is None else round(latency, 2), problem)

    def _rate(self) -> float:
        if len(self._counts) < 2:
            return 0.0
        (first_at, first), (last_at, last) = self._counts[0], self._counts[-1]
        return round((last - first) / max(last_at - first_at, 0.001), 2)

    async def _publish_state(self) -> None:
        state = await self.state()
        payload: dict[str, Any] = {"node": self.node, **attrs.asdict(state)}
        body = kept_json(payload)
        try:
            await self._append([Draft(STATUS, MACHINE_STATUS, orjson.loads(body), body, sender=self.node)])
        except HeliographError as error:
            log.info("status not published", reason=str(error))


def _there(folder: Path) -> Path:
    """Return a folder, or its nearest parent that exists."""
    return next((one for one in (folder, *folder.absolute().parents) if one.exists()), Path("/"))
