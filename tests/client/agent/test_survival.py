"""What becomes of an agent's lines when the line, the service or the agent itself dies: each arrives once."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.client.agent.conftest import Service
from tests.servers import free_port, wait_until

import heliograph
from heliograph.client.agent import courier
from heliograph.client.spool import spools as folders

if TYPE_CHECKING:
    from tests.client.agent.conftest import World

LINES = 1000


@contextmanager
def publishing_to(url: str, spools: Path, **settings: Any) -> Iterator[None]:
    """Let this process publish somewhere."""
    heliograph.configure(url=url, spools=spools, **settings)
    try:
        yield
    finally:
        heliograph.close(5)
        heliograph.configure(enabled=False)


def start(program: str, url: str, spools: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start a program that publishes."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "HELIOGRAPH_URL": url, "XDG_STATE_HOME": str(spools)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def spool_folder(state: Path) -> Path:
    """Return where a program that ``start`` has started keeps its spools."""
    return state / "heliograph" / "spool"


def print_lines(world: World, pause: Any = lambda n: None) -> str:
    """Print numbers in a task; return its id."""

    def plain() -> str:
        with heliograph.task("counts") as task:
            for n in range(LINES):
                task.print(n)
                pause(n)
        return task.id

    async def coroutine() -> str:
        async with heliograph.task("counts") as task:
            for n in range(LINES):
                task.print(n)
                pause(n)
        return task.id

    task_id: str = world(plain, coroutine)
    return task_id


NUMBERS = [str(n) for n in range(LINES)]


def test_a_line_that_breaks(world: World, service: Service, spools: Path, breaking: Any) -> None:
    """Through a connection that is cut at random points every line arrives once, in order."""
    with breaking(service.port) as url, publishing_to(url, spools):
        task_id = print_lines(world, lambda n: n % 100 == 0 and heliograph.flush(0.05))
        assert heliograph.flush(60)
    assert service.lines(task_id) == NUMBERS
    assert service.task(task_id).status == "completed"


def test_following_a_line_that_breaks(world: World, service: Service, spools: Path, breaking: Any) -> None:
    """A stream over a connection that is cut at random points gives each event once, in order."""
    with publishing_to(service.url, spools):
        heliograph.flush()
        task_id = f"followed-{world.name}"
        writer = threading.Thread(target=_write, args=(task_id,))
        got: list[heliograph.Event] = []

        def plain(url: str) -> None:
            with heliograph.follow(f"task:{task_id}", after="0-0", url=url) as stream:
                for item in stream:
                    assert isinstance(item, heliograph.Event)
                    got.append(item)
                    if item.payload.get("status") == "completed":
                        return

        async def coroutine(url: str) -> None:
            async with heliograph.follow(f"task:{task_id}", after="0-0", url=url) as stream:
                async for item in stream:
                    assert isinstance(item, heliograph.Event)
                    got.append(item)
                    if item.payload.get("status") == "completed":
                        return

        with breaking(service.port) as url:
            writer.start()
            world(lambda: plain(url), lambda: coroutine(url))
        writer.join()
    assert [event.seq for event in got] == list(range(1, len(got) + 1))
    assert [event.payload["output"] for event in got if event.topic == "task.output"] == NUMBERS


def _write(task_id: str) -> None:
    with heliograph.task("writes", task_id=task_id) as task:
        for n in range(LINES):
            task.print(n)
            if n % 50 == 0:
                heliograph.flush(5)


def test_the_service_is_away_and_comes(worlds: list[World], mortal: Service, spools: Path) -> None:
    """What is printed while the service is away is there once it has come, complete and in order."""
    with publishing_to(mortal.url, spools):
        told = [print_lines(world) for world in worlds]
        assert not heliograph.flush(0.2)
        mortal.start()
        assert heliograph.flush(60)
        for task_id in told:
            assert mortal.lines(task_id) == NUMBERS
            assert mortal.task(task_id).status == "completed"
    assert list(folders(spools)) == []


def test_the_service_is_killed(world: World, mortal: Service, spools: Path) -> None:
    """A kill -9 of the service loses and doubles nothing."""
    mortal.start()

    def kill_and_start(n: int) -> None:
        if n == 200:
            heliograph.flush(0.05)
            mortal.kill()
        elif n == 600:
            mortal.start()

    with publishing_to(mortal.url, spools):
        task_id = print_lines(world, kill_and_start)
        assert heliograph.flush(60)
        assert mortal.lines(task_id) == NUMBERS


ARTIFACTS = {"report.md": "# Report", "rows.json": {"rows": [1, 2]}, "raw.bin": b"\x00\xff\n"}


def test_artifacts_are_there_once_the_service_is(mortal: Service, spools: Path) -> None:
    """What a run leaves behind waits on disk while the service is away, and is kept whole once it comes."""
    with publishing_to(mortal.url, spools):
        with heliograph.run("leaves", run_id="r1") as run:
            for key, content in ARTIFACTS.items():
                run.artifact(key, content)
            run.artifact("report.md", "# Later report")
        assert not heliograph.flush(0.2)
        mortal.start()
        assert heliograph.flush(60)
    base = f"{mortal.url}/api/v1/workflows/leaves/runs/r1/artifacts"
    assert httpx.get(f"{base}/report.md").text == "# Later report"
    assert httpx.get(f"{base}/rows.json").json() == {"rows": [1, 2]}
    assert httpx.get(f"{base}/raw.bin").content == b"\x00\xff\n"
    assert list(folders(spools)) == []


def test_an_artifact_outlives_its_program(mortal: Service, spools: Path) -> None:
    """An artifact that a program could not send is sent by the next one."""
    program = "import heliograph\nheliograph.configure(exit_seconds=0.2)\n"
    program += "with heliograph.run('leaves', run_id='r2') as run:\n    run.artifact('a.txt', 'kept')\n"
    start(program, mortal.url, spools).communicate(timeout=30)
    mortal.start()
    url = f"{mortal.url}/api/v1/workflows/leaves/runs/r2/artifacts/a.txt"
    with publishing_to(mortal.url, spool_folder(spools)):
        with heliograph.task("the next program"):
            pass
        wait_until(lambda: httpx.get(url).status_code == 200, "the artifact is there")
    assert httpx.get(url).text == "kept"


def test_a_name_that_no_artifact_has(spools: Path) -> None:
    """A bad name of an artifact is refused at once."""
    run = heliograph.run("w")
    for key in ("", "../up", "a/b", "x" * 201):
        with pytest.raises(ValueError, match="key"):
            run.artifact(key, "x")


KILLED = """
import os, signal, sys, heliograph
with heliograph.task("killed", task_id="killed-1") as task:
    with heliograph.task("done", task_id="done-1"):
        pass
    for n in range(1000):
        task.print(n)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_agent_is_killed(mortal: Service, spools: Path) -> None:
    """After a kill -9 of the agent each line that it printed arrives, and its task has failed."""
    dead = start(KILLED, mortal.url, spools)
    dead.communicate(timeout=60)
    assert dead.returncode == -signal.SIGKILL
    mortal.start()
    with publishing_to(mortal.url, spool_folder(spools)):
        with heliograph.task("the next program"):
            pass
        task = mortal.wait_for("killed-1", "failed")
    assert mortal.lines("killed-1") == NUMBERS
    assert task.error == "the program was killed before its end"
    assert mortal.task("done-1").status == "completed"
    assert list(folders(spool_folder(spools))) == []


