"""A task in three lines: a block of a program whose output, cost and end are shown live.

    with heliograph.task("summarise", agent="writer", model="claude-sonnet-4-5") as task:
        task.print("reading")

The same block opens with ``async with`` under asyncio and under Trio; only ``ask`` is awaited there, since no
other method waits. The end of the block completes the task. An exception fails it, with its traceback, and
propagates; an interrupt or a cancellation makes it ``cancelled``.
"""

from __future__ import annotations

import inspect
import os
import secrets
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from decimal import Decimal
from functools import wraps
from types import TracebackType
from typing import Any, Literal, ParamSpec, TypeVar, cast

import attrs

from heliograph.client import environment
from heliograph.client.agent.outcome import error_text, outcome
from heliograph.client.agent.payload import text_of
from heliograph.client.agent.record import TaskRecord, current, enter
from heliograph.client.agent.run import current_run
from heliograph.model.channels import NAME_HELP, is_name

P = ParamSpec("P")
R = TypeVar("R")

TRACEBACK_CHARACTERS = 64 * 1024
NAME_CHARACTERS = 200
MAX_OUTER_ID = 110
DESCRIPTION_BYTES = 2000


class TaskHandle:
    """The common part of ``Task`` and ``AsyncTask``, a handle of one task. Any thread may use it."""

    def __init__(self, record: TaskRecord) -> None:
        self._record = record

    @property
    def id(self) -> str:
        """The task's id."""
        return self._record.task_id

    def print(
        self, *values: object, sep: str = " ", end: str = "\n", stream: Literal["stdout", "stderr"] = "stdout"
    ) -> None:
        """Publish values as the built-in ``print`` would show them, as lines of the task's output."""
        self._record.write(sep.join(map(text_of, values)) + end, stream)

    def output(self, text: str, *, stream: Literal["stdout", "stderr"] = "stdout") -> None:
        """Publish text as it comes, such as a model's tokens; a line ends where the text has a newline."""
        self._record.write(text, stream)

    def event(self, topic: str, payload: Mapping[str, Any] | None = None) -> None:
        """Publish an event of the task.

        Args:
            topic: The kind of event, such as ``tool.call``.
            payload: An object; values in it that are not JSON become their text.

        Raises:
            ValueError: The service does not accept the topic.
        """
        self._record.say(topic, payload or {})

    def cost(
        self,
        usd: float | str | Decimal = 0,
        *,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cached_tokens: int = 0,
    ) -> None:
        """Add to the task's cost so far; it is published at once.

        Args:
            usd: Dollars; if none are ever given, the service computes them by its price table.
            input_tokens: Tokens that went into a model.
            output_tokens: Tokens that came out of it.
            cached_tokens: Input tokens that came from a cache.

        Raises:
            ValueError: An argument is negative.
        """
        self._record.cost(usd, input_tokens, output_tokens, cached_tokens)

    def result(self, **fields: Any) -> None:
        """Set fields of the task's result."""
        self._record.result.update(fields)

    def fail(self, error: object) -> None:
        """Make the task fail at the end of its block, which goes on until then.

        Args:
            error: The reason: an exception, or a text.
        """
        self._record.failure = error_text(error) if isinstance(error, BaseException) else text_of(error)


class Task(TaskHandle):
    """A task in plain code."""

    def ask(self, question: str, *, choices: tuple[str, ...] = (), timeout: float | None = None) -> Any:
        """Ask the task's watchers, and wait for the answer; the task is ``waiting_input`` until then.

        Args:
            question: For people.
            choices: Answers to choose from.
            timeout: In seconds.

        Returns:
            The content of the answer, usually text.

        Raises:
            TimeoutError: Nobody has answered in time.
            RuntimeError: Nobody can answer, as this process publishes nothing.
            ClientFault: The service refuses to be asked for answers.
        """
        from heliograph.client.agent.ask import ask

        return ask(self._record, question, choices, timeout)


class AsyncTask(TaskHandle):
    """A task under asyncio or Trio."""

    async def ask(self, question: str, *, choices: tuple[str, ...] = (), timeout: float | None = None) -> Any:
        """Ask the task's watchers, and wait for the answer; the task is ``waiting_input`` until then.

        Args:
            question: For people.
            choices: Answers to choose from.
            timeout: In seconds.

        Returns:
            The content of the answer, usually text.

        Raises:
            TimeoutError: Nobody has answered in time.
            RuntimeError: Nobody can answer, as this process publishes nothing.
            ClientFault: The service refuses to be asked for answers.
        """
        from heliograph.client.agent.ask import ask_async

        return await ask_async(self._record, question, choices, timeout)


