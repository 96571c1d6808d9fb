"""Keys for some channels, at every endpoint: what is outside of them is neither reached, told nor counted.

What an endpoint needs follows from the parameters in its declared path, or stands in ``NEEDS``; an endpoint
with neither fails here. Each thing says the name of its channel in its texts, so an answer that tells of it
gives itself away.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.conformance.clients import TRANSPORTS, Told, open_ws, watch
from tests.http.api.test_endpoints import BODIES, PATHS, QUERIES
from tests.http.conftest import Api, Start, output
from tests.http.rules.test_auth import key
from tests.recorded import EXAMPLES

from heliograph.http.api.endpoint import Endpoint
from heliograph.http.api.registry import ENDPOINTS
from heliograph.http.rules.access import READING
from heliograph.model.settings import SCOPES

WORKFLOW, OTHER_WORKFLOW = "helpdesk_assistant", "invoice_to_ledger"
CHANNELS = {
    "task": ("task:1", "task:3"),
    "tasks": ("task:*",),
    "workflow": (f"workflow:{WORKFLOW}", "workflow:gone"),
    "conversation": ("conversation:1", "conversation:3"),
    "webhooks": ("webhooks",),
    "analytics": ("analytics",),
    "status": ("status",),
    "topic": ("topic:build.done",),
    "several": ("task:1", f"workflow:{WORKFLOW}", "conversation:1", "webhooks"),
}
"""The channels of each key; all have every scope, so that nothing else refuses them."""

INSIDE = {**PATHS, "workflow_id": WORKFLOW, "name": "shell.js"}
OUTSIDE = {**INSIDE, "task_id": "2", "workflow_id": OTHER_WORKFLOW, "conversation_id": "2", "run_id": "r2"}
GONE = {**INSIDE, "task_id": "3", "workflow_id": "gone", "conversation_id": "3", "run_id": "r3"}
"""The parameters of things that keys cover, of things that they don't, and of things that don't exist."""

BY_PARAMETER = {
    "task_id": "task:{task_id}",
    "workflow_id": "workflow:{workflow_id}",
    "conversation_id": "conversation:{conversation_id}",
    "webhook_id": "webhooks",
    "event_id": "webhooks",
}
ALL_TASKS, ALL_CONVERSATIONS, WEBHOOKS, TOTALS = (
    ("task:*",),
    ("conversation:*",),
    ("webhooks",),
    ("analytics",),
)
NEEDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            *("list_tasks", "list_groups", "list_sessions", "get_session", "list_agents", "task_table"),
            *("dashboard_list_tasks", "dashboard_list_sessions", "dashboard_get_session"),
            *("dashboard_list_agents", "registered_agents"),
        ),
        ALL_TASKS,
    ),
    **dict.fromkeys(
        (
            *("list_conversations", "create_conversation", "conversation_of_flow", "conversation_rows"),
            *("conversation_sums", "dashboard_create_conversation", "dashboard_conversation_of_flow"),
        ),
        ALL_CONVERSATIONS,
    ),
    **dict.fromkeys(
        (
            *("list_deliveries", "webhook_stats", "list_webhooks", "make_webhook", "dashboard_list_webhooks"),
            *("dashboard_list_deliveries", "recent_deliveries", "dashboard_webhook_stats", "webhooks_status"),
            "dashboard_configure_webhook",
        ),
        WEBHOOKS,
    ),
    **dict.fromkeys(
        (
            *("summary", "costs_histogram", "tasks_histogram", "tokens_histogram", "performance"),
            *("overview", "histogram", "costs_by_subagent", "dashboard_performance"),
        ),
        TOTALS,
    ),
    **dict.fromkeys(("chat", "chat_in_session"), ALL_CONVERSATIONS + ALL_TASKS),
    "say": ("conversation:{conversation_id}", "task:*"),  # with an engine: the message becomes a task
    **dict.fromkeys(
        ("create_task", "dashboard_create_task", "make_task_key", "publish"), ("task:{task_id}",)
    ),
    **dict.fromkeys(("history", "event_stream", "prometheus"), ("*",)),
    "list_workflows": ("workflow:*",),
    # The service itself, a caller's own rights, and streams, whose subscriptions are checked one by one:
    **dict.fromkeys(
        (
            *("platform_health", "status", "machine", "registered_skills"),
            *("web_socket", "page_socket", "make_ticket", "begin_session", "show_session"),
        ),
        (),
    ),
}
"""The selectors that an endpoint needs, where its path does not say it."""


def needs(endpoint: Endpoint, names: dict[str, str]) -> tuple[str, ...]:
    """Return the selectors that a key must cover to ask an endpoint of the things of these names."""
    wanted = NEEDS.get(endpoint.name)
    if wanted is None:
        named = re.findall(r"\{(\w+)\}", endpoint.plain_path)
        wanted = tuple(BY_PARAMETER[name] for name in named if name in BY_PARAMETER)[:1]
        assert wanted or endpoint.scope is None, f"say in NEEDS or BY_PARAMETER what {endpoint.name} reaches"
    return tuple(selector.format(**names) for selector in wanted) if endpoint.scope else ()


def covers(channels: tuple[str, ...], selector: str) -> bool:
    """Tell whether some channels cover a selector, by the documented rule: the same, or the kind's star."""
    return selector in channels or f"{selector.partition(':')[0]}:*" in channels


