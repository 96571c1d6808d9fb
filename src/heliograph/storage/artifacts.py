"""Artifacts in a folder: ``{root}/{workflow}/{run}/{key}``.

An artifact is one plain file, so a platform can write its own without this service. This service writes to a
temporary file and renames it once it is on the disk: a reader sees the old artifact or the new one, never a
part, and an acknowledged one survives a crash. Names are checked here even if a caller has checked them: they
never lead out of the folder, and an artifact that is a link is not followed.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import TypeVar

import trio

from heliograph.model.channels import is_name
from heliograph.model.errors import ArtifactNotFound, Invalid, Unavailable
from heliograph.storage.protocols import ArtifactInfo, RunName

MAX_KEY = 200
KEY = r"[A-Za-z0-9_][A-Za-z0-9._:@+=~ -]*"
KEY_HELP = f"1 to {MAX_KEY} of A-Z a-z 0-9 . _ : @ + = ~ - and spaces, beginning with a letter, digit or _"
THREADS = 8
"""The number of calls that run at once; a disk is not faster with more."""

T = TypeVar("T")
_key = re.compile(KEY, re.ASCII)


def is_key(text: str) -> bool:
    """Tell whether an artifact may have this key."""
    return len(text) <= MAX_KEY and _key.fullmatch(text) is not None


class FolderArtifacts:
    """Artifacts in a folder; see ``protocols.Artifacts``.

    Args:
        root: The folder; made when the first artifact is written.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._limiter = trio.CapacityLimiter(THREADS)

    async def list(
        self, workflow_id: str, run_id: str, after: str | None = None, limit: int | None = None
    ) -> Sequence[ArtifactInfo]:
        """List a run's artifacts, or some of them, by key."""
        return await self._call(lambda: _list(self._folder(workflow_id, run_id), after, limit))

    async def find(self, workflow_id: str, run_id: str, keys: Sequence[str]) -> Mapping[str, ArtifactInfo]:
        """Return the artifacts among ``keys`` that exist, by key."""
        return await self._call(lambda: _find(self._folder(workflow_id, run_id), keys))

    async def read(
        self, workflow_id: str, run_id: str, key: str, first: int = 0, last: int | None = None
    ) -> tuple[ArtifactInfo, bytes]:
        """Read an artifact, or some of its bytes."""
        return await self._call(lambda: _read(self._file(workflow_id, run_id, key), first, last))

    async def write(self, workflow_id: str, run_id: str, key: str, data: bytes) -> ArtifactInfo:
        """Write an artifact, whole or not at all; return when it is on the disk."""
        return await self._call(lambda: _write(self._file(workflow_id, run_id, key), data))

    async def delete(self, workflow_id: str, run_id: str, key: str) -> None:
        """Remove an artifact."""
        await self._call(lambda: _delete(self._file(workflow_id, run_id, key)))

    async def delete_old(self, workflow_id: str, run_id: str, before: datetime) -> bool:
        """Remove all artifacts of a run, unless one was written at ``before`` or later."""
        return await self._call(lambda: _delete_old(self._folder(workflow_id, run_id), before.timestamp()))

    async def runs(self, after: RunName | None, limit: int) -> Sequence[RunName]:
        """Return some of the runs that have artifacts."""
        return await self._call(lambda: _runs(self._root, after, limit))

    async def _call(self, work: Callable[[], T]) -> T:
        try:
            return await trio.to_thread.run_sync(work, limiter=self._limiter, abandon_on_cancel=False)
        except OSError as error:
            raise Unavailable(f"artifacts can't be reached: {error.strerror}") from error

    def _folder(self, workflow_id: str, run_id: str) -> Path:
        if not (is_name(workflow_id) and is_name(run_id)):
            raise ArtifactNotFound("there are no artifacts of such a run")
        return self._root / workflow_id / run_id

    def _file(self, workflow_id: str, run_id: str, key: str) -> Path:
        if not is_key(key):
            raise Invalid.field("key", f"must be {KEY_HELP}")
        return self._folder(workflow_id, run_id) / key


