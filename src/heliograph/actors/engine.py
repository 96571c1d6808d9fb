"""The engine: dispatches tasks to the program that runs them, over HTTP or by a list in Redis.

Dispatches stand in the log and are folded (``model.dispatch``), so they survive any crash. One node at a time
serves the open dispatches: it gives each task to the engine, and appends an event that it did. A crash in
between gives the task twice, under the same id; an engine that knows the id need not run it again, and of two
answers the first one counts. A task that ends settles its dispatch.

An engine can lose the tasks that it was given. So a task is given again, under its id, when the engine was
away and has come back, when its health names another ``instance`` than before, and when the task has been
silent for ``patience_seconds``. After ``attempts`` the task fails.

**The circuit breaker.** After some failures in a row the engine gets no more tasks; only its health is
checked, with growing delays. Open dispatches wait, durable, and go out when the engine answers again.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, Protocol

import attrs
import httpx
import orjson
import structlog
import trio

from heliograph.actors.retry import until_it_works
from heliograph.actors.turns import Turns
from heliograph.model.backoff import Backoff
from heliograph.model.dispatch import DISPATCH, SENT, SETTLED, Dispatch, DispatchFilter
from heliograph.model.errors import Conflict, Unavailable
from heliograph.model.event import Draft
from heliograph.model.intake import parse_item
from heliograph.model.task import LOST, TASK, Task
from heliograph.storage.protocols import Queue, Receipt, Store, Turn

POLL_SECONDS = 0.25
"""Seconds between two looks at the open dispatches."""

IDLE_SECONDS = 2.0
"""Seconds between two looks while no dispatch is open; ``wake`` ends the wait."""

PROBE_SECONDS = 2.0
"""Seconds between two checks of an engine that works."""

OPEN = 200
"""The most dispatches that are handled in one look."""

FAILURES = 3
"""Failures in a row that open the breaker."""

FAREWELL_SECONDS = 1.0

log = structlog.get_logger(__name__)

Form = Literal["http", "queue", "none"]
State = Literal["ok", "down", "unknown", "none"]
Append = Callable[[Sequence[Draft]], Awaitable[Receipt]]


@attrs.frozen
class EngineStats:
    """The state of the engine, as this node knows it.

    Args:
        form: ``queue``, ``http`` or ``none``.
        state: ``ok``, ``down``, ``unknown`` (it is not this node's turn), or ``none``.
        since: The time from which the state holds, in seconds since the epoch.
        latency_ms: The time that the engine's last answer took, in milliseconds.
        waiting: Open dispatches.
        dispatched: Tasks that this node gave to the engine.
        error: The fault, ``None`` if there is none.
    """

    form: Form
    state: State
    since: float
    latency_ms: float | None
    waiting: int
    dispatched: int
    error: str | None


class Link(Protocol):
    """The connection to an engine."""

    form: Form

    async def give(self, dispatch: Dispatch) -> str | None:
        """Give the engine a task; return the engine's own id of the task, if it has one.

        Raises:
            Unavailable: The engine can't take the task now.
        """
        ...

    async def probe(self) -> str | None:
        """Check the engine's health; return its ``instance``, if it names one.

        Raises:
            Unavailable: The engine is not well.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class QueueLink:
    """An engine that takes tasks from a list in Redis.

    Args:
        queue: The lists in Redis.
        name: The name of the list.
    """

    form: Form = "queue"

    def __init__(self, queue: Queue, name: str) -> None:
        self._queue, self._name = queue, name

    async def give(self, dispatch: Dispatch) -> str | None:
        """Put a task on the list."""
        await self._queue.push(self._name, orjson.dumps(dispatch.request))
        return None

    async def probe(self) -> str | None:
        """Check that Redis answers; the list tells nothing of the engine itself."""
        await self._queue.length(self._name)
        return None

    async def close(self) -> None:
        """Do nothing: the connections are Redis's."""


class HttpLink:
    """An engine that takes tasks over HTTP.

    Args:
        url: The engine's URL.
        seconds: The time in which it must answer.
    """

    form: Form = "http"

    def __init__(self, url: str, seconds: float) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=seconds)

    async def give(self, dispatch: Dispatch) -> str | None:
        """Post a task."""
        said = await self._ask("POST", "/tasks", dispatch)
        name = said.get("task_id") if isinstance(said, dict) else None
        return name if isinstance(name, str) and name != dispatch.task_id else None

    async def probe(self) -> str | None:
        """Request the engine's health."""
        said = await self._ask("GET", "/health")
        return str(said["instance"]) if isinstance(said, dict) and "instance" in said else None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _ask(self, method: str, path: str, dispatch: Dispatch | None = None) -> Any:
        more: dict[str, Any] = {}
        if dispatch is not None:
            more = {"json": dispatch.request, "headers": {"Idempotency-Key": dispatch.task_id}}
        try:
            answer = await self._client.request(method, path, **more)
        except httpx.HTTPError as error:
            raise Unavailable(f"the engine is away: {str(error) or type(error).__name__}") from error
        if not answer.is_success:
            raise Unavailable(f"the engine answered {answer.status_code}")
        with suppress(ValueError):
            return answer.json()


