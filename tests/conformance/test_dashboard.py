"""The dashboard's page, its engine and its gateway, as they are: every request and message of theirs, by row.

The clients here are as careless as the real ones. They read each field as the type that they compute with,
so a field that is missing, or null where a number is rounded, ends them (``Crash``). A row is named by its
request, or by the message that it is.

A long module, since its tables are the contract with systems that nobody here can change.
"""

from __future__ import annotations

import hashlib
import hmac
import inspect
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import httpx
import orjson
import pytest
import trio
from redis import Redis
from tests import factories
from tests.conformance.clients import Watch, open_ws
from tests.conformance.conftest import Launch, embedded
from tests.conformance.serving import serve, settings_for
from tests.factories import webhook_factory
from tests.factories.task_factory import VALID_TRANSITIONS
from tests.polling import until
from tests.servers import redis_server
from tests.storages import DistributedForm

from heliograph.config import load
from heliograph.model.errors import HeliographError, WebhookValidationError
from heliograph.storage.settings import RedisSettings

# Reading as the clients do


class Crash(AssertionError):
    """Where the client would have ended, and over what."""


def text(value: Any) -> None:
    """Read what is split, lowered or shown."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")


def number(value: Any) -> None:
    """Read what is added or rounded."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")


def whole(value: Any) -> None:
    """Read what is counted."""
    number(value)
    if value != int(value):
        raise TypeError(f"{value!r} is no whole number")


def flag(value: Any) -> None:
    """Read what is asked."""
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")


def moment(value: Any) -> None:
    """Read a time with its zone."""
    text(value)
    if datetime.fromisoformat(value).tzinfo is None:
        raise TypeError(f"{value!r} says no zone")


def bucket(value: Any) -> None:
    """Read the name of a day or an hour, which the page completes to a time itself."""
    text(value)
    datetime.strptime(value, "%Y-%m-%d" if len(value) == 10 else "%Y-%m-%d %H:00:00")


def anything(value: Any) -> None:
    """Take whatever is there."""


def word(*words: str) -> Callable[[Any], None]:
    """Make a reader of a text that is one of some."""

    def read(value: Any) -> None:
        if value not in words:
            raise TypeError(f"{value!r} is none of {', '.join(words)}")

    return read


@attrs.frozen
class Maybe:
    """What is read only where it is not null."""

    read: Any


def read(value: Any, wanted: Any, where: str) -> None:
    """Read a value as a client does.

    Args:
        value: Of an answer.
        wanted: A reader; of an object a reader for each field that is read, of an array one for its entries.
        where: Told where that fails.

    Raises:
        Crash: The client would have ended here.
    """
    match wanted:
        case Maybe(read=inner):
            if value is not None:
                read(value, inner, where)
        case dict():
            if not isinstance(value, dict):
                raise Crash(f"{where}: {value!r} is no object")
            for name, inner in wanted.items():
                if name not in value:
                    raise Crash(f"{where}.{name} is missing; there is {', '.join(value)}")
                read(value[name], inner, f"{where}.{name}")
        case [inner]:
            if not isinstance(value, list):
                raise Crash(f"{where}: {value!r} is no array")
            for place, one in enumerate(value):
                read(one, inner, f"{where}[{place}]")
        case _:
            try:
                wanted(value)
            except (TypeError, ValueError) as error:
                raise Crash(f"{where}: {error}") from None


STATUSES = ("queued", "running", "waiting_input", "completed", "failed", "cancelled")
STATUS = word(*STATUSES)

TASK_ROW = {
    "task_id": text,
    "session_id": Maybe(text),
    "status": STATUS,
    "assigned_agent": Maybe(text),
    "agent_type": Maybe(text),
    "created_at": moment,
    "cost_usd": number,
    "input_message": text,
}
TABLE_ROW = {**TASK_ROW, "completed_at": Maybe(moment), "duration_seconds": Maybe(number)}
TASK = {
    **TABLE_ROW,
    "user_id": Maybe(text),
    "started_at": Maybe(moment),
    "output_stream": text,
    "result": Maybe(text),
    "error": Maybe(text),
    "input_tokens": whole,
    "output_tokens": whole,
    "source": Maybe(text),
}
TASK_LOG = {"task_id": text, "status": STATUS, "output": text, "error": Maybe(text), "is_live": flag}
METADATA = {"status": STATUS, "assigned_agent": Maybe(text), "cost_usd": number, "created_at": moment}
INPUT = {"message": text, "enriched_prompt": text}
AGENT_OUTPUT = {
    "timestamp": moment,
    "type": word("output", "thinking", "tool_call", "tool_result", "raw_output"),
    "content": text,
    "tool_name": Maybe(text),
    "tool_input": Maybe(text),
    "is_error": flag,
}
USER_INPUT = {
    "timestamp": moment,
    "type": word("user_response"),
    "question_type": Maybe(text),
    "content": text,
}
WEBHOOK_STAGE = {"timestamp": moment, "stage": text, "data": {}}
KNOWLEDGE = {
    "timestamp": moment,
    "type": word("query", "result"),
    "tool_name": text,
    "input": Maybe(text),
    "content": Maybe(text),
    "is_error": flag,
}
FINAL_RESULT = {
    "success": flag,
    "result": Maybe(text),
    "error": Maybe(text),
    "metrics": {
        "cost_usd": number,
        "duration_seconds": number,
        "input_tokens": whole,
        "output_tokens": whole,
    },
    "completed_at": moment,
}
CONVERSATION = {
    "conversation_id": text,
    "user_id": text,
    "title": text,
    "flow_id": Maybe(text),
    "created_at": moment,
    "updated_at": moment,
    "is_archived": flag,
    "metadata": {},
    "message_count": whole,
    "total_cost_usd": number,
    "total_tasks": whole,
    "total_duration_seconds": number,
    "started_at": Maybe(moment),
    "completed_at": Maybe(moment),
}
MESSAGE = {
    "message_id": text,
    "conversation_id": text,
    "role": word("user", "assistant", "system"),
    "content": text,
    "task_id": Maybe(text),
    "created_at": moment,
    "metadata": {},
}
OUTCOME = {"success": flag, "message": text, "data": anything, "error": Maybe(text)}
WEBHOOK = {"name": text, "provider": text, "endpoint": text, "is_builtin": flag, "enabled": flag}
WEBHOOK_CARD = {
    **WEBHOOK,
    "webhook_id": text,
    "public_url": Maybe(text),
    "event_count": whole,
    "last_event_at": Maybe(moment),
    "created_at": Maybe(moment),
    "has_secret": flag,
}
WEBHOOK_EVENT = {
    "event_id": text,
    "webhook_id": text,
    "provider": text,
    "event_type": text,
    "matched_command": Maybe(text),
    "task_id": Maybe(text),
    "response_sent": flag,
    "created_at": moment,
}
REGISTERED = {"name": text, "description": text, "is_builtin": flag}
HISTOGRAM = {
    "dates": [bucket],
    "costs": [number],
    "task_counts": [whole],
    "tokens": [whole],
    "avg_latency": [number],
    "error_counts": [whole],
}
LOAD = {"queue_length": whole, "sessions": whole, "connections": whole}

