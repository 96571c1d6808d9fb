"""``python -m bench.workflows``: what asking for workflows and runs costs, with few runs and with a million.

Two services, over the embedded form or (``--distributed``) each over a PostgreSQL database and a Redis of its
own, with 300 workflows by their files: one has a thousand runs, the other a million. Each question's time
over HTTP is the median of many, asked in turns of both, so that what else the machine does falls on both
alike. A run of 10,000 steps is opened at its first page and at its last.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from time import perf_counter

import attrs
import click
import httpx
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, create_engine, insert, text
from tests.servers import free_port, postgres_server, redis_server, wait_until
from tests.storages import migrated_database

from heliograph.http.api.trace_pages import BESIDE_IT
from heliograph.http.rules.parameters import encode_cursor
from heliograph.model.ids import to_microseconds
from heliograph.model.workflows.record import Record
from heliograph.model.workflows.run import Run, share_of
from heliograph.model.workflows.step import Step
from heliograph.model.workflows.vocabulary import id_of
from heliograph.storage.distributed.postgres import database_url
from heliograph.storage.embedded.sqlite import migrate_sqlite
from heliograph.storage.sql.entities.workflow import RECORDS, RUNS, STEPS

WORKFLOWS = 300
STEPS_OF_A_RUN = 10
LONG_RUN = 10_000
BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
BATCH = 20_000
MANIFEST = "name: flow-{0}\ndisplay_name: Flow {0}\ntriggers: [{{type: manual}}]\n"
PIPELINE = (
    "strategy: sequential\nsteps: [" + ", ".join(f"{{name: s{n}}}" for n in range(STEPS_OF_A_RUN)) + "]\n"
)


def write_folders(root: Path) -> None:
    """Write the workflows' files."""
    for number in range(WORKFLOWS):
        folder = root / f"flow-{number}"
        folder.mkdir(parents=True)
        (folder / "manifest.yaml").write_text(MANIFEST.format(number))
        (folder / "pipeline.yaml").write_text(PIPELINE)


def runs_of(number: int) -> Iterator[Run]:
    """Make a number of runs, spread over the workflows; the last of each has begun last."""
    for n in range(number):
        began = BEGUN + timedelta(seconds=n)
        failed = n % 10 == 0
        yield Run(
            id=id_of(f"r{n}", f"flow-{n % WORKFLOWS}"),
            run_id=f"r{n}",
            workflow_id=f"flow-{n % WORKFLOWS}",
            started_at=began,
            updated_at=began,
            status="failed" if failed else "success",
            finished_at=began + timedelta(milliseconds=n % 5000),
            duration_ms=float(n % 5000),
            trigger_type="scheduled",
            error="the report is empty" if failed else None,
            cost_nanos=n % 1000 * 1000,
            steps={"success": STEPS_OF_A_RUN},
            status_times={"run": {"began": 1, "running": 1, "success": 2}},
        )


def steps_of(run_id: str, workflow_id: str, number: int) -> Iterator[Step]:
    """Make the steps of a run."""
    for n in range(number):
        at = BEGUN + timedelta(milliseconds=n)
        name = f"s{n}"
        yield Step(
            id_of(run_id, workflow_id, name), run_id, workflow_id, name, at, at, "success", starts={"1": 1}
        )


def fill(engine: Engine, number: int) -> None:
    """Fill a migrated database with runs, their counters, and the steps of two of them."""
    records = {f"flow-{n}": Record(f"flow-{n}") for n in range(WORKFLOWS)}
    with engine.begin() as connection:
        rows = []
        for run in runs_of(number):
            records[run.workflow_id].feed(share_of(run), 1)
            rows.append({"trigger_data": None, "result": None, **RUNS.to_row(run)})
            if len(rows) == BATCH:
                connection.execute(insert(RUNS.table), rows)
                rows = []
        if rows:
            connection.execute(insert(RUNS.table), rows)
        connection.execute(insert(RECORDS.table), [RECORDS.to_row(one) for one in records.values()])
        steps = [*steps_of("r1", "flow-1", STEPS_OF_A_RUN), *steps_of("r2", "flow-2", LONG_RUN)]
        connection.execute(insert(STEPS.table), [{"output": None, **STEPS.to_row(step)} for step in steps])
    if engine.dialect.name == "postgresql":  # as it does by itself, some time after such a change
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
    engine.dispose()


