"""The app: a pure function of the services it is given."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import lru_cache

import attrs
from quart import Response, current_app, g, request, websocket
from quart_trio import QuartTrio

from heliograph.actors.appender import Appender
from heliograph.actors.histogram import Histogram
from heliograph.actors.hub import Hub
from heliograph.actors.subscriber import Subscriber
from heliograph.config import ServerSettings, Settings, is_loopback
from heliograph.http.api.metrics import StorageStats
from heliograph.http.rules import problems
from heliograph.http.rules.asked import Asked
from heliograph.http.rules.auth import Authenticator
from heliograph.http.streams.registry import StreamRegistry
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
READING = ("GET", "HEAD", "OPTIONS")
_PORT = re.compile(r":[0-9]*$")


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
    from heliograph.http.api.routes import agents, analytics, documents, events, page, streams, system, tasks

    app = QuartTrio("heliograph", static_folder=None)
    app.extensions["heliograph"] = given
    app.config["MAX_CONTENT_LENGTH"] = given.settings.server.max_request_bytes
    app.config["RESPONSE_TIMEOUT"] = None
    app.config["BODY_TIMEOUT"] = 60
    problems.install(app)
    for routes in (agents, analytics, documents, events, page, streams, system, tasks):
        app.register_blueprint(routes.blueprint)

    @app.before_request
    async def identify() -> None:
        require = require_host if request.method in READING else require_origin
        require(given.settings, request)
        if request.path in OPEN_PATHS or request.path.startswith("/static/") or request.method == "OPTIONS":
            return
        # A ticket is for looking on: if it could do more, it could buy the next one, for ever.
        ticket = request.args.get("ticket") if request.method in READING else None
        g.identity = given.authenticator.require(request.headers, ticket)

    @app.before_websocket
    async def check_origin() -> None:
        require_origin(given.settings, websocket)

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


def require_host(settings: Settings, asked: Asked) -> None:
    """Check, where anybody is served, that a request names this machine or a configured page's.

    Any other name belongs to somebody who can have it resolve to this machine, and whose page would then be
    of our own origin.

    Raises:
        Forbidden: It does not.
    """
    host = asked.headers.get("Host")  # no browser leaves it out
    if not (settings.auth.keys or host is None or _is_ours(host) or _is_configured(settings.server, host)):
        raise Forbidden(
            f"the host {host[:100]} is not served without API keys: ask for 127.0.0.1 or localhost, "
            "set HELIOGRAPH_API_KEYS, or name its origin in CORS_ORIGINS"
        )


@lru_cache(maxsize=256)
def _is_ours(host: str) -> bool:
    """Tell whether a host, with or without its port, is this machine; every publish request asks.

    A name without a dot (a container's, a machine's) is the local network's own, which no stranger can have
    resolve.
    """
    name = _PORT.sub("", host).strip("[]")
    return is_loopback(name) or not (set(".:") & set(name))


def _is_configured(settings: ServerSettings, host: str) -> bool:
    return any(origin in {"*", f"http://{host}", f"https://{host}"} for origin in settings.cors_origins)


def require_origin(settings: Settings, asked: Asked) -> None:
    """Check the page that opens a WebSocket or changes something; programs that are no browsers name none.

    Raises:
        Forbidden: It may not use the API.
    """
    require_host(settings, asked)
    origin = asked.headers.get("Origin")
    if origin is not None and not origin_allowed(settings.server, origin, asked.headers.get("Host", "")):
        raise Forbidden(f"the origin {origin[:100]} is not in CORS_ORIGINS")


def cors_headers(settings: ServerSettings, asked: Asked) -> dict[str, str]:
    """Return the CORS headers of an answer."""
    origin = asked.headers.get("Origin")
    if origin is None or not origin_allowed(settings, origin, asked.headers.get("Host", "")):
        return {}
    headers = {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Expose-Headers": "Retry-After, X-Stream-Cursor",
        "Vary": "Origin",
    }
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
