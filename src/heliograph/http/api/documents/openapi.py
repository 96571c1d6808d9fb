"""``/openapi.json``: every HTTP endpoint, as OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client.exposition import CONTENT_TYPE_LATEST
from werkzeug.exceptions import HTTPVersionNotSupported, RequestTimeout

from heliograph import __version__
from heliograph.actors.subscription import Overflow
from heliograph.config import Settings
from heliograph.http.api.documents import examples
from heliograph.http.api.documents.parts import (
    PUBLISHERS,
    REFUSALS,
    Part,
    json_of,
    ok,
    operation,
    parameter,
    problem,
    response,
)
from heliograph.http.api.documents.schemas import (
    COMPONENTS,
    POSITION,
    SELECTOR,
    TEXT,
    TOPIC_FILTER,
    Schema,
    listing,
    one_of,
    ref,
    said,
    text,
    whole,
)
from heliograph.http.api.routes import agents, analytics, documents, events, streams, system, tasks
from heliograph.http.rules.requests import DEFAULT_LIMIT, JSON, MAX_LIMIT, MAX_SELECTORS, NDJSON, to_json
from heliograph.http.streams.watching import MAX_TAIL
from heliograph.model.analytics.rollup import DIMENSIONS
from heliograph.model.analytics.timeline import GRANULARITIES, MAX_BUCKETS, TIME_HELP
from heliograph.model.errors import (
    Conflict,
    Invalid,
    Malformed,
    NotFound,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from heliograph.model.task import DESCRIPTIONS, STATUSES

DESCRIPTION = """\
What agents do, kept and shown. An event that is acknowledged is kept; its id is a cursor, and the cursor that
an answer carries (`meta.stream_cursor`) is where a stream goes on from.

Every GET is answered to HEAD as well, without its body, and every path answers OPTIONS; another method than
a path has is answered by 405 with `Allow`. An endpoint that may answer 422 refuses query parameters that it
does not know. Errors are `application/problem+json` (RFC 9457). Where no API keys are configured none is
needed, and only this machine is served. The WebSocket `/ws`, and what event streams say, is in
`/asyncapi.json`.
"""

TAGS = {
    "tasks": "What agents work on, folded from events.",
    "events": "What happened, as it was published.",
    "streams": "Events as they happen, as server-sent events; a WebSocket is at /ws.",
    "agents": "Who works.",
    "analytics": "What it comes to.",
    "service": "How the service is doing, and what it offers.",
}

TASK_ID = parameter("task_id", TEXT, "The task's id.", "path", required=True)
LIMIT = parameter("limit", whole(1, MAX_LIMIT, default=DEFAULT_LIMIT), "At most so many on a page.")
CURSOR = parameter("cursor", TEXT, "A next_cursor of this list, unchanged.")
TOPIC = parameter("topic", TOPIC_FILTER, "A topic, a pattern such as pipeline.*, or *.")
AFTER = parameter(
    "after",
    TEXT,
    "Begin after this cursor or time; Last-Event-ID and lastEventId win over it. What is neither is answered "
    "by a reset on the stream.",
)
LAST_EVENT_ID = parameter("Last-Event-ID", TEXT, "As an EventSource sends it when it comes back.", "header")
LAST_EVENT_ID_QUERY = parameter("lastEventId", TEXT, "As polyfills of EventSource send it.")
NAMES = parameter(
    "names",
    {**one_of(("on", "off")), "default": "on"},
    "off leaves the names of events out, so that EventSource.onmessage hears them.",
)
TAIL = parameter(
    "tail", whole(0, MAX_TAIL, default=0), "Where no position is given: begin with the last so many events."
)
OVERFLOW = parameter(
    "overflow",
    {**one_of(Overflow), "default": Overflow.DISCONNECT.value},
    "What happens when the client does not keep up.",
)
WATCHING = (AFTER, LAST_EVENT_ID, LAST_EVENT_ID_QUERY, TAIL, OVERFLOW, NAMES)
IF_NONE_MATCH = parameter("If-None-Match", TEXT, "The ETag of what the client has.", "header")


def document(settings: Settings) -> Mapping[str, Any]:
    """Make the document of a service with these settings."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Heliograph",
            "version": __version__,
            "summary": "The live backend of dashboards for AI-agent fleets.",
            "description": DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": words} for name, words in TAGS.items()],
        "paths": {
            **_tasks(),
            **_events(settings),
            **_streams(settings),
            **_agents(),
            **_analytics(),
            **_service(),
        },
        "components": {
            "schemas": COMPONENTS,
            "responses": {
                **dict(map(problem, REFUSALS.values())),
                "other": response(
                    "Another problem, such as 405 or 500.",
                    {"application/problem+json": {"schema": ref("Problem")}},
                ),
            },
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer", "description": "The same keys."},
                "ticket": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "ticket",
                    "description": "Of POST /api/v1/stream-tickets, good for "
                    f"{settings.auth.ticket_seconds:g} seconds: for clients that can't set headers.",
                },
            },
        },
    }


