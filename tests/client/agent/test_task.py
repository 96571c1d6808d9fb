"""Tasks of agents' programs, in plain code, under asyncio and under Trio, against the real service."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trio

import heliograph

if TYPE_CHECKING:
    from tests.client.agent.conftest import Service, World

pytestmark = pytest.mark.usefixtures("publishing")


def flushed() -> None:
    """Wait until the service has everything."""
    assert heliograph.flush(20)


def test_a_task_from_its_beginning_to_its_end(world: World, publishing: Service) -> None:
    """What a block prints, spends and results in is the task at the service, in order and complete."""

    def tell(task: heliograph.Task | heliograph.AsyncTask) -> str:
        task.print("reading", 3, "files")
        task.print("two\nlines")
        task.output("to", stream="stderr")
        task.output("kens\n", stream="stderr")
        task.event("tool.call", {"tool": "grep", "path": trio.Path("x")})
        task.cost("0.1", input_tokens=10)
        task.cost(0.2, input_tokens=5, output_tokens=7, cached_tokens=2)
        task.result(answer=42)
        return task.id

    block: dict[str, Any] = {
        "agent": "writer",
        "agent_type": "prose",
        "model": "m1",
        "session": "s1",
        "input": "a question",
    }

    def plain() -> str:
        with heliograph.task("summarise", **block) as task:
            return tell(task)

    async def coroutine() -> str:
        async with heliograph.task("summarise", **block) as task:
            return tell(task)

    task_id = world(plain, coroutine)
    flushed()
    task = publishing.task(task_id)
    assert (task.status, task.name, task.agent, task.model) == ("completed", "summarise", "writer", "m1")
    assert (task.agent_type, task.session_id, task.input) == ("prose", "s1", "a question")
    assert (task.cost_usd, task.input_tokens, task.output_tokens, task.cached_tokens) == (0.3, 15, 7, 2)
    assert task.result is not None
    assert task.result["answer"] == 42
    assert publishing.lines(task_id) == ["reading 3 files", "two", "lines", "to", "kens"]
    events = publishing.events(f"task:{task_id}")
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert {event.sender for event in events} == {"writer"}
    [call] = [event for event in events if event.topic == "tool.call"]
    assert call.payload == {"task_id": task_id, "tool": "grep", "path": "x"}
    assert [event.payload.get("partial") for event in events if event.payload.get("stream") == "stderr"] == [
        True,
        None,
    ]


def test_costs_are_seen_while_it_runs(publishing: Service) -> None:
    """What a task has cost so far is told at once, as what is added."""
    with heliograph.task("spender") as task:
        task.cost(1.5, output_tokens=3)
        task.cost(0.25)
        flushed()
        told = [event.payload for event in publishing.events(f"task:{task.id}") if event.topic == "task.cost"]
        seen = publishing.task(task.id)
    assert (seen.status, seen.cost_usd, seen.output_tokens) == ("running", 1.75, 3)
    assert [said.get("cost_usd") for said in told] == [1.5, 0.25]
    assert told[0]["output_tokens"] == 3
    with pytest.raises(ValueError, match="never negative"), heliograph.task("spender") as task:
        task.cost(-1)


def test_an_exception_fails_the_task(world: World, publishing: Service) -> None:
    """An exception goes on, and the task has failed with it and its traceback."""
    ids: list[str] = []

    def plain() -> None:
        with heliograph.task("bad") as task:
            ids.append(task.id)
            raise LookupError("nothing there")

    async def coroutine() -> None:
        async with heliograph.task("bad") as task:
            ids.append(task.id)
            raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        world(plain, coroutine)
    flushed()
    task = publishing.task(ids[0])
    assert (task.status, task.error) == ("failed", "LookupError: nothing there")
    assert task.result is not None
    assert 'raise LookupError("nothing there")' in task.result["traceback"]
    assert publishing.lines(ids[0])[-1] == "LookupError: nothing there"


def test_what_is_interrupted_is_cancelled(world: World, publishing: Service) -> None:
    """An interrupt in plain code, and a cancellation of asyncio or Trio, cancel the task."""
    ids: list[str] = []

    def plain() -> None:
        def press() -> None:
            with heliograph.task("stopped") as task:
                ids.append(task.id)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            press()

    async def wait() -> None:
        async with heliograph.task("stopped") as task:
            ids.append(task.id)
            await anyio.sleep_forever()

    async def coroutine() -> None:
        if world.name == "trio":
            with trio.move_on_after(0):
                await wait()
        else:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(wait(), 0.01)

    world(plain, coroutine)
    flushed()
    assert publishing.task(ids[0]).status == "cancelled"


def test_a_task_can_fail_by_its_own_word(publishing: Service) -> None:
    """``fail`` lets the block go on, and then the task has failed."""
    with heliograph.task("doubtful") as task:
        task.fail("no sources found")
        task.print("still here")
    flushed()
    state = publishing.task(task.id)
    assert (state.status, state.error) == ("failed", "no sources found")
    assert publishing.lines(task.id) == ["still here"]


@pytest.mark.parametrize(("code", "status"), [(None, "completed"), (0, "completed"), (3, "failed")])
def test_an_exit_within_a_task(publishing: Service, code: int | None, status: str) -> None:
    """A program that exits within a task completes it, unless its exit status says otherwise."""
    with pytest.raises(SystemExit), heliograph.task("exits") as task:
        raise SystemExit(code)
    flushed()
    assert publishing.task(task.id).status == status


def test_nested_tasks_know_their_parent(world: World, publishing: Service) -> None:
    """A task within a task names it as its parent, and shares its session and conversation."""

    def plain() -> list[str]:
        with heliograph.task("outer", session="s2", conversation="c2") as outer:
            with heliograph.task("inner") as inner:
                assert heliograph.current_task().id == inner.id
            assert heliograph.current_task().id == outer.id
        return [outer.id, inner.id]

    async def coroutine() -> list[str]:
        async with heliograph.task("outer", session="s2", conversation="c2") as outer:
            async with heliograph.task("inner") as inner:
                assert heliograph.current_task().id == inner.id
            assert heliograph.current_task().id == outer.id
        return [outer.id, inner.id]

    outer, inner = world(plain, coroutine)
    flushed()
    task = publishing.task(inner)
    assert (task.session_id, task.conversation_id) == ("s2", "c2")
    assert task.metadata == {"parent_task_id": outer}
    with pytest.raises(LookupError, match="no task here"):
        heliograph.current_task()


async def test_tasks_beside_each_other_keep_their_own_place(publishing: Service) -> None:
    """Each of several concurrent coroutines has its own current task."""
    told: dict[str, str] = {}

    async def work(name: str) -> None:
        async with heliograph.task(name) as task:
            await trio.lowlevel.checkpoint()
            heliograph.current_task().print(name)
            told[task.id] = name

    async with trio.open_nursery() as nursery:
        for n in range(5):
            nursery.start_soon(work, f"w{n}")
    await trio.to_thread.run_sync(flushed)
    assert {task_id: publishing.lines(task_id) for task_id in told} == {
        task_id: [name] for task_id, name in told.items()
    }


def test_a_decorated_function_is_a_task_at_each_call(world: World, publishing: Service) -> None:
    """Each call of a decorated function is a task of its own, named by the function; it returns as before."""
    ids = []

    @heliograph.task(agent="decorated")
    def double(n: int) -> int:
        ids.append(heliograph.current_task().id)
        return 2 * n

    @heliograph.task(agent="decorated")
    async def double_async(n: int) -> int:
        ids.append(heliograph.current_task().id)
        return 2 * n

    def plain() -> list[int]:
        return [double(1), double(2)]

    async def coroutine() -> list[int]:
        return [await double_async(1), await double_async(2)]

    assert world(plain, coroutine) == [2, 4]
    flushed()
    assert len(set(ids)) == 2
    name = publishing.task(ids[0]).name
    assert name is not None
    assert name.endswith("double" if world.name == "plain" else "double_async")


def test_a_generator_is_no_task() -> None:
    """A generator's call ends before it begins: it can't be decorated, and the error says what to do."""
    with pytest.raises(TypeError, match="use 'with"):

        @heliograph.task("g")
        def generate() -> Any:
            yield 1


def test_a_question_and_its_answer(world: World, publishing: Service) -> None:
    """The task waits for its user until someone answers; a time-out is an error, and the task goes on."""
    ids: list[str] = []

    def answer() -> None:
        publishing.wait_for(ids[0], "waiting_input")
        [question] = [
            event for event in publishing.events(f"task:{ids[0]}") if event.topic == "task.question"
        ]
        assert question.payload["choices"] == ["main", "dev"]
        with heliograph.Client(publishing.url) as client:
            for question_id, content in (("another", "no"), (question.payload["question_id"], "main")):
                payload = {"question_id": question_id, "content": content}
                item = {"topic": "task.input", "channel": f"task:{ids[0]}", "payload": payload}
                client.publish([item])

    human = threading.Thread(target=answer)

    def plain() -> Any:
        with heliograph.task("asker") as task:
            ids.append(task.id)
            human.start()
            said = task.ask("Which branch?", choices=("main", "dev"), timeout=20)
            with pytest.raises(TimeoutError):
                task.ask("And now?", timeout=0.1)
            return said

    async def coroutine() -> Any:
        async with heliograph.task("asker") as task:
            ids.append(task.id)
            human.start()
            said = await task.ask("Which branch?", choices=("main", "dev"), timeout=20)
            with pytest.raises(TimeoutError):
                await task.ask("And now?", timeout=0.1)
            return said

    assert world(plain, coroutine) == "main"
    human.join()
    flushed()
    assert publishing.task(ids[0]).status == "completed"


def test_log_records_are_output_of_the_task(publishing: Service) -> None:
    """A log record within a task is a line of it, with its level; outside it is an event of its own."""
    logger = logging.getLogger("app.db")
    handler = heliograph.LoggingHandler()
    logger.addHandler(handler)
    try:
        with heliograph.task("logs") as task:
            logger.warning("slow query: %d ms", 812)
        logger.error("outside of all tasks")
    finally:
        logger.removeHandler(handler)
    flushed()
    [line] = [event.payload for event in publishing.events(f"task:{task.id}") if event.topic == "task.output"]
    assert line["output"] == "WARNING app.db: slow query: 812 ms"
    assert (line["stream"], line["level"], line["logger"]) == ("stderr", "warning", "app.db")
    alone = publishing.events("topic:log")[-1]
    assert alone.payload["message"] == "ERROR app.db: outside of all tasks"


def test_the_client_does_not_publish_what_its_own_thread_logs(publishing: Service) -> None:
    """With a handler on the root logger, the requests that send log lines make no log lines."""
    root = logging.getLogger()
    handler = heliograph.LoggingHandler()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with heliograph.task("quiet") as task:
            task.print("one")
            flushed()
            task.print("two")
            flushed()
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
    assert publishing.lines(task.id) == ["one", "two"]


def test_structlog_events_are_output_of_the_task(publishing: Service) -> None:
    """The processor publishes an event with its fields, and passes it on."""
    processor = heliograph.StructlogProcessor()
    with heliograph.task("structured") as task:
        passed = processor(None, "info", {"event": "fetched", "rows": 12})
    assert passed == {"event": "fetched", "rows": 12}
    flushed()
    assert publishing.lines(task.id) == ["INFO fetched rows=12"]


def test_a_program_under_exec_adds_to_its_task(publishing: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where HELIOGRAPH_TASK_ID names a task, the current task is that one, and new tasks are within it."""
    monkeypatch.setenv("HELIOGRAPH_TASK_ID", "exec-1")
    heliograph.current_task().print("from the child")
    with heliograph.task("sub") as task:
        pass
    flushed()
    assert publishing.lines("exec-1") == ["from the child"]
    assert publishing.task("exec-1").status == "running"
    assert publishing.task(task.id).metadata == {"parent_task_id": "exec-1"}


