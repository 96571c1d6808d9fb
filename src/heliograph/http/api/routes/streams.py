"""The handshakes of streams: ordinary endpoints whose answer takes the connection over.

The limit of streams is checked when the stream takes the connection over and is counted: checked earlier,
concurrent handshakes would all find the same room.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Mapping
from typing import Annotated

import attrs

from heliograph.actors.subscription import Overflow
from heliograph.http.api import samples
from heliograph.http.api.acting import PageActions
from heliograph.http.api.documents import examples
from heliograph.http.api.endpoint import Described, Endpoint, Handshake, Part, TakeOver
from heliograph.http.api.routes.tasks import known_task, of_task
from heliograph.http.api.services import Services
from heliograph.http.rules.answer import Answer
from heliograph.http.rules.auth import NOBODY, Identity
from heliograph.http.rules.parameters import (
    ClientPosition,
    Nothing,
    Place,
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
from heliograph.http.rules.schema import TEXT, described, says
from heliograph.http.streams.reason import Reason
from heliograph.http.streams.sse import SseStream
from heliograph.http.streams.stream import RECONNECT_MS, Refused
from heliograph.http.streams.watching import MAX_TAIL, WatchRequest
from heliograph.http.streams.websocket import WebSocketStream, handshake_response, owner_of
from heliograph.http.wire.connection import Successor
from heliograph.http.wire.frames import notice_block, sse_block
from heliograph.model.channels import EVERYTHING, Selection
from heliograph.model.errors import Invalid, NotFound, TooMany, Unavailable
from heliograph.model.event import event_json
from heliograph.model.ids import OLDEST, EventId, format_id

SSE_TYPE = "text/event-stream; charset=utf-8"
SSE_HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
"""A proxy that buffered or compressed a stream would hold back its events."""

OVERLOADED_RETRY_MS = (5_000, 30_000)


@attrs.frozen
class Resuming:
    """The position at which a stream goes on, and its overflow policy."""

    after: Place | None = query(
        ClientPosition(),
        "Begin after this cursor or time; Last-Event-ID and lastEventId win over it. Any other text is "
        "answered by a reset on the stream.",
    )
    last_event_id: Place | None = header(
        "Last-Event-ID", ClientPosition(), "The position that an EventSource sends when it comes back."
    )
    kept_event_id: Place | None = query(
        ClientPosition(), "The position that polyfills of EventSource send.", name="lastEventId"
    )
    overflow: str = query(
        Word(tuple(Overflow)),
        "The overflow policy, for a client that does not keep up.",
        default=Overflow.DISCONNECT.value,
    )
    names: str = query(
        Word(("on", "off")),
        "off leaves the names of events out, so that EventSource.onmessage hears them.",
        default="on",
    )

    def watch(self, selection: Selection, default: EventId | None, tail: int = 0) -> WatchRequest:
        """Make the request to watch a selection; without a place and a tail it begins at ``default``."""
        # A reconnect has an id and, in its query, still the ``after`` of the first connect: the id wins.
        told = self.last_event_id or self.kept_event_id or self.after or Place()
        after = told.id
        if after is None and (told.foreign or not tail):
            after = default
        return WatchRequest(
            selection=selection,
            after=after,
            after_is_time=told.is_time,
            foreign=told.foreign,
            tail=tail,
            overflow=Overflow(self.overflow),
            names=self.names == "on",
        )


@attrs.frozen
class StreamStart(Resuming):
    """The position at which a stream begins."""

    tail: int = query(
        Whole(0, MAX_TAIL),
        "The number of the newest events to begin with, where no position is given.",
        default=0,
    )

    def request(self, selection: Selection, default: EventId | None = None) -> WatchRequest:
        """Make the request to watch a selection; without a place and a tail it begins at ``default``."""
        return self.watch(selection, default, self.tail)


@attrs.frozen
class WatchingEvents(StreamStart):
    """The selection of a stream, and the position at which it begins."""

    channel: tuple[str, ...] = query(
        Selectors(), "Channels and patterns; repeatable, all if none is named.", default=()
    )
    topic: str | None = query(TopicFilter(), "A topic, a pattern such as pipeline.*, or *.")

    @property
    def selection(self) -> Selection:
        """The selection by channel and topic."""
        return Selection.of(self.channel, self.topic or EVERYTHING)


@attrs.frozen
class WatchingTask(StreamStart):
    """The task that a stream shows."""

    task_id: str = path(Text(), "The task's id.")


async def event_stream(services: Services, who: Identity, asked: WatchingEvents) -> TakeOver:
    """Stream events as they happen, from a cursor if one is given."""
    return open_stream(services, who, asked.request(asked.selection))


async def task_stream(services: Services, who: Identity, asked: WatchingTask) -> TakeOver | Answer:
    """Stream one task from its beginning to its end; 204 when the client has all of it already."""
    task = await known_task(services.store, asked.task_id)
    selection = Selection.of([f"task:{asked.task_id}"])
    wanted = asked.request(selection, OLDEST)
    end = task.finished_event_id
    if end is not None:
        if wanted.after is not None and wanted.after >= end:
            return Answer(204, b"")
        if wanted.after is None and wanted.tail:
            start = await services.hub.replay.tail_start(wanted.selection, wanted.tail)
            # If the whole tail came after the end, the stream would wait for an end for ever.
            if start >= end:
                wanted = attrs.evolve(wanted, after=EventId(end - 1))
    ends_after = task.last_event_id if end is None else EventId(end - 1)
    return open_stream(
        services, who, attrs.evolve(wanted, ends_with_task=True, task_end=end, ends_after=ends_after)
    )


def open_stream(services: Services, who: Identity, wanted: WatchRequest) -> TakeOver:
    """Answer with the event stream of a request."""

    def successor(handshake: Handshake) -> Successor:
        framing = {"Transfer-Encoding": "chunked"} if handshake.chunked else {"Connection": "close"}

        def take_over(sock: socket.socket) -> SseStream | Refused:
            try:
                services.streams.admit(SseStream.transport, who.name)
            except TooMany:
                return Refused(sock, _come_back_later(wanted, handshake.headers).encoded())
            served = SseStream(
                sock,
                services.hub,
                services.streams,
                who.name,
                wanted,
                chunked=handshake.chunked,
                key=who.key,
            )
            served.sink.write(
                _response_head({"Content-Type": SSE_TYPE, **SSE_HEADERS, **handshake.headers, **framing})
            )
            return served

        return take_over

    return TakeOver(successor, Answer(200, b"", SSE_TYPE, SSE_HEADERS))


def _come_back_later(wanted: WatchRequest, headers: Mapping[str, str]) -> Answer:
    """Answer an EventSource over the limit with ``reconnect``, since a 503 would end it for good."""
    pause = random.randint(*OVERLOADED_RETRY_MS)
    cursor = None if wanted.after is None else format_id(wanted.after)
    fields = {"after_ms": pause, "cursor": cursor, "reason": Reason.FULL.text}
    block = notice_block("reconnect", fields, cursor or "", pause, named=wanted.names)
    return Answer(200, block, SSE_TYPE, {**SSE_HEADERS, **headers, "Connection": "close"})


def _response_head(headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode("latin-1")


@attrs.frozen
class Upgrading:
    """The handshake of a WebSocket."""

    upgrade: str | None = header("Upgrade", Text(), "websocket")
    key: str | None = header("Sec-WebSocket-Key", Text(), "The client's key.")


@attrs.frozen
class UpgradingPage(Upgrading):
    """The handshake of a page's WebSocket."""

    session: str = path(Text(), "Any name.")


