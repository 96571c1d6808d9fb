"""The types of the public surface, as a program's type checker sees them; mypy reads this file as well."""

from __future__ import annotations

import inspect
from typing import Any, assert_type

import heliograph


def use_plain() -> None:
    """Use everything in plain code; never called."""
    with heliograph.task("t", agent="a") as task:
        assert_type(task, heliograph.Task)
        assert_type(task.id, str)
        assert_type(task.ask("?"), Any)
        task.cost("0.10", input_tokens=1)
    with heliograph.run("w") as run, run.step("s") as step:
        assert_type(run, heliograph.Run)
        assert_type(step, heliograph.Step)
    with heliograph.follow("task:*") as stream:
        for item in stream:
            assert_type(item, heliograph.Event | heliograph.Gap | heliograph.Reset)
    with heliograph.Client() as client:
        assert_type(client.tasks(), heliograph.TaskPage)
        assert_type(client.task("t"), heliograph.TaskState)
        assert_type(client.events().events, tuple[heliograph.Event, ...])
        assert_type(client.logs("t"), tuple[heliograph.OutputLine, ...])
        assert_type(client.publish([]), heliograph.Accepted)
    assert_type(heliograph.current_task(), heliograph.Task)
    assert_type(heliograph.flush(), bool)


async def use_async() -> None:
    """Use everything under asyncio or Trio; never called."""
    async with heliograph.task("t") as task:
        assert_type(task, heliograph.AsyncTask)
        assert_type(await task.ask("?"), Any)
    async with heliograph.run("w") as run, run.step("s") as step:
        assert_type(step, heliograph.Step)
    async with heliograph.follow("task:*") as stream:
        async for item in stream:
            assert_type(item, heliograph.Event | heliograph.Gap | heliograph.Reset)
    async with heliograph.AsyncClient() as client:
        assert_type(await client.tasks(), heliograph.TaskPage)
        assert_type(await client.task("t"), heliograph.TaskState)


@heliograph.task("double")
def double(n: int) -> int:
    """Return twice a number; a task at each call."""
    return 2 * n


@heliograph.task("double")
async def double_async(n: int) -> int:
    """Return twice a number; a task at each call."""
    return 2 * n


async def use_decorated() -> None:
    """A decorated function keeps its type; never called."""
    assert_type(double(1), int)
    assert_type(await double_async(1), int)


def test_a_decorated_function_keeps_its_form() -> None:
    """A decorated function has its name, its documentation and its kind."""
    assert double.__name__ == "double"
    assert double.__doc__ == "Return twice a number; a task at each call."
    assert inspect.iscoroutinefunction(double_async)


def test_everything_public_is_described() -> None:
    """Each public method of each public class says what it does."""
    for name in heliograph.__all__:
        offered = getattr(heliograph, name)
        if not isinstance(offered, type) or not offered.__module__.startswith("heliograph.client"):
            continue
        for method, value in inspect.getmembers(offered, inspect.isfunction):
            if not method.startswith("_") and value.__module__.startswith("heliograph"):
                assert value.__doc__, f"{name}.{method}"