def _tasks() -> Mapping[str, Part]:
    filters = [parameter(name, TEXT, "Exactly this.") for name in DESCRIPTIONS if name != "name"]
    listed = [
        parameter("status", listing(one_of(STATUSES)), "Any of these; repeated, or separated by commas."),
        *filters,
        parameter("text", TEXT, "Found in the id, name, agent or error; ASCII letters of either case."),
        parameter("since", TEXT, "Created at or after this ISO 8601 time or date."),
        parameter("until", TEXT, "Created before this ISO 8601 time or date."),
        LIMIT,
        CURSOR,
    ]
    seq = whole(1, tasks.MAX_SEQ)
    lines = [
        TASK_ID,
        parameter("from_seq", {**seq, "default": 1}, "The first line of the range."),
        parameter("to_seq", seq, "The last line of the range."),
        parameter("tail", whole(1, tasks.MAX_LINES), "The last so many lines of the range."),
        parameter("limit", whole(1, tasks.MAX_LINES, default=MAX_LIMIT), "At most so many lines."),
    ]
    full = {
        "text/plain": {
            "schema": said(TEXT, "As a terminal would have got it."),
            "example": examples.LINE["output"],
        },
        tasks.NDJSON: _ndjson("Line", [examples.LINE]),
    }
    return {
        "/api/tasks": {
            "get": operation(
                tasks.list_tasks,
                "tasks",
                ok("A page of tasks.", "TaskList"),
                *(Invalid, Unavailable),
                parameters=listed,
            )
        },
        "/api/tasks/{task_id}": {
            "get": operation(
                tasks.get_task,
                "tasks",
                ok("The task.", "OneTask"),
                *(NotFound, Invalid, Unavailable),
                parameters=[TASK_ID],
            )
        },
        "/api/tasks/{task_id}/logs": {
            "get": operation(
                tasks.read_log,
                "tasks",
                ok("Lines in order.", "LineList"),
                *(NotFound, Invalid, Unavailable),
                parameters=lines,
                more="About 1 MiB at most; meta.more says that the range has more.",
            )
        },
        "/api/tasks/{task_id}/logs/full": {
            "get": operation(
                tasks.full_log,
                "tasks",
                {"200": response("All of it, as Accept prefers.", full, "X-Stream-Cursor")},
                *(NotFound, Invalid, Unavailable),
                parameters=[TASK_ID],
            )
        },
        "/api/tasks/{task_id}/stream": {
            "get": operation(
                streams.task_stream,
                "streams",
                {**_stream(), "204": response("The client has seen the end: an EventSource stops.")},
                *(NotFound, Invalid, Unavailable, HTTPVersionNotSupported),
                parameters=[TASK_ID, *WATCHING],
                more="It begins at the task's first event, and ends after the one that ends the task.",
            )
        },
    }


def _events(settings: Settings) -> Mapping[str, Part]:
    most, size = settings.events.max_per_request, settings.server.max_request_bytes
    request_key = parameter(
        "Idempotency-Key",
        text(minLength=1, maxLength=events.MAX_REQUEST_KEY),
        "Makes a retry of the request harmless: the items that name no key get theirs from it, for "
        f"{settings.events.key_ttl_seconds} seconds.",
        "header",
    )
    items = listing(ref("Item"), minItems=1, maxItems=most)
    shown = {
        "event": {"value": examples.EVENT_ITEM},
        "output": {"value": examples.OUTPUT_ITEM},
        "several": {"value": [examples.OUTPUT_ITEM, examples.STATUS_ITEM]},
    }
    body = {
        "required": True,
        "description": f"At most {most} items in {size} bytes; the payload of each may have "
        f"{settings.events.max_bytes} bytes. Without a Content-Type it is read as {JSON}.",
        "content": {
            JSON: {"schema": {"anyOf": [ref("Item"), items]}, "examples": shown},
            **{kind: _ndjson("Item", [examples.OUTPUT_ITEM, examples.STATUS_ITEM]) for kind in NDJSON},
        },
    }
    when = "the log took it; a time or date in ISO 8601, or an id."
    listed = [
        _channel(settings),
        TOPIC,
        parameter("sender", TEXT, "Exactly this."),
        parameter("correlation_id", TEXT, "Exactly this."),
        parameter("since", POSITION, f"From when {when}"),
        parameter("until", POSITION, f"Until when {when}"),
        LIMIT,
        CURSOR,
    ]
    return {
        "/api/v1/events": {
            "post": operation(
                events.publish,
                "events",
                {"201": response("They are kept.", json_of("Receipt"))},
                *(Malformed, RequestTimeout, Conflict, TooLarge, UnsupportedMedia, Invalid, Unavailable),
                scope="publish",
                keys=PUBLISHERS,
                parameters=[request_key],
                body=body,
            ),
            "get": operation(
                events.history,
                "events",
                ok("A page of events.", "EventList"),
                *(Invalid, Unavailable),
                parameters=listed,
            ),
        }
    }