def things(names: dict[str, str]) -> list[dict[str, Any]]:
    """Make a task, a run, a conversation and their like, each with its channel's name in its texts."""
    task, workflow, conversation = (names[f"{kind}_id"] for kind in ("task", "workflow", "conversation"))
    said = f"secret of task:{task}"
    talk = {"channel": f"conversation:{conversation}", "sender": f"secret of conversation:{conversation}"}
    spoken = {"message_id": f"m{conversation}", "role": "user", "content": talk["sender"]}
    run = {"workflow_id": workflow, "run_id": names["run_id"], "step": f"secret of workflow:{workflow}"}
    return [
        {
            "topic": "task.created",
            "payload": {"task_id": task, "name": said, "agent": said, "session_id": f"{said}/{task}"},
        },
        output(task, said),
        {"type": "task_status", "task_id": f"{task}-waits", "status": "queued"},
        {"topic": "run.started", "payload": run},
        {"topic": "step.started", "payload": run},
        {"topic": "conversation.created", **talk, "payload": {"title": talk["sender"]}},
        {"topic": "conversation.message", **talk, "payload": spoken},
    ]


SECRETS = tuple(
    f"{kind}:{names[f'{kind}_id']}"
    for names in (INSIDE, OUTSIDE)
    for kind in ("task", "workflow", "conversation")
)
"""The channels of what ``things`` makes."""


@pytest.fixture
async def api(start: Start) -> Api:
    """Start a service with an engine (that is away), keys of each kind, and what they cover."""
    keys = [key(name, name, *SCOPES, channels=channels) for name, channels in CHANNELS.items()]
    api = await start(
        auth={"keys": (*keys, key("all", "all", *SCOPES))},
        workflows=(EXAMPLES,),
        webhooks=EXAMPLES.with_name("webhooks"),
        engine={"url": "http://127.0.0.1:9"},
    )
    await api.publish(*things(INSIDE), headers=of("all"))
    taken = await api.http.post("/webhooks/deploys", json={}, headers={"Idempotency-Key": "1"})
    assert taken.json()["event_id"] == PATHS["event_id"]
    return api


def of(name: str) -> dict[str, str]:
    """Return the header that carries a key."""
    return {"X-API-Key": name}


async def ask(api: Api, endpoint: Endpoint, names: dict[str, str], name: str) -> tuple[int, str]:
    """Ask an endpoint of some things; return the status and the text, which is empty if it is a stream."""
    path = re.sub(r"\{(\w+)\}", lambda match: names[match[1]], endpoint.plain_path)
    body = BODIES.get(endpoint.name)
    if endpoint.name == "publish":
        body = output(names["task_id"])
    elif isinstance(body, dict) and "task_id" in body:
        body = {**body, "task_id": names["task_id"]}
    url = path + QUERIES.get(endpoint.name, "")
    async with api.http.stream(endpoint.method, url, headers=of(name), json=body) as answer:
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            return answer.status_code, ""
        await answer.aread()
        return answer.status_code, answer.text


