"""The handshakes of streams: ordinary routes up to the moment when the connection is detached.

The functions without a leading underscore are their rules, which the shortcuts share. Whether there is room
for one more stream is decided by what takes the connection over, where the stream is counted: checked any
earlier, handshakes under way at the same time would all find the same room.
"""

from __future__ import annotations

import random

import attrs
import trio
from quart import Blueprint, Response, request, websocket
from werkzeug.exceptions import HTTPVersionNotSupported

from heliograph.http.api.app import Services, cors_headers, services
from heliograph.http.api.routes.tasks import known_task
from heliograph.http.rules.answer import Answer
from heliograph.http.rules.asked import Asked
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.problems import Problem, describe
from heliograph.http.rules.requests import identity, refuse_unknown, selection, to_json, watch_request
from heliograph.http.streams.reason import Reason
from heliograph.http.streams.sse import SseStream
from heliograph.http.streams.stream import Refused
from heliograph.http.streams.watching import WatchRequest
from heliograph.http.streams.websocket import WebSocketStream, handshake_response
from heliograph.http.wire import connection
from heliograph.http.wire.frames import notice_block
from heliograph.model.channels import Selection
from heliograph.model.errors import TooMany
from heliograph.model.ids import EventId, format_id

blueprint = Blueprint("streams", __name__)

SSE_TYPE = "text/event-stream; charset=utf-8"
SSE_HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
"""A proxy that compressed a stream would hold back what it has not enough of yet."""
OVERLOADED_RETRY_MS = (5_000, 30_000)
WATCH_PARAMETERS = ("after", "lastEventId", "tail", "overflow", "names", "ticket")
"""What both event streams take."""


@blueprint.get("/api/v1/events/stream")
async def event_stream() -> Response:
    """Stream events as they happen, from a cursor if one is given."""
    return _open_sse(wanted_events(services(), identity(), request))


def wanted_events(service: Services, who: Identity, asked: Asked) -> WatchRequest:
    """Read what a request for an event stream asks for, by every rule of it.

    Raises:
        HeliographError: It is refused.
    """
    refuse_unknown(asked, "topic", "channel", *WATCH_PARAMETERS)
    wanted = selection(asked, service.settings.streams.max_channels)
    who.require("read", *wanted.selectors)
    return watch_request(asked, wanted)


@blueprint.get("/api/tasks/<task_id>/stream")
async def task_stream(task_id: str) -> Response:
    """Stream one task from its beginning to its end; 204 when nothing of it is left to be told."""
    refuse_unknown(request, *WATCH_PARAMETERS)
    task = await known_task(task_id)
    wanted = watch_request(request, Selection.of([f"task:{task_id}"]), default_after="0-0")
    end = task.finished_event_id
    if end is not None:
        if wanted.after is not None and wanted.after >= end:
            return Response(b"", 204)
        if wanted.after is None and wanted.tail:
            start = await services().hub.replay.tail_start(wanted.selection, wanted.tail)
            # All of the tail came after the end: with no end to come, the stream would stay open.
            if start >= end:
                wanted = attrs.evolve(wanted, after=EventId(end - 1))
    return _open_sse(attrs.evolve(wanted, ends_with_task=True, task_end=end))


def _require_http_1(version: str) -> None:
    """Refuse HTTP/2, on which a connection is not one stream's to take away.

    Raises:
        HTTPVersionNotSupported: Curl and others offer it by themselves where they may choose.
    """
    if not version.startswith("1."):
        raise HTTPVersionNotSupported("streams are served over HTTP/1.1")


def _open_sse(wanted: WatchRequest) -> Response:
    _require_http_1(request.http_version)
    service, owner = services(), identity().name
    if request.method == "HEAD":
        return Response(b"", headers=SSE_HEADERS, content_type=SSE_TYPE)
    chunked = request.http_version != "1.0"
    connection.current.get().detach(sse_successor(service, owner, request, wanted, chunked=chunked))
    return Response(b"")