async def web_socket(services: Services, who: Identity, asked: Upgrading) -> TakeOver:
    """Open a WebSocket; the protocol is in ``http.streams.websocket``."""
    return _upgrade(services, who, asked, None)


async def page_socket(services: Services, who: Identity, asked: UpgradingPage) -> TakeOver:
    """Open the WebSocket of a page that never subscribes: it gets the statuses of all tasks."""
    return _upgrade(services, who, asked, asked.session, PageActions(services))


def _upgrade(
    services: Services,
    who: Identity,
    asked: Upgrading,
    session: str | None,
    acting: PageActions | None = None,
) -> TakeOver:
    key = asked.key
    if asked.upgrade is None or key is None:
        raise UpgradeRequired(
            "this is a WebSocket: open it with ws:// or wss://; over HTTP ask GET /api/v1/events/stream"
        )

    def successor(handshake: Handshake) -> Successor:
        def take_over(sock: socket.socket) -> WebSocketStream | Refused:
            identity = None if who is NOBODY else who
            try:
                services.streams.admit(WebSocketStream.transport, owner_of(identity))
            except TooMany as error:
                refusal = describe(error).answer({**handshake.headers, "Connection": "close"})
                return Refused(sock, refusal.encoded())
            served = WebSocketStream(
                sock,
                services.hub,
                services.streams,
                identity,
                services.authenticator,
                session,
                acting,
                handshake.address if identity is None else None,
            )
            served.sink.write(handshake_response(key))
            return served

        return take_over

    return TakeOver(successor, Answer(200, b""))


@attrs.frozen
class Ticket:
    """A ticket, which stands for a key in a query."""

    ticket: str
    expires_at: Annotated[float, says("Seconds since 1970.")]


async def make_ticket(services: Services, who: Identity, asked: Nothing) -> Ticket:
    """Make a short-lived ticket for clients that can't set headers on a stream; a ticket can't make one."""
    ticket, expires_at = services.authenticator.ticket_for(who)
    return Ticket(ticket, expires_at)


_EXAMPLE = b"".join(
    [
        notice_block("open", examples.OPEN, format_id(OLDEST), RECONNECT_MS),
        *(
            sse_block(event.topic, event_json(event), event.cursor)
            for event in (samples.CREATED, samples.OUTPUT, samples.ENDED)
        ),
    ]
).decode()

BLOCKS: Mapping[str, Part] = {
    SSE_TYPE.partition(";")[0]: {
        "schema": described(TEXT, "Server-sent events (WHATWG HTML, 9.2)."),
        "example": _EXAMPLE,
    }
}
UNTIL = (
    "Blocks as in /asyncapi.json, until the client or a reconnect ends it. When there are too many streams "
    f"it is one reconnect of {OVERLOADED_RETRY_MS[0]} to {OVERLOADED_RETRY_MS[1]} milliseconds, and the end."
)

ENDPOINTS = [
    Endpoint(
        "GET",
        "/api/v1/events/stream",
        event_stream,
        "streams",
        Described(UNTIL, media=BLOCKS),
        channels=lambda asked: asked.selection.selectors,
        refuses=(Invalid,),
    ),
    Endpoint(
        "GET",
        "/api/v1/tasks/{task_id}/stream",
        task_stream,
        "streams",
        Described(
            UNTIL,
            media=BLOCKS,
            others={"204": {"description": "The client has seen the end: an EventSource stops."}},
            more="It begins at the task's first event, and ends after the one that ends the task.",
        ),
        channels=of_task,
        refuses=(NotFound, Invalid, Unavailable),
    ),
    Endpoint("GET", "/ws", web_socket, upgrade=True),
    Endpoint("GET", "/ws/{session:path}", page_socket, upgrade=True),
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