FORKS = """
import os, sys, heliograph
with heliograph.task("forks", task_id="forks-1") as task:
    for n in range(100):
        task.print("parent", n)
    child = os.fork()
    if child == 0:
        for n in range(100):
            task.print("child", n)
        if sys.argv[1] == "_exit":
            os._exit(0)
        sys.exit(3)
    os.waitpid(child, 0)
    for n in range(100, 200):
        task.print("parent", n)
"""


@pytest.mark.parametrize("way", ["exit", "_exit"])
def test_a_fork(mortal: Service, spools: Path, way: str) -> None:
    """What a forked child says arrives too, each line once, and the child does not end its parent's task."""
    mortal.start()
    program = start(FORKS, mortal.url, spools, way)
    _, said = program.communicate(timeout=60)
    assert (program.returncode, said) == (0, "")
    lines = mortal.lines("forks-1")
    assert [line for line in lines if line.startswith("parent")] == [f"parent {n}" for n in range(200)]
    assert [line for line in lines if line.startswith("child")] == [f"child {n}" for n in range(100)]
    assert mortal.task("forks-1").status == "completed"
    ends = [event for event in mortal.events("task:forks-1") if event.payload.get("status") == "completed"]
    assert len(ends) == 1


UNREACHED = """
import heliograph
heliograph.configure(exit_seconds=0.5)
with heliograph.task("ends", task_id="ends-1") as task:
    for n in range(1000):
        task.print(n)
"""


