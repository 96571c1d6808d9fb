"""Whatever is wrong with a request, its field is named and nothing is kept: every endpoint, as declared.

What to get wrong follows from the declarations, so a new endpoint is walked without a word here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin, get_type_hints

import attrs
import orjson
import pytest
from tests.http.api.test_endpoints import BODIES, PATHS, QUERIES
from tests.http.conftest import Api, created

from heliograph.http.api.endpoint import Endpoint
from heliograph.http.api.registry import ENDPOINTS
from heliograph.http.rules.bodies import JsonBody
from heliograph.http.rules.parameters import Flag, Moment, Text, Whole, Word, Words, parameters_of
from heliograph.http.rules.schema import OTHERS, json_name

BOTH = {**BODIES, "dashboard_configure_webhook": {"name": "n", "provider": "custom"}}
EVERY = [one for one in ENDPOINTS if one.tag and one.scope is not None]
WITH_BODY = [one for one in EVERY if isinstance(one.body, JsonBody)]
LONG = "x" * 1_001
WRONG: dict[type, str] = {Whole: "many", Flag: "perhaps", Word: "nonsense", Words: "nonsense", Moment: "soon"}
"""By the kind of a parameter: what it is not."""


def url_of(endpoint: Endpoint) -> str:
    """Return an endpoint's path with its parameters filled in, and a query to go on with."""
    path = re.sub(r"\{(\w+)\}", lambda match: PATHS[match[1]], endpoint.plain_path)
    return f"{path}{QUERIES.get(endpoint.name, '?')}"


def bad_queries(endpoint: Endpoint) -> Iterator[tuple[str, str]]:
    """Yield what may be wrong in a query, with the field that is to be named."""
    yield "nonsense=1", "nonsense"
    if endpoint.parameters is None:
        return
    for one in parameters_of(endpoint.parameters):
        if one.where != "query":
            continue
        kind: Any = one.kind
        if type(kind) in WRONG:
            yield f"{one.name}={WRONG[type(kind)]}", one.name
        if isinstance(kind, Whole):
            yield f"{one.name}=-1", one.name
            yield f"{one.name}={'9' * 30}", one.name
        if isinstance(kind, Text) and kind.high is not None:
            yield f"{one.name}={'x' * (kind.high + 1)}", one.name
        if one.name == "cursor":
            for foreign in ("x", "WyJhIiwiYiIsImMiXQ", "bnVsbA", "W10", "8000000000000-0"):
                yield f"cursor={foreign}", "cursor"


def plain(hint: Any) -> Any:
    """Return a field's type without what is said of it, and without that it may be null."""
    while get_args(hint) and get_origin(hint) is not None:
        options = [one for one in get_args(hint) if one is not type(None)]
        if not hasattr(hint, "__metadata__") and len(options) != 1:
            return get_origin(hint)
        hint = options[0]
    return hint


def bad_bodies(endpoint: Endpoint) -> Iterator[tuple[Any, str]]:
    """Yield what may be wrong in a body, with the field that is to be named."""
    assert isinstance(endpoint.body, JsonBody)
    cls = endpoint.body.cls
    good = BOTH.get(endpoint.name, {})
    hints = get_type_hints(cls, include_extras=True)
    fields = {json_name(field.name): field for field in attrs.fields(cls)}
    if fields.pop(OTHERS, None) is None:
        yield {**good, "nonsense": 1}, "nonsense"
    for value in (5, "text", None, [], [good]):
        yield value, ""
    for name, field in fields.items():
        kind = plain(hints[field.name])
        if field.default is attrs.NOTHING:
            yield {key: value for key, value in good.items() if key != name}, name
            yield {**good, name: None}, name
        if kind is Any:
            continue
        yield {**good, name: [[]] if kind is not str else 5}, name
        yield {**good, name: {"a": [5]} if kind is str else "\0"}, name
        said: dict[str, Any] = {}
        for one in getattr(hints[field.name], "__metadata__", ()):
            said |= one.more
        for inner in get_args(hints[field.name]):
            for one in getattr(inner, "__metadata__", ()):
                said |= one.more
        if "maxLength" in said:
            yield {**good, name: "x" * (said["maxLength"] + 1)}, name
        if kind is str:
            yield {**good, name: "a\0b"}, name


@pytest.fixture
async def filled(api: Api) -> Api:
    """Start a service with a task and a conversation."""
    talk = {"topic": "conversation.created", "channel": "conversation:1", "payload": {"title": "t"}}
    await api.publish(created("1", session_id="a/b"), talk)
    return api


async def kept(api: Api) -> Any:
    """Return all that the service has kept, but what it says of itself."""
    events = (await api.get("/api/v1/events?limit=500"))["events"]
    told = [event["id"] for event in events if event["channel"] not in {"analytics", "status"}]
    return told, [hook["webhook_id"] for hook in await api.get("/api/webhooks")]


def fields_of(problem: dict[str, Any]) -> set[str]:
    """Return the names of the fields that a problem tells of, of nested ones their outermost."""
    return {re.split(r"[.\[]", error["field"])[0] for error in problem.get("errors", ())}


async def test_a_bad_query_is_named(filled: Api) -> None:
    """Wrong values, unknown names, too long texts and foreign cursors: 422 with the parameter's name."""
    before = await kept(filled)
    failures = []
    for endpoint in EVERY:
        body = BOTH.get(endpoint.name)
        for query, field in bad_queries(endpoint):
            url = url_of(endpoint).replace("?", f"?{query}&")  # of two values the first counts
            sent = None if body is None else orjson.dumps(body)
            answer = await filled.http.request(endpoint.method, url, content=sent)
            if answer.status_code != 422 or fields_of(answer.json()) != {field}:
                failures.append((endpoint.method, url, answer.text[:200]))
    assert not failures, failures
    assert await kept(filled) == before


BROKEN = (b"", b"{", b"\xff", b'{"a": NaN}', b'{"a": "\\ud83d"}', b"[" * 100_000)


async def test_a_bad_body_is_named(filled: Api) -> None:
    """Broken JSON, wrong types, unknown and missing fields, too long texts are told, and nothing is kept."""
    before = await kept(filled)
    failures = []

    async def send(endpoint: Endpoint, content: bytes, status: int, field: str | None, kind: str) -> None:
        head = {"Content-Type": kind}
        problem = await filled.problem(endpoint.method, url_of(endpoint), content=content, headers=head)
        if problem["status"] != status or not (field is None or field in fields_of(problem)):
            failures.append((endpoint.name, content[:100], field, problem))

    for endpoint in WITH_BODY:
        assert isinstance(endpoint.body, JsonBody)
        for body, field in bad_bodies(endpoint):
            await send(endpoint, orjson.dumps(body), 422, field, "application/json")
        good = orjson.dumps(BOTH.get(endpoint.name, {}))
        for content in (*BROKEN, good[:-1], good + b"x"):
            await send(endpoint, content, 400, None, "application/json")
        await send(endpoint, b" " * (endpoint.body.most + 1), 413, None, "application/json")
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            await send(endpoint, good, 415, None, kind)
    assert not failures, failures
    assert await kept(filled) == before
