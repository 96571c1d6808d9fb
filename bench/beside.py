"""Both forms of Heliograph beside dashboards' backends that do the same work (``peers/backend_app``).

A *side* is a server with the databases that it needs, all its own; what it costs is the CPU of all their
processes. The sides of one comparison run at once and are asked in turns.
"""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import quantiles
from time import perf_counter

import attrs
import psutil
from tests.servers import free_port, postgres_server, redis_server, wait_until
from tests.storages import migrated_database, new_database

from bench.peer import ROOT
from bench.server import CLIENT_CPUS, HOST, SERVER_CPUS, BenchError

PAIRS = {"embedded": "SQLite", "distributed": "PostgreSQL + Redis"}
"""By form of ours: the peer's databases."""

ANSWER_SECONDS = 60.0
START_SECONDS = 120.0


@attrs.frozen
class Side:
    """A server that runs.

    Args:
        ours: Whether it is Heliograph.
        form: Of ``PAIRS``.
        port: Where it listens.
        roots: Its processes, each with what it has started.
        database: Where its tables are: a file, or a URL.
    """

    ours: bool
    form: str
    port: int
    roots: Sequence[int]
    database: str

    @property
    def name(self) -> str:
        """What the table calls it."""
        return f"ours, {self.form}" if self.ours else f"peer, {PAIRS[self.form]}"

    def cpu(self) -> dict[int, float]:
        """Return the CPU seconds of each of its processes so far."""
        found = {}
        for root in self.roots:
            process = psutil.Process(root)
            for one in (process, *process.children(recursive=True)):
                try:
                    found[one.pid] = time.clock_gettime((~one.pid << 3) | 2)  # of all its threads, in ns
                except OSError:
                    continue  # it has ended
        return found

    def spent(self, before: dict[int, float]) -> float:
        """Return the CPU seconds spent since."""
        return sum(seconds - before.get(pid, 0.0) for pid, seconds in self.cpu().items())

    def memory(self) -> float:
        """Return the resident MiB of the server's own process."""
        return float(psutil.Process(self.roots[0]).memory_info().rss) / 1024**2


