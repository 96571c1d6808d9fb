"""The API's own documents say what a running service does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from tests.conformance.clients import ask, connect, request_head
from tests.http.conftest import Api, Start, created, output, status
from tests.http.documented import Document, nodes
from tests.http.rules.test_auth import KEYS

import heliograph
from heliograph.actors.appender import Appender
from heliograph.actors.histogram import Histogram
from heliograph.actors.receiver import Receiver
from heliograph.actors.webhooks import Webhooks
from heliograph.client.follower import NO_RETURN_CODES
from heliograph.config import Settings
from heliograph.http.api.app import create_app
from heliograph.http.api.documents import asyncapi, openapi
from heliograph.http.api.registry import ENDPOINTS
from heliograph.http.api.services import Services
from heliograph.http.rules import bodies
from heliograph.http.rules.shapes import to_json
from heliograph.http.streams.reason import Reason
from heliograph.model.errors import ClientFault, Unavailable
from heliograph.model.intake import parse_item
from heliograph.storage.artifacts import FolderArtifacts
from heliograph.storage.embedded.form import FoldedStore
from heliograph.storage.sql.store import SqlStore

NOT_DESCRIBED = {("GET", "/"), ("GET", "/static/<path:name>"), ("GET", "/ws"), ("GET", "/ws/<path:session>")}
"""The page and its files, and the WebSocket, which is in ``/asyncapi.json``."""

WITHOUT_BODY = ("HEAD", "OPTIONS")
NAMES = ("openapi", "asyncapi")


def made(document: Any) -> Document:
    """Return a document as a client reads it."""
    return Document(orjson.loads(to_json(document)))


OPENAPI = made(openapi.document(Settings(), ENDPOINTS))
ASYNCAPI = made(asyncapi.document(Settings()))
DOCUMENTS = {"openapi": OPENAPI, "asyncapi": ASYNCAPI}


MADE: dict[str, str] = {}
"""The ids of what ``filled`` has made, by the parameter of a path and the API that the path is of."""


def url_for(path: str, task: str = "1") -> str:
    """Return a path with its parameters filled in."""
    path = path.replace("{part}", "metadata")
    return re.sub(r"\{(\w+)\}", lambda found: MADE.get(f"{path[:8]}{found[1]}", task), path)


def sent(method: str, path: str) -> dict[str, Any]:
    """Return the body of a good request."""
    return {"json": SENT[method, path]} if (method, path) in SENT else {}


# The documents themselves


@pytest.mark.parametrize("name", NAMES)
async def test_documents_are_served_like_the_page(start: Start, name: str) -> None:
    """A document needs no key, is JSON with a tag, and is not sent again to whom has it."""
    api = await start(auth={"keys": KEYS}, server={"cors_origins": ("https://dash.example",)})
    answer = await api.http.get(f"/{name}.json", headers={"Origin": "https://dash.example"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["access-control-allow-origin"] == "https://dash.example"
    assert answer.json()["info"]["version"] == heliograph.__version__
    again = await api.http.get(f"/{name}.json", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = await api.http.head(f"/{name}.json")
    assert (head.status_code, head.content) == (200, b"")
    assert (await api.http.post(f"/{name}.json")).status_code in {401, 405}


async def test_documents_tell_the_limits_in_force(start: Start) -> None:
    """What can be set is documented as it is set."""
    api = await start(events={"max_per_request": 7}, streams={"max_channels": 3, "max_message_bytes": 999})
    document = Document(await api.get("/openapi.json"))
    content = document.operations["POST", "/api/v1/events"]["requestBody"]["content"]
    assert content["application/json"]["schema"]["anyOf"][1]["maxItems"] == 7
    ws = (await api.get("/asyncapi.json"))["channels"]["ws"]
    assert "999 bytes" in ws["description"]
    assert "3 subscriptions" in ws["description"]


def test_openapi_is_valid() -> None:
    """The document is of the official meta-schema, OpenAPI 3.1, and its references lead somewhere."""
    assert OPENAPI.content["openapi"].startswith("3.1.")
    assert [error.message for error in OpenAPIV31SpecValidator(OPENAPI.content).iter_errors()] == []


@pytest.mark.parametrize("name", NAMES)
def test_references_lead_somewhere(name: str) -> None:
    """Each ``$ref`` names a place in its own document."""
    document = DOCUMENTS[name]
    references = [node["$ref"] for _, node in nodes(document.content) if isinstance(node.get("$ref"), str)]
    assert references
    for reference in references:
        assert document.at(*document.path_of(reference)) is not None


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_defined_in_vain(name: str) -> None:
    """Each component is referred to, by a reference or by a requirement of security."""
    document = DOCUMENTS[name]
    text = to_json(document.content).decode()
    for kind, components in document.content["components"].items():
        for component in components:
            used = f'"#/components/{kind}/{component}"' in text or f'{{"{component}":[' in text
            assert used, f"{kind} {component}"


def schemas(document: Document) -> Iterator[tuple[str, ...]]:
    """Yield the path of every schema that is not part of another."""
    for path, node in nodes(document.content):
        for name in ("schema", "payload", "headers"):
            found = node.get(name)
            if isinstance(found, dict) and "examples" not in path:
                yield (*path, name)
    for name in document.content["components"]["schemas"]:
        yield ("components", "schemas", name)


@pytest.mark.parametrize("name", NAMES)
def test_schemas_are_json_schema(name: str) -> None:
    """Each schema is one of JSON Schema 2020-12."""
    document = DOCUMENTS[name]
    paths = list(schemas(document))
    assert len(paths) > 20
    for path in paths:
        Draft202012Validator.check_schema(document.at(*path))


def test_examples_of_openapi_are_valid() -> None:
    """Each example is of the schema that it stands beside."""
    checked = 0
    for path, node in nodes(OPENAPI.content):
        if "schema" not in node:
            continue
        examples = [node["example"]] if "example" in node else []
        examples += [one["value"] for one in node.get("examples", {}).values()]
        for example in examples:
            OPENAPI.check(example, *path, "schema")
            checked += 1
    assert checked > 30
    for path, node in nodes(OPENAPI.content):
        if isinstance(node.get("examples"), list) and node.get("type") == "string":
            for example in node["examples"]:
                OPENAPI.check(example, *path)


def test_examples_of_asyncapi_are_valid() -> None:
    """Each message's examples are of its payload, and of its headers where it has some."""
    for name, message in ASYNCAPI.content["components"]["messages"].items():
        for example in message.get("examples", []):
            for part, value in example.items():
                field = {"payload": "payload", "headers": "headers"}[part]
                ASYNCAPI.check(value, "components", "messages", name, field)
        assert message.get("examples"), name


