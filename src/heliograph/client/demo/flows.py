"""Demo runs of the example workflows, so that a new user sees runs begin, fail, be retried and end.

One workflow publishes the documented topics (``run.started``, ``step.completed``), two those of a platform's
runners (``dag.``, ``react.``). No real work is done: steps only take their time, and results, costs and
failures are invented. All of it is marked, like the rest of the fleet.

Runs that are under way on cancellation are noted in the spool folder, and the next demo ends them.
"""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import trio

from heliograph.client.api import Client

MARK: dict[str, Any] = {"demo": True}
PAUSE = (4.0, 12.0)
STEP = (0.4, 2.5)
OPEN_RUNS = "runs.json"
"""The file in the spool folder that lists the runs under way."""


@attrs.define
class RunPublisher:
    """Publishes the events of one run, and notes the run while it is under way.

    Args:
        client: The client to publish with.
        folder: The folder in which the run is noted.
        workflow_id: The workflow.
        run_id: The run.
    """

    client: Client
    folder: Path
    workflow_id: str
    run_id: str = attrs.field(factory=lambda: secrets.token_hex(8))

    async def say(self, topic: str, **payload: Any) -> None:
        """Publish an event of a documented topic."""
        await self._send(topic, {"workflow_id": self.workflow_id, "run_id": self.run_id, **payload})

    async def run(self, topic: str, **payload: Any) -> None:
        """Publish an event of a runner's topic."""
        await self._send(topic, {"pipeline": self.workflow_id, "execution_id": self.run_id, **payload})

    async def call(self, agent: str, dollars: float) -> None:
        """Publish the cost of a model's call, which names only its session."""
        read, written = random.randrange(500, 6000), random.randrange(50, 900)
        cost = {"prompt_tokens": read, "candidates_tokens": written, "estimated_cost_usd": round(dollars, 6)}
        await self._send(
            "pipeline.adk_completed", {"session_id": self.run_id, "agent_name": agent, "cost": cost}
        )

    async def _send(self, topic: str, payload: dict[str, Any]) -> None:
        item = {"topic": topic, "sender": f"demo: {self.workflow_id}", "correlation_id": self.run_id}
        await self.client.publish([{**item, "payload": {**payload, **MARK}}])

    def begin(self) -> None:
        """Note the run."""
        _write(self.folder, [*_read(self.folder), [self.workflow_id, self.run_id]])

    def end(self) -> None:
        """Forget the run, since its end was published."""
        _write(self.folder, [run for run in _read(self.folder) if run[1] != self.run_id])


async def run(client: Client, folder: Path) -> None:
    """Run the example workflows until cancelled.

    Args:
        client: The client to publish with.
        folder: The folder of the fleet's spools.
    """
    for workflow_id, run_id in _read(folder):
        left = RunPublisher(client, folder, workflow_id, run_id)
        await left.say("run.finished", status="cancelled", error="the demo was stopped")
        left.end()
    async with trio.open_nursery() as nursery:
        for workflow_id, play in PLAYS.items():
            nursery.start_soon(_play_for_ever, client, folder, workflow_id, play, name=f"demo: {workflow_id}")


async def _play_for_ever(client: Client, folder: Path, workflow_id: str, play: Any) -> None:
    while True:
        told = RunPublisher(client, folder, workflow_id)
        told.begin()
        await play(told)
        told.end()
        await trio.sleep(random.uniform(*PAUSE))


