"""Webhooks as their providers, their owners and their watchers meet them."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections import Counter
from pathlib import Path
from shutil import copytree
from typing import Any

import httpx
import pytest
import trio
from tests.factories import WebhookCommand, WebhookFactory
from tests.factories.telling import body_of
from tests.factories.webhook_factory import WebhookValidationError
from tests.http.conftest import Api, Start
from tests.polling import until
from tests.recorded import EXAMPLES
from tests.servers import free_port

SECRET = "s3cret-of-github"
HOOKS = EXAMPLES.with_name("webhooks")
COMMENT = {
    "action": "created",
    "issue": {"number": 12, "title": "It breaks", "body": "Steps"},
    "comment": {"id": 5, "body": "@agent fix the login"},
    "repository": {"full_name": "acme/app"},
    "sender": {"login": "ada", "type": "User"},
}


@pytest.fixture
async def api(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Api:
    """Start a service with the examples' webhooks, in a folder that a test may change."""
    monkeypatch.setenv("GITHUB_WEBHOOK_SECRET", SECRET)
    copytree(HOOKS, tmp_path / "webhooks")
    return await start(webhooks=tmp_path / "webhooks")


def sign(body: bytes, secret: str = SECRET) -> str:
    """Sign as GitHub does."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


async def deliver(
    api: Api,
    payload: Any = COMMENT,
    delivery: str | None = None,
    path: str = "/webhooks/github",
    **headers: str,
) -> httpx.Response:
    """Deliver as GitHub does."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    said = {
        "Content-Type": "application/json",
        "X-GitHub-Event": "issue_comment",
        "X-Hub-Signature-256": sign(body),
        **({} if delivery is None else {"X-GitHub-Delivery": delivery}),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return await api.http.post(path, content=body, headers=said)


async def test_a_delivery_becomes_a_task(api: Api) -> None:
    """A signed comment that asks for a command is kept, and is a task; the filled template is its input."""
    answer = await deliver(api, delivery="d-1")
    assert answer.status_code == 200
    receipt = answer.json()
    assert (receipt["success"], receipt["matched_command"], receipt["webhook_id"]) == (
        True,
        "implement",
        "static-github",
    )
    task = await api.get(f"/api/v1/tasks/{receipt['task_id']}")
    assert (task["status"], task["agent"], task["name"]) == ("queued", "executor", "It breaks")
    assert task["input"].startswith("Make the change that acme/app#12 asks for: It breaks\n\nSteps")
    assert "What was said just now: the login" in task["input"]
    about = {"webhook": "static-github", "command": "implement", "requires_approval": True}
    assert task["metadata"].items() >= about.items()
    event = await api.get(f"/api/v1/webhooks/events/{receipt['event_id']}")
    assert (event["status"], event["matched_command"], event["task_id"], event["delivery_id"]) == (
        "accepted",
        "implement",
        receipt["task_id"],
        "d-1",
    )
    told = (await api.get(f"/api/v1/events?correlation_id={receipt['event_id']}"))["events"]
    assert Counter((one["channel"], one["topic"]) for one in told) == Counter(
        {
            ("webhooks", "webhook.received"): 1,
            ("webhooks", "webhook.task_created"): 1,
            (f"task:{receipt['task_id']}", "task.created"): 1,
            (f"task:{receipt['task_id']}", "webhook.task_created"): 1,
        }
    )
    [received] = [one for one in told if one["topic"] == "webhook.received"]
    assert received["payload"]["payload"] == COMMENT
    made = next(one for one in told if one["topic"] == "task.created")["payload"]
    assert (made["source"], made["flow_id"]) == ("webhook", "github:acme/app#12")
    assert made["source_metadata"]["repo"] == "acme/app"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"X_Hub_Signature_256": ""}, "unsigned"),
        ({"X_Hub_Signature_256": sign(b"other")}, "mismatch"),
        ({"X_Hub_Signature_256": sign(json.dumps(COMMENT).encode(), "guess")}, "mismatch"),
    ],
)
async def test_a_bad_signature_is_refused_and_counted(api: Api, change: dict[str, str], reason: str) -> None:
    """Without the secret nobody can make a task: nothing is kept but the count, by reason."""
    answer = await deliver(api, **change)
    assert answer.status_code == 401
    assert answer.json()["code"] == "bad_signature"

    async def counted() -> bool:
        stats = await api.get("/api/v1/webhooks/stats")
        return bool(stats["refused"] == {reason: 1})

    await until(counted)
    assert (await api.get("/api/v1/tasks"))["tasks"] == []
    assert (await api.get("/api/v1/webhooks/events"))["events"] == []