# Endpoints


def rules() -> set[tuple[str, str]]:
    """Return the method and path of every route of the app."""
    app = create_app(cast(Services, SimpleNamespace(settings=Settings())))
    return {
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in rule.methods or {"GET"}
        if method not in WITHOUT_BODY
    }


def test_every_endpoint_is_documented_and_no_other() -> None:
    """The routes are the operations, but for the page and the WebSocket."""
    routes = {
        (method, re.sub(r"<(?:path:)?(\w+)>", r"{\1}", path)) for method, path in rules() - NOT_DESCRIBED
    }
    assert routes == set(OPENAPI.operations)
    assert rules() >= NOT_DESCRIBED


def test_operations_are_named_apart() -> None:
    """Each operation has an id of its own, a summary, and a tag that is described."""
    operations = OPENAPI.operations.values()
    assert len({one["operationId"] for one in operations}) == len(operations)
    tags = {tag["name"] for tag in OPENAPI.content["tags"]}
    assert {tag for one in operations for tag in one["tags"]} == tags
    assert all(one["summary"] for one in operations)


LARGE = [output(), output(), output(), output()]
KEYED = {**output("9", "one"), "key": "9/1"}
EVENTS = ("POST", "/api/v1/events")
TASK = "/api/v1/tasks/{task_id}"
WORKFLOWS = "/api/v1/workflows"
WORKFLOW = f"{WORKFLOWS}/{{workflow_id}}"
RUN = f"{WORKFLOW}/runs/{{run_id}}"
ARTIFACT = f"{RUN}/artifacts/{{key}}"
RECEIVERS = ("/webhooks/{webhook_id}", "/api/webhooks/{webhook_id}")
SAID_OF_TASKS = {
    (method, f"{api}/tasks{path}"): body
    for api in ("/api", "/api/v1")
    for method, path, body in (("POST", "", {"name": "x"}), ("PATCH", "/{task_id}", {"status": "running"}))
}
TALKS = "/api/v1/conversations"
TALK = f"{TALKS}/{{conversation_id}}"
OLD_TALK = TALK.replace("/v1", "")
CHATS = ("/api/chat", "/api/v1/chat")
ANSWERS = ("POST", f"{TASK}/answers")
SENT: dict[tuple[str, str], Any] = {
    EVENTS: output(),
    **{("POST", path): {"message": "m"} for path in CHATS},
    ANSWERS: {"content": "yes"},
    ("POST", "/api/v1/task-keys"): {"task_id": "42"},
    ("POST", TALKS): {"title": "t"},
    ("PUT", TALK): {"is_archived": False},
    ("POST", f"{TALK}/messages"): {"role": "user", "content": "c"},
    ("POST", "/api/conversations"): {"title": "t"},
    ("PUT", OLD_TALK): {"is_archived": False},
    ("POST", f"{OLD_TALK}/messages"): {"role": "user", "content": "c"},
    ("PATCH", WORKFLOW): {"enabled": True},
    ("PUT", ARTIFACT): {},
    **SAID_OF_TASKS,
    **{("POST", path): {} for path in RECEIVERS},
    **{
        ("POST", f"{api}/webhooks"): {"name": f"of {api[-3:]}", "provider": "custom"}
        for api in ("/api", "/api/v1")
    },
    **{("PUT", f"{api}/webhooks/{{webhook_id}}"): {"description": "d"} for api in ("/api", "/api/v1")},
}
"""A good body for each endpoint that takes one."""