async def test_a_key_reaches_what_it_covers_and_no_more(api: Api) -> None:
    """Every endpoint refuses each key what it does not cover, and tells none of anything else's texts."""
    await api.publish(*things(OUTSIDE), headers=of("all"))
    wrong = []
    for endpoint in sorted(ENDPOINTS, key=order):
        places = (INSIDE, OUTSIDE, GONE) if any("{" in one for one in needs_of(endpoint)) else (INSIDE,)
        for name, channels in CHANNELS.items():
            for place in places:
                wanted = needs(endpoint, place)
                status, text = await ask(api, endpoint, place, name)
                let_in = all(covers(channels, selector) for selector in wanted)
                right = status not in {401, 403} if let_in else status == 403
                told = [one for one in SECRETS if f"secret of {one}" in text and not covers(channels, one)]
                if wanted == TOTALS:  # the totals of the whole fleet are what that channel is
                    told = []
                named = [one for one in (WORKFLOW, OTHER_WORKFLOW) if one in text and place is GONE]
                told += [one for one in named if not covers(channels, f"workflow:{one}")]
                if not right or told:
                    wrong.append((endpoint.name, name, wanted, status, told))
    assert not wrong


def order(endpoint: Endpoint) -> tuple[bool, bool]:
    """Sort those that read before those that change, and those that need no key before these."""
    return endpoint.method not in READING, endpoint.scope is not None


def needs_of(endpoint: Endpoint) -> tuple[str, ...]:
    """Return what an endpoint needs, with the names of the parameters."""
    return needs(endpoint, {name: f"{{{name}}}" for name in PATHS})


LOADS = (
    *("stream_cursor", "position", "at", "uptime_seconds", "machine", "parts", "lag_ms", "bus", "events"),
    *("events_per_second", "deliveries", "streams", "subscriptions", "connections", "since", "latency_ms"),
    *("ticket", "expires_at", "state", "error"),
)
"""Fields that tell of the service itself, its log's place and its time, and of tickets."""


def without_loads(text: str) -> str:
    """Return an answer without the values that tell of the service itself."""
    return re.sub(
        rf'"({"|".join(LOADS)})":("[^"]*"|\{{[^{{}}]*(\{{[^{{}}]*\}}[^{{}}]*)*\}}|[^,}}]*)', "", text
    )


async def test_what_is_outside_changes_no_answer(api: Api) -> None:
    """What is published outside of a key's channels changes no list, count or sum that the key may read."""
    answers: list[dict[tuple[str, str], str]] = []
    for _ in range(2):
        answers.append({})
        for endpoint in ENDPOINTS:
            wanted = needs(endpoint, INSIDE)
            if endpoint.method not in READING or set(wanted) & {
                "*",
                "task:*",
                "workflow:*",
                *TOTALS,
                *WEBHOOKS,
            }:
                continue
            for name, channels in CHANNELS.items():
                beside = "task:*" not in channels or any(":" in one for one in wanted)
                if beside and all(covers(channels, selector) for selector in wanted):
                    status, text = await ask(api, endpoint, INSIDE, name)
                    assert status not in {401, 403}
                    answers[-1][endpoint.name, name] = without_loads(text)
        await api.publish(*things(OUTSIDE), headers=of("all"))
    before, after = answers
    assert len(before) > 100
    assert {cell: (before[cell], after[cell]) for cell in before if before[cell] != after[cell]} == {}


