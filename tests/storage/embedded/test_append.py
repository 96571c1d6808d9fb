import sqlite3
from contextlib import closing

import pytest
from tests.storage.conftest import Embedded
from tests.strategies import draft, output, status

from heliograph.model.event import Draft
from heliograph.model.task import TASK, Task
from heliograph.storage.protocols import Receipt
from heliograph.storage.sql import written as module


async def test_forgotten_channels_are_read_again(embedded: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers and counts go on where they stood, however long ago a channel was written to."""
    monkeypatch.setattr(module, "WRITTEN_CHANNELS", 2)
    for _ in range(3):
        for name in ("1", "2", "3", "4"):
            await embedded.log.append([[output(name, "x"), output(name, "y")]])
    tasks = [await known(embedded, name) for name in "1234"]
    assert [(task.last_seq, task.output_lines, task.output_bytes) for task in tasks] == [(6, 6, 6)] * 4


async def test_what_a_running_task_writes_is_counted(embedded: Embedded) -> None:
    """Lines, bytes in UTF-8, the newest time and the place in the log are those of all its events."""
    early, late = "2026-01-31T12:00:00Z", "2026-01-31T12:00:09Z"

    def said(topic: str, at: str, **payload: str) -> Draft:
        return draft(topic, {"task_id": "1", **payload}, timestamp=at)

    await embedded.log.append([[said("task.status", early, status="running")]])
    await embedded.log.append(
        [[said("task.output", late, output="\u00e9\u20ac"), said("task.output", early, output="")]]
    )
    (receipt,) = await embedded.log.append(
        [[said("task.note", early), said("task.output", early, output="\U0001f6f0")]]
    )
    task = await embedded.store.get(TASK, "1")
    assert task is not None
    assert (task.output_lines, task.output_bytes, task.last_seq) == (3, 9, 5)
    assert task.updated_at.isoformat() == "2026-01-31T12:00:09+00:00"
    assert isinstance(receipt, Receipt)
    assert task.last_event_id == receipt.cursor


async def test_the_end_of_a_running_task_is_folded_whole(embedded: Embedded) -> None:
    """Output before and behind the end, within one append and after it, counts; the end stands."""
    await embedded.log.append([[output("1", "a")]])
    await embedded.log.append([[output("1", "b"), status("1", "failed"), output("1", "c")]])
    await embedded.log.append([[output("1", "d")]])
    task = await embedded.store.get(TASK, "1")
    assert task is not None
    assert (task.status, task.output_lines, task.last_seq) == ("failed", 4, 5)


async def test_a_task_that_somebody_else_removed_is_an_error(embedded: Embedded) -> None:
    """When the tables are not as the only writer left them, it stops instead of counting past them."""
    await embedded.log.append([[output("1", "a")]])
    with closing(sqlite3.connect(embedded.folder / "heliograph.db")) as other:
        other.execute("DELETE FROM tasks")
        other.commit()
    before = embedded.log.position
    with pytest.raises(RuntimeError, match="not there any more"):
        await embedded.log.append([[output("1", "b")]])
    assert embedded.log.position == before


async def known(embedded: Embedded, name: str) -> Task:
    """Return a task that must be there."""
    task = await embedded.store.get(TASK, name)
    assert task is not None
    return task
