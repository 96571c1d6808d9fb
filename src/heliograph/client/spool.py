"""The spool: items on disk that the service has not acknowledged yet.

All items go through it, whether the service can be reached or not; so there is one path, and it is always
tested. When ``append`` returns, the items are in the kernel's page cache: ``kill -9`` of the process loses
none of them. (They are not synced to the disk: a power cut may take the last seconds with it, as it takes the
command.)

A spool is a folder of its own under the spool folder::

    3f9a51c07be2d846/
        about.json        for which service and task, and how many items
        lock              flock'ed by the process that writes or sends; the kernel frees it when that dies
        00000001.ndjson   a record a line: an item as ``POST /api/v1/events`` takes it, with its idempotency
                          key, or a run of lines of output that differ in nothing but their text
        00000002.ndjson   the next segment; a segment is deleted once all of it is acknowledged
        sent              the acknowledged position, as ``segment offset``
        00000001.attached bytes that are to be put at a path of the service (see ``attachments``)
        open.json         the tasks that its process has begun and not ended, if it tells of several

Items are encoded once and sent as they are. A program that writes millions of lines must not wait for their
encoding, so a run of lines is one record, and ``expand`` makes an item of each line for sending. Each item
has a key, so a stale ``sent`` only makes the service get an item twice and keep it once: one small write of
the file is enough. A process that finds a spool whose lock is free may ``adopt`` it, since its process has
ended or died. Reads and writes are plain blocking calls: they meet the page cache, not the disk, and are far
shorter than a thread switch. One thread may append while another one reads and acknowledges; two that append
need a lock of their own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import attrs
import orjson

ATTACHED = ".attached"
SEGMENT_BYTES = 4 * 1024 * 1024
ITEM_BYTES = 150
"""Roughly the bytes of an item besides the text of its line."""
REFUSED_BYTES = 64 * 1024 * 1024
"""The most bytes of refused items that are kept."""


@attrs.frozen
class About:
    """The purpose of a spool.

    Args:
        url: The URL of the service that its items are for.
        task_id: The id of its items' task; empty: they are of several tasks.
        command: The command, for people.
    """

    url: str
    task_id: str
    command: str


@attrs.frozen
class OutputRun:
    """Consecutive lines of output.

    Args:
        item: The item of each line, without ``output`` in its payload and without a key.
        text: The lines, joined by line ends.
    """

    item: Mapping[str, Any]
    text: str


class Spool:
    """One spool folder, locked by this process; made by ``create`` or ``adopt``."""

    def __init__(self, folder: Path, about: About, lock: int) -> None:
        self.folder = folder
        self.about = about
        self._lock = lock
        segments = sorted(int(path.stem) for path in folder.glob("*.ndjson"))
        self._newest = segments[-1] if segments else 0
        self._sent = os.open(folder / "sent", os.O_RDWR | os.O_CREAT, 0o600)
        self._writer = -1
        self._written = 0  # bytes in the newest segment
        self._segment, self._offset = self._read_sent(segments)
        # The appending thread moves the first, the sending one the second; they may be two threads.
        self.appended = self.acknowledged = 0
        if segments:
            self._drop_torn_line()
            self.appended = (
                sum(self._path(n).stat().st_size for n in segments if n >= self._segment) - self._offset
            )
        self._attached = max((int(file.stem) for file in self.attachments()), default=0)
        self._count = 0
        # Each adoption has a name of its own: an item under the key of another one would be taken for known.
        self._keys = f"{folder.name}-{secrets.token_hex(8)}" if segments else folder.name

    @classmethod
    def create(cls, home: Path, about: About) -> Spool:
        """Make a new spool.

        Args:
            home: The folder of all spools; made if it is missing.
            about: The purpose of the spool.

        Raises:
            OSError: It can't be made there.
        """
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = secrets.token_hex(8)
        # It gets its name once it is locked, so that no process adopts it half made.
        making = home / f".{name}"
        making.mkdir(mode=0o700)
        lock = _lock(making)
        assert lock is not None
        (making / "about.json").write_bytes(orjson.dumps(attrs.asdict(about)))
        return cls(making.rename(home / name), about, lock)

    @classmethod
    def adopt(cls, folder: Path) -> Spool | None:
        """Take over a spool whose process is gone; ``None`` if another process has it, or it is not a spool.

        Raises:
            OSError: It can't be read.
        """
        try:
            lock = _lock(folder)
        except FileNotFoundError:
            return None
        if lock is None:
            return None
        try:
            about = About(**orjson.loads((folder / "about.json").read_bytes()))
        except FileNotFoundError:
            os.close(lock)  # sent and removed meanwhile
            return None
        return cls(folder, about, lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def unsent(self) -> int:
        """Bytes that are appended but not acknowledged."""
        return self.appended - self.acknowledged

    def append(self, items: Iterable[Mapping[str, Any] | OutputRun]) -> None:
        """Append items and runs of lines; each item without a key is given one.

        Raises:
            OSError: The disk is full or broken; none of them was appended.
        """
        records = []
        for item in items:
            if isinstance(item, OutputRun):
                records.append(orjson.dumps([self._keys, self._count + 1, item.item, item.text]))
                self._count += item.text.count("\n") + 1
            else:
                self._count += 1
                records.append(orjson.dumps({"key": f"{self._keys}/{self._count}", **item}))
        if not records:
            return
        data = b"\n".join(records) + b"\n"
        if self._writer < 0 or self._written >= SEGMENT_BYTES:
            self._next_segment()
        try:
            _write_all(self._writer, data)
        except OSError:
            os.ftruncate(self._writer, self._written)
            raise
        self._written += len(data)
        self.appended += len(data)

    def read(self, limit: int) -> bytes:
        """Return whole records from the acknowledged position on; empty when everything is acknowledged.

        Args:
            limit: Roughly the most bytes of the records when expanded; at least one record is returned.

        Raises:
            OSError: They can't be read.
        """
        unsent = self.unsent  # bytes beyond it may be half a line, just being appended
        if not unsent:
            return b""
        while True:
            try:
                with self._path(self._segment).open("rb") as file:
                    file.seek(self._offset)
                    data = file.read(min(limit, unsent))
                    if not data.endswith(b"\n"):
                        data += file.readline(unsent - len(data))
            except FileNotFoundError:
                data = b""
            if data:
                return _within(data, limit)
            self._leave_segment()

    def advance(self, count: int) -> None:
        """Note that the next ``count`` bytes are acknowledged; delete segments that are no longer needed."""
        self._offset += count
        self.acknowledged += count
        if self._segment < self._newest and self._offset >= self._path(self._segment).stat().st_size:
            self._leave_segment()
        with contextlib.suppress(OSError):  # on a full disk the old position stays, which is safe
            # One write of fixed length: a kill at any moment leaves the old or the new position.
            os.pwrite(self._sent, b"%08d %012d" % (self._segment, self._offset), 0)

    def attach(self, path: str, data: bytes) -> None:
        """Keep bytes to be put at a path of the service.

        Raises:
            OSError: They can't be written.
        """
        making = self.folder / f".{secrets.token_hex(4)}"
        making.write_bytes(orjson.dumps({"path": path}) + b"\n" + data)
        self._attached += 1
        making.rename(self.folder / f"{self._attached:08}{ATTACHED}")

    def attachments(self) -> list[Path]:
        """Return the files that are still to be put, the oldest first."""
        return sorted(self.folder.glob(f"[!.]*{ATTACHED}"))

    def set_aside_attachment(self, file: Path) -> Path:
        """Move an attachment that the service refuses for good beside the spools."""
        return file.rename(self.folder.parent / f"refused-{self.folder.name}-{file.name}")

    def set_aside(self, lines: Sequence[bytes]) -> Path | None:
        """Keep lines that the service refuses for good, beside the spools; ``None`` if there is no room."""
        file = self.folder.parent / "refused.ndjson"
        try:
            with file.open("ab") as refused:
                if refused.tell() >= REFUSED_BYTES:
                    return None
                refused.writelines(lines)
        except OSError:
            return None
        return file

    def note_open(self, task_ids: Iterable[str]) -> None:
        """Note the tasks that this process has begun and not ended; an adopting process ends them.

        Raises:
            OSError: It can't be written.
        """
        making = self.folder / ".open.json"
        making.write_bytes(orjson.dumps(list(task_ids)))
        making.rename(self.folder / "open.json")

    def open_tasks(self) -> list[str]:
        """Return the tasks that were noted last."""
        try:
            noted: list[str] = orjson.loads((self.folder / "open.json").read_bytes())
        except FileNotFoundError:
            return []
        return noted

    def last_item(self) -> dict[str, Any] | None:
        """Return the item that was appended last; ``None`` if no segment holds one."""
        if not self._newest:
            return None
        items = expand(self._path(self._newest).read_bytes().rpartition(b"\n")[0].rpartition(b"\n")[2])
        item: dict[str, Any] | None = orjson.loads(items.splitlines()[-1]) if items else None
        return item

    def remove(self) -> None:
        """Delete the folder and free the lock."""
        shutil.rmtree(self.folder)
        self.close()

    def close(self) -> None:
        """Free the lock; unsent items stay for an adopting process."""
        for descriptor in (self._writer, self._sent, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._writer = self._sent = self._lock = -1

    def _path(self, segment: int) -> Path:
        return self.folder / f"{segment:08}.ndjson"

    def _next_segment(self) -> None:
        writer = os.open(self._path(self._newest + 1), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        if self._writer >= 0:
            os.close(self._writer)
        self._writer, self._written = writer, 0
        self._newest += 1

    def _leave_segment(self) -> None:
        self._path(self._segment).unlink(missing_ok=True)
        self._segment, self._offset = self._segment + 1, 0

    def _read_sent(self, segments: list[int]) -> tuple[int, int]:
        segment, offset = map(int, os.pread(self._sent, 100, 0).split() or (0, 0))
        if segment not in segments:  # nothing was acknowledged, or the whole segment was, and is deleted
            return (segments[0], 0) if segments else (1, 0)
        return segment, min(offset, self._path(segment).stat().st_size)

    def _drop_torn_line(self) -> None:
        path = self._path(self._newest)
        data = path.read_bytes()
        if not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)


def expand(records: bytes) -> bytes:
    """Return the items of records, one a line."""
    if not records.startswith(b"[") and b"\n[" not in records:
        return records
    lines = []
    for record in records.splitlines(keepends=True):
        if record.startswith(b"["):
            keys, first, item, text = orjson.loads(record)
            payload = item.pop("payload")
            for number, line in enumerate(text.split("\n"), first):
                made = {"key": f"{keys}/{number}", **item, "payload": {**payload, "output": line}}
                lines.append(orjson.dumps(made, option=orjson.OPT_APPEND_NEWLINE))
        else:
            lines.append(record)
    return b"".join(lines)


def _within(records: bytes, limit: int) -> bytes:
    """Return the first records, up to about ``limit`` bytes when expanded; at least one."""
    position = size = 0
    while position < len(records) and size < limit:
        end = records.index(b"\n", position) + 1
        size += end - position
        if records.startswith(b"[", position):
            size += records.count(b"\\n", position, end) * ITEM_BYTES
        position = end
    return records[:position]


def spools(home: Path) -> list[Path]:
    """Find the folders of all spools, the oldest first."""
    found = []
    for about in home.glob("*/about.json"):
        with contextlib.suppress(FileNotFoundError):  # sent and removed meanwhile
            if not about.parent.name.startswith("."):
                found.append((about.stat().st_mtime, about.parent))
    return [folder for _, folder in sorted(found)]


def _lock(folder: Path) -> int | None:
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