def sse_successor(
    service: Services, owner: str, asked: Asked, wanted: WatchRequest, *, chunked: bool
) -> connection.Successor:
    """Make what takes a connection over as an event stream; its head is written then."""
    framing = {"Transfer-Encoding": "chunked"} if chunked else {"Connection": "close"}
    cors = cors_headers(service.settings.server, asked)

    def take_over(stream: trio.SocketStream) -> SseStream | Refused:
        try:
            service.streams.admit(SseStream.transport, owner)
        except TooMany:
            return Refused(stream, _come_back_later(wanted).encoded(cors))
        served = SseStream(stream, service.hub, service.streams, owner, wanted, chunked=chunked)
        served.sink.write(_response_head({"Content-Type": SSE_TYPE} | SSE_HEADERS | cors | framing))
        return served

    return take_over


def _come_back_later(wanted: WatchRequest) -> Answer:
    """Answer an EventSource that is one too many: a 503 would end it for good."""
    pause = random.randint(*OVERLOADED_RETRY_MS)
    cursor = None if wanted.after is None else format_id(wanted.after)
    fields = {"after_ms": pause, "cursor": cursor, "reason": Reason.FULL.text}
    block = notice_block("reconnect", fields, cursor or "", pause, named=wanted.names)
    return Answer(200, block, SSE_TYPE, SSE_HEADERS | {"Connection": "close"})


def _response_head(headers: dict[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode("latin-1")


@blueprint.websocket("/ws")
async def web_socket() -> None:
    """Open a WebSocket; the protocol is in ``http.websocket``."""
    _require_http_1(websocket.http_version)
    connection.current.get().detach(web_socket_successor(services(), websocket))


@blueprint.websocket("/ws/<session>")
async def page_socket(session: str) -> None:
    """Open the WebSocket of a page that never subscribes: it hears the statuses of all tasks."""
    _require_http_1(websocket.http_version)
    connection.current.get().detach(web_socket_successor(services(), websocket, session))


@blueprint.get("/ws")
@blueprint.get("/ws/<session>")
async def no_web_socket(session: str = "") -> Response:
    """Tell whoever asks without an upgrade what is here (RFC 9110, section 15.5.22)."""
    text = "this is a WebSocket: open it with ws:// or wss://; over HTTP ask GET /api/v1/events/stream"
    problem = Problem(426, "upgrade_required", "A WebSocket is needed", text)
    return problem.answer({"Upgrade": "websocket", "Connection": "Upgrade"}).response()


def web_socket_successor(service: Services, asked: Asked, session: str | None = None) -> connection.Successor:
    """Make what takes a connection over as a WebSocket, by every rule of it; it answers the handshake.

    Args:
        service: The services.
        asked: The handshake.
        session: Name of the page whose own stream it is.

    Raises:
        HeliographError: It is refused.
    """
    who = service.authenticator.from_headers(asked.headers, asked.args.get("ticket"))
    key = asked.headers["Sec-WebSocket-Key"]
    cors = cors_headers(service.settings.server, asked)

    def take_over(stream: trio.SocketStream) -> WebSocketStream | Refused:
        served = WebSocketStream(stream, service.hub, service.streams, who, service.authenticator, session)
        try:
            service.streams.admit(served.transport, served.owner)
        except TooMany as error:
            return Refused(stream, describe(error).answer({"Connection": "close"}).encoded(cors))
        served.sink.write(handshake_response(key))
        return served

    return take_over


@blueprint.post("/api/v1/stream-tickets")
async def make_ticket() -> Response:
    """Make a short-lived ticket for clients that can't set headers on a stream; a ticket buys none."""
    refuse_unknown(request)
    who = identity()
    who.require("read")
    ticket, expires_at = services().authenticator.ticket_for(who)
    return Response(
        to_json({"ticket": ticket, "expires_at": expires_at}), 201, content_type="application/json"
    )
