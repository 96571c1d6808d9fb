"""The parts of a task's whole log in the dashboard's form: their entries, and the events they are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any

import attrs

from heliograph.http.api.dashboard.tasks import (
    about,
    duration_seconds,
    result_text,
    shown_status,
    text_of,
)
from heliograph.http.rules.schema import says
from heliograph.model.event import Event
from heliograph.model.task import Task


@attrs.frozen
class AgentOutput:
    """Something that the agent said or did."""

    timestamp: datetime
    type: str
    content: str
    tool_name: str | None
    tool_input: Annotated[str | None, says("The input, as JSON.")]
    is_error: bool


@attrs.frozen
class UserInput:
    """Something that the user answered."""

    timestamp: datetime
    type: str
    question_type: str | None
    content: str


@attrs.frozen
class WebhookStage:
    """A stage in the life of the webhook that the task came from."""

    timestamp: datetime
    stage: str
    data: Any


@attrs.frozen
class KnowledgeInteraction:
    """A question to a knowledge base, or its answer."""

    timestamp: datetime
    type: str
    tool_name: str | None
    input: str | None
    content: str | None
    is_error: bool


@attrs.frozen
class TaskMetadata:
    """The task itself."""

    task_id: str
    session_id: str | None
    conversation_id: str | None
    flow_id: str | None
    source: str | None
    assigned_agent: str | None
    status: str
    cost_usd: float
    created_at: datetime
    completed_at: datetime | None
    duration_seconds: float | None


@attrs.frozen
class TaskInput:
    """The task's input."""

    message: str
    enriched_prompt: str | None = None


@attrs.frozen
class FinalMetrics:
    """Cost, tokens and duration of the task."""

    cost_usd: float
    duration_seconds: float
    input_tokens: int
    output_tokens: int


@attrs.frozen
class FinalResult:
    """The end of the task."""

    success: bool
    result: str | None
    error: str | None
    metrics: FinalMetrics
    completed_at: datetime


def metadata(task: Task) -> TaskMetadata:
    """Return the facts about a task itself."""
    return TaskMetadata(
        task_id=task.task_id,
        session_id=task.session_id,
        conversation_id=task.conversation_id,
        flow_id=text_or_none(about(task, "flow_id")),
        source=text_or_none(about(task, "source")),
        assigned_agent=task.agent,
        status=shown_status(task),
        cost_usd=(task.cost_nanos or 0) / 10**9,
        created_at=task.created_at,
        completed_at=task.finished_at,
        duration_seconds=duration_seconds(task),
    )


def final_result(task: Task) -> FinalResult | None:
    """Return the outcome of a task; ``None`` while it goes on."""
    if task.finished_at is None:
        return None
    metrics = FinalMetrics(
        (task.cost_nanos or 0) / 10**9,
        duration_seconds(task) or 0,
        task.input_tokens or 0,
        task.output_tokens or 0,
    )
    succeeded = task.status == "completed" and (task.result or {}).get("success") is not False
    return FinalResult(succeeded, result_text(task), task.error, metrics, task.finished_at)


def _agent_output(event: Event) -> AgentOutput | None:
    said = event.payload
    match event.topic.removeprefix("task."):
        case "output":
            return AgentOutput(event.timestamp, "output", said["output"], None, None, is_error=False)
        case "thinking" | "raw_output" as kind:
            content = said.get("content", said.get("raw_output"))
            return AgentOutput(event.timestamp, kind, text_of(content), None, None, is_error=False)
        case "tool_call" | "tool_result" as kind:
            given = None if said.get("input") is None else text_of(said["input"])
            failed = bool(said.get("is_error"))
            name = text_or_none(said.get("name"))
            return AgentOutput(event.timestamp, kind, text_of(said.get("content")), name, given, failed)
    return None


def _user_input(event: Event) -> UserInput:
    said = event.payload
    kind = text_or_none(said.get("question_type"))
    return UserInput(event.timestamp, "user_response", kind, text_of(said.get("content")))


def _webhook_stage(event: Event) -> WebhookStage | None:
    family, _, name = event.topic.partition(".")
    return WebhookStage(event.timestamp, name if family == "webhook" else f"{family}_{name}", event.payload)


def _knowledge(event: Event) -> KnowledgeInteraction | None:
    said = event.payload
    return KnowledgeInteraction(
        event.timestamp,
        event.topic.removeprefix("knowledge."),
        text_or_none(said.get("tool_name")),
        text_or_none(said.get("query")),
        text_or_none(said.get("results_preview", said.get("content"))),
        bool(said.get("is_error")),
    )


def text_or_none(value: Any) -> str | None:
    """Return a publisher's value as text; ``None`` stays ``None``."""
    return None if value is None else text_of(value)


Entry = Callable[[Event], Any]
LISTS: Mapping[str, tuple[tuple[str, ...], Entry]] = {
    "user_inputs": (("task.user_response", "task.user_input", "task.input"), _user_input),
    "webhook_flow": (("webhook.*", "response.*", "notification.*"), _webhook_stage),
    "agent_output": (("task.*",), _agent_output),
    "knowledge_interactions": (("knowledge.*",), _knowledge),
}
"""The topics of each part's events, and the function that makes an entry of one."""

PARTS = ("metadata", "input", *LISTS, "final_result")
