"""Migrations are frozen: whatever the program becomes, each leads from the schema before it to the next."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from tests.storages import new_database

from heliograph.model.analytics import sketch
from heliograph.model.ids import to_microseconds
from heliograph.storage.distributed.postgres import database_url
from heliograph.storage.sql import migrate

CONFIG = Config()
CONFIG.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
CONFIG.set_main_option("path_separator", "os")
SCRIPTS = list(ScriptDirectory.from_config(CONFIG).walk_revisions())
REVISIONS = [script.revision for script in reversed(SCRIPTS)]

UNCHANGING: frozenset[str] = frozenset()
"""Modules of ours that a migration may import, as what they declare never changes."""

TOMORROW = """
import sys
import attrs
import sqlalchemy
from sqlalchemy import Column, Table, Text
from heliograph.model.analytics import measured

def table(name, *parts, **options):
    there = any(part.name == "of_tomorrow" for part in parts if isinstance(part, Column))
    return Table(name, *parts, *[] if there else [Column("of_tomorrow", Text)], **options)

sqlalchemy.Table = table
facts = (*measured.MEASURED.facts, "of_tomorrow")
measured.MEASURED = attrs.evolve(measured.MEASURED, facts=facts)

from heliograph.storage.sql import migrate, rollups, schema

assert all("of_tomorrow" in table.c for table in schema.metadata.tables.values())
for url in sys.argv[1:]:
    migrate.upgrade(sqlalchemy.create_engine(url))
"""
"""Migrates with the program as it may be one day: each table has a further column, tasks a further fact."""

NOON = to_microseconds(datetime(2026, 3, 1, 12, tzinfo=UTC))
SECOND = 10**6
QUARTER = 15 * 60 * SECOND
SLOT = NOON // QUARTER


def _task(task_id: str, status: str, **said: Any) -> dict[str, Any]:
    """Return a row of the first schema."""
    fixed = {"updated_at": NOON, "output_lines": 0, "output_bytes": 0, "last_seq": 1, "last_event_id": 5}
    return {"task_id": task_id, "status": status, "created_at": NOON, **fixed, **said}


ERRORS = ("\n \u2003TimeoutError: " + "x" * 500, "no luck at 7", "no luck at 8")
TASKS = [
    _task("queued", "queued"),
    _task("running", "running", agent="a", model="m", started_at=NOON, session_id="s"),
    _task("cancelled", "cancelled", agent="a", model="m", finished_at=NOON - SECOND, input_tokens=5),
    *(
        _task(error[-1:], "failed", agent="a", model="m", finished_at=NOON + QUARTER, error=error)
        for error in ERRORS
    ),
    _task(
        "completed",
        "completed",
        agent="a" * 150,
        agent_type="writer",
        model="m",
        created_at=NOON - SECOND,
        started_at=NOON,
        finished_at=NOON + 90 * SECOND,
        cost_micros=1_500_000,
        input_tokens=100,
        output_tokens=20,
        last_event_id=77,
        session_id="s",
    ),
]

PLACE = ("agent_type", "agent", "model", "status")
SUMS = ("created", "finished", "succeeded", "failed", "cost", "input_tokens", "output_tokens", "duration_ms")
LONG = "a" * 100
ROLLUPS = {
    (0, "unknown", "unknown", "unknown", "queued"): ((1, 0, 0, 0, 0, 0, 0, 0), {}, {}),
    (0, "unknown", "a", "m", "running"): ((1, 0, 0, 0, 0, 0, 0, 0), {}, {}),
    (0, "unknown", "a", "m", "cancelled"): ((1, 0, 0, 0, 0, 0, 0, 0), {}, {}),
    (-1, "unknown", "a", "m", "cancelled"): ((0, 1, 0, 0, 0, 5, 0, 0), {0: 1}, {}),
    (0, "unknown", "a", "m", "failed"): ((3, 0, 0, 0, 0, 0, 0, 0), {}, {}),
    (1, "unknown", "a", "m", "failed"): (
        (0, 3, 0, 3, 0, 0, 0, 2_700_000),
        {sketch.bin_of(900_000): 3},
        {"TimeoutError": 1, "no luck at #": 2},
    ),
    (-1, "writer", LONG, "m", "completed"): ((1, 0, 0, 0, 0, 0, 0, 0), {}, {}),
    (0, "writer", LONG, "m", "completed"): (
        (0, 1, 1, 0, 1_500_000_000, 100, 20, 90_000),
        {sketch.bin_of(90_000): 1},
        {},
    ),
}
"""By slot, counted from noon, and dimensions: the sums, the sketch of durations, the kinds of error."""


@pytest.fixture(params=["sqlite", "postgresql"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Make a database at each revision, with tasks since the first; one, ``base``, has nothing at all."""
    with ExitStack() as stack:
        made = {}
        for revision in ("base", *REVISIONS):
            if request.param == "sqlite":
                made[revision] = f"sqlite:///{tmp_path / revision}.db"
            else:
                url = stack.enter_context(new_database(request.getfixturevalue("postgres_url")))
                made[revision] = database_url(url).render_as_string(hide_password=False)
            if revision != "base":
                _make(made[revision], revision)
        yield made


