"""``python -m bench.publishing``: what an event costs, beside a dashboard's backend that does the same work.

Four sides publish in turns: both forms of Heliograph, a FastAPI backend over SQLite and one over PostgreSQL
with Redis. Each event is a line of a running task; it is durable, and its task is updated, before the
publisher is answered. In most rows nobody watches; in the others each task has one watcher over a WebSocket,
and the row ends when every watcher has heard everything.
"""

from __future__ import annotations

import os
import resource
import selectors
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

import attrs
import click
import orjson
from rich.console import Console
from rich.table import Table

from bench import machine
from bench.beside import PAIRS, Side, drive, get, post, side
from bench.server import CLIENT_CPUS, HOST, BenchError
from heliograph.client.load import Heliograph

TASKS = 50
"""Running tasks that each connection writes lines of, in turn."""

WATCHED_SECONDS = 30.0
UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: aGVsaW9ncmFwaC1sb2FkIQ==\r\n"
)
LINE = "x" * 100


@attrs.frozen
class Row:
    """How it is published; with watchers, at a rate and to so many tasks."""

    connections: int
    events: int
    watchers: int = 0
    rate: float = 0.0

    @property
    def name(self) -> str:
        """What the table calls it."""
        if self.watchers:
            return f"{self.watchers:,} watched tasks, {self.rate * self.events:g}/s, {self.events} a request"
        return f"{self.connections} x {self.events}"


def rows(watchers: int) -> list[Row]:
    """Return all rows."""
    shapes = ((1, 1), (8, 1), (64, 1), (1, 20), (8, 20), (1, 100), (8, 100))
    watched = [Row(8, 1, watchers, 200.0), Row(8, 20, watchers, 100.0)] if watchers else []
    return [*(Row(*shape) for shape in shapes), *watched]


def _request(one: Side, row: Row, connection: int, number: int) -> bytes:
    """Write a request: its lines go to tasks in turn."""
    tasks, first = row.watchers or row.connections * TASKS, number * row.events
    items = [
        {"type": "task_output", "task_id": f"t-{(first + n) % tasks}", "output": LINE}
        for n in range(row.events)
    ]
    return post("/api/v1/events" if one.ours else "/publish", orjson.dumps(items))


class Watchers:
    """WebSockets, one for each task, read by a thread that counts the messages.

    Args:
        one: The side.
        count: How many.
    """

    def __init__(self, one: Side, count: int) -> None:
        self.heard = 0
        self._one = one
        self._selector = selectors.DefaultSelector()
        self._sockets = [self._open(number) for number in range(count)]
        self._over = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _open(self, number: int) -> socket.socket:
        sock = socket.create_connection((HOST, self._one.port), timeout=30)
        sock.sendall(get("/ws" if self._one.ours else f"/ws/t-{number}", UPGRADE))
        received = b""
        while b"\r\n\r\n" not in received:
            received += sock.recv(4096)
        if b" 101 " not in received:
            raise BenchError(received.decode(errors="replace"))
        if self._one.ours:
            sock.sendall(Heliograph(HOST).subscribe(f"task:t-{number}", None))
            while b'"subscribed"' not in received:
                received += sock.recv(4096)
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ)
        return sock

    def _read(self) -> None:
        while not self._over:
            for key, _ in self._selector.select(0.2):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                self.heard += sock.recv(262144).count(b'"task_output"')

    def wait(self, count: int) -> None:
        """Wait until so many messages were heard in all.

        Raises:
            BenchError: They did not come.
        """
        deadline = perf_counter() + WATCHED_SECONDS
        while self.heard < count:
            if perf_counter() > deadline:
                raise BenchError(f"{self._one.name}: {self.heard} of {count} messages were heard")
            sleep(0.01)

    def close(self) -> None:
        """Close them all."""
        self._over = True
        self._thread.join()
        for sock in self._sockets:
            sock.close()
        self._selector.close()


@contextmanager
def _watchers(one: Side, count: int) -> Iterator[Watchers | None]:
    watchers = Watchers(one, count) if count else None
    try:
        yield watchers
    finally:
        if watchers is not None:
            watchers.close()


