"""The distributed form, against what its databases do by themselves.

The floor of each figure is the plain client on the same server: pipelined XADD of the same bytes, COPY of
the same rows into the same table. Ours checks idempotency keys, numbers every channel and folds on top
of that. Redis and PostgreSQL are started fresh for each measurement and share the CPUs with the program.
"""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import quantiles
from time import perf_counter, sleep
from urllib.parse import urlsplit

import attrs
import orjson
import psutil
import psycopg
import trio
from tests.deployment import Node
from tests.servers import PostgresServer, RedisServer, postgres_server, redis_server
from tests.storages import migrated_database

from bench.peer import Peer
from bench.scenarios import OURS, Figures, Scale, Scenario
from bench.server import CLIENT_CPUS, SERVER_CPUS, BenchError
from heliograph.model.event import Draft
from heliograph.model.intake import parse_item
from heliograph.storage.distributed.form import Distributed, open_distributed
from heliograph.storage.protocols import Receipt
from heliograph.storage.settings import PostgresSettings, RedisSettings

BATCHES = (1, 10, 100)
ARCHIVED = 200_000
BACKLOG = 1_000_000
CHANNELS = 200
FILL = 1000
LATENCY_RATE = 100
BACKLOG_SECONDS = 1200.0
SETTINGS = RedisSettings(max_events=10_000_000)


