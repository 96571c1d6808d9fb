"""The messages that agents, engines and gateways publish to Redis, as drafts of events.

There are two sources, and all forms of messages that are in use:

- *Pub/sub.* ``task:{id}`` has messages with a ``type`` (``task_output``, ``task_status``, …), or events with
  a ``topic``. ``task:{id}:status`` has a status alone, with neither a type nor the task's id. ``cli:status``
  tells whether an engine's command line is ready.
- *A stream* (``task_events``). An entry has a ``type`` such as ``task:tool_call``, which becomes the topic
  ``task.tool_call``, and its ``data`` as JSON. Its id is its idempotency key: an entry that is read twice is
  kept once. Gateways' messages (``webhook:*``, ``response:*``, …) go to the channel ``webhooks``, and also to
  the task's channel if they name a task.

Their publishers get no answer, so bad values are mended instead of refused; see ``mend``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import orjson

from heliograph.model.channels import STATUS, WEBHOOKS, is_name, is_topic
from heliograph.model.errors import Invalid, Malformed
from heliograph.model.event import Draft
from heliograph.model.ids import EPOCH, parse_time
from heliograph.model.intake import BRIDGE_KEYS, ENVELOPE
from heliograph.model.mend import MESSAGE, mend, name_of, read_json, text_of
from heliograph.model.task import DESCRIPTIONS, STATUSES, TERMINAL

CLI_STATUS = "cli:status"
"""The pub/sub channel of engines' command lines."""

STATUS_WORDS = {
    **{status: status for status in STATUSES},
    **dict.fromkeys(("in_progress", "started"), "running"),
    **dict.fromkeys(("success", "succeeded", "done"), "completed"),
    **dict.fromkeys(("error", "failure"), "failed"),
    **dict.fromkeys(("canceled", "stopped"), "cancelled"),
    "pending": "queued",
}
"""Our status for each of the words that agents use."""

RENAMED = {"input_message": "input", "assigned_agent": "agent"}
"""Our name for each of the engines' names of a task's fields."""

TO_WEBHOOKS = ("webhook", "response", "notification", "knowledge")
"""The families of types that belong to the channel ``webhooks``."""

_TELLING = frozenset(
    {*DESCRIPTIONS, *RENAMED, "input", "metadata", "source", "source_metadata", "user_id", "flow_id"}
)
"""The fields that describe a task, in a message about its progress."""

_AROUND = ("sender", "timestamp", "correlation_id", "key")
_SECOND = timedelta(seconds=1)
_SAID = re.compile(r'"status"\s*:\s*"(\w+)"|^\W*(\w+)\W*$')


def from_pubsub(channel: str, data: bytes, max_bytes: int) -> list[Draft]:
    """Make the drafts of a message of pub/sub.

    Args:
        channel: The Redis channel of the message.
        data: The message.
        max_bytes: Limit of an event's payload as JSON.

    Raises:
        Malformed: The channel names no task.
    """
    message = _object(data)
    if channel == CLI_STATUS:
        active = (message.get("step"), message.get("status")) == ("ready", "healthy")
        payload = {**message, "active": active}
        return [mend({"topic": "cli.status", "channel": STATUS, "payload": payload}, max_bytes)]
    task_id, says_status = _task_of(channel)
    if "topic" in message:
        return [mend(_event(message, task_id), max_bytes)]
    if says_status and message.keys() == {"text"}:
        message = _salvaged(message["text"])
    around = {name: message.pop(name) for name in _AROUND if name in message}
    key = around.pop("key", None)
    kind = message.pop("type", None)
    if not isinstance(kind, str) or not kind:
        kind = "status" if says_status or "status" in message else "message"
    kind = kind.removeprefix("task:").removeprefix("task_")
    items = [{**item, **around} for item in _items(f"task:{kind}", _of(message, task_id))]
    items[-1]["key"] = key
    return [mend(item, max_bytes) for item in items]


def from_stream(entry_id: str, fields: Mapping[str, bytes], max_bytes: int) -> list[Draft]:
    """Make the drafts of an entry of the stream, each with a key made of the entry's id.

    Args:
        entry_id: The entry's id in Redis's form.
        fields: The fields of the entry.
        max_bytes: Limit of an event's payload as JSON.
    """
    data = _object(fields.get("data", b"{}"))
    around = {name: text_of(value) for name, value in fields.items() if name != "data"}
    task_id = around.get("task_id") or data.get("task_id")
    if task_id is not None:
        data = _of(data, task_id)
    origin = around.get("webhook_event_id")
    if origin is not None:
        data["webhook_event_id"] = origin
    moment = _moment(entry_id, around.get("timestamp"))
    items = (
        {**item, "timestamp": moment, "correlation_id": origin}
        for item in _items(around.get("type", ""), data)
    )
    return [
        mend(item, max_bytes)._replace(key=f"{BRIDGE_KEYS}{entry_id}/{number}")
        for number, item in enumerate(items)
    ]


def status_word(said: Any) -> str | None:
    """Return our word for a status; ``None`` if the status is unknown."""
    if not isinstance(said, str):
        return None
    return STATUS_WORDS.get(said.strip().casefold().replace("-", "_").replace(" ", "_"))


