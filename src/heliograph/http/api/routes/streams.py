"""The handshakes of streams: ordinary endpoints whose answer takes the connection over.

Whether there is room for one more stream is decided by what takes the connection over, where the stream is
counted: checked any earlier, handshakes under way at the same time would all find the same room.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Annotated

import attrs
import trio
from werkzeug.exceptions import HTTPVersionNotSupported

from heliograph.actors.subscription import Overflow
from heliograph.http.api import samples
from heliograph.http.api.endpoint import Described, Endpoint, Handshake, Part, TakeOver
from heliograph.http.api.routes.tasks import known_task, of_task
from heliograph.http.api.services import Services
from heliograph.http.rules.answer import Answer
from heliograph.http.rules.auth import NOBODY, Identity
from heliograph.http.rules.parameters import (
    Nothing,
    Place,
    Position,
    Selectors,
    Text,
    TopicFilter,
    Whole,
    Word,
    header,
    path,
    query,
)
from heliograph.http.rules.problems import UpgradeRequired, describe
from heliograph.http.rules.schema import TEXT, said, says
from heliograph.http.streams.sse import SseStream
from heliograph.http.streams.stream import MAX_TAIL, RECONNECT_MS, Refused, WatchRequest
from heliograph.http.streams.websocket import WebSocketStream, handshake_response
from heliograph.http.wire.connection import Successor
from heliograph.http.wire.frames import id_block, retry_block, sse_block
from heliograph.model.channels import EVERYTHING, Selection
from heliograph.model.errors import Invalid, NotFound, TooMany, Unavailable
from heliograph.model.event import event_json
from heliograph.model.ids import OLDEST, EventId

SSE_TYPE = "text/event-stream; charset=utf-8"
SSE_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
OVERLOADED_RETRY_MS = (5_000, 30_000)


@attrs.frozen
class Watching:
    """From where a stream begins, and what becomes of it when its client is slow."""

    after: Place | None = query(Position(), "Begin after this position; Last-Event-ID wins over it.")
    last_event_id: Place | None = header(
        "Last-Event-ID", Position("after"), "As an EventSource sends it when it comes back."
    )
    tail: int = query(
        Whole(0, MAX_TAIL), "Where no position is given: begin with the last `tail` events.", default=0
    )
    overflow: str = query(
        Word(tuple(Overflow)),
        "What happens when the client does not keep up.",
        default=Overflow.DISCONNECT.value,
    )

    def request(self, selection: Selection, default: Place | None = None) -> WatchRequest:
        """Make the request to watch a selection; without a place and a tail it begins at ``default``."""
        after = self.last_event_id or self.after or (None if self.tail else default)
        return WatchRequest(
            selection=selection,
            after=None if after is None else after.id,
            after_is_time=after is not None and after.is_time,
            tail=self.tail,
            overflow=Overflow(self.overflow),
        )


@attrs.frozen
class WatchingEvents(Watching):
    """Which events a stream shows."""

    channel: tuple[str, ...] = query(
        Selectors(), "Channels and patterns; repeatable, all if none is named.", default=()
    )
    topic: str | None = query(TopicFilter(), "A topic, a pattern such as pipeline.*, or *.")

    @property
    def selection(self) -> Selection:
        """What is selected by channel and topic."""
        return Selection.of(self.channel, self.topic or EVERYTHING)


@attrs.frozen
class WatchingTask(Watching):
    """Which task a stream shows."""

    task_id: str = path(Text(), "The task's id.")


async def event_stream(services: Services, who: Identity, asked: WatchingEvents) -> TakeOver:
    """Stream events as they happen, from a cursor if one is given."""
    return _open(services, who, asked.request(asked.selection))


async def task_stream(services: Services, who: Identity, asked: WatchingTask) -> TakeOver | Answer:
    """Stream one task from its beginning to its end; 204 when nothing of it is left to be told."""
    task = await known_task(services.store, asked.task_id)
    selection = Selection.of([f"task:{asked.task_id}"])
    wanted = asked.request(selection, Place(OLDEST, is_time=False))
    end = task.finished_event_id
    if end is not None:
        if wanted.after is not None and wanted.after >= end:
            return Answer(204, b"")
        if wanted.after is None:
            start = await services.hub.replay.tail_start(wanted.selection, wanted.tail)
            # All of the tail came after the end: with no end to come, the stream would stay open.
            if start >= end:
                wanted = attrs.evolve(wanted, after=EventId(end - 1))
    return _open(services, who, attrs.evolve(wanted, ends_with_task=True, task_end=end))


def _open(services: Services, who: Identity, wanted: WatchRequest) -> TakeOver:
    def successor(handshake: Handshake) -> Successor:
        framing = {"Transfer-Encoding": "chunked"} if handshake.chunked else {"Connection": "close"}

        def take_over(stream: trio.SocketStream) -> SseStream | Refused:
            try:
                services.streams.admit(SseStream.transport, who.name)
            except TooMany:
                return Refused(stream, _come_back_later(handshake.headers).encoded())
            served = SseStream(
                stream, services.hub, services.streams, who.name, wanted, chunked=handshake.chunked
            )
            served.sink.write(
                _response_head({"Content-Type": SSE_TYPE, **SSE_HEADERS, **handshake.headers, **framing})
            )
            return served

        return take_over

    return TakeOver(successor, Answer(200, b"", SSE_TYPE, SSE_HEADERS))


def _come_back_later(headers: Mapping[str, str]) -> Answer:
    """Answer an EventSource that is one too many: a 503 would end it for good."""
    pause = random.randint(*OVERLOADED_RETRY_MS)
    return Answer(200, retry_block(pause), SSE_TYPE, {**SSE_HEADERS, **headers, "Connection": "close"})


def _response_head(headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode("latin-1")


@attrs.frozen
class Upgrading:
    """What opens a WebSocket."""

    upgrade: str | None = header("Upgrade", Text(), "websocket")
    key: str | None = header("Sec-WebSocket-Key", Text(), "Of the client.")


async def web_socket(services: Services, who: Identity, asked: Upgrading) -> TakeOver:
    """Open a WebSocket; the protocol is in ``http.streams.websocket``."""
    key = asked.key
    if asked.upgrade is None or key is None:
        raise UpgradeRequired(
            "this is a WebSocket: open it with ws:// or wss://; over HTTP ask GET /api/v1/events/stream"
        )

    def successor(handshake: Handshake) -> Successor:
        def take_over(stream: trio.SocketStream) -> WebSocketStream | Refused:
            identity = None if who is NOBODY else who
            served = WebSocketStream(stream, services.hub, services.streams, identity, services.authenticator)
            try:
                services.streams.admit(served.transport, served.owner)
            except TooMany as error:
                refusal = describe(error).answer({**handshake.headers, "Connection": "close"})
                return Refused(stream, refusal.encoded())
            served.sink.write(handshake_response(key))
            return served

        return take_over

    return TakeOver(successor, Answer(200, b""))


@attrs.frozen
class Ticket:
    """What stands for a key in a query."""

    ticket: str
    expires_at: Annotated[float, says("Seconds since 1970.")]


async def make_ticket(services: Services, who: Identity, asked: Nothing) -> Ticket:
    """Make a short-lived ticket for clients that can't set headers on a stream; a ticket buys none."""
    ticket, expires_at = services.authenticator.ticket_for(who)
    return Ticket(ticket, expires_at)


