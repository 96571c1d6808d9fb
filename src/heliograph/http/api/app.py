"""The app: Quart's routes, made from the declarations of the endpoints.

Quart parses and routes; ``serve`` answers. Only requests to no endpoint are answered here: OPTIONS, an
unknown path, and a method that a path does not have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from functools import cache, partial
from typing import Any

from quart import Response, has_websocket_context, request, websocket
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map

from heliograph.http.api.endpoint import Endpoint, Streamed
from heliograph.http.api.registry import ENDPOINTS
from heliograph.http.api.serve import Outcome, serve, slowed
from heliograph.http.api.services import Services
from heliograph.http.rules.access import common_headers, preflight_headers, require_host
from heliograph.http.rules.answer import Answer
from heliograph.http.rules.parameters import TICKET
from heliograph.http.rules.problems import answer_to
from heliograph.http.wire import connection
from heliograph.model.errors import Unauthenticated

View = Callable[..., Awaitable[Any]]


def create_app(services: Services) -> QuartTrio:
    """Make the app."""
    app = QuartTrio("heliograph", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = services.settings.server.max_request_bytes
    app.config["RESPONSE_TIMEOUT"] = None
    app.config["BODY_TIMEOUT"] = 60
    app.url_map = _routes()
    for endpoint in ENDPOINTS:
        app.view_functions[endpoint.name] = _over_http(services, endpoint)
        if endpoint.upgrade:
            app.view_functions[f"{endpoint.name}_upgrade"] = _over_websocket(services, endpoint)
    for rule, methods in _methods().items():
        app.view_functions[f"OPTIONS {rule}"] = _options(services, [*methods, "OPTIONS"])

    @app.errorhandler(Exception)
    async def refuse(error: Exception) -> Response:
        return (await _refusal(services, error)).response()

    return app


@cache
def _routes() -> Map:
    """Compile the routes of all endpoints, once for all apps, since it takes a tenth of a second."""
    app = QuartTrio("routes", static_folder=None)
    route = partial(app.add_url_rule, provide_automatic_options=False)
    for endpoint in ENDPOINTS:
        route(endpoint.rule, endpoint.name, methods=[endpoint.method])
        if endpoint.upgrade:
            app.add_websocket(endpoint.rule, f"{endpoint.name}_upgrade")
    for rule in _methods():
        route(rule, f"OPTIONS {rule}", methods=["OPTIONS"])
    return app.url_map


def _methods() -> dict[str, list[str]]:
    """Return the methods of each path."""
    methods: defaultdict[str, list[str]] = defaultdict(list)
    for endpoint in ENDPOINTS:
        methods[endpoint.rule] += ["GET", "HEAD"] if endpoint.method == "GET" else [endpoint.method]
    return methods


def _over_http(services: Services, endpoint: Endpoint) -> View:
    async def view(**path: str) -> Response:
        return _respond(await serve(endpoint, services, request, path, request.body))

    return view


def _over_websocket(services: Services, endpoint: Endpoint) -> View:
    async def view(**path: str) -> Response | None:
        outcome = await serve(endpoint, services, websocket, path, b"")
        if isinstance(outcome, Answer | Streamed):
            return _respond(outcome)
        connection.current.get().detach(outcome)
        return None

    return view


def _respond(outcome: Outcome) -> Response:
    """Make Quart's response; a stream's is empty, since the stream takes the connection over."""
    if isinstance(outcome, Answer):
        return outcome.response()
    if isinstance(outcome, Streamed):
        headers = dict(outcome.headers)
        return Response(outcome.chunks, outcome.status, headers, content_type=outcome.content_type)
    connection.current.get().detach(outcome)
    return Response(b"")


def _options(services: Services, methods: Iterable[str]) -> View:
    settings = services.settings

    async def view(**path: str) -> Response:
        require_host(settings, request, keyed=services.authenticator.keyed)
        headers = preflight_headers(settings.server, request, methods)
        return Answer(200, b"", headers=headers | common_headers(settings.server, request)).response()

    return view


async def _refusal(services: Services, error: Exception) -> Answer:
    """Answer a request to no endpoint; only authenticated callers learn which paths exist."""
    asked = websocket if has_websocket_context() else request
    headers = common_headers(services.settings.server, asked)
    if isinstance(error, HTTPException):
        try:
            require_host(services.settings, asked, keyed=services.authenticator.keyed)
            services.authenticator.require(asked.headers, asked.args.get(TICKET), connection.peer_address())
        except Exception as refused:
            error = refused
            if isinstance(refused, Unauthenticated):
                error = await slowed(services, asked, refused)
    answer = answer_to(error)
    return Answer(answer.status, answer.body, answer.content_type, {**answer.headers, **headers})
