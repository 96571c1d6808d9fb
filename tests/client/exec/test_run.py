"""``heliograph exec`` as a process, as its users meet it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from heliograph.client.api import Client
from heliograph.client.exec.command import Execution
from heliograph.client.exec.job import Job
from heliograph.client.exec.run import _pass_signals
from heliograph.client.outbox import Outbox
from heliograph.client.spool import Spool

if TYPE_CHECKING:
    from tests.client.conftest import FakeService, Heliograph

Until = Callable[[Callable[[], object]], Awaitable[None]]

NOBODY = "http://127.0.0.1:1"


async def read_until(process: trio.Process, wanted: bytes) -> bytes:
    """Read a process's stdout until it holds something."""
    assert process.stdout is not None
    seen = b""
    with trio.fail_after(30):
        while wanted not in seen:
            data = await process.stdout.receive_some()
            assert data, seen
            seen += data
    return seen


async def test_passes_all_on(service: FakeService, heliograph: Heliograph) -> None:
    """stdin, stdout, stderr and the exit code are the command's own, and the service has the task."""
    script = "cat; printf oops >&2; exit 7"
    done = await heliograph(
        "exec", "--url", service.url, "--agent", "a", "--", "sh", "-c", script, stdin=b"one\ntwo"
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, b"one\ntwo", b"oops")
    assert sorted(service.outputs()) == ["one", "oops", "two"]
    assert service.statuses() == ["running", "failed"]
    assert service.kept[0]["payload"]["agent"] == "a"
    assert list(heliograph.spools.iterdir()) == []


async def test_quiet(service: FakeService, heliograph: Heliograph) -> None:
    """With --quiet the terminal stays silent, and the service gets the output all the same."""
    done = await heliograph("exec", "--quiet", "--url", service.url, "echo", "hi")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert service.outputs() == ["hi"]


async def test_not_found(service: FakeService, heliograph: Heliograph) -> None:
    """A command that is not there gives 127, a sentence and a failed task."""
    done = await heliograph("exec", "--url", service.url, "--", "no-such-command")
    assert (done.returncode, done.stdout) == (127, b"")
    assert done.stderr == b"heliograph: command not found: no-such-command\n"
    assert service.statuses() == ["failed"]


async def test_signal_is_passed_on(service: FakeService, heliograph: Heliograph) -> None:
    """A signal to exec reaches the command; the task is cancelled and the exit code is the command's."""
    process = await heliograph.start("exec", "--url", service.url, "--", "sh", "-c", "echo go; exec sleep 60")
    await read_until(process, b"go")
    process.send_signal(signal.SIGINT)
    with trio.fail_after(20):
        assert await process.wait() == 130
    assert service.statuses() == ["running", "cancelled"]


async def test_third_signal_kills(service: FakeService, heliograph: Heliograph) -> None:
    """A command that does not heed signals is killed by the third."""
    script = "trap 'echo no' TERM; echo go; while :; do sleep 0.05; done"
    process = await heliograph.start("exec", "--url", service.url, "--", "sh", "-c", script)
    await read_until(process, b"go")
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        await read_until(process, b"no")
    process.send_signal(signal.SIGTERM)
    with trio.fail_after(20):
        assert await process.wait() == 137
    assert service.statuses() == ["running", "cancelled"]


ON_A_TERMINAL = "import os, sys; os.login_tty(int(sys.argv[1])); os.execv(sys.executable, sys.argv[2:])"
COUNTS_INTERRUPTS = """
import signal, time
interrupts = []
signal.signal(signal.SIGINT, lambda *_: interrupts.append(print("got", flush=True)))
print("go", flush=True)
while not interrupts:
    time.sleep(0.01)
time.sleep(0.3)
print("end", flush=True)
"""


async def test_ctrl_c_reaches_the_command_once(service: FakeService, heliograph: Heliograph) -> None:
    """Ctrl-C on a terminal, which signals the command by itself, is not passed on a second time."""
    ours, theirs = os.openpty()
    command = ["heliograph", "exec", "--url", service.url, "--", sys.executable, "-c", COUNTS_INTERRUPTS]
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", ON_A_TERMINAL, str(theirs), sys.executable, "-m", *command],
        env=heliograph.environment,
        pass_fds=[theirs],
    )
    os.close(theirs)
    async with trio.lowlevel.FdStream(ours) as terminal:
        seen = b""
        with trio.fail_after(30):
            while b"go\r\n" not in seen:
                seen += await terminal.receive_some()
            await terminal.send_all(b"\x03")
            while b"end\r\n" not in seen:
                seen += await terminal.receive_some()
            await process.wait()
    assert b"heliograph tail task:" in seen
    assert service.outputs() == ["go", "got", "end"]
    assert service.statuses() == ["running", "cancelled"]


async def test_ctrl_c_on_a_command_that_ends_at_once(service: FakeService, heliograph: Heliograph) -> None:
    """One Ctrl-C ends the command; its end is sent all the same, however late we hear of the Ctrl-C."""
    ours, theirs = os.openpty()
    command = ["heliograph", "exec", "--url", service.url, "--", "sh", "-c", "echo go; exec sleep 60"]
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", ON_A_TERMINAL, str(theirs), sys.executable, "-m", *command],
        env=heliograph.environment,
        pass_fds=[theirs],
    )
    os.close(theirs)
    async with trio.lowlevel.FdStream(ours) as terminal:
        seen = b""
        with trio.fail_after(30):
            while b"go\r\n" not in seen:
                seen += await terminal.receive_some()
            await terminal.send_all(b"\x03")
            assert await process.wait() == 130
    assert service.statuses() == ["running", "cancelled"]
    assert list(heliograph.spools.iterdir()) == []