async def test_a_repeated_delivery_is_refused(start: Start, api: Api) -> None:
    """The same delivery makes one task: repeated later, or twenty times at once, on either path."""
    assert (await deliver(api, delivery="d-1")).status_code == 200
    again = await deliver(api, delivery="d-1", path="/api/webhooks/github")
    assert (again.status_code, again.json()["code"]) == (409, "repeated_delivery")
    answers: list[int] = []

    async def at_once() -> None:
        answers.append((await deliver(api, delivery="d-2")).status_code)

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(at_once)
    assert Counter(answers) == {200: 1, 409: 19}
    unnamed = [(await deliver(api)).status_code for _ in range(2)]
    assert unnamed == [200, 409]
    assert len((await api.get("/api/v1/tasks"))["tasks"]) == 3


async def test_an_old_delivery_is_refused(start: Start, tmp_path: Path) -> None:
    """What Slack signed more than five minutes ago is refused; its question is answered."""
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks" / "slack.yaml").write_text(
        "name: slack\nsource: slack\nsecret: abc\ndefault_command: ask\n"
        "commands: [{name: ask, template: '{{ text }}'}]\n"
    )
    api = await start(webhooks=tmp_path / "hooks")

    async def post(payload: Any, age: int) -> httpx.Response:
        body, at = json.dumps(payload).encode(), str(int(time.time()) - age)
        signature = hmac.new(b"abc", b"v0:" + at.encode() + b":" + body, hashlib.sha256).hexdigest()
        headers = {"X-Slack-Signature": f"v0={signature}", "X-Slack-Request-Timestamp": at}
        return await api.http.post("/webhooks/slack", content=body, headers=headers)

    said = {"event_id": "Ev1", "event": {"type": "app_mention", "text": "hello", "channel": "C", "ts": "1"}}
    assert (await post(said, 400)).json()["code"] == "bad_signature"
    answer = (await post(said, 10)).json()
    assert (await api.get(f"/api/v1/tasks/{answer['task_id']}"))["input"] == "hello"
    question = (await post({"type": "url_verification", "challenge": "c"}, 0)).json()
    assert question["challenge"] == "c"
    assert len((await api.get("/api/v1/webhooks/events"))["events"]) == 1


