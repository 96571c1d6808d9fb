"""Shortcuts: requests that are served without an engine and a framework.

As an ordinary Quart-Trio route each request costs one to three milliseconds, nearly all of it for tasks,
scopes and contexts. Both ways call ``serve``, which answers; here it is called with a head that the wire has
parsed (see ``connection`` for which requests those are). Every endpoint has a shortcut whose answer is whole,
or a stream's beginning.

A shortcut declines a request that it can't serve before it has any effect, and the request takes the long
way: a body over the limit, a WebSocket's path without an upgrade, an answer that is written bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, partial
from typing import Any

from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, Rule

from heliograph.http.api.endpoint import Endpoint, Streamed
from heliograph.http.api.serve import serve
from heliograph.http.api.services import Services
from heliograph.http.rules.answer import Answer
from heliograph.http.wire.connection import Shortcut, Successor
from heliograph.http.wire.head import Head


class Shortcuts(dict[tuple[str, str], Shortcut]):
    """The shortcuts by method and path, of every endpoint that has one.

    Args:
        services: The actors and stores that the endpoints' views work with.
        endpoints: All endpoints.
    """

    def __init__(self, services: Services, endpoints: Iterable[Endpoint]) -> None:
        short = [endpoint for endpoint in endpoints if Streamed not in endpoint.forms]
        plain = [endpoint for endpoint in short if "{" not in endpoint.path]
        super().__init__({(one.method, one.path): partial(_serve, services, one, {}) for one in plain})
        self._services = services
        self._adapter = _routes(tuple(one for one in short if one not in plain)).bind("")
        self._last: tuple[Any, Shortcut | None] = (None, None)

    def __contains__(self, place: object) -> bool:
        return super().__contains__(place) or self._with_parameters(place) is not None

    def __missing__(self, place: tuple[str, str]) -> Shortcut:
        """Return the shortcut of a path with parameters."""
        found = self._with_parameters(place)
        if found is None:
            raise KeyError(place)
        return found

    def _with_parameters(self, place: Any) -> Shortcut | None:
        """Find a shortcut; the last one is remembered, since each is asked for twice."""
        last, found = self._last
        if place != last:
            found = self._find(*place)
            self._last = (place, found)
        return found

    def _find(self, method: str, path: str) -> Shortcut | None:
        # HEAD, which GET's rules also match, needs an answer without its body.
        if method == "HEAD" or "%" in path:
            return None
        try:
            endpoint, values = self._adapter.match(path, method)
        except HTTPException:
            return None
        return partial(_serve, self._services, endpoint, values)


@cache
def _routes(endpoints: tuple[Endpoint, ...]) -> Map:
    """Compile the routes of endpoints, once for all apps, since it takes a twentieth of a second."""
    return Map([Rule(one.rule, endpoint=one, methods=[one.method]) for one in endpoints])


async def _serve(
    services: Services, endpoint: Endpoint, path: Mapping[str, str], head: Head, body: bytes
) -> bytes | Successor | None:
    if len(body) > services.settings.server.max_request_bytes:
        return None
    if endpoint.upgrade and not head.upgrades:
        return None
    outcome = await serve(endpoint, services, head, path, body)
    if isinstance(outcome, Answer):
        return outcome.encoded()
    assert not isinstance(outcome, Streamed), "an endpoint that streams its answer has no shortcut"
    return outcome
