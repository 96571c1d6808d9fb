"""Events, and the drafts that publishers hand in before an event has an id.

Both are named tuples, where other values here are frozen attrs classes: they are made for every event, and a
frozen class takes four times as long to make.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import orjson

from heliograph.model.ids import EventId, format_id

JSON_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS


def kept_json(payload: dict[str, Any]) -> bytes:
    """Encode a payload for as long as its event is kept.

    orjson's own bytes hold on to the buffer that they were written in, 4 KB at least: twenty times a line.

    Raises:
        orjson.JSONEncodeError: It can't be written, such as for its depth.
    """
    return b"%b" % orjson.dumps(payload, option=JSON_OPTIONS)


OWNER_END = "\x1f"
"""The separator between a publisher's name and its idempotency key."""


class Draft(NamedTuple):
    """An event that was checked but is not yet appended to the log.

    Args:
        channel: The channel on which it will be watched.
        topic: The kind of event.
        payload: A JSON object.
        body: ``payload`` as JSON; made once, stored and measured.
        timestamp: The publisher's time of it; ``None``: the time of the append.
        sender: The name of the publisher.
        correlation_id: The publisher's own id for events that belong together.
        key: Idempotency key; appending the same key twice keeps one event.
        follows: The ``seq`` that must be its channel's last one, or the draft is refused; ``None``: any.
    """

    channel: str
    topic: str
    payload: dict[str, Any]
    body: bytes
    timestamp: datetime | None = None
    sender: str | None = None
    correlation_id: str | None = None
    key: str | None = None
    follows: int | None = None

    @classmethod
    def own(
        cls,
        channel: str,
        topic: str,
        payload: dict[str, Any],
        *,
        sender: str,
        key: str | None = None,
        follows: int | None = None,
    ) -> Draft:
        """Make the draft of an event of the service itself, whose payload needs no check."""
        return cls(channel, topic, payload, kept_json(payload), sender=sender, key=key, follows=follows)

    def of(self, publisher: str) -> Draft:
        """Return the draft with its key bound to a publisher, so that no other one can use or probe it."""
        return self if self.key is None else self._replace(key=f"{publisher}{OWNER_END}{self.key}")


class Event(NamedTuple):
    """One entry of the log.

    Args:
        id: Position in the log, unique and ordered over the whole deployment.
        channel: The channel on which it is watched.
        seq: 1, 2, 3, … without holes within its channel.
        topic: The kind of event.
        timestamp: The time of it (aware, UTC).
        payload: A JSON object.
        sender: The name of the publisher.
        correlation_id: The publisher's own id for events that belong together.
        body: ``payload`` as JSON, as it is stored; every encoding of the event uses it as it is. ``None``
            if the event was not read from the log, as by a client.
    """

    id: EventId
    channel: str
    seq: int
    topic: str
    timestamp: datetime
    payload: dict[str, Any]
    sender: str | None = None
    correlation_id: str | None = None
    body: bytes | None = None

    @property
    def cursor(self) -> str:
        """The id in its form on the wire."""
        return format_id(self.id)

    @property
    def json(self) -> bytes:
        """The payload as JSON."""
        return self.body or orjson.dumps(self.payload, option=JSON_OPTIONS)


def plain_json(data: bytes) -> bytes:
    """Escape the characters that some readers take for line ends: U+0085, U+2028 and U+2029.

    JSON allows them in strings, and orjson leaves them. JavaScript did not always allow them, and several
    clients split text at them.
    """
    for raw, escaped in LINE_ENDS:
        data = data.replace(raw, escaped)
    return data


LINE_ENDS = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))


def event_json(event: Event) -> bytes:
    """Encode an event for REST lists and SSE ``data``."""
    data = orjson.dumps(
        {
            "id": format_id(event.id),
            "channel": event.channel,
            "seq": event.seq,
            "topic": event.topic,
            "sender": event.sender,
            "timestamp": event.timestamp,
            "correlation_id": event.correlation_id,
            "payload": orjson.Fragment(event.json),
        },
        option=JSON_OPTIONS,
    )
    # Checked here to save a call, since nearly no event has one.
    return plain_json(data) if b"\xe2\x80" in data or b"\xc2\x85" in data else data


def message_json(event: Event) -> bytes:
    """Encode an event for the WebSocket.

    ``task.output``, ``task.status`` and ``cli.status`` take the forms ``task_output``, ``task_status`` and
    ``cli_status_update``, with the payload's own fields at the top; any other event is
    ``{"type": "event", …}``. All carry ``id``, ``channel`` and ``seq``.
    """
    data = _message(event)
    return plain_json(data) if b"\xe2\x80" in data or b"\xc2\x85" in data else data


def _message(event: Event) -> bytes:
    place: dict[str, Any] = {"id": format_id(event.id), "channel": event.channel, "seq": event.seq}
    if event.topic == CLI_STATUS:
        ours = {"type": "cli_status_update", "timestamp": event.timestamp, **place}
        return orjson.dumps(
            {"session_id": None, "active": False, **event.payload, **ours}, option=JSON_OPTIONS
        )
    if event.topic not in SEED_TYPES or not event.channel.startswith("task:"):
        message = {
            "type": "event",
            "topic": event.topic,
            "sender": event.sender,
            "payload": orjson.Fragment(event.json),
            "timestamp": event.timestamp,
            "correlation_id": event.correlation_id,
            **place,
        }
        return orjson.dumps(message, option=JSON_OPTIONS)
    ours = {"type": SEED_TYPES[event.topic], "timestamp": event.timestamp, **place}
    task_id = event.channel[5:]
    if event.payload.get("task_id") == task_id and ours.keys().isdisjoint(event.payload):
        return b"%b,%b" % (event.json[:-1], orjson.dumps(ours, option=JSON_OPTIONS)[1:])
    return orjson.dumps({**event.payload, **ours, "task_id": task_id}, option=JSON_OPTIONS)


CLI_STATUS = "cli.status"
"""The topic of the engine's command line's readiness."""

# The kind of tasks takes its forms from here: it imports events, so these can't be derived from it.
SEED_TYPES = {"task.output": "task_output", "task.status": "task_status"}
