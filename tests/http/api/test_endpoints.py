"""Every endpoint, walked by its declaration: who may ask, what is told of it, and what is counted."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_origin

import attrs
import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from tests.conformance.clients import open_ws, request_head
from tests.http.api.test_shortcuts import exchange, long_way
from tests.http.conftest import Api, Start, created, output, status
from tests.http.rules.test_auth import key
from tests.recorded import EXAMPLES
from tests.storages import embedded_form

from heliograph.http.api import dashboard, routes
from heliograph.http.api.counts import RequestCounts
from heliograph.http.api.endpoint import Endpoint
from heliograph.http.api.registry import ENDPOINTS
from heliograph.http.api.services import Services
from heliograph.http.api.spans import recording
from heliograph.http.rules import refused
from heliograph.http.rules.answer import Answer
from heliograph.http.rules.auth import Identity
from heliograph.model.durations import BOUNDS
from heliograph.model.errors import SettingsError
from heliograph.model.keys import PREFIX, make_key
from heliograph.model.settings import SCOPES
from heliograph.storage.embedded.upkeep import changing
from heliograph.tracing import exporting

CALLERS = {
    "nobody": {},
    "reader": {"X-API-Key": "r"},
    "writer": {"X-API-Key": "w"},
    "of task 1": {"X-API-Key": "one"},
    "of task 2": {"Authorization": "Bearer two"},
    "unknown": {"X-API-Key": "x"},
}
KEYS = (
    key("reader", "r", "read"),
    key("writer", "w", "publish"),
    key("one", "one", "read", "publish", channels=("task:1",)),
    key("two", "two", "read", "publish", channels=("task:2",)),
)

OPEN = dict.fromkeys(CALLERS, 200)
READ = {"nobody": 401, "reader": 200, "writer": 403, "of task 1": 403, "of task 2": 403, "unknown": 401}
ANY_READER = {**READ, "of task 1": 200, "of task 2": 200}
OF_TASK_1 = {**READ, "of task 1": 200}
CREATES_TASK_1 = {**READ, "reader": 403, "writer": 201, "of task 1": 201}
CHANGES_TASK_1 = {**READ, "reader": 403, "writer": 200, "of task 1": 200}
MATRIX = {
    "list_tasks": READ,
    "list_groups": READ,
    "get_task": OF_TASK_1,
    "read_log": OF_TASK_1,
    "full_log": OF_TASK_1,
    "publish": {**READ, "reader": 403, "writer": 201, "of task 1": 201},
    "history": READ,
    "event_stream": READ,
    "task_stream": OF_TASK_1,
    "web_socket": {**dict.fromkeys(CALLERS, 426), "unknown": 401},
    "page_socket": {**dict.fromkeys(CALLERS, 426), "unknown": 401},
    "make_ticket": {**ANY_READER, "reader": 201, "of task 1": 201, "of task 2": 201},
    "list_workflows": READ,
    "get_workflow": READ,
    "get_pipeline": READ,
    "list_cards": READ,
    "change_workflow": {**READ, "reader": 403, "writer": 200},
    "list_runs": READ,
    "get_trace": READ,
    "run_stream": READ,
    "list_artifacts": READ,
    "get_artifact": READ,
    "put_artifact": {**READ, "reader": 403, "writer": 201},
    "delete_artifact": {**READ, "reader": 403, "writer": 204},
    **dict.fromkeys(("receive", "dashboard_receive"), OPEN),
    **dict.fromkeys(
        (
            *("list_webhooks", "get_webhook", "list_deliveries", "get_delivery", "webhook_stats"),
            *("dashboard_list_webhooks", "dashboard_get_webhook", "dashboard_list_deliveries"),
            *("dashboard_get_delivery", "dashboard_webhook_stats", "recent_deliveries", "webhooks_status"),
        ),
        READ,
    ),
    **{
        f"{dialect}{name}_webhook": {**READ, "reader": 403}
        for dialect in ("", "dashboard_")
        for name in ("make", "change", "remove", "enable", "disable")
        if (dialect, name) != ("dashboard_", "make")
    },
    "dashboard_configure_webhook": {**READ, "reader": 403},
    "list_sessions": READ,
    "get_session": READ,
    "dashboard_list_sessions": READ,
    "dashboard_get_session": READ,
    "conversation_rows": READ,
    "conversation_sums": READ,
    "dashboard_conversation_of_flow": READ,
    "dashboard_get_conversation": READ,
    "dashboard_get_context": READ,
    "dashboard_get_metrics": READ,
    "message_rows": READ,
    "dashboard_create_conversation": {**READ, "reader": 403, "writer": 200},
    "dashboard_change_conversation": {**READ, "reader": 403, "writer": 200},
    "dashboard_delete_conversation": {**READ, "reader": 403, "writer": 200},
    "dashboard_clear_conversation": {**READ, "reader": 403, "writer": 200},
    "say_in_dashboard": {**READ, "reader": 403, "writer": 200},
    "chat": {**READ, "reader": 403, "writer": 201},
    "chat_in_session": {**READ, "reader": 403, "writer": 200},
    "list_conversations": READ,
    "create_conversation": {**READ, "reader": 403, "writer": 201},
    "conversation_of_flow": READ,
    "get_conversation": READ,
    "change_conversation": {**READ, "reader": 403, "writer": 200},
    "delete_conversation": {**READ, "reader": 403, "writer": 200},
    "clear_conversation": {**READ, "reader": 403, "writer": 200},
    "list_messages": READ,
    "say": {**READ, "reader": 403, "writer": 201},
    "get_context": READ,
    "get_metrics": READ,
    "list_agents": READ,
    "summary": READ,
    "costs_histogram": READ,
    "tasks_histogram": READ,
    "tokens_histogram": READ,
    "performance": READ,
    "dashboard_list_tasks": READ,
    "task_detail": OF_TASK_1,
    "dashboard_list_agents": READ,
    "dashboard_performance": READ,
    "create_task": CREATES_TASK_1,
    "dashboard_create_task": CREATES_TASK_1,
    "change_task": CHANGES_TASK_1,
    "dashboard_change_task": CHANGES_TASK_1,
    "stop_task": CHANGES_TASK_1,
    "dashboard_stop_task": CHANGES_TASK_1,
    "answer_task": CREATES_TASK_1,
    "make_task_key": CREATES_TASK_1,
    "task_log": OF_TASK_1,
    "whole_log": OF_TASK_1,
    "log_part": OF_TASK_1,
    "knowledge_summary": OF_TASK_1,
    "dashboard_task_stream": OF_TASK_1,
    "task_table": READ,
    "overview": READ,
    "histogram": READ,
    "costs_by_subagent": READ,
    "registered_agents": READ,
    "registered_skills": ANY_READER,
    "machine": ANY_READER,
    "begin_session": {**ANY_READER, "reader": 201, "of task 1": 201, "of task 2": 201},
    "show_session": ANY_READER,
    "end_session": dict.fromkeys(CALLERS, 204),
    "health": OPEN,
    "platform_health": ANY_READER,
    "ready": OPEN,
    "status": ANY_READER,
    "prometheus": READ,
    "index": OPEN,
    "static_file": OPEN,
    "openapi_json": OPEN,
    "asyncapi_json": OPEN,
}
"""What each caller is answered by each endpoint, asked of task 1."""

PATHS = {
    "task_id": "1",
    "part": "metadata",
    "session_id": "a/b",
    "name": "shell.js",
    "session": "dashboard",
    "workflow_id": "helpdesk_assistant",
    "run_id": "r",
    "key": "notes.txt",
    "webhook_id": "static-deploys",
    "event_id": "evt-fbd786ab23d4d9e258a11621",
    "conversation_id": "1",
    "flow_id": "a%2Fb%23c",
}
BODIES = {
    "publish": output("1"),
    "create_task": {"task_id": "1", "source": "webhook"},
    "answer_task": {"content": "yes"},
    "make_task_key": {"task_id": "1"},
    "dashboard_create_task": {"task_id": "1", "source": "webhook"},
    "change_task": {"status": "running"},
    "dashboard_change_task": {"status": "running"},
    "change_workflow": {"enabled": True},
    "chat": {"message": "m"},
    "chat_in_session": {"message": "m"},
    "receive": {},
    "dashboard_receive": {},
    "create_conversation": {"title": "t"},
    "change_conversation": {"title": "t"},
    "say": {"role": "user", "content": "c"},
    "dashboard_create_conversation": {"title": "t"},
    "dashboard_change_conversation": {"title": "t"},
    "say_in_dashboard": {"role": "user", "content": "c"},
}
QUERIES = {"chat_in_session": "?session_id=s"}
TALK = {
    "topic": "conversation.created",
    "channel": "conversation:1",
    "payload": {"title": "t", "flow_id": "a/b#c"},
}
ARTIFACT = "/api/v1/workflows/helpdesk_assistant/runs/r/artifacts/notes.txt"
RUN = {"topic": "run.started", "payload": {"workflow_id": PATHS["workflow_id"], "run_id": PATHS["run_id"]}}


SOON = 3600.0


def keep_keys(folder: Path) -> dict[str, dict[str, str]]:
    """Keep keys beside the data: one that may do everything, one that was revoked, one that has expired."""
    headers = {}
    with changing(folder) as vault:
        for name in ("admin", "revoked", "expired"):
            at = time.time() - (2 * SOON if name == "expired" else 0)
            secret, made = make_key(name, SCOPES, (), at, "me", at + SOON)
            if name == "revoked":
                made = attrs.evolve(made, revoked_at=at, revoked_by="me")
            assert vault.add(PREFIX + name, made.to_text())
            headers[name] = {"X-API-Key": secret}
    return headers


@pytest.fixture
def kept(tmp_path: Path) -> dict[str, dict[str, str]]:
    """Return what carries each of the keys that are kept."""
    return keep_keys(embedded_form(tmp_path / "data").folder)


@pytest.fixture
async def guarded(kept: object, start: Start) -> Api:
    """Start a service with keys, a task of a session, and a run of a workflow."""
    api = await start(auth={"keys": KEYS}, workflows=(EXAMPLES,), webhooks=EXAMPLES.with_name("webhooks"))
    await api.publish(
        *(created("1", session_id="a/b"), output("1"), status("waiting_input", "1"), RUN, TALK),
        headers=CALLERS["writer"],
    )
    kept = await api.http.put(ARTIFACT, content=b"x", headers=CALLERS["writer"])
    assert kept.status_code == 201
    taken = await api.http.post("/webhooks/deploys", json={}, headers={"Idempotency-Key": "1"})
    assert taken.json()["event_id"] == PATHS["event_id"]
    return api


def url_of(endpoint: Endpoint) -> str:
    """Return an endpoint's path with its parameters filled in, and the query that it must have."""
    path = re.sub(r"\{(\w+)\}", lambda match: PATHS[match[1]], endpoint.plain_path)
    return f"{path}{QUERIES.get(endpoint.name, '')}"


