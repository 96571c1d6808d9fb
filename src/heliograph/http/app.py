"""The app: a pure function of the services it is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
from quart import Response, current_app, g, request, websocket
from quart_trio import QuartTrio

from heliograph.actors.appender import Appender
from heliograph.actors.histogram import Histogram
from heliograph.actors.hub import Hub
from heliograph.actors.subscriber import Subscriber
from heliograph.config import ServerSettings, Settings
from heliograph.http import problems
from heliograph.http.asked import Asked
from heliograph.http.auth import Authenticator
from heliograph.http.metrics import StorageStats
from heliograph.http.stream import StreamRegistry
from heliograph.model.errors import Forbidden
from heliograph.storage.protocols import Log, Store

OPEN_PATHS = (
    "/",
    "/api/health",
    "/api/v1/health",
    "/api/ready",
    "/openapi.json",
    "/asyncapi.json",
    "/favicon.ico",
)


@attrs.frozen
class Services:
    """What routes work with."""

    settings: Settings
    log: Log
    store: Store
    appender: Appender
    subscriber: Subscriber
    hub: Hub
    histogram: Histogram
    streams: StreamRegistry
    authenticator: Authenticator
    ready: Callable[[], Awaitable[dict[str, str | None]]]
    storage_stats: Callable[[], StorageStats]


def services() -> Services:
    """Return the services of the running app."""
    found: Services = current_app.extensions["heliograph"]
    return found


def create_app(given: Services) -> QuartTrio:
    """Make the app."""
    from heliograph.http.routes import analytics, events, page, streams, system, tasks

    app = QuartTrio("heliograph", static_folder=None)
    app.extensions["heliograph"] = given
    app.config["MAX_CONTENT_LENGTH"] = given.settings.server.max_request_bytes
    app.config["RESPONSE_TIMEOUT"] = None
    app.config["BODY_TIMEOUT"] = 60
    problems.install(app)
    for routes in (analytics, events, page, streams, system, tasks):
        app.register_blueprint(routes.blueprint)

    @app.before_request
    async def identify() -> None:
        if request.path in OPEN_PATHS or request.path.startswith("/static/") or request.method == "OPTIONS":
            return
        g.identity = given.authenticator.require(request.headers, request.args.get("ticket"))

    @app.before_websocket
    async def check_origin() -> None:
        require_origin(given.settings.server, websocket)

    @app.after_request
    async def finish(response: Response) -> Response:
        for name, value in common_headers(given.settings.server, request).items():
            response.headers[name] = value
        return response

    return app


def origin_allowed(settings: ServerSettings, origin: str, host: str) -> bool:
    """Tell whether a page of this origin may use the API: it is ours, or configured."""
    allowed = settings.cors_origins
    return origin in allowed or "*" in allowed or origin.partition("://")[2] == host


def require_origin(settings: ServerSettings, asked: Asked) -> None:
    """Check the origin of the page that opens a WebSocket; programs that are no browsers send none.

    Raises:
        Forbidden: It may not use the API.
    """
    origin = asked.headers.get("Origin")
    if origin is not None and not origin_allowed(settings, origin, asked.headers.get("Host", "")):
        raise Forbidden(f"the origin {origin} is not in CORS_ORIGINS")


def cors_headers(settings: ServerSettings, asked: Asked) -> dict[str, str]:
    """Return the CORS headers of an answer."""
    origin = asked.headers.get("Origin")
    if origin is None or not origin_allowed(settings, origin, asked.headers.get("Host", "")):
        return {}
    headers = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
    if asked.method == "OPTIONS":
        headers |= {
            "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
            "Access-Control-Allow-Headers": (
                "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-API-Key"
            ),
            "Access-Control-Max-Age": "600",
        }
    return headers


def common_headers(settings: ServerSettings, asked: Asked) -> dict[str, str]:
    """Return the headers that every answer to a request has."""
    return {"X-Content-Type-Options": "nosniff", **cors_headers(settings, asked)}
