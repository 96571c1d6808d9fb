"""The parts of an OpenAPI document that many operations share: headers, answers and problems."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any

import orjson
from werkzeug.exceptions import RequestedRangeNotSatisfiable, RequestTimeout

from heliograph.config import EventSettings
from heliograph.http.rules.bodies import BODY_SECONDS, JSON, NDJSON
from heliograph.http.rules.parameters import MAX_LIMIT
from heliograph.http.rules.problems import answer_to
from heliograph.http.rules.schema import CURSOR, TEXT, Schema, ref, whole
from heliograph.model import errors

Part = Mapping[str, Any]

REFUSALS: Mapping[type[Exception], Exception] = {
    type(error): error
    for error in (
        errors.Malformed("the body is not valid JSON: unexpected end of data: line 1 column 1 (char 0)"),
        errors.Unauthenticated("send X-API-Key or Authorization: Bearer"),
        errors.Forbidden("this needs the scope publish; dashboard has read"),
        errors.NotFound("there is no task '42'; GET /api/v1/tasks lists those that exist"),
        errors.WorkflowNotFound("there is no workflow 'nightly'. Available: ['weekly']"),
        errors.RunNotFound("workflow 'nightly' has no run 'run-8'"),
        errors.ArtifactNotFound("the run has no artifact 'collect.json'"),
        errors.BadSignature("mismatch", "the signature is not that of this body and the secret"),
        errors.RepeatedDelivery("the delivery 72d3162e was taken before"),
        errors.NotAsked("ada has answered already"),
        errors.Conflict("item 0: the key '42/2' was used for a different event"),
        errors.TooLarge(
            f"a request may have at most {EventSettings().max_per_request} events: send the others in "
            "further requests"
        ),
        errors.UnsupportedMedia(f"text/plain is not read here; send {JSON} or {NDJSON[0]}"),
        errors.Invalid.field("limit", f"must be a whole number from 1 to {MAX_LIMIT}"),
        errors.Unavailable("the log has not been reached yet"),
        RequestedRangeNotSatisfiable(27),
        RequestTimeout(f"the body did not arrive within {BODY_SECONDS} seconds"),
    )
}
"""By kind of error that an endpoint may answer with: an example of it."""


def _header(schema: Schema, text: str) -> Part:
    return {"description": text, "schema": schema}


HEADERS: Mapping[str, Part] = {
    "ETag": _header(TEXT, "Changes with the content; send it back as If-None-Match."),
    "Retry-After": _header(whole(1), "Seconds to wait before the same request is worth another try."),
    "Set-Cookie": _header(TEXT, "The session's cookie."),
    "WWW-Authenticate": _header(TEXT, "The way to name a key."),
    "X-Stream-Cursor": _header(CURSOR, "The cursor of this answer: a stream goes on from here."),
}

KEYS = ("key", "bearer")
TICKETS_TOO = (*KEYS, "ticket")
"""The ways to authenticate a request that only reads."""


def response(text: str, content: Part | None = None, *names: str) -> Part:
    """Describe an answer, with its media types and the names of its headers."""
    described = {
        "description": text,
        "headers": {name: HEADERS[name] for name in names} or None,
        "content": content,
    }
    return {name: part for name, part in described.items() if part is not None}


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