@contextmanager
def side(
    form: str, folder: Path, *, ours: bool, fill: Callable[[str], None] = lambda database: None
) -> Iterator[Side]:
    """Run one side.

    Args:
        form: Of ``PAIRS``.
        folder: For its files; with its database, if that was made before.
        ours: Whether it is Heliograph.
        fill: Given where its database is, puts data into it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        roots, redis_url = [], ""
        os.sched_setaffinity(0, CLIENT_CPUS | SERVER_CPUS)  # what is started here inherits them
        try:
            if form == "embedded":
                database = str(folder / ("heliograph.db" if ours else "peer.db"))
            else:
                redis = stack.enter_context(redis_server(appendfsync="always"))
                postgres = stack.enter_context(postgres_server(shared_buffers="256MB"))
                made = migrated_database if ours else new_database
                database, redis_url = stack.enter_context(made(postgres.url())), redis.url
                roots = [redis.pid, postgres.pid]
            fill(database)
            port = free_port()
            command, environment = (_ours if ours else _peer)(form, folder, port, database, redis_url)
            os.sched_setaffinity(0, SERVER_CPUS)
            process = stack.enter_context(_running(command, environment, folder, port))
        finally:
            os.sched_setaffinity(0, CLIENT_CPUS)
        yield Side(ours, form, port, [process, *roots], database)


def _ours(
    form: str, folder: Path, port: int, database: str, redis_url: str
) -> tuple[list[str], dict[str, str]]:
    (folder / "config.toml").write_text("")
    where = (
        {"HELIOGRAPH_DATA": str(folder)}
        if form == "embedded"
        else {"DATABASE_URL": database, "REDIS_URL": redis_url}
    )
    command = [sys.executable, "-m", "heliograph", "serve", "--config", str(folder / "config.toml")]
    return command, {"PORT": str(port), "LOG_LEVEL": "WARNING", **where}


def _peer(
    form: str, folder: Path, port: int, database: str, redis_url: str
) -> tuple[list[str], dict[str, str]]:
    command = [sys.executable, "-m", "bench.peers.backend_app", str(port)]
    if form == "embedded":
        return [*command, f"sqlite+aiosqlite:///{database}"], {}
    return [*command, database.replace("postgresql://", "postgresql+asyncpg://"), redis_url], {}


@contextmanager
def _running(command: list[str], environment: dict[str, str], folder: Path, port: int) -> Iterator[int]:
    path = folder / "output.log"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", **environment}
    with path.open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)

    def listens() -> bool:
        if process.poll() is not None:
            raise BenchError(f"{command[2]} ended: {path.read_text()[-2000:]}")
        with socket.socket() as probe:
            return probe.connect_ex((HOST, port)) == 0

    try:
        wait_until(listens, command[2], START_SECONDS)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@attrs.define
class _Caller:
    """A connection on which one request is under way."""

    number: int
    sock: socket.socket
    received: bytearray = attrs.field(factory=bytearray)
    left: int = -1
    """Bytes of the answer that are to come; -1: its head has not come; -2: it is chunked."""

    sent: float = 0.0

    def ask(self, request: bytes) -> None:
        """Send a request."""
        self.received.clear()
        self.left = -1
        self.sent = perf_counter()
        self.sock.setblocking(True)
        self.sock.sendall(request)

    def has_answer(self) -> bool:
        """Read what has come; tell whether the answer is whole.

        Raises:
            BenchError: It is none of those that are good.
        """
        data = self.sock.recv(262144)
        if not data:
            raise BenchError(f"cut off: {bytes(self.received)!r}")
        if self.left >= 0:
            self.left -= len(data)
            return self.left <= 0
        self.received += data
        if self.left == -1:
            head, found, body = bytes(self.received).partition(b"\r\n\r\n")
            if not found:
                return False
            if not head.startswith((b"HTTP/1.1 20", b"HTTP/1.1 304")):
                raise BenchError(bytes(self.received[:2000]).decode(errors="replace"))
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    self.left = int(line[15:]) - len(body)
                    return self.left <= 0
            if head.startswith(b"HTTP/1.1 304"):
                return True
            self.left = -2
        del self.received[:-5]
        return self.received.endswith(b"0\r\n\r\n")


@attrs.frozen
class Drove:
    """What a measurement has found.

    Args:
        requests: Answered.
        seconds: That it took.
        cpu: Seconds of the side's CPU.
        latencies: Of each answer, in seconds.
    """

    requests: int
    seconds: float
    cpu: float
    latencies: Sequence[float]

    def percentile(self, percent: int) -> float:
        """Return a percentile of the latencies, in milliseconds."""
        if len(self.latencies) < 2:
            return self.latencies[0] * 1000
        return quantiles(self.latencies, n=100, method="inclusive")[percent - 1] * 1000


def drive(
    where: Side,
    request: Callable[[int, int], bytes],
    connections: int,
    seconds: float,
    *,
    at_least: int = 1,
    rate: float | None = None,
) -> Drove:
    """Ask on some connections, on each one request after the other; count what it costs the side.

    Args:
        where: The side.
        request: Makes a request, given the connection's number and how many were made before.
        connections: How many.
        seconds: For how long.
        at_least: Requests on each connection, however long they take.
        rate: Requests a second in all, on whatever connection is free; ``None``: as many as are answered.
    """
    callers = []
    for number in range(connections):
        sock = socket.create_connection((HOST, where.port), timeout=ANSWER_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        callers.append(_Caller(number, sock))
    latencies: list[float] = []
    asked = [0] * connections
    with selectors.DefaultSelector() as selector:
        for caller in callers:
            selector.register(caller.sock, selectors.EVENT_READ, caller)
        before, begun = where.cpu(), perf_counter()
        idle, busy, made = list(callers), 0, 0

        def due() -> bool:
            now = perf_counter() - begun
            if rate is None:
                return now < seconds or min(asked) < at_least
            return now < seconds and made < now * rate

        while True:
            while idle and due():
                caller = idle.pop()
                caller.ask(request(caller.number, made))
                asked[caller.number] += 1
                made, busy = made + 1, busy + 1
            if not busy and (rate is None or perf_counter() - begun >= seconds):
                break
            ready = selector.select(0.001 if rate is not None else ANSWER_SECONDS)
            if not ready and rate is None:
                raise BenchError(f"{where.name}: no answer within {ANSWER_SECONDS:g} s")
            for key, _ in ready:
                caller = key.data
                if caller.has_answer():
                    latencies.append(perf_counter() - caller.sent)
                    busy -= 1
                    idle.append(caller)
        took = perf_counter() - begun
        cpu = where.spent(before)
    for caller in callers:
        caller.sock.close()
    return Drove(len(latencies), took, cpu, latencies)


def get(path: str, headers: str = "") -> bytes:
    """Write a GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{headers}\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    """Write a POST request."""
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
