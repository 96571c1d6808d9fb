"""The watch over calls of PostgreSQL: it shuts down the sockets of an overdue call.

The thread that waits at such a socket gets its error. libpq itself does not bound a connection whose peer
acknowledges bytes and never answers.
"""

from __future__ import annotations

import math
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import attrs
import psycopg
import trio
from sqlalchemy import Engine, event
from sqlalchemy.exc import DisconnectionError

GRACE_SECONDS = 2.0
"""The time that a call gets beyond its statement's timeout, so that PostgreSQL's own timeout comes first."""


@attrs.define(eq=False)
class Watched:
    """The call that a thread makes, or the calls that a reader makes in turn: the deadline and the sockets.

    Between its calls a reader has no deadline (infinity).
    """

    deadline: float
    sockets: list[socket.socket] = attrs.field(factory=list)

    def cut(self) -> None:
        """Shut the sockets down; whoever waits for one gets its error."""
        for used in self.sockets:
            with suppress(OSError):  # the call is just ending by itself
                used.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the copies of the sockets."""
        for used in self.sockets:
            used.close()
        self.sockets.clear()


class Watch:
    """Ends calls that outlast their time by shutting down the sockets they use."""

    def __init__(self) -> None:
        self._calls: set[Watched] = set()
        self._here = threading.local()

    @contextmanager
    def call(self, seconds: float) -> Iterator[Watched]:
        """Bound the calling thread's use of watched connections in the body to ``seconds``."""
        call = Watched(time.monotonic() + seconds)
        self.begin(call)
        try:
            yield call
        finally:
            self._here.call = None
            self.end(call)

    def begin(self, call: Watched) -> None:
        """Watch what the calling thread does from now on, as this call."""
        self._here.call = call
        self._calls.add(call)

    def end(self, call: Watched) -> None:
        """Watch a call no longer."""
        self._calls.discard(call)
        call.close()

    async def run(self) -> None:
        """End overdue calls until cancelled; then end all that are left after ``GRACE_SECONDS``."""
        try:
            while True:
                await trio.sleep(0.5)
                self._cut(time.monotonic())
        finally:
            with trio.move_on_after(GRACE_SECONDS, shield=True):
                while any(one.deadline < math.inf for one in list(self._calls)):  # noqa: ASYNC110 - threads tell nobody
                    await trio.sleep(0.02)
            self._cut(math.inf)

    def _cut(self, now: float) -> None:
        for call in list(self._calls):
            if call.deadline < now:
                call.cut()

    def add(self, engine: Engine) -> None:
        """Watch an engine's connections.

        A pooled connection with unread bytes, or an end of file, is pinged before it is used again.
        """

        @event.listens_for(engine, "connect", insert=True)
        def connected(connection: psycopg.Connection[Any], _: object) -> None:
            self.uses(connection)

        @event.listens_for(engine, "checkout")
        def taken(connection: psycopg.Connection[Any], _: object, __: object) -> None:
            self.uses(connection)
            if not has_news(connection.fileno()):
                return
            try:
                engine.dialect.do_ping(connection)  # type: ignore[arg-type]
            except psycopg.Error as error:
                if self._overdue():
                    raise  # trying another connection would take as long again
                raise DisconnectionError from error

    def _overdue(self) -> bool:
        call: Watched | None = getattr(self._here, "call", None)
        return call is not None and call.deadline < time.monotonic()

    def uses(self, connection: psycopg.Connection[Any]) -> None:
        """Add a copy of this connection's socket to the calling thread's call."""
        call: Watched | None = getattr(self._here, "call", None)
        if call is not None:
            call.sockets.append(socket.socket(fileno=os.dup(connection.fileno())))


def has_news(descriptor: int) -> bool:
    """Tell whether a socket has unread bytes or an end of file."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
