"""Shortcuts: the requests that come by the thousand, served without an engine and a framework.

Publishing an event, opening a WebSocket and opening an event stream are ordinary Quart-Trio routes; in
that form each costs two to three milliseconds, nearly all of it tasks, scopes and contexts. What a route
does itself is a plain function of the services and the request, so here the same function is called
with a request that was read by hand (see ``connection`` for which requests those are). Around it stands
what the app does around every route: who asks, the common headers, the form of errors.

There is one set of rules and one set of answers: what a shortcut does not know how to answer, it declines,
and the request takes the long way as if nothing had happened. So a stream that is refused is refused by
its route. A publish request answers its errors itself: when the log is overloaded, saying so must be cheap.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from heliograph.http.api.app import Services, common_headers, require_host, require_origin
from heliograph.http.api.routes.events import append_items, item_reader
from heliograph.http.api.routes.streams import sse_successor, wanted_events, web_socket_successor
from heliograph.http.rules.problems import answer_to
from heliograph.http.wire.connection import Shortcut, Successor
from heliograph.http.wire.head import Head
from heliograph.model.errors import HeliographError


def shortcuts(service: Services) -> Mapping[tuple[str, str], Shortcut]:
    """Return the shortcuts of an app by method and path."""
    return {
        ("POST", "/api/v1/events"): partial(_publish, service),
        ("GET", "/api/v1/events/stream"): partial(_event_stream, service),
        ("GET", "/ws"): partial(_web_socket, service),
    }


async def _publish(service: Services, head: Head, body: bytes) -> bytes | None:
    settings = service.settings.server
    if len(body) > settings.max_request_bytes:
        return None
    try:
        require_origin(service.settings, head)
        who = service.authenticator.require(head.headers)
        reader = item_reader(service, head)
        reader.feed(body)
        answer = await append_items(service, who, head, reader.end())
    except Exception as error:
        answer = answer_to(error)
    return answer.encoded(common_headers(settings, head))


async def _event_stream(service: Services, head: Head, body: bytes) -> Successor | None:
    try:
        require_host(service.settings, head)
        who = service.authenticator.require(head.headers, head.args.get("ticket"))
        wanted = wanted_events(service, who, head)
    except HeliographError:
        return None
    return sse_successor(service, who.name, head, wanted, chunked=True)


async def _web_socket(service: Services, head: Head, body: bytes) -> Successor | None:
    version, key = head.headers.get("Sec-WebSocket-Version"), head.headers.get("Sec-WebSocket-Key")
    if not head.upgrades or version != "13" or key is None:
        return None
    try:
        require_origin(service.settings, head)
        return web_socket_successor(service, head)
    except HeliographError:
        return None
