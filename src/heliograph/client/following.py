"""Following a channel, apart from its connections: the selection, the position, and the items. No I/O.

``Following`` is the position in the log; it outlives connections, each of which begins after the last id that
arrived. ``SseReader`` turns one event stream into items: events, and the notices ``Gap`` and ``Reset`` for
events that the service can't give. ``heliograph.client.follower`` connects these under Trio, over two
transports; ``heliograph.client.streams`` does so in plain code, under asyncio and under Trio.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import orjson

from heliograph.client.sse import Parser
from heliograph.model.event import Event
from heliograph.model.ids import OLDEST, EventId, format_id, parse_id, parse_time

ACCEPT = {"Accept": "text/event-stream"}

IDLE_SECONDS = 90.0
"""The longest silence of a connection before it is given up: three keepalives of the server."""


@attrs.frozen
class Gap:
    """Events that this stream did not get.

    Args:
        channel: The channel of the lost events.
        start: The id of the first one, or the position just before it, as the service gives it.
        end: The id of the last one.
        count: The number of lost events, if the service knows it.
        reason: Why.
    """

    channel: str | None
    start: str | None
    end: str | None
    count: int | None
    reason: str


@attrs.frozen
class Reset:
    """The requested position can't be honoured, so state that was built from earlier events is out of date.

    Args:
        channel: The channel of the reset.
        oldest: The oldest position that is kept.
        head: The newest position.
        reason: Why.
    """

    channel: str | None
    oldest: str | None
    head: str | None
    reason: str


Item = Event | Gap | Reset


class Ended(Exception):
    """A connection is over, but the following goes on after ``delay`` seconds; ``None``: the usual delay."""

    def __init__(self, delay: float | None = None) -> None:
        self.delay = delay


class Finished(Exception):
    """All events were seen, and there will be no more."""


@attrs.define
class Following:
    """A selection that is followed, and the position in it.

    Args:
        channel: A channel or a pattern.
        topic: Only events of this topic or pattern of topics.
        after: Begin after this position; ``0-0``: with the oldest event that is kept.
        tail: The number of the newest events to begin with instead.
    """

    channel: str
    topic: str | None = None
    after: str | None = None
    tail: int | None = None
    last: EventId = OLDEST

    def query(self) -> dict[str, Any]:
        """Return the query of the next request, by the names that both transports use."""
        tail = None if self.after else self.tail
        wanted = {"channel": self.channel, "topic": self.topic, "after": self.after, "tail": tail}
        return {name: value for name, value in wanted.items() if value is not None}

    def is_new(self, item: Item) -> bool:
        """Move the position to an item; tell whether the item is new."""
        match item:
            case Event() if item.id <= self.last:
                return False
            case Event():
                self.last = item.id
                self.after = format_id(item.id)
            case Reset():  # the log may have begun anew, with smaller ids
                self.last = OLDEST
                self.after = item.head
        return True


class SseReader:
    """Reads one event stream of a following.

    Attributes:
        end: Set once the service has said that the stream ends now.
    """

    def __init__(self, following: Following) -> None:
        self.end: Ended | None = None
        self._following = following
        self._parser = Parser(following.after or "")

    def feed(self, chunk: bytes) -> list[Item]:
        """Take bytes that were read; return the items that they complete."""
        items: list[Item] = []
        for block in self._parser.feed(chunk):
            fields = orjson.loads(block.data or "{}")
            # The event's name does not tell notices: a log may have events with a notice's name.
            if "topic" in fields and "payload" in fields:
                items.append(read_event(fields, fields["topic"], fields["payload"]))
            elif block.event == "reconnect":
                self.end = _ended(fields["after_ms"])
            elif notice := read_notice(block.event, fields):
                items.append(notice)
        self._following.after = self._parser.last_id or None
        return items

    def cut(self) -> Ended:
        """Return the meaning of the connection's end, as far as the service has announced one."""
        return _ended(self._parser.retry_ms)


def _ended(delay_ms: int | None) -> Ended:
    return Ended(None if delay_ms is None else delay_ms / 1000)


def read_notice(kind: str, fields: Mapping[str, Any]) -> Gap | Reset | None:
    """Parse a notice of a stream, in the form of both transports; ``None`` if it is not a notice."""
    get = fields.get
    if kind == "gap":
        return Gap(get("channel"), get("from"), get("to"), get("count"), str(get("reason", "")))
    if kind == "reset":
        return Reset(get("channel"), get("oldest"), get("head"), str(get("reason", "")))
    return None


def read_event(fields: Mapping[str, Any], topic: str, payload: dict[str, Any]) -> Event:
    """Parse an event from its envelope."""
    return Event(
        id=parse_id(fields["id"]),
        channel=fields["channel"],
        seq=fields["seq"],
        topic=topic,
        timestamp=parse_time(fields["timestamp"], "timestamp"),
        payload=payload,
        sender=fields.get("sender"),
        correlation_id=fields.get("correlation_id"),
    )
