"""Examples for the documents, each written by the functions that write the real thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import orjson

from heliograph import __version__
from heliograph.actors.subscription import Overflow
from heliograph.http.api.routes.analytics import (
    COMPARED,
    COST_MEASURES,
    PERCENTILES,
    SUMMARY_MEASURES,
    TASK_MEASURES,
    TOKEN_MEASURES,
    show,
)
from heliograph.http.api.routes.tasks import line_json
from heliograph.http.rules.problems import describe
from heliograph.http.rules.requests import encode_cursor, to_json
from heliograph.http.streams.reason import Reason
from heliograph.http.streams.stream import RECONNECT_MS
from heliograph.http.streams.watching import MAX_TAIL
from heliograph.http.wire.frames import notice_block, sse_block
from heliograph.model.analytics.totals import Totals, pack
from heliograph.model.errors import Invalid
from heliograph.model.event import Event, event_json, message_json
from heliograph.model.ids import OLDEST, EventId, format_id, make_id, to_microseconds
from heliograph.model.task import STATUSES, Task, task_json
from heliograph.storage.protocols import LogLine

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def _at(seconds: int) -> tuple[EventId, datetime]:
    """Return an id and the time in it."""
    moment = NOON + timedelta(seconds=seconds)
    return make_id(to_microseconds(moment) // 1000), moment


def _event(seq: int, topic: str, payload: dict[str, Any], channel: str = "task:42") -> Event:
    event_id, moment = _at(seq)
    return Event(event_id, channel, seq, topic, moment, payload, sender="planner", correlation_id="run-7")


CREATED = _event(1, "task.created", {"task_id": "42", "name": "Read the news", "agent": "planner"})
OUTPUT = _event(2, "task.output", {"task_id": "42", "output": "hello\n", "stream": "stdout"})
ENDED = _event(
    3,
    "task.status",
    {"task_id": "42", "status": "completed", "result": {"cost_usd": 0.05, "input_tokens": 1200}},
)
OTHER = _event(1, "pipeline.completed", {"workflow_id": "nightly", "stages": 3}, "workflow:nightly")


def _task() -> Task:
    task = Task.first_seen(CREATED)
    for event in (CREATED, OUTPUT, ENDED):
        task.apply(event)
    return task


def _read(body: bytes) -> Any:
    return orjson.loads(body)


def _plain(value: Any) -> Any:
    """Return a value as a client reads it."""
    return _read(to_json(value))


HEAD = format_id(ENDED.id)
META = {"stream_cursor": HEAD}
TASK = _plain(task_json(_task()))
EVENT = _read(event_json(OUTPUT))
LINE = _plain(line_json(LogLine(OUTPUT.seq, OUTPUT.id, OUTPUT.timestamp, "stdout", OUTPUT.payload["output"])))

# What publishers send

EVENT_ITEM = {
    "topic": OTHER.topic,
    "payload": OTHER.payload,
    "channel": OTHER.channel,
    "sender": "scheduler",
    "key": "nightly/2026-01-31",
}
OUTPUT_ITEM = {"type": "task_output", "task_id": "42", "output": "hello\n", "key": "42/2"}
STATUS_ITEM = {"type": "task_status", "task_id": "42", "status": "completed", "result": {"cost_usd": 0.05}}

# What is answered

SUMS = pack(
    Totals(
        created=1,
        finished=1,
        succeeded=1,
        cost_nanos=50_000_000,
        input_tokens=1200,
        output_tokens=300,
        duration_ms=2000,
    )
)
SPAN = {"from": "2026-01-31T00:00:00+01:00", "to": "2026-02-01T00:00:00+01:00", "tz": "Europe/Berlin"}
SUMMARY = {
    **show(SUMS, SUMMARY_MEASURES),
    "active_tasks": 0,
    "by_model": {"sonnet": show(SUMS, SUMMARY_MEASURES)},
    "by_agent_type": {"unknown": show(SUMS, SUMMARY_MEASURES)},
    "previous": show(0, SUMMARY_MEASURES),
    "change": dict.fromkeys(COMPARED),
    "meta": SPAN | META,
}
_PERFORMANCE = {**show(SUMS, SUMMARY_MEASURES), "duration_ms": dict.fromkeys(PERCENTILES, 2000.0)}
PERFORMANCE = {
    **_PERFORMANCE,
    "by_agent": {"planner": _PERFORMANCE},
    "by_agent_type": {"unknown": _PERFORMANCE},
    "by_model": {"sonnet": _PERFORMANCE},
    "failures": {"TimeoutError": 2},
    "meta": SPAN | META,
}


def _histogram(measures: Sequence[str]) -> Mapping[str, Any]:
    bucket = {"start": SPAN["from"], "end": SPAN["to"], "utc_offset": "+01:00", **show(SUMS, measures)}
    return {
        "buckets": [{**bucket, "groups": {"sonnet": show(SUMS, measures)}}],
        "meta": {**SPAN, "granularity": "day", "group_by": "model", "groups": ["sonnet"], **META},
    }


_HEALTH = {"status": "healthy", "version": __version__, "uptime_seconds": 3600}
ANSWERS: Mapping[str, Any] = {
    "TaskList": {
        "tasks": [TASK],
        "meta": {"next_cursor": encode_cursor(to_microseconds(CREATED.timestamp), "42"), **META},
    },
    "OneTask": {**TASK, "meta": META},
    "LineList": {
        "lines": [LINE],
        "meta": {"first_seq": OUTPUT.seq, "last_seq": OUTPUT.seq, "more": False, **META},
    },
    "EventList": {
        "events": [_read(event_json(event)) for event in (ENDED, OUTPUT, CREATED)],
        "total": 3,
        "meta": {"next_cursor": None, **META},
    },
    "Receipt": {"accepted": 1, "ids": [format_id(OTHER.id)], "cursor": format_id(OTHER.id)},
    "AgentList": {
        "agents": [
            {
                "name": "planner",
                "agent_type": None,
                "tasks": {**dict.fromkeys(STATUSES, 0), "completed": 1},
                "last_seen": TASK["updated_at"],
            }
        ],
        "meta": {"next_cursor": None, **META},
    },
    "Summary": SUMMARY,
    "Performance": PERFORMANCE,
    "CostsHistogram": _histogram(COST_MEASURES),
    "TasksHistogram": _histogram(TASK_MEASURES),
    "TokensHistogram": _histogram(TOKEN_MEASURES),
    "Ticket": {"ticket": "InJlYWRlciI.aX3zAA.…", "expires_at": NOON.timestamp()},
    "Health": _HEALTH,
    "PlatformHealth": {
        "status": "healthy",
        "workflows": {"total": 0, "enabled": 0},
        "bus": {"published": 3, "delivered": 6, "errors": 0},
    },
    "Readiness": {
        "status": "ready",
        "checks": {"log": "ok", "store": "ok", "subscriber": "ok", "analytics": "ok"},
    },
    "Status": {
        **_HEALTH,
        "machine": {
            "cpu_count": 2,
            "load_average": [0.5, 0.25, 0.25],
            "memory_total_bytes": 8_589_934_592,
            "memory_available_bytes": 4_294_967_296,
            "process_memory_bytes": 67_108_864,
        },
        "tasks": {"completed": 1},
        "streams": 2,
        "subscriptions": 2,
        "events": 3,
        "deliveries": 6,
        "position": HEAD,
        "meta": META,
    },
}
"""By the names of their schemas."""

# What streams say

_REFUSED = attrs.asdict(describe(Invalid.field("tail", f"must be a whole number from 0 to {MAX_TAIL}")))
NOTICES: Mapping[str, Mapping[str, Any]] = {
    "gap": {
        "channel": "task:42",
        "from": format_id(CREATED.id),
        "to": format_id(OUTPUT.id),
        "count": 2,
        "reason": Overflow.DROP_OLDEST.value,
    },
    "reset": {
        "channel": "task:42",
        "oldest": format_id(CREATED.id),
        "head": HEAD,
        "reason": "events after the cursor are no longer kept",
    },
    "reconnect": {"after_ms": 1200, "cursor": HEAD, "reason": Reason.ROTATE.text},
    "subscribed": {"channel": "task:42", "cursor": format_id(OLDEST), "recovered": True, "ref": 1},
    "unsubscribed": {"channel": "task:42", "ref": 2},
    "pong": {"ref": 3},
    "authenticated": {"name": "dashboard", "ref": None},
    "error": {
        **{name: _REFUSED[name] for name in ("code", "title", "detail")},
        "ref": 4,
    },
}
MESSAGES: Mapping[str, Mapping[str, Any]] = {
    "task_output": _read(message_json(OUTPUT)),
    "task_status": _read(message_json(ENDED)),
    "event": _read(message_json(OTHER)),
}
ASKED: Mapping[str, Mapping[str, Any]] = {
    "subscribe": {"channel": "task:42", "after": format_id(OLDEST), "ref": 1},
    "unsubscribe": {"channel": "task:42", "ref": 2},
    "ping": {"ref": 3},
    "auth": {"key": "a key"},
}
OPEN: Mapping[str, Any] = {"channel": "task:42", "cursor": format_id(OLDEST), "recovered": True}
KEEPALIVE: Mapping[str, Any] = {"time": "2026-01-31T12:00:00Z", "cursor": HEAD}
STREAM = b"".join(
    [
        notice_block("open", OPEN, format_id(OLDEST), RECONNECT_MS),
        *(sse_block(event.topic, event_json(event), event.cursor) for event in (CREATED, OUTPUT, ENDED)),
    ]
).decode()
