"""The API's own description, made once for the settings in force.

It is made in a thread, since that takes a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import trio

from heliograph.config import Settings
from heliograph.http.api.documents import asyncapi, openapi
from heliograph.http.api.endpoint import Described, Endpoint
from heliograph.http.api.routes.page import Asset, Cached
from heliograph.http.api.services import Services
from heliograph.http.rules.answer import Answer
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.bodies import JSON
from heliograph.http.rules.schema import OBJECT
from heliograph.http.rules.shapes import to_json

TAGGED = Described(
    "The document.",
    media={JSON: {"schema": OBJECT}},
    headers=["ETag"],
    others={"304": {"description": "The client has this version already.", "headers": ["ETag"]}},
)


def with_descriptions(others: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """Return these endpoints, and the two that describe them all."""

    async def openapi_json(services: Services, who: Identity, asked: Cached) -> Answer:
        """Describe every HTTP endpoint, as OpenAPI 3.1."""
        made = await trio.to_thread.run_sync(_openapi, services.settings, endpoints)
        return made.answer(asked)

    async def asyncapi_json(services: Services, who: Identity, asked: Cached) -> Answer:
        """Describe the WebSocket and the event streams, as AsyncAPI 3.0."""
        made = await trio.to_thread.run_sync(_asyncapi, services.settings)
        return made.answer(asked)

    endpoints = (
        *others,
        Endpoint("GET", "/openapi.json", openapi_json, "service", TAGGED, scope=None),
        Endpoint("GET", "/asyncapi.json", asyncapi_json, "service", TAGGED, scope=None),
    )
    return endpoints


@lru_cache(maxsize=1)
def _openapi(settings: Settings, endpoints: tuple[Endpoint, ...]) -> Asset:
    return Asset.of(to_json(openapi.document(settings, endpoints)), JSON)


@lru_cache(maxsize=1)
def _asyncapi(settings: Settings) -> Asset:
    return Asset.of(to_json(asyncapi.document(settings)), JSON)
