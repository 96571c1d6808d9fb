"""The API's own description, made once for the settings that are in force."""

from __future__ import annotations

from functools import lru_cache

from quart import Blueprint, Response

from heliograph.config import Settings
from heliograph.http.api.app import services
from heliograph.http.api.routes.page import Asset, serve_asset
from heliograph.http.rules.requests import JSON, to_json

blueprint = Blueprint("documents", __name__)


@blueprint.get("/openapi.json")
async def openapi_json() -> Response:
    """Describe every HTTP endpoint, as OpenAPI 3.1."""
    return serve_asset(_openapi(services().settings))


@blueprint.get("/asyncapi.json")
async def asyncapi_json() -> Response:
    """Describe the WebSocket and the event streams, as AsyncAPI 3.0."""
    return serve_asset(_asyncapi(services().settings))


@lru_cache(maxsize=1)
def _openapi(settings: Settings) -> Asset:
    from heliograph.http.api.documents import openapi  # which describes these routes, too

    return Asset.of(to_json(openapi.document(settings)), JSON)


@lru_cache(maxsize=1)
def _asyncapi(settings: Settings) -> Asset:
    from heliograph.http.api.documents import asyncapi

    return Asset.of(to_json(asyncapi.document(settings)), JSON)
