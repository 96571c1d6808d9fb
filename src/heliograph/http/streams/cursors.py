"""Where a client of an event stream says that it stands."""

from __future__ import annotations

import attrs

from heliograph.http.rules.asked import Asked
from heliograph.model.errors import Invalid
from heliograph.model.ids import EventId, is_time, parse_position

PARAMETERS = ("lastEventId", "after")
"""Polyfills of EventSource send their cursor in the query: they can't set headers."""


@attrs.frozen
class ClientCursor:
    """The cursor that a client came with.

    Args:
        position: The position in the log; ``None``: it has none, or it is foreign.
        is_time: It was given as a time.
        foreign: It is no position of ours. It is the id of an event of another service, say, that an
            EventSource has kept and would send for ever; to refuse it would end that EventSource for good.
    """

    position: EventId | None = None
    is_time: bool = False
    foreign: bool = False


def client_cursor(asked: Asked) -> ClientCursor:
    """Read the cursor of a request: ``Last-Event-ID``, else ``lastEventId``, else ``after``.

    The first two are of a reconnect, whose query still has the ``after`` of the first connect.
    """
    texts = [asked.headers.get("Last-Event-ID", ""), *(asked.args.get(name, "") for name in PARAMETERS)]
    # A plus sign in a query is a space: it is put back where an offset stands.
    text = next((text for text in map(str.strip, texts) if text), "").replace(" ", "+")
    if not text:
        return ClientCursor()
    try:
        return ClientCursor(parse_position(text, "after"), is_time(text))
    except Invalid:
        return ClientCursor(foreign=True)