@attrs.define
class TaskBlock(AbstractContextManager[Task], AbstractAsyncContextManager[AsyncTask]):
    """A task that begins when its block is entered; as a decorator, a task for each call."""

    _description: Mapping[str, Any]
    _name: str | None
    _task_id: str | None
    _record: TaskRecord | None = None
    _before: TaskRecord | None = None

    def __enter__(self) -> Task:
        return Task(self._begin())

    async def __aenter__(self) -> AsyncTask:
        return AsyncTask(self._begin())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(error)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Make each call of a function a task.

        Raises:
            TypeError: It is a generator, whose call ends before its body begins; use a block within it.
        """
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{function.__qualname__} is a generator: use 'with heliograph.task(…)' within it"
            )
        name = self._name or function.__qualname__

        def block() -> TaskBlock:
            return TaskBlock(self._description, name, self._task_id)

        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def run_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                async with block():
                    return await function(*args, **kwargs)

            return cast("Callable[P, R]", run_async)

        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            with block():
                return function(*args, **kwargs)

        return run

    def _begin(self) -> TaskRecord:
        if self._record is not None:
            raise RuntimeError("a task begins once: call heliograph.task again for another one")
        parent = current()
        parent_id = environment.task_id() if parent is None else parent.task_id
        description = dict(self._description)
        if parent is not None:
            description["session_id"] = description["session_id"] or parent.session
            description["conversation_id"] = description["conversation_id"] or parent.conversation
        if parent_id is not None:
            description["parent_task_id"] = parent_id
            description["metadata"] = {"parent_task_id": parent_id, **(description["metadata"] or {})}
        workflow_run = current_run()
        if workflow_run is not None:
            description["metadata"] = {
                "workflow_id": workflow_run.workflow,
                "run_id": workflow_run.id,
                **(description["metadata"] or {}),
            }
        record = self._record = TaskRecord(
            self._task_id or _new_id(),
            description["agent"],
            description["session_id"],
            description["conversation_id"],
        )
        record.begin({"name": self._name or _program(), **description})
        self._before = enter(record)
        return record

    def _end(self, error: BaseException | None) -> None:
        record = self._record
        assert record is not None
        if current() is record:
            enter(self._before)
        status, said = outcome(error)
        if error is None and record.failure is not None:
            status, said = "failed", record.failure
        if status == "failed" and error is not None and record.begun:
            told = "".join(traceback.format_exception(error))
            record.write(told, "stderr")
            record.result["traceback"] = told[-TRACEBACK_CHARACTERS:]
        record.end(status, said)


def task(
    name: str | None = None,
    *,
    agent: str | None = None,
    agent_type: str | None = None,
    model: str | None = None,
    session: str | None = None,
    conversation: str | None = None,
    input: Any = None,  # noqa: A002 (it is the field's name)
    metadata: Mapping[str, Any] | None = None,
    task_id: str | None = None,
) -> TaskBlock:
    """Make a block of the program a task; or, as a decorator, each call of a function.

    A task that begins within another one has that one as its parent, and shares its session and conversation.

    Args:
        name: The task's name; by default that of the function or the program.
        agent: The agent that does the task.
        agent_type: The kind of agent.
        model: The model that it uses.
        session: The session that it belongs to.
        conversation: The conversation that it belongs to.
        input: The task's input: text or any JSON.
        metadata: Anything else to be kept with it.
        task_id: Its id; by default a new one.

    Raises:
        ValueError: The service does not accept an id.
    """
    for field, value in (("task_id", task_id), ("session", session), ("conversation", conversation)):
        if value is not None and not is_name(value):
            raise ValueError(f"{field} {value!r} must be {NAME_HELP}")
    description = {
        "agent": _short(agent, NAME_CHARACTERS),
        "agent_type": _short(agent_type),
        "model": _short(model),
        "session_id": session,
        "conversation_id": conversation,
        "input": input,
        "metadata": metadata,
    }
    return TaskBlock(description, _short(name, NAME_CHARACTERS), task_id)


def current_task() -> Task:
    """Return the task that the caller runs in: the innermost block around it, or that of ``heliograph exec``.

    The returned handle adds to the task, but does not end it. Threads that the program starts do not know the
    block around their start: pass the task to them.

    Raises:
        LookupError: There is none.
    """
    record = current()
    if record is None:
        task_id = environment.task_id()
        if task_id is None:
            raise LookupError(
                "no task here: neither a block 'with heliograph.task(…)' around this, nor heliograph exec"
            )
        record = TaskRecord(task_id)
    return Task(record)


def _new_id() -> str:
    """Make a task id; under ``heliograph exec`` one below the command's task, which its key also reaches."""
    outer = environment.task_id()
    if outer is not None and len(outer) <= MAX_OUTER_ID:
        return f"{outer}.{secrets.token_hex(8)}"
    return f"task-{secrets.token_hex(8)}"


def _program() -> str:
    return os.path.basename(sys.argv[0] or "") or "python"


def _short(text: str | None, characters: int = 1000) -> str | None:
    """Cut a description to the length that the service accepts."""
    if text is None:
        return None
    return text_of(text)[:characters].encode()[:DESCRIPTION_BYTES].decode("utf-8", "ignore")