DELIVERIES = [("POST", path) for path in RECEIVERS]
WRITES = [
    place for place in SENT if place not in {EVENTS, ANSWERS, ("PUT", ARTIFACT), *SAID_OF_TASKS, *DELIVERIES}
]
ANALYTICS = [path for path in OPENAPI.content["paths"] if path.startswith("/api/v1/analytics/")]

NEWS = {
    "topic": "conversation.created",
    "channel": "conversation:1",
    "payload": {"title": "news", "flow_id": "1"},
}

GOOD: list[tuple[str, str, str, dict[str, Any], int]] = [
    ("GET", "/api/v1/tasks", "?limit=1", {}, 200),
    ("GET", "/api/v1/tasks", "?status=completed,failed&agent=planner", {}, 200),
    ("GET", "/api/v1/tasks", "?silent=300&sort=silence", {}, 200),
    ("GET", "/api/v1/tasks", "?without=agent,model", {}, 200),
    ("GET", "/api/v1/task-groups", "?limit=1", {}, 200),
    ("GET", "/api/v1/task-groups", "?by=session_id&status=failed", {}, 200),
    ("GET", TASK, "", {}, 200),
    ("GET", f"{TASK}/logs", "", {}, 200),
    ("GET", f"{TASK}/logs", "?from_seq=1000", {}, 200),
    ("GET", f"{TASK}/logs/full", "", {}, 200),
    ("GET", f"{TASK}/logs/full", "", {"headers": {"Accept": "application/x-ndjson"}}, 200),
    ("GET", f"{TASK}/stream", "", {}, 200),
    ("GET", f"{TASK}/stream", "", {"headers": {"Last-Event-ID": "8000000000000-0"}}, 204),
    ("GET", "/api/v1/events", "?limit=2", {}, 200),
    ("GET", "/api/v1/events", "?channel=task:*&topic=task.*&since=2026-01-31", {}, 200),
    ("GET", "/api/v1/events/stream", "?channel=task:1&tail=1", {}, 200),
    ("POST", "/api/v1/stream-tickets", "", {}, 201),
    ("POST", "/api/v1/task-keys", "", {"json": {"task_id": "42"}}, 201),
    *(
        (
            "POST",
            path,
            "",
            {**sent("POST", path), "headers": {"Idempotency-Key": path}},
            201 if "v1" in path else 200,
        )
        for path in CHATS
    ),
    ("POST", "/api/v1/session", "", {}, 201),
    ("GET", "/api/v1/session", "", {}, 200),
    ("DELETE", "/api/v1/session", "", {}, 204),
    ("GET", TALKS, "?limit=1&search=n", {}, 200),
    *(
        (*place, "", sent(*place), 201 if place[0] == "POST" and place[1][5:7] in {"v1", "we"} else 200)
        for place in WRITES
    ),
    ("GET", f"{TALKS}/by-flow/{{flow_id}}", "", {}, 200),
    ("GET", TALK, "", {}, 200),
    ("GET", f"{TALK}/messages", "", {}, 200),
    ("GET", f"{TALK}/messages", "?tail=1", {}, 200),
    ("GET", "/api/conversations", "?limit=1&offset=0&include_archived=true", {}, 200),
    ("GET", "/api/conversations/by-flow/{flow_id}", "", {}, 200),
    *(("GET", OLD_TALK + part, "", {}, 200) for part in ("", "/messages", "/context", "/metrics")),
    ("POST", f"{OLD_TALK}/clear", "", {}, 200),
    ("GET", f"{TALK}/context", "", {}, 200),
    ("GET", f"{TALK}/metrics", "", {}, 200),
    ("POST", f"{TALK}/clear", "", {}, 200),
    ("DELETE", TALK, "", {}, 200),
    ("POST", "/api/v1/events", "", {"json": NEWS}, 201),
    ("DELETE", OLD_TALK, "", {}, 200),
    ("GET", "/api/v1/sessions", "?limit=1", {}, 200),
    ("GET", "/api/v1/sessions/{session_id}", "", {}, 200),
    ("GET", "/api/sessions", "", {}, 200),
    ("GET", "/api/sessions/{session_id}", "", {}, 200),
    ("GET", WORKFLOWS, "", {}, 200),
    *(("GET", WORKFLOW + path, "", {}, 200) for path in ("", "/pipeline", "/agents", "/runs")),
    ("GET", RUN, "", {}, 200),
    ("GET", f"{RUN}/stream", "", {}, 200),
    ("GET", f"{RUN}/artifacts", "", {}, 200),
    ("PUT", ARTIFACT, "", {"content": b"abc"}, 201),
    ("GET", ARTIFACT, "", {}, 200),
    ("GET", ARTIFACT, "", {"headers": {"Range": "bytes=1-"}}, 206),
    ("DELETE", ARTIFACT, "", {}, 204),
    ("PUT", ARTIFACT, "", {"content": b"again"}, 201),
    ("GET", "/api/v1/agents", "?limit=1", {}, 200),
    *(
        ("GET", f"{api}/webhooks{path}", "", {}, 200)
        for api in ("/api", "/api/v1")
        for path in ("", "/events", "/events/{event_id}", "/stats", "/{webhook_id}")
    ),
    ("GET", "/api/v1/webhooks/events", "?limit=1&status=accepted", {}, 200),
    ("GET", "/api/webhooks/events/recent", "", {}, 200),
    ("GET", "/api/webhooks-status", "", {}, 200),
    *(
        (method, f"{api}/webhooks{path}", "", {"json": body} if body else {}, code)
        for api in ("/api", "/api/v1")
        for method, path, body, code in (
            ("POST", "/{webhook_id}/disable", None, 200),
            ("POST", "/{webhook_id}/enable", None, 200),
        )
    ),
    *(
        ("POST", path, "", {"json": {"event": "deploy.failed"}, "headers": {"Idempotency-Key": path}}, 200)
        for path in RECEIVERS
    ),
    *(("GET", path, query, {}, 200) for path in ANALYTICS for query in ("", "?group_by=status", "?model=x")),
    *(("GET", path, "", {"headers": {"Accept": "text/csv"}}, 200) for path in ANALYTICS),
    (*EVENTS, "", {"json": [status("running", "1"), status("waiting_input", "1")]}, 201),
    (*ANSWERS, "", {"json": {"content": "yes"}}, 201),
    ("POST", "/api/v1/tasks", "", {"json": {"input_message": "Say hello", "extra": 1}}, 201),
    ("PATCH", TASK, "", {"json": {"status": "running"}}, 200),
    ("POST", f"{TASK}/stop", "", {}, 200),
    ("POST", "/api/tasks", "", {"json": {"input_message": "Say hello"}}, 201),
    ("PATCH", "/api/tasks/{task_id}", "", {"json": {"status": "in_progress"}}, 200),
    ("POST", "/api/tasks/{task_id}/stop", "", {}, 200),
    ("GET", "/api/tasks", "?limit=1", {}, 200),
    ("GET", "/api/tasks/{task_id}", "", {}, 200),
    ("GET", "/api/tasks/{task_id}/logs", "", {}, 200),
    ("GET", "/api/tasks/{task_id}/logs/full", "", {}, 200),
    ("GET", "/api/tasks/{task_id}/logs/full", "", {"headers": {"Accept": "text/plain"}}, 200),
    ("GET", "/api/tasks/{task_id}/logs/{part}", "", {}, 200),
    ("GET", "/api/tasks/{task_id}/knowledge-summary", "", {}, 200),
    ("GET", "/api/tasks/{task_id}/stream", "", {}, 200),
    ("GET", "/api/tasks/{task_id}/stream", "", {"headers": {"Last-Event-ID": "8000000000000-0"}}, 204),
    ("GET", "/api/tasks/table", "?page=1&session_id=&status=&subagent=", {}, 200),
    ("GET", "/api/tasks/table", "?sort_order=asc&page_size=1&page=2&subagent=planner", {}, 200),
    ("GET", "/api/agents", "?limit=1", {}, 200),
    ("GET", "/api/registry/agents", "", {}, 200),
    ("GET", "/api/registry/skills", "", {}, 200),
    ("GET", "/api/analytics/summary", "", {}, 200),
    ("GET", "/api/analytics/costs/histogram", "?days=1&granularity=hour", {}, 200),
    ("GET", "/api/analytics/costs/by-subagent", "", {}, 200),
    ("GET", "/api/analytics/conversations", "?start_date=2026-01-01", {}, 200),
    ("GET", "/api/analytics/performance", "", {}, 200),
    ("GET", "/api/analytics/performance", "", {"headers": {"Accept": "text/csv"}}, 200),
    ("GET", "/api/status", "", {}, 200),
    ("GET", "/api/health", "", {}, 200),
    ("GET", "/api/v1/health", "", {}, 200),
    ("GET", "/api/ready", "", {}, 200),
    ("GET", "/api/v1/status", "", {}, 200),
    ("GET", "/metrics", "", {}, 200),
    ("GET", "/openapi.json", "", {}, 200),
    ("GET", "/asyncapi.json", "", {}, 200),
    (*EVENTS, "", {"json": output("5")}, 201),
    (*EVENTS, "", {"json": [output("5"), created("6")]}, 201),
    (*EVENTS, "", {"content": b'{"topic": "a.b"}', "headers": {"Content-Type": "application/jsonl"}}, 201),
]
"""What a request that is served is answered with: method, path, query, the rest of the request, status."""

