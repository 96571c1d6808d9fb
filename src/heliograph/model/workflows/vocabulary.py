"""The meaning of topics about runs and their steps.

Two vocabularies are understood, even mixed in one run:

- the documented one: ``run.started``, ``run.paused``, ``run.resumed``, ``run.finished``, and
  ``step.started``, ``step.completed``, ``step.failed``, ``step.skipped``;
- the one of a platform's runners: ``dag.``, ``pipeline.``, ``react.`` and ``router.started``,
  ``.completed`` and ``.failed``, ``pipeline.paused``, the nodes of a ``dag`` and the stages of a pipeline,
  agents that failed, and ``api.run_cancelled`` and ``api.hitl_resumed``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heliograph.model.channels import Selection, is_name, topic_matches
from heliograph.model.event import Event
from heliograph.model.workflows import facts

ENDS = frozenset({"success", "failed", "skipped", "cancelled"})
"""The statuses of a run that has come to an end."""

FINISHED = {**{status: status for status in sorted(ENDS)}, "completed": "success", "error": "failed"}
"""The outcomes that ``run.finished`` may name, and their statuses."""

OF_RUNS: Mapping[str, tuple[str, str]] = {
    "run.created": ("run", "pending"),
    "run.started": ("run", "began"),
    "run.paused": ("run", "paused"),
    "run.resumed": ("run", "running"),
    "run.finished": ("run", "finished"),
    "api.run_cancelled": ("run", "cancelled"),
    "api.hitl_resumed": ("run", "running"),
    "pipeline.paused": ("pipeline", "paused"),
    **{
        f"{runner}.{topic}": (runner, status)
        for runner in ("dag", "pipeline", "react", "router")
        for topic, status in (("started", "began"), ("completed", "success"), ("failed", "failed"))
    },
}
"""By topic: the runner that tells a status (``run``: the run's own events), and the status."""

OF_STEPS: Mapping[str, str] = {
    "step.started": "began",
    "step.completed": "success",
    "step.failed": "failed",
    "step.skipped": "skipped",
    "dag.node_started": "began",
    "dag.node_completed": "success",
    "stage.started": "began",
    "stage.completed": "success",
    "agent.failed": "failed",
}
"""The meaning of each topic for a step. Runners publish no failure of a node; its agent does."""

CALL = "pipeline.adk_completed"
"""The topic with the cost of a model's calls."""

BY_SESSION = frozenset({CALL, "pipeline.adk_started", "pipeline.error"})
"""Topics of a pipeline that name their run as ``session_id``."""

CALLERS = frozenset({"model", "tool", "budget"})
"""The first parts of topics of callers of models and tools, who also name their run as ``session_id``."""

NAMES = ("step", "node", "name", "agent")
"""The fields that may name a step; the first one that does counts."""

MAX_NAME = 200
"""The most characters of a step's name."""


def tells_of_runs(topic: str) -> bool:
    """Tell whether events of a topic change a run; others may only name one."""
    return topic in OF_RUNS or topic in OF_STEPS or topic == CALL


def run_of(event: Event) -> str | None:
    """Return the id of the run that an event belongs to; ``None`` if to none."""
    named = facts.first(event.payload, "run_id", "execution_id")
    if named is None and _by_session(event.topic):
        named = event.payload.get("session_id")
    elif named is None and (event.topic in OF_RUNS or event.topic in OF_STEPS):
        named = event.correlation_id
    return named if is_name(named) else None


def _by_session(topic: str) -> bool:
    return topic in BY_SESSION or topic.partition(".")[0] in CALLERS


def session_of(topic: str, payload: Mapping[str, Any]) -> str | None:
    """Return the session of an event that names its run only by its session; ``None`` for other events."""
    if not _by_session(topic) or facts.first(payload, "run_id", "execution_id") is not None:
        return None
    session = payload.get("session_id")
    return session if is_name(session) else None


def execution_of(channel: str, payload: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the run and the workflow that an event names; ``None`` unless it names both."""
    family, _, workflow = channel.partition(":")
    run = facts.first(payload, "run_id", "execution_id") if family == "workflow" else None
    return (run, workflow) if isinstance(run, str) and is_name(run) else None


def step_of(event: Event) -> str | None:
    """Return the name of an event's step; ``None`` if it has none."""
    if event.topic not in OF_STEPS:
        return None
    name = facts.first(event.payload, *NAMES)
    return name if isinstance(name, str) and 0 < len(name) <= MAX_NAME else None


def id_of(run_id: str, workflow_id: str, *step: str) -> str:
    """Return the key of a run, or of one of its steps; names of runs and workflows have no slash."""
    return "/".join((run_id, workflow_id, *step))


def concerns(selection: Selection, event: Event) -> bool:
    """Tell whether an event of one of a selection's channels belongs to it by its topic and its run."""
    return topic_matches(selection.topic, event.topic) and (
        selection.run is None or selection.run == run_of(event)
    )