READING: Mapping[str, Any] = {
    "/api/health": {"status": text, "service": text, **LOAD},
    "/api/status": {"machine_id": text, "status": word("online"), **LOAD},
    "/api/tasks": [TASK_ROW],
    "/api/tasks?session_id=default-session&status=completed&limit=5": [TASK_ROW],
    "/api/tasks?limit=5": [TASK_ROW],
    "/api/tasks?session_id=&status=": [TASK_ROW],
    "/api/tasks/table?page=1&session_id=&status=&subagent=": {
        "tasks": [TABLE_ROW],
        **dict.fromkeys(("total", "page", "page_size", "total_pages"), whole),
    },
    "/api/tasks/table?page=1&page_size=100&subagent=brain&sort_by=created_at&sort_order=asc": {
        "tasks": [TABLE_ROW],
        "total_pages": whole,
    },
    "/api/tasks/{task}": TASK,
    "/api/tasks/{task}/logs": TASK_LOG,
    "/api/tasks/{task}/logs/full": {
        "metadata": METADATA,
        "input": INPUT,
        "user_inputs": [USER_INPUT],
        "webhook_flow": [WEBHOOK_STAGE],
        "agent_output": [AGENT_OUTPUT],
        "knowledge_interactions": [KNOWLEDGE],
        "final_result": FINAL_RESULT,
    },
    "/api/tasks/{task}/logs/metadata": METADATA,
    "/api/tasks/{task}/logs/input": INPUT,
    "/api/tasks/{task}/logs/user-inputs": [USER_INPUT],
    "/api/tasks/{task}/logs/webhook-flow": [WEBHOOK_STAGE],
    "/api/tasks/{task}/logs/agent-output": [AGENT_OUTPUT],
    "/api/tasks/{task}/logs/knowledge-interactions": [KNOWLEDGE],
    "/api/tasks/{task}/logs/final-result": FINAL_RESULT,
    "/api/tasks/{task}/knowledge-summary": {},
    "/api/agents": [{"name": text, "agent_type": Maybe(text), "description": text, "is_builtin": flag}],
    "/api/analytics/summary": {
        "today_cost": number,
        "today_tasks": whole,
        "total_cost": number,
        "total_tasks": whole,
    },
    "/api/analytics/costs/histogram": HISTOGRAM,
    "/api/analytics/costs/histogram?days=1&granularity=hour": HISTOGRAM,
    "/api/analytics/costs/histogram?days=7&granularity=day": HISTOGRAM,
    "/api/analytics/costs/histogram?days=30&granularity=day": HISTOGRAM,
    "/api/analytics/costs/histogram?days=365": HISTOGRAM,
    "/api/analytics/costs/by-subagent?days=30": {
        "subagents": [text],
        "costs": [number],
        "task_counts": [whole],
    },
    "/api/analytics/conversations?start_date=2026-01-01&end_date=2099-01-01": {
        "total_conversations": whole,
        "conversations": [CONVERSATION],
    },
    "/api/analytics/performance": {},
    "/api/conversations": [CONVERSATION],
    "/api/conversations?user_id=default-user&include_archived=true&limit=200&offset=0": [CONVERSATION],
    "/api/conversations/{conversation}": {**CONVERSATION, "messages": [MESSAGE]},
    "/api/conversations/{conversation}/messages": [MESSAGE],
    "/api/conversations/{conversation}/messages?limit=500&offset=0": [MESSAGE],
    "/api/conversations/{conversation}/metrics": {"total_cost_usd": number, "total_tasks": whole},
    "/api/conversations/{conversation}/context?max_messages=20&roles=user,assistant": [
        {"role": text, "content": text, "created_at": moment}
    ],
    "/api/conversations/by-flow/{flow}": CONVERSATION,
    "/api/webhooks-status": {
        "success": flag,
        "data": {
            "webhooks": [WEBHOOK_CARD],
            "total_count": whole,
            "active_count": whole,
            "public_domain": Maybe(text),
        },
    },
    "/api/webhooks/events/recent?limit=20": {"success": flag, "data": [WEBHOOK_EVENT]},
    "/api/webhooks": [WEBHOOK],
    "/api/webhooks/events": [WEBHOOK_EVENT],
    "/api/webhooks/events?webhook_id=static-github&limit=5": [WEBHOOK_EVENT],
    "/api/webhooks/events/{event}": WEBHOOK_EVENT,
    "/api/webhooks/stats": {"total_webhooks": whole, "active_webhooks": whole, "events_by_webhook": {}},
    "/api/registry/skills": [REGISTERED],
    "/api/registry/agents": [REGISTERED],
}
"""What is asked, and what is read of the answer."""

MAY_BE_EMPTY = {"/api/registry/skills"}
FLOW = "github:acme/app#12"