def _make(url: str, revision: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        CONFIG.attributes["connection"] = connection
        command.upgrade(CONFIG, REVISIONS[0])
        table = sa.Table("tasks", sa.MetaData(), autoload_with=connection)
        connection.execute(table.insert(), [dict.fromkeys(table.c.keys()) | task for task in TASKS])
        command.upgrade(CONFIG, revision)
    engine.dispose()


def test_a_program_of_tomorrow_migrates_from_every_revision(urls: dict[str, str]) -> None:
    """With further columns in the metadata every database comes to the newest schema, added up right."""
    subprocess.run([sys.executable, "-c", TOMORROW, *urls.values()], check=True)
    for revision, url in urls.items():
        found = _read(url)
        assert found == ((migrate.HEAD, {}, None) if revision == "base" else (migrate.HEAD, ROLLUPS, 77))


def test_sessions_of_earlier_tasks_are_added_up(urls: dict[str, str]) -> None:
    """A session has what its tasks came to before there were sessions; one that no task names is not made."""
    engine = sa.create_engine(urls[REVISIONS[0]])
    migrate.upgrade(engine)
    with engine.connect() as connection:
        [row] = connection.execute(sa.text("SELECT * FROM sessions")).mappings().all()
    engine.dispose()
    assert dict(row) | {"tasks": json.loads(row["tasks"])} == {
        "session_id": "s",
        "first_seen": NOON - SECOND,
        "last_seen": NOON + 90 * SECOND,
        "tasks": {"completed": 1, "running": 1},
        "cost_nanos": 1_500_000_000,
        "input_tokens": 100,
        "output_tokens": 20,
    }


def _read(url: str) -> tuple[str, dict[Any, Any], int | None]:
    """Return the revision, the rollups, and the id of the last event in them."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        revision = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
        changed = connection.scalar(sa.text("SELECT event_id FROM checkpoints WHERE name = 'rollups'"))
        rows = connection.execute(sa.text("SELECT * FROM rollups")).mappings().all()
    engine.dispose()
    assert {row["costs_computed"] for row in rows} <= {0}
    unknown = {(row["slot"] - SLOT, row["status"]) for row in rows if row["costs_unknown"]}
    assert unknown == ({(-1, "cancelled")} if rows else set())
    return str(revision), dict(map(_rollup, rows)), changed


def _rollup(row: sa.RowMapping) -> tuple[Any, Any]:
    cost = row["cost_nanos"]
    sums = tuple(cost if name == "cost" else row[name] for name in SUMS)
    place = (row["slot"] - SLOT, *(row[name] for name in PLACE))
    return place, (sums, sketch.load(row["durations"]), json.loads(row["errors"]))


def test_migrations_import_nothing_that_changes() -> None:
    """No migration reaches for the program's own code, which goes on while the migration stays."""
    for script in SCRIPTS:
        for node in ast.walk(ast.parse(Path(script.path).read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            ours = {name for name in names if name.partition(".")[0] == "heliograph"}
            assert ours <= UNCHANGING, f"{script.path} imports {ours}"
