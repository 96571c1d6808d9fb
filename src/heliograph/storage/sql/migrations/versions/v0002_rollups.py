"""Rollups and corrections, computed costs and cached tokens of tasks; tasks that are there are added up.

The adding up is this module's own, as it was when the tables were made: the program's code goes on to
columns that the database does not have yet at this step.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")
DIMENSIONS = ("agent_type", "agent", "model", "status")
TOTALS = (
    "created",
    "finished",
    "succeeded",
    "failed",
    "cost_micros",
    "costs_computed",
    "input_tokens",
    "output_tokens",
    "duration_ms",
)

SLOT = 15 * 60 * 1_000_000
GAMMA = (1 + 0.0099) / (1 - 0.0099)
LONGEST_MS = 100 * 365 * 86_400_000
ROWS = 2000

SPACE = "".join(filter(str.isspace, map(chr, range(0x10000))))
TASKS = sa.table(
    "tasks",
    *map(
        sa.column,
        (
            *("created_at", "started_at", "finished_at", "agent_type", "agent", "model", "status"),
            *("cost_micros", "input_tokens", "output_tokens", "last_event_id"),
        ),
    ),
    sa.column("error", sa.Text),
)
ROLLUPS = sa.table(
    "rollups",
    *map(sa.column, ("slot", *DIMENSIONS, *TOTALS, "errors")),
    sa.column("durations", sa.LargeBinary),
)


def upgrade() -> None:
    op.add_column("tasks", sa.Column("cost_computed", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("tasks", sa.Column("cached_tokens", BIG))
    op.create_table(
        "rollups",
        sa.Column("slot", BIG, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.Text, primary_key=True) for name in DIMENSIONS),
        *(sa.Column(name, BIG, nullable=False) for name in TOTALS),
        sa.Column("durations", sa.LargeBinary, nullable=False),
        sa.Column("errors", sa.Text, nullable=False),
    )
    op.create_table(
        "corrections",
        sa.Column("event_id", BIG, primary_key=True, autoincrement=False),
        sa.Column("task_id", sa.Text, nullable=False),
        *(sa.Column(name, sa.BigInteger) for name in ("created_at", "started_at", "finished_at")),
        *(sa.Column(name, sa.Text) for name in ("status", "agent_type", "agent", "model")),
        sa.Column("cost_micros", BIG),
        sa.Column("cost_computed", sa.Boolean),
        *(sa.Column(name, BIG) for name in ("input_tokens", "output_tokens", "cached_tokens")),
        sa.Column("error", sa.Text),
    )
    op.create_index("corrections_task_event", "corrections", ["task_id", "event_id"])
    _add_up(op.get_bind())


def downgrade() -> None:
    op.drop_table("corrections")
    op.drop_table("rollups")
    op.drop_column("tasks", "cached_tokens")
    op.drop_column("tasks", "cost_computed")


class _Cell:
    """The sums over tasks in one slot, for one group of dimensions."""

    def __init__(self) -> None:
        self.sums: Counter[str] = Counter()
        self.durations: Counter[int] = Counter()
        self.errors: Counter[str] = Counter()


def _add_up(connection: sa.Connection) -> None:
    cells: defaultdict[tuple[Any, ...], _Cell] = defaultdict(_Cell)
    newest = 0
    for task in _tasks(connection):
        newest = max(newest, task["last_event_id"])
        dimensions = (*(_dimension(task[name]) for name in DIMENSIONS[:3]), task["status"])
        cells[(task["created_at"] // SLOT, *dimensions)].sums["created"] += 1
        if task["finished_at"] is not None:
            _add_outcome(cells[(task["finished_at"] // SLOT, *dimensions)], task)
    rows = [_row(place, cell) for place, cell in cells.items()]
    for start in range(0, len(rows), ROWS):
        connection.execute(sa.insert(ROLLUPS), rows[start : start + ROWS])
    if newest:
        checkpoints = sa.table("checkpoints", sa.column("name"), sa.column("event_id"))
        connection.execute(sa.insert(checkpoints).values(name="rollups", event_id=newest))


def _tasks(connection: sa.Connection) -> Iterator[Any]:
    short = sa.func.substr(sa.func.ltrim(TASKS.c.error, SPACE), 1, 200)
    columns = [short.label("error") if column.name == "error" else column for column in TASKS.c]
    with connection.execute(sa.select(*columns).execution_options(yield_per=ROWS)) as found:
        yield from found.mappings()


def _add_outcome(cell: _Cell, task: Any) -> None:
    begun = task["created_at"] if task["started_at"] is None else task["started_at"]
    duration = min(max(0, round((task["finished_at"] - begun) / 1_000_000 * 1000)), LONGEST_MS)
    cell.sums["finished"] += 1
    cell.sums["succeeded"] += task["status"] == "completed"
    cell.sums["failed"] += task["status"] == "failed"
    cell.sums["duration_ms"] += duration
    for name in ("cost_micros", "input_tokens", "output_tokens"):
        cell.sums[name] += task[name] or 0
    cell.durations[1 + math.ceil(math.log(duration) / math.log(GAMMA)) if duration else 0] += 1
    if task["status"] == "failed":
        cell.errors[_error_kind(task["error"] or "")] += 1


def _row(place: tuple[Any, ...], cell: _Cell) -> dict[str, Any]:
    return {
        **dict(zip(("slot", *DIMENSIONS), place, strict=True)),
        **{name: cell.sums[name] for name in TOTALS},
        "durations": b"".join(struct.pack("<HI", *entry) for entry in cell.durations.items()),
        "errors": json.dumps(cell.errors),
    }


def _dimension(text: str | None) -> str:
    return text[:100] if text else "unknown"


def _error_kind(error: str) -> str:
    line = error.strip().partition("\n")[0][:200].strip()
    name = re.match(r"[A-Za-z_][\w.]*(?=:|$)", line)
    return name[0][:80] if name else re.sub(r"0x[0-9a-fA-F]+|\d+", "#", line)[:80].strip() or "unknown"