@attrs.define
class Client:
    """A client that ends where the real one would.

    Args:
        http: To the service.
        names: What stands in braces in paths.
    """

    http: httpx.AsyncClient
    names: dict[str, str] = attrs.field(factory=dict)

    async def get(self, row: str) -> Any:
        """Make a request of ``READING`` and read its answer; no list may be empty without notice."""
        answer = await self.http.get(row.format(**self.names))
        if answer.status_code != 200:
            raise Crash(f"{row}: {answer.status_code} {answer.text}")
        found = answer.json()
        read(found, READING[row], row)
        return found

    async def send(self, method: str, path: str, body: Any = None, wanted: Any = anything) -> Any:
        """Make a request that changes something, and read its answer."""
        sent = {} if body is None else {"json": body}
        answer = await self.http.request(method, path.format(**self.names), **sent)
        if not answer.is_success:
            raise Crash(f"{method} {path}: {answer.status_code} {answer.text}")
        read(answer.json(), wanted, f"{method} {path}")
        return answer.json()


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Client]:
    """Make a client; it sends what a browser's ``fetch`` does, and no key."""
    async with httpx.AsyncClient(base_url=url, timeout=30, headers={"Accept": "*/*"}) as http:
        yield Client(http)


# The world, told by those who really tell it


def sign(body: bytes, secret: str) -> str:
    """Return the hex of a signature."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


COMMANDS = """
default_command: analyze
commands:
  - name: analyze
    aliases: [look]
    description: Look
    target_agent: planning
    prompt_template: "{template}"
  - name: fix_it
    description: Fix
    target_agent: planning
    template_file: fix.md
    requires_approval: true
"""
SOURCES = {
    "github": ("X-Hub-Signature-256", "{{ text }}"),
    "jira": ("X-Hub-Signature", "{{ text }}"),
    "slack": ("X-Slack-Signature", "{{ text }}"),
}


def write_webhooks(folder: Path) -> Path:
    """Write the gateway's configuration, as its files are."""
    for source, (header, template) in SOURCES.items():
        place = folder / source
        place.mkdir(parents=True)
        (place / "fix.md").write_text("Fix {{ text }}")
        (place / "config.yaml").write_text(
            f"name: {source}\ndescription: Of {source}\nendpoint: /webhooks/{source}\nsource: {source}\n"
            'agent_trigger: {prefix: "@agent", aliases: ["/agent"], assignee_trigger: AI Agent}\n'
            "target_agent: brain\n"
            f"security: {{requires_signature: true, signature_header: {header}, "
            f"secret_env_var: {source.upper()}_WEBHOOK_SECRET}}\n" + COMMANDS.format(template=template)
        )
    return folder


ISSUE = {
    "action": "created",
    "issue": {"number": 12, "title": "It breaks", "body": "Steps"},
    "comment": {"id": 5, "body": "@agent fix_it the login"},
    "repository": {"full_name": "acme/app"},
    "sender": {"login": "ada", "type": "User"},
}
TICKET = {
    "webhookEvent": "comment_created",
    "issue": {"key": "AI-1", "fields": {"summary": "It breaks", "description": "Steps"}},
    "comment": {"id": "7", "body": "@agent look at the login", "author": {"displayName": "Ada"}},
}
MENTION = {
    "type": "event_callback",
    "event_id": "Ev1",
    "event": {
        "type": "app_mention",
        "text": "@agent look at the login",
        "channel": "C",
        "ts": "1.2",
        "user": "U",
    },
}


def deliveries() -> dict[str, tuple[bytes, dict[str, str]]]:
    """Return a signed delivery of each source, as its provider sends it."""
    issue, ticket, mention = (json.dumps(one).encode() for one in (ISSUE, TICKET, MENTION))
    now = str(int(time.time()))
    return {
        "github": (
            issue,
            {"X-GitHub-Event": "issue_comment", "X-Hub-Signature-256": f"sha256={sign(issue, 'of github')}"},
        ),
        "jira": (ticket, {"X-Hub-Signature": sign(ticket, "of jira")}),
        "slack": (
            mention,
            {
                "X-Slack-Request-Timestamp": now,
                "X-Slack-Signature": f"v0={sign(b'v0:' + now.encode() + b':' + mention, 'of slack')}",
            },
        ),
    }


@pytest.fixture
def hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the gateway's configuration and set its secrets."""
    for source in SOURCES:
        monkeypatch.setenv(f"{source.upper()}_WEBHOOK_SECRET", f"of {source}")
    return write_webhooks(tmp_path / "hooks")


SAID_BY_ENGINE: list[tuple[str, dict[str, Any]]] = [
    (
        "task:created",
        {"session_id": "s", "input_message": "Fix it", "source": "webhook", "assigned_agent": "brain"},
    ),
    ("task:started", {"session_id": "s", "conversation_id": "c", "assigned_agent": "brain"}),
    (
        "task:context_built",
        {
            "enriched_prompt": "Fix it, please",
            "flow_id": FLOW,
            "conversation_id": "c",
            "source_metadata": {"pr": 5},
        },
    ),
    ("task:thinking", {"type": "thinking", "content": "hm"}),
    ("task:tool_call", {"type": "tool_use", "name": "grep", "input": {"q": 1}, "_tool_use_id": "u"}),
    (
        "task:tool_result",
        {"type": "tool_result", "name": "grep", "content": "found" * 1000, "is_error": False},
    ),
    ("task:raw_output", {"raw_output": "x" * 200_000}),
    ("task:user_response", {"question_type": "approval", "content": "yes"}),
    ("knowledge:query", {"tool_name": "search", "query": "q", "org_id": "o", "source_types": ["code"]}),
    (
        "knowledge:result",
        {
            "tool_name": "search",
            "query": "q",
            "results_count": 1,
            "results_preview": "p",
            "query_time_ms": 3.5,
            "cached": False,
        },
    ),
    ("task:output", {"content": "The whole answer"}),
    (
        "task:completed",
        {
            "status": "completed",
            "result": "The whole answer",
            "duration_seconds": 2.5,
            "cost_usd": 0.25,
            "input_tokens": 7,
            "output_tokens": 3,
            "session_id": "s",
            "conversation_id": "c",
        },
    ),
    (
        "task:response_posted",
        {"method": "mcp", "source": "github", "mcp_detected": True, "fallback_posted": False},
    ),
]
"""All that an engine writes into the stream about one task, in its order."""