async def test_a_webhook_that_needs_a_secret_takes_nothing_without_one(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where signatures are required and nobody has set the secret, everything is refused, with the reason."""
    monkeypatch.delenv("GITHUB_WEBHOOK_SECRET", raising=False)
    api = await start(webhooks=HOOKS)
    answer = await deliver(api)
    assert answer.status_code == 401
    assert "GITHUB_WEBHOOK_SECRET is not set" in answer.json()["detail"]


async def test_what_asks_for_nothing_is_kept_and_skipped(api: Api) -> None:
    """A comment that is not for us makes no task; the delivery says why."""
    other = {**COMMENT, "comment": {"body": "looks good"}}
    receipt = (await deliver(api, other)).json()
    assert receipt["task_id"] is None
    assert "does not address @agent" in receipt["reason"]
    event = await api.get(f"/api/webhooks/events/{receipt['event_id']}")
    assert (event["status"], event["reason"]) == ("skipped", receipt["reason"])


async def test_many_deliveries_are_all_kept(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds at once, with a dead engine: each becomes a task, waits for the engine, and is counted."""
    monkeypatch.setenv("GITHUB_WEBHOOK_SECRET", SECRET)
    api = await start(webhooks=HOOKS, engine={"url": f"http://127.0.0.1:{free_port()}"})
    limit = trio.CapacityLimiter(20)

    async def one(number: int) -> None:
        async with limit:
            answer = await deliver(api, {**COMMENT, "n": number}, delivery=f"d-{number}")
            assert answer.status_code == 200

    async with trio.open_nursery() as nursery:
        for number in range(300):
            nursery.start_soon(one, number)

    async def counted() -> bool:
        stats = await api.get("/api/v1/webhooks/stats")
        [github] = [one for one in stats["webhooks"] if one["webhook_id"] == "static-github"]
        full = github["latency_ms"].keys() == {"p50", "p90", "p99"}
        return full and (github["received"], github["accepted"]) == (300, 300)

    await until(counted)
    summary = await api.get("/api/v1/webhooks/stats")
    assert summary["events_by_webhook"]["static-github"] == 300
    [github] = [one for one in summary["webhooks"] if one["webhook_id"] == "static-github"]
    assert sum(hour["count"] for hour in github["per_hour"]) == 300
    requests = await api.get("/api/v1/events?topic=engine.requested&limit=500")
    assert {one["payload"]["prompt"][:15] for one in requests["events"]} == {"Make the change"}
    assert len({one["payload"]["task_id"] for one in requests["events"]}) == 300


async def test_files_are_watched(api: Api, tmp_path: Path) -> None:
    """A new file is a webhook; a broken one is listed with its error, hides no other, and can be mended."""
    root = tmp_path / "webhooks"
    names = {hook["name"] for hook in await api.get("/api/webhooks")}
    assert names == {"github", "Deploys"}
    (root / "extra.yaml").write_text("name: extra\ncommands: [{name: go, template: x}]\n")
    (root / "github" / "config.yaml").write_text("name: github\nendpoint: /webhooks/Bad\ncommands: []\n")

    async def seen() -> bool:
        listed = await api.get("/api/v1/webhooks")
        return {hook["name"] for hook in listed["webhooks"]} == {"Deploys", "extra"} and len(
            listed["broken"]
        ) == 1

    await until(seen)
    [broken] = (await api.get("/api/v1/webhooks"))["broken"]
    assert broken["file"] == "github/config.yaml"
    assert {error["field"] for error in broken["errors"]} == {"endpoint", "commands"}
    status = (await api.get("/api/webhooks-status"))["data"]
    assert [one["file"] for one in status["broken"]] == ["github/config.yaml"]
    (root / "github" / "config.yaml").write_bytes((HOOKS / "github" / "config.yaml").read_bytes())
    (root / "github" / "prompts" / "implement.md").write_text("Just do it: {{ text }}")

    async def mended() -> bool:
        hook = (await deliver(api, {**COMMENT, "n": time.time()})).json()
        task = hook.get("task_id") and await api.get(f"/api/v1/tasks/{hook['task_id']}")
        return bool(task and task["input"] == "Just do it: the login")

    await until(mended)


async def test_a_webhook_made_over_http(start: Start, api: Api) -> None:
    """It takes deliveries at once, is changed, switched and removed; its secret is never shown, and stays."""
    secret = "very-secret-indeed"
    webhook = WebhookFactory.create_dynamic(
        name="Nightly", provider="custom", endpoint="/webhooks/nightly", secret=secret, commands=[]
    )
    made = await api.http.post("/api/webhooks", json=body_of(webhook))
    assert made.status_code == 201
    data = made.json()["data"]
    assert made.json()["success"]
    assert (data["name"], data["provider"], data["endpoint"], data["enabled"]) == (
        "Nightly",
        "custom",
        "/webhooks/nightly",
        True,
    )
    body = b'{"message": "ran"}'
    unsigned = await api.http.post(data["endpoint"], content=body)
    assert unsigned.status_code == 401
    headers = {"X-Hub-Signature-256": sign(body, secret)}
    receipt = (await api.http.post(data["endpoint"], content=body, headers=headers)).json()
    assert (await api.get(f"/api/v1/tasks/{receipt['task_id']}"))["input"] == "ran"
    path = f"/api/v1/webhooks/{data['webhook_id']}"
    changed = await api.http.put(path, json={"description": "Nightly runs"})
    assert (changed.json()["description"], changed.json()["has_secret"]) == ("Nightly runs", True)
    assert (await api.http.post(f"{path}/disable")).json()["enabled"] is False
    assert (await api.http.post(data["endpoint"], content=body, headers=headers)).status_code == 403
    assert (await api.http.put(path, json={"description": "Off"})).json()["enabled"] is False
    assert (await api.http.post(f"{path}/enable")).json()["enabled"] is True
    for shown in (
        "/api/v1/webhooks",
        path,
        "/api/webhooks-status",
        "/api/v1/events?channel=webhooks",
        "/metrics",
    ):
        assert secret not in (await api.http.get(shown)).text
    card = (await api.get("/api/webhooks-status"))["data"]["webhooks"][-1]
    assert (card["has_secret"], card["event_count"], card["is_builtin"]) == (True, 1, False)
    assert (await api.http.delete(f"/api/webhooks/{data['webhook_id']}")).json()["success"]
    assert (await api.http.post(data["endpoint"], content=body, headers=headers)).status_code == 404
    assert (await api.http.get(path)).status_code == 404


async def test_what_the_factory_makes_is_made_over_http(api: Api) -> None:
    """Each webhook that holds to the rules is taken with its commands, and each that does not is refused."""
    for webhook in (WebhookFactory.create_jira_webhook(), WebhookFactory.create(default_command="analyze")):
        webhook.validate()
        made = await api.http.post("/api/v1/webhooks", json=body_of(webhook))
        found = made.json()
        assert (found["endpoint"], found["commands"][0]["name"]) == (webhook.endpoint, "analyze"), made.text
    for wrong in (
        WebhookFactory.create(endpoint="/webhooks/My-Hook"),
        WebhookFactory.create(default_command="other"),
        WebhookFactory.create(commands=[WebhookCommand(), WebhookCommand()]),
    ):
        with pytest.raises(WebhookValidationError) as refused:
            wrong.validate()
        problem = await api.problem("POST", "/api/webhooks", json=body_of(wrong))
        fields = {error["field"] for error in problem["errors"]}
        assert fields == {error.field for error in refused.value.errors}


async def test_an_endpoint_that_nobody_names(api: Api) -> None:
    """It is made of the name, differs for another webhook of that name, and stays when the name changes."""
    made = [
        (await api.http.post("/api/v1/webhooks", json={"name": name})).json() for name in ("A B", "a b", "é")
    ]
    assert made[0]["endpoint"] == "/webhooks/a-b"
    assert made[1]["endpoint"] == f"/webhooks/a-b-{made[1]['webhook_id'][-6:]}"
    assert made[2]["endpoint"] == f"/webhooks/{made[2]['webhook_id']}"
    path = f"/api/v1/webhooks/{made[0]['webhook_id']}"
    changed = (await api.http.put(path, json={"name": "Another"})).json()
    assert (changed["name"], changed["endpoint"]) == ("Another", "/webhooks/a-b")
    for hook in made:
        assert (await api.http.post(hook["endpoint"], json={"text": "x"})).status_code == 200


async def test_what_is_wrong_with_a_webhook_is_named(api: Api) -> None:
    """Bad fields, unknown ones, taken endpoints and those of files are refused, each by its name."""
    for body, field in (
        ({"provider": "custom"}, "name"),
        ({"name": "x", "provider": "nobody"}, "provider"),
        ({"name": "x", "endpoint": "/elsewhere/x"}, "endpoint"),
        ({"name": "x", "endpoint": "/webhooks/github"}, "endpoint"),
        ({"name": "x", "colour": "red"}, "colour"),
        ({"name": 5}, "name"),
        ({"name": "x", "commands": [{"name": "a", "template": ""}]}, "commands[0].template"),
        ({"name": "x", "commands": [{"name": "a", "template": "{% set a = 1 %}"}]}, "commands[0].template"),
    ):
        problem = await api.problem("POST", "/api/v1/webhooks", json=body)
        assert problem["status"] == 422
        assert field in {error["field"] for error in problem["errors"]}, body
    for name in ("name", "provider"):  # the dashboard says both
        said = {"name": "x", "provider": "custom", "enabled": True, "commands": []}
        del said[name]
        problem = await api.problem("POST", "/api/webhooks", json=said)
        assert [(error["field"], error["detail"]) for error in problem["errors"]] == [(name, "is missing")]
    assert len(await api.get("/api/webhooks")) == 2
    long = await api.problem("POST", "/api/v1/webhooks", json={"name": "x" * 201})
    assert [error["field"] for error in long["errors"]] == ["name"]
    for query, field in (
        ("cursor=x", "cursor"),
        ("limit=0", "limit"),
        ("status=odd", "status"),
        ("a=1", "a"),
    ):
        problem = await api.problem("GET", f"/api/v1/webhooks/events?{query}")
        assert [error["field"] for error in problem["errors"]] == [field]
    for method in ("PUT", "DELETE"):
        problem = await api.problem(method, "/api/v1/webhooks/static-github", json={"name": "x"})
        assert problem["status"] == 409
    assert (await api.problem("POST", "/webhooks/none", json={}))["status"] == 404
    assert (await api.problem("POST", "/webhooks/deploys", content=b"{"))["status"] == 400


async def test_the_documents_shapes(api: Api) -> None:
    """The dashboard's endpoints answer in the shapes that it reads: bare lists, wrapped ones, counts."""
    await deliver(api, delivery="d-1")
    listed = await api.get("/api/webhooks")
    assert {"name", "provider", "endpoint", "is_builtin", "enabled"} <= listed[0].keys()
    [event] = await api.get("/api/webhooks/events?limit=1&webhook_id=")
    assert {
        *("event_id", "webhook_id", "provider", "event_type", "matched_command"),
        *("task_id", "response_sent", "created_at"),
    } <= event.keys()
    recent = await api.get("/api/webhooks/events/recent?limit=5")
    assert (recent["success"], recent["data"]) == (True, [event])
    stats = await api.get("/api/webhooks/stats")
    assert (stats["total_webhooks"], stats["active_webhooks"]) == (2, 2)
    assert stats["events_by_webhook"]["static-github"] == 1
    data = (await api.get("/api/webhooks-status"))["data"]
    assert (data["total_count"], data["active_count"]) == (2, 2)
    assert {card["webhook_id"] for card in data["webhooks"]} == {"static-github", "static-deploys"}
    assert (await api.get("/api/webhooks/events?webhook_id=other")) == []
