"""The data of the documents' examples: one task that says hello."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from heliograph.http.api.shared import ListMeta, Meta
from heliograph.model import yaml
from heliograph.model.channels import STATUS
from heliograph.model.event import CLI_STATUS, Event
from heliograph.model.ids import EventId, make_id, to_microseconds
from heliograph.model.prices import NO_PRICES
from heliograph.model.task import Task
from heliograph.model.workflows.manifest import Manifest
from heliograph.model.workflows.record import Record
from heliograph.model.workflows.run import Run
from heliograph.model.workflows.run import share_of as share_of_run
from heliograph.model.workflows.step import Step
from heliograph.model.workflows.step import share_of as share_of_step
from heliograph.model.workflows.workflow import put_together
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

READY = _event(1, CLI_STATUS, {"step": "ready", "status": "healthy", "active": True}, STATUS)


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

# Messages that publishers send

EVENT_ITEM = {
    "topic": OTHER.topic,
    "payload": OTHER.payload,
    "channel": OTHER.channel,
    "sender": "scheduler",
    "key": "nightly/2026-01-31",
}
OUTPUT_ITEM = {"type": "task_output", "task_id": "42", "output": "hello\n", "key": "42/2"}
STATUS_ITEM = {"type": "task_status", "task_id": "42", "status": "completed", "result": {"cost_usd": 0.05}}


# A workflow, and a run of it

_SAID = {"workflow_id": "nightly", "run_id": "run-7"}
RUN_EVENTS = [
    _event(4, "run.started", {**_SAID, "trigger_type": "scheduled"}, "workflow:nightly"),
    _event(5, "step.started", {**_SAID, "step": "collect"}, "workflow:nightly"),
    _event(6, "step.completed", {**_SAID, "step": "collect", "cost_usd": 0.002}, "workflow:nightly"),
    _event(7, "run.finished", {**_SAID, "status": "success", "result": {"rows": 12}}, "workflow:nightly"),
]


def _run() -> tuple[Run, Step, Record]:
    run, step, record = Run.first_seen(RUN_EVENTS[0]), Step.first_seen(RUN_EVENTS[1]), Record("nightly")
    for event in RUN_EVENTS:
        run.apply(event, NO_PRICES)
        if event.topic.startswith("step."):
            step.apply(event, NO_PRICES)
    run.feed(share_of_step(step), 1)
    record.feed(share_of_run(run), 1)
    return run, step, record


RUN, STEP, RECORD = _run()
WORKFLOW = put_together(
    Manifest(
        "nightly",
        "Nightly report",
        description="Collects the day, and writes about it.",
        version="1.0.0",
        icon="🌙",
        color="#4285F4",
        triggers=({"type": "scheduled", "schedule": "0 2 * * *"},),
        tags=("reports",),
    ),
    ("pipeline.yaml", yaml.load(b"steps: [{name: collect, type: function, ref: nightly.steps.collect}]")),
    {"agents/writer.agent.yaml": yaml.load(b"{name: writer, model: demo-large, stage: 1}")},
    [],
)
