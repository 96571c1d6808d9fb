"""Workflow folders on the disk: lists them, notices changes, and reads their files.

A root has one folder for each workflow. Folders that begin with ``_`` or ``.`` are templates and the like,
and plain files are ignored. Nothing outside a workflow's own folder is ever read for it: a link may lead
elsewhere inside the folder (as mounted configuration does), not out of it. Changes are noticed by the files'
inodes: their times, sizes and numbers. That costs one ``stat`` for each file, and opens none.

All functions block; they are called in a worker thread.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from heliograph.model import yaml
from heliograph.model.workflows import cards, manifest, pipeline
from heliograph.model.workflows.reading import FileProblem
from heliograph.model.workflows.workflow import Broken, Workflow, put_together

SETTLED_AFTER = 0.2
"""Seconds after a change in which more changes may follow: an editor may empty a file before it writes it."""
MAX_FOLDERS = 5_000
MAX_CARDS = 500

Signature = tuple[tuple[str, int, int, int], ...]
"""For each file: its name, the time of its inode's last change (of its mode, too), its size and number."""


@attrs.frozen
class Found:
    """A folder as it was read.

    Args:
        signature: The signature of its files, taken just before they were read.
        cards: The folder of its cards, whose files are in the signature, too.
        content: The parsed content.
    """

    signature: Signature
    cards: str
    content: Workflow | Broken

    @property
    def mark(self) -> str:
        """A short text that differs after each change."""
        return hashlib.sha256(repr(self.signature).encode()).hexdigest()[:32]


def folders_of(root: Path) -> tuple[list[Path], list[FileProblem]]:
    """List the folders of a root that should be workflows, by name, and the problems met on the way."""
    try:
        with os.scandir(root) as entries:
            names = sorted(entry.name for entry in entries if _counts(entry))
    except OSError as error:
        return [], [unreadable(".", error)]
    problems = []
    if len(names) > MAX_FOLDERS:
        problems.append(FileProblem(".", f"has {len(names)} folders; the first {MAX_FOLDERS} are read"))
    return [root / name for name in names[:MAX_FOLDERS]], problems


def _counts(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith(("_", ".")):
        return False
    try:
        return entry.is_dir()
    except OSError:
        return True  # reading it will find the problem, and report it


def look(folder: Path, cards_folder: str) -> Signature:
    """Return a signature that changes with a folder's files; files without a ``stat`` are left out."""
    names = [*manifest.FILES, pipeline.FILE]
    names += [f"{cards_folder}/{name}" for name in _card_names(folder / cards_folder)]
    return tuple(look_at(folder, names))


def look_at(folder: Path, names: list[str]) -> Iterator[tuple[str, int, int, int]]:
    """Yield the parts of a folder's signature, one for each file that has a ``stat``."""
    for name in names:
        try:
            found = os.stat(folder / name)
        except OSError:
            continue
        yield name, found.st_ctime_ns, found.st_size, found.st_ino


def settled(signature: Signature) -> bool:
    """Tell whether no file was changed within ``SETTLED_AFTER``."""
    now = time.time_ns()
    return not any(now - SETTLED_AFTER * 10**9 < changed <= now for _, changed, _, _ in signature)


def read(folder: Path, root: Path, cards_folder: str = manifest.CARDS) -> Found:
    """Read a workflow's folder; its content never raises, but is reported as problems.

    Args:
        folder: The folder.
        root: The folder of workflows that it must be in.
        cards_folder: The folder of its cards, if it is known from an earlier reading.
    """
    if not inside(folder, root):
        problem = FileProblem(".", "is a link that leads out of the folder of workflows")
        return Found((), cards_folder, Broken(folder.name, (problem,)))
    signature = look(folder, cards_folder)
    reader = Reader(folder)
    file = next((name for name in manifest.FILES if os.path.lexists(folder / name)), manifest.FILES[0])
    document = reader.document(file)
    said, where = None, cards_folder
    if document is not None:
        said, where = manifest.read_manifest(document, file, reader.problems)
    if where != cards_folder:
        return read(folder, root, where)  # so that the signature covers them, and is older
    if said is None:
        return Found(signature, where, Broken(folder.name, tuple(reader.problems)))
    graph = reader.document(pipeline.FILE) if os.path.lexists(folder / pipeline.FILE) else None
    named = None if graph is None else (pipeline.FILE, graph)
    return Found(signature, where, put_together(said, named, dict(reader.cards(where)), reader.problems))


class Reader:
    """Reads files of one folder, and notes their problems."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[FileProblem] = []

    def document(self, name: str) -> yaml.Document | None:
        """Read and parse one file; ``None`` if it can't be read."""
        try:
            return yaml.load(self.bytes_of(name))
        except yaml.BadYaml as error:
            self.problems.append(FileProblem(name, str(error), line=error.line))
        except OSError as error:
            self.problems.append(unreadable(name, error))
        return None

    def cards(self, folder: str) -> Iterator[tuple[str, yaml.Document]]:
        """Read the cards in a folder of this one."""
        if not inside(self.folder / folder, self.folder):
            self.problems.append(FileProblem(folder, "is a link that leads out of the workflow's folder"))
            return
        try:
            os.listdir(self.folder / folder)
        except FileNotFoundError:
            return
        except OSError as error:
            self.problems.append(unreadable(folder, error))
            return
        for name in _card_names(self.folder / folder):
            document = self.document(f"{folder}/{name}")
            if document is not None:
                yield f"{folder}/{name}", document

    def bytes_of(self, name: str) -> bytes:
        """Read a file's bytes, up to one more than the limit.

        Raises:
            BadYaml: It is not a plain file, or lies outside the folder.
            OSError: It can't be read.
        """
        path = self.folder / name
        if not inside(path, self.folder):
            raise yaml.BadYaml("is a link that leads out of the workflow's folder")
        # Without blocking: a file that is not plain, such as a pipe, may never have anything to read.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise yaml.BadYaml("is not a plain file")
            return file.read(yaml.MAX_BYTES + 1)


def _card_names(folder: Path) -> list[str]:
    try:
        names = [name for name in os.listdir(folder) if name.endswith(cards.SUFFIX)]
    except OSError:
        return []
    return sorted(names)[:MAX_CARDS]


def inside(path: Path, folder: Path) -> bool:
    """Tell whether a path, with its links followed, is inside a folder."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def unreadable(file: str, error: OSError) -> FileProblem:
    """Return why a file can't be read."""
    return FileProblem(file, f"can't be read: {error.strerror}")