REFUSED: list[tuple[str, str, str, dict[str, Any], int]] = [
    *(
        (*place, "", more, expected)
        for place, body in SAID_OF_TASKS.items()
        for more, expected in (
            ({"content": b"{"}, 400),
            ({"json": body, "headers": {"Idempotency-Key": "9/1"}}, 409),
            ({"content": b" " * 5000}, 413),
            ({"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415),
        )
    ),
    (*ANSWERS, "", {"content": b"{"}, 400),
    (*ANSWERS, "", {"json": {"content": "yes"}}, 409),
    (*ANSWERS, "", {"content": b" " * 5000}, 413),
    (*ANSWERS, "", {"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415),
    (*EVENTS, "", {"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
    (*EVENTS, "", {"json": {**KEYED, "output": "other"}}, 409),
    (*EVENTS, "", {"json": LARGE}, 413),
    (*EVENTS, "", {"content": b" " * 5000}, 413),
    (*EVENTS, "", {"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415),
    (*EVENTS, "", {"json": {"topic": "gap", "payload": 1}}, 422),
    *(
        ("POST", path, "", {"json": {"message": "n"}, "headers": {"Idempotency-Key": path}}, 409)
        for path in CHATS
    ),
    *((*place, "", {"content": b"{"}, 400) for place in WRITES),
    *((*place, "", {"content": b" " * 5000}, 413) for place in WRITES),
    *((*place, "", {"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415) for place in WRITES),
    ("PUT", ARTIFACT, "", {"content": b" " * 5000}, 413),
    *(
        ("POST", path, "", more, code)
        for path in RECEIVERS
        for more, code in (
            ({"content": b"{"}, 400),
            ({"json": {}, "headers": {"Idempotency-Key": path}}, 409),
            ({"content": b" " * 5000}, 413),
        )
    ),
    *(("DELETE", f"{api}/webhooks/{{webhook_id}}", "", {}, 200) for api in ("/api", "/api/v1")),
    ("GET", ARTIFACT, "", {"headers": {"Range": "bytes=99-"}}, 416),
]

HOOK = """
name: One
endpoint: /webhooks/1
commands: [{name: find, trigger: deploy.*, template: "Find out: {{ payload }}"}]
"""

ITEMS = [
    {"topic": "run.started", "payload": {"workflow_id": "1", "run_id": "1"}},
    created("1", agent="planner", agent_type="cli", model="sonnet", metadata={"a": 1}),
    output("1", "50 %"),
    {"topic": "task.output", "payload": {"task_id": "1", "output": "7", "partial": True, "rewind": True}},
    status("completed", "1", result={"cost_usd": 0.05, "input_tokens": 12, "model": "sonnet", "note": "n"}),
    created("2", session_id="1"),
    status("failed", "2", result={"error": "TimeoutError: late"}),
    created("3", agent="reader"),
    {"topic": "pipeline.completed", "payload": {"n": 1}, "sender": "s", "correlation_id": "c"},
    NEWS,
    KEYED,
]


@pytest.fixture
async def filled(start: Start, tmp_path: Path) -> Api:
    """Start a service with narrow limits, with something of everything in it."""
    workflow = tmp_path / "workflows" / "1"
    workflow.mkdir(parents=True)
    (workflow / "manifest.yaml").write_text("name: '1'")
    hooks = tmp_path / "webhooks"
    hooks.mkdir()
    (hooks / "1.yaml").write_text(HOOK)
    api = await start(
        server={"max_request_bytes": 4096},
        events={"max_per_request": 3},
        workflows=(workflow.parent,),
        webhooks=hooks,
    )
    for item in ITEMS:
        await api.publish(item)
    assert (await api.http.put(url_for(ARTIFACT), content=b"abc")).status_code == 201
    taken = await api.http.post("/webhooks/1", json={"event": "deploy.failed"})
    for prefix in ("/api/v1/", "/api/web"):
        made = await api.http.post("/api/v1/webhooks", json={"name": f"made for {prefix[5:7]}"})
        MADE[f"{prefix}webhook_id"] = made.json()["webhook_id"]
        MADE[f"{prefix}event_id"] = taken.json()["event_id"]
    return api


async def request(api: Api, method: str, path: str, **more: Any) -> httpx.Response:
    """Make a request and read the answer, of a stream only its head."""
    if path.partition("?")[0] == "/api/chat":  # which must say its session
        path += f"{'&' if '?' in path else '?'}session_id=s"
    async with api.http.stream(method, path, **more) as answer:
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            await answer.aread()
        return answer


async def test_answers_are_as_documented(filled: Api) -> None:
    """What endpoints answer, and how they refuse, is of the schemas that are documented for it."""
    for method, path, query, more, expected in GOOD + REFUSED:
        answer = await request(filled, method, url_for(path) + query, **more)
        assert answer.status_code == expected, (method, path, query)
        OPENAPI.check_answer(method, path, answer)


def test_every_documented_answer_is_tested() -> None:
    """No status is documented that no test here sees."""
    everywhere = {401, 403, 404, 422, 503, 304, 408}
    tested = {(method, path, expected) for method, path, _, _, expected in GOOD + REFUSED}
    documented = {
        (*place, int(code))
        for place, operation in OPENAPI.operations.items()
        for code in operation["responses"]
        if code != "default"
    }
    assert {one for one in documented if one[2] not in everywhere} == {
        one for one in tested if one[2] not in everywhere
    }


async def test_who_may_not_ask_is_refused_as_documented(start: Start) -> None:
    """Without a key, and with one of another scope, each endpoint answers as it says, or is open."""
    api = await start(auth={"keys": KEYS})
    wrong = {"read": "w", "publish": "r", "admin": "r"}
    for (method, path), operation in OPENAPI.operations.items():
        anonymous = await request(api, method, url_for(path))
        assert (anonymous.status_code == 401) == bool(operation["security"])
        if not operation["security"]:
            continue
        OPENAPI.check_answer(method, path, anonymous)
        ((scope,),) = {tuple(*one.values()) for one in operation["security"]}
        headers = {"X-API-Key": wrong[scope]}
        other = await request(api, method, url_for(path), headers=headers, **sent(method, path))
        assert other.status_code == 403, path
        OPENAPI.check_answer(method, path, other)


async def test_a_ticket_opens_what_takes_one(start: Start) -> None:
    """A ticket is taken by the endpoints that name it among the ways to say who asks, and by no other."""
    api = await start(auth={"keys": KEYS})
    answer = await api.http.post("/api/v1/stream-tickets", headers={"X-API-Key": "r"})
    ticket = answer.json()["ticket"]
    for (method, path), operation in OPENAPI.operations.items():
        if operation["security"]:
            taken = any("ticket" in one for one in operation["security"])
            found = await request(api, method, f"{url_for(path)}?ticket={ticket}")
            assert (found.status_code not in {401, 422}) == taken, path


async def test_strange_hosts_are_refused_as_documented(api: Api) -> None:
    """Where there are no keys, each endpoint refuses a host that is not this machine."""
    for method, path in OPENAPI.answering(403):
        answer = await request(api, method, url_for(path), headers={"Host": "evil.example"})
        assert answer.status_code == 403, path
        OPENAPI.check_answer(method, path, answer)


async def test_unknown_names_are_refused_as_documented(api: Api) -> None:
    """Each endpoint of one thing answers 404 where there is none, and no other endpoint says so."""
    assert {path for _, path in OPENAPI.answering(404)} == {
        path for path in OPENAPI.content["paths"] if "{" in path or path in CHATS
    }
    for method, path in OPENAPI.answering(404):
        if (method, path) == ("PUT", ARTIFACT) or path.endswith("/artifacts"):
            continue  # a run that nobody told of may leave something behind
        query = "?conversation_id=none" if path in CHATS else ""
        answer = await request(api, method, url_for(path, "none") + query, **sent(method, path))
        assert answer.status_code == 404
        OPENAPI.check_answer(method, path, answer)


async def test_parameters_are_those_that_are_known(filled: Api) -> None:
    """An endpoint refuses a parameter that it does not know, and knows those that are documented."""
    for (method, path), operation in OPENAPI.operations.items():
        answer = await request(filled, method, f"{url_for(path)}?nonsense=1")
        assert (answer.status_code == 422) == ("422" in operation["responses"]), path
        if answer.status_code != 422:
            continue
        OPENAPI.check_answer(method, path, answer)
        (error,) = answer.json()["errors"]
        known = set(error["detail"].partition("this takes ")[2].split(", ")) - {"no parameters"}
        assert known - {"ticket"} == {one["name"] for one in parameters(operation, "query")}, path


async def test_another_method_is_refused_as_documented(api: Api) -> None:
    """A method that a path does not have is answered by 405, which names those that it has."""
    for path in OPENAPI.content["paths"]:
        answer = await request(api, "PROPFIND", url_for(path))
        assert answer.status_code == 405
        OPENAPI.check(answer.json(), "components", "schemas", "Problem")
        allowed = set(answer.headers["allow"].split(", ")) - set(WITHOUT_BODY)
        # A path with a parameter may answer there, too.
        assert allowed >= {method for method, other in OPENAPI.operations if other == path}


async def test_outages_are_answered_as_documented(filled: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the log and the store away, those endpoints answer 503 that say so, when to try again."""

    async def away(*_: object, **__: object) -> None:
        raise Unavailable("away", 1.2)

    for owner, names in {
        SqlStore: ("events", "get", "count", "groups", "lines", "list"),
        FoldedStore: ("checkpoint",),
        FolderArtifacts: ("list", "read", "write", "delete"),
        Histogram: ("ask",),
        Appender: ("append",),
        Webhooks: ("_say",),
        Receiver: ("receive",),
    }.items():
        for name in names:
            monkeypatch.setattr(owner, name, away)
    monkeypatch.setattr(Histogram, "loaded", False)
    found = set()
    for method, path in OPENAPI.operations:
        answer = await request(filled, method, url_for(path), **sent(method, path))
        if answer.status_code == 503:
            found.add((method, path))
            OPENAPI.check_answer(method, path, answer)
            assert answer.headers.get("retry-after") == (None if path == "/api/ready" else "2")
    assert found == set(OPENAPI.answering(503))


async def test_what_a_client_has_is_not_sent_twice_as_documented(filled: Api) -> None:
    """Who has a document, or an artifact, already is answered 304."""
    for method, path in OPENAPI.answering(304):
        tag = (await filled.http.get(url_for(path))).headers["etag"]
        answer = await request(filled, method, url_for(path), headers={"If-None-Match": tag})
        assert answer.status_code == 304
        OPENAPI.check_answer(method, path, answer)


async def test_a_body_that_does_not_come_is_refused_as_documented(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body that is not there in time is answered 408."""
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.01)
    assert set(OPENAPI.answering(408)) == set(SENT)
    head = {"Host": "localhost", "Transfer-Encoding": "chunked", "Connection": "close"}
    received = b""
    async with await connect(api.url) as stream:
        await stream.send_all(request_head(*EVENTS, head) + b"1\r\n[\r\n")
        while data := await stream.receive_some(65536):
            received += data
    _, _, body = received.partition(b"\r\n\r\n")
    kind = {"Content-Type": "application/problem+json"}
    OPENAPI.check_answer(*EVENTS, httpx.Response(408, headers=kind, content=body))


# What is refused is what is documented


def parameters(operation: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Return an operation's parameters in the query, the header or the path."""
    return [one for one in operation.get("parameters", []) if one["in"] == where]


def limited() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every parameter of a query with the path that takes it."""
    for (_, path), operation in OPENAPI.operations.items():
        for one in parameters(operation, "query"):
            yield path, one


async def refused_field(api: Api, path: str, name: str, *values: object) -> str | None:
    """Ask with a parameter; return the field that is refused, if one is."""
    query = "&".join(f"{name}={value}" for value in values)
    answer = await request(api, "GET", f"{url_for(path)}?{query}")
    if answer.status_code != 422:
        assert answer.status_code == 200
        return None
    (error,) = answer.json()["errors"]
    return str(error["field"])


async def test_numbers_are_limited_as_documented(filled: Api) -> None:
    """The smallest and the greatest number that are documented are taken, and none beyond them."""
    checked = 0
    for path, one in limited():
        schema, name = one["schema"], one["name"]
        if schema.get("type") != "integer":
            continue
        for limit, beyond in ((schema["minimum"], -1), (schema["maximum"], 1)):
            refused = await refused_field(filled, path, name, limit)
            assert refused in {None, "from_seq"}, (
                path
            )  # from the last possible line on, but not to an earlier
            assert await refused_field(filled, path, name, limit + beyond) == name, path
            checked += 1
    assert checked >= 10


async def test_words_are_limited_as_documented(filled: Api) -> None:
    """Each word that is documented for a parameter is taken, and no other."""
    for path, one in limited():
        schema, name = one["schema"], one["name"]
        words = schema.get("enum") or schema.get("items", {}).get("enum")
        if words is None:
            continue
        for word in words:
            assert await refused_field(filled, path, name, word) is None
        assert await refused_field(filled, path, name, "nonsense") == name


async def test_patterns_are_those_that_are_checked(filled: Api) -> None:
    """The forms that are documented of channels and topics are those that are taken."""
    tried = (
        "task:1",
        "task:*",
        "*",
        "webhooks",
        "a.b",
        "a.*",
        "task:",
        "x:*",
        "a..b",
        "topic:a.b",
        "a b",
    )
    for path, one in limited():
        schema = one["schema"].get("items", one["schema"])
        if "pattern" not in schema:
            continue
        for word in tried:
            documented = re.search(schema["pattern"], word) is not None
            assert (await refused_field(filled, path, one["name"], word) is None) == documented, word


async def test_channels_are_limited_as_documented(filled: Api) -> None:
    """As many channels as are documented are taken at once, and not one more."""
    for path, one in limited():
        most = one["schema"].get("maxItems")
        if most is not None:
            channels = [f"task:{number}" for number in range(most + 1)]
            assert await refused_field(filled, path, one["name"], *channels[:-1]) is None
            assert await refused_field(filled, path, one["name"], *channels) == one["name"]


async def test_defaults_are_those_that_are_documented(api: Api) -> None:
    """A list without a limit is as long as the documented default."""
    await api.publish(*(created(str(number)) for number in range(60)))
    (limit,) = [
        one["schema"]["default"]
        for one in parameters(OPENAPI.operations["GET", "/api/v1/tasks"], "query")
        if one["name"] == "limit"
    ]
    assert len((await api.get("/api/v1/tasks"))["tasks"]) == limit


async def test_keys_of_requests_are_limited_as_documented(api: Api) -> None:
    """``Idempotency-Key`` is taken up to the documented length."""
    (key,) = parameters(OPENAPI.operations[EVENTS], "header")
    longest = "k" * key["schema"]["maxLength"]
    await api.publish(output(), headers={key["name"]: longest})
    problem = await api.publish(output(), status=422, headers={key["name"]: longest + "k"})
    assert [error["field"] for error in problem["errors"]] == [key["name"]]


# Items

ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    10**12,
    10**12 + 1,
    10**6,
    0.5,
    "",
    "x",
    "x" * 151,
    "x" * 201,
    "é" * 1001,
]
ODD += ["task.output", "task.status", "task:1", "gap", "a..b", "stderr", "completed", [], {}, {"a": 1}]
ODD += [{"cost_usd": -1}, {"cost_usd": 1, "input_tokens": None}, {"task_id": "1", "output": ""}]
ODD += [{"task_id": "1", "status": "failed", "result": {"cached_tokens": 1.5}}, "2026-01-31"]
FIELDS = [*("topic", "type", "payload", "channel", "sender", "timestamp", "correlation_id", "key")]
FIELDS += ["task_id", "output", "status", "stream", "result", "nonsense"]
SOUND: list[dict[str, Any]] = [
    {"topic": "task.output", "payload": {"task_id": "1", "output": "x"}},
    {"topic": "task.created", "channel": "task:1"},
    {"topic": "task.status", "payload": {"task_id": "1", "status": "failed", "result": {"error": "e"}}},
    {"topic": "pipeline.completed", "payload": {"n": 1}},
    output(),
    status("completed", result={"cost_usd": 0.05}),
]


def valid(item: Any) -> bool:
    """Tell whether an item is of the documented schema, as it stands there."""
    schema = {**OPENAPI.content, "$ref": "#/components/schemas/Item"}
    return bool(Draft202012Validator(schema).is_valid(item))


@given(st.sampled_from(SOUND), st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(ODD), max_size=3))
def test_no_item_is_taken_that_is_not_documented(sound: dict[str, Any], changes: dict[str, Any]) -> None:
    """Whatever item the service takes is of the documented schema."""
    item = sound | changes
    try:
        parse_item(item, 10_000)
    except ClientFault:
        return
    assert valid(item)


@pytest.mark.parametrize(
    "item",
    [
        *({**output(), field: "x" * 201} for field in ("sender", "correlation_id", "key")),
        {**output(), "nonsense": 1},
        {**output(), "topic": "task.output"},
        {"type": "task_output", "task_id": "1"},
        output("a b"),
        output(stream="stdin"),
        status("over"),
        status("failed", result={"input_tokens": 10**12 + 1}),
        created("1", model="x" * 1001),
        {"topic": "task.status", "payload": {"task_id": "1", "status": "over"}},
        {"topic": "task.output", "payload": {"task_id": "1"}},
        {"topic": "reconnect"},
        {"topic": "a.b", "channel": "b.c"},
        {"payload": {}},
        1,
    ],
    ids=repr,
)
def test_bad_items_are_bad_by_both(item: Any) -> None:
    """What the service refuses for its form, the documented schema refuses as well."""
    with pytest.raises(ClientFault):
        parse_item(item, 10_000)
    assert not valid(item)


# Streams


def test_close_codes_are_those_that_are_used() -> None:
    """Each code that a WebSocket is closed with is documented, and whether clients come back after it."""
    listed = ASYNCAPI.content["channels"]["ws"]["x-close-codes"]
    codes = {one["code"]: one["come_back"] for one in listed}
    assert codes.keys() == {reason.code for reason in Reason} - {Reason.BROKEN.code}
    assert codes == {code: code not in NO_RETURN_CODES for code in codes}


def test_operations_have_the_messages_of_their_channel() -> None:
    """What is said and heard on a channel is all that there is on it."""
    for name, channel in ASYNCAPI.content["channels"].items():
        told = [
            message["$ref"].rpartition("/")[2]
            for operation in ASYNCAPI.content["operations"].values()
            if operation["channel"]["$ref"] == f"#/channels/{name}"
            for message in operation["messages"]
        ]
        assert sorted(told) == sorted(channel["messages"])


async def test_the_address_of_each_channel_is_served(filled: Api) -> None:
    """Each channel is a route of the service."""
    for channel in ASYNCAPI.content["channels"].values():
        answer = await ask(filled.url, "HEAD", url_for(channel["address"]))
        assert answer.status == (426 if channel["address"].startswith("/ws") else 200)
