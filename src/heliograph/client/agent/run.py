"""A run of a workflow, and its steps, as blocks of a program.

    with heliograph.run("nightly-report") as run:
        with run.step("fetch") as step:
            step.output({"rows": 1200})

The same blocks open with ``async with`` under asyncio and Trio. A run publishes ``run.started``,
``step.started``, ``step.completed``, ``step.failed`` and ``run.finished`` on the channel
``workflow:{workflow}``; its artifacts are stored beside the events. Steps may run concurrently, and a step
that begins again under its name is its next attempt. Tasks that begin within a run have the run's id in their
metadata.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self

from heliograph.client.agent import courier
from heliograph.client.agent.outcome import error_text, outcome
from heliograph.client.agent.payload import write_json
from heliograph.client.agent.record import Amount, RunningCost, publish_alone
from heliograph.client.paths import artifact_path
from heliograph.model.channels import NAME_HELP, is_name, is_topic

MAX_ARTIFACT_BYTES = 32 * 1024 * 1024
"""The most bytes of one artifact: the service's own limit by default."""

MAX_ARTIFACT_KEY = 200
_ARTIFACT_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:@+=~ -]*", re.ASCII)

_current: ContextVar[Run | None] = ContextVar("heliograph_run", default=None)


class Run(AbstractContextManager["Run"], AbstractAsyncContextManager["Run"]):
    """One run; made by ``run``."""

    def __init__(self, workflow: str, run_id: str, trigger: Mapping[str, Any]) -> None:
        self.workflow = workflow
        self.id = run_id
        self._trigger = trigger
        self._attempts: dict[str, int] = {}
        self._lock = threading.Lock()
        self._usage = RunningCost()
        self._result: Any = None
        self._begun = 0.0
        self._before: Run | None = None

    def step(self, name: str) -> Step:
        """Make a block of the program a step of the run.

        Args:
            name: Unique within the run; the same name again is the step's next attempt.
        """
        with self._lock:
            attempt = self._attempts[name] = self._attempts.get(name, 0) + 1
        return Step(self, name, attempt)

    def event(self, topic: str, payload: Mapping[str, Any] | None = None) -> None:
        """Publish an event of the run.

        Raises:
            ValueError: The service does not accept the topic.
        """
        if not is_topic(topic):
            raise ValueError(f"{topic!r} is no topic")
        said = {"workflow_id": self.workflow, "run_id": self.id, **(payload or {})}
        publish_alone(topic, said, f"workflow:{self.workflow}", self.id)

    def artifact(self, key: str, content: Any) -> None:
        """Store an artifact of the run under a name; it is sent when the service can be reached.

        Args:
            key: Its name within the run, such as ``report.md``; the same name again replaces it.
            content: Text, bytes, or a value that becomes JSON.

        Raises:
            ValueError: The service does not accept the name, or ``content`` has more than 32 MiB.
        """
        if len(key) > MAX_ARTIFACT_KEY or not _ARTIFACT_KEY.fullmatch(key):
            raise ValueError(f"the key {key!r} must be 1 to 200 of A-Z a-z 0-9 . _ : @ + = ~ - and spaces")
        data = content.encode() if isinstance(content, str) else content
        if not isinstance(data, bytes):
            data = write_json(data)
        if len(data) > MAX_ARTIFACT_BYTES:
            raise ValueError(f"{key!r} has {len(data):,} bytes; at most {MAX_ARTIFACT_BYTES:,} are taken")
        sender = courier.courier()
        if sender is not None:
            sender.attach(artifact_path(self.workflow, self.id, key), data)

    def cost(
        self, usd: Amount = 0, *, input_tokens: int = 0, output_tokens: int = 0, cached_tokens: int = 0
    ) -> None:
        """Add to the cost of the whole run, its steps included; it is published at the run's end."""
        with self._lock:
            self._usage.add(usd, input_tokens, output_tokens, cached_tokens)

    def result(self, value: Any) -> None:
        """Set the run's result."""
        self._result = value

    def __enter__(self) -> Self:
        self._begun = time.monotonic()
        self._before = _current.get()
        _current.set(self)
        self.event("run.started", {"trigger": dict(self._trigger)} if self._trigger else {})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if _current.get() is self:
            _current.set(self._before)
        status, said = outcome(error)
        end: dict[str, Any] = {
            "status": "success" if status == "completed" else status,
            "duration_ms": round((time.monotonic() - self._begun) * 1000, 3),
            **self._usage.totals,
        }
        if said is not None:
            end["error"] = said
        if self._result is not None:
            end["result"] = self._result
        self.event("run.finished", end)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


class Step(AbstractContextManager["Step"], AbstractAsyncContextManager["Step"]):
    """One attempt at a step; made by ``Run.step``."""

    def __init__(self, run: Run, name: str, attempt: int) -> None:
        self.run = run
        self.name = name
        self.attempt = attempt
        self._usage = RunningCost()
        self._output: Any = None
        self._begun = 0.0

    def output(self, value: Any) -> None:
        """Set the step's output, any JSON, which becomes its artifact."""
        self._output = value

    def event(self, topic: str, payload: Mapping[str, Any] | None = None) -> None:
        """Publish an event of the step.

        Raises:
            ValueError: The service does not accept the topic.
        """
        self.run.event(topic, {"step": self.name, "attempt": self.attempt, **(payload or {})})

    def cost(
        self, usd: Amount = 0, *, input_tokens: int = 0, output_tokens: int = 0, cached_tokens: int = 0
    ) -> None:
        """Add to the cost of the step and of its run; it is published at the step's end."""
        self._usage.add(usd, input_tokens, output_tokens, cached_tokens)
        # A run's own cost replaces the service's sum over its steps, so it must include this.
        self.run.cost(
            usd, input_tokens=input_tokens, output_tokens=output_tokens, cached_tokens=cached_tokens
        )

    def __enter__(self) -> Self:
        self._begun = time.monotonic()
        self.event("step.started")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        said: dict[str, Any] = {
            "duration_ms": round((time.monotonic() - self._begun) * 1000, 3),
            **self._usage.totals,
        }
        if self._output is not None:
            said["output"] = self._output
        if error is None:
            self.event("step.completed", said)
        else:
            self.event("step.failed", {**said, "error": error_text(error)})

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


def run(workflow: str, *, run_id: str | None = None, trigger: str | Mapping[str, Any] | None = None) -> Run:
    """Make a block of the program a run of a workflow.

    Args:
        workflow: The workflow's id.
        run_id: The run's id; by default a new one.
        trigger: The cause of the run: a type such as ``schedule``, or an object with ``type`` and more.

    Raises:
        ValueError: The service does not accept an id.
    """
    for field, value in (("workflow", workflow), ("run_id", run_id)):
        if value is not None and not is_name(value):
            raise ValueError(f"{field} {value!r} must be {NAME_HELP}")
    said = {"type": trigger} if isinstance(trigger, str) else trigger
    return Run(workflow, run_id or f"run-{secrets.token_hex(8)}", said or {})


def current_run() -> Run | None:
    """Return the innermost run around the caller; ``None``: there is none."""
    return _current.get()