async def ask(
    api: Api, endpoint: Endpoint, headers: dict[str, str], ticket: str | None = None
) -> httpx.Response:
    """Ask an endpoint; of a stream read only its head."""
    body = BODIES.get(endpoint.name)
    url = httpx.URL(url_of(endpoint))
    if ticket is not None:
        url = url.copy_add_param("ticket", ticket)
    request = api.http.stream(endpoint.method, url, headers=headers, json=body)
    async with request as answer:
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            await answer.aread()
        return answer


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
async def test_who_may_ask(guarded: Api, endpoint: Endpoint) -> None:
    """Each kind of caller is answered as the matrix says, and is told which scope or channel it lacks."""
    for caller, expected in MATRIX[endpoint.name].items():
        answer = await ask(guarded, endpoint, dict(CALLERS[caller]))
        just_started = endpoint.name == "ready" and answer.status_code == 503
        assert (answer.status_code, caller) == (expected, caller) or just_started
        if expected == 403:
            assert "scope" in answer.json()["detail"] or "channel" in answer.json()["detail"]


BY_KEY_ALONE = {"begin_session", "make_task_key"}
"""Endpoints at which nothing that was bought with a key counts as the key."""


def answer_to(endpoint: Endpoint, kind: str) -> int | None:
    """Return how a kind of key is answered, by the declaration and the matrix; ``None``: let in."""
    row = MATRIX[endpoint.name]
    if endpoint.scope is None:
        return row["nobody"]
    match kind:
        case "revoked" | "expired":
            return row["unknown"]
        case "ticket":
            return row["reader"] if endpoint.takes_tickets else row["nobody"]
        case "session" | "task key" if endpoint.name in BY_KEY_ALONE:
            return 403
        case "session":
            return row["reader"]
        case "task key":
            return row["of task 1"]
    return None