class Engine:
    """One node's side of the engine.

    Args:
        link: The connection to the engine; ``None``: there is no engine, and nothing is dispatched.
        turn: This node's side of the lease on open dispatches.
        store: The store of dispatches and tasks.
        append: Appends drafts to the log.
        max_bytes: Limit of one event's payload.
        patience_seconds: The silence after which a task is given again.
        attempts: The most times that a task is given to the engine.
    """

    def __init__(
        self,
        link: Link | None,
        turn: Turn,
        store: Store,
        append: Append,
        *,
        max_bytes: int,
        patience_seconds: float = 600.0,
        attempts: int = 5,
    ) -> None:
        self._link = link
        self._turn = turn
        self._store = store
        self._append = append
        self._max_bytes = max_bytes
        self._patience, self._attempts = patience_seconds, attempts
        self._turns = Turns("dispatching")
        self._wake = trio.Event()
        self._aliases: dict[str, str] = {}
        self._failures = 0
        self._backoff = Backoff(1.0, 30.0)
        self._state: State = "unknown" if link else "none"
        self._since = time.time()
        self._latency: float | None = None
        self._error: str | None = None
        self._ask_at = -1.0
        self._instance: str | None = None
        self._again: set[str] = set()
        self._waiting = self._dispatched = 0

    @property
    def configured(self) -> bool:
        """Whether there is an engine."""
        return self._link is not None

    def stats(self) -> EngineStats:
        """Return a snapshot."""
        form: Form = "none" if self._link is None else self._link.form
        return EngineStats(
            form, self._state, self._since, self._latency, self._waiting, self._dispatched, self._error
        )

    def wake(self) -> None:
        """Look for a new dispatch at once; otherwise it is found a moment later."""
        self._wake.set()

    async def our_name(self, task_id: str) -> str:
        """Return our id of the task that the engine calls ``task_id``; most engines keep our id."""
        if self._link is None or self._link.form == "queue":
            return task_id
        if task_id in self._aliases:
            return self._aliases[task_id]
        found, _ = await self._store.list(DISPATCH, DispatchFilter(alias=task_id), None, 1)
        return found[0].task_id if found else task_id

    async def run(self) -> None:
        """Dispatch whenever it is this node's turn, until cancelled."""
        if self._link is None:
            return
        try:
            await self._turns.take(self._turn.begin, self._serve, self._end)
        finally:
            with trio.move_on_after(FAREWELL_SECONDS, shield=True):
                await self._link.close()

    async def _end(self) -> None:
        self._become("unknown", None)
        with trio.move_on_after(FAREWELL_SECONDS, shield=True):
            with suppress(Unavailable):
                await self._turn.end()

    async def _serve(self) -> None:
        self._turns.started()
        while True:
            await self._turn.hold()
            found, _ = await self._store.list(DISPATCH, DispatchFilter(open=True), None, OPEN)
            self._waiting = len(found)
            await self._look_at_engine(bool(found))
            if self._state == "down":  # ignore ``wake``, which is of no use until it is back
                await trio.sleep(POLL_SECONDS)
                continue
            tasks = await self._store.newest(TASK, "task_id", [dispatch.task_id for dispatch in found])
            for dispatch in found:
                await self._turn.hold()
                await self._attend(dispatch, tasks.get(dispatch.task_id))
            self._wake = trio.Event()
            with trio.move_on_after(POLL_SECONDS if found else IDLE_SECONDS):
                await self._wake.wait()

    async def _attend(self, dispatch: Dispatch, task: Task | None) -> None:
        """Take the next step of a dispatch, given the current state of its task."""
        if task is not None and task.finished and task.status != LOST:
            self._again.discard(dispatch.task_id)
            await self._append_event(SETTLED, dispatch, "settled")
        elif dispatch.attempts == 0 or dispatch.task_id in self._again:
            await self._give(dispatch)
        elif dispatch.sent_at is not None:
            heard = max(dispatch.sent_at, task.updated_at if task is not None else dispatch.sent_at)
            if (datetime.now(UTC) - heard).total_seconds() > self._patience:
                await self._give(dispatch)

    async def _give(self, dispatch: Dispatch) -> None:
        if dispatch.attempts >= self._attempts:
            result = {"error": f"the engine did not answer in {dispatch.attempts} attempts"}
            await self._append_event("task.status", dispatch, "failed", status="failed", result=result)
            return
        if self._state == "down" or self._link is None:
            return
        try:
            alias = await self._timed(partial(self._link.give, dispatch))
        except Unavailable as error:
            self._failed(error)
            return
        self._again.discard(dispatch.task_id)
        self._dispatched += 1
        if alias is not None:
            self._aliases[alias] = dispatch.task_id
        attempt = dispatch.attempts + 1
        log.info("dispatched", task=dispatch.task_id, attempt=attempt)
        await self._append_event(SENT, dispatch, f"sent/{attempt}", attempt=attempt, alias=alias)

    async def _look_at_engine(self, working: bool) -> None:
        """Check the engine's health when that is due; if it was away, have its tasks given again."""
        assert self._link is not None
        if trio.current_time() < self._ask_at or not (working or self._state != "ok"):
            return
        was_down = self._state == "down"
        try:
            instance = await self._timed(self._link.probe)
        except Unavailable as error:
            self._failures = max(self._failures, FAILURES - 1)
            self._failed(error)
            return
        self._ask_at = trio.current_time() + PROBE_SECONDS
        restarted = self._instance not in {None, instance}
        self._instance = instance
        if restarted or (was_down and self._link.form == "http"):
            found, _ = await self._store.list(DISPATCH, DispatchFilter(open=True), None, OPEN)
            self._again |= {dispatch.task_id for dispatch in found if dispatch.attempts}

    async def _timed(self, call: Callable[[], Awaitable[Any]]) -> Any:
        begun = time.perf_counter()
        answer = await call()
        self._latency = round((time.perf_counter() - begun) * 1000, 1)
        self._failures = 0
        self._backoff.reset()
        self._become("ok", None)
        return answer

    def _failed(self, error: Unavailable) -> None:
        self._failures += 1
        if self._failures >= FAILURES:
            self._become("down", str(error))
            self._ask_at = trio.current_time() + self._backoff.next()

    def _become(self, state: State, error: str | None) -> None:
        if state != self._state:
            say = log.warning if state == "down" else log.info
            say("engine", state=state, reason=error)
            self._state, self._since = state, time.time()
        self._error = error

    async def _append_event(self, topic: str, dispatch: Dispatch, key: str, **said: Any) -> None:
        """Append an event of a dispatch; its key makes a retry harmless."""
        payload = {name: value for name, value in said.items() if value is not None}
        item = {"topic": topic, "payload": {"task_id": dispatch.task_id, **payload}}
        if topic != "task.status":
            item["channel"] = f"task:{dispatch.task_id}"
        draft = parse_item(item, self._max_bytes)._replace(key=f"heliograph/engine/{dispatch.task_id}/{key}")
        with suppress(Conflict):  # it is in the log already, with another alias, say
            await until_it_works(lambda: self._append([draft]), "telling of dispatches")
