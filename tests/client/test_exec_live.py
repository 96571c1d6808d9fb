"""A command's output through the real service to every watcher, also when the service dies meanwhile."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import orjson
import pytest
import trio
from tests.servers import free_port

from heliograph.client.api import Client
from heliograph.client.follower import follow
from heliograph.client.following import Following
from heliograph.model.event import Event
from heliograph.model.task import TERMINAL

if TYPE_CHECKING:
    from tests.client.conftest import Heliograph

LINES = 1500
SLOW_COUNT = f"""
import time
for n in range({LINES}):
    print(n, flush=True)
    time.sleep(0.001)
"""


@attrs.define
class Live:
    """The real service in a process of its own, which can be killed and started again on its port."""

    data: Path
    port: int = attrs.field(factory=free_port)
    process: trio.Process | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Serve, and wait until it does."""
        self.process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "heliograph", "serve", "--port", str(self.port)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "HELIOGRAPH_DATA": str(self.data)},
        )
        assert self.process.stderr is not None
        said = b""
        with trio.fail_after(30):
            while b'"serving"' not in said or not said.endswith(b"\n"):
                data = await self.process.stderr.receive_some()
                assert data, said
                said += data

    async def kill(self) -> None:
        """Kill it as hard as can be."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()
        assert self.process.stderr is not None
        await self.process.stderr.aclose()


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    """The real service."""
    data = tmp_path / "data"
    data.mkdir()
    live = Live(data)
    await live.start()
    yield live
    await live.kill()


class Watcher:
    """Follows a task from its beginning to its end."""

    def __init__(self, url: str, task_id: str, transport: str) -> None:
        self.events: list[Event] = []
        self.ended = trio.Event()
        self._url = url
        self._following = Following(f"task:{task_id}", after="0-0")
        self._transport = transport

    async def run(self) -> None:
        """Follow."""
        async with Client(self._url) as client, follow(client, self._following, self._transport) as items:
            async for item in items:
                assert isinstance(item, Event), item
                self.events.append(item)
                if item.topic == "task.status" and item.payload["status"] in TERMINAL:
                    break
        self.ended.set()

    def outputs(self) -> list[str]:
        """Return the output that it saw."""
        return [event.payload["output"] for event in self.events if event.topic == "task.output"]


async def test_nothing_lost_when_the_service_dies(
    live: Live, heliograph: Heliograph, nursery: trio.Nursery
) -> None:
    """With the service killed in the middle, every watcher and the store have each line once, in order."""
    watchers = [Watcher(live.url, "t1", transport) for transport in ("sse", "ws")]
    with trio.fail_after(90):
        async with trio.open_nursery() as watching:
            for watcher in watchers:
                watching.start_soon(watcher.run)
            command = [
                "exec",
                "--url",
                live.url,
                "--task-id",
                "t1",
                "--wait",
                "60",
                sys.executable,
                "-c",
                SLOW_COUNT,
            ]
            process = await heliograph.start(*command)
            assert process.stdout is not None
            await process.stdout.receive_some(2000)
            for _ in range(2):
                await live.kill()
                await live.start()
            async for _ in process.stdout:
                pass
            assert await process.wait() == 0
            for watcher in watchers:
                await watcher.ended.wait()
    numbers = [str(n) for n in range(LINES)]
    for watcher in watchers:
        assert watcher.outputs() == numbers
        assert [event.seq for event in watcher.events] == list(range(1, len(watcher.events) + 1))
    async with Client(live.url) as client:
        task = await client.task("t1")
        assert (task.status, task.output_lines) == ("completed", LINES)
        async with client.full_log("t1") as chunks:
            text = b"".join([chunk async for chunk in chunks])
        assert text.decode().split() == numbers
        assert [line.output for line in await client.logs("t1", tail=3)] == numbers[-3:]
        assert [task.task_id for task in (await client.tasks(status="completed")).tasks] == ["t1"]
    assert list(heliograph.spools.iterdir()) == []


async def test_a_terminal_that_lacks_our_signs(live: Live, heliograph: Heliograph) -> None:
    """Where stdout is not UTF-8, tail shows ? for what can't be shown, and all of the rest."""
    url = ["--url", live.url]
    await heliograph("exec", *url, "--task-id", "t1", "echo", "caf\u00e9 \u2714")
    heliograph.environment["PYTHONIOENCODING"] = "latin-1"
    shown = await heliograph("tail", *url, "task:t1")
    assert shown.returncode == 0
    assert shown.stdout.startswith(b"? created")
    assert b"\ncaf\xe9 ?\n? completed" in shown.stdout


async def test_commands_meet(live: Live, heliograph: Heliograph) -> None:
    """What publish and exec send, tail shows, over both transports, and it ends when the task has."""
    url = ["--url", live.url]
    script = "echo out; echo err >&2; printf '10%%\\r'; sleep 0.4; printf '20%%\\n'; exit 3"
    await heliograph("exec", *url, "--task-id", "t1", "sh", "-c", script)
    for transport in ("sse", "ws"):
        shown = await heliograph("tail", *url, "--transport", transport, "task:t1")
        assert shown.returncode == 0
        lines = shown.stdout.decode().splitlines()
        assert sorted(lines[2:4]) == ["err", "out"]
        assert lines[4:6] == ["10%", "20%"]
        assert lines[-1].startswith("✘ failed after")
        filtered = ["--transport", transport, "--topic", "task.output", "-n", "1", "task:t1"]
        assert (await heliograph("tail", *url, *filtered)).stdout == b"20%\n"
    pipeline = f"{shlex.quote(sys.executable)} -m heliograph tail --url {live.url} task:t1 | head -1"
    head = await trio.run_process(["sh", "-c", pipeline], capture_stdout=True, capture_stderr=True)
    assert head.stdout.startswith(b"\xe2\x97\x8b created")
    assert head.stderr == b""
    last = await heliograph("tail", *url, "--json", "-n", "1", "task:t1")
    assert orjson.loads(last.stdout)["payload"]["result"]["exit_code"] == 3
    event = ["--topic", "pipeline.started", "--payload", '{"workflow_id": "w1"}', "--key", "k"]
    first = await heliograph("publish", *url, *event)
    again = await heliograph("publish", *url, *event)
    assert first.returncode == 0
    assert first.stdout == again.stdout
    items = (
        b'{"type": "task_output", "task_id": "t2", "output": "a"}\n{"type": "task_output", "task_id": "t2"}\n'
    )
    wrong = await heliograph("publish", *url, stdin=items)
    assert (wrong.returncode, wrong.stdout) == (1, b"")
    assert wrong.stderr.startswith(b"heliograph: item 1: output: ")
