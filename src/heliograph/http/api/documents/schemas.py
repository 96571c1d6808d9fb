"""JSON Schema (2020-12) of the values on the wire, which both documents share.

Where a class says what a value has (``Task``, ``Event``, …), its schema is made from the class, and where
rules are checked (``model.intake``), from the rules. Schemas of answers are open: a client must expect fields
that are new. Schemas of what clients send are closed where the service is strict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import NoneType
from typing import Any, get_args, get_type_hints

from heliograph.http.api.routes.analytics import (
    COMPARED,
    COST_MEASURES,
    MEASURED,
    PERCENTILES,
    PERFORMANCE_GROUPS,
    SUMMARY_GROUPS,
    SUMMARY_MEASURES,
    TASK_MEASURES,
    TOKEN_MEASURES,
)
from heliograph.http.rules.problems import TABLE
from heliograph.model.analytics.rollup import DIMENSIONS
from heliograph.model.analytics.timeline import GRANULARITIES
from heliograph.model.analytics.totals import Totals
from heliograph.model.channels import CHANNEL, KINDS_WITH_ID, TOPIC, TOPIC_PATTERN
from heliograph.model.errors import FieldError
from heliograph.model.event import Event
from heliograph.model.ids import ID, EventId
from heliograph.model.intake import ENVELOPE, KIND_OF, MESSAGE_FORMS
from heliograph.model.rules import Rules
from heliograph.model.task import RESULT, STATUSES, Task
from heliograph.storage.protocols import LogLine

Schema = Mapping[str, Any]


# The building blocks


def text(pattern: str | None = None, **more: Any) -> Schema:
    """Describe text, as a whole of this pattern."""
    return {"type": "string", **({} if pattern is None else {"pattern": f"^(?:{pattern})$"}), **more}


def whole(low: int | None = None, high: int | None = None, **more: Any) -> Schema:
    """Describe a whole number from ``low`` to ``high``."""
    limits = {"minimum": low, "maximum": high}
    return {"type": "integer", **{name: limit for name, limit in limits.items() if limit is not None}, **more}


def one_of(values: Iterable[str]) -> Schema:
    """Describe one of some words."""
    return {"type": "string", "enum": list(values)}


def listing(items: Schema, **more: Any) -> Schema:
    """Describe an array."""
    return {"type": "array", "items": items, **more}


def record(properties: Mapping[str, Schema], optional: Sequence[str] = (), **more: Any) -> Schema:
    """Describe an object that has all of these properties, but for those that are optional."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required, **more}


def by_name(values: Schema, **more: Any) -> Schema:
    """Describe an object whose names are data."""
    return {"type": "object", "additionalProperties": values, **more}


def nullable(schema: Schema) -> Schema:
    """Allow null, too."""
    if "$ref" in schema or "enum" in schema or "not" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    return {**schema, "type": [schema["type"], "null"]} if "type" in schema else schema


def said(schema: Schema, description: str) -> Schema:
    """Add what a schema can't say."""
    return {**schema, "description": description}


def ref(name: str) -> Schema:
    """Refer to one of ``COMPONENTS``."""
    return {"$ref": f"#/components/schemas/{name}"}


TEXT = text()
COUNT = whole(0)
NUMBER: Schema = {"type": "number"}
OBJECT: Schema = {"type": "object"}
ANYTHING: Schema = {}
TIME = text(format="date-time")
CURSOR = ref("Cursor")

_TYPES: Mapping[Any, Schema] = {
    str: TEXT,
    int: whole(),
    float: NUMBER,
    bool: {"type": "boolean"},
    datetime: TIME,
    EventId: CURSOR,
    Any: ANYTHING,
    dict[str, Any]: OBJECT,
}


def of_type(hint: Any) -> Schema:
    """Return the schema of how a value of a type is written."""
    options = get_args(hint)
    if NoneType in options:
        (other,) = [option for option in options if option is not NoneType]
        return nullable(of_type(other))
    return _TYPES[hint]


def fields(cls: type, without: Sequence[str] = ()) -> dict[str, Schema]:
    """Return the schemas of a class's fields by name."""
    return {name: of_type(hint) for name, hint in get_type_hints(cls).items() if name not in without}


def ruled(rules: Rules, **overrides: Schema) -> Schema:
    """Return the schema of an object as its rules check it: whatever they let pass, it lets pass."""
    properties = {
        name: said(
            overrides.get(name, rule.schema if rule.required else nullable(rule.schema)), rule.expected
        )
        for name, rule in rules.by_name.items()
    }
    optional = [name for name, rule in rules.by_name.items() if not rule.required]
    return record(properties, optional, additionalProperties=not rules.closed)


# Where and when

