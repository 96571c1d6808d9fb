"""``python -m bench.analytics``: what analytics cost, beside the same questions asked of the tasks table.

Three measurements. *Answers*: a node over Redis and PostgreSQL whose store holds few or many finished
tasks of the same fleet and month; each endpoint's time and server CPU over HTTP, and the time of a
``GROUP BY`` over the tasks on the same PostgreSQL. *Delta*: from a publish request's begin to the
delta at a watcher, on the embedded form. *Fold*: the aggregator's CPU per event, alone in its process.

A long module, since the three measure the same fleet, which is made here.
"""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any, ParamSpec

import attrs
import click
import httpx
import orjson
import psutil
import psycopg
import trio
import trio.testing
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection, create_engine, insert
from tests.servers import PostgresServer, free_port, postgres_server, redis_server

from bench import machine
from bench.peer import ROOT
from heliograph.actors.histogram import Histogram
from heliograph.actors.subscriber import Outlet
from heliograph.model.analytics.cube import Cube
from heliograph.model.analytics.measured import contribution
from heliograph.model.analytics.rollup import Cells, Effect, record
from heliograph.model.channels import ANALYTICS
from heliograph.model.event import Draft, Event
from heliograph.model.ids import OLDEST, EventId, make_id, time_of, to_microseconds
from heliograph.model.prices import NO_PRICES
from heliograph.model.task import Task
from heliograph.service import tune_process
from heliograph.storage.distributed.form import migrate_database
from heliograph.storage.distributed.postgres import database_url
from heliograph.storage.protocols import Bounds, Page, Receipt, RollupSnapshot
from heliograph.storage.sql import rollups, schema
from heliograph.storage.sql.entities.task import TASKS
from heliograph.storage.sql.rollups import cell_row

P = ParamSpec("P")
Figures = dict[str, float]

DAYS = 30
SLOTS_OPEN = 96
AGENTS = [(f"agent-{n}", ("cli", "api", "review")[n % 3]) for n in range(8)]
MODELS = ["opus", "sonnet", "haiku", "local"]
STATUSES = ["completed"] * 17 + ["failed"] * 2 + ["cancelled"]
ERRORS = ["TimeoutError: read", "RateLimited: 429", "exit status 3"]

RANGE = f"from=-{DAYS}d"
ENDPOINTS = {
    "summary": f"/api/v1/analytics/summary?{RANGE}",
    "costs by day and model": (
        f"/api/v1/analytics/costs/histogram?{RANGE}&granularity=day&tz=Europe/Berlin&group_by=model"
    ),
    "tasks by hour": f"/api/v1/analytics/tasks/histogram?{RANGE}&granularity=hour&tz=Asia/Kolkata",
    "tokens by day and agent": (
        f"/api/v1/analytics/tokens/histogram?{RANGE}&granularity=day&tz=America/New_York&group_by=agent"
    ),
    "performance": f"/api/v1/analytics/performance?{RANGE}",
}

_SUMS = (
    "count(*), count(*) FILTER (WHERE status = 'completed'), sum(cost_nanos), "
    "sum(input_tokens), sum(output_tokens)"
)
_SINCE = "WHERE finished_at >= %(since)s"


def _by_time(unit: str, zone: str, more: str) -> str:
    moment = f"date_trunc('{unit}', to_timestamp(finished_at / 1e6) AT TIME ZONE '{zone}')"
    return f"SELECT {moment}{more}, {_SUMS} FROM tasks {_SINCE} GROUP BY 1{', 2' if more else ''}"


QUERIES = {
    "summary": f"SELECT model, agent_type, status, {_SUMS} FROM tasks {_SINCE} GROUP BY 1, 2, 3",
    "costs by day and model": _by_time("day", "Europe/Berlin", ", model"),
    "tasks by hour": _by_time("hour", "Asia/Kolkata", ""),
    "tokens by day and agent": _by_time("day", "America/New_York", ", agent"),
    "performance": (
        f"SELECT agent, agent_type, model, {_SUMS}, percentile_cont(ARRAY[.5, .9, .95, .99]) "
        f"WITHIN GROUP (ORDER BY finished_at - started_at) FROM tasks {_SINCE} "
        "GROUP BY GROUPING SETS ((agent), (agent_type), (model), ())"
    ),
}
"""The same questions to the tasks table."""


# -- answers


