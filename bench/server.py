"""A server under test as a child process: started on a free port, watched through /proc, always ended.

It runs alone on the last of this process's CPUs, and the harness on the first, so that neither takes
time from the other. Every child is under ``timeout`` and so ends even if the harness is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType

from bench.peer import ROOT, Peer

START_SECONDS = 30.0
STOP_SECONDS = 5.0
LIFE_SECONDS = 900
TICK = os.sysconf("SC_CLK_TCK")
HOST = "127.0.0.1"
CPUS = sorted(os.sched_getaffinity(0))
SERVER_CPUS = {CPUS[-1]}
CLIENT_CPUS = set(CPUS[:-1]) or SERVER_CPUS


class BenchError(Exception):
    """A measurement could not be made; the message says which and why."""


class Server:
    """One run of a peer; a context manager. ``restart`` starts it again on the same port and data."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.port = _free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"bench-{peer.name}-"))
        self._guard: subprocess.Popen[bytes] | None = None
        self._log = self.folder / "output.log"

    def __enter__(self) -> Server:
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start the program and wait until its port takes connections.

        Raises:
            BenchError: It ended, or did not listen in time; with the end of what it wrote.
        """
        command = self.peer.command(self.port, self.folder)
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", **command.environment}
        with self._log.open("ab") as log:
            os.sched_setaffinity(0, SERVER_CPUS)
            try:
                self._guard = subprocess.Popen(
                    ["timeout", "--kill-after=5", str(LIFE_SECONDS), *command.arguments],
                    cwd=self.folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            finally:
                os.sched_setaffinity(0, CLIENT_CPUS)
        deadline = monotonic() + START_SECONDS
        while True:
            with socket.socket() as probe:
                if probe.connect_ex((HOST, self.port)) == 0:
                    return
            if self._guard.poll() is not None or monotonic() > deadline:
                tail = self._log.read_text(errors="replace")[-2000:]
                raise BenchError(f"{self.peer.name} did not start: {tail or 'it said nothing'}")
            sleep(0.02)

    def kill(self) -> None:
        """Kill every process of it at once, as a crash would."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._guard is not None:
            self._guard.wait()

    def stop(self) -> None:
        """Ask it to end; kill what is left after a while."""
        if self._guard is None:
            return
        pids = self.pids()
        self._guard.terminate()
        try:
            self._guard.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        for pid in pids:
            stat = _stat(pid)
            if stat is not None and int(stat[3]) == self._guard.pid:  # its session: not a reused number
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def pids(self) -> list[int]:
        """Return the program's processes, without the guard around it."""
        assert self._guard is not None
        found = []
        look = [self._guard.pid]
        while look:
            pid = look.pop()
            with contextlib.suppress(OSError):
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                look += [int(child) for child in children]
                found += [int(child) for child in children]
        return found

    def cpu(self) -> float:
        """Return the CPU seconds, user and system, of all its processes so far."""
        stats = [stat for pid in self.pids() if (stat := _stat(pid))]
        return sum(int(stat[11]) + int(stat[12]) for stat in stats) / TICK

    def memory(self) -> int:
        """Return its resident bytes; pages that its processes share count once."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1]) * 1024
        return total

    def sockets(self) -> int:
        """Return the number of sockets that its processes have open."""
        count = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for file in Path(f"/proc/{pid}/fd").iterdir():
                    with contextlib.suppress(OSError):
                        count += str(file.readlink()).startswith("socket:")
        return count


def _stat(pid: int) -> list[str] | None:
    """Return /proc/PID/stat after the name: [3] is the session, [11] and [12] utime and stime."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
