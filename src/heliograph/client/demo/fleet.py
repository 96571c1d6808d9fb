"""The demo fleet: a few agents that run little real programs as tasks, so that a new user sees activity.

All of it is marked: agents are named ``demo: …``, tasks have ``{"demo": true}`` in their metadata, and models
and prices are invented. The programs are real (see ``programs``) and use the same code as ``heliograph
exec``. Their pace is calm: at most one child process for each agent, asleep nearly all of the time.

When the fleet is cancelled, the children are killed and reaped, and their tasks' ends wait in the spool
folder. The next demo sends them first, so that no task seems to run for ever.
"""

from __future__ import annotations

import random
import secrets
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from heliograph.client.api import Client
from heliograph.client.demo import flows
from heliograph.client.exec import CommandOutcome, Execution, Job
from heliograph.client.leftovers import send_leftovers
from heliograph.client.outbox import Outbox
from heliograph.client.spool import About, Spool

SPOOLED_FOR = "the service with the demo fleet"
"""The fleet's spools lie in the service's own data folder, so they are for that service, whatever its URL."""

PROGRAMS = Path(__file__).with_name("programs.py")
PATIENCE = 10.0
PAUSE = (2.0, 6.0)
WORKFLOW = "demo-release"
DOLLARS_PER_TOKEN = {"demo-large": 15e-6, "demo-small": 1e-6}


@attrs.frozen
class Work:
    """One kind of task of an agent.

    Args:
        program: A program of ``programs``, and its arguments.
        name: The task's name.
        stopped_after: Seconds after which the program is stopped; ``None``: it ends by itself.
    """

    program: tuple[str, ...]
    name: str
    stopped_after: float | None = None


@attrs.frozen
class DemoAgent:
    """One agent of the fleet; it runs its works in turn, for ever."""

    name: str
    model: str
    works: Sequence[Work]


COMPILE = Work(("compile", "email"), "compile the package email")
CHECK = Work(("check", "json"), "check the package json")
TEST = Work(("test",), "run the examples of textwrap")

FLEET = (
    DemoAgent(
        "demo: analyst",
        "demo-large",
        [
            Work(("index", "asyncio"), "index the package asyncio"),
            Work(("deploy",), "deploy to a place that is not there"),
            Work(("check", "http"), "check the package http"),
        ],
    ),
    DemoAgent(
        "demo: watcher",
        "demo-small",
        [
            Work(("watch", "600"), "watch this machine, until stopped", stopped_after=45.0),
            Work(("index", "unittest"), "index the package unittest"),
        ],
    ),
    DemoAgent(
        "demo: night shift", "demo-small", [Work(("watch", "240"), "watch this machine for four minutes")]
    ),
)
RELEASER = DemoAgent("demo: releaser", "demo-large", [COMPILE, CHECK, TEST])


async def run(
    url: str,
    api_key: str | None,
    *,
    spools: Path,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the fleet until cancelled.

    Args:
        url: The service.
        api_key: A key that may publish; ``None``: none.
        spools: Folder for the fleet's unsent output.
        task_status: Started when the fleet is at work.

    Raises:
        ClientFault: The service does not let the fleet publish.
    """
    async with Client(url, api_key) as client:
        await client.publish([_event("agent.started", agent) for agent in (*FLEET, RELEASER)])
        await send_leftovers(spools, SPOOLED_FOR, client, _ignore, PATIENCE)
        async with trio.open_nursery() as nursery:
            for agent in FLEET:
                nursery.start_soon(_work_for_ever, agent, client, spools, name=agent.name)
            nursery.start_soon(_release_for_ever, client, spools, name=RELEASER.name)
            nursery.start_soon(flows.run, client, spools, name="demo: workflows")
            task_status.started()


async def _work_for_ever(agent: DemoAgent, client: Client, spools: Path) -> None:
    while True:
        for work in agent.works:
            await _do(agent, work, client, spools)
            await trio.sleep(random.uniform(*PAUSE))


async def _release_for_ever(client: Client, spools: Path) -> None:
    """Run the releaser's works as one workflow, for ever."""
    while True:
        run_id = secrets.token_hex(4)
        await client.publish([_pipeline("pipeline.started", run_id, {"tasks": len(RELEASER.works)})])
        outcomes = [await _do(RELEASER, work, client, spools, run_id) for work in RELEASER.works]
        done = [outcome.status for outcome in outcomes]
        await client.publish([_pipeline("pipeline.completed", run_id, {"statuses": done})])
        await trio.sleep(random.uniform(*PAUSE))


async def _do(
    agent: DemoAgent, work: Work, client: Client, spools: Path, run_id: str | None = None
) -> CommandOutcome:
    """Run one work as a task."""
    job = Job(
        task_id=f"demo-{work.program[0]}-{secrets.token_hex(4)}",
        command=(sys.executable, "-P", "-u", str(PROGRAMS), *work.program),
        name=f"demo: {work.name}",
        agent=agent.name,
        model=agent.model,
        metadata=flows.MARK if run_id is None else {**flows.MARK, "workflow_id": WORKFLOW, "run_id": run_id},
        usage=_usage(agent.model),
        detached=True,
    )
    with Spool.create(spools, About(SPOOLED_FOR, job.task_id, work.name)) as spool:
        outbox = Outbox(spool, client, _ignore)
        execution = Execution(job, outbox)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.send)
            nursery.start_soon(_stop_later, execution, work.stopped_after)
            outcome = await execution.run()
            outbox.close()
            await outbox.sent(PATIENCE)
            nursery.cancel_scope.cancel()
        spool.remove()
    return outcome


async def _stop_later(execution: Execution, seconds: float | None) -> None:
    if seconds is not None:
        await trio.sleep(seconds)
        execution.stop(signal.SIGTERM, pass_on=True)


def _usage(model: str) -> dict[str, Any]:
    tokens = {"input_tokens": random.randrange(500, 20_000), "output_tokens": random.randrange(50, 2_000)}
    return {**tokens, "cost_usd": round(sum(tokens.values()) * DOLLARS_PER_TOKEN[model], 6)}


def _event(topic: str, agent: DemoAgent) -> dict[str, Any]:
    return {
        "topic": topic,
        "sender": agent.name,
        "payload": {"agent": agent.name, "model": agent.model, **flows.MARK},
    }


def _pipeline(topic: str, run_id: str, more: dict[str, Any]) -> dict[str, Any]:
    payload = {"workflow_id": WORKFLOW, "run_id": run_id, **more, **flows.MARK}
    return {"topic": topic, "sender": RELEASER.name, "correlation_id": run_id, "payload": payload}


def _ignore(sentence: str) -> None:
    """Ignore a message for the user, since the fleet has none."""
