"""Forgetting: removes the rows of channels of which nothing is kept any more.

A publisher that makes a channel per task leaves a row per channel. A channel is *forgotten* once retention
has removed all of its events, and has been silent for ``QUIET``. Its next event starts it again at ``seq`` 1.
A task proves by its channel's ``seq`` that it is whole, so its channel is kept as long as its row. Other
entities share a channel and prove nothing by ``seq``.

What was forgotten is told all the same: the newest id that any forgotten channel has lost is kept in one row
(``FORGOTTEN``). A cursor before it, into a channel that has no row or has lost nothing since, is answered as
a cursor before what that channel has lost (``trimmed``).

The rows are walked through in the order of their names, part by part, and each part in a transaction of its
own. So a walk costs the same whatever it finds, and needs no index that publishing would have to keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import attrs
from sqlalchemy import ColumnElement, Connection, bindparam, delete, exists, func, literal, select

from heliograph.model.channels import SINGLE_CHANNELS
from heliograph.model.ids import EventId, make_id, to_microseconds
from heliograph.storage.sql.checkpoint import read_checkpoint
from heliograph.storage.sql.database import chunks, in_list
from heliograph.storage.sql.entities import ENTITIES
from heliograph.storage.sql.queries import see_one_moment
from heliograph.storage.sql.schema import FOLDED, channels, checkpoints, events
from heliograph.storage.sql.trimmed import raise_watermark

QUIET = timedelta(days=1)
"""The silence after which an empty channel is forgotten; event streams come back within a day."""

PART = 1000
"""The most channels that one transaction looks at."""


PROVEN = [(f"{entity.kind.family}:", entity.key[0]) for entity in ENTITIES if entity.steady is not None]
"""The beginning of the channels whose entities are proven whole by ``seq``, and the entity that follows."""


@attrs.frozen
class ChannelPart:
    """A part of the channels, in the order of their names.

    Args:
        names: The channels.
        empty: Those of them that can be forgotten.
    """

    names: Sequence[str]
    empty: Sequence[str]

    @property
    def next(self) -> str | None:
        """The name after which the next part begins; ``None``: there is none."""
        return self.names[-1] if len(self.names) == PART else None


def look(connection: Connection, after: str, now: datetime) -> ChannelPart:
    """Look at the next channels after a name."""
    following = select(channels.c.name).where(channels.c.name > after).order_by(channels.c.name)
    names = connection.scalars(following.limit(PART)).all()
    empty: list[str] = []
    for some in chunks(names):
        found = select(channels.c.name).where(in_list(channels.c.name), *_is_empty())
        empty += connection.scalars(found, {"wanted": some, "limit": _limit(now)})
    return ChannelPart(names, empty)


def forget(connection: Connection, names: Sequence[str], now: datetime) -> Sequence[str]:
    """Forget those of the channels that can be forgotten still; return them."""
    # Not while any node archives a batch: its events are not seen yet, and their channel would seem empty.
    connection.execute(
        select(checkpoints.c.event_id).where(checkpoints.c.name == FOLDED).with_for_update()
    ).all()
    forgotten: list[str] = []
    newest = 0
    for some in chunks(names):
        gone = (
            delete(channels)
            .where(in_list(channels.c.name), *_is_empty())
            .returning(channels.c.name, channels.c.trimmed_id)
        )
        for name, trimmed_id in connection.execute(gone, {"wanted": some, "limit": _limit(now)}):
            forgotten.append(name)
            newest = max(newest, trimmed_id)
    raise_watermark(connection, newest)
    return forgotten


@attrs.frozen
class Known:
    """Those of some channels that have a row, and the last event that had been folded at that moment."""

    checkpoint: EventId
    names: set[str]


def known(connection: Connection, names: Sequence[str]) -> Known:
    """Return those of the channels that have a row."""
    see_one_moment(connection)
    found: set[str] = set()
    for some in chunks(names):
        found.update(
            connection.scalars(select(channels.c.name).where(in_list(channels.c.name)), {"wanted": some})
        )
    return Known(read_checkpoint(connection), found)


def _limit(now: datetime) -> int:
    return make_id(max(0, to_microseconds(now - QUIET) // 1000))


def _is_empty() -> Sequence[ColumnElement[bool]]:
    """Return the condition of a channel that can be forgotten, with the parameter ``limit``.

    Retention removes the beginning of the log, so the newest event that an empty channel has lost was its
    last one.
    """
    return (
        channels.c.name.not_in(SINGLE_CHANNELS),
        channels.c.trimmed_id > 0,
        channels.c.trimmed_id < bindparam("limit"),
        ~exists().where(events.c.channel == channels.c.name),
        *(
            ~exists().where(
                channels.c.name.startswith(literal(prefix)),
                key == func.substr(channels.c.name, len(prefix) + 1),
            )
            for prefix, key in PROVEN
        ),
    )
