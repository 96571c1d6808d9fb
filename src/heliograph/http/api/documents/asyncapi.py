"""``/asyncapi.json``: the messages of the WebSocket and the event streams, as AsyncAPI 3.0.

The described application is the service: it receives what a client sends, and sends what a client receives. A
message of an event stream is a block: its ``headers`` here are the block's fields, its payload the block's
data. Close codes, which AsyncAPI has no place for, are in ``x-close-codes``.

A long module, since a third of it are the schemas of the streams' messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from heliograph import __version__
from heliograph.actors.subscription import Overflow
from heliograph.config import Settings
from heliograph.http.api.acting import ACTIONS
from heliograph.http.api.documents import examples
from heliograph.http.api.documents.schemas import GIVEN
from heliograph.http.api.routes.streams import OVERLOADED_RETRY_MS, SSE_TYPE
from heliograph.http.rules.bodies import JSON
from heliograph.http.rules.parameters import POSITION, SELECTOR, TOPIC_FILTER
from heliograph.http.rules.schema import (
    ANYTHING,
    COUNT,
    CURSOR,
    OBJECT,
    TEXT,
    TIME,
    Components,
    Schema,
    described,
    nullable,
    one_of,
    record,
    ref,
    text,
    whole,
)
from heliograph.http.streams.messages import FIELDS, MAX_EVERY
from heliograph.http.streams.reason import Reason
from heliograph.http.streams.watching import MAX_TAIL
from heliograph.http.streams.websocket import RETURNING
from heliograph.model.channels import NAME, TOPIC
from heliograph.model.errors import (
    Forbidden,
    Invalid,
    Malformed,
    TooMany,
    Unauthenticated,
    Unavailable,
)
from heliograph.model.event import Event
from heliograph.model.task import STATUSES, STREAMS

Part = Mapping[str, Any]

REFUSALS = (Malformed, Unauthenticated, Forbidden, Invalid, TooMany, Unavailable)
"""The kinds of errors that may answer a message of a WebSocket."""

HANDSHAKE_REFUSALS = (Unauthenticated, Forbidden, TooMany)
NEVER_CLOSED_BY = (Reason.BROKEN, Reason.TASK_ENDED, Reason.UNAVAILABLE)
"""The reasons of ends without a close frame, and those that only event streams have."""

COMPONENTS = Components(GIVEN)
COMPONENTS.of(Event)

REF = described(ANYTHING, "The client's own text, which is returned as it came.")
CHANNEL_TOLD = described(TEXT, "The channel or pattern; of an event stream all of them, separated by commas.")

# Messages that a client sends

_SAID: Mapping[str, Schema] = {
    "channel": SELECTOR,
    "topic": nullable(TOPIC_FILTER),
    "after": described(nullable(POSITION), "The position to resume after; without it, live only."),
    "tail": described(
        nullable(whole(0, MAX_TAIL)), "Without after: the number of the newest events to begin with."
    ),
    "every": described(
        nullable({"type": "number", "minimum": 0, "maximum": MAX_EVERY}),
        "An interval in seconds, of which only each channel's newest event is sent; not with after or tail.",
    ),
    "overflow": described(
        nullable(one_of(Overflow)),
        "The overflow policy, for a client that does not keep up; disconnect by default.",
    ),
    "key": nullable(TEXT),
    "ticket": nullable(TEXT),
    "ref": REF,
}
_SUMMARIES = {
    "subscribe": "Watch a channel or a pattern; subscribing to the same again begins anew.",
    "unsubscribe": "Watch it no more.",
    "ping": "Ask for a pong.",
    "auth": "Say who asks, where the handshake did not.",
}


_ACTION_SUMMARIES = {
    "chat.message": "Ask the engine something, as POST /api/chat does.",
    "task.stop": "Stop a task, as POST /api/tasks/{task_id}/stop does.",
    "task.input": "Answer a task that waits for input.",
}
DONE: Schema = record(
    {
        "of": described(one_of(ACTIONS), "The type of the message that is done."),
        "task_id": text(NAME),
        "conversation_id": described(TEXT, "The conversation of a question."),
        "stopped": described(
            {"type": "boolean"}, "The outcome of a stop; false: the task had ended already."
        ),
        "status": described(one_of(STATUSES), "The task's status after a stop."),
        "ref": REF,
    },
    optional=["conversation_id", "stopped", "status"],
)


def _asked(kind: str) -> Schema:
    """Return the schema of a client's message; the service takes no other fields."""
    properties = {name: schema for name, schema in _SAID.items() if name in FIELDS[kind]}
    optional = [name for name in properties if name != "channel"]
    return record(properties, optional, additionalProperties=False)


