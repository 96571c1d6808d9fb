"""``/openapi.json``: every HTTP endpoint, as OpenAPI 3.1, made from its declaration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from heliograph import __version__
from heliograph.config import Settings
from heliograph.http.api.documents.parts import (
    HEADERS,
    KEYS,
    REFUSALS,
    TICKETS_TOO,
    Part,
    problem,
    refusals,
    response,
)
from heliograph.http.api.documents.schemas import GIVEN
from heliograph.http.api.endpoint import Endpoint
from heliograph.http.rules.bodies import JSON
from heliograph.http.rules.parameters import parameters_of
from heliograph.http.rules.problems import Problem
from heliograph.http.rules.schema import Components
from heliograph.http.rules.shapes import write
from heliograph.model import errors

DESCRIPTION = """\
Heliograph keeps what agents do, and shows it. An event that is acknowledged is kept; its id is a cursor. A
stream goes on from the cursor that an answer carries (`meta.stream_cursor`).

Every GET is answered to HEAD as well, without its body, and every path answers OPTIONS; another method than
a path has is answered by 405 with `Allow`. An endpoint that may answer 422 refuses query parameters that it
does not know; an empty parameter counts as absent. Errors are `application/problem+json` (RFC 9457). Where
no API keys are configured none is needed, and only this machine is served. The WebSocket `/ws`, and what
event streams say, is in `/asyncapi.json`.
"""

TAGS = {
    "tasks": "The work of agents, folded from events.",
    "events": "Events, as they were published.",
    "streams": "Events as they happen, as server-sent events; a WebSocket is at /ws.",
    "conversations": "Conversations of people with agents, and their messages.",
    "workflows": "Workflows by their files, their runs, and the traces of these.",
    "sessions": "Sums over the tasks of each session.",
    "webhooks": "Deliveries of other systems, their configuration, and the tasks that are made of them.",
    "agents": "The fleet, as its tasks tell of it.",
    "analytics": "Sums, averages and percentiles over any period.",
    "dashboard": "The dashboard API: bare lists, cursors in headers, and 0 or empty text for null.",
    "service": "The state of the service, and its documents.",
}
"""The tags by name, in the order in which they are shown; a new tag of an endpoint must stand here."""


def document(settings: Settings, endpoints: Iterable[Endpoint]) -> Mapping[str, Any]:
    """Make the document of a service with these settings and endpoints."""
    components = Components(GIVEN)
    components.of(Problem)
    paths: dict[str, dict[str, Part]] = {}
    for endpoint in endpoints:
        if endpoint.tag:
            described = paths.setdefault(endpoint.plain_path, {})
            described[endpoint.method.lower()] = _operation(endpoint, settings, components)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Heliograph",
            "version": __version__,
            "summary": "The live backend of dashboards for AI-agent fleets.",
            "description": DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": words} for name, words in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": components.schemas,
            "responses": {
                **dict(map(problem, REFUSALS.values())),
                "other": response(
                    "Another problem, such as 405 or 500.",
                    {"application/problem+json": {"schema": components.of(Problem)}},
                ),
            },
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer", "description": "The same keys."},
                "ticket": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "ticket",
                    "description": "Of POST /api/v1/stream-tickets, good for "
                    f"{settings.auth.ticket_seconds:g} seconds: for clients that can't set headers.",
                },
            },
        },
    }


def _operation(endpoint: Endpoint, settings: Settings, components: Components) -> Part:
    """Describe the operation of an endpoint."""
    keys = TICKETS_TOO if endpoint.takes_tickets else KEYS
    who = [errors.Forbidden] if endpoint.scope is None else [errors.Unauthenticated, errors.Forbidden]
    described = {
        "operationId": endpoint.name,
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "description": endpoint.described.more or None,
        "security": [] if endpoint.scope is None else [{name: [endpoint.scope]} for name in keys],
        "parameters": _parameters(endpoint, settings) or None,
        "requestBody": None if endpoint.body is None else endpoint.body.describe(settings, components),
        "responses": {
            str(endpoint.status): _answer(endpoint, components),
            **{status: _other(part) for status, part in endpoint.described.others.items()},
            **refusals([*who, *endpoint.refuses]),
            "default": {"$ref": "#/components/responses/other"},
        },
    }
    return {name: part for name, part in described.items() if part is not None}


def _parameters(endpoint: Endpoint, settings: Settings) -> list[Part]:
    """Describe the parameters in path, query and headers; ``Accept`` follows from the answer's content."""
    declared = () if endpoint.parameters is None else parameters_of(endpoint.parameters)
    return [one.describe(settings) for one in declared if not one.name.startswith("Accept")]


def _answer(endpoint: Endpoint, components: Components) -> Part:
    """Describe the good answer."""
    content: dict[str, Part] = {}
    for cls in endpoint.answers:
        content[JSON] = {"schema": components.of(cls), "example": orjson.loads(write(endpoint.example))}
    content |= endpoint.described.media
    return response(endpoint.described.answer, content or None, *endpoint.described.headers)


def _other(part: Part) -> Part:
    """Describe another answer, whose headers are given by their names."""
    if "headers" not in part:
        return part
    return {**part, "headers": {name: HEADERS[name] for name in part["headers"]}}
