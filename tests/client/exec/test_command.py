from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio

from heliograph.client.api import Client
from heliograph.client.exec import command
from heliograph.client.exec.command import READ_BYTES, TAIL_BYTES, CommandOutcome, Execution
from heliograph.client.exec.job import Job, new_task_id, visible
from heliograph.client.outbox import Outbox
from heliograph.client.spool import Spool
from heliograph.model.channels import is_name
from heliograph.model.intake import parse_items

Items = Callable[[Spool], list[dict[str, Any]]]


@pytest.fixture
def outbox(spool: Spool) -> Outbox:
    """An outbox that nobody sends, so that everything stays in the spool."""
    return Outbox(spool, Client("http://127.0.0.1:1"), lambda sentence: None)


Until = Callable[[Callable[[], object]], Awaitable[None]]
COUNT = """
import itertools
for n in itertools.count(): print(n)
"""


class Running:
    """A run in a task of its own."""

    def __init__(self, *command: str, outbox: Outbox, **options: Any) -> None:
        self.execution = Execution(Job("t1", command, **options), outbox)
        self.outcome: CommandOutcome | None = None
        self.scope = trio.CancelScope()

    async def __call__(self) -> None:
        """Run it to its end."""
        with self.scope:
            self.outcome = await self.execution.run()


async def run(outbox: Outbox, *command: str, **options: Any) -> CommandOutcome:
    """Run a command as the task t1."""
    with trio.fail_after(30):
        return await Execution(Job("t1", command, **options), outbox).run()


def outputs(items: list[dict[str, Any]], stream: str = "stdout") -> list[str]:
    """Return the text of one stream's pieces."""
    payloads = [item["payload"] for item in items if item["topic"] == "task.output"]
    return [payload["output"] for payload in payloads if payload["stream"] == stream]


async def test_story(outbox: Outbox, spool: Spool, items: Items) -> None:
    """A task is created, runs, puts out the lines of both streams by name, and ends with its result."""
    outcome = await run(outbox, "sh", "-c", "echo one; echo two; echo wrong >&2", agent="a", model="m")
    assert outcome == CommandOutcome("completed", 0)
    events = items(spool)
    assert [event["topic"] for event in (events[0], events[1], events[-1])] == [
        "task.created",
        "task.status",
        "task.status",
    ]
    assert events[0]["payload"]["agent"] == "a"
    assert events[0]["payload"]["model"] == "m"
    assert events[1]["payload"]["status"] == "running"
    assert outputs(events) == ["one", "two"]
    assert outputs(events, "stderr") == ["wrong"]
    end = events[-1]["payload"]
    assert end["status"] == "completed"
    assert end["result"]["stdout"] == "one\ntwo\n"
    assert end["result"]["exit_code"] == 0
    assert end["result"]["duration"] >= 0
    parse_items(events, 1024 * 1024)  # the service takes all of it


@pytest.mark.parametrize(
    ("script", "status", "exit_code", "error"),
    [
        ("exit 3", "failed", 3, "exit status 3"),
        ("kill -KILL $$", "failed", 137, "killed by SIGKILL"),
        ("kill -TERM $$", "cancelled", 143, "stopped by SIGTERM"),
        ("kill -INT $$", "cancelled", 130, "stopped by SIGINT"),
    ],
)
async def test_ends(
    outbox: Outbox, spool: Spool, items: Items, script: str, status: str, exit_code: int, error: str
) -> None:
    """Exit statuses and signals become statuses, and exit codes as a shell has them."""
    assert await run(outbox, "sh", "-c", script) == CommandOutcome(status, exit_code, error)
    result = items(spool)[-1]["payload"]["result"]
    assert (result["exit_code"], result["error"]) == (exit_code, error)


async def test_not_found(outbox: Outbox, spool: Spool, items: Items) -> None:
    """A command that is not there fails its task with 127."""
    outcome = await run(outbox, "no-such-command")
    assert (outcome.status, outcome.exit_code, outcome.started) == ("failed", 127, False)
    assert items(spool)[-1]["payload"]["result"]["error"] == "command not found: no-such-command"