# Messages that a client receives

_PLACE = {"id": CURSOR, "channel": TEXT, "seq": whole(1)}
NOTICES: Mapping[str, Schema] = {
    "gap": record(
        {
            "channel": CHANNEL_TOLD,
            "from": described(CURSOR, "The first event that is not given."),
            "to": described(CURSOR, "The last event that is not given."),
            "count": described(
                nullable(whole(1)), "The number of events; null: they can't be counted any more."
            ),
            "reason": described(
                TEXT, "The overflow policy, or the sentence that the events are no longer kept."
            ),
        },
        description="Events that are not given.",
    ),
    "reset": record(
        {
            "channel": CHANNEL_TOLD,
            "oldest": described(CURSOR, "The oldest position that could be resumed from."),
            "head": described(CURSOR, "The position at which the stream goes on."),
            "reason": TEXT,
        },
        description="The cursor can't be honoured: take a snapshot.",
    ),
    "reconnect": record(
        {
            "after_ms": described(COUNT, "The milliseconds to wait before the client comes back."),
            "cursor": described(
                nullable(CURSOR), "Resume after this; null: after the last id that was received."
            ),
            "reason": TEXT,
        },
        description="The last word of a stream that is worth coming back to.",
    ),
}


OPEN: Schema = record(
    {
        "channel": CHANNEL_TOLD,
        "cursor": described(CURSOR, "The position at which the stream begins."),
        "recovered": described(
            {"type": "boolean"}, "Whether the client's cursor is honoured, and nothing is missing."
        ),
    },
    description="The first block of an event stream.",
)
KEEPALIVE: Schema = record(
    {
        "time": TIME,
        "cursor": described(nullable(CURSOR), "Everything up to here was sent, or hidden by a filter."),
    },
    description="A sign of life; its id moves the client's cursor where a filter hid events.",
)
BLOCK_ID = described({"anyOf": [CURSOR, {"const": ""}]}, "The client's cursor once it has read this.")
RETRY = described(whole(0), "The milliseconds that an EventSource waits before it comes back.")


def _server_messages() -> Mapping[str, Schema]:
    """Return the schemas of a WebSocket's messages, without their type."""
    output = {"task_id": text(NAME), "output": TEXT, "stream": one_of(STREAMS), "timestamp": TIME}
    status = {
        "task_id": text(NAME),
        "status": one_of(STATUSES),
        "result": nullable(ref("Result")),
        "timestamp": TIME,
    }
    ready = {
        "active": described({"type": "boolean"}, "The engine's command line is ready to work."),
        "session_id": nullable(TEXT),
        "timestamp": TIME,
    }
    other = {
        name: COMPONENTS.schemas["Event"]["properties"][name]
        for name in ("topic", "sender", "correlation_id")
    }
    codes = one_of(kind.code for kind in REFUSALS)
    own = {"additionalProperties": described(ANYTHING, "Further fields of its publisher, as they came.")}
    return {
        "task_output": record({**output, **_PLACE}, optional=["stream"], **own),
        "task_status": record({**status, **_PLACE}, optional=["result"], **own),
        "cli_status_update": record({**ready, **_PLACE}, optional=(), **own),
        "event": record({**other, "payload": OBJECT, "timestamp": TIME, **_PLACE}),
        "subscribed": record(
            {
                "channel": TEXT,
                "cursor": described(CURSOR, "The position at which the subscription begins."),
                "recovered": described(
                    {"type": "boolean"}, "Whether after is honoured, and nothing is missing."
                ),
                "ref": REF,
            }
        ),
        "unsubscribed": record({"channel": TEXT, "ref": REF}),
        "pong": record({"ref": REF}),
        "authenticated": record({"name": described(TEXT, "The name of the key."), "ref": REF}),
        "error": record({"code": codes, "title": TEXT, "detail": TEXT, "ref": REF}),
        **NOTICES,
        "reconnect": record(
            {**NOTICES["reconnect"]["properties"], "reason": one_of(reason.text for reason in RETURNING)}
        ),
    }


