"""``python -m bench.questions``: what a question costs, beside a dashboard's backend over the same data.

Four sides are asked in turns: both forms of Heliograph, a FastAPI over SQLite and one over PostgreSQL.
All have the same tasks with the same lines. ``--data FOLDER`` keeps what was made, for the next run.
"""

from __future__ import annotations

import os
import random
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from time import time
from typing import Any

import attrs
import click
import orjson
import psycopg
import trio
from rich.console import Console
from rich.table import Table
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from bench import machine
from bench.beside import PAIRS, Drove, Side, drive, get, side
from bench.server import CLIENT_CPUS
from heliograph.http.rules.parameters import encode_cursor
from heliograph.model.event import Draft
from heliograph.storage.embedded import open_embedded

LINES = 20
DAYS = 90
AGENTS = [(f"agent-{n}", ("cli", "api", "review")[n % 3]) for n in range(16)]
MODELS = ["opus", "sonnet", "haiku", "local"]
STATUSES = ["completed"] * 17 + ["failed"] * 2 + ["cancelled"]
VERBS = ["refactor", "review", "translate", "summarise", "test", "deploy", "migrate", "document"]
THINGS = ["parser", "invoice", "login", "search", "report", "importer", "scheduler", "dashboard"]
LONG = "long-log"
BATCH = 5000

MOMENTS = {"created_at", "updated_at", "started_at", "finished_at"}
TABLES = ("events", "channels", "checkpoints", "counters", "tasks", "rollups")


@attrs.frozen
class Question:
    """A question, in the words of both sides, and on how many connections it is asked at once."""

    name: str
    ours: str
    peer: str
    connections: int = 1


def questions(tasks: int, pages: Sequence[tuple[int, str]]) -> list[Question]:
    """Return what is asked; the pages besides the first have their cursors."""
    one = f"task-{tasks // 2}"
    return [
        Question("first page of 50 tasks", "tasks?limit=50", "tasks?limit=50"),
        Question("by agent", "tasks?limit=50&agent=agent-3", "tasks?limit=50&agent=agent-3"),
        *(
            Question(f"page {page:,}", f"tasks?limit=50&cursor={cursor}", f"tasks?limit=50&page={page}")
            for page, cursor in pages
        ),
        Question("by status", "tasks?limit=50&status=failed", "tasks?limit=50&status=failed"),
        Question("text, a common word", "tasks?limit=50&text=invoice", "tasks?limit=50&text=invoice"),
        Question(
            "text, one task", f"tasks?limit=50&text=no{tasks // 2}x", f"tasks?limit=50&text=no{tasks // 2}x"
        ),
        Question("one task", f"tasks/{one}", f"tasks/{one}"),
        Question("20 lines of log", f"tasks/{one}/logs?limit=20", f"tasks/{one}/logs?limit=20"),
        Question("last 100 lines", f"tasks/{LONG}/logs?tail=100", f"tasks/{LONG}/logs?tail=100"),
        Question("full log", f"tasks/{LONG}/logs/full", f"tasks/{LONG}/logs/full"),
        Question("full log, four at once", f"tasks/{LONG}/logs/full", f"tasks/{LONG}/logs/full", 4),
        Question(
            "costs, 7 days by hour", "analytics/costs/histogram?from=-7d&granularity=hour", "costs?days=7"
        ),
        Question(
            "costs, 90 days by day",
            f"analytics/costs/histogram?from=-{DAYS}d&granularity=day&tz=Europe/Berlin",
            f"costs?days={DAYS}&granularity=day&tz=Europe/Berlin",
        ),
        Question("summary of 7 days", "analytics/summary?from=-7d", "summary?days=7"),
    ]


def fleet(tasks: int, long_log: int) -> Iterator[Draft]:
    """Yield the events of so many tasks over the last months, and of one with a long log."""
    rng = random.Random(tasks)
    end = datetime.now(UTC) - timedelta(hours=1)
    step = timedelta(days=DAYS) / tasks

    def say(task_id: str, topic: str, at: datetime, **payload: Any) -> Draft:
        payload = {"task_id": task_id, **payload}
        return Draft(f"task:{task_id}", topic, payload, orjson.dumps(payload), at)

    for number in range(tasks):
        task_id, at = f"task-{number}", end - step * (tasks - number)
        agent, agent_type = rng.choice(AGENTS)
        yield say(
            task_id,
            "task.created",
            at,
            name=f"{rng.choice(VERBS)} the {rng.choice(THINGS)} no{number}x",
            agent=agent,
            agent_type=agent_type,
            model=rng.choice(MODELS),
            session_id=f"session-{number // 10}",
            input={"prompt": "Look at what has changed since yesterday, and say what is missing."},
        )
        yield say(task_id, "task.status", at + timedelta(seconds=1), status="running")
        for line in range(LINES):
            at += timedelta(seconds=2)
            yield say(
                task_id, "task.output", at, output=f"{line:5} {rng.choice(THINGS)} looked at: {'.' * 60}"
            )
        status = rng.choice(STATUSES)
        result: dict[str, Any] = {
            "cost_usd": rng.randrange(500) / 1000,
            "input_tokens": 900,
            "output_tokens": 70,
        }
        if status == "failed":
            result["error"] = "TimeoutError: read"
        yield say(task_id, "task.status", at + timedelta(seconds=2), status=status, result=result)
    for line in range(long_log):
        yield say(LONG, "task.output", end - timedelta(days=DAYS), output=f"{line:7} {'.' * 80}")


