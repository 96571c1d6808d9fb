"""Artifacts in a folder and in a bucket: whole or not at all, never outside, and an outage is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore
from tests.bucket import BUCKET, Bucket, Stored, serving

from heliograph.model.errors import ArtifactNotFound, Invalid, SettingsError, Unavailable
from heliograph.storage import objects
from heliograph.storage.artifacts import FolderArtifacts
from heliograph.storage.objects import ObjectArtifacts, open_bucket
from heliograph.storage.protocols import Artifacts, RunName

URL = f"s3://{BUCKET}/some/prefix"
LATER = datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture(params=["folder", "objects", "s3"])
def artifacts(request: pytest.FixtureRequest, folder: Path) -> Artifacts:
    """Return each form in turn: a folder, a bucket in memory, and one that is asked over HTTP."""
    if request.param == "folder":
        return FolderArtifacts(folder)
    if request.param == "objects":
        return ObjectArtifacts(MemoryStore())
    request.getfixturevalue("bucket")
    return ObjectArtifacts(open_bucket(URL))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """Serve a bucket, which the environment names."""
    with serving(Bucket()) as served:
        for name, value in served.environment.items():
            monkeypatch.setenv(name, value)
        yield served


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where artifacts are kept."""
    return tmp_path / "artifacts"


async def test_what_is_written_is_read(artifacts: Artifacts) -> None:
    """All of it, or the bytes that are asked for; a later one replaces an earlier one."""
    first = await artifacts.write("w", "r", "a.json", b"0123456789")
    assert await artifacts.read("w", "r", "a.json") == (first, b"0123456789")
    assert (await artifacts.read("w", "r", "a.json", 2, 4))[1] == b"234"
    assert (await artifacts.read("w", "r", "a.json", 0, -1))[1] == b""
    second = await artifacts.write("w", "r", "a.json", b"new")
    assert (second.size, second.etag != first.etag) == (3, True)
    assert await artifacts.list("w", "r") == [second]
    await artifacts.delete("w", "r", "a.json")
    assert await artifacts.list("w", "r") == []


async def test_what_is_old_goes_at_once(artifacts: Artifacts) -> None:
    """Everything that a run left behind is removed, and nothing of another run; twice is no error."""
    for key in ("a.json", "b.txt"):
        await artifacts.write("w", "r", key, b"x")
    await artifacts.write("w", "r2", "a.json", b"x")
    assert not await artifacts.delete_old("w", "r", datetime.now(UTC) - timedelta(hours=1))
    assert len(await artifacts.list("w", "r")) == 2
    for removed in (True, False):
        assert await artifacts.delete_old("w", "r", LATER) is removed
        assert await artifacts.list("w", "r") == []
    assert len(await artifacts.list("w", "r2")) == 1


async def test_runs_are_walked_through(artifacts: Artifacts) -> None:
    """Each run that left something behind is met once, whatever its name, in parts of any size."""
    names = {RunName(w, r) for w in ("w", "w-1", "w0", "v") for r in ("r", "r-x", "r.1", "r0", "R")}
    for workflow_id, run_id in names:
        for key in ("a.json", "b.json"):
            await artifacts.write(workflow_id, run_id, key, b"x")
    for limit in (1, 3, 100):
        met: list[RunName] = []
        while part := await artifacts.runs(met[-1] if met else None, limit):
            assert len(part) <= limit
            met += part
        assert sorted(met) == sorted(names)


async def test_artifacts_are_listed_and_found_in_parts(artifacts: Artifacts) -> None:
    """A part of the list goes on behind a key; those that are asked for are found among many others."""
    keys = sorted(f"s{number}.json" for number in range(60))
    for key in keys:
        await artifacts.write("w", "r", key, key.encode())
    listed: list[str] = []
    while part := await artifacts.list("w", "r", listed[-1] if listed else None, 25):
        listed += [info.key for info in part]
    assert listed == keys
    found = await artifacts.find("w", "r", ["s7.json", "t.json", "s33.json", "../a", "a.json", "s33.jso"])
    assert {key: info.size for key, info in found.items()} == {"s7.json": 7, "s33.json": 8}
    assert await artifacts.find("w", "none", keys) == {}


async def test_keys_of_all_characters(artifacts: Artifacts) -> None:
    """Every character that a key may have comes back as it was."""
    key = "_A z09._:@+=~-.json"
    await artifacts.write("w", "r", key, b"x")
    assert [info.key for info in await artifacts.list("w", "r")] == [key]
    assert list(await artifacts.find("w", "r", [key])) == [key]
    assert (await artifacts.read("w", "r", key))[1] == b"x"
    await artifacts.delete("w", "r", key)


async def test_what_is_not_there(artifacts: Artifacts) -> None:
    """A run that left nothing has an empty list; a missing artifact is an error."""
    assert await artifacts.list("w", "r") == []
    with pytest.raises(ArtifactNotFound, match="no artifact"):
        await artifacts.read("w", "r", "a.json")
    with pytest.raises(ArtifactNotFound, match="no artifact"):
        await artifacts.delete("w", "r", "a.json")


