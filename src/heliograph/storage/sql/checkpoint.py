"""The checkpoint: the id of the last event that is folded into the tables, alone or with an answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from heliograph.model.ids import OLDEST, EventId
from heliograph.storage.sql.prepared import CHECKPOINT, NOTE, Note, Prepared

T = TypeVar("T")

_CHECKPOINT = Prepared(CHECKPOINT)


def read_checkpoint(connection: Connection) -> EventId:
    """Return the checkpoint, ``OLDEST`` before the first event."""
    found = _CHECKPOINT.fetch(connection)
    return EventId(found[0][0]) if found else OLDEST


def with_checkpoint(connection: Connection, question: Callable[[], T]) -> tuple[T, EventId]:
    """Ask a question over a connection; return its answer, and the checkpoint as of its first statement.

    The first statement must be run by ``Prepared.rows``, or come after ``note_checkpoint``. So everything up
    to the checkpoint is in the answer, which may show newer things too.
    """
    info, note = connection.info, Note()
    info[NOTE] = note
    try:
        answer = question()
    finally:
        del info[NOTE]
    assert note.position is not None, "no statement of the question has noted the checkpoint"
    return answer, note.position


def note_checkpoint(connection: Connection) -> None:
    """Read the checkpoint now, if the present question wants it and has not noted it yet."""
    note: Note | None = connection.info.get(NOTE)
    if note is not None and note.position is None:
        note.position = read_checkpoint(connection)
