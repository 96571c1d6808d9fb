"""A short story that the examples of the documents are taken from: a task that says hello."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from heliograph.http.api.shared import ListMeta, Meta
from heliograph.model.event import Event
from heliograph.model.ids import EventId, make_id, to_microseconds
from heliograph.model.task import Task
from heliograph.storage.protocols import LogLine

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def _event(seq: int, topic: str, payload: dict[str, Any], channel: str = "task:42") -> Event:
    moment = NOON + timedelta(seconds=seq)
    event_id = make_id(to_microseconds(moment) // 1000)
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


TASK = _task()
LINE = LogLine(OUTPUT.seq, OUTPUT.id, OUTPUT.timestamp, "stdout", OUTPUT.payload["output"])
HEAD: EventId = ENDED.id
META = Meta(HEAD)
LAST_PAGE = ListMeta(None, HEAD)

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
