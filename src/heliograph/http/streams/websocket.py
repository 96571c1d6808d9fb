"""The WebSocket protocol of ``/ws``: what a client may say, and what it hears.

Frames from the client are parsed by wsproto (masking, fragments, UTF-8, reserved bits); frames to it
are made once for everybody in ``frames``. No extension is negotiated, so nothing is compressed. A
message that makes no sense is answered by an ``error`` and the connection lives; only what breaks the
protocol or a limit of the connection itself ends it.

A long module, since it reads every message of the protocol, and a page's own stream has a few more.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import orjson
import structlog
import trio
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Message, Ping, TextMessage
from wsproto.utilities import RemoteProtocolError, generate_accept_token

from heliograph.actors.hub import Hub
from heliograph.actors.subscription import Overflow
from heliograph.http.rules.auth import Authenticator, Identity
from heliograph.http.rules.problems import describe
from heliograph.http.streams.reason import Reason
from heliograph.http.streams.registry import ANONYMOUS, StreamRegistry
from heliograph.http.streams.stream import Stream
from heliograph.http.streams.watching import MAX_TAIL, CursorLost, WatchRequest
from heliograph.http.wire.frames import (
    PING,
    PONG,
    close_frame,
    event_frame,
    frame,
    json_frame,
    whole_messages,
)
from heliograph.model.channels import STATUS, Selection, parse_selector, parse_topic_pattern
from heliograph.model.errors import (
    Forbidden,
    HeliographError,
    Invalid,
    TooMany,
    Unauthenticated,
    Unavailable,
)
from heliograph.model.event import CLI_STATUS
from heliograph.model.ids import EventId, format_id, is_time, parse_position
from heliograph.model.intake import parse_json

log = structlog.get_logger(__name__)

PING_FRAME = frame(PING, b"")
MAX_EVERY = 60
"""Seconds that a client which wants the newest only may ask to wait."""

RETURNING = (Reason.SHUTDOWN, Reason.ROTATE, Reason.SLOW)
"""Endings after which it makes sense to come back at a time and a place that we name."""

SESSION_WATCHES = (
    WatchRequest(Selection(("task:*",), "task.status"), overflow=Overflow.LATEST, told=False),
    WatchRequest(Selection((STATUS,), CLI_STATUS), overflow=Overflow.LATEST, told=False),
)
"""What a page with a stream of its own, ``/ws/<session>``, watches from the start."""

ACTIONS = ("chat.message", "task.stop", "task.input")
"""What such a page may say beside the messages of every WebSocket."""

FIELDS = {
    "subscribe": {"type", "channel", "topic", "after", "tail", "every", "overflow", "ref"},
    "unsubscribe": {"type", "channel", "topic", "every", "ref"},
    "ping": {"type", "ref"},
    "auth": {"type", "key", "ticket", "ref"},
}


def handshake_response(key: str) -> bytes:
    """Make the answer to an opening handshake (RFC 6455, section 4.2.2)."""
    return (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + generate_accept_token(key.encode()) + b"\r\n\r\n"
    )


class Acting(Protocol):
    """Does what a page asks for on its own stream."""

    async def act(
        self, who: Identity, session: str, kind: str, message: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Do it; return what the page is told of it.

        Args:
            who: Asks.
            session: Names the page.
            kind: One of ``ACTIONS``.
            message: Says the rest.

        Raises:
            HeliographError: It is refused, or can't be done.
        """
        ...


