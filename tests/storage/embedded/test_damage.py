"""A file that does not hold what was written to it is named, and who may read it is decided."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from tests.strategies import output

from heliograph.model.errors import Unavailable
from heliograph.model.task import TASK
from heliograph.storage.embedded.form import open_embedded

DAY = timedelta(days=1)
PAGE = 4096


def damage(file: Path) -> None:
    """Overwrite pages in the middle of a file."""
    size = file.stat().st_size
    with file.open("r+b") as opened:
        for offset in range(size // 4 // PAGE * PAGE, size * 3 // 4, PAGE):
            opened.seek(offset)
            opened.write(b"\xff" * PAGE)


async def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    """A question that meets damaged pages is answered by an outage that names the file; checks say so too."""
    async with open_embedded(tmp_path, DAY) as storage:
        await storage.log.append([[output("t", f"{n} " + "x" * 500) for n in range(2000)]])
    damage(tmp_path / "heliograph.db")
    async with open_embedded(tmp_path, DAY) as storage:
        assert (await storage.checks())["store"] is None
        with pytest.raises(Unavailable, match=r"heliograph.db is damaged: database disk image is malformed"):
            await storage.store.lines(TASK, "t", 1, None, 5000)
        assert "heliograph.db is damaged" in str((await storage.checks())["store"])


async def test_the_data_is_its_owners(tmp_path: Path) -> None:
    """Nobody else may enter a folder that was made, or read its files, whatever the mask says."""
    before = os.umask(0)
    try:
        async with open_embedded(tmp_path / "data", DAY) as storage:
            await storage.log.append([[output("t", "x")]])
            modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "data").iterdir()}
    finally:
        os.umask(before)
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert set(modes) >= {"heliograph.db", "heliograph.db-wal", "heliograph.lock"}
    assert set(modes.values()) == {0o600}