# Messages


def _message(kind: str, schema: Schema, example: Mapping[str, Any]) -> Part:
    """Describe a message of the WebSocket, with its ``type``."""
    payload = {
        **schema,
        "properties": {"type": {"const": kind}, **schema["properties"]},
        "required": ["type", *schema["required"]],
    }
    return {"name": kind, "payload": payload, "examples": [{"payload": {"type": kind, **example}}]}


def _asked_messages() -> Mapping[str, Part]:
    return {
        kind: {"summary": _SUMMARIES[kind], **_message(kind, _asked(kind), examples.ASKED[kind])}
        for kind in FIELDS
    }


def _action_messages() -> Mapping[str, Part]:
    """Describe the messages of a page on its own stream."""
    messages = {}
    for kind, cls in ACTIONS.items():
        COMPONENTS.of(cls)
        asked = COMPONENTS.schemas[cls.__name__]
        schema = {**asked, "properties": {**asked["properties"], "ref": REF}, "additionalProperties": False}
        messages[kind] = {
            "summary": _ACTION_SUMMARIES[kind],
            **_message(kind, schema, examples.ACTIONS[kind]),
        }
    return messages


def _describe_server_messages() -> Mapping[str, Part]:
    shown = {**examples.MESSAGES, **examples.NOTICES}
    return {kind: _message(kind, schema, shown[kind]) for kind, schema in _server_messages().items()}


def _blocks() -> Mapping[str, Part]:
    """Describe the blocks of an event stream."""
    event = examples.EVENT
    notices = {kind: _notice(kind, schema, examples.NOTICES[kind]) for kind, schema in NOTICES.items()}
    return {
        "event": {
            "summary": "An event, called by its topic.",
            "headers": record({"event": text(TOPIC), "id": CURSOR}),
            "payload": ref("Event"),
            "examples": [{"headers": {"event": event["topic"], "id": event["id"]}, "payload": event}],
        },
        **notices,
        "open": _notice("open", OPEN, examples.OPEN),
        "keepalive": _notice("keepalive", KEEPALIVE, examples.KEEPALIVE),
    }


def _notice(kind: str, schema: Schema, example: Mapping[str, Any]) -> Part:
    """Describe a block that tells of an event stream itself."""
    fields = {"event": {"const": kind}, "id": BLOCK_ID, "retry": RETRY}
    return {
        "summary": schema["description"],
        "headers": record(fields, optional=["retry"]),
        "payload": {
            **schema,
            "properties": {"topic": {"const": kind}, **schema["properties"]},
            "required": ["topic", *schema["required"]],
        },
        "examples": [
            {"headers": {"event": kind, "id": examples.HEAD}, "payload": {"topic": kind, **example}}
        ],
    }


# The document


