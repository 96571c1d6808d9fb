"""Following a channel: every event once and in order, over as many connections as it takes.

``follow`` gives items: events, and the notices ``Gap`` and ``Reset`` for events that the service can't give.
However a connection ends, the next one begins after the last id that arrived, so no event comes twice and
none is missing. The client obeys the server: it waits for the delay of a ``reconnect`` notice or of SSE's
``retry:``; a 204 (everything was seen) ends the following; a refusal, be it an HTTP status 4xx or a WebSocket
close code from 4500 to 4999, is raised and not retried. Any other end is retried for ever: callers put a
cancel scope around ``follow``.

Each of the two transports is a context manager that opens one connection and gives a source: its ``receive``
returns the next items, and raises ``Ended`` when the connection is over. The position in the log is kept by
the ``Following``, which outlives connections.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Protocol

import httpx
import orjson
import trio
import trio_websocket

from heliograph.client.answers import problem_error, unreachable
from heliograph.client.api import Client
from heliograph.client.following import (
    ACCEPT,
    IDLE_SECONDS,
    Ended,
    Finished,
    Following,
    Item,
    SseReader,
    read_event,
    read_notice,
)
from heliograph.client.paths import STREAM
from heliograph.model.backoff import Backoff
from heliograph.model.errors import (
    ClientFault,
    Forbidden,
    HeliographError,
    TooMany,
    Unauthenticated,
    Unavailable,
)
from heliograph.model.event import CLI_STATUS, SEED_TYPES

PONG_SECONDS = 20.0
CONNECT_SECONDS = 10.0
DISCONNECT_SECONDS = 2.0
MESSAGE_QUEUE = 64
READ_BYTES = 64 * 1024
MAX_MESSAGE_BYTES = 80 * 1024 * 1024
NO_RETURN_CODES = range(4500, 5000)

_FAULTS: Mapping[str, type[HeliographError]] = {
    cls.code: cls for cls in (Unauthenticated, Forbidden, Unavailable)
}
_TOPICS = {"cli_status_update": CLI_STATUS, **{kind: topic for topic, kind in SEED_TYPES.items()}}
_ENVELOPE = frozenset({"type", "id", "channel", "seq", "timestamp"})


Wire = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class Source(Protocol):
    """One open connection."""

    async def receive(self) -> list[Item]:
        """Return the next items, of which there may be none.

        Raises:
            Ended: The connection is over.
            HeliographError: The service refuses.
        """


Transport = Callable[[Client, Following], AbstractAsyncContextManager[Source]]


@trio.as_safe_channel
async def follow(
    client: Client,
    following: Following,
    transport: str = "sse",
    on_retry: Callable[[HeliographError], object] = lambda error: None,
) -> AsyncGenerator[Item, None]:
    """Follow a channel: an async context manager that gives an async iterator of items.

    Args:
        client: The client of the service.
        following: The selection and the position, which moves with each item; another ``follow`` may go on
            with it.
        transport: ``sse`` or ``ws``.
        on_retry: Called each time that the service can't be reached or asks for a retry.

    Raises:
        ClientFault: The service refuses; a retry would not help.
    """
    connect = TRANSPORTS[transport]
    backoff = Backoff()
    while True:
        try:
            async with connect(client, following) as source:
                while True:
                    items = await source.receive()
                    backoff.reset()
                    for item in items:
                        if following.is_new(item):
                            yield item
        except Finished:
            return
        except Ended as end:
            delay = backoff.next() if end.delay is None else end.delay
        except (Unavailable, TooMany) as error:
            on_retry(error)
            delay = backoff.next(error)
        await trio.sleep(delay)


@asynccontextmanager
async def _open_sse(client: Client, following: Following) -> AsyncIterator[Source]:
    async with client.stream(STREAM, following.query(), ACCEPT, IDLE_SECONDS) as response:
        if response.status_code == 204:
            raise Finished
        chunks = response.aiter_bytes()
        try:
            yield _SseSource(chunks, SseReader(following))
        finally:
            await _abandon(chunks)


async def _abandon(chunks: AsyncIterator[bytes]) -> None:
    """End a body that is not read to its end.

    httpx reads through half a dozen nested generators. Otherwise the garbage collector would have to end
    them, one by one and too late; a cancellation from within ends all of them at once.
    """
    with trio.CancelScope() as scope, suppress(httpx.TransportError):
        scope.cancel()
        async for _ in chunks:
            pass


class _SseSource:
    def __init__(self, chunks: AsyncIterator[bytes], reader: SseReader) -> None:
        self._chunks = chunks
        self._reader = reader

    async def receive(self) -> list[Item]:
        if self._reader.end is not None:
            raise self._reader.end
        try:
            chunk = await anext(self._chunks)
        except (StopAsyncIteration, httpx.TransportError):
            raise self._reader.cut() from None
        return self._reader.feed(chunk)


@asynccontextmanager
async def _open_ws(client: Client, following: Following) -> AsyncIterator[Source]:
    try:
        # trio-websocket reads in this nursery, and raises some of its errors there.
        async with trio.open_nursery() as nursery, _connect(client) as stream:
            connection = await _shake_hands(nursery, stream, client)
            subscribe = {"type": "subscribe", **following.query()}
            await connection.send_message(orjson.dumps(subscribe).decode())
            yield _WsSource(connection, following)
            with trio.move_on_after(DISCONNECT_SECONDS):
                await connection.aclose()
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # A cancellation that meets a failure is not lost: the next checkpoint raises it again.
        _, failures = group.split(trio.Cancelled)
        if not isinstance(failures, ExceptionGroup):
            raise
        failure = _first(failures)
    else:
        return
    raise _translated(failure, client)


def _first(group: ExceptionGroup[Exception]) -> Exception:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first


def _translated(failure: Exception, client: Client) -> Exception:
    match failure:
        case trio_websocket.ConnectionRejected():
            return problem_error(failure.status_code, failure.body or b"")
        case trio_websocket.ConnectionClosed():
            return _why_closed(failure.reason)
        case OSError() | trio_websocket.HandshakeError() | trio.BrokenResourceError() | trio.TooSlowError():
            return unreachable(client.url, failure)
        case _:
            return failure


@asynccontextmanager
async def _connect(client: Client) -> AsyncIterator[Wire]:
    """Open a connection, and close it in any case: trio-websocket does not if the peer goes."""
    url = httpx.URL(client.url)
    plain: trio.SocketStream | None = None
    with trio.move_on_after(CONNECT_SECONDS):
        plain = await trio.open_tcp_stream(url.host, url.port or (443 if url.scheme == "https" else 80))
    if plain is None:
        raise TimeoutError("no answer")
    stream: Wire = plain
    if url.scheme == "https":
        # TLS is done here, with the same authorities as over HTTP: trio-websocket would hide why it failed.
        context = httpx.create_ssl_context()
        stream = trio.SSLStream(plain, context, server_hostname=url.host, https_compatible=True)
    try:
        if isinstance(stream, trio.SSLStream):
            with trio.fail_after(CONNECT_SECONDS):
                await stream.do_handshake()
        yield stream
    finally:
        await trio.aclose_forcefully(stream)


async def _shake_hands(
    nursery: trio.Nursery, stream: Wire, client: Client
) -> trio_websocket.WebSocketConnection:
    url = httpx.URL(client.url)
    with trio.move_on_after(CONNECT_SECONDS):
        return await trio_websocket.wrap_client_stream(
            nursery,
            stream,
            url.netloc.decode(),
            url.path.rstrip("/") + "/ws",
            extra_headers=[(name.encode(), value.encode()) for name, value in client.headers.items()],
            message_queue_size=MESSAGE_QUEUE,
            max_message_size=MAX_MESSAGE_BYTES,
            receive_buffer_size=READ_BYTES,
        )
    raise TimeoutError("no answer to the handshake")


class _WsSource:
    def __init__(self, connection: trio_websocket.WebSocketConnection, following: Following) -> None:
        self._connection = connection
        self._following = following

    async def receive(self) -> list[Item]:
        text = None
        with trio.move_on_after(IDLE_SECONDS):
            text = await self._connection.get_message()
        if text is None:
            with trio.move_on_after(PONG_SECONDS) as scope:
                await self._connection.ping()
            if scope.cancelled_caught:
                raise Ended
            return []
        message = orjson.loads(text)
        kind = message["type"]
        if kind == "subscribed":
            self._following.after = self._following.after or message["cursor"]
        elif kind == "reconnect":
            self._following.after = message.get("cursor") or self._following.after
            raise Ended(message["after_ms"] / 1000)
        elif kind == "error":
            raise _FAULTS.get(message["code"], ClientFault)(message["detail"])
        else:
            return [_ws_item(kind, message)]
        return []


def _ws_item(kind: str, message: dict[str, Any]) -> Item:
    if kind == "event":
        return read_event(message, message["topic"], message["payload"])
    payload = {name: value for name, value in message.items() if name not in _ENVELOPE}
    return read_notice(kind, message) or read_event(message, _TOPICS[kind], payload)


def _why_closed(reason: trio_websocket.CloseReason | None) -> Exception:
    if reason is None or reason.code not in NO_RETURN_CODES:
        return Ended()
    fault = {4500: Unauthenticated, 4503: Forbidden}.get(reason.code, ClientFault)
    return fault(reason.reason or f"closed with code {reason.code}")


TRANSPORTS: Mapping[str, Transport] = {"sse": _open_sse, "ws": _open_ws}
