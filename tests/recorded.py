"""A run of the workflow ``invoice_to_ledger`` as a platform's bus tells it: 47 messages, none of them ours.

The runner puts ``execution_id`` and ``pipeline`` into each payload, and no channel beside it. Model calls
name their run as ``session_id`` only. No message says that a run started or finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parent.parent / "examples" / "workflows"
"""The folder of example workflows, of which this is one."""
WORKFLOW = "invoice_to_ledger"
RUN_ID = "0123456789abcdef"
BEGUN = datetime(2026, 3, 4, 10, 0, tzinfo=UTC)
NODES = (
    *("fetch_invoice", "read_invoice", "match_supplier", "build_query", "look_up_supplier"),
    *("build_entry_prompt", "classify_entry", "compose_entry", "post_entry", "announce_entry"),
)
AGENTS = {"read_invoice": "reader", "look_up_supplier": "scout", "classify_entry": "bookkeeper"}
TOOLS = {"look_up_supplier": "search_register", "classify_entry": "list_accounts"}
COST = {
    "prompt_tokens": 1200,
    "candidates_tokens": 300,
    "cached_tokens": 200,
    "thoughts_tokens": 50,
    "total_tokens": 1750,
    "estimated_cost_usd": 0.0021,
    "llm_calls": 1,
}


class Recorder:
    """Writes messages, 100 ms apart.

    Args:
        execution: The run's id.
        begun: When the first one is sent.
    """

    def __init__(self, execution: str, begun: datetime) -> None:
        self.messages: list[dict[str, Any]] = []
        self._execution = execution
        self._now = begun

    def say(self, topic: str, **payload: Any) -> None:
        """Say something as the runner does, which names the run and the workflow."""
        self.send(
            topic,
            WORKFLOW,
            self._execution,
            {**payload, "execution_id": self._execution, "pipeline": WORKFLOW},
        )

    def call(self, topic: str, sender: str, **payload: Any) -> None:
        """Say something as a model's or a tool's callback does, which knows only the session."""
        self.send(topic, sender, "c" * 16, {**payload, "session_id": self._execution})

    def send(self, topic: str, sender: str, correlation_id: str, payload: Mapping[str, Any]) -> None:
        """Send one message."""
        self.messages.append(
            {
                "topic": topic,
                "sender": sender,
                "payload": dict(payload),
                "timestamp": self._now.isoformat(),
                "correlation_id": correlation_id,
            }
        )
        self._now += timedelta(milliseconds=100)


def recorded_run(execution: str = RUN_ID, begun: datetime = BEGUN) -> list[dict[str, Any]]:
    """Return the messages of a run that succeeds, in the order in which they were sent."""
    recorder = Recorder(execution, begun)
    recorder.send("email.received", "gmail", "d" * 16, {"label_ids": ["INBOX"], "message_id": "m1"})
    recorder.send(
        "api.workflow_triggered", "api", "e" * 16, {"workflow_id": WORKFLOW, "trigger": "gmail_push"}
    )
    recorder.say("dag.started", dag="invoice_pipeline", total_nodes=10, total_layers=9)
    for node in NODES:
        recorder.say("dag.node_started", dag="invoice_pipeline", node=node)
        if node in AGENTS:
            _agent(recorder, node)
        recorder.say("dag.node_completed", dag="invoice_pipeline", node=node, duration_ms=95.5)
    recorder.say("transaction.created", amount=12.5)
    recorder.say("dag.completed", dag="invoice_pipeline", duration_ms=4321.5, steps_completed=list(NODES))
    return recorder.messages


def _agent(recorder: Recorder, node: str) -> None:
    agent = AGENTS[node]
    recorder.say("agent.started", agent=agent)
    recorder.call("pipeline.adk_started", "adk_runner", agent_name=agent)
    recorder.call("model.started", "adk_callback", agent=agent)
    if node in TOOLS:
        recorder.call("tool.started", "adk_callback", agent=agent, tool=TOOLS[node])
        recorder.call("tool.completed", "adk_callback", agent=agent, tool=TOOLS[node])
    recorder.call("model.completed", "adk_callback", agent=agent)
    recorder.call(
        "pipeline.adk_completed", "adk_runner", duration_ms=80, cost={**COST, "per_agent": {agent: 1}}
    )
    recorder.say("agent.completed", agent=agent, duration_ms=90)