def _streams(settings: Settings) -> Mapping[str, Part]:
    return {
        "/api/v1/events/stream": {
            "get": operation(
                streams.event_stream,
                "streams",
                _stream(),
                *(Invalid, HTTPVersionNotSupported),
                parameters=[_channel(settings), TOPIC, *WATCHING],
            )
        },
        "/api/v1/stream-tickets": {
            "post": operation(
                streams.make_ticket,
                "streams",
                {"201": response("The ticket.", json_of("Ticket"))},
                Invalid,
                keys=PUBLISHERS,
            )
        },
    }


def _agents() -> Mapping[str, Part]:
    return {
        "/api/agents": {
            "get": operation(
                agents.list_agents,
                "agents",
                ok("A page of agents.", "AgentList"),
                *(Invalid, Unavailable),
                parameters=[LIMIT, CURSOR],
            )
        }
    }


def _analytics() -> Mapping[str, Part]:
    moment = f"{TIME_HELP[0].upper()}{TIME_HELP[1:]}."
    parameters = [
        parameter("from", text(default="-24h"), moment),
        parameter("to", text(default="now"), moment),
        parameter("tz", text(default="UTC", examples=["Europe/Berlin"]), "An IANA time zone."),
        parameter(
            "granularity",
            {**one_of(GRANULARITIES), "default": "hour"},
            f"Of the buckets, of which there may be {MAX_BUCKETS}.",
        ),
        parameter("group_by", one_of(DIMENSIONS), "Show the groups of this, too."),
        *(
            parameter(
                name, listing(one_of(STATUSES) if name == "status" else TEXT), "Only these; repeatable."
            )
            for name in DIMENSIONS
        ),
    ]
    views = {
        "/api/analytics/summary": (analytics.summary, "Summary"),
        "/api/analytics/costs/histogram": (analytics.costs_histogram, "CostsHistogram"),
        "/api/analytics/tasks/histogram": (analytics.tasks_histogram, "TasksHistogram"),
        "/api/analytics/tokens/histogram": (analytics.tokens_histogram, "TokensHistogram"),
        "/api/analytics/performance": (analytics.performance, "Performance"),
    }
    table: Part = {"text/csv": {"schema": said(TEXT, "The same as a table.")}}
    return {
        path: {
            "get": operation(
                view,
                "analytics",
                {
                    "200": response(
                        "As of one moment, as JSON or, with X-Stream-Cursor, as CSV.",
                        {**json_of(name), **table},
                        "X-Stream-Cursor",
                    )
                },
                *(Invalid, Unavailable),
                parameters=parameters,
            )
        }
        for path, (view, name) in views.items()
    }


def _service() -> Mapping[str, Part]:
    metrics = {CONTENT_TYPE_LATEST.partition(";")[0]: {"schema": TEXT, "example": "heliograph_streams 2.0\n"}}
    ready = {**ok("Ready.", "Readiness"), "503": response("Not ready.", {JSON: {"schema": ref("Readiness")}})}
    tagged = {
        "200": response("The document.", {JSON: {"schema": {"type": "object"}}}, "ETag"),
        "304": response("The client has it already.", None, "ETag"),
    }
    return {
        "/api/health": {
            "get": operation(system.health, "service", ok("Live.", "Health"), scope=None),
        },
        "/api/v1/health": {
            "get": operation(system.platform_health, "service", ok("Live.", "PlatformHealth"), scope=None),
        },
        "/api/ready": {"get": operation(system.ready, "service", ready, scope=None)},
        "/api/status": {
            "get": operation(system.status, "service", ok("How it is.", "Status"), Invalid, Unavailable)
        },
        "/metrics": {"get": operation(system.prometheus, "service", {"200": response("Counters.", metrics)})},
        "/openapi.json": {
            "get": operation(
                documents.openapi_json, "service", tagged, scope=None, parameters=[IF_NONE_MATCH]
            )
        },
        "/asyncapi.json": {
            "get": operation(
                documents.asyncapi_json, "service", tagged, scope=None, parameters=[IF_NONE_MATCH]
            )
        },
    }


def _channel(settings: Settings) -> Part:
    most = min(settings.streams.max_channels, MAX_SELECTORS)
    return parameter(
        "channel",
        listing(SELECTOR, maxItems=most),
        "Channels and patterns; repeatable, all if none is named.",
    )


def _stream() -> dict[str, Part]:
    low, high = streams.OVERLOADED_RETRY_MS
    return {
        "200": response(
            "Blocks as in /asyncapi.json, until the client or a reconnect ends it. When there are too many "
            f"streams it is one reconnect of {low} to {high} milliseconds, and the end.",
            {
                streams.SSE_TYPE.partition(";")[0]: {
                    "schema": said(TEXT, "Server-sent events (WHATWG HTML, 9.2)."),
                    "example": examples.STREAM,
                }
            },
        )
    }


def _ndjson(name: str, lines: Sequence[Any]) -> Schema:
    """Return the content of lines of JSON, for which OpenAPI 3.1 has no schema of its own."""
    return {
        "schema": said({**TEXT, "x-line": ref(name)}, f"One {name} on each line."),
        "example": "".join(f"{to_json(line).decode()}\n" for line in lines),
    }