@pytest.mark.parametrize("kind", ["revoked", "expired", "ticket", "session", "task key", "admin"])
async def test_what_comes_of_a_key_may_no_more_than_the_key(
    guarded: Api, kept: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Each further kind of key is answered by every endpoint as its declaration and the matrix say."""
    monkeypatch.setattr(refused, "FREE", len(ENDPOINTS))
    http, reader, one = guarded.http, CALLERS["reader"], CALLERS["of task 1"]
    ticket, headers = None, kept.get(kind, {})
    match kind:
        case "ticket":
            ticket = (await http.post("/api/v1/stream-tickets", headers=reader)).json()["ticket"]
        case "session":
            begun = await http.post("/api/v1/session", headers=reader)
            headers = {"Cookie": begun.headers["set-cookie"].partition(";")[0]}
        case "task key":
            asked = await http.post("/api/v1/task-keys", headers=one, json={"task_id": "1"})
            headers = {"X-API-Key": asked.json()["key"]}
    wrong = {}
    for endpoint in ENDPOINTS:
        http.cookies.clear()
        answer = await ask(guarded, endpoint, headers, ticket)
        expected = answer_to(endpoint, kind)
        # An earlier request may have ended the task, or switched a webhook off: that refuses no key.
        refusals = {401} if endpoint.scope is None else {401, 403}
        let_in = (expected is None or expected < 400) and answer.status_code not in refusals
        if answer.status_code != expected and not let_in:
            wrong[endpoint.name] = (answer.status_code, expected)
    assert not wrong


def test_the_matrix_knows_every_endpoint() -> None:
    """A new endpoint must say here who may ask."""
    assert set(MATRIX) == {endpoint.name for endpoint in ENDPOINTS}
    assert len(ENDPOINTS) == len(MATRIX), "two endpoints have one name"


@pytest.mark.parametrize("package", [routes, dashboard], ids=lambda package: package.__name__)
def test_every_module_with_endpoints_is_served(package: Any) -> None:
    """No module declares endpoints that its package leaves out of those that are served."""
    names = (file.stem for file in Path(package.__file__).parent.glob("*.py"))
    modules = [import_module(f"{package.__name__}.{name}") for name in names if name != "__init__"]
    assert {one for one in modules if hasattr(one, "ENDPOINTS")} == set(package.MODULES)


def test_every_endpoint_says_what_it_does() -> None:
    """Each has a summary, and an example of its answer where that is JSON."""
    for endpoint in ENDPOINTS:
        assert endpoint.summary.endswith("."), endpoint.name
        assert not endpoint.tag or endpoint.described.answer
        for cls in endpoint.answers:
            assert isinstance(endpoint.example, get_origin(cls) or cls), endpoint.name


def methods_by_path() -> Iterator[tuple[str, set[str]]]:
    """Yield each path with the methods that it has."""
    for path in {endpoint.path for endpoint in ENDPOINTS}:
        methods = {endpoint.method for endpoint in ENDPOINTS if endpoint.path == path}
        yield path, methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())


@pytest.mark.parametrize("keys", [KEYS, ()])
async def test_no_shared_cache_keeps_what_took_a_key(start: Start, keys: Any) -> None:
    """Where keys are set, whatever asks for one says that no cache may keep it, refusals as well."""
    api = await start(auth={"keys": keys})
    api.http.headers["X-API-Key"] = "w"
    await api.publish(output())
    del api.http.headers["X-API-Key"]
    full_log = "/api/v1/tasks/1/logs/full"
    for path in ("/api/v1/tasks", "/api/v1/tasks/none", "/api/v1/events", "/api/v1/health", full_log):
        for secret in ("r", ""):
            answer = await api.http.get(f"{api.url}{path}", headers={"X-API-Key": secret} if secret else {})
            if keys:
                assert answer.headers["Cache-Control"].split(", ")[0] == "no-store", path
                assert {"Authorization", "X-API-Key"} <= set(answer.headers["Vary"].split(", ")), path
            elif path != full_log:
                assert "Cache-Control" not in answer.headers, path
    stream = await api.http.get(f"{api.url}/api/health")
    assert "Cache-Control" not in stream.headers


async def test_options_tell_the_methods(start: Start) -> None:
    """Every path says which methods it has, and a configured page is allowed just those."""
    api = await start(auth={"keys": KEYS}, server={"cors_origins": ("https://app.example",)})
    page = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
    for path, methods in methods_by_path():
        url = re.sub(r"\{(\w+)(:\w+)?\}", lambda match: PATHS[match[1]], path)
        answer = await api.http.options(url, headers=page)
        assert answer.status_code == 200, path
        assert set(answer.headers["allow"].split(", ")) == methods
        assert set(answer.headers["access-control-allow-methods"].split(", ")) == methods
        strange = await api.http.options(url, headers={**page, "Origin": "https://evil.example"})
        assert "access-control-allow-methods" not in strange.headers


# Counts


def test_durations_are_counted_by_their_bounds() -> None:
    """A duration counts where it is at most the bound."""
    counts = RequestCounts()
    for seconds in (0.0, BOUNDS[0], BOUNDS[0] * 1.1, 99.0):
        counts.add("GET", "/x", 200, seconds)
    durations = counts.durations["GET", "/x"]
    assert durations.counts == [2, 1, *[0] * (len(BOUNDS) - 2), 1]
    assert durations.seconds == pytest.approx(99 + BOUNDS[0] * 2.1)
    assert counts.answered == {("GET", "/x", 200): 4}


async def test_requests_are_counted_by_endpoint(api: Api) -> None:
    """Metrics say of each endpoint how it answered and how long that took, whichever way was taken."""
    request = request_head("GET", "/api/v1/tasks/none", {"Host": "localhost"})
    for way in (request, long_way(request)):
        await exchange(api.url, way)
    await api.get("/api/v1/tasks")
    text = (await api.http.get("/metrics")).text
    labels = 'method="GET",route="/api/v1/tasks/{task_id}"'
    assert f'heliograph_http_requests_total{{{labels},status="404"}} 2.0' in text
    assert f'heliograph_http_request_seconds_bucket{{le="+Inf",{labels}}} 2.0' in text
    assert f"heliograph_http_request_seconds_count{{{labels}}} 2.0" in text
    assert 'heliograph_http_requests_total{method="GET",route="/api/v1/tasks",status="200"} 1.0' in text


async def test_the_process_is_told(api: Api) -> None:
    """Metrics say how much memory, processor time and descriptors it takes, and how late tasks are woken."""
    text = (await api.http.get("/metrics")).text
    figures = dict(re.findall(r"^heliograph_(\w+) (\S+)$", text, re.MULTILINE))
    assert float(figures["process_memory_bytes"]) > 10**7
    assert float(figures["process_cpu_seconds_total"]) > 0
    assert float(figures["process_open_files"]) > 3
    assert "event_loop_delay_seconds_count" in figures
    assert 'heliograph_event_loop_delay_seconds_bucket{le="+Inf"}' in text


# Spans


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Record spans in memory; set up before the service starts, as the SDK is."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter


def test_without_an_sdk_nothing_records() -> None:
    """The API alone makes no spans."""
    assert not recording()


PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_every_request_has_a_span(spans: InMemorySpanExporter, api: Api) -> None:
    """By either way a request has a span with its route and status, below the caller's."""
    request = request_head("GET", "/api/v1/tasks/none?x=1", {"Host": "localhost:5", "traceparent": PARENT})
    for way in (request, long_way(request)):
        await exchange(api.url, way)
    short, long = spans.get_finished_spans()
    for span in (short, long):
        assert (span.name, span.kind) == ("GET /api/v1/tasks/{task_id}", SpanKind.SERVER)
        assert span.parent is not None
        assert f"{span.parent.trace_id:032x}-{span.parent.span_id:016x}" in PARENT
        attributes = dict(span.attributes or {})
        assert attributes["http.response.status_code"] == 422
        assert attributes["http.route"] == "/api/v1/tasks/{task_id}"
        assert (attributes["url.path"], attributes["http.request.method"]) == ("/api/v1/tasks/none", "GET")
        assert (attributes["server.address"], attributes["server.port"]) == ("localhost", 5)
        assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    ("host", "address", "port"),
    [("localhost:5", "localhost", 5), ("[::1]:5", "::1", 5), ("[::1]", "::1", None), ("a", "a", None)],
)
async def test_a_span_has_the_address_that_was_asked(
    spans: InMemorySpanExporter, start: Start, host: str, address: str, port: int | None
) -> None:
    """Address and port are told apart, in whatever form the host is written."""
    api = await start()
    await exchange(api.url, request_head("GET", "/api/v1/tasks", {"Host": host}))
    attributes = dict(spans.get_finished_spans()[0].attributes or {})
    assert (attributes["server.address"], attributes.get("server.port")) == (address, port)


