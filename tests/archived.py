"""What must hold in PostgreSQL at the end, whatever happened: every event once, and their fold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import attrs
import orjson
import psycopg
from sqlalchemy import create_engine, select
from tests.servers import READY_SECONDS, wait_until

from heliograph.model.event import Event
from heliograph.model.task import Task
from heliograph.storage.distributed.postgres import database_url
from heliograph.storage.sql import schema
from heliograph.storage.sql.checkpoint import read_checkpoint
from heliograph.storage.sql.entities.task import TASKS


@attrs.frozen
class Archived:
    """Everything in the store."""

    events: list[Event]
    tasks: dict[str, Task]
    counted: int

    def outputs(self) -> list[str]:
        """Return what the lines of output say, in order."""
        return [event.payload["output"] for event in self.events if event.topic == "task.output"]


def read_archive(url: str) -> Archived:
    """Read the store whole."""
    engine = create_engine(database_url(url), isolation_level="REPEATABLE READ")
    try:
        with engine.connect() as connection:
            rows = connection.execute(select(schema.events).order_by(schema.events.c.id))
            events = [
                Event(
                    id=row.id,
                    channel=row.channel,
                    seq=row.seq,
                    topic=row.topic,
                    timestamp=row.timestamp,
                    payload=orjson.loads(row.payload),
                    sender=row.sender,
                    correlation_id=row.correlation_id,
                    body=row.payload.encode(),
                )
                for row in rows
            ]
            tasks = [Task(**row) for row in connection.execute(select(TASKS.table)).mappings()]
            counted = connection.scalar(select(schema.counters.c.value)) or 0
            assert read_checkpoint(connection) == (events[-1].id if events else 0)
    finally:
        engine.dispose()
    return Archived(events, {task.task_id: task for task in tasks}, counted)


def await_outputs(url: str, number: int, seconds: float = READY_SECONDS) -> None:
    """Wait until so many lines of output are in the store.

    Raises:
        TimeoutError: They are not within so many seconds.
    """
    await_topic(url, "task.output", number, seconds)


def await_topic(url: str, topic: str, number: int, seconds: float = READY_SECONDS) -> None:
    """Wait until so many events of a topic are in the store.

    Raises:
        TimeoutError: They are not within so many seconds.
    """

    def archived() -> bool:
        with psycopg.connect(url) as connection:
            found = connection.execute("SELECT count(*) FROM events WHERE topic = %s", (topic,)).fetchone()
        assert found is not None
        return int(found[0]) >= number

    wait_until(archived, f"{number} {topic} archived", seconds)


def check_archive(url: str, outputs: Iterable[str]) -> None:
    """Compare the store with the lines that were published, and its tables with a recount of its events."""
    archived = read_archive(url)
    kept, wanted = Counter(archived.outputs()), Counter(outputs)
    assert kept == wanted, f"too many: {kept - wanted}; too few: {wanted - kept}"
    seqs: dict[str, list[int]] = {}
    folded: dict[str, Task] = {}
    for event in archived.events:
        seqs.setdefault(event.channel, []).append(event.seq)
        if event.channel.startswith("task:"):
            name = event.channel.removeprefix("task:")
            folded.setdefault(name, Task.first_seen(event)).apply(event)
    assert {channel: list(range(1, len(seen) + 1)) for channel, seen in seqs.items()} == seqs
    assert archived.tasks == folded
    assert archived.counted == len(archived.events)