SAID_BY_GATEWAY: list[tuple[str, dict[str, Any]]] = [
    ("webhook:received", {"source": "github", "event_type": "issues", "payload_size": 5}),
    ("webhook:validated", {"source": "github", "signature_valid": True}),
    ("webhook:payload", {"source": "github", "event_type": "issues", "payload": {"action": "opened"}}),
    ("webhook:matched", {"source": "github", "event_type": "issues", "matched_handler": "fix"}),
    (
        "webhook:task_created",
        {"task_id": "{id}", "source": "github", "event_type": "issues", "input_message": "Fix it"},
    ),
    (
        "response:immediate",
        {"task_id": "{id}", "source": "github", "response_type": "comment", "target": "pr"},
    ),
    (
        "notification:ops",
        {"task_id": "{id}", "source": "github", "notification_type": "task_started", "channel": "#ops"},
    ),
]
"""What a gateway writes there about the delivery that the task came from; a skipped one names no task."""

STAGES = [
    "received",
    "validated",
    "payload",
    "matched",
    "task_created",
    "response_immediate",
    "notification_ops",
]


async def a_chat(asking: Client) -> None:
    """Have the page ask something, and the engine answer it over HTTP, in its order."""
    told = await asking.send(
        "POST",
        "/api/chat?session_id=default-session",
        {"message": "What is new? " * 10},
        {**OUTCOME, "data": {"task_id": text, "conversation_id": text}},
    )
    asking.names |= {"task": told["data"]["task_id"], "conversation": told["data"]["conversation_id"]}
    reported = {"task_id": text, "status": STATUS}
    await asking.send("PATCH", "/api/tasks/{task}", {"status": "running"}, reported)
    await asking.send(
        "PATCH",
        "/api/tasks/{task}",
        {
            "status": "completed",
            "output": "Nothing.",
            "cost_usd": 0.05,
            "input_tokens": 10,
            "output_tokens": 5,
            "duration_seconds": 1.5,
        },
        reported,
    )
    await asking.send(
        "POST",
        "/api/conversations/{conversation}/messages",
        {"role": "assistant", "content": "Nothing.", "task_id": asking.names["task"]},
        MESSAGE,
    )


async def a_flow(engine: Client) -> None:
    """Have the engine take a webhook's task on over HTTP, in its order."""
    engine.names |= {"flow": quote(FLOW, safe="")}
    answer = await engine.http.get(f"/api/conversations/by-flow/{engine.names['flow']}")
    assert answer.status_code == 404
    made = await engine.send(
        "POST",
        "/api/conversations",
        {
            "title": "acme/app#12",
            "user_id": "github",
            "flow_id": FLOW,
            "source": "github",
            "metadata": {"pr": 5},
        },
        CONVERSATION,
    )
    assert made["metadata"] == {"pr": 5, "source": "github"}
    task = {
        "task_id": "0b5ad8ff-4be2-4de3-b9f9-6b0f51c1a6e5",
        "source": "github",
        "source_metadata": {"repo": "acme/app"},
        "input_message": "Fix it",
        "assigned_agent": "brain",
        "conversation_id": made["conversation_id"],
        "flow_id": FLOW,
    }
    kept = await engine.send("POST", "/api/tasks", task, {"task_id": text, "conversation_id": text})
    assert kept == {"task_id": task["task_id"], "conversation_id": made["conversation_id"]}
    path = f"/api/conversations/{made['conversation_id']}"
    await engine.send("POST", f"{path}/messages", {"role": "system", "content": "Opened"}, MESSAGE)
    await engine.send("GET", f"{path}/context?max_messages=20")
    found = await engine.get("/api/conversations/by-flow/{flow}")
    assert (found["conversation_id"], found["total_tasks"]) == (made["conversation_id"], 1)


async def a_delivery(gateway: Client) -> None:
    """Have each provider deliver something, at the path that its file names."""
    for source, (body, headers) in deliveries().items():
        answer = await gateway.http.post(f"/webhooks/{source}", content=body, headers=headers)
        assert answer.status_code == 200, f"{source}: {answer.text}"
        assert answer.json()["task_id"], f"{source}: {answer.text}"
        gateway.names["event"] = answer.json()["event_id"]


async def a_log(engine: Client, task: str) -> None:
    """Publish over HTTP what an engine writes into a stream."""
    said = [*SAID_BY_GATEWAY, *SAID_BY_ENGINE]
    items = [
        {
            "topic": kind.replace(":", "."),
            "channel": f"task:{task}",
            "payload": {**data, "task_id": task} if kind.startswith("task:") else data,
        }
        for kind, data in said
        if kind
        not in {"task:created", "task:started", "task:completed", "task:output", "webhook:task_created"}
    ]
    await engine.send("POST", "/api/v1/events", items)


async def test_every_request_is_answered_as_it_is_read(launch: Launch, hooks: Path) -> None:
    """Each request finds what the page, the engine and the gateway have told, in the form that is read."""
    served = await launch(webhooks=hooks)
    async with client(served.url) as one:
        await a_chat(one)
        await a_flow(one)
        await a_delivery(one)
        await a_log(one, one.names["task"])
        failures = []
        for row in READING:
            try:
                found = await one.get(row)
            except Crash as crash:
                failures.append(str(crash))
                continue
            if found == [] and row not in MAY_BE_EMPTY:
                failures.append(f"{row}: is empty")
        assert failures == []
        answer = await one.http.get("/api/tasks/none")
        assert (answer.status_code, "detail" in answer.json()) == (404, True)
        listed = await one.get("/api/tasks")
        assert [row["created_at"] for row in listed] == sorted(
            (row["created_at"] for row in listed), reverse=True
        )
        assert max(len(row["input_message"]) for row in listed) <= 200
        said = await one.get("/api/conversations/{conversation}/messages")
        assert [row["role"] for row in said] == ["user", "assistant"]
        assert await one.get("/api/conversations/{conversation}") == {
            **(await one.get("/api/conversations"))[-1],
            "messages": said,
        }