CHILD = """
import heliograph
task = heliograph.current_task()
task.event("tool.call", {"tool": "grep"})
task.cost(0.5, output_tokens=4)
print("printed by the child")
with heliograph.task("sub", task_id="exec-sub"):
    pass
"""


def test_a_command_of_exec_adds_to_the_task_that_it_is(publishing: Service, spools: Any) -> None:
    """A program that ``exec`` runs finds its task by itself; what it says is kept beside what it writes."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "heliograph",
            "exec",
            "--task-id",
            "exec-2",
            "--",
            sys.executable,
            "-c",
            CHILD,
        ],
        env={**os.environ, "XDG_STATE_HOME": str(spools), "HELIOGRAPH_URL": publishing.url},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "printed by the child\n"), done.stderr
    task = publishing.task("exec-2")
    assert (task.status, task.cost_usd, task.output_tokens) == ("completed", 0.5, 4)
    assert publishing.lines("exec-2") == ["printed by the child"]
    assert "tool.call" in {event.topic for event in publishing.events("task:exec-2")}
    assert publishing.task("exec-sub").metadata == {"parent_task_id": "exec-2"}


@pytest.mark.parametrize(
    ("arguments", "topic", "payload"),
    [
        (["event", "tool.call", '{"tool": "grep"}'], "tool.call", {"tool": "grep"}),
        (
            ["cost", "--usd", "0.25", "--input-tokens", "3"],
            "task.cost",
            {"cost_usd": 0.25, "input_tokens": 3},
        ),
    ],
)
def test_a_shell_script_adds_to_its_task(
    publishing: Service, spools: Any, arguments: list[str], topic: str, payload: dict[str, Any]
) -> None:
    """``heliograph event`` and ``heliograph cost`` add to the task that the environment names."""
    task_id = f"shell-{arguments[0]}"
    done = subprocess.run(
        [sys.executable, "-m", "heliograph", *arguments, "--wait", "20"],
        env={
            **os.environ,
            "XDG_STATE_HOME": str(spools),
            "HELIOGRAPH_URL": publishing.url,
            "HELIOGRAPH_TASK_ID": task_id,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    [event] = publishing.events(f"task:{task_id}")
    assert (event.topic, event.payload) == (topic, {"task_id": task_id, **payload})


def test_ids_that_the_service_would_refuse_are_refused_at_once() -> None:
    """A bad id or topic is an error where it is written, not later in the background."""
    with pytest.raises(ValueError, match="task_id"):
        heliograph.task("t", task_id="no spaces here")
    with heliograph.task("t") as task, pytest.raises(ValueError, match="topic"):
        task.event("no topic!")


def test_a_block_begins_once() -> None:
    """Entering the same block again is an error that says what to do."""
    block = heliograph.task("once")
    with block:
        pass
    with pytest.raises(RuntimeError, match=r"call heliograph\.task again"), block:
        pass


def test_a_run_and_its_steps(world: World, publishing: Service) -> None:
    """A run tells its beginning, its steps with what they cost and made, and its end, all under its id."""

    def plain() -> tuple[str, str]:
        with heliograph.run("nightly", trigger="schedule") as run:
            with run.step("fetch") as step:
                step.output({"rows": 3})
                step.cost(0.5, input_tokens=9)
            run.cost(0.25)
            with pytest.raises(OSError, match="disk"), run.step("store"):
                raise OSError("disk")
            with run.step("store"), heliograph.task("within") as task:
                pass
            run.result({"stored": 3})
        return run.id, task.id

    async def coroutine() -> tuple[str, str]:
        async with heliograph.run("nightly", trigger="schedule") as run:
            async with run.step("fetch") as step:
                step.output({"rows": 3})
                step.cost(0.5, input_tokens=9)
            run.cost(0.25)
            with pytest.raises(OSError, match="disk"):
                async with run.step("store"):
                    raise OSError("disk")
            async with run.step("store"), heliograph.task("within") as task:
                pass
            run.result({"stored": 3})
        return run.id, task.id

    run_id, task_id = world(plain, coroutine)
    flushed()
    told = [event for event in publishing.events("workflow:nightly") if event.correlation_id == run_id]
    assert [event.topic for event in told] == [
        "run.started",
        *("step.started", "step.completed"),
        *("step.started", "step.failed"),
        *("step.started", "step.completed"),
        "run.finished",
    ]
    assert all(event.payload["run_id"] == run_id for event in told)
    assert told[0].payload["trigger"] == {"type": "schedule"}
    fetched = told[2].payload
    assert (fetched["step"], fetched["output"], fetched["cost_usd"]) == ("fetch", {"rows": 3}, 0.5)
    assert [event.payload["attempt"] for event in told[3:7]] == [1, 1, 2, 2]
    assert told[4].payload["error"] == "OSError: disk"
    assert (told[7].payload["status"], told[7].payload["result"]) == ("success", {"stored": 3})
    assert (told[7].payload["cost_usd"], told[7].payload["input_tokens"]) == (0.75, 9)
    assert publishing.task(task_id).metadata == {"workflow_id": "nightly", "run_id": run_id}


def test_a_run_that_fails(publishing: Service) -> None:
    """An exception that leaves a run fails it."""
    with pytest.raises(ZeroDivisionError), heliograph.run("broken") as run:
        raise ZeroDivisionError("by zero")
    flushed()
    end = publishing.events("workflow:broken")[-1]
    assert (end.correlation_id, end.payload["status"]) == (run.id, "failed")
    assert end.payload["error"] == "ZeroDivisionError: by zero"
