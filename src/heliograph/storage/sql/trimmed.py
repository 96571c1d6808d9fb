"""What retention has removed, as readers are told: the newest id that a selection has lost.

Each channel's row has the newest id that it has lost. What channels without a row have lost (``forgetting``)
is known of all of them together, by one row: the watermark.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import ColumnElement, Connection, func, select

from heliograph.model.channels import AUDIT, EVERYTHING, SINGLE_CHANNELS, WHOLE, Selection
from heliograph.model.ids import OLDEST, EventId
from heliograph.storage.sql.prepared import upsert
from heliograph.storage.sql.schema import FORGOTTEN, UNNAMED, channels, checkpoints, events


def trimmed_through(connection: Connection, selection: Selection) -> EventId:
    """Return the newest id of a selection that retention has removed; ``OLDEST`` if none was.

    What forgotten channels have lost (``forgetting``) is known of all of them together, so the id may be
    newer than the selection's own; it never is where a named channel has lost events since it began.
    """
    return EventId(max(_trimmed_of(connection, selector) for selector in selection.selectors))


def _trimmed_of(connection: Connection, selector: str) -> int:
    forgotten = select(checkpoints.c.event_id).where(checkpoints.c.name == FORGOTTEN).scalar_subquery()
    asked = select(func.max(channels.c.trimmed_id), forgotten).where(
        *_channel_name(selector, connection.dialect.name)
    )
    of_rows, of_forgotten = connection.execute(asked).one()
    if selector in SINGLE_CHANNELS:
        return of_rows or OLDEST
    if selector in UNNAMED or selector.endswith(":*"):
        return max(of_rows or OLDEST, of_forgotten or OLDEST)
    return of_rows or of_forgotten or OLDEST


def trimmed_behind(connection: Connection, selection: Selection, after: EventId) -> EventId:
    """Return what ``trimmed_through`` does, or ``OLDEST`` if nothing after a position was removed.

    Retention always removes the beginning of the log: if any event up to the position is kept, nothing after
    it is gone, and the channels need not be read.
    """
    oldest_kept = connection.scalar(select(func.min(events.c.id)))
    if oldest_kept is not None and oldest_kept <= after:
        return OLDEST
    trimmed = trimmed_through(connection, selection)
    return trimmed if trimmed > after else OLDEST


def _channel_name(selector: str, dialect: str) -> Iterable[ColumnElement[bool]]:
    if selector == WHOLE:
        return []
    if selector == EVERYTHING:
        return [channels.c.name != AUDIT]
    if selector.endswith(":*"):
        # A range in the order of bytes, as in SQLite's index; a PostgreSQL locale may sort otherwise.
        name = channels.c.name.collate("C") if dialect == "postgresql" else channels.c.name
        return [name >= selector[:-1], name < selector[:-2] + ";"]
    return [channels.c.name == selector]


def raise_watermark(connection: Connection, newest: int) -> None:
    """Remember that channels without a row have lost events up to an id."""
    known = connection.scalar(select(checkpoints.c.event_id).where(checkpoints.c.name == FORGOTTEN)) or 0
    if newest > known:
        upsert(connection, checkpoints, [{"name": FORGOTTEN, "event_id": newest}])