PATTERN = rf"(?:{'|'.join(KINDS_WITH_ID)}):\*|\*"
POSITION = said(
    text(examples=["0-0", "1795328004217-0", "2026-01-31T12:00:00Z"]),
    "A cursor (0-0: before the oldest event that is kept), or an ISO 8601 time or date.",
)
SELECTOR = text(f"{CHANNEL}|{PATTERN}", examples=["task:42", "task:*", "webhooks", "*"])
TOPIC_FILTER = text(TOPIC_PATTERN, examples=["task.output", "pipeline.*", "*"])
NEXT_CURSOR = said(nullable(TEXT), "Opaque: give it back as cursor for the next page; null at the end.")
STREAM_CURSOR = said(CURSOR, "Where the answer stands: a stream goes on from here, given it as after.")
LIST_META = record({"next_cursor": NEXT_CURSOR, "stream_cursor": STREAM_CURSOR})

# Events and tasks

EVENT = record(
    {
        **fields(Event),
        "channel": text(CHANNEL),
        "seq": said(whole(1), "1, 2, 3, … without holes within its channel."),
        "topic": text(TOPIC),
    },
    description="What happened.",
)
TASK_FIELDS: Mapping[str, Schema] = {
    **fields(Task, without=["cost_nanos"]),
    "status": one_of(STATUSES),
    "cost_usd": said(nullable(NUMBER), "Dollars, exact to the millionth."),
    "cost_computed": said(of_type(bool), "Whether the cost comes from the price table."),
    "duration_ms": said(nullable(COUNT), "From start to finish; null until finished."),
    "input": said(ANYTHING, "Whatever its creator gave."),
}
TASK = record(TASK_FIELDS, description="The state of a task, folded from its events.")
LINE = record(
    {
        **fields(LogLine),
        "seq": whole(1),
        "partial": said({"const": True}, "The stream's next piece goes on in the same line."),
        "rewind": said({"const": True}, "Written over what the line held, as after a carriage return."),
    },
    optional=["partial", "rewind"],
    description="A line of output, or a marked piece of one.",
)

# What publishers send


def _payload_rule(topic: str) -> Schema:
    """Say what a payload must be for one topic; the channel may name what it belongs to instead."""
    kind = KIND_OF[topic]
    schema = ruled(
        kind.topics[topic], **({"result": nullable(ref("Result"))} if topic == "task.status" else {})
    )
    schema = {**schema, "required": [name for name in schema["required"] if name != kind.field]}
    of_topic = {"properties": {"topic": {"const": topic}}}
    return {"if": of_topic, "then": {"properties": {"payload": nullable(schema)}}}


EVENT_ITEM = {
    **ruled(ENVELOPE),
    "allOf": [_payload_rule(topic) for topic in KIND_OF],
    "description": "The event form. Without a channel it is chosen by what the payload belongs to. What "
    "else a payload says is kept as it is; one of output may say partial and rewind, as a Line does.",
}
_MESSAGE_ITEMS = {
    kind: ruled(
        rules, type={"const": kind}, **({"result": nullable(ref("Result"))} if kind == "task_status" else {})
    )
    for kind, (_, rules) in MESSAGE_FORMS.items()
}
RECEIPT = record(
    {
        "accepted": said(whole(1), "How many items the request had."),
        "ids": said(listing(CURSOR), "Of each item in order; what was published before has its old id."),
        "cursor": said(CURSOR, "The greatest of the ids."),
    }
)

# Analytics


def _measure(name: str) -> Schema:
    """Return the schema of a measure; how it says that there was nothing tells its type."""
    nothing = MEASURED[name](Totals())
    return nullable(NUMBER) if nothing is None else of_type(type(nothing))


def _measures(names: Iterable[str]) -> dict[str, Schema]:
    return {name: _measure(name) for name in names}


def _analytics_meta(**more: Schema) -> Schema:
    return record({"from": TIME, "to": TIME, "tz": TEXT, **more, "stream_cursor": STREAM_CURSOR})


def _grouped(always: Sequence[str], values: Schema) -> tuple[dict[str, Schema], list[str]]:
    """Return the properties by dimension, and which of them are there only when grouped by it."""
    return (
        {f"by_{name}": by_name(values) for name in DIMENSIONS},
        [f"by_{name}" for name in DIMENSIONS if name not in always],
    )


def _summary() -> Schema:
    measures = _measures(SUMMARY_MEASURES)
    grouped, optional = _grouped(SUMMARY_GROUPS, record(measures))
    return record(
        {
            **measures,
            "active_tasks": said(COUNT, "Tasks that are not finished now, of whatever time."),
            **grouped,
            "previous": said(record(measures), "The period of equal length before this one."),
            "change": record(
                {name: nullable(NUMBER) for name in COMPARED},
                description="By what share of the previous; null where there is nothing to compare with.",
            ),
            "meta": _analytics_meta(),
        },
        optional,
    )


def _performance() -> Schema:
    percentiles = record({name: nullable(NUMBER) for name in PERCENTILES})
    shown = {**_measures(SUMMARY_MEASURES), "duration_ms": percentiles}
    grouped, optional = _grouped(PERFORMANCE_GROUPS, record(shown))
    failures = by_name(COUNT, description="Failed tasks by kind of error, most frequent first.")
    return record({**shown, **grouped, "failures": failures, "meta": _analytics_meta()}, optional)