async def test_a_stream_has_a_span_for_its_handshake(spans: InMemorySpanExporter, api: Api) -> None:
    """The span of a stream ends when the stream begins."""
    async with await open_ws(api.url) as watch:
        assert watch.status == 101
        (span,) = spans.get_finished_spans()
    assert span.name == "GET /ws"
    assert dict(span.attributes or {})["http.response.status_code"] == 101


async def test_a_failure_is_told_in_the_span(
    spans: InMemorySpanExporter, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug is an error of the span; what a client did wrong is none."""

    def broken(self: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr("heliograph.http.api.routes.tasks.TaskListing.filter", broken)
    assert (await api.http.get("/api/v1/tasks")).status_code == 500
    (span,) = spans.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert dict(span.attributes or {})["error.type"] == "500"


def test_spans_are_sent_where_the_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the standard variables nothing is set up; a wrong one is named."""
    monkeypatch.setattr(trace, "set_tracer_provider", lambda provider: set_up.append(provider))
    set_up: list[TracerProvider] = []
    for environ in ({}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_SDK_DISABLED": "true"}):
        with exporting(environ):
            assert not set_up
    with exporting({"OTEL_TRACES_EXPORTER": "console"}):
        (provider,) = set_up
        assert provider.resource.attributes["service.name"] == "heliograph"
    with pytest.raises(SettingsError, match="OTEL_TRACES_EXPORTER"), exporting({"OTEL_TRACES_EXPORTER": "x"}):
        pass


def test_views_know_no_framework() -> None:
    """The first argument of every view is the services: nothing of a request is found by the way."""
    for endpoint in ENDPOINTS:
        assert next(iter(endpoint.view.__annotations__.values())) in {"Services", Services}, endpoint.name


async def test_the_fleet_is_for_keys_that_may_see_it(guarded: Api) -> None:
    """A key for some channels is told nothing of the fleet's tasks and workflows, and a stranger nothing."""
    await guarded.publish(status("queued", "7"), headers=CALLERS["writer"])
    for caller, told in (("reader", True), ("of task 1", False)):
        headers = CALLERS[caller]
        assert bool((await guarded.get("/api/v1/status", headers=headers))["tasks"]) == told
        assert (await guarded.get("/api/status", headers=headers))["queue_length"] == int(told)
        assert (await guarded.get("/api/v1/health", headers=headers))["workflows"]["total"] == 3 * int(told)
    assert (await guarded.get("/api/health"))["queue_length"] == 0


def test_a_declaration_must_be_able_to_ask_for_channels() -> None:
    """Channels follow from parameters: an endpoint that reads none could not check them."""

    async def view(services: Services, who: Identity) -> Answer:
        """Answer."""
        return Answer(200, b"")

    with pytest.raises(TypeError, match="must take parameters"):
        Endpoint("GET", "/x", view, channels=lambda asked: ("*",))
