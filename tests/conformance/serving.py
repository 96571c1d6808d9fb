"""Services for tests: in the test's own nursery, or as a process that can be killed and measured."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import psutil
import trio
from tests.servers import free_port

from heliograph import service
from heliograph.config import ServerSettings, Settings, StorageSettings

START_SECONDS = 30.0


def settings_for(folder: Path, **sections: Any) -> Settings:
    """Make settings for a service on a free port with its data in ``folder``.

    Args:
        sections: Settings by section, such as ``streams={"rotate_seconds": 5}``, or by name.
    """
    settings = attrs.evolve(Settings(), storage=StorageSettings(folder), server=ServerSettings(port=0))
    changed = {
        name: attrs.evolve(getattr(settings, name), **values) if isinstance(values, Mapping) else values
        for name, values in sections.items()
    }
    return attrs.evolve(settings, **changed)


@attrs.define
class Served:
    """A service in the test's own process.

    Args:
        url: Where it is.
        stopped: Set when it has ended.
    """

    url: str
    stopped: trio.Event = attrs.field(factory=trio.Event)

    async def terminate(self) -> None:
        """Send SIGTERM to this process and wait for the service's end."""
        os.kill(os.getpid(), signal.SIGTERM)
        await self.stopped.wait()


async def serve(nursery: trio.Nursery, settings: Settings) -> Served:
    """Start a service in a nursery."""
    served = Served("")

    async def run(*, task_status: trio.TaskStatus[str]) -> None:
        try:
            await service.run(settings, task_status=task_status)
        finally:
            served.stopped.set()

    served.url = await nursery.start(run)
    return served


@attrs.define
class Process:
    """A service in a process of its own, on a port that it keeps over restarts.

    Args:
        folder: Its working folder, with ``config.toml`` and the data.
        sections: Settings by section.
    """

    folder: Path
    sections: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)
    port: int = attrs.field(factory=free_port)
    _popen: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def process(self) -> psutil.Process:
        """The running process, to be measured."""
        assert self._popen is not None
        return psutil.Process(self._popen.pid)

    async def start(self) -> None:
        """Start it and wait until it answers."""
        self.launch()
        assert self._popen is not None
        with trio.fail_after(START_SECONDS):
            while not await self._answers():
                assert self._popen.poll() is None, self.log()
                await trio.sleep(0.02)

    def launch(self) -> None:
        """Start it."""
        lines = [
            line
            for name, values in self.sections.items()
            for line in (f"[{name}]", *(f"{key} = {value}" for key, value in values.items()))
        ]
        (self.folder / "config.toml").write_text("\n".join(lines))
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PORT": str(self.port),
            "HELIOGRAPH_DATA": str(self.folder / "data"),
            "LOG_LEVEL": "WARNING",
        }
        with (self.folder / "service.log").open("ab") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "heliograph", "serve"],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
            )

    async def _answers(self) -> bool:
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        except OSError:
            return False
        await trio.aclose_forcefully(stream)
        return True

    def log(self) -> str:
        """Return what it said so far."""
        return (self.folder / "service.log").read_text()

    async def stop(self) -> None:
        """Send SIGTERM and wait for its end."""
        assert self._popen is not None
        self._popen.terminate()
        with trio.fail_after(START_SECONDS):
            status = await trio.to_thread.run_sync(self._popen.wait)
        assert status == 0, self.log()

    def kill(self) -> None:
        """Kill it as a power cut would."""
        assert self._popen is not None
        self._popen.kill()
        self._popen.wait()


@asynccontextmanager
async def process(folder: Path, **sections: Mapping[str, Any]) -> AsyncIterator[Process]:
    """Run a service as a process; kill it at the end."""
    made = Process(folder, sections)
    await made.start()
    try:
        yield made
    finally:
        made.kill()