HEARD = {name: channels for name, channels in CHANNELS.items() if name != "analytics"}
"""The keys with channels that anybody may publish to."""


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_no_stream_tells_what_is_outside(api: Api, transport: str) -> None:
    """A stream of a key's channels has their events alone, and none of those before it."""
    await api.publish(*things(OUTSIDE), headers=of("all"))
    for name, channels in HEARD.items():
        async with await watch(transport, api.url, *channels, headers=of(name), after="0-0") as opened:
            last = {"topic": "build.end", "channel": channels[-1].replace("*", "1"), "payload": {"by": name}}
            await api.publish(*things(OUTSIDE), *things(INSIDE), last, headers=of("all"))
            heard: list[Told] = []
            while not heard or heard[-1].fields.get("payload") != last["payload"]:
                heard.append(await opened.until("event", "gap", "reset"))
        assert [told for told in heard if not covers(channels, told.fields["channel"])] == [], name


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_no_stream_opens_beyond_its_key(api: Api, transport: str) -> None:
    """A channel or a pattern that a key does not cover is refused on every stream, a page's own included."""
    for name, channels in CHANNELS.items():
        for selector in ("*", "task:*", "task:2", "workflow:*", "conversation:2", "webhooks", "audit"):
            if not covers(channels, selector):
                async with await watch(transport, api.url, selector, headers=of(name)) as opened:
                    if transport == "sse":
                        assert opened.status == 403, (name, selector)
                    else:
                        assert (await opened.until("error")).fields["code"] == "forbidden", (name, selector)
        if transport == "ws" and not covers(channels, "task:*"):
            async with await open_ws(api.url, "/ws/page", of(name)) as opened:
                assert (await opened.until("error")).fields["code"] == "forbidden", name


ITEMS: dict[str, tuple[dict[str, Any], ...]] = {
    "task:2": (
        output("2"),
        {"type": "task_status", "task_id": "2", "status": "failed"},
        {"topic": "task.status", "payload": {"task_id": "2", "status": "failed"}},
        {"topic": "build.done", "payload": {"task_id": "2"}},
    ),
    "task:1": (output("1"), {"topic": "build.done", "channel": "task:1", "payload": {"task_id": "2"}}),
    "conversation:1": (
        {
            "topic": "conversation.message",
            "payload": {"conversation_id": "1", "role": "user", "content": "x", "message_id": "x"},
        },
    ),
    "conversation:2": ({"topic": "conversation.deleted", "payload": {"conversation_id": "2"}},),
    f"workflow:{WORKFLOW}": ({"topic": "run.finished", "payload": {"workflow_id": WORKFLOW, "run_id": "r"}},),
    f"workflow:{OTHER_WORKFLOW}": (
        {"topic": "run.finished", "payload": {"workflow_id": OTHER_WORKFLOW, "run_id": "r2"}},
    ),
    "webhooks": ({"topic": "webhook.received", "payload": {"task_id": "1"}},),
    "status": ({"topic": "cli.said", "payload": {"task_id": "1"}},),
    "topic:build.done": ({"topic": "build.done", "payload": {}},),
    "topic:build.begun": ({"topic": "build.begun", "payload": {}},),
}
"""Items by the channel that each belongs to, whether it names it or not."""


async def test_a_key_publishes_on_what_it_covers_and_no_more(api: Api) -> None:
    """However an item names its channel, beyond its key it is refused, and so is all that comes with it."""
    await api.publish(*things(OUTSIDE), headers=of("all"))
    wrong = []
    for name, channels in CHANNELS.items():
        mine = {channel: [{**item, "sender": name} for item in items] for channel, items in ITEMS.items()}
        allowed = [item for channel, items in mine.items() if covers(channels, channel) for item in items]
        for channel, items in mine.items():
            for item in items if not covers(channels, channel) else ():
                batches = [[item], [*allowed, item]]
                if "topic" in item:
                    batches.append([{**item, "channel": channel}])
                for batch in batches:
                    answer = await api.http.post("/api/v1/events", json=batch, headers=of(name))
                    if answer.status_code != 403:
                        wrong.append((name, batch, answer.status_code))
        if allowed:
            await api.publish(*allowed, headers=of(name))
        kept = (await api.get(f"/api/v1/events?sender={name}&limit=500", headers=of("all")))["events"]
        assert len(kept) == len(allowed), name
        assert all(covers(channels, event["channel"]) for event in kept), name
    assert not wrong