def document(settings: Settings) -> Mapping[str, Any]:
    """Make the document of a service with these settings."""
    asked, told, blocks = _asked_messages(), _describe_server_messages(), _blocks()
    actions, done = _action_messages(), {"done": _message("done", DONE, examples.DONE)}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Heliograph's streams",
            "version": __version__,
            "description": "Events, as they happen. The HTTP endpoints are in /openapi.json.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": JSON,
        "channels": {
            "ws": {
                "address": "/ws",
                "title": "WebSocket",
                "description": _about_ws(settings),
                "messages": _references("messages/ws", [*asked, *told]),
                "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
                "x-close-codes": close_codes(),
            },
            "page": {
                "address": "/ws/{session}",
                "title": "WebSocket of a page",
                "description": _ABOUT_PAGE,
                "parameters": {"session": {"description": "Any name."}},
                "messages": _references("messages/ws", [*asked, *actions, *told, *done]),
                "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
                "x-close-codes": close_codes(),
            },
            "events": {
                "address": "/api/v1/events/stream",
                "title": "Server-sent events",
                "description": _ABOUT_SSE,
                "messages": _references("messages/sse", blocks),
            },
            "task": {
                "address": "/api/v1/tasks/{task_id}/stream",
                "title": "Server-sent events of one task, from its beginning to its end",
                "description": _ABOUT_SSE,
                "parameters": {"task_id": {"description": "The task's id."}},
                "messages": _references("messages/sse", blocks),
            },
        },
        "operations": {
            "say": _operation("receive", "ws", asked, "Messages of a client."),
            "hear": _operation("send", "ws", told, "Messages to a client."),
            "sayAsPage": _operation("receive", "page", {**asked, **actions}, "Messages of a page."),
            "hearAsPage": _operation("send", "page", {**told, **done}, "Messages to a page."),
            "streamEvents": {**_operation("send", "events", blocks, "Events as they happen."), **_BY_GET},
            "streamTask": {**_operation("send", "task", blocks, "One task's events."), **_BY_GET},
        },
        "components": {
            "schemas": {name: COMPONENTS.schemas[name] for name in ("Cursor", "Event", "Result")},
            "messages": {
                **{f"ws.{kind}": message for kind, message in {**asked, **actions, **told, **done}.items()},
                **{f"sse.{kind}": message for kind, message in blocks.items()},
            },
            "securitySchemes": _SECURITY,
        },
    }


_SECURITY = {
    "key": {"type": "httpApiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
    "ticket": {"type": "httpApiKey", "in": "query", "name": "ticket"},
}
_BY_GET = {"bindings": {"http": {"method": "GET", "bindingVersion": "0.3.0"}}}
_ABOUT_PAGE = (
    "As /ws, for a page that may never say anything: from the start it hears task_status of all tasks and "
    "cli_status_update, with overflow latest, and it is not closed for its silence."
)
_ABOUT_SSE = (
    f"{SSE_TYPE}: blocks whose fields are the headers of the messages here, and whose data is the payload. "
    "Every block has an event, an id and JSON data with a topic; names=off leaves the event out. open comes "
    "first. What it takes and how it is refused is in /openapi.json; one stream too many is "
    f"told to come back in {OVERLOADED_RETRY_MS[0]} to {OVERLOADED_RETRY_MS[1]} milliseconds, and ended."
)


def _about_ws(settings: Settings) -> str:
    limits = settings.streams
    statuses = ", ".join(str(kind.status) for kind in HANDSHAKE_REFUSALS)
    return (
        f"Text frames of one JSON object each, of at most {limits.max_message_bytes} bytes from a client. "
        f"At most {limits.max_channels} subscriptions on one connection; without any it is closed after "
        f"{limits.first_message_seconds:g} s. A ping frame comes every {limits.keepalive_seconds:g} s, and "
        f"must be answered within {limits.pong_seconds:g} s. A message that can't be served is answered by "
        "an error, and the connection lives. A handshake may be refused by application/problem+json: by "
        f"{statuses} (429 with Retry-After), and without an "
        "upgrade by 426."
    )


def close_codes() -> list[Mapping[str, Any]]:
    """List the codes that a WebSocket is closed with, in order."""
    by_code: dict[int, list[Reason]] = {}
    for reason in Reason:
        if reason not in NEVER_CLOSED_BY:
            by_code.setdefault(reason.code, []).append(reason)
    return [
        {
            "code": code,
            "meaning": "; ".join(reason.text for reason in reasons),
            "come_back": not reasons[0].final,
        }
        for code, reasons in sorted(by_code.items())
    ]


def _references(place: str, kinds: Iterable[str]) -> Mapping[str, Part]:
    return {kind: {"$ref": f"#/components/{place}.{kind}"} for kind in kinds}


def _operation(action: str, channel: str, kinds: Iterable[str], title: str) -> Part:
    return {
        "action": action,
        "title": title,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{kind}"} for kind in kinds],
        "security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in _SECURITY],
    }