async def _invoice(told: RunPublisher) -> None:
    """Publish a run of a graph, as its runner does; now and then the ledger refuses an entry."""
    layers = (
        *(["fetch_invoice"], ["read_invoice"], ["build_query", "match_supplier"], ["look_up_supplier"]),
        *(["build_entry_prompt"], ["classify_entry"], ["compose_entry"], ["post_entry"], ["announce_entry"]),
    )
    agents = {"read_invoice": "reader", "look_up_supplier": "scout", "classify_entry": "bookkeeper"}
    begun = trio.current_time()
    dag = "invoice_pipeline"
    await told.run("dag.started", dag=dag, total_nodes=10, total_layers=9, trigger="gmail_push")
    refused = random.random() < 0.15
    for layer in layers:
        for node in layer:
            await told.run("dag.node_started", dag=dag, node=node)
        took = await _work(len(layer))
        for node in layer:
            if node in agents:
                await told.call(agents[node], random.uniform(0.001, 0.02))
            if node == "post_entry" and refused:
                error = "the ledger answered 409: the period is closed"
                await told.run("agent.failed", agent=node, error=error)
                await told.run("dag.failed", dag=dag, error=error)
                return
            await told.run("dag.node_completed", dag=dag, node=node, duration_ms=took)
    await told.run(
        "dag.completed", dag=dag, duration_ms=_since(begun), steps_completed=[n for la in layers for n in la]
    )


async def _nightly(told: RunPublisher) -> None:
    """Publish a run of a chain with a loop and a parallel; a failed step is retried."""
    await told.say("run.started", trigger={"type": "scheduled", "schedule": "30 2 * * *"})
    await _step(told, "sample_answers", output={"answers": 200})
    await told.say("step.started", step="improve_prompts")
    for attempt in range(1, random.randint(2, 4)):
        await told.say("step.started", step="rewrite_prompt", attempt=attempt)
        took = await _work()
        score = round(random.uniform(0.7, 0.95), 2)
        spent = {
            "cost_usd": round(random.uniform(0.005, 0.05), 6),
            "input_tokens": 4000,
            "output_tokens": 700,
        }
        await told.say(
            "step.completed", step="rewrite_prompt", duration_ms=took, output={"score": score}, **spent
        )
    await told.say("step.completed", step="improve_prompts", output={"score": score})
    await told.say("step.started", step="check_effects")
    for child in ("measure_latency", "measure_cost", "review_tone"):
        await _step(told, child)
    await told.say("step.completed", step="check_effects")
    if random.random() < 0.3:
        await told.say("step.started", step="write_report")
        await told.say(
            "step.failed", step="write_report", error="the report's template is not there", duration_ms=3
        )
        await _work()
    await _step(told, "write_report", output={"pages": 3})
    await told.say("run.finished", status="success", result={"score": score})


async def _helpdesk(told: RunPublisher) -> None:
    """Publish a run of an agent without a pipeline, as its runner does."""
    begun = trio.current_time()
    await told.run(
        "react.started", runner="assistant", trigger={"type": "webhook", "path": "/hooks/helpdesk"}
    )
    for iteration in range(1, random.randint(2, 4)):
        await told.run("react.iteration_started", runner="assistant", iteration=iteration)
        await _work()
        await told.call("assistant", random.uniform(0.0001, 0.002))
    if random.random() < 0.1:
        await told.run("react.failed", runner="assistant", error="no answer within the limit")
    else:
        result = {"answered": True}
        await told.run("react.completed", runner="assistant", duration_ms=_since(begun), result=result)


async def _step(told: RunPublisher, name: str, **more: Any) -> None:
    await told.say("step.started", step=name)
    took = await _work()
    await told.say("step.completed", step=name, duration_ms=took, **more)


async def _work(times: int = 1) -> float:
    """Sleep for a random time; return it in milliseconds."""
    seconds = random.uniform(*STEP) * times
    await trio.sleep(seconds)
    return round(seconds * 1000, 1)


def _since(begun: float) -> float:
    return round((trio.current_time() - begun) * 1000, 1)


PLAYS = {"invoice_to_ledger": _invoice, "nightly_quality": _nightly, "helpdesk_assistant": _helpdesk}


def _read(folder: Path) -> Sequence[tuple[str, str]]:
    with suppress(OSError, ValueError):
        return [
            (str(workflow), str(run_id)) for workflow, run_id in json.loads((folder / OPEN_RUNS).read_text())
        ]
    return []


def _write(folder: Path, runs: Sequence[Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / OPEN_RUNS).write_text(json.dumps(runs))