async def _fill_ours(folder: Path, tasks: int, long_log: int) -> None:
    async with open_embedded(folder, timedelta(days=1)) as storage:
        batch: list[Draft] = []
        for draft in fleet(tasks, long_log):
            batch.append(draft)
            if len(batch) == BATCH:
                await storage.log.append([batch])
                batch = []
        if batch:
            await storage.log.append([batch])


def _fill_peer(file: Path, ours: Path) -> None:
    """Make a peer's tables out of ours."""
    backend = _backend()

    def moment(name: str) -> str:
        return f"strftime('%Y-%m-%d %H:%M:%f000', {name} / 1000000.0, 'unixepoch')"

    names = [column.name for column in backend.Task.__table__.columns]
    taken = ", ".join(
        moment(name) if name in MOMENTS else "cost_nanos / 1e9" if name == "cost_usd" else name
        for name in names
    )
    with closing(sqlite3.connect(file)) as connection, connection:
        for table in (backend.Task.__table__, backend.Event.__table__):
            connection.execute(str(CreateTable(table).compile(dialect=sqlite.dialect())))
        connection.execute(f"ATTACH '{ours}' AS ours")
        connection.execute(f"INSERT INTO tasks ({', '.join(names)}) SELECT {taken} FROM ours.tasks")
        connection.execute(
            "INSERT INTO events (task_id, seq, type, timestamp, stream, output) "
            f"SELECT substr(channel, 6), seq, replace(topic, '.', '_'), {moment('timestamp')}, "
            "'stdout', json_extract(payload, '$.output') FROM ours.events WHERE channel LIKE 'task:%'"
        )
        for table in (backend.Task.__table__, backend.Event.__table__):
            for index in table.indexes:
                connection.execute(str(CreateIndex(index).compile(dialect=sqlite.dialect())))
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def _backend() -> Any:
    """Import the peer's program, which reads its command line."""
    import sys

    arguments, sys.argv = sys.argv, ["backend", "0", "sqlite+aiosqlite:///:memory:"]
    try:
        from bench.peers import backend_app
    finally:
        sys.argv = arguments
    return backend_app


def _copy(source: Path, tables: tuple[str, ...], prepare: Callable[[str], None], url: str) -> None:
    """Copy tables out of a SQLite file into PostgreSQL."""
    prepare(url)
    with (
        closing(sqlite3.connect(source)) as connection,
        psycopg.connect(url, autocommit=True) as postgres,
        postgres.cursor() as cursor,
    ):
        postgres.execute("SET timezone = 'UTC'")
        for table in tables:
            names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            postgres.execute(f"TRUNCATE {table}".encode())
            with cursor.copy(f"COPY {table} ({', '.join(names)}) FROM STDIN".encode()) as copy:
                for row in connection.execute(f"SELECT {', '.join(names)} FROM {table}"):
                    copy.write_row(row)
        if "events" in tables and prepare is not _no_tables:
            postgres.execute("SELECT setval('events_id_seq', (SELECT max(id) FROM events))")
        postgres.execute("VACUUM ANALYZE")


def _no_tables(url: str) -> None:
    """Make no tables: they are there."""


def _peer_tables(url: str) -> None:
    from sqlalchemy import create_engine

    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    _backend().Base.metadata.create_all(engine)
    engine.dispose()


def _made(root: Path, tasks: int, long_log: int) -> tuple[Path, Path]:
    """Return the folders of ours and of the peer's, filled."""
    ours, peer = root / f"ours-{tasks}-{long_log}", root / f"peer-{tasks}-{long_log}"
    if not (ours / "made").exists():
        trio.run(_fill_ours, ours, tasks, long_log)
        (ours / "made").touch()
    if not (peer / "made").exists():
        peer.mkdir(parents=True, exist_ok=True)
        _fill_peer(peer / "peer.db", ours / "heliograph.db")
        (peer / "made").touch()
    return ours, peer