async def test_not_executable(outbox: Outbox, tmp_path: Path) -> None:
    """A file that may not be executed fails its task with 126."""
    script = tmp_path / "script"
    script.write_text("echo hi\n")
    outcome = await run(outbox, str(script))
    assert (outcome.status, outcome.exit_code, outcome.started) == ("failed", 126, False)


async def test_line_that_waits(
    outbox: Outbox, spool: Spool, items: Items, until: Until, nursery: trio.Nursery, tmp_path: Path
) -> None:
    """A prompt is sent as it stands while the program waits, and its line is completed later."""
    answer = tmp_path / "answer"
    os.mkfifo(answer)
    run = Running("sh", "-c", f"printf 'Name: '; read name < {answer}; echo $name", outbox=outbox)
    nursery.start_soon(run)
    await until(lambda: outputs(items(spool)))
    answer.write_text("Bob\n")
    await until(lambda: run.outcome)
    pieces = [item["payload"] for item in items(spool) if item["topic"] == "task.output"]
    assert [(piece["output"], piece.get("partial")) for piece in pieces] == [("Name: ", True), ("Bob", None)]


async def test_strange_bytes(outbox: Outbox, spool: Spool, items: Items) -> None:
    """Bytes that are no text are visible in the output, in the result, and in the command itself."""
    await run(outbox, "printf", "a\\377b\\000c\\n", "\udcff")
    events = items(spool)
    assert outputs(events) == ["a\ufffdb␀c"]
    assert events[-1]["payload"]["result"]["stdout"] == "a\ufffdb␀c\n"
    assert events[0]["payload"]["input"]["command"][-1] == "\ufffd"
    parse_items(events, 1024 * 1024)


def test_names_of_strange_bytes() -> None:
    """Names and folders whose bytes are no text are visible in the event that begins the task."""
    job = Job("1", ("true",), "na\udcffme", "agent\udcff", "model\udcff", {"cwd": visible("/tmp/\udcff")})
    (draft,) = parse_items([job.created()], 1024 * 1024)
    shown = [draft.payload[name] for name in ("name", "agent", "model")]
    assert [*shown, draft.sender] == ["na\ufffdme", "agent\ufffd", "model\ufffd", "agent\ufffd"]
    assert draft.payload["metadata"] == {"cwd": "/tmp/\ufffd"}


async def test_much_output(outbox: Outbox, spool: Spool, items: Items) -> None:
    """Every line of much output arrives in order, and a line of 10 MB in parts that the service takes."""
    code = "for i in range(50000): print(i)\nprint('\\x1b' * 10_000_000)"
    await run(outbox, sys.executable, "-c", code)
    events = items(spool)
    lines, line = [], ""
    for payload in [item["payload"] for item in events if item["topic"] == "task.output"]:
        line += payload["output"]
        if not payload.get("partial"):
            lines.append(line)
            line = ""
    assert lines == [str(n) for n in range(50000)] + ["\x1b" * 10_000_000]
    parse_items(events, 1024 * 1024)