def fleet(count: int) -> Iterator[Task]:
    """Yield finished tasks of a fleet over the last month, in the order of their creation."""
    rng = random.Random(count)
    end = datetime.now(UTC) - timedelta(hours=6)
    step = timedelta(days=DAYS - 1) / count
    for number in range(count):
        created = end - step * (count - number)
        agent, agent_type = rng.choice(AGENTS)
        status = rng.choice(STATUSES)
        started = created + timedelta(seconds=rng.random() * 5)
        yield Task(
            task_id=f"task-{number}",
            created_at=created,
            updated_at=created,
            status=status,
            name="task",
            agent=agent,
            agent_type=agent_type,
            model=rng.choice(MODELS),
            started_at=started,
            finished_at=started + timedelta(milliseconds=min(rng.lognormvariate(10, 1), 3e6)),
            cost_nanos=rng.randrange(500_000),
            input_tokens=rng.randrange(50_000),
            output_tokens=rng.randrange(5_000),
            error=rng.choice(ERRORS) if status == "failed" else None,
        )


def fill(url: str, count: int) -> None:
    """Put a fleet's tasks and their rollups into a database that has the schema."""
    names = [column.name for column in TASKS.table.columns]
    moments = {column.name for column in TASKS.table.columns if isinstance(column.type, schema.UtcMoment)}
    engine = create_engine(database_url(url))
    with psycopg.connect(url) as driver, engine.begin() as connection:
        cells: Cells = {}
        copy_into = f"COPY tasks ({', '.join(names)}) FROM STDIN"
        with driver.cursor() as cursor, cursor.copy(copy_into.encode()) as copy:
            for number, task in enumerate(fleet(count)):
                row = attrs.asdict(task)
                copy.write_row(
                    [
                        to_microseconds(row[name]) if name in moments and row[name] is not None else row[name]
                        for name in names
                    ]
                )
                counted = contribution(task)
                record(cells, Effect(None, counted))
                if number % 2000 == 0:
                    _write(connection, cells, counted.created_slot - SLOTS_OPEN)
        _write(connection, cells, sys.maxsize)
        position = make_id(time.time_ns() // 1_000_000)
        checkpoints = [{"name": name, "event_id": position} for name in (schema.FOLDED, schema.CHANGED)]
        connection.execute(insert(schema.checkpoints), checkpoints)
    with psycopg.connect(url, autocommit=True) as driver:
        driver.execute("VACUUM ANALYZE")
    engine.dispose()


def _write(connection: Connection, cells: Cells, before: int) -> None:
    """Write the cells of the slots that nothing comes to any more."""
    done = [place for place in cells if place[0] < before]
    if done:
        connection.execute(insert(rollups.rollups), [cell_row(place, cells.pop(place)) for place in done])


@contextmanager
def node(**environment: str) -> Iterator[tuple[str, psutil.Process]]:
    """Run a node; yield its URL and process."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, Path(folder, "log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "heliograph", "serve"],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
                "PORT": str(port),
                "HELIOGRAPH_DATA": folder,
                **environment,
            },
            stdout=output,
            stderr=output,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(f"{url}/api/v1/analytics/summary")
            yield url, psutil.Process(process.pid)
        finally:
            process.kill()
            process.wait()


def _wait(url: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(url, timeout=seconds).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise TimeoutError(url)


def answers(server: PostgresServer, counts: Sequence[int], requests: int = 60) -> list[dict[str, Figures]]:
    """Measure every endpoint over stores of so many tasks, in turns, so that slow drift meets all alike.

    Returns:
        For each store by endpoint ``first_ms`` of a request right after the start, then ``ms`` (median) and
        ``cpu_ms`` of the server, and ``sql_ms`` of the ``GROUP BY``; under ``node`` the seconds until it
        answers, and its memory.
    """
    figures: list[dict[str, Figures]] = [{"node": {}} for _ in counts]
    with ExitStack() as stack:
        databases = [_filled(server, count) for count in counts]
        clients: list[tuple[httpx.Client, psutil.Process]] = []
        for database, figure in zip(databases, figures, strict=True):
            redis = stack.enter_context(redis_server())
            began = time.monotonic()
            url, process = stack.enter_context(node(DATABASE_URL=database, REDIS_URL=redis.url))
            figure["node"]["seconds"] = time.monotonic() - began
            clients.append((stack.enter_context(httpx.Client(base_url=url, timeout=60)), process))
        for endpoint, path in ENDPOINTS.items():
            for figure, (client, _) in zip(figures, clients, strict=True):
                figure[endpoint] = {"first_ms": _timed(_get, client, path)}
        for _, process in clients:
            _settle(process)
        for endpoint, path in ENDPOINTS.items():
            for figure, taken in zip(figures, _requests(clients, path, requests), strict=True):
                figure[endpoint] |= taken
        for figure, (_, process) in zip(figures, clients, strict=True):
            figure["node"]["rss_mib"] = process.memory_info().rss / 2**20
    since = to_microseconds(datetime.now(UTC) - timedelta(days=DAYS))
    for figure, database in zip(figures, databases, strict=True):
        with psycopg.connect(database) as connection:
            for endpoint, query in QUERIES.items():
                times = [_timed(_fetch, connection, query, {"since": since}) for _ in range(5)]
                figure[endpoint]["sql_ms"] = median(times)
    return figures


def _filled(server: PostgresServer, count: int) -> str:
    name = f"tasks_{count}"
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
    database = server.url(name)
    migrate_database(database)
    fill(database, count)
    return database


def _requests(
    clients: Sequence[tuple[httpx.Client, psutil.Process]], path: str, requests: int
) -> list[Figures]:
    """Ask every node, one after the other, again and again."""
    figures: list[Figures] = [{} for _ in clients]
    before = [_cpu(process) for _, process in clients]
    taken: list[list[float]] = [[] for _ in clients]
    for _ in range(requests):
        for times, (client, _) in zip(taken, clients, strict=True):
            times.append(_timed(_get, client, path))
    for figure, times, (_, process), began in zip(figures, taken, clients, before, strict=True):
        figure["ms"] = median(times)
        figure["cpu_ms"] = (_cpu(process) - began) / requests * 1000
    return figures


def _settle(process: psutil.Process) -> None:
    """Wait until a node has made ready what is usually asked for."""
    while process.cpu_percent(0.5) > 10:
        pass


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _get(client: httpx.Client, path: str) -> None:
    client.get(path).raise_for_status()


def _fetch(connection: psycopg.Connection[Any], query: str, parameters: dict[str, int]) -> None:
    connection.execute(query.encode(), parameters).fetchall()


def _timed(call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> float:
    """Return the milliseconds that a call takes."""
    began = time.perf_counter()
    call(*args, **kwargs)
    return (time.perf_counter() - began) * 1000


# -- delta


def delta_latency(seconds: float = 20, rate: float = 20) -> Figures:
    """Measure from the begin of a publish request to the delta that covers it, at a watcher.

    Returns:
        ``p50_ms``, ``p99_ms``, ``max_ms``, and how many deltas came per second.
    """
    published: list[tuple[float, int]] = []
    arrived: list[tuple[float, int]] = []
    with node() as (url, _), httpx.Client(base_url=url, timeout=60) as client:
        watcher = threading.Thread(target=_watch, args=(url, arrived), daemon=True)
        watcher.start()
        began = time.monotonic()
        for number in range(math.ceil(seconds * rate)):
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            body = {"topic": "task.status", "payload": {"task_id": f"t{number}", "status": "completed"}}
            sent = time.monotonic()
            answer = client.post("/api/v1/events", json=body).raise_for_status().json()
            published.append((sent, _packed(answer["cursor"])))
        while not arrived or arrived[-1][1] < published[-1][1]:
            time.sleep(0.05)
    delays = sorted(
        (next(at for at, through in arrived if through >= event_id) - sent) * 1000
        for sent, event_id in published
    )
    return {
        "p50_ms": delays[len(delays) // 2],
        "p99_ms": delays[len(delays) * 99 // 100],
        "max_ms": delays[-1],
        "deltas_per_second": len(arrived) / seconds,
    }


def _watch(url: str, arrived: list[tuple[float, int]]) -> None:
    """Note when each delta comes, and through which event it goes."""
    path = f"{url}/api/v1/events/stream?channel={ANALYTICS}"
    try:
        with httpx.stream("GET", path, timeout=60) as response:
            for line in response.iter_lines():
                if line.startswith("data: {") and "through" in line:
                    event = orjson.loads(line.removeprefix("data: "))
                    arrived.append((time.monotonic(), _packed(event["payload"]["through"])))
    except httpx.TransportError:
        return  # the node has ended


def _packed(cursor: str) -> int:
    milliseconds, _, sequence = cursor.partition("-")
    return make_id(int(milliseconds), int(sequence))


# -- fold


@attrs.define
class _Stub:
    """A log and a store with nothing in them, and a publisher that hands deltas back."""

    position: EventId = OLDEST
    inbox: Outlet | None = None
    published: int = 0

    async def bounds(self, _: object) -> Bounds:
        """Nothing was trimmed."""
        return Bounds(OLDEST, self.position)

    async def read(self, *_: object) -> Page:
        """Nothing is there."""
        return Page((), self.position, more=False)

    async def rollup_snapshot(self) -> RollupSnapshot:
        """Begin with nothing."""
        return RollupSnapshot(OLDEST, OLDEST, Cube(), (), None)

    async def publish(self, drafts: Sequence[Draft]) -> Receipt:
        """Let a delta come by as the newest event."""
        self.position = EventId(self.position + 1)
        self.published += 1
        (draft,) = drafts
        event = Event(
            self.position, draft.channel, self.published, draft.topic, time_of(self.position), draft.payload
        )
        assert self.inbox is not None
        await self.inbox.send([event])
        return Receipt((event.id,))


def _story(task: int, outputs: int) -> list[tuple[str, dict[str, Any]]]:
    agent, agent_type = AGENTS[task % len(AGENTS)]
    described = {"agent": agent, "agent_type": agent_type, "model": MODELS[task % len(MODELS)]}
    result = {"cost_usd": task % 1000 / 1000, "input_tokens": task % 5000, "output_tokens": task % 700}
    return [
        ("task.created", {"task_id": f"t{task}", **described}),
        ("task.status", {"task_id": f"t{task}", "status": "running"}),
        *[("task.output", {"task_id": f"t{task}", "output": "a line of output"})] * outputs,
        ("task.status", {"task_id": f"t{task}", "status": "completed", "result": result}),
    ]


def fold_cpu(tasks: int = 30_000, outputs: int = 10, batch: int = 200) -> Figures:
    """Measure the aggregator's CPU per event, deltas included.

    Args:
        tasks: Each is created, runs, writes output and completes, 50 of them interleaved.
        outputs: Lines of output of each.
        batch: Events handed over at a time.
    """
    stories = [_story(task, outputs) for task in range(tasks)]
    moment = int(time.time() * 1000)
    events: list[Event] = []
    for first in range(0, tasks, 50):
        for seq in range(outputs + 3):
            for task in range(first, min(first + 50, tasks)):
                topic, payload = stories[task][seq]
                event_id = make_id(moment + len(events) // 10, len(events) % 10 * 1000)
                happened = time_of(event_id)
                events.append(Event(event_id, f"task:t{task}", seq + 1, topic, happened, payload))
    tune_process()
    return trio.run(_fold, events, batch)


async def _fold(events: Sequence[Event], batch: int) -> Figures:
    stub = _Stub()
    histogram = Histogram(stub, stub, stub.publish, NO_PRICES)  # type: ignore[arg-type]
    stub.inbox = histogram.inbox
    async with trio.open_nursery() as nursery:
        nursery.start_soon(histogram.run)
        await trio.testing.wait_all_tasks_blocked()
        began = time.process_time()
        for first in range(0, len(events), batch):
            some = events[first : first + batch]
            stub.position = some[-1].id
            await histogram.inbox.send(some)
            await trio.lowlevel.checkpoint()  # as the subscriber waits for the next events; deltas go out
        await trio.testing.wait_all_tasks_blocked()
        used = time.process_time() - began
        nursery.cancel_scope.cancel()
    return {"us_per_event": used / len(events) * 1e6, "events": len(events), "deltas": stub.published}


# -- all of it


@click.command()
@click.option("--tasks", default=1_000_000, help="Finished tasks in the large store.")
@click.option("--few", default=10_000, help="Finished tasks in the small one.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures.")
def main(tasks: int, few: int, file: Path | None) -> None:
    """Measure analytics."""
    console = Console()
    about = {name: value for name, value in machine.describe().items() if name != "pinned"}
    for name, value in about.items():
        console.print(f"{name:11} {value}", highlight=False, markup=False)
    with postgres_server(shared_buffers="256MB") as server:
        small, large = answers(server, (few, tasks))
    table = Table(
        "endpoint",
        "ms",
        "ratio, at most 1.5",
        "CPU ms",
        "ratio",
        "first, ms",
        "GROUP BY, ms",
        "ratio, at most 1/20",
        title=f"{few:,} and {tasks:,} finished tasks",
    )
    for endpoint in ENDPOINTS:
        one, other = small[endpoint], large[endpoint]
        table.add_row(
            endpoint,
            f"{one['ms']:.1f}, {other['ms']:.1f}",
            f"{other['ms'] / one['ms']:.2f}",
            f"{one['cpu_ms']:.1f}, {other['cpu_ms']:.1f}",
            f"{other['cpu_ms'] / one['cpu_ms']:.2f}",
            f"{one['first_ms']:.0f}, {other['first_ms']:.0f}",
            f"{one['sql_ms']:.0f}, {other['sql_ms']:.0f}",
            f"1/{other['sql_ms'] / other['ms']:.0f}",
        )
    console.print(table)
    for count, figures in ((few, small), (tasks, large)):
        start = figures["node"]
        console.print(
            f"{count:,} tasks: answers after {start['seconds']:.1f} s, {start['rss_mib']:.0f} MiB resident"
        )
    delta = delta_latency()
    console.print(f"delta at a watcher, ms: {_line(delta)}; at most 1,500")
    mixed, bare = fold_cpu(), fold_cpu(outputs=0)
    console.print(f"fold, 10 lines of output to a task: {_line(mixed)}; at most 15")
    console.print(f"fold, no output at all: {_line(bare)}")
    if file is not None:
        content = {
            "machine": about,
            "few": small,
            "many": large,
            "delta": delta,
            "fold": mixed,
            "fold_bare": bare,
        }
        file.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))


def _line(figures: Figures) -> str:
    return ", ".join(f"{name} {value:,.1f}" for name, value in figures.items())


if __name__ == "__main__":
    main()