def _list(folder: Path, after: str | None, limit: int | None) -> Sequence[ArtifactInfo]:
    with _entries(folder) as entries:
        keys = [
            entry.name
            for entry in entries
            if is_key(entry.name) and entry.is_file(follow_symlinks=False) and entry.name > (after or "")
        ]
    wanted = sorted(keys)[:limit]
    found = _find(folder, wanted)
    return [found[key] for key in wanted if key in found]


def _find(folder: Path, keys: Sequence[str]) -> Mapping[str, ArtifactInfo]:
    found = {}
    for key in filter(is_key, keys):
        with suppress(FileNotFoundError, NotADirectoryError):
            status = os.lstat(folder / key)
            if S_ISREG(status.st_mode):
                found[key] = _info(key, status)
    return found


@contextmanager
def _entries(folder: Path) -> Iterator[Iterable[os.DirEntry[str]]]:
    """Scan a folder; a missing one counts as empty."""
    try:
        scanning = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        yield ()
        return
    with scanning:
        yield scanning


def _read(file: Path, first: int, last: int | None) -> tuple[ArtifactInfo, bytes]:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise _none(file) from None
    except OSError:
        if file.is_symlink():
            raise _none(file) from None
        raise
    with open(descriptor, "rb") as opened:
        found = os.fstat(descriptor)
        if not S_ISREG(found.st_mode):
            raise _none(file)
        opened.seek(first)
        return _info(file.name, found), opened.read(-1 if last is None else last - first + 1)


def _write(file: Path, data: bytes) -> ArtifactInfo:
    folder = file.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = folder / f".{file.name}.{secrets.token_hex(4)}.part"
    try:
        with open(beside, "xb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(beside, file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    # The run's folder and those above it may be new.
    for path in (folder, folder.parent, folder.parent.parent):
        _sync(path)
    return _info(file.name, file.stat())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _delete(file: Path) -> None:
    try:
        file.unlink()
    except (FileNotFoundError, NotADirectoryError):
        raise _none(file) from None


def _delete_old(folder: Path, before: float) -> bool:
    """Remove a run's folder, unless a file in it is newer; files that are added meanwhile stay."""
    try:
        status = os.lstat(folder)
        names = os.listdir(folder) if S_ISDIR(status.st_mode) else []
        newest = max([status.st_mtime, *(os.lstat(folder / name).st_mtime for name in names)])
    except (FileNotFoundError, NotADirectoryError):
        return False
    if newest >= before or not S_ISDIR(status.st_mode):
        return False
    for name in names:
        with suppress(FileNotFoundError):
            status = os.lstat(folder / name)
            if S_ISDIR(status.st_mode):
                shutil.rmtree(folder / name)
            elif status.st_mtime < before:
                (folder / name).unlink()
    with suppress(OSError):  # a file was added meanwhile
        folder.rmdir()
    return True


def _runs(root: Path, after: RunName | None, limit: int) -> Sequence[RunName]:
    found: list[RunName] = []
    for workflow in _folders(root):
        if after is None or workflow >= after.workflow_id:
            names = (RunName(workflow, run) for run in _folders(root / workflow))
            found += [name for name in names if after is None or name > after][: limit - len(found)]
        if len(found) == limit:
            break
    return found


def _folders(folder: Path) -> Sequence[str]:
    """Return the names of subfolders that are valid for workflows and runs, sorted."""
    with _entries(folder) as entries:
        return sorted(
            entry.name for entry in entries if is_name(entry.name) and entry.is_dir(follow_symlinks=False)
        )


def _info(key: str, found: os.stat_result) -> ArtifactInfo:
    modified = datetime.fromtimestamp(found.st_mtime, UTC)
    return ArtifactInfo(
        key, found.st_size, modified, f"{found.st_mtime_ns:x}-{found.st_ino:x}-{found.st_size:x}"
    )


def _none(file: Path) -> ArtifactNotFound:
    return ArtifactNotFound(f"the run has no artifact {file.name!r}")