_EXAMPLE = b"".join(
    [
        retry_block(RECONNECT_MS),
        id_block(OLDEST),
        *(
            sse_block(event.topic, event_json(event), event.cursor)
            for event in (samples.CREATED, samples.OUTPUT, samples.ENDED)
        ),
    ]
).decode()

_BLOCKS: Mapping[str, Part] = {
    SSE_TYPE.partition(";")[0]: {
        "schema": said(TEXT, "Server-sent events (WHATWG HTML, 9.2)."),
        "example": _EXAMPLE,
    }
}
_UNTIL = (
    "Blocks as in /asyncapi.json, until the client or a reconnect ends it. When there are too many streams "
    f"it is one retry of {OVERLOADED_RETRY_MS[0]} to {OVERLOADED_RETRY_MS[1]} milliseconds, and the end."
)

ENDPOINTS = [
    Endpoint(
        "GET",
        "/api/v1/events/stream",
        event_stream,
        "streams",
        Described(_UNTIL, media=_BLOCKS),
        channels=lambda asked: asked.selection.selectors,
        refuses=(Invalid, HTTPVersionNotSupported),
    ),
    Endpoint(
        "GET",
        "/api/tasks/{task_id}/stream",
        task_stream,
        "streams",
        Described(
            _UNTIL,
            media=_BLOCKS,
            others={"204": {"description": "The client has seen the end: an EventSource stops."}},
            more="It begins at the task's first event, and ends after the one that ends the task.",
        ),
        channels=of_task,
        refuses=(NotFound, Invalid, Unavailable, HTTPVersionNotSupported),
    ),
    Endpoint("GET", "/ws", web_socket, upgrade=True),
    Endpoint(
        "POST",
        "/api/v1/stream-tickets",
        make_ticket,
        "streams",
        Described("The ticket."),
        status=201,
        refuses=(Invalid,),
        example=Ticket("InJlYWRlciI.aX3zAA.…", samples.NOON.timestamp()),
    ),
]
