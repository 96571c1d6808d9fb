"""The WebSocket protocol of ``/ws``: a client's messages, and the answers to them.

Frames from the client are parsed by wsproto (masking, fragments, UTF-8, reserved bits), except whole short
texts, pings and pongs (``plain_frames``). Frames to clients are encoded once for all of them in ``frames``.
No extension is negotiated, so nothing is compressed. An invalid message is answered by an ``error`` and the
connection lives; only a breach of the protocol or of the connection's own limits ends it.

A long module, since it handles every message of the protocol, and a page's own stream has a few more.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol

import structlog
import trio
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Event, Message, Ping, TextMessage
from wsproto.utilities import RemoteProtocolError, generate_accept_token

from heliograph.actors.hub import Hub
from heliograph.actors.subscription import Overflow
from heliograph.http.rules.auth import Authenticator, Identity
from heliograph.http.rules.problems import describe
from heliograph.http.rules.quotas import QuotaExceeded
from heliograph.http.streams.messages import (
    kind_of,
    message_of,
    ref_of,
    ref_of_refused,
    request_of,
    selection_of,
    text_of,
)
from heliograph.http.streams.reason import Reason
from heliograph.http.streams.registry import ANONYMOUS, StreamRegistry
from heliograph.http.streams.stream import Stream
from heliograph.http.streams.watching import CursorLost, WatchRequest
from heliograph.http.wire.frames import (
    PING,
    PONG,
    TEXT,
    close_frame,
    event_frame,
    frame,
    json_frame,
    plain_frames,
    whole_messages,
)
from heliograph.model.channels import STATUS, Selection
from heliograph.model.errors import (
    ClientFault,
    Forbidden,
    HeliographError,
    Invalid,
    TooMany,
    Unauthenticated,
    Unavailable,
)
from heliograph.model.event import CLI_STATUS
from heliograph.model.ids import EventId, format_id

log = structlog.get_logger(__name__)

PING_FRAME = frame(PING, b"")
RETURNING = (Reason.SHUTDOWN, Reason.ROTATE, Reason.SLOW)
"""The reasons of ends after which the client should come back, with a delay and a cursor from us."""

SESSION_WATCHES = (
    WatchRequest(Selection(("task:*",), "task.status"), overflow=Overflow.LATEST, announced=False),
    WatchRequest(Selection((STATUS,), CLI_STATUS), overflow=Overflow.LATEST, announced=False),
)
"""The subscriptions of a page's own stream, ``/ws/<session>``, from its start."""

ACTIONS = ("chat.message", "task.stop", "task.input")
"""The further messages of such a page, beside those of every WebSocket."""


def owner_of(identity: Identity | None) -> str:
    """Return the owner for whom a stream is counted."""
    return ANONYMOUS if identity is None else identity.name


def handshake_response(key: str) -> bytes:
    """Make the answer to an opening handshake (RFC 6455, section 4.2.2)."""
    return (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + generate_accept_token(key.encode()) + b"\r\n\r\n"
    )