def test_the_end_of_a_program_is_bounded(mortal: Service, spools: Path) -> None:
    """A program ends although the service is away; what it said waits on disk, and says so."""
    program = start(UNREACHED, mortal.url, spools)
    _, said = program.communicate(timeout=20)
    assert program.returncode == 0
    assert "the next program sends them" in said
    mortal.start()
    with publishing_to(mortal.url, spool_folder(spools)):
        with heliograph.task("the next program"):
            pass
        mortal.wait_for("ends-1", "completed")
    assert mortal.lines("ends-1") == NUMBERS


def test_a_service_that_takes_connections_and_says_nothing(spools: Path) -> None:
    """Nor does a service hold a program's end up that falls silent."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        program = start(UNREACHED, url, spools)
        _, said = program.communicate(timeout=20)
    assert program.returncode == 0
    assert "the next program sends them" in said


def test_nothing_is_left_after_close(service: Service, spools: Path) -> None:
    """After ``close`` there is no thread, no descriptor and no spool; what is said later begins anew."""
    with publishing_to(service.url, spools):
        with heliograph.task("warms up"):
            pass
        heliograph.close()
        before = sorted(os.listdir("/proc/self/fd")), threading.enumerate()
        for _ in range(3):
            with heliograph.task("begins anew") as task:
                task.print("line")
            heliograph.close()
            assert service.task(task.id).status == "completed"
        assert (sorted(os.listdir("/proc/self/fd")), threading.enumerate()) == before
        assert list(folders(spools)) == []


def test_a_loop_that_is_left_early_leaves_nothing(service: Service) -> None:
    """A stream that is not closed by a block closes its connection when nobody has it any more."""
    with heliograph.Client(service.url) as client:
        client.publish([{"topic": "left.early", "payload": {}}])
    before = sorted(os.listdir("/proc/self/fd"))
    for item in heliograph.follow("topic:left.early", after="0-0", url=service.url):
        assert isinstance(item, heliograph.Event)
        break
    gc.collect()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_full_spool_drops_lines_and_says_so(mortal: Service, spools: Path) -> None:
    """Beyond its bound lines are dropped, never the task's end, and the task itself says how many."""
    with publishing_to(mortal.url, spools, spool_bytes=20_000):
        with heliograph.task("talks") as task:
            for n in range(LINES):
                task.print(n)
        mortal.start()
        assert heliograph.flush(60)
        with heliograph.task("talks", task_id="later"):
            pass
        assert heliograph.flush(60)
    lines = mortal.lines(task.id)
    kept = len(lines) - 1
    assert lines[:kept] == NUMBERS[:kept]
    assert 0 < kept < LINES
    assert lines[-1].startswith(f"[heliograph: {LINES - kept:,} lines were dropped here")
    assert mortal.task(task.id).status == "completed"


def test_a_full_spool_can_hold_the_program_instead(mortal: Service, spools: Path) -> None:
    """With ``overflow="wait"`` the thread that prints waits until there is room, and nothing is dropped."""
    with publishing_to(mortal.url, spools, spool_bytes=20_000, overflow="wait"):
        ids: list[str] = []

        def talk() -> None:
            with heliograph.task("talks") as task:
                ids.append(task.id)
                for n in range(LINES):
                    task.print(n)

        thread = threading.Thread(target=talk)
        thread.start()
        sender = courier.courier()
        assert sender is not None
        wait_until(lambda: sender._spool.unsent >= 20_000, "the spool is full")
        mortal.start()
        thread.join(60)
        assert heliograph.flush(60)
    assert mortal.lines(ids[0]) == NUMBERS