def _begin_tasks(one: Side, row: Row) -> None:
    """Write a line of each task, so that all are there."""
    tasks = row.watchers or row.connections * TASKS

    def request(connection: int, number: int) -> bytes:
        return _request(one, Row(row.connections, 50, row.watchers), connection, number)

    drive(one, request, 1, 0.0, at_least=-(-tasks // 50))


def _measure(one: Side, row: Row, seconds: float) -> dict[str, float]:
    with _watchers(one, row.watchers) as watchers:

        def request(connection: int, number: int) -> bytes:
            return _request(one, row, connection, number)

        _begin_tasks(one, row)
        drive(one, request, row.connections, seconds / 4, rate=row.rate or None)
        if watchers is not None:
            sleep(0.5)
            watchers.heard = 0
        before = one.cpu()
        found = drive(one, request, row.connections, seconds, rate=row.rate or None)
        events = found.requests * row.events
        if watchers is not None:
            watchers.wait(events)
        else:
            sleep(0.3)  # what is archived behind the answer belongs to it
        return {
            "cpu_us": one.spent(before) / events * 1e6,
            "per_second": events / found.seconds,
            "p99_ms": found.percentile(99),
        }


@click.command()
@click.option("--seconds", default=2.0, help="Of each measurement.")
@click.option("--rounds", default=3, help="Of which the medians are shown.")
@click.option("--watchers", default=200, help="Tasks that are watched, in the last rows; 0: none.")
@click.option("--form", "forms", multiple=True, type=click.Choice(list(PAIRS)), help="Only this one.")
@click.option("--ours", "alone", is_flag=True, help="Without the peers.")
@click.option("--only", help="Rows whose name has this.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures.")
def main(
    seconds: float,
    rounds: int,
    watchers: int,
    forms: tuple[str, ...],
    alone: bool,
    only: str | None,
    file: Path | None,
) -> None:
    """Measure, and print a table."""
    console = Console()
    about = machine.describe()
    console.print(about["cpu"], "load", about["load"], highlight=False)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    figures: dict[str, dict[str, list[dict[str, float]]]] = {}
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = [
            stack.enter_context(side(form, root / f"{form}-{mine}", ours=mine))
            for form in forms or tuple(PAIRS)
            for mine in ((True,) if alone else (True, False))
        ]
        os.sched_setaffinity(0, CLIENT_CPUS)
        for number in range(rounds):
            for row in rows(watchers):
                if only is not None and only not in row.name:
                    continue
                for one in sides:
                    found = _measure(one, row, seconds)
                    figures.setdefault(row.name, {}).setdefault(one.name, []).append(found)
                    console.print(
                        f"{number + 1}: {row.name}, {one.name}: {found['cpu_us']:.0f} µs", highlight=False
                    )
        memory = {one.name: round(one.memory()) for one in sides}
    console.print(_table(figures, sides))
    console.print(f"load {machine.describe()['load']}; resident MiB: {memory}", highlight=False)
    if file is not None:
        file.write_bytes(orjson.dumps({"machine": about, "figures": figures}))


def _table(figures: dict[str, dict[str, list[dict[str, float]]]], sides: Sequence[Side]) -> Table:
    table = Table(
        "connections x events", title="CPU µs an event; p99 ms of the answer; in brackets ours/peer"
    )
    for one in sides:
        table.add_column(one.name, justify="right")
    for name, found in figures.items():
        medians = {
            who: {what: median(round_[what] for round_ in rounds) for what in rounds[0]}
            for who, rounds in found.items()
        }
        cells = []
        for one in sides:
            mine, theirs = medians[one.name], medians.get(f"peer, {PAIRS[one.form]}")
            text = f"{mine['cpu_us']:,.0f}; {mine['p99_ms']:.1f}"
            if one.ours and theirs:
                ratio, late = mine["cpu_us"] / theirs["cpu_us"], mine["p99_ms"] / theirs["p99_ms"]
                text += f" \\[{ratio:.2f}; {late:.2f}]"
            cells.append(text)
        table.add_row(name, *cells)
    return table


if __name__ == "__main__":
    main()
