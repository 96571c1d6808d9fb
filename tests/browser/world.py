"""A fleet with something in every view, as the tests and the pictures of the page show it."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from tests.browser.conftest import Service

EXAMPLES = Path(__file__).parents[2] / "examples/workflows"
WORKFLOW = "invoice_to_ledger"

VIEWS = {
    "fleet": ("#/", "document.querySelectorAll('a.row').length > 5"),
    "task": ("#/tasks/t-open", "document.querySelectorAll('.view .line').length > 5"),
    "question": ("#/tasks/r-6", "document.querySelector('#answer:not([hidden]) button')"),
    "analytics": ("#/analytics?period=7d", "document.querySelectorAll('.plot rect').length > 5"),
    "agents": ("#/agents", "document.querySelector('tbody')"),
    "sessions": ("#/sessions", "document.querySelector('tbody')"),
    "workflows": ("#/workflows", "document.querySelector('tbody')"),
    "workflow": (
        f"#/workflows/{WORKFLOW}",
        "document.querySelector('.graph') && document.querySelector('tbody')",
    ),
    "run": (
        f"#/workflows/{WORKFLOW}/runs/run-2?step=match_supplier",
        "document.querySelector('.step-detail .tree')",
    ),
    "conversations": ("#/conversations/conv-1", "document.querySelectorAll('.message').length === 3"),
    "webhooks": ("#/webhooks", "document.querySelectorAll('tbody tr').length > 5"),
    "status": ("#/status", "document.querySelector('tbody')"),
}
"""By name: the address of a view, and what is true when it is there."""

NAMES = (
    ("Mend the flaky login test", "coder", "opus"),
    ("Review the new billing code", "reviewer", "sonnet"),
    ("Translate the release notes", "writer", "haiku"),
    ("Find the memory leak in the importer", "coder", "opus"),
    ("Summarise the support inbox", "helper", "haiku"),
    ("Plan the migration to the new queue", "planner", "opus"),
    ("Answer the question on invoices", "helper", "sonnet"),
    ("Check the licences of all packages", "reviewer", "haiku"),
)

MESSAGES = (
    {"role": "user", "content": "Why does the login test fail after midnight?"},
    {
        "role": "assistant",
        "task_id": "t-open",
        "content": "The token is compared with `utcnow()`, which is an hour off there.\n\n"
        "```python\nnow = datetime.now(UTC)\n```\n\nI have opened a **pull request**.",
    },
)

LINES = (
    "\x1b[1mReading\x1b[0m src/auth/session.py",
    "\x1b[32m✓\x1b[0m test_login_with_a_wrong_password",
    "\x1b[31m✗\x1b[0m test_login_after_midnight  \x1b[2m(expected 200, got 401)\x1b[0m",
    "The token is compared with a clock that is an hour off: see https://docs.example.org/time?page=2",
    "\x1b[33mwarning\x1b[0m: session.refresh is deprecated",
    "running 214 tests \x1b[36m[##########          ]\x1b[0m 107/214\rrunning 214 tests "
    "\x1b[36m[####################]\x1b[0m 214/214",
)


def _task(task_id: str, **payload: Any) -> dict[str, Any]:
    return {"topic": "task.created", "payload": {"task_id": task_id, **payload}}


def _status(name: str, status: str, at: datetime, **result: Any) -> dict[str, Any]:
    item = {"type": "task_status", "task_id": name, "status": status, "timestamp": at.isoformat()}
    return {**item, "result": result} if result else item


def _of_run(run: str, topic: str, **payload: Any) -> dict[str, Any]:
    said = {"workflow_id": WORKFLOW, "run_id": run, **payload}
    return {"topic": topic, "channel": f"workflow:{WORKFLOW}", "payload": said}


async def a_world(served: Service) -> None:
    """Start a service and publish a week of a small fleet."""
    served.workflows = EXAMPLES
    await served.start()
    rng = random.Random(7)
    now = datetime.now(UTC)
    items: list[dict[str, Any]] = []
    for n in range(160):
        name, agent, model = NAMES[rng.randrange(len(NAMES))]
        begun = now - timedelta(hours=rng.uniform(0.1, 160))
        ended = begun + timedelta(seconds=rng.lognormvariate(4, 1))
        created = _task(f"t-{n}", name=name, agent=agent, model=model, session_id=f"s-{n % 9}")
        outcome = rng.choices(["completed", "failed", "cancelled"], [9, 2, 1])[0]
        result: dict[str, Any] = {
            "cost_usd": round(rng.lognormvariate(-2, 1), 4),
            "input_tokens": rng.randrange(1000, 40_000),
            "output_tokens": rng.randrange(100, 4_000),
        }
        if outcome == "failed":
            errors = (
                "TimeoutError: the model did not answer",
                "ToolError: grep: no such file",
                "BudgetExceeded: 2.00 $",
            )
            result["error"] = rng.choice(errors)
        items += [
            {**created, "timestamp": begun.isoformat()},
            _status(f"t-{n}", "running", begun),
            _status(f"t-{n}", outcome, ended, **result),
        ]
    for n, (name, agent, model) in enumerate(NAMES):
        begun = now - timedelta(seconds=20 + 40 * n)
        created = _task(f"r-{n}", name=name, agent=agent, model=model, session_id=f"s-{n % 3}")
        items += [{**created, "timestamp": begun.isoformat()}, _status(f"r-{n}", "running", begun)]
        items += [{"type": "task_output", "task_id": f"r-{n}", "output": line} for line in LINES[: n + 1]]
    question = {"question": "Is the invoice of May to be sent again?", "choices": ["Send it", "Leave it"]}
    items += [
        {"topic": "task.question", "payload": {"task_id": "r-6", "question_id": "q", **question}},
        _status("r-6", "waiting_input", now),
    ]
    asked = {"prompt": "Mend the flaky test", "files": ["src/auth/session.py", "tests/test_login.py"]}
    items += [
        _task(
            "t-open",
            name="Mend the flaky login test",
            agent="coder",
            model="opus",
            session_id="s-1",
            input=asked,
        ),
        _status("t-open", "running", now),
        *({"type": "task_output", "task_id": "t-open", "output": line} for line in LINES),
        {
            "topic": "task.tool_call",
            "payload": {"task_id": "t-open", "name": "grep", "input": {"pattern": "utcnow"}},
        },
        {
            "type": "task_output",
            "task_id": "t-open",
            "output": "src/auth/session.py:88: utcnow()",
            "stream": "stderr",
        },
        *({"type": "task_output", "task_id": "t-open", "output": line} for line in LINES[1:]),
    ]
    layers = (("fetch_invoice",), ("read_invoice",), ("build_query", "match_supplier"), ("look_up_supplier",))
    for run, fails in (("run-1", False), ("run-2", True)):
        items.append(_of_run(run, "run.started", trigger="manual"))
        moment = now - timedelta(seconds=40)
        for layer in layers:
            ends = moment + timedelta(seconds=rng.uniform(1, 6))
            for step in layer:
                items.append({**_of_run(run, "step.started", step=step), "timestamp": moment.isoformat()})
                failed = fails and step == "look_up_supplier"
                more = (
                    {"error": "TimeoutError: the register did not answer"}
                    if failed
                    else {"output": {"found": 3}}
                )
                topic = "step.failed" if failed else "step.completed"
                items.append({**_of_run(run, topic, step=step, **more), "timestamp": ends.isoformat()})
            moment = ends
        if fails:
            items.append(_of_run(run, "run.finished", status="failed", error="look_up_supplier failed"))
    for first in range(0, len(items), 200):
        await served.publish(*items[first : first + 200])
    await _talk(served)


async def _talk(served: Service) -> None:
    """Say something in a conversation, and have something delivered to a webhook."""
    async with httpx.AsyncClient(base_url=served.url) as client:
        conversation = {"conversation_id": "conv-1", "title": "The flaky login"}
        answer = {"conversation_id": "conv-1", "message_id": "m-3", "content": "I could also look at"}
        await served.publish({"topic": "conversation.created", "payload": conversation})
        for message in MESSAGES:
            await client.post("/api/v1/conversations/conv-1/messages", json=message)
        await served.publish({"topic": "conversation.delta", "payload": answer})
        for name in ("Deploys", "Alerts"):
            made = await client.post("/api/v1/webhooks", json={"name": name, "provider": "custom"})
            for number in range(3):
                await client.post(f"/webhooks/{made.json()['webhook_id']}", json={"text": f"{name} {number}"})