def test_a_silent_task_says_that_it_is_alive(service: Service, spools: Path) -> None:
    """A task that prints nothing for long sends heartbeats until its end, and told so at its beginning."""
    with publishing_to(service.url, spools, heartbeat_seconds=0.05):
        with heliograph.task("thinks") as task:
            wait_until(
                lambda: any(event.topic == "task.heartbeat" for event in service.events(f"task:{task.id}")),
                "a heartbeat",
            )
        assert heliograph.flush(20)
        events = service.events(f"task:{task.id}")
    assert events[0].payload["heartbeat_seconds"] == 0.05
    assert events[-1].payload["status"] == "completed"


def test_a_process_that_publishes_nothing(spools: Path) -> None:
    """With ``enabled=False`` nothing is written anywhere, and everything else goes on as usual."""
    heliograph.configure(enabled=False, spools=spools)
    with heliograph.task("off") as task:
        task.print("line")
    with heliograph.run("off") as run, run.step("one"):
        pass
    assert heliograph.flush(0)
    assert not spools.exists()
    with pytest.raises(RuntimeError, match="publish nothing"):
        task.ask("?")


def test_no_place_for_a_spool(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where no spool can be made the program goes on, and the log says once what is lost."""
    (tmp_path / "file").write_text("")
    away = f"http://127.0.0.1:{free_port()}"
    with publishing_to(away, tmp_path / "file" / "spools"), heliograph.task("homeless") as task:
        task.print("line")
    assert [record.getMessage() for record in caplog.records if "is lost" in record.getMessage()]
    assert len(caplog.records) == 1


def test_publishing_under_asyncio_waits_for_the_service(mortal: Service) -> None:
    """The async client tries on under asyncio as under Trio, until the service is there."""

    async def publish() -> heliograph.Accepted:
        tried: list[float] = []
        async with heliograph.AsyncClient(mortal.url) as client:
            item = {"type": "task_output", "task_id": "aio", "output": "hi"}
            publishing = asyncio.ensure_future(
                client.publish([item], lambda error, delay: tried.append(delay))
            )
            while len(tried) < 2:  # noqa: ASYNC110 (what is waited for is a refused connection)
                await asyncio.sleep(0.01)
            await asyncio.to_thread(mortal.start)
            return await asyncio.wait_for(publishing, 30)

    assert asyncio.run(publish()).accepted == 1
    assert mortal.lines("aio") == ["hi"]


KEYED = """
import heliograph
heliograph.current_task().cost(0.5)
with heliograph.task("sub") as task:
    task.print("beneath")
with heliograph.task("stranger", task_id="another-task") as task:
    task.print("not mine")
heliograph.current_task().event("after.that")
"""


def test_the_key_of_a_command_reaches_its_own_tasks(tmp_path: Path, spools: Path) -> None:
    """Where keys are used, a command of ``exec`` may add to its task and begin others beneath it."""
    service = Service(tmp_path / "keyed", {"HELIOGRAPH_API_KEYS": "fleet:secret:read+publish"})
    service.start()
    environment = {
        **os.environ,
        "HELIOGRAPH_URL": service.url,
        "HELIOGRAPH_API_KEY": "secret",
        "XDG_STATE_HOME": str(spools),
    }
    command = [sys.executable, "-m", "heliograph", "exec", "--task-id", "keyed", "--"]
    try:
        show = "import os; print(os.environ['HELIOGRAPH_API_KEY'])"
        for program in (KEYED, show):
            done = subprocess.run(
                [*command, sys.executable, "-c", program],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            )
        assert done.stdout.startswith("task.")
        assert "secret" not in done.stdout
        with heliograph.Client(service.url, "secret") as client:
            tasks = {task.task_id: task for task in client.tasks().tasks}
            topics = [event.topic for event in client.events(channel="task:keyed").events]
        [beneath] = [name for name in tasks if name.startswith("keyed.")]
        assert set(tasks) == {"keyed", beneath}
        assert tasks[beneath].status == "completed"
        assert tasks["keyed"].cost_usd == 0.5
        assert "after.that" in topics
        with heliograph.Client(service.url, done.stdout.strip()) as limited:
            assert limited.task("keyed").task_id == "keyed"
            with pytest.raises(heliograph.ClientFault, match="may not use the channel"):
                limited.tasks()
    finally:
        service.kill()
