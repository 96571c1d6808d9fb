"""An embedded database is checked, copied while it is written to, and put back."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.storage.embedded.test_damage import damage
from tests.strategies import output, status

from heliograph.actors.replay import Replay
from heliograph.model.errors import SettingsError
from heliograph.model.settings import RetentionSettings
from heliograph.model.task import TASK
from heliograph.storage.embedded.form import Embedded, open_embedded
from heliograph.storage.embedded.upkeep import backup, check, restore

DAY = timedelta(days=1)


async def fill(storage: Embedded, number: int = 300) -> None:
    """Publish something."""
    await storage.log.append(
        [[output(f"t{n % 7}", "x" * 300) for n in range(number)], [status("t0", "failed")]]
    )


async def test_a_copy_is_of_one_moment_and_can_be_put_back(tmp_path: Path) -> None:
    """A copy that was made while the database was written to is sound, and serves in its stead."""
    async with open_embedded(tmp_path / "data", DAY) as storage:
        await fill(storage)
        backup(tmp_path / "data", tmp_path / "copy.db")
        assert check(tmp_path / "data") == []
        await fill(storage)
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    restore(tmp_path / "copy.db", tmp_path / "other")
    assert check(tmp_path / "other") == check(tmp_path / "data") == []
    async with open_embedded(tmp_path / "other", DAY) as storage:
        task = await storage.store.get(TASK, "t0")
        assert task is not None
        assert (task.output_lines, task.status) == (43, "failed")
    with pytest.raises(SettingsError, match="is there already"):
        restore(tmp_path / "copy.db", tmp_path / "other")
    with pytest.raises(SettingsError, match="is there already"):
        backup(tmp_path / "data", tmp_path / "copy.db")


async def test_what_a_copy_lacks_is_known(tmp_path: Path) -> None:
    """The events that came after a copy was made are lost to who restores it, and no others are."""
    async with open_embedded(tmp_path / "data", DAY) as storage:
        await fill(storage)
        there = storage.log.position
        backup(tmp_path / "data", tmp_path / "copy.db")
        await fill(storage, 1)
        lost = storage.log.position
    restore(tmp_path / "copy.db", tmp_path / "other")
    async with open_embedded(tmp_path / "other", DAY) as storage:
        replay = Replay(storage.log)
        await fill(storage, 1)
        assert [replay.is_lost(one) for one in (there, lost, storage.log.position)] == [False, True, False]


async def test_a_check_finds_nothing_after_retention(tmp_path: Path) -> None:
    """What retention has removed leaves everything that is counted right."""
    async with open_embedded(tmp_path, DAY) as storage:
        await fill(storage)
        while await storage.keeper.sweep(RetentionSettings(max_events=100), datetime.now(UTC)):
            pass
    assert check(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "meaning"),
    [
        ("UPDATE counters SET value = value + 1", "the counter of events differs"),
        ("DELETE FROM events WHERE seq = 5", "a hole in its numbers"),
        ("UPDATE channels SET head_seq = 1", "beyond its last number"),
        ("UPDATE checkpoints SET event_id = 1 WHERE name = 'fold'", "the checkpoint is behind"),
        ("UPDATE tasks SET last_seq = 10000", "a task was never heard of"),
    ],
)
async def test_a_check_says_what_is_wrong(tmp_path: Path, change: str, meaning: str) -> None:
    """Each thing that is counted is compared with what it counts."""
    async with open_embedded(tmp_path, DAY) as storage:
        await fill(storage)
    with closing(sqlite3.connect(tmp_path / "heliograph.db")) as connection, connection:
        connection.execute(change)
    assert any(meaning in problem for problem in check(tmp_path))


async def test_a_damaged_copy_is_not_restored(tmp_path: Path) -> None:
    """Damage is found by the check, named with its file, and never put back; nor is what is no database."""
    async with open_embedded(tmp_path / "data", DAY) as storage:
        await fill(storage, 2000)
    file = tmp_path / "data" / "heliograph.db"
    damage(file)
    assert all("heliograph.db is damaged" in problem for problem in check(tmp_path / "data"))
    assert check(tmp_path / "data")
    shutil.copyfile(file, tmp_path / "copy.db")
    (tmp_path / "text").write_text("no database " * 100)
    for source in ("copy.db", "text", "missing"):
        with pytest.raises(SettingsError, match=source):
            restore(tmp_path / source, tmp_path / "other")
    assert not (tmp_path / "other" / "heliograph.db").exists()