async def test_a_signal_behind_the_end_leaves_only_what_is_waited_for(
    spool: Spool, nursery: trio.Nursery
) -> None:
    """The first signal after the command's end was meant for the command; the second is meant for us."""
    execution = Execution(Job("t1", ("true",)), Outbox(spool, Client(NOBODY), print))
    execution.ended = True
    waiting, told = trio.CancelScope(), trio.Event()
    send, receive = trio.open_memory_channel[int](0)
    nursery.start_soon(_pass_signals, receive, execution, waiting, told)
    await send.send(signal.SIGINT)
    await trio.testing.wait_all_tasks_blocked()
    assert not waiting.cancel_called
    await send.send(signal.SIGINT)
    await trio.testing.wait_all_tasks_blocked()
    assert waiting.cancel_called
    await send.aclose()


async def test_away_then_next_exec(
    service: FakeService, heliograph: Heliograph, nursery: trio.Nursery
) -> None:
    """What could not be sent is kept, stderr says where and how, and the next exec sends it."""
    done = await heliograph(
        "exec", "--wait", "0", "--url", NOBODY, "--task-id", "t1", "sh", "-c", "echo hi; exit 4"
    )
    assert (done.returncode, done.stdout) == (4, b"hi\n")
    assert f"publish --spooled --url {NOBODY}\n".encode() in done.stderr
    (spool,) = heliograph.spools.iterdir()
    assert str(spool).encode() in done.stderr
    about = spool / "about.json"
    about.write_text(about.read_text().replace(NOBODY, service.url))
    done = await heliograph("exec", "--url", service.url, "--task-id", "t2", "echo", "there")
    assert (done.returncode, done.stderr) == (0, b"")
    stories = {
        task: [item["topic"] for item in service.kept if item["payload"]["task_id"] == task]
        for task in ("t1", "t2")
    }
    assert stories["t1"] == stories["t2"] == ["task.created", "task.status", "task.output", "task.status"]
    assert list(heliograph.spools.iterdir()) == []


@pytest.mark.parametrize("flush", [True, False])
async def test_killed(
    service: FakeService, heliograph: Heliograph, nursery: trio.Nursery, flush: bool
) -> None:
    """After kill -9 of exec everything that it had read is sent, once and in order, and the task is ended."""
    code = f"for n in range(3000): print(n, flush={flush or 'n == 2999'})\nimport time; time.sleep(60)"
    service.script.extend([(503, {"Retry-After": "600"}, {})] * 100)
    process = await heliograph.start("exec", "--url", service.url, "--", sys.executable, "-c", code)
    seen = await read_until(process, b"2999\n")
    process.kill()
    await process.wait()
    service.script.clear()
    done = await heliograph("publish", "--spooled", "--url", service.url)
    assert done.returncode == 0, done.stderr
    assert service.outputs() == seen.decode().split()
    assert service.statuses() == ["running", "failed"]
    assert "killed" in service.kept[-1]["payload"]["result"]["error"]


async def test_spooled_while_away(heliograph: Heliograph) -> None:
    """What stays in the spools is told, with an exit status of its own, for this service only."""
    await heliograph("exec", "--wait", "0", "--url", NOBODY, "true")
    done = await heliograph("publish", "--spooled", "--wait", "0", "--url", NOBODY)
    assert done.returncode == 3
    assert b"0 spools were sent, 1 stay" in done.stderr
    done = await heliograph("publish", "--spooled", "--wait", "0", "--url", "http://127.0.0.1:2")
    assert done.returncode == 0
    assert b"0 spools were sent, 0 stay" in done.stderr
    assert f"publish --spooled --url {NOBODY}\n".encode() in done.stderr


async def test_refused_key(service: FakeService, heliograph: Heliograph) -> None:
    """A refused key is told, does not hold up the command, and loses nothing."""
    service.script.append((401, {}, {"detail": "unknown key"}))
    done = await heliograph("exec", "--url", service.url, "--wait", "1000", "echo", "hi")
    assert (done.returncode, done.stdout) == (0, b"hi\n")
    assert b"unknown key" in done.stderr
    assert len(list(heliograph.spools.iterdir())) == 1


async def test_nowhere_to_keep(service: FakeService, heliograph: Heliograph) -> None:
    """If output could not be kept, the command is not started."""
    heliograph.environment["XDG_STATE_HOME"] = "/dev/null"
    done = await heliograph("exec", "--url", service.url, "echo", "hi")
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"/dev/null" in done.stderr
    assert service.kept == []


@pytest.mark.parametrize("arguments", [[], ["--task-id", "not valid", "true"], ["--wait", "-1", "true"]])
async def test_usage(heliograph: Heliograph, arguments: list[str]) -> None:
    """Wrong usage is told before anything is run."""
    done: subprocess.CompletedProcess[bytes] = await heliograph("exec", *arguments)
    assert done.returncode == 2
    assert b"Usage:" in done.stderr