async def test_tail(outbox: Outbox, spool: Spool, items: Items) -> None:
    """The result holds the end of stdout, and no half of a character."""
    await run(outbox, sys.executable, "-X", "utf8", "-c", "print('é' * 10_000 + 'x')")
    stdout = items(spool)[-1]["payload"]["result"]["stdout"]
    assert stdout == "é" * ((TAIL_BYTES - 2) // 2) + "x\n"


async def test_echo(outbox: Outbox) -> None:
    """Output passes to the given descriptors byte for byte."""
    read_end, write_end = os.pipe()
    execution = Execution(Job("t1", ("printf", "a\\377\\r\\nb")), outbox, {"stdout": write_end})
    with trio.fail_after(10):
        await execution.run()
    os.close(write_end)
    with os.fdopen(read_end, "rb") as file:
        assert file.read() == b"a\xff\r\nb"


async def test_echo_without_reader(outbox: Outbox) -> None:
    """When nobody reads the echo any more, the program gets SIGPIPE as it would without us."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    execution = Execution(Job("t1", ("yes",)), outbox, {"stdout": write_end})
    with trio.fail_after(10):
        outcome = await execution.run()
    os.close(write_end)
    assert outcome.exit_code == 128 + signal.SIGPIPE


async def test_stop(outbox: Outbox, spool: Spool, items: Items, until: Until, nursery: trio.Nursery) -> None:
    """A program that was asked to stop leaves a cancelled task, whatever it returns."""
    script = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done"
    run = Running("sh", "-c", script, outbox=outbox)
    nursery.start_soon(run)
    await until(lambda: outputs(items(spool)))
    run.execution.stop(signal.SIGTERM, pass_on=True)
    await until(lambda: run.outcome)
    assert run.outcome == CommandOutcome("cancelled", 0, "stopped by SIGTERM")


async def test_left_running(outbox: Outbox, spool: Spool, items: Items) -> None:
    """Something left in the background that holds the output open does not hold up the end."""
    outcome = await run(outbox, "sh", "-c", "sleep 60 & echo $!")
    assert outcome == CommandOutcome("completed", 0)
    (pid,) = outputs(items(spool))
    os.kill(int(pid), signal.SIGKILL)


async def test_background_that_talks(outbox: Outbox, spool: Spool, items: Items) -> None:
    """Something in the background that goes on writing does not hold up the end; what came before is kept."""
    talk = "import os, time\nwhile True: os.write(1, b'request\\n'); time.sleep(0.01)"
    script = '"$0" -c "$1" & echo $!; yes line | head -n 20000; echo done >&2'
    outcome = await run(outbox, "sh", "-c", script, sys.executable, talk)
    assert outcome == CommandOutcome("completed", 0)
    shown = outputs(items(spool))
    assert shown.count("line") == 20_000
    assert outputs(items(spool), "stderr") == ["done"]
    with contextlib.suppress(ProcessLookupError):  # it may have met the closed pipe
        os.kill(next(int(line) for line in shown if line.isdigit()), signal.SIGKILL)


async def test_many_lines_are_few_records(outbox: Outbox, spool: Spool, items: Items) -> None:
    """Lines that come together are kept together, so that the command does not wait for each of them."""
    await run(outbox, "sh", "-c", "yes 'a line' | head -n 50000")
    assert outputs(items(spool)) == ["a line"] * 50_000
    assert sum(path.read_bytes().count(b"\n") for path in spool.folder.glob("*.ndjson")) < 1000


async def test_a_long_command(outbox: Outbox, spool: Spool, items: Items) -> None:
    """A command of a megabyte of arguments runs whole; watchers are told its beginning and its length."""
    words = [f"src/components/feature-{n}.ts" for n in range(33_000)]
    await run(outbox, "sh", "-c", 'echo "$# files"', "sh", *words)
    assert outputs(items(spool)) == ["33000 files"]
    told = items(spool)[0]["payload"]["input"]
    assert told["command"][:4] == ["sh", "-c", 'echo "$# files"', "sh"]
    assert told["words"] == 33_004
    assert len(orjson.dumps(items(spool)[0])) < 200_000


async def test_the_environment_of_the_command(
    outbox: Outbox, spool: Spool, items: Items, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is told where the service is and which task it is, and gets no key."""
    for name in ("HELIOGRAPH_API_KEY", "HELIOGRAPH_API_KEYS", "API_KEY_SECRET"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("HELIOGRAPH_URL", "http://other")
    await run(outbox, "sh", "-c", "env | grep -E 'HELIOGRAPH|SECRET' | sort", url="http://service")
    assert outputs(items(spool)) == ["HELIOGRAPH_TASK_ID=t1", "HELIOGRAPH_URL=http://service"]


async def test_a_pseudo_terminal(outbox: Outbox, spool: Spool, items: Items) -> None:
    """With one the command sees a terminal, and what it writes to either stream comes in its order."""
    script = "test -t 1 && test -t 2 && for n in 1 2 3; do echo out $n; echo err $n >&2; done; exit 3"
    outcome = await run(outbox, "sh", "-c", script, pty=True)
    assert outcome.exit_code == 3
    assert outputs(items(spool)) == [f"{stream} {n}" for n in (1, 2, 3) for stream in ("out", "err")]


async def test_a_program_that_is_not_there_gets_no_pseudo_terminal(outbox: Outbox) -> None:
    """What was made for a program that can't be started is given back."""
    await run(outbox, "true")
    before = len(os.listdir("/proc/self/fd"))
    assert (await run(outbox, "/no/such/program", pty=True)).exit_code == 127
    assert len(os.listdir("/proc/self/fd")) == before


async def test_cancelled(
    outbox: Outbox, spool: Spool, items: Items, until: Until, nursery: trio.Nursery
) -> None:
    """When the run is cancelled, all that the program started is killed and reaped, and the task ended."""
    run = Running("sh", "-c", "sleep 60 & echo $$ $!; wait", outbox=outbox, detached=True)
    nursery.start_soon(run)
    await until(lambda: outputs(items(spool)))
    run.scope.cancel()
    await until(lambda: run.scope.cancelled_caught)
    (pids,) = outputs(items(spool))
    shell, sleeper = map(int, pids.split())
    with pytest.raises(ProcessLookupError):
        os.kill(shell, 0)
    await until(lambda: not _runs(sleeper))
    assert items(spool)[-1]["payload"]["status"] == "cancelled"


def _runs(pid: int) -> bool:
    """Tell whether a process lives; one that only waits to be reaped by init does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_back_pressure(spool: Spool, items: Items, until: Until, nursery: trio.Nursery) -> None:
    """At the bound of the outbox the program waits; when it is stopped there, what it wrote is kept."""
    outbox = Outbox(spool, Client("http://127.0.0.1:1"), lambda sentence: None, limit=100_000)
    run = Running(sys.executable, "-c", COUNT, outbox=outbox)
    nursery.start_soon(run)
    await until(lambda: outbox.unsent >= 100_000)
    await trio.testing.wait_all_tasks_blocked(0.2)
    held = outbox.unsent
    assert held < 100_000 + 100 * READ_BYTES  # one more read, each short line of it in its envelope
    await trio.testing.wait_all_tasks_blocked(0.2)
    assert outbox.unsent == held
    run.execution.stop(signal.SIGKILL, pass_on=True)
    await until(lambda: run.outcome)
    lines = outputs(items(spool))
    assert lines[:-1] == [str(n) for n in range(len(lines) - 1)]
    assert items(spool)[-1]["payload"]["status"] == "cancelled"


def test_task_ids() -> None:
    """Ids made from any program name are valid, and differ."""
    programs = ["/usr/bin/python3.11", "./run me.sh", "", "-", "été", "x" * 300, "\udcff"]
    ids = [new_task_id(program) for program in programs * 2]
    assert all(is_name(task_id) for task_id in ids)
    assert len(set(ids)) == len(ids)
    assert ids[0].startswith("python3.11-")


class Emptied(Outbox):
    """An outbox that has sent everything, and keeps it nevertheless."""

    unsent = 0


@pytest.mark.parametrize(("kind", "beats"), [(Emptied, True), (Outbox, False)])
async def test_a_silent_command_is_said_to_be_alive(
    kind: type[Outbox],
    beats: bool,
    spool: Spool,
    items: Items,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The task announces a heartbeat, and has one while nothing is said and nothing waits to be sent."""
    monkeypatch.setattr(command, "HEARTBEAT_SECONDS", 0.02)
    outbox = kind(spool, Client("http://127.0.0.1:1"), lambda sentence: None)
    await run(outbox, "sleep", "0.3")
    said = items(spool)
    assert said[0]["payload"]["heartbeat_seconds"] == 0.02
    assert ("task.heartbeat" in {item["topic"] for item in said}) is beats
    assert said[-1]["payload"]["status"] == "completed"
