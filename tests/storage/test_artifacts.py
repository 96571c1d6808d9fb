"""Artifacts in a folder: whole or not at all, never outside of it, and never in the way of an outage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from heliograph.model.errors import ArtifactNotFound, Invalid, Unavailable
from heliograph.storage.artifacts import FolderArtifacts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where artifacts are kept."""
    return tmp_path / "artifacts"


async def test_what_is_written_is_read(folder: Path) -> None:
    """All of it, or the bytes that are asked for; a later one replaces an earlier one."""
    artifacts = FolderArtifacts(folder)
    first = await artifacts.write("w", "r", "a.json", b"0123456789")
    assert await artifacts.read("w", "r", "a.json") == (first, b"0123456789")
    assert (await artifacts.read("w", "r", "a.json", 2, 4))[1] == b"234"
    assert (await artifacts.read("w", "r", "a.json", 0, -1))[1] == b""
    second = await artifacts.write("w", "r", "a.json", b"new")
    assert (second.size, second.etag != first.etag) == (3, True)
    assert await artifacts.list("w", "r") == [second]
    await artifacts.delete("w", "r", "a.json")
    assert await artifacts.list("w", "r") == []


async def test_what_is_not_there(folder: Path) -> None:
    """A run that left nothing has an empty list; a missing artifact is an error that names it."""
    artifacts = FolderArtifacts(folder)
    assert await artifacts.list("w", "r") == []
    with pytest.raises(ArtifactNotFound, match=r"a\.json"):
        await artifacts.read("w", "r", "a.json")
    with pytest.raises(ArtifactNotFound, match=r"a\.json"):
        await artifacts.delete("w", "r", "a.json")


@pytest.mark.parametrize("key", ["", "..", "../a", "a/b", "/etc/passwd", ".a", "a\0", "a\\b", "x" * 201, "ä"])
async def test_keys_stay_in_the_folder(folder: Path, key: str) -> None:
    """A key that is no plain name is refused, whatever is asked."""
    artifacts = FolderArtifacts(folder)
    with pytest.raises(Invalid, match="key"):
        await artifacts.write("w", "r", key, b"x")
    with pytest.raises(Invalid, match="key"):
        await artifacts.read("w", "r", key)
    with pytest.raises(Invalid, match="key"):
        await artifacts.delete("w", "r", key)


@pytest.mark.parametrize(
    ("workflow", "run"), [("..", "r"), ("w", ".."), ("a/b", "r"), ("", "r"), ("w", "/etc")]
)
async def test_runs_stay_in_the_folder(folder: Path, workflow: str, run: str) -> None:
    """A run or a workflow that is no name has no artifacts."""
    with pytest.raises(ArtifactNotFound):
        await FolderArtifacts(folder).list(workflow, run)


async def test_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    """A link, a folder and a pipe are no artifacts."""
    artifacts = FolderArtifacts(folder)
    await artifacts.write("w", "r", "a.json", b"x")
    (tmp_path / "secret").write_text("s")
    (folder / "w" / "r" / "link.json").symlink_to(tmp_path / "secret")
    (folder / "w" / "r" / "folder.json").mkdir()
    os.mkfifo(folder / "w" / "r" / "pipe.json")
    assert [info.key for info in await artifacts.list("w", "r")] == ["a.json"]
    for key in ("link.json", "pipe.json"):
        with pytest.raises(ArtifactNotFound):
            await artifacts.read("w", "r", key)


async def test_an_outage_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails is an outage, and leaves no part behind."""
    artifacts = FolderArtifacts(folder)
    await artifacts.write("w", "r", "a.json", b"old")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(Unavailable, match="No space left"):
        await artifacts.write("w", "r", "a.json", b"new")
    monkeypatch.undo()
    assert (await artifacts.read("w", "r", "a.json"))[1] == b"old"
    assert os.listdir(folder / "w" / "r") == ["a.json"]


WRITER = """
import sys, trio
from pathlib import Path
from heliograph.storage.artifacts import FolderArtifacts

async def main():
    artifacts = FolderArtifacts(Path(sys.argv[1]))
    for number in range(10**6):
        await artifacts.write("w", "r", "a.json", b"%06d" % number * 50_000)
        print(number, flush=True)

trio.run(main)
"""


def kill_a_writer(folder: Path) -> int:
    """Let a process write one artifact again and again, and kill it; return what it acknowledged last."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        acknowledged = [int(writer.stdout.readline()) for _ in range(5)]
        writer.send_signal(signal.SIGKILL)
        return max([*acknowledged, *map(int, writer.stdout.read().split())])


async def test_a_killed_writer_leaves_a_whole_artifact(folder: Path) -> None:
    """Killed in the middle of writing, what is there is whole, and no older than what was acknowledged."""
    acknowledged = kill_a_writer(folder)
    artifacts = FolderArtifacts(folder)
    (info,) = await artifacts.list("w", "r")
    _, data = await artifacts.read("w", "r", info.key)
    assert data == data[:6] * 50_000
    assert int(data[:6]) >= acknowledged
