"""A task as the fleet's systems see it, with the transitions that it may make, and its factory."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from itertools import count
from typing import Any, ClassVar

import attrs


class TaskStatus(StrEnum):
    """What a task does."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING_INPUT = "waiting_input"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


VALID_TRANSITIONS: dict[TaskStatus, frozenset[TaskStatus]] = {
    TaskStatus.QUEUED: frozenset({TaskStatus.RUNNING, TaskStatus.CANCELLED}),
    TaskStatus.RUNNING: frozenset(
        {TaskStatus.WAITING_INPUT, TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED}
    ),
    TaskStatus.WAITING_INPUT: frozenset({TaskStatus.RUNNING, TaskStatus.CANCELLED}),
    TaskStatus.COMPLETED: frozenset(),
    TaskStatus.FAILED: frozenset(),
    TaskStatus.CANCELLED: frozenset(),
}


class InvalidTransitionError(Exception):
    """A task can't go from one status to another."""

    def __init__(self, current: TaskStatus, wanted: TaskStatus) -> None:
        self.current, self.wanted = current, wanted
        super().__init__(f"a task can't go from {current.value} to {wanted.value}")


@attrs.define
class Task:
    """A task; times are aware, money is in dollars."""

    task_id: str = "task-001"
    input_message: str = "Test task"
    status: TaskStatus = TaskStatus.QUEUED
    session_id: str = "session-001"
    agent_type: str = "executor"
    source: str = "dashboard"
    source_metadata: dict[str, Any] = attrs.field(factory=dict)
    created_at: datetime = attrs.field(factory=lambda: datetime.now(UTC))
    started_at: datetime | None = None
    completed_at: datetime | None = None
    result: str | None = None
    error: str | None = None
    cost_usd: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    duration_seconds: float = 0.0

    VALID_TRANSITIONS: ClassVar[dict[TaskStatus, frozenset[TaskStatus]]] = VALID_TRANSITIONS

    def can_transition_to(self, status: TaskStatus) -> bool:
        """Tell whether it may go to a status."""
        return status in self.VALID_TRANSITIONS[self.status]

    def start(self) -> None:
        """Begin to run."""
        self._go(TaskStatus.RUNNING)
        self.started_at = datetime.now(UTC)

    def wait_for_input(self) -> None:
        """Wait for the user."""
        self._go(TaskStatus.WAITING_INPUT)

    def resume(self) -> None:
        """Go on after waiting."""
        if self.status != TaskStatus.WAITING_INPUT:
            raise InvalidTransitionError(self.status, TaskStatus.RUNNING)
        self._go(TaskStatus.RUNNING)

    def complete(
        self, result: str, cost_usd: float = 0.0, input_tokens: int = 0, output_tokens: int = 0
    ) -> None:
        """End well."""
        self._end(TaskStatus.COMPLETED)
        self.result, self.cost_usd = result, cost_usd
        self.input_tokens, self.output_tokens = input_tokens, output_tokens

    def fail(self, error: str) -> None:
        """End badly."""
        self._end(TaskStatus.FAILED)
        self.error = error

    def cancel(self) -> None:
        """End because somebody wants it to."""
        self._end(TaskStatus.CANCELLED)

    def _end(self, status: TaskStatus) -> None:
        self._go(status)
        self.completed_at = datetime.now(UTC)
        if self.started_at is not None:
            self.duration_seconds = (self.completed_at - self.started_at).total_seconds()

    def _go(self, status: TaskStatus) -> None:
        if not self.can_transition_to(status):
            raise InvalidTransitionError(self.status, status)
        self.status = status


class TaskFactory:
    """Makes tasks with ids of their own, from task-001 on."""

    _numbers: ClassVar[count[int]] = count(1)

    @classmethod
    def create(cls, **fields: Any) -> Task:
        """Make a task; what is not given is as usual."""
        fields.setdefault("task_id", f"task-{next(cls._numbers):03}")
        return Task(**fields)

    @classmethod
    def create_queued(cls, **fields: Any) -> Task:
        """Make a task that waits to begin."""
        return cls.create(**fields)

    @classmethod
    def create_running(cls, **fields: Any) -> Task:
        """Make a task that runs."""
        task = cls.create(**fields)
        task.start()
        return task

    @classmethod
    def create_completed(
        cls, result: str = "Task completed successfully", cost_usd: float = 0.05, **fields: Any
    ) -> Task:
        """Make a task that ended well."""
        tokens = {name: fields.pop(name) for name in ("input_tokens", "output_tokens") if name in fields}
        given = {name: fields.pop(name) for name in ("completed_at", "duration_seconds") if name in fields}
        task = cls.create_running(**fields)
        task.complete(result, cost_usd, **tokens)
        for name, value in given.items():
            setattr(task, name, value)
        return task

    @classmethod
    def create_failed(cls, error: str = "Task failed", **fields: Any) -> Task:
        """Make a task that ended badly."""
        task = cls.create_running(**fields)
        task.fail(error)
        return task

    @classmethod
    def reset(cls) -> None:
        """Begin the ids anew."""
        cls._numbers = count(1)
