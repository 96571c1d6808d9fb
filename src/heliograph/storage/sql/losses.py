"""The losses: ranges of ids in which the log may have lost events that it had acknowledged.

A Redis that comes back may have lost its newest events; a copy of an embedded database that is restored lacks
what came after it was made; a log that begins in the place of another one lacks all of it. Between the newest
event that is there and the moment of coming back there is no event, and there never will be one. So who has a
cursor in between saw an event that is lost.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select

from heliograph.model.ids import EventId
from heliograph.storage.protocols import LostRange
from heliograph.storage.sql.schema import losses

MOST = 100
"""The number of losses that are kept, the newest ones: each coming back adds one."""


def note_loss(connection: Connection, loss: LostRange) -> None:
    """Keep a loss, unless no id is in it."""
    if loss.after + 1 >= loss.before:
        return
    connection.execute(delete(losses).where(losses.c.after_id == loss.after))
    connection.execute(insert(losses).values(after_id=loss.after, before_id=loss.before))
    newest = select(losses.c.after_id).order_by(losses.c.after_id.desc()).limit(MOST)
    connection.execute(delete(losses).where(losses.c.after_id.not_in(newest)))


def read_losses(connection: Connection) -> Sequence[LostRange]:
    """Return the losses that are known, oldest first."""
    rows = connection.execute(select(losses.c.after_id, losses.c.before_id).order_by(losses.c.after_id))
    return [LostRange(EventId(after), EventId(before)) for after, before in rows]
