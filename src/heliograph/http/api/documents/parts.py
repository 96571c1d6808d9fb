"""The parts of an OpenAPI document: parameters, headers, bodies, answers and operations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import orjson
from werkzeug.exceptions import HTTPVersionNotSupported, RequestTimeout

from heliograph.config import EventSettings
from heliograph.http.api.documents.examples import ANSWERS
from heliograph.http.api.documents.schemas import CURSOR, TEXT, Schema, ref, whole
from heliograph.http.rules.problems import answer_to
from heliograph.http.rules.requests import BODY_SECONDS, JSON, MAX_LIMIT, NDJSON
from heliograph.model import errors

Part = Mapping[str, Any]

REFUSALS: Mapping[type[Exception], Exception] = {
    type(error): error
    for error in (
        errors.Malformed("the body is not valid JSON: unexpected end of data: line 1 column 1 (char 0)"),
        errors.Unauthenticated("send X-API-Key or Authorization: Bearer"),
        errors.Forbidden("this needs the scope publish; dashboard has read"),
        errors.NotFound("there is no task '42'; GET /api/tasks lists those that exist"),
        errors.Conflict("item 0: the key '42/2' was used for a different event"),
        errors.TooLarge(
            f"a request may have at most {EventSettings().max_per_request} events: send the others in "
            "further requests"
        ),
        errors.UnsupportedMedia(f"text/plain is not read here; send {JSON} or {NDJSON[0]}"),
        errors.Invalid.field("limit", f"must be a whole number from 1 to {MAX_LIMIT}"),
        errors.Unavailable("the log has not been reached yet"),
        RequestTimeout(f"the body did not arrive within {BODY_SECONDS} seconds"),
        HTTPVersionNotSupported("streams are served over HTTP/1.1"),
    )
}
"""One of each kind that an endpoint may answer with."""


def _header(schema: Schema, text: str) -> Part:
    return {"description": text, "schema": schema}


HEADERS: Mapping[str, Part] = {
    "ETag": _header(TEXT, "Changes with the content; send it back as If-None-Match."),
    "Retry-After": _header(whole(1), "Seconds to wait before the same request is worth another try."),
    "WWW-Authenticate": _header(TEXT, "How to say who asks."),
    "X-Stream-Cursor": _header(CURSOR, "Where the answer stands: a stream goes on from here."),
}

READERS = ("key", "bearer", "ticket")
PUBLISHERS = ("key", "bearer")
"""A ticket is for looking on."""


def parameter(name: str, schema: Schema, text: str, where: str = "query", **more: Any) -> Part:
    """Describe a parameter."""
    return {"name": name, "in": where, "description": text, "schema": schema, **more}


def response(text: str, content: Part | None = None, *names: str) -> Part:
    """Describe an answer, with its media types and the names of its headers."""
    described = {
        "description": text,
        "headers": {name: HEADERS[name] for name in names} or None,
        "content": content,
    }
    return {name: part for name, part in described.items() if part is not None}


def json_of(name: str) -> Part:
    """Return the content of an answer that has a schema and an example of that name."""
    return {JSON: {"schema": ref(name), "example": ANSWERS[name]}}


def ok(text: str, name: str) -> Part:
    """Describe what is answered with 200 and JSON."""
    return {"200": response(text, json_of(name))}


def problem(error: Exception) -> tuple[str, Part]:
    """Describe how an error is answered; return its code, too."""
    answered = answer_to(error)
    example = orjson.loads(answered.body)
    exact = {name: {"const": example[name]} for name in ("type", "title", "status", "code")}
    content = {answered.content_type: {"schema": {**ref("Problem"), "properties": exact}, "example": example}}
    return example["code"], response(example["title"], content, *answered.headers)


def refusals(kinds: Iterable[type[Exception]]) -> dict[str, Part]:
    """Refer to the problems of some kinds, by status."""
    answers = sorted((answer_to(REFUSALS[kind]) for kind in kinds), key=attrgetter("status"))
    return {
        str(one.status): {"$ref": f"#/components/responses/{orjson.loads(one.body)['code']}"}
        for one in answers
    }


def operation(
    view: Callable[..., Any],
    tag: str,
    responses: Mapping[str, Part],
    *refused: type[Exception],
    scope: str | None = "read",
    keys: Sequence[str] = READERS,
    parameters: Sequence[Part] = (),
    body: Part | None = None,
    more: str = "",
) -> Part:
    """Describe what a route does.

    Args:
        view: The route's function: its name identifies the operation, its docstring sums it up.
        tag: The group that it stands in.
        responses: When all is well, by status.
        refused: Kinds of problems that it may answer with, besides those of anybody who may not ask.
        scope: What its caller must be allowed to; ``None``: it is open to all.
        keys: The ways to say who asks.
        parameters: All that it takes.
        body: What is sent to it.
        more: What the summary does not say.
    """
    summary = (inspect.getdoc(view) or view.__name__).partition("\n")[0]
    who = [errors.Forbidden] if scope is None else [errors.Unauthenticated, errors.Forbidden]
    described = {
        "operationId": view.__name__,
        "tags": [tag],
        "summary": summary,
        "description": more or None,
        "security": [] if scope is None else [{name: [scope]} for name in keys],
        "parameters": list(parameters) or None,
        "requestBody": body,
        "responses": {
            **responses,
            **refusals([*who, *refused]),
            "default": {"$ref": "#/components/responses/other"},
        },
    }
    return {name: part for name, part in described.items() if part is not None}