class WebSocketStream(Stream):
    """One client on ``/ws``, or on ``/ws/<session>``.

    Args:
        identity: Who it is; ``None``: it must say ``auth`` first.
        authenticator: For ``auth``.
        session: Name of the page whose own stream it is. Such a page may never say anything: it watches the
            statuses of all tasks from the start, and is not closed for its silence.
        acting: Does what such a page asks for.
    """

    __slots__ = (
        "_acting",
        "_authenticator",
        "_identity",
        "_message",
        "_next_ping",
        "_parser",
        "_pong_by",
        "_without_subscription_since",
    )

    transport: ClassVar[str] = "ws"
    one_position: ClassVar[bool] = False
    encode = staticmethod(event_frame)

    def __init__(
        self,
        trio_stream: trio.SocketStream,
        hub: Hub,
        registry: StreamRegistry,
        identity: Identity | None,
        authenticator: Authenticator,
        session: str | None = None,
        acting: Acting | None = None,
    ) -> None:
        owner, key = (ANONYMOUS, "") if identity is None else (identity.name, identity.key)
        super().__init__(trio_stream, hub, registry, owner, key, session)
        self._identity = identity
        self._authenticator = authenticator
        self._acting = acting
        self._parser: Connection | None = None
        self._message = bytearray()
        now = trio.current_time()
        self._without_subscription_since = now
        self._next_ping = now + self.limits.keepalive_seconds * random.uniform(0.5, 1.0)
        self._pong_by: float | None = None

    # Out

    def notice(self, kind: str, fields: dict[str, Any], position: EventId | None = None) -> bytes:
        """Encode a control message; the client keeps the position of each channel itself."""
        return json_frame({"type": kind, **fields})

    def farewell(self, reason: Reason, after_ms: int, cursor: EventId | None) -> bytes:
        """Encode ``reconnect``, where coming back makes sense, and the close frame."""
        close = close_frame(reason.code, reason.text)
        if reason not in RETURNING:
            return close
        fields = {
            "after_ms": after_ms,
            "cursor": None if cursor is None else format_id(cursor),
            "reason": reason.text,
        }
        return self.notice("reconnect", fields) + close

    def announce(self, request: WatchRequest, cursor: EventId, reset: CursorLost | None) -> None:
        """Write ``subscribed``, and then ``reset``, which belongs to it."""
        fields: dict[str, Any] = {
            "channel": request.selection.selectors[0],
            "cursor": format_id(cursor),
            "recovered": request.after is not None and reset is None,
            "ref": request.ref,
        }
        if request.told:
            self.sink.write(self.notice("subscribed", fields))
        if reset is not None:
            self.send_reset(request.selection, reset, cursor)

    async def opened(self) -> None:
        """Have a page watch what it never asks for, as soon as it is known who it is."""
        try:
            await self._watch_as_page()
        except (Forbidden, TooMany) as error:
            self._error(error, None)
            self.end(Reason.FORBIDDEN if isinstance(error, Forbidden) else Reason.TOO_MANY)

    async def _watch_as_page(self) -> None:
        if self.session is not None and self._identity is not None:
            self._identity.require("read", "task:*")
            for request in SESSION_WATCHES:
                if self._identity.covers(*request.selection.selectors):
                    await self.watch(request)

    def beat(self, now: float) -> None:
        """Ping, and end a client that does not pong or does not subscribe."""
        if self._pong_by is not None and now >= self._pong_by:
            # While a replay is under way the ping may well wait behind it for the client.
            if not self.watching.replays:
                self.end(Reason.NO_PONG)
                return
            self._pong_by = now + self.limits.pong_seconds
        if not self.watching.busy and not self._may_be_silent:
            if now >= self._without_subscription_since + self.limits.first_message_seconds:
                self.end(Reason.POLICY)
                return
            self.due = self._without_subscription_since + self.limits.first_message_seconds
        else:
            self.due = self._next_ping
        if now >= self._next_ping:
            self.sink.write(PING_FRAME)
            self._next_ping = now + self.limits.keepalive_seconds
            self._pong_by = self._pong_by or now + self.limits.pong_seconds
        self.due = min(self.due, self._next_ping, self._pong_by or self._next_ping)

    @property
    def _may_be_silent(self) -> bool:
        return self.session is not None and self._identity is not None

    # In

    async def received(self, data: bytes) -> None:
        """Parse what the client sent and act on each message."""
        self._pong_by = None
        if self.ending:
            return  # only the end of file matters now
        try:
            parser = self._parser
            if parser is None:
                parser = Connection(ConnectionType.SERVER)
                # A parser is a fifth of a stream's memory: it is kept only where it remembers something.
                self._parser = None if whole_messages(data) else parser
            parser.receive_data(data)
            for event in parser.events():
                if isinstance(event, Message):
                    await self._part(event)
                elif isinstance(event, Ping):
                    self.sink.write(frame(PONG, bytes(event.payload)))
                elif isinstance(event, CloseConnection):
                    self._closed_by_peer(event)
                if self.ending:
                    return
        except RemoteProtocolError as error:
            hint = error.event_hint
            bad_data = isinstance(hint, CloseConnection) and hint.code == Reason.BAD_DATA.code
            self.end(Reason.BAD_DATA if bad_data else Reason.PROTOCOL)

    def _closed_by_peer(self, event: CloseConnection) -> None:
        code = 1000 if event.code in {1005, 1006} else event.code
        self.close_with(Reason.PEER, close_frame(code, ""))

    async def _part(self, event: Message[Any]) -> None:
        """Take a part of a message: a frame, or what has come of one."""
        data = event.data.encode() if isinstance(event, TextMessage) else bytes(event.data)
        if len(self._message) + len(data) > self.limits.max_message_bytes:
            self.end(Reason.TOO_BIG)
            return
        self._message += data
        if not event.message_finished:
            return
        message, self._message = bytes(self._message), bytearray()
        if not isinstance(event, TextMessage):
            self._error(Invalid.field("", "send text frames of JSON, not binary ones"), None)
            return
        try:
            await self._answer(message)
        except Exception:
            log.exception("unexpected error in a message")
            self.end(Reason.INTERNAL)

    async def _answer(self, text: bytes) -> None:
        ref: Any = None
        try:
            message = parse_json(text, "the message")
            if not isinstance(message, dict):
                raise Invalid.field("", "a message must be a JSON object")
            ref = _ref(message)
            await self._act(message, ref)
        except (Forbidden, Unauthenticated) as error:
            self._error(error, ref)
            self.end(Reason.BAD_KEY if isinstance(error, Unauthenticated) else Reason.FORBIDDEN)
        except TooMany as error:
            self._error(error, ref)
            self.end(Reason.TOO_MANY)
        except HeliographError as error:
            self._error(error, ref)

    async def _act(self, message: dict[str, Any], ref: Any) -> None:
        kind = message.get("type")
        actions = ACTIONS if self.session is not None else ()
        if isinstance(kind, str) and kind in actions:
            await self._do(kind, {name: message[name] for name in message.keys() - {"type", "ref"}}, ref)
            return
        if not isinstance(kind, str) or kind not in FIELDS:
            raise Invalid.field("type", f"must be one of {', '.join((*FIELDS, *actions))}")
        for name in message.keys() - FIELDS[kind]:
            raise Invalid.field(name[:100], f"is unknown; {kind} takes {', '.join(sorted(FIELDS[kind]))}")
        match kind:
            case "subscribe":
                await self._subscribe(self._request(message))
            case "unsubscribe":
                self._unsubscribe(self._selection(message), ref)
            case "ping":
                self.sink.write(self.notice("pong", {"ref": ref}))
            case "auth":
                await self._authenticate(_text(message, "key"), _text(message, "ticket"), ref)

    async def _do(self, kind: str, message: Mapping[str, Any], ref: Any) -> None:
        if self._identity is None:
            raise Unauthenticated(f"say auth before {kind}")
        assert self._acting is not None
        assert self.session is not None
        try:
            did = await self._acting.act(self._identity, self.session, kind, message)
        except Forbidden as error:  # what it watches it may watch all the same
            self._error(error, ref)
            return
        self.sink.write(self.notice("done", {"of": kind, **did, "ref": ref}))

    async def _authenticate(self, key: str | None, ticket: str | None, ref: Any) -> None:
        identity = self._authenticator.authenticate(key, ticket)
        try:
            self._registry.rename(self, identity.name)
        except TooMany as error:  # of streams, of which some will end
            self._error(error, ref)
            self.end(Reason.FULL)
            return
        first, self._identity, self.key = self._identity is None, identity, identity.key
        self.sink.write(self.notice("authenticated", {"name": identity.name, "ref": ref}))
        if first:
            await self._watch_as_page()
        else:
            self._end_uncovered(identity)

    def _end_uncovered(self, identity: Identity) -> None:
        """End the subscriptions that a new identity may not have; the client hears ``unsubscribed``."""
        for selection in self.watching.selections:
            try:
                identity.require("read", *selection.selectors)
            except Forbidden:
                self._unsubscribe(selection, None)

    def _selection(self, message: dict[str, Any]) -> Selection:
        selector = parse_selector(message.get("channel"))
        topic = _text(message, "topic")
        every = message.get("every") or 0
        if isinstance(every, bool) or not isinstance(every, int | float) or not 0 <= every <= MAX_EVERY:
            raise Invalid.field("every", f"must be a number of seconds from 0 to {MAX_EVERY}")
        return Selection((selector,), "*" if topic is None else parse_topic_pattern(topic), every)

    def _request(self, message: dict[str, Any]) -> WatchRequest:
        after = _text(message, "after")
        tail = message.get("tail")
        if tail is not None and (
            isinstance(tail, bool) or not isinstance(tail, int) or not 0 <= tail <= MAX_TAIL
        ):
            raise Invalid.field("tail", f"must be a whole number from 0 to {MAX_TAIL}")
        if message.get("every") and (tail or after is not None):
            raise Invalid.field("every", "goes with neither after nor tail: it begins with what is new")
        overflow = _text(message, "overflow") or Overflow.DISCONNECT
        if overflow not in list(Overflow):
            raise Invalid.field("overflow", f"must be one of {', '.join(Overflow)}")
        return WatchRequest(
            selection=self._selection(message),
            after=None if after is None else parse_position(after, "after"),
            after_is_time=after is not None and is_time(after),
            tail=tail or 0,
            overflow=Overflow(overflow),
            ref=message.get("ref"),
        )

    async def _subscribe(self, request: WatchRequest) -> None:
        if self._identity is None:
            raise Unauthenticated("say auth before subscribe")
        self._identity.require("read", *request.selection.selectors)
        self.watching.forget(request.selection)  # subscribing again begins anew
        if len(self.watching.selections) >= self.limits.max_channels:
            raise TooMany(f"a stream takes at most {self.limits.max_channels} subscriptions")
        await self.watch(request)

    def _unsubscribe(self, selection: Selection, ref: Any) -> None:
        if not self.watching.forget(selection):
            raise Invalid.field("channel", f"there is no subscription to {selection}")
        self.count_watched()
        self.sink.write(self.notice("unsubscribed", {"channel": selection.selectors[0], "ref": ref}))
        self._wait_for_subscription()

    def unwatched(self, request: WatchRequest, error: Unavailable) -> None:
        """Answer with the error; the client may ask again."""
        self._error(error, request.ref)
        self.count_watched()
        self._wait_for_subscription()

    def _wait_for_subscription(self) -> None:
        if not self.watching.subscriptions:
            self._without_subscription_since = trio.current_time()
            self.due = min(self.due, self._without_subscription_since + self.limits.first_message_seconds)

    def _error(self, error: HeliographError, ref: Any) -> None:
        problem = describe(error)
        self.sink.write(
            self.notice(
                "error", {"code": problem.code, "title": problem.title, "detail": problem.detail, "ref": ref}
            )
        )


def _ref(message: dict[str, Any]) -> Any:
    """Return what goes back as it came; orjson reads deeper nesting than it writes."""
    ref = message.get("ref")
    try:
        json_frame({"ref": ref})
    except orjson.JSONEncodeError:
        raise Invalid.field("ref", "is nested too deeply to be returned") from None
    return ref


def _text(message: dict[str, Any], name: str) -> str | None:
    value = message.get(name)
    if value is not None and not isinstance(value, str):
        raise Invalid.field(name, "must be text")
    return value