@contextmanager
def embedded(folder: Path, number: int) -> Iterator[Mapping[str, str]]:
    """Fill a folder; yield the environment of a service over it."""
    migrate_sqlite(folder)
    fill(create_engine(f"sqlite:///{folder / 'heliograph.db'}"), number)
    yield {"HELIOGRAPH_DATA": str(folder)}


@contextmanager
def distributed(folder: Path, number: int) -> Iterator[Mapping[str, str]]:
    """Fill a database; yield the environment of a service over it."""
    with postgres_server() as postgres, redis_server() as redis, migrated_database(postgres.url()) as url:
        fill(create_engine(database_url(url)), number)
        yield {"HELIOGRAPH_DATA": str(folder), "DATABASE_URL": url, "REDIS_URL": redis.url}


@contextmanager
def serving(data: Mapping[str, str], workflows: Path) -> Iterator[httpx.Client]:
    """Serve some data; yield a client."""
    url = f"http://127.0.0.1:{free_port()}"
    environment = {
        **os.environ,
        "PORT": url.rpartition(":")[2],
        **data,
        "HELIOGRAPH_WORKFLOWS": str(workflows),
        "LOG_LEVEL": "ERROR",
    }
    with (
        subprocess.Popen([sys.executable, "-m", "heliograph", "serve"], env=environment) as process,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        try:
            wait_until(lambda: answers(client), "the service", 60)
            yield client
        finally:
            process.terminate()


def answers(client: httpx.Client) -> bool:
    """Tell whether a service answers."""
    try:
        return client.get("/api/ready").status_code == 200
    except httpx.TransportError:
        return False


@attrs.frozen
class Question:
    """One thing that is asked of a service with so many runs."""

    name: str
    path: str


def questions(number: int) -> Sequence[Question]:
    """Return the questions to a service with a number of runs."""
    deep = encode_cursor(to_microseconds(BEGUN + timedelta(seconds=number // 2)), "")
    last = encode_cursor(BESIDE_IT, to_microseconds(BEGUN + timedelta(milliseconds=LONG_RUN - 500)), "")
    flow = "/api/v1/workflows/flow-1"
    return (
        Question("all 300 workflows", "/api/v1/workflows"),
        Question("one workflow with its stats", flow),
        Question("newest page of runs", f"{flow}/runs?limit=2"),
        Question("deep page of runs", f"{flow}/runs?limit=2&start_after={deep}"),
        Question("failed runs", f"{flow[:-1]}0/runs?limit=2&status=failed"),
        Question("one trace", f"{flow}/runs/r1"),
        Question("10,000 steps, first page", "/api/v1/workflows/flow-2/runs/r2"),
        Question("10,000 steps, last page", f"/api/v1/workflows/flow-2/runs/r2?start_after={last}"),
    )


def time_of(client: httpx.Client, path: str) -> float:
    """Ask once; return the seconds that it took."""
    begun = perf_counter()
    answer = client.get(path)
    taken = perf_counter() - begun
    assert answer.status_code == 200, answer.text
    return taken


@click.command()
@click.option("--runs", default=1_000_000, help="Runs of the large service.")
@click.option("--times", default=100, help="The number of times that each question is asked.")
@click.option("--distributed", "apart", is_flag=True, help="Over PostgreSQL and Redis.")
def main(runs: int, times: int, apart: bool) -> None:
    """Measure, and print a table."""
    sizes = (1000, runs)
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_folders(root / "workflows")
        clients = []
        for size in sizes:
            data = stack.enter_context((distributed if apart else embedded)(root / str(size), size))
            clients.append(stack.enter_context(serving(data, root / "workflows")))
        table = Table("question", *(f"{size:,} runs, ms" for size in sizes), "ratio")
        for asked in zip(*map(questions, sizes), strict=True):
            taken: list[list[float]] = [[], []]
            for _ in range(times):
                for which, client in enumerate(clients):
                    taken[which].append(time_of(client, asked[which].path))
            few, many = (median(one) * 1000 for one in taken)
            table.add_row(asked[0].name, f"{few:.2f}", f"{many:.2f}", f"{many / few:.2f}")
        Console().print(table)


if __name__ == "__main__":
    main()