def _object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object; anything else becomes an object with its text."""
    try:
        value = read_json(data)
    except Malformed:
        return {"text": text_of(data)}
    return value if isinstance(value, dict) else {"text": value if isinstance(value, str) else text_of(data)}


def _salvaged(text: str) -> dict[str, Any]:
    """Return an object with the status in a text: a word alone, or JSON that was cut off."""
    said = _SAID.search(text)
    word = status_word(said[1] or said[2]) if said else None
    return {"status": word, "result": {"stdout": text}} if word else {"text": text}


def _task_of(channel: str) -> tuple[str, bool]:
    """Return the task of a pub/sub channel, and whether the channel is for the task's status."""
    name = channel.partition(":")[2]
    stem = name.removesuffix(":status")
    if not stem:
        raise Malformed("the channel names no task")
    return stem, stem != name


def _of(data: dict[str, Any], task_id: Any) -> dict[str, Any]:
    """Return fields with the id of their task: their own one, else ``task_id``."""
    named = data.get("task_id") or task_id
    return {**data, "task_id": named if is_name(named) else name_of(named)}


def _event(message: dict[str, Any], task_id: str) -> dict[str, Any]:
    """Return a message as an item in the event form; unknown fields join its payload."""
    item = {name: message.pop(name) for name in ENVELOPE.by_name if name in message}
    payload = item.get("payload")
    payload = {**message, **payload} if isinstance(payload, dict) else {**message, "payload": payload}
    family = str(item["topic"]).partition(".")[0]
    item["payload"] = _of(payload, task_id) if family == "task" else payload
    return item


def _items(kind: str, data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the items of a message, in the event form.

    Args:
        kind: The message's type, with colons.
        data: The message's fields, with the task's id if it is about a task.
    """
    topic = kind.replace(":", ".")
    family, _, name = topic.partition(".")
    if family in TO_WEBHOOKS:
        yield {"topic": topic, "channel": WEBHOOKS, "payload": {**data}}
        if "task_id" in data:
            if name == "task_created":
                yield {"topic": "task.created", "payload": _telling(data)}
            yield {"topic": topic, "channel": f"task:{data['task_id']}", "payload": data}
        return
    if family == "task" and "task_id" in data:
        outcome = status_word(name)
        if name == "created":
            data = _renamed(data)
        elif name == "output":
            data = _output(data)
        elif name == "status":
            data = _status(data)
        elif outcome is not None:
            yield {"topic": "task.created", "payload": _telling(data)}
            topic, data = "task.status", _course(data, outcome)
        elif name == "context_built":
            yield {"topic": "task.created", "payload": _telling(data)}
    yield {"topic": topic if is_topic(topic) else MESSAGE, "payload": data}


def _renamed(data: dict[str, Any]) -> dict[str, Any]:
    return {RENAMED.get(name, name): value for name, value in data.items()}


def _telling(data: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a message that describes its task."""
    return _renamed({name: value for name, value in data.items() if name in _TELLING or name == "task_id"})


def _output(data: dict[str, Any]) -> dict[str, Any]:
    """Return a line of output with its text as ``output``; one without text stays as it is."""
    name = next((name for name in ("output", "content") if data.get(name) is not None), None)
    if name is None:
        return data
    text = data.pop(name)
    return {**data, "output": text if isinstance(text, str) else orjson.dumps(text).decode()}


def _status(data: dict[str, Any]) -> dict[str, Any]:
    """Return a status in the form of the rules; without a result, the other fields become the result."""
    status, result = status_word(data.get("status")), _result(data.get("result"))
    if result is None and status in TERMINAL:
        result = {name: value for name, value in data.items() if name not in _TELLING | {"task_id", "status"}}
    return {**data, "status": status or data.get("status"), "result": result or None}


def _course(data: dict[str, Any], outcome: str) -> dict[str, Any]:
    """Return the status of a message about a task's progress; its other fields become the result."""
    beside = {
        name: value
        for name, value in data.items()
        if name not in _TELLING | {"task_id", "status", "result"} and value is not None
    }
    result = {**(_result(data.get("result")) or {}), **beside}
    return {
        "task_id": data["task_id"],
        "status": status_word(data.get("status")) or outcome,
        "result": result or None,
    }


def _result(said: Any) -> dict[str, Any] | None:
    """Return a result as an object; any other value becomes its ``stdout``."""
    if said is None or isinstance(said, dict):
        return said
    return {"stdout": said if isinstance(said, str) else orjson.dumps(said).decode()}


def _moment(entry_id: str, said: str | None) -> str | None:
    """Return the time in an entry; Redis's own time if that is within the same second.

    Engines write whole seconds, by which a task of half a second could end before it began.
    """
    try:
        taken = EPOCH + timedelta(milliseconds=int(entry_id.partition("-")[0]))
    except (ValueError, OverflowError):
        return said
    try:
        moment = taken if said is None else parse_time(said, "timestamp")
    except Invalid:
        return taken.isoformat()
    near = moment.microsecond == 0 and moment <= taken < moment + _SECOND
    return (taken if near else moment).isoformat()