async def test_every_change_is_answered_as_it_is_read(launch: Launch) -> None:
    """Conversations, tasks and webhooks are changed as the clients do it, and answered as they read it."""
    served = await launch()
    async with client(served.url) as one:
        made = await one.send("POST", "/api/conversations", {"title": "News"}, CONVERSATION)
        assert (made["user_id"], made["metadata"]) == ("default-user", {})
        one.names["conversation"] = made["conversation_id"]
        path = "/api/conversations/{conversation}"
        change = {"title": "Old news", "is_archived": True, "metadata": {"a": 1}}
        changed = await one.send("PUT", path, change, CONVERSATION)
        assert {name: changed[name] for name in change} == change
        said = {"role": "user", "content": "Hi", "metadata": {"from": "test"}}
        await one.send("POST", f"{path}/messages", said, MESSAGE)
        assert await one.get("/api/tasks") == []  # a message starts nothing
        await one.send("POST", f"{path}/clear", None, OUTCOME)
        assert await one.get("/api/conversations/{conversation}/messages") == []
        await one.send("DELETE", path, None, OUTCOME)
        asked = await one.send("POST", "/api/chat?session_id=default-session", {"message": "Hi"})
        one.names["task"] = asked["data"]["task_id"]
        stopped = await one.send("POST", "/api/tasks/{task}/stop", None, OUTCOME)
        assert (stopped["success"], stopped["data"], stopped["error"]) == (True, None, None)
        hook = {"name": "Deploys", "provider": "custom", "enabled": True, "secret": "s", "commands": []}
        done = await one.send(
            "POST", "/api/webhooks", hook, {"success": flag, "data": {**WEBHOOK, "webhook_id": text}}
        )
        one.names["webhook"] = done["data"]["webhook_id"]
        assert done["data"]["webhook_id"].startswith("wh-")
        for method, more, body in (
            ("PUT", "", {"name": "Deployments"}),
            ("POST", "/disable", None),
            ("POST", "/enable", None),
            ("DELETE", "", None),
        ):
            await one.send(method, f"/api/webhooks/{{webhook}}{more}", body, {"success": flag})


# The page


@attrs.define
class Page:
    """The page, which asks in its own order and ends where a field is not there.

    Args:
        asking: Its requests.
        socket: Its WebSocket, on which it never says anything.
    """

    asking: Client
    socket: Watch
    shown: dict[str, Any] = attrs.field(factory=dict)

    async def frame(self) -> None:
        """Draw what is around every view."""
        self.shown["cards"] = await self.asking.get("/api/health")
        self.shown["sums"] = await self.asking.get("/api/analytics/summary")
        self.shown["log"] = []
        for task in await self.asking.get("/api/tasks?limit=5"):
            self.asking.names["task"] = task["task_id"]
            log = await self.asking.get("/api/tasks/{task}/logs")
            self.shown["log"].append(f"{log['task_id'].split('-')[0]}:{log['status'].lower()}")

    async def ledger(self) -> None:
        """Draw the table with its filter."""
        self.shown["agents"] = [one["name"] for one in await self.asking.get("/api/agents")]
        self.shown["table"] = await self.asking.get("/api/tasks/table?page=1&session_id=&status=&subagent=")

    async def charts(self) -> None:
        """Draw the histograms and the leaderboard."""
        for days, granularity in ((1, "hour"), (7, "day"), (30, "day")):
            row = f"/api/analytics/costs/histogram?days={days}&granularity={granularity}"
            found = await self.asking.get(row)
            if len({len(one) for one in found.values()}) != 1:
                raise Crash(f"{row}: the lists are not parallel")
            for date in found["dates"]:
                datetime.fromisoformat(f"{date.replace(' ', 'T')}{'T00:00:00' * (len(date) == 10)}Z")
            self.shown[row] = found
        await self.asking.get("/api/analytics/costs/by-subagent?days=30")

    async def chat(self) -> None:
        """Draw the conversations, and the messages of the open one."""
        self.shown["conversations"] = await self.asking.get("/api/conversations")
        for one in self.shown["conversations"][:1]:
            self.asking.names["conversation"] = one["conversation_id"]
            self.shown["messages"] = [
                (message["role"], message["content"])
                for message in await self.asking.get("/api/conversations/{conversation}/messages")
            ]

    async def rest(self) -> None:
        """Draw the webhooks and what is registered."""
        await self.asking.get("/api/webhooks-status")
        await self.asking.get("/api/webhooks/events/recent?limit=20")
        await self.asking.get("/api/registry/agents")
        await self.asking.get("/api/registry/skills")

    async def all(self) -> None:
        """Draw every view in turn."""
        for view in (self.frame, self.ledger, self.charts, self.chat, self.rest):
            await view()

    async def heard(self, status: str) -> None:
        """Hear messages until one says that a task has a status; an end makes it read the chat again."""
        while True:
            told = await self.socket.until("event", "cli_status_update")
            if told.kind == "event" and told.fields["payload"]["status"] in {"completed", "failed"}:
                await self.chat()
            if told.kind == "event" and told.fields["payload"]["status"] == status:
                return


async def test_the_page_shows_what_happens_without_a_word(launch: Launch) -> None:
    """Empty and full it draws every view; an answer that comes after its task's end appears by itself."""
    served = await launch()
    headers = {"Origin": served.url}
    async with client(served.url) as one, await open_ws(served.url, "/ws/dashboard", headers) as socket:
        page = Page(one, socket)
        await page.all()
        assert (page.shown["log"], page.shown["table"]["total_pages"]) == ([], 0)
        asked = (await one.send("POST", "/api/chat?session_id=default-session", {"message": "Hi"}))["data"]
        await page.heard("queued")
        await one.send("PATCH", f"/api/tasks/{asked['task_id']}", {"status": "in_progress"})
        await page.heard("running")
        ended = {"status": "completed", "output": "Hello.", "cost_usd": 0.5}
        await one.send("PATCH", f"/api/tasks/{asked['task_id']}", ended)
        await page.heard("completed")
        assert page.shown["messages"] == [("user", "Hi")]
        answer = {"role": "assistant", "content": "Hello.", "task_id": asked["task_id"]}
        await one.send("POST", f"/api/conversations/{asked['conversation_id']}/messages", answer)
        await page.heard("completed")
        assert page.shown["messages"] == [("user", "Hi"), ("assistant", "Hello.")]
        await page.all()
        assert page.shown["log"] == ["task:completed"]
        assert (page.shown["cards"]["sessions"], page.shown["cards"]["connections"]) == (1, 1)
        assert page.shown["sums"]["today_cost"] == 0.5
        assert page.shown["agents"] == ["brain"]


