"""Reading the log on, in steps: each looks at a bounded number of rows, however few events it finds.

A pattern that few events match has no index: the log is looked through in its own order, which takes 0.1 µs
for each of its rows. One long look would hold one of the few connections, and its watcher would hear nothing;
so a step ends after ``ROWS`` rows of the log and says how far it got. Then others have their turn.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from sqlalchemy import Connection, bindparam, select

from heliograph.model.channels import EVERYTHING, Selection
from heliograph.model.event import Event
from heliograph.model.ids import EventId
from heliograph.storage.sql.prepared import Prepared
from heliograph.storage.sql.queries import read_events
from heliograph.storage.sql.schema import UNNAMED, events

ROWS = 5000
"""The most rows of the log that one step looks at, in about a millisecond."""

END = Prepared(
    select(events.c.id)
    .where(events.c.id > bindparam("after"))
    .order_by(events.c.id)
    .offset(bindparam("rows"))
    .limit(1)
)


@attrs.frozen
class Step:
    """A step of a reading.

    Args:
        events: The events that were found, in order.
        through: Where to go on, since there may be more; ``None``: there are none.
    """

    events: Sequence[Event]
    through: EventId | None


def read_step(connection: Connection, selection: Selection, after: EventId, limit: int) -> Step:
    """Read a selection's next events after a position, at most ``limit``."""
    end = None
    if _is_looked_through(selection):
        end = next((row[0] for row in END.fetch(connection, after=after, rows=ROWS)), None)
    found, more = read_events(connection, selection, limit, after=after, before=end)
    if more:
        return Step(found, found[-1].id)
    return Step(found, None if end is None else EventId(end - 1))


def _is_looked_through(selection: Selection) -> bool:
    """Tell whether no index leads to a selection's events: a pattern of topics, or of channels."""
    topic, selectors = selection.topic, selection.selectors
    if topic == EVERYTHING:
        return any(selector.endswith(":*") for selector in selectors)
    return topic.endswith(".*") and any(one in UNNAMED or one.endswith(":*") for one in selectors)