def _cursor(database: Path, page: int) -> str:
    """Return the cursor of a page in our list."""
    with closing(sqlite3.connect(database)) as connection:
        created, task_id = connection.execute(
            "SELECT created_at, task_id FROM tasks ORDER BY created_at DESC, task_id DESC LIMIT 1 OFFSET ?",
            ((page - 1) * 50 - 1,),
        ).fetchone()
    return encode_cursor(created, task_id)


@click.command()
@click.option("--tasks", default=2000, help="Tasks, of 20 lines each.")
@click.option("--long", "long_log", default=5000, help="Lines of the task with the long log.")
@click.option("--seconds", default=1.0, help="Of each measurement.")
@click.option("--rounds", default=3, help="Of which the medians are shown.")
@click.option("--form", "forms", multiple=True, type=click.Choice(list(PAIRS)), help="Only this one.")
@click.option("--ours", "alone", is_flag=True, help="Without the peers.")
@click.option("--only", help="Questions whose name has this.")
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Where to keep what is made.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures.")
def main(
    tasks: int,
    long_log: int,
    seconds: float,
    rounds: int,
    forms: tuple[str, ...],
    alone: bool,
    only: str | None,
    data: Path | None,
    file: Path | None,
) -> None:
    """Measure, and print a table."""
    console = Console()
    begun = time()
    about = machine.describe()
    console.print(about["cpu"], "load", about["load"], highlight=False)
    figures: dict[str, dict[str, list[dict[str, float]]]] = {}
    with ExitStack() as stack:
        root = data or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours, peer = _made(root, tasks, long_log)
        pages = (min(100, tasks // 100), min(1000, tasks // 51))
        asked = questions(tasks, [(page, _cursor(ours / "heliograph.db", page)) for page in pages])
        asked = [one for one in asked if only is None or only in one.name]
        sides = []
        for form in forms or tuple(PAIRS):
            for mine in (True, False) if not alone else (True,):
                folder = (ours if mine else peer) if form == "embedded" else root / f"{form}-{mine}"
                fill: Callable[[str], None] = _no_tables
                if form == "distributed":
                    source = ours / "heliograph.db" if mine else peer / "peer.db"
                    fill = partial(_copy, source, TABLES if mine else ("tasks", "events"))
                    fill = partial(fill, _no_tables if mine else _peer_tables)
                sides.append(stack.enter_context(side(form, folder, ours=mine, fill=fill)))
        console.print(f"made in {time() - begun:.0f} s", highlight=False)
        os.sched_setaffinity(0, CLIENT_CPUS)
        for number in range(rounds + 1):  # the first warms up
            for question in asked:
                for one in sides:
                    found = _ask(one, question, seconds if number else min(seconds, 0.3))
                    if number:
                        figures.setdefault(question.name, {}).setdefault(one.name, []).append(found)
        memory = {one.name: one.memory() for one in sides}
    console.print(_table(figures, sides))
    console.print(f"load {machine.describe()['load']}; resident MiB: ", memory, highlight=False)
    if file is not None:
        file.write_bytes(orjson.dumps({"machine": about, "tasks": tasks, "figures": figures}))


def _ask(one: Side, question: Question, seconds: float) -> dict[str, float]:
    path = f"/api/v1/{question.ours}" if one.ours else f"/{question.peer}"
    request = get(path)
    found: Drove = drive(one, lambda connection, number: request, question.connections, seconds)
    return {
        "cpu_ms": found.cpu / found.requests * 1000,
        "per_second": found.requests / found.seconds,
        "p99_ms": found.percentile(99),
    }


def _table(figures: dict[str, dict[str, list[dict[str, float]]]], sides: list[Side]) -> Table:
    table = Table("question", title="CPU ms a request; p99 ms; in brackets ours/peer")
    for one in sides:
        table.add_column(one.name, justify="right")
    for name, found in figures.items():
        cells = []
        medians = {
            who: {what: median(round_[what] for round_ in rounds) for what in rounds[0]}
            for who, rounds in found.items()
        }
        for one in sides:
            mine = medians[one.name]
            text = f"{mine['cpu_ms']:.2f}; {mine['p99_ms']:.1f}"
            theirs = medians.get(f"peer, {PAIRS[one.form]}")
            if one.ours and theirs:
                text += (
                    f" \\[{mine['cpu_ms'] / theirs['cpu_ms']:.2f}; {mine['p99_ms'] / theirs['p99_ms']:.2f}; "
                    f"x{mine['per_second'] / theirs['per_second']:.1f}]"
                )
            cells.append(text)
        table.add_row(name, *cells)
    return table


if __name__ == "__main__":
    main()
