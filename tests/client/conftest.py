"""What the tests of the client share: a scripted service, a spool to look into, and the command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import h11
import orjson
import pytest
import trio
from tests.servers import free_port

from heliograph.client.spool import About, Spool, expand

LOST = "lost"
"""In a script: keep the events, and cut the connection instead of answering."""


class FakeService:
    """Keeps what is published, once for each key, unless its script has something else to do first.

    Attributes:
        kept: The items, in order.
        script: For the next publish requests: ``LOST``, or a status with headers and a problem document.
        streams: For the next GET requests: status and body; a stream's connection is cut after it.
        asked: Method, target and headers of each request.
        most: Bytes of the longest item that is taken.
    """

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []
        self.script: deque[str | tuple[int, dict[str, str], dict[str, Any]]] = deque()
        self.streams: deque[tuple[int, bytes]] = deque()
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.most = 1 << 30
        self.port = free_port()
        self._keys: set[str] = set()

    @property
    def url(self) -> str:
        """Where it is, or was."""
        return f"http://127.0.0.1:{self.port}"

    def outputs(self) -> list[str]:
        """Return the text of the output events that were kept."""
        return [item["payload"]["output"] for item in self.kept if item["topic"] == "task.output"]

    def statuses(self) -> list[str]:
        """Return the statuses that were kept."""
        return [item["payload"]["status"] for item in self.kept if item["topic"] == "task.status"]

    async def run(self, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        """Serve until the scope that this starts with is cancelled; again on the same port each time."""
        with trio.CancelScope() as scope:
            (listener,) = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, self._converse, [listener])
                task_status.started(scope)

    async def _converse(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        try:
            while await self._answer(stream, connection):
                connection.start_next_cycle()
        except (trio.BrokenResourceError, h11.ProtocolError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async def _answer(self, stream: trio.SocketStream, connection: h11.Connection) -> bool:
        request, body = None, b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some(65536))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return False
        assert request is not None
        headers = {name.decode(): value.decode() for name, value in request.headers}
        self.asked.append((request.method.decode(), request.target.decode(), headers))
        if request.method == b"GET":
            status, data = self.streams.popleft()
            cut = b"/stream" in request.target and status == 200
            await self._send(stream, connection, status, {}, data, end=not cut)
            return not cut
        step = self.script.popleft() if self.script else None
        if isinstance(step, tuple):
            status, more, problem = step
            await self._send(stream, connection, status, more, orjson.dumps(problem), end=True)
            return True
        if max(map(len, body.splitlines())) > self.most:
            await self._send(stream, connection, 413, {}, b"{}", end=True)
            return True
        items = [orjson.loads(line) for line in body.splitlines()]
        for item in items:
            if item["key"] not in self._keys:
                self._keys.add(item["key"])
                self.kept.append(item)
        if step == LOST:
            return False
        receipt = {"accepted": len(items), "ids": ["1-0"] * len(items), "cursor": f"{len(self.kept)}-0"}
        await self._send(stream, connection, 201, {}, orjson.dumps(receipt), end=True)
        return True

    async def _send(
        self,
        stream: trio.SocketStream,
        connection: h11.Connection,
        status: int,
        headers: dict[str, str],
        body: bytes,
        *,
        end: bool = False,
    ) -> None:
        length = {"Content-Length": str(len(body))} if end else {}
        fields = [(name.encode(), value.encode()) for name, value in {**headers, **length}.items()]
        data = connection.send(h11.Response(status_code=status, headers=fields)) or b""
        data += connection.send(h11.Data(data=body)) or b""
        if end:
            data += connection.send(h11.EndOfMessage()) or b""
        await stream.send_all(data)


@pytest.fixture
async def service(nursery: trio.Nursery) -> AsyncIterator[FakeService]:
    """A fake service that runs."""
    service = FakeService()
    scope = await nursery.start(service.run)
    yield service
    scope.cancel()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """A new spool."""
    with Spool.create(tmp_path, About("http://service", "t1", "a command")) as spool:
        yield spool


def read_items(spool: Spool) -> list[dict[str, Any]]:
    """Read every item that lies in a spool."""
    segments = sorted(spool.folder.glob("*.ndjson"))
    return [orjson.loads(line) for path in segments for line in expand(path.read_bytes()).splitlines()]


@pytest.fixture
def items() -> Callable[[Spool], list[dict[str, Any]]]:
    """Reads every item that lies in a spool."""
    return read_items


async def wait_until(condition: Callable[[], object]) -> None:
    """Wait until something is so, for ten seconds at most."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 (what is waited for is outside this process)
            await trio.sleep(0.01)


@pytest.fixture
def until() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Waits until something is so."""
    return wait_until


class Heliograph:
    """Runs the command, with a state folder of its own."""

    def __init__(self, state: Path) -> None:
        self.environment = {**os.environ, "XDG_STATE_HOME": str(state)}
        self.spools = state / "heliograph" / "spool"

    async def __call__(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run it to its end."""
        with trio.fail_after(60):
            return await trio.run_process(
                [sys.executable, "-m", "heliograph", *arguments],
                stdin=stdin,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env=self.environment,
            )

    async def start(self, *arguments: str) -> trio.Process:
        """Start it with its stdout in a pipe."""
        return await trio.lowlevel.open_process(
            [sys.executable, "-m", "heliograph", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=self.environment,
        )


@pytest.fixture
def heliograph(tmp_path: Path) -> Heliograph:
    """The command."""
    return Heliograph(tmp_path / "state")