class Acting(Protocol):
    """Performs the actions that a page asks for on its own stream."""

    async def act(
        self, who: Identity, session: str, kind: str, message: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Perform an action; return the fields of the answer.

        Args:
            who: The caller.
            session: The page's name.
            kind: One of ``ACTIONS``.
            message: The action's fields.

        Raises:
            HeliographError: The action is refused, or can't be done.
        """
        ...


class WebSocketStream(Stream):
    """One client on ``/ws``, or on ``/ws/<session>``.

    Args:
        identity: The client; ``None``: it must send ``auth`` first.
        authenticator: Checks the key or ticket of ``auth``.
        session: Name of the page for a page's own stream. Such a page need not send anything: it watches the
            statuses of all tasks from the start, and is not closed for its silence.
        acting: Performs the actions of such a page.
        address: The client's address, if it must still send ``auth``.
    """

    __slots__ = (
        "_acting",
        "_address",
        "_authenticator",
        "_doing",
        "_identity",
        "_message",
        "_next_ping",
        "_parser",
        "_pong_by",
        "_rest",
        "_without_subscription_since",
    )

    transport: ClassVar[str] = "ws"
    one_position: ClassVar[bool] = False
    encode = staticmethod(event_frame)

    def __init__(
        self,
        sock: socket.socket,
        hub: Hub,
        registry: StreamRegistry,
        identity: Identity | None,
        authenticator: Authenticator,
        session: str | None = None,
        acting: Acting | None = None,
        address: str | None = None,
    ) -> None:
        key = "" if identity is None else identity.key
        super().__init__(sock, hub, registry, owner_of(identity), key, session)
        self._identity = identity
        self._authenticator = authenticator
        self._acting = acting
        self._address = address
        self._parser: Connection | None = None
        self._message: bytearray | None = None  # its parts so far
        now = self.due
        self._without_subscription_since = now
        self._next_ping = now + registry.limits.keepalive_seconds * random.uniform(0.5, 1.0)
        self._pong_by: float | None = None
        self._doing = False
        self._rest: Iterator[tuple[int, bytes] | Event] | None = None  # frames after the action under way

    # Out

    def notice(self, kind: str, fields: dict[str, Any], position: EventId | None = None) -> bytes:
        """Encode a control message; the client keeps the position of each channel itself."""
        return json_frame({"type": kind, **fields})

    def farewell(self, reason: Reason, after_ms: int, cursor: EventId | None) -> bytes:
        """Encode ``reconnect``, if the client should come back, and the close frame."""
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
        if request.announced:
            self.sink.write(self.notice("subscribed", fields))
        if reset is not None:
            self.send_reset(request.selection, reset, cursor)

    def opened(self) -> None:
        """Begin the subscriptions of a page's own stream, if the client is known already."""
        try:
            self._watch_as_page()
        except (Forbidden, TooMany) as error:
            self._error(error, None)
            self.end(Reason.FORBIDDEN if isinstance(error, Forbidden) else Reason.TOO_MANY)

    def _watch_as_page(self) -> None:
        if self.session is not None and self._identity is not None:
            self._identity.require("read", "task:*")
            for request in SESSION_WATCHES:
                if self._identity.covers(*request.selection.selectors):
                    self.watch(request)

    def beat(self, now: float) -> None:
        """Ping, and end a client that does not pong or does not subscribe."""
        if self._pong_by is not None and now >= self._pong_by:
            # During a replay the ping may be pending behind it.
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

    def received(self, data: bytes) -> None:
        """Parse what the client sent and act on each message."""
        self._pong_by = None
        if not self.ending:  # else only the peer's end matters
            self._go_on(self._frames(data))

    def _frames(self, data: bytes) -> Iterator[tuple[int, bytes] | Event]:
        """Yield the client's plain frames, or the parser's events for anything else."""
        plain = plain_frames(data) if self._parser is None else None
        if plain is not None:
            yield from plain
            return
        parser = self._parser
        if parser is None:
            parser = Connection(ConnectionType.SERVER)
            # A parser is as large as a stream, so it is kept only while it holds part of a message.
            self._parser = None if whole_messages(data) else parser
        parser.receive_data(data)
        yield from parser.events()

    def _go_on(self, frames: Iterator[tuple[int, bytes] | Event]) -> None:
        """Act on one frame after the other, until one begins an action that waits."""
        try:
            for frame_or_event in frames:
                match frame_or_event:
                    case (int() as opcode, bytes() as payload):
                        self._plain(opcode, payload)
                    case Message():
                        self._part(frame_or_event)
                    case Ping():
                        self.sink.write(frame(PONG, bytes(frame_or_event.payload)))
                    case CloseConnection():
                        self._closed_by_peer(frame_or_event)
                if self.ending:
                    return
                if self._doing:
                    self._rest = frames
                    return
        except RemoteProtocolError as error:
            hint = error.event_hint
            bad_data = isinstance(hint, CloseConnection) and hint.code == Reason.BAD_DATA.code
            self.end(Reason.BAD_DATA if bad_data else Reason.PROTOCOL)

    def _plain(self, opcode: int, payload: bytes) -> None:
        if opcode == TEXT:
            self._take(payload)
        elif opcode == PING:
            self.sink.write(frame(PONG, payload))

    def _closed_by_peer(self, event: CloseConnection) -> None:
        code = 1000 if event.code in {1005, 1006} else event.code
        self.close_with(Reason.PEER, close_frame(code, ""))

    def _part(self, event: Message[Any]) -> None:
        """Collect a part of a message, and act on the message once it is whole."""
        data = event.data.encode() if isinstance(event, TextMessage) else bytes(event.data)
        if self._message is None:
            self._message = bytearray()
        if len(self._message) + len(data) > self.limits.max_message_bytes:
            self.end(Reason.TOO_BIG)
            return
        self._message += data
        if not event.message_finished:
            return
        message, self._message = bytes(self._message), None
        if isinstance(event, TextMessage):
            self._take(message)
        else:
            self._error(Invalid.field("", "send text frames of JSON, not binary ones"), None)

    def _take(self, message: bytes) -> None:
        """Act on a whole text message."""
        if len(message) > self.limits.max_message_bytes:
            self.end(Reason.TOO_BIG)
            return
        try:
            said = message_of(message)
        except ClientFault as fault:
            self._error(fault, ref_of_refused(message))
            return
        ref: Any = None
        try:
            ref = ref_of(said)
            self._act(said, ref)
        except Exception as error:  # a bug is logged
            self._refuse(error, ref)

    def _refuse(self, error: Exception, ref: Any) -> None:
        """Answer a failed message by an error; some errors end the stream, and so does a bug."""
        if not isinstance(error, HeliographError):
            log.exception("unexpected error in a message")
            self.end(Reason.INTERNAL)
            return
        self._error(error, ref)
        match error:
            case Unauthenticated():
                self.end(Reason.BAD_KEY)
            case Forbidden():
                self.end(Reason.FORBIDDEN)
            case TooMany() if not isinstance(error, QuotaExceeded):  # over a quota it may still watch
                self.end(Reason.TOO_MANY)

    def _act(self, message: dict[str, Any], ref: Any) -> None:
        actions = () if self.session is None else ACTIONS
        kind = kind_of(message, actions)
        match kind:
            case "subscribe":
                self._subscribe(request_of(message))
            case "unsubscribe":
                self._unsubscribe(selection_of(message), ref)
            case "ping":
                self.sink.write(self.notice("pong", {"ref": ref}))
            case "auth":
                self._authenticate(text_of(message, "key"), text_of(message, "ticket"), ref)
            case _:
                said = {name: message[name] for name in message.keys() - {"type", "ref"}}
                self._begin_action(kind, said, ref)

    def _begin_action(self, kind: str, message: Mapping[str, Any], ref: Any) -> None:
        """Begin an action in a task; the client's next messages wait until it is done."""
        if self._identity is None:
            raise Unauthenticated(f"say auth before {kind}")
        self._doing = True
        self._registry.lot.hold(self._descriptor)
        self._registry.start_task(self._do, self._identity, kind, message, ref)

    async def _do(self, identity: Identity, kind: str, message: Mapping[str, Any], ref: Any) -> None:
        assert self._acting is not None
        assert self.session is not None
        try:
            did = await self._acting.act(identity, self.session, kind, message)
            self.sink.write(self.notice("done", {"of": kind, **did, "ref": ref}))
        except Forbidden as error:  # unlike in _refuse, the stream lives: it may still watch
            self._error(error, ref)
        except Exception as error:  # a bug is logged
            self._refuse(error, ref)
        self._doing = False
        rest, self._rest = self._rest, None
        try:
            self._go_on(rest or iter(()))
        except Exception:
            log.exception("unexpected error behind an action")
            self.failed()
        if not self._doing:
            self._registry.lot.resume(self._descriptor)

    def _authenticate(self, key: str | None, ticket: str | None, ref: Any) -> None:
        try:
            identity = self._authenticator.authenticate(key, ticket)
        except Unauthenticated as error:
            self._authenticator.refused.note(self._address or self.owner, "auth on a WebSocket", str(error))
            raise
        try:
            self._registry.rename(self, identity.name)
        except TooMany as error:  # too many streams of this owner; it may come back when some have ended
            self._error(error, ref)
            self.end(Reason.FULL)
            return
        first, self._identity, self.key = self._identity is None, identity, identity.key
        self.sink.write(self.notice("authenticated", {"name": identity.name, "ref": ref}))
        if first:
            self._watch_as_page()
        else:
            self._end_uncovered(identity)

    def _end_uncovered(self, identity: Identity) -> None:
        """End the subscriptions that the new identity may not read; the client is sent ``unsubscribed``."""
        for selection in self.watching.selections:
            try:
                identity.require("read", *selection.selectors)
            except Forbidden:
                self._unsubscribe(selection, None)

    def _subscribe(self, request: WatchRequest) -> None:
        if self._identity is None:
            raise Unauthenticated("say auth before subscribe")
        self._identity.require("read", *request.selection.selectors)
        self.watching.forget(request.selection)  # subscribing again begins anew
        if len(self.watching.selections) >= self.limits.max_channels:
            raise TooMany(f"a stream takes at most {self.limits.max_channels} subscriptions")
        self.watch(request)

    def _unsubscribe(self, selection: Selection, ref: Any) -> None:
        if not self.watching.forget(selection):
            raise Invalid.field("channel", f"there is no subscription to {selection}")
        self.count_watched()
        self.sink.write(self.notice("unsubscribed", {"channel": selection.selectors[0], "ref": ref}))
        self._wait_for_subscription()

    def unwatched(self, request: WatchRequest, error: Unavailable, reached: EventId | None) -> None:
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