async def test_every_message_of_the_sockets(launch: Launch) -> None:
    """On every path that pages open, and on the one that is subscribed, messages have the fields of old."""
    served = await launch()
    async with client(served.url) as one:
        paths = ("dashboard", "task-stream", "subagents/output", "subagents/brain/output")
        for path in paths:
            async with await open_ws(served.url, f"/ws/{path}") as socket:
                assert socket.status == 101, path
                await socket.say("ping")
                await socket.until("pong")
                await one.send("PATCH", "/api/tasks/t-1", {"status": "running"})
                told = await socket.until("event")
                read(
                    {**told.fields, **told.fields["payload"]},
                    {"timestamp": moment, "task_id": text, "status": STATUS},
                    path,
                )
                payload = {"step": "ready", "status": "healthy", "active": True}
                await one.send(
                    "POST", "/api/v1/events", {"topic": "cli.status", "channel": "status", "payload": payload}
                )
                told = await socket.until("cli_status_update")
                read(told.fields, {"timestamp": moment, "session_id": Maybe(text), "active": flag}, path)
        async with await open_ws(served.url) as socket:
            await socket.say("subscribe", channel="task:t-2")
            await socket.until("subscribed")
            stdout = {"stdout": "…", "cost_usd": 0.05, "input_tokens": 1000, "output_tokens": 500}
            await one.send(
                "POST",
                "/api/v1/events",
                [
                    {
                        "type": "task_output",
                        "task_id": "t-2",
                        "output": "CLI output line",
                        "timestamp": "2026-01-31T12:00:00Z",
                    },
                    {"type": "task_status", "task_id": "t-2", "status": "completed", "result": stdout},
                ],
            )
            output, status = await socket.story(2)
            assert (output.fields["payload"], output.fields["timestamp"]) == (
                {"task_id": "t-2", "output": "CLI output line"},
                "2026-01-31T12:00:00Z",
            )
            assert status.fields["payload"] == {"task_id": "t-2", "status": "completed", "result": stdout}


# What is published in Redis


def publish_status(redis: Redis, task: str, **message: Any) -> None:
    """Publish a status as engines do: without a type or the task's id, and the same in a hash."""
    said = orjson.dumps(message)
    redis.publish(f"task:{task}:status", said)
    redis.hset(f"task:{task}", "data", said)


def write_entry(redis: Redis, kind: str, data: Mapping[str, Any], **ids: str) -> None:
    """Write an entry of the stream."""
    entry: Any = {"type": kind, "timestamp": "2026-01-31T12:00:00Z", **ids, "data": orjson.dumps(data)}
    redis.xadd("task_events", entry)


STATUS_MESSAGES: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "first-ends": (
        [
            {"status": "in_progress"},
            {"status": "completed", "result": {"stdout": "done", "stderr": "", "return_code": 0}},
        ],
        {"status": "completed", "result": "done"},
    ),
    "first-late": (
        [{"status": "completed", "result": {"error": "Task timed out", "return_code": -1}}],
        {"status": "completed", "error": "Task timed out"},
    ),
    "first-fails": (
        [{"status": "in_progress"}, {"status": "failed", "result": {"error": "boom"}}],
        {"status": "failed", "error": "boom"},
    ),
    "today-ends": (
        [
            {"status": "in_progress"},
            {
                "status": "completed",
                "result": {
                    "output": "done",
                    "raw_output": "raw",
                    "cost_usd": 0.25,
                    "input_tokens": 7,
                    "output_tokens": 3,
                    "success": True,
                    "error": None,
                    "tool_events": [],
                    "thinking_blocks": [],
                },
            },
        ],
        {"status": "completed", "result": "done", "cost_usd": 0.25, "input_tokens": 7, "output_tokens": 3},
    ),
    "today-fails": (
        [{"status": "completed", "result": {"output": "", "success": False, "error": "no", "cost_usd": 0}}],
        {"status": "completed", "error": "no"},
    ),
    "runs": ([{"status": "in_progress"}], {"status": "running"}),
}
"""What an engine publishes of a task's status, and how its task stands then."""


@asynccontextmanager
async def with_redis(
    nursery: trio.Nursery, distributed: DistributedForm, tmp_path: Path, **sections: Any
) -> AsyncIterator[tuple[Client, Redis, str]]:
    """Start a service beside the Redis that engine and gateway publish to."""
    with redis_server() as server:
        form = attrs.evolve(distributed, redis_url=server.url, redis=RedisSettings())
        served = await serve(nursery, form.place(settings_for(tmp_path, **sections)))
        with server.client() as redis:
            async with client(served.url) as one:

                async def bridging() -> bool:
                    return "heliograph_bridge_active 1.0" in (await one.http.get("/metrics")).text

                await until(bridging, 30)
                yield one, redis, served.url
        nursery.cancel_scope.cancel()