def _histogram(names: Iterable[str]) -> Schema:
    measures = _measures(names)
    groups = by_name(record(measures), description="Only with group_by: the groups that have something here.")
    bucket = record(
        {"start": TIME, "end": TIME, "utc_offset": TEXT, **measures, "groups": groups}, optional=["groups"]
    )
    meta = _analytics_meta(
        granularity=one_of(GRANULARITIES), group_by=nullable(one_of(DIMENSIONS)), groups=listing(TEXT)
    )
    return record({"buckets": listing(bucket), "meta": meta})


# How the service is doing

HEALTH = record({"status": {"const": "healthy"}, "version": TEXT, "uptime_seconds": COUNT})
PLATFORM_HEALTH = record(
    {
        "status": {"const": "healthy"},
        "workflows": record({"total": COUNT, "enabled": COUNT}),
        "bus": record({"published": COUNT, "delivered": COUNT, "errors": COUNT}),
    }
)
READINESS = record(
    {"status": one_of(["ready", "not ready"]), "checks": by_name(said(TEXT, "ok, or what is wrong."))}
)
STATUS = record(
    {
        **HEALTH["properties"],
        "machine": record(
            {
                "cpu_count": nullable(COUNT),
                "load_average": listing(NUMBER, minItems=3, maxItems=3),
                "memory_total_bytes": COUNT,
                "memory_available_bytes": COUNT,
                "process_memory_bytes": COUNT,
            }
        ),
        "tasks": said(by_name(COUNT, propertyNames=one_of(STATUSES)), "How many there are by status."),
        "streams": COUNT,
        "subscriptions": COUNT,
        "events": COUNT,
        "deliveries": COUNT,
        "position": CURSOR,
        "meta": record({"stream_cursor": STREAM_CURSOR}),
    }
)
AGENT = record(
    {
        "name": TEXT,
        "agent_type": nullable(TEXT),
        "tasks": record(dict.fromkeys(STATUSES, COUNT)),
        "last_seen": nullable(TIME),
    }
)

# Errors

PROBLEM = record(
    {
        "type": text(r"urn:heliograph:problem:.+"),
        "title": TEXT,
        "status": whole(400, 599),
        "detail": TEXT,
        "code": said(TEXT, f"Stable, for programs: {', '.join(code for _, code, _ in TABLE.values())}, …"),
        "errors": listing(record({**fields(FieldError), "index": COUNT}, optional=["index"])),
    },
    optional=["errors"],
    description="RFC 9457. With code invalid, errors names each bad field.",
)

COMPONENTS: Mapping[str, Schema] = {
    "Cursor": said(
        text(ID, examples=["1795328004217-0"]),
        "An event's id, `<milliseconds>-<sequence>`, ordered over the whole deployment, as a position.",
    ),
    "Event": EVENT,
    "Task": TASK,
    "OneTask": record({**TASK_FIELDS, "meta": record({"stream_cursor": STREAM_CURSOR})}),
    "TaskList": record({"tasks": listing(ref("Task")), "meta": LIST_META}),
    "Line": LINE,
    "LineList": record(
        {
            "lines": listing(ref("Line")),
            "meta": record(
                {
                    "first_seq": nullable(whole(1)),
                    "last_seq": nullable(whole(1)),
                    "more": said(of_type(bool), "Whether the range that was asked for has more."),
                    "stream_cursor": STREAM_CURSOR,
                }
            ),
        }
    ),
    "EventList": record(
        {
            "events": listing(ref("Event")),
            "total": said(COUNT, "How many this page has."),
            "meta": LIST_META,
        }
    ),
    "Result": said(ruled(RESULT), "Of a task that has ended: what it says besides belongs to its publisher."),
    "EventItem": EVENT_ITEM,
    "TaskOutputItem": _MESSAGE_ITEMS["task_output"],
    "TaskStatusItem": _MESSAGE_ITEMS["task_status"],
    "Item": {"oneOf": [ref("EventItem"), ref("TaskOutputItem"), ref("TaskStatusItem")]},
    "Receipt": RECEIPT,
    "AgentList": record({"agents": listing(AGENT), "meta": LIST_META}),
    "Summary": _summary(),
    "Performance": _performance(),
    "CostsHistogram": _histogram(COST_MEASURES),
    "TasksHistogram": _histogram(TASK_MEASURES),
    "TokensHistogram": _histogram(TOKEN_MEASURES),
    "Ticket": record({"ticket": TEXT, "expires_at": said(NUMBER, "Seconds since 1970.")}),
    "Health": HEALTH,
    "PlatformHealth": PLATFORM_HEALTH,
    "Readiness": READINESS,
    "Status": STATUS,
    "Problem": PROBLEM,
}