@pytest.mark.parametrize("key", ["", "..", "../a", "a/b", "/etc/passwd", ".a", "a\0", "a\\b", "x" * 201, "ä"])
async def test_keys_stay_in_their_run(artifacts: Artifacts, key: str) -> None:
    """A key that is no plain name is refused, whatever is asked."""
    with pytest.raises(Invalid, match="key"):
        await artifacts.write("w", "r", key, b"x")
    with pytest.raises(Invalid, match="key"):
        await artifacts.read("w", "r", key)
    with pytest.raises(Invalid, match="key"):
        await artifacts.delete("w", "r", key)


@pytest.mark.parametrize(
    ("workflow", "run"), [("..", "r"), ("w", ".."), ("a/b", "r"), ("", "r"), ("w", "/etc")]
)
async def test_runs_stay_in_their_place(artifacts: Artifacts, workflow: str, run: str) -> None:
    """A run or a workflow that is no name has no artifacts."""
    with pytest.raises(ArtifactNotFound):
        await artifacts.list(workflow, run)


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


async def test_an_outage_of_a_bucket_ends(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the storage is away that is said; when it is back everything goes on, and nothing is missing."""
    monkeypatch.setattr(objects, "RETRIES", 0)
    artifacts = ObjectArtifacts(open_bucket(URL))
    written = await artifacts.write("w", "r", "a.json", b"0123456789")
    bucket.stop()
    for ask in (
        artifacts.list("w", "r"),
        artifacts.find("w", "r", ["a.json"]),
        artifacts.read("w", "r", "a.json"),
        artifacts.runs(None, 9),
        artifacts.delete_old("w", "r", LATER),
    ):
        with pytest.raises(Unavailable, match="can't be reached"):
            await ask
    again = Bucket(bucket.server_port)
    again.objects = bucket.objects
    with serving(again):
        assert await artifacts.list("w", "r") == [written]
        assert (await artifacts.read("w", "r", "a.json", 8, 99))[1] == b"89"


@pytest.mark.parametrize(
    ("name", "code"),
    [("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId"), ("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch")],
)
async def test_wrong_credentials_are_named(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, name: str, code: str
) -> None:
    """A storage that does not let us in says why, in one line that shows no secret."""
    monkeypatch.setenv(name, "something else")
    artifacts = ObjectArtifacts(open_bucket(URL))
    for ask in (artifacts.list("w", "r"), artifacts.write("w", "r", "a.json", b"x")):
        with pytest.raises(Unavailable, match=code) as caught:
            await ask
        assert "\n" not in str(caught.value)
        assert "something else" not in str(caught.value)
    assert not bucket.objects


async def test_what_a_page_needs_is_found_in_few_requests(bucket: Bucket) -> None:
    """Of a run of ten thousand steps, what five hundred of them left is found by a few lists, and no more."""
    for number in range(10_000):
        for end in ("json", "llm.json"):
            bucket.objects[f"some/prefix/w/r/step-{number:05}.{end}"] = Stored(b"{}", datetime.now(UTC))
    artifacts = ObjectArtifacts(open_bucket(URL))
    keys = [f"step-{number:05}.{end}" for number in range(7000, 7500) for end in ("json", "llm.json")]
    assert sorted(await artifacts.find("w", "r", keys)) == sorted(keys)
    assert bucket.asked["LIST"] <= 2
    assert await artifacts.find("w", "none", keys) == {}
    assert bucket.asked["LIST"] <= 3
    assert (await artifacts.read("w", "r", keys[0]))[1] == b"{}"
    assert set(bucket.asked) == {"LIST", "GET"}


async def test_a_bucket_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that can't be reached is an outage, said in one line, and asked no longer than a moment."""
    monkeypatch.setattr(objects, "RETRIES", 0)
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_REGION": "here",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }.items():
        monkeypatch.setenv(name, value)
    away = ObjectArtifacts(open_bucket("s3://bucket/prefix"))
    for ask in (away.list("w", "r"), away.read("w", "r", "a.json"), away.write("w", "r", "a.json", b"x")):
        with pytest.raises(Unavailable, match="can't be reached") as caught:
            await ask
        assert "\n" not in str(caught.value)


def test_a_bucket_must_be_of_a_kind_that_is_known() -> None:
    """Another URL is a mistake in the settings."""
    with pytest.raises(SettingsError, match=r"artifacts\.url"):
        open_bucket("ftp://somewhere/else")


async def test_runs_in_a_bucket_are_apart() -> None:
    """What begins with a run's name is not the run's."""
    bucket = ObjectArtifacts(MemoryStore())
    await bucket.write("w", "r", "a.json", b"x")
    await bucket.write("w", "r2", "b.json", b"x")
    assert [info.key for info in await bucket.list("w", "r")] == ["a.json"]


WRITER = """
import sys, trio
from pathlib import Path
from heliograph.storage.artifacts import FolderArtifacts
from heliograph.storage.objects import ObjectArtifacts, open_bucket
from heliograph.storage.protocols import Artifacts

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