async def test_every_message_that_is_published(
    nursery: trio.Nursery, distributed: DistributedForm, tmp_path: Path
) -> None:
    """Statuses on pub/sub, the entries of the stream and the state of the command line reach every reader."""
    async with with_redis(nursery, distributed, tmp_path) as (one, redis, url):
        async with await open_ws(url, "/ws/dashboard") as socket:
            await socket.say("ping")
            await socket.until("pong")
            write_entry(
                redis, "webhook:skipped", {"source": "github", "reason": "bot"}, webhook_event_id="e-0"
            )
            for kind, data in SAID_BY_GATEWAY:
                named = {name: "uuid-1" if value == "{id}" else value for name, value in data.items()}
                write_entry(redis, kind, named, webhook_event_id="e-1")
            for kind, data in SAID_BY_ENGINE:
                write_entry(redis, kind, {"task_id": "uuid-1", **data}, task_id="uuid-1")
            write_entry(redis, "task:created", {"input_message": "x"}, task_id="uuid-2")
            write_entry(redis, "task:failed", {"error": "boom"}, task_id="uuid-2")
            redis.set("task:uuid-1:output", "The whole answer", ex=3600)
            for task, (messages, _) in STATUS_MESSAGES.items():
                for message in messages:
                    publish_status(redis, task, **message)
            state = {"provider": "claude", "step": "ready", "status": "healthy", "detail": "", "version": "2"}
            redis.publish("cli:status", orjson.dumps({**state, "hostname": "h", "timestamp": 1}))
            assert (await socket.until("cli_status_update")).fields["active"] is True
        expected = {
            **{task: shown for task, (_, shown) in STATUS_MESSAGES.items()},
            "uuid-1": {
                "status": "completed",
                "result": "The whole answer",
                "cost_usd": 0.25,
                "duration_seconds": 2.5,
                "input_message": "Fix it",
                "assigned_agent": "brain",
                "session_id": "s",
                "source": "webhook",
            },
            "uuid-2": {"status": "failed", "error": "boom", "input_message": "x"},
        }
        found: dict[str, Any] = {}

        async def all_there() -> bool:
            for task in expected:
                answer = await one.http.get(f"/api/tasks/{task}")
                found[task] = answer.json()
            return all(
                {name: found[task].get(name) for name in shown} == shown for task, shown in expected.items()
            )

        try:
            await until(all_there, 20)
        except Exception as late:
            shown = {task: {name: found[task].get(name) for name in want} for task, want in expected.items()}
            raise Crash(f"{shown} is not {expected}") from late
        for task in found:
            read(found[task], TASK, task)
        one.names["task"] = "uuid-1"
        log = await one.get("/api/tasks/{task}/logs/full")
        assert [entry["stage"] for entry in log["webhook_flow"]] == STAGES
        kinds = [entry["type"] for entry in log["agent_output"]]
        assert kinds == ["thinking", "tool_call", "tool_result", "raw_output", "output"]
        assert [entry["type"] for entry in log["knowledge_interactions"]] == ["query", "result"]
        assert log["metadata"]["flow_id"] == FLOW
        told = (await one.http.get("/api/v1/events?channel=webhooks&topic=webhook.skipped")).json()
        assert [event["payload"]["reason"] for event in told["events"]] == ["bot"]


async def test_the_engine_is_asked_on_its_list(
    nursery: trio.Nursery, distributed: DistributedForm, tmp_path: Path
) -> None:
    """A question becomes an entry of the engine's list with just its fields, and a prompt that remembers."""
    engine = {"queue": "agent:tasks"}
    async with with_redis(nursery, distributed, tmp_path, engine=engine) as (one, redis, _):
        chat = "/api/chat?session_id=default-session"
        first = (await one.send("POST", chat, {"message": "My name is Ada."}))["data"]
        await one.send("POST", f"{chat}&conversation_id={first['conversation_id']}", {"message": "Who am I?"})
        entries: list[dict[str, Any]] = []

        async def taken() -> bool:
            entry = await trio.to_thread.run_sync(lambda: redis.brpop(["agent:tasks"], 1))
            entries.extend([orjson.loads(entry[1])] if entry else [])
            return len(entries) == 2

        await until(taken, 20)
        by_prompt = sorted(entries, key=lambda entry: len(entry["prompt"]))
        assert by_prompt[0] == {
            "task_id": first["task_id"],
            "prompt": "My name is Ada.",
            "repo_path": "/app",
            "session_id": "default-session",
            "conversation_id": first["conversation_id"],
        }
        assert by_prompt[1].keys() == by_prompt[0].keys()
        assert "My name is Ada." in by_prompt[1]["prompt"]
        assert redis.llen("agent:tasks") == 0


# What tasks, sessions, conversations and webhooks are


async def test_every_status_and_every_step_between_them(launch: Launch) -> None:
    """Each transition that a task may make is taken on the wire, by each word that engines have for it."""
    served = await launch()
    async with client(served.url) as one:
        steps = [(before, after) for before, further in VALID_TRANSITIONS.items() for after in further]
        for before, after in steps:
            task = f"{before}-{after}"
            for status in (before, after):
                told = await one.send("PATCH", f"/api/tasks/{task}", {"status": status})
                assert told == {"task_id": task, "status": status}
            assert (await one.http.get(f"/api/tasks/{task}")).json()["status"] == after
        for said, meant in (("in_progress", "running"), ("success", "completed")):
            assert (await one.send("PATCH", f"/api/tasks/{said}", {"status": said}))["status"] == meant
        kinds = ("planning", "executor", "code_implementation", "question_asking", "consultation", "custom")
        for kind in kinds:
            for source in ("dashboard", "webhook", "api"):
                body = {"task_id": f"{kind}-{source}", "agent_type": kind, "source": source}
                await one.send("POST", "/api/tasks", body)
                found = (await one.http.get(f"/api/tasks/{kind}-{source}")).json()
                assert (found["agent_type"], found["source"]) == (kind, source)
        for name in STATUSES:
            listed = (await one.http.get(f"/api/tasks?status={name}")).json()
            assert {row["status"] for row in listed} == {name}