@attrs.frozen
class Servers:
    """Redis and PostgreSQL, with an empty database."""

    redis: RedisServer
    postgres: PostgresServer
    database_url: str

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Distributed]:
        """Open what a node has, in this process."""
        day = timedelta(days=1)
        async with (
            open_distributed(self.database_url, self.redis.url, PostgresSettings(), SETTINGS, day) as opened,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(opened.database.watch.run)
            yield opened
            nursery.cancel_scope.cancel()


@contextmanager
def _servers(fsync: str = "always") -> Iterator[Servers]:
    """Start both, on all CPUs: what is started here inherits them."""
    os.sched_setaffinity(0, CLIENT_CPUS | SERVER_CPUS)
    try:
        with (
            redis_server(appendfsync=fsync) as redis,
            postgres_server() as postgres,
            migrated_database(postgres.url()) as url,
        ):
            yield Servers(redis, postgres, url)
    finally:
        os.sched_setaffinity(0, CLIENT_CPUS)


def _draft(number: int) -> Draft:
    return parse_item(
        {
            "type": "task_output",
            "task_id": f"bench-{number % CHANNELS}",
            "output": f"{number} ".ljust(200, "x"),
            "key": f"bench/{number}",
        },
        1 << 20,
    )


def _appends(peer: Peer, scale: Scale) -> Figures:
    """Append in batches, one after the other over one connection, for each way to sync."""
    figures: Figures = {}
    for fsync in ("always", "everysec"):
        with _servers(fsync) as servers:
            for batch in BATCHES:
                drafts = [_draft(number) for number in range(20_000)]
                if peer.name in OURS:
                    rate = trio.run(_append_ours, servers, drafts, batch, scale.seconds)
                else:
                    rate = _append_raw(servers, drafts, batch, scale.seconds)
                figures[f"{fsync}_{batch}"] = rate
    return figures


async def _append_ours(servers: Servers, drafts: Sequence[Draft], batch: int, seconds: float) -> float:
    async with servers.open() as opened:

        async def append(number: int, some: Sequence[Draft]) -> None:
            fresh = [draft._replace(key=f"{batch}/{number}/{draft.key}") for draft in some]
            [answer] = await opened.log.append([fresh])
            assert isinstance(answer, Receipt)

        return await _rate(append, drafts, batch, seconds)


async def _rate(
    append: Callable[[int, Sequence[Draft]], Awaitable[None]],
    drafts: Sequence[Draft],
    batch: int,
    seconds: float,
) -> float:
    begun, appended = perf_counter(), 0
    while (spent := perf_counter() - begun) < seconds:
        start = appended % (len(drafts) - batch)
        await append(appended, drafts[start : start + batch])
        appended += batch
    return appended / spent


def _append_raw(servers: Servers, drafts: Sequence[Draft], batch: int, seconds: float) -> float:
    with servers.redis.client() as client:

        async def append(number: int, some: Sequence[Draft]) -> None:
            pipeline = client.pipeline(transaction=False)
            for draft in some:
                pipeline.xadd("raw", {"event": draft.body})
            pipeline.execute()

        return trio.run(_rate, append, drafts, batch, seconds)


async def _fill(opened: Distributed, number: int) -> None:
    """Put a backlog into the log."""
    for start in range(0, number, FILL):
        drafts = [_draft(n) for n in range(start, min(start + FILL, number))]
        await opened.log.append([drafts])


def _archive(peer: Peer, scale: Scale) -> Figures:
    """Archive a backlog, or copy the rows that came out of it."""
    with _servers() as servers:
        return trio.run(_archive_in, servers, scale.count(ARCHIVED), peer.name in OURS)


async def _archive_in(servers: Servers, number: int, ours: bool) -> Figures:
    async with servers.open() as opened:
        await _fill(opened, number)
        archive = opened.archive
        if not await archive.begin():
            raise BenchError("somebody else archives")
        begun, archived = perf_counter(), 0
        while archived < number:
            archived += await archive.step()
        seconds = perf_counter() - begun
        archive.end()
    if not ours:
        seconds = await trio.to_thread.run_sync(_copy_again, servers.database_url)
    return {"rows_per_second": number / seconds}


def _copy_again(url: str) -> float:
    """Empty the table and copy the same rows into it, as many in a transaction as ours has."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT * FROM events ORDER BY id").fetchall()
        connection.execute("TRUNCATE events")
        connection.commit()
        begun = perf_counter()
        for start in range(0, len(rows), 5000):
            with connection.cursor() as cursor, cursor.copy("COPY events FROM STDIN") as copy:
                for row in rows[start : start + 5000]:
                    copy.write_row(row)
            connection.commit()
        return perf_counter() - begun


@contextmanager
def _nodes(servers: Servers, *names: str, redis: str = "") -> Iterator[list[Node]]:
    with tempfile.TemporaryDirectory(prefix="bench-nodes-") as folder:
        nodes = [
            Node(Path(folder) / name, servers.database_url, servers.redis.url, f"[redis]\n{redis}")
            for name in names
        ]
        try:
            for node in nodes:
                node.start()
            yield nodes
        finally:
            for node in nodes:
                node.kill()


def _two_nodes(peer: Peer, scale: Scale) -> Figures:
    """Publish on one node and watch on the other; the clock runs from the request to the watcher's bytes."""
    with _servers() as servers, _nodes(servers, "a", "b") as (near, far):
        number = round(LATENCY_RATE * scale.seconds)
        with socket.create_connection(("127.0.0.1", urlsplit(far.url).port or 0)) as watcher:
            watcher.settimeout(30)
            request = "GET /api/v1/events/stream?channel=task:bench HTTP/1.1\r\nHost: localhost\r\n\r\n"
            watcher.sendall(request.encode())
            found = b""
            while b"\nid:" not in found:  # its first cursor: it is live
                found += watcher.recv(65536)
            latencies: list[float] = []
            reader = threading.Thread(target=partial(_read, watcher, number, latencies))
            reader.start()
            begun = perf_counter()
            for n in range(number):
                sleep(max(0, begun + n / LATENCY_RATE - perf_counter()))
                text = f"@{perf_counter()}@"
                near.publish({"type": "task_output", "task_id": "bench", "output": text})
            reader.join()
    if len(latencies) < number:
        raise BenchError(f"{len(latencies)} of {number} messages arrived")
    cuts = quantiles(latencies, n=100)
    return {"p50_ms": cuts[49] * 1000, "p99_ms": cuts[98] * 1000}


def _read(watcher: socket.socket, number: int, latencies: list[float]) -> None:
    rest = b""
    while len(latencies) < number:
        try:
            data = watcher.recv(65536)
        except TimeoutError:
            return
        now = perf_counter()
        *parts, rest = (rest + data).split(b"\n")
        for part in parts:
            if part.startswith(b"data:") and b"@" in part:
                payload = orjson.loads(part[5:])["payload"]
                latencies.append(now - float(payload["output"].strip("@")))


def _backlog(peer: Peer, scale: Scale) -> Figures:
    """Let a node that starts find a backlog; count seconds until all is in PostgreSQL, and its memory."""
    number = scale.count(BACKLOG)
    with _servers() as servers:
        trio.run(_fill_only, servers, number)
        begun = perf_counter()
        with _nodes(servers, "a", redis="max_events = 10000000\n") as [node]:
            process = psutil.Process(node.pid)
            peak, deadline = 0, begun + BACKLOG_SECONDS
            with psycopg.connect(servers.database_url, autocommit=True) as connection:
                while True:
                    found = connection.execute("SELECT value FROM counters WHERE name = 'events'").fetchone()
                    peak = max(peak, process.memory_info().rss)
                    if found is not None and found[0] >= number:
                        break
                    if perf_counter() > deadline:
                        raise BenchError(f"{found} of {number} events were archived in {BACKLOG_SECONDS} s")
                    sleep(0.1)
            seconds = perf_counter() - begun
    return {"seconds": seconds, "rows_per_second": number / seconds, "peak_mib": peak / 1024**2}


async def _fill_only(servers: Servers, number: int) -> None:
    async with servers.open() as opened:
        await _fill(opened, number)


BOTH = (*OURS, "floor")
NONE: tuple[str, ...] = ()

SCENARIOS = (
    Scenario("appends", "durable appends to Redis, against pipelined XADD", _appends, NONE, BOTH),
    Scenario("archive", "200,000 events from Redis to PostgreSQL, against COPY", _archive, NONE, BOTH),
    Scenario("two-nodes", "published on one node, watched on another, 100/s", _two_nodes, NONE, OURS),
    Scenario("backlog", "1,000,000 events wait when a node starts", _backlog, NONE, OURS),
)