FACTORY_FIELDS: dict[type, dict[str, Any]] = {
    factories.Task: {
        "task_id": "task-001",
        "input_message": "Test task",
        "agent_type": "executor",
        "source": "dashboard",
        **dict.fromkeys(("started_at", "completed_at", "result", "error")),
        "cost_usd": 0.0,
        **dict.fromkeys(("input_tokens", "output_tokens", "duration_seconds"), 0),
    },
    factories.Session: {
        "session_id": "session-001",
        "disconnected_at": None,
        "total_cost_usd": 0.0,
        "total_tasks": 0,
        "active": True,
    },
    factories.Conversation: {
        "conversation_id": "conv-001",
        "is_archived": False,
        "total_cost_usd": 0.0,
        "total_tasks": 0,
        "total_duration_seconds": 0.0,
        "started_at": None,
        "completed_at": None,
    },
    factories.WebhookConfig: {
        "webhook_id": "webhook-001",
        "endpoint": "/webhooks/test-001",
        "enabled": True,
        "is_builtin": False,
        "secret": None,
        "default_command": None,
    },
}
"""Fields that have a default, with it."""

FACTORY_NAMES: dict[type, str] = {
    factories.Task: "status session_id source_metadata created_at start wait_for_input resume complete fail "
    "cancel can_transition_to VALID_TRANSITIONS",
    factories.TaskFactory: "create create_queued create_running create_completed create_failed reset",
    factories.Session: "user_id machine_id connected_at add_completed_task disconnect set_rate_limited "
    "validate",
    factories.SessionFactory: "create create_active create_disconnected create_rate_limited reset",
    factories.Conversation: "user_id title created_at updated_at metadata messages add_message add_task "
    "archive get_messages_ordered",
    factories.ConversationMessage: "message_id role content task_id created_at",
    factories.ConversationFactory: "create create_with_messages create_archived reset",
    factories.WebhookConfig: "name provider commands created_at created_by validate is_mutable",
    factories.WebhookCommand: "name trigger action template agent conditions priority",
    factories.WebhookFactory: "create create_github_webhook create_jira_webhook create_builtin "
    "create_dynamic reset",
}
"""What else they have."""


@pytest.mark.parametrize("cls", FACTORY_NAMES, ids=lambda cls: cls.__name__)
def test_every_name_of_the_factories(cls: type) -> None:
    """Fields, methods and defaults are those that tests of such systems are written with."""
    made = cls() if attrs.has(cls) and cls is not factories.ConversationMessage else cls
    fields = {field.name for field in attrs.fields(cls)} if attrs.has(cls) else set()
    for name in FACTORY_NAMES[cls].split():
        assert name in fields or hasattr(made, name), name
    for name, value in FACTORY_FIELDS.get(cls, {}).items():
        assert getattr(made, name) == value, name
    if cls.__name__.endswith("Factory"):
        assert all(inspect.ismethod(getattr(cls, name)) for name in FACTORY_NAMES[cls].split())


def test_every_signature_of_the_factories() -> None:
    """What methods are given by place and by name is what callers give."""
    for method, names in (
        (factories.Task.complete, "result cost_usd input_tokens output_tokens"),
        (factories.Task.fail, "error"),
        (factories.TaskFactory.create_completed, "result cost_usd"),
        (factories.TaskFactory.create_failed, "error"),
        (factories.ConversationFactory.create_with_messages, "message_count"),
        (factories.Conversation.add_message, "message_id role content task_id"),
        (factories.WebhookFactory.create_builtin, "provider"),
    ):
        found = [name for name in inspect.signature(method).parameters if name not in {"self", "fields"}]
        assert found == names.split(), method
    assert inspect.signature(factories.TaskFactory.create_completed).parameters["cost_usd"].default == 0.05
    count = inspect.signature(factories.ConversationFactory.create_with_messages).parameters["message_count"]
    assert count.default == 3
    assert {status.value for status in factories.TaskStatus} == set(STATUSES)
    assert issubclass(factories.InvalidTransitionError, Exception)
    assert webhook_factory.WebhookValidationError is WebhookValidationError
    assert issubclass(WebhookValidationError, HeliographError)


@embedded
async def test_every_source_is_checked_by_its_own_signature(
    launch: Launch, hooks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delivery with no signature, or another's, is refused; without any secret nothing is checked."""
    monkeypatch.delenv("JIRA_WEBHOOK_SECRET")
    (hooks / "jira" / "config.yaml").write_text(
        (hooks / "jira" / "config.yaml")
        .read_text()
        .replace("requires_signature: true", "requires_signature: false")
    )
    served = await launch(webhooks=hooks)
    async with client(served.url) as one:
        for source, (body, headers) in deliveries().items():
            answer = await one.http.post(f"/webhooks/{source}", content=body + b" ", headers=headers)
            assert answer.status_code == (200 if source == "jira" else 401), source
            unsigned = await one.http.post(f"/webhooks/{source}", content=body)
            assert unsigned.status_code == (200 if source == "jira" else 401), source
        cards = (await one.get("/api/webhooks-status"))["data"]
        assert {card["webhook_id"]: card["has_secret"] for card in cards["webhooks"]} == {
            "static-github": True,
            "static-jira": False,
            "static-slack": True,
        }
        assert (cards["total_count"], cards["active_count"]) == (3, 3)


# Settings


@pytest.mark.parametrize(
    ("variable", "said", "path", "value"),
    [
        (
            "DATABASE_URL",
            "postgresql+asyncpg://agent:agent@postgres:5432/agent_system",
            "storage.database_url",
            "postgresql+asyncpg://agent:agent@postgres:5432/agent_system",
        ),
        ("REDIS_URL", "redis://redis:6379/0", "storage.redis_url", "redis://redis:6379/0"),
        ("AGENT_ENGINE_URL", "http://agent-engine:8080", "engine.url", "http://agent-engine:8080"),
        (
            "CORS_ORIGINS",
            "http://localhost:3005,http://localhost:3002",
            "server.cors_origins",
            ("http://localhost:3005", "http://localhost:3002"),
        ),
        ("PORT", "5000", "server.port", 5000),
        ("LOG_LEVEL", "INFO", "log.level", "INFO"),
    ],
)
def test_every_variable_is_read_as_it_is_written(variable: str, said: str, path: str, value: Any) -> None:
    """A container that is configured for the old service is configured for this one."""
    storage = {"DATABASE_URL": "postgresql://u@h/d", "REDIS_URL": "redis://h"}
    found: Any = load(None, {**storage, variable: said})
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value
