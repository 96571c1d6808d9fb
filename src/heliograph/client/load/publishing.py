"""Publishes to the server under test from the swarm's own thread, at a pace, and counts the answers."""

from __future__ import annotations

import re
import selectors
import socket
from collections import deque
from time import perf_counter, perf_counter_ns
from typing import Protocol

import attrs

from heliograph.client.load.swarm import HEAD_END, READ_BYTES, LoadError, Swarm

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)").search
_RETRY_AFTER = re.compile(rb"(?i)\r\nretry-after: *(\d+)").search


@attrs.frozen
class TrafficShape:
    """The traffic of a publisher.

    Args:
        channels: The channels, which are used in turn.
        burst: Messages in one publish request.
        size: Length of a message's text in bytes.
        spread: Whether the messages of a burst go to channels in turn, instead of to one.
    """

    channels: tuple[str, ...]
    burst: int = 1
    size: int = 200
    spread: bool = False


class Pace(Protocol):
    """The pace of a publisher."""

    def wait(self, now: float, bursts: int) -> float:
        """Return the seconds until burst number ``bursts`` (from 0) is due; infinite: after a delivery."""


class Publishing:
    """Publishes bursts over a few kept-alive connections, at a pace, until stopped.

    If the messages are numbered here, those of a channel always go over the same connection, so that they are
    published in the order of their numbers. A request that gets no answer, or is refused for now (429, 502 to
    504), is sent again with the same key. Each text has the time at which it was first sent.

    Args:
        swarm: The swarm that runs it and counts.
        traffic: The traffic to publish.
        pace: The times of its bursts.
        connections: The number of connections.
        depth: The most requests under way on each connection.

    Attributes:
        bursts: The number of bursts begun.
        last: The number of bursts after which it ends by itself; ``None``: it goes on.
        active: Whether it still publishes.
    """

    def __init__(
        self, swarm: Swarm, traffic: TrafficShape, pace: Pace, connections: int = 1, depth: int = 1
    ) -> None:
        self.swarm = swarm
        self.traffic = traffic
        self.pace = pace
        self.bursts = 0
        self.last: int | None = None
        self.active = True
        self._any_lane = swarm.dialect.numbers
        if traffic.spread and not self._any_lane:
            connections = 1
        self._lanes = [Feed(swarm, depth) for _ in range(connections)]
        self._pad = "x" * traffic.size

    @property
    def idle(self) -> bool:
        """Whether every request was answered."""
        return all(feed.idle for feed in self._lanes)

    def go_on(self, now: float) -> float:
        """Publish the bursts that are due; return the seconds until the next one may be."""
        wait = min(feed.go_on(now) for feed in self._lanes)
        while self.active and self.bursts != self.last:
            due = self.pace.wait(now, self.bursts)
            if due > 0:
                return min(wait, due)
            feed = self._lane()
            if feed.busy:
                return wait
            feed.publish(self._burst())
            self.bursts += 1
        return wait

    def close(self) -> None:
        """Close the connections."""
        for feed in self._lanes:
            feed.close()

    def _lane(self) -> Feed:
        """Return the connection for the next burst, which may be busy."""
        fixed = self._lanes[self.bursts % len(self.traffic.channels) % len(self._lanes)]
        if self._any_lane:
            return next((feed for feed in self._lanes if not feed.busy), fixed)
        return fixed

    def _burst(self) -> list[tuple[str, int, str]]:
        traffic, swarm = self.traffic, self.swarm
        sent = f"sent={perf_counter_ns() // 1000}; "
        text = sent + self._pad[len(sent) :]
        count = len(traffic.channels)
        items = []
        for place in range(traffic.burst):
            channel = traffic.channels[
                (self.bursts * traffic.burst + place if traffic.spread else self.bursts) % count
            ]
            items.append((channel, swarm.sending(channel), text))
        return items


@attrs.define
class Request:
    """One burst on the wire.

    Args:
        items: Its messages.
        data: The bytes to send; after a failure the same bytes are sent again.
        answers: The number of answers still to come.
    """

    items: list[tuple[str, int, str]]
    data: bytes
    answers: int


class Feed:
    """One connection that publishes; requests are answered in their order.

    Args:
        swarm: The swarm whose selector it is registered with.
        depth: The most requests under way.
    """

    def __init__(self, swarm: Swarm, depth: int) -> None:
        self.swarm = swarm
        self._depth = depth
        self._requests: deque[Request] = deque()
        self._sock: socket.socket | None = None
        self._unsent = b""
        self._answer = b""
        self._again = 0.0

    @property
    def busy(self) -> bool:
        """Whether no more requests may be sent now."""
        return len(self._requests) >= self._depth

    @property
    def idle(self) -> bool:
        """Whether every request was answered."""
        return not self._requests

    def publish(self, items: list[tuple[str, int, str]]) -> None:
        """Send a burst."""
        data, answers = self.swarm.dialect.publish(items, f"{items[0][0]}/{items[0][1]}")
        self._requests.append(Request(items, data, answers))
        if self._sock is None:
            if not self._again:
                self._connect()
            return
        self._unsent += data
        self.swarm.selector.modify(self._sock, selectors.EVENT_READ | selectors.EVENT_WRITE, self)
        self._send(self._sock)

    def go_on(self, now: float) -> float:
        """Reconnect after a failure when that is due; return the seconds until then."""
        if not self._again:
            return 1.0
        if self._again <= now:
            self._again = 0.0
            self._connect()
            return 1.0
        return self._again - now

    def ready(self) -> None:
        """Send the rest of the requests, and read answers."""
        assert self._sock is not None
        if self._unsent:
            self._send(self._sock)
        if self._sock is not None:
            self._receive(self._sock)

    def close(self) -> None:
        """Close the connection."""
        if self._sock is not None:
            self.swarm.forget(self._sock)
            self._sock = None

    def _connect(self) -> None:
        """Open a connection, and send all unanswered requests."""
        self._sock = sock = socket.socket(self.swarm.family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect_ex(self.swarm.address)
        self._answer = b""
        self._unsent = b"".join(request.data for request in self._requests)
        self.swarm.selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, self)

    def _send(self, sock: socket.socket) -> None:
        try:
            self._unsent = self._unsent[sock.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self._fail(0.2)
            return
        if not self._unsent:
            self.swarm.selector.modify(sock, selectors.EVENT_READ, self)

    def _receive(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._answer += data
            self._read_answers()
        else:
            self._fail(0.2)

    def _fail(self, delay: float) -> None:
        """Close the connection; if requests are unanswered, reconnect after ``delay`` to send them again."""
        self.close()
        if self._requests:
            self.swarm.tally.refused += 1
            self._again = perf_counter() + delay

    def _read_answers(self) -> None:
        while HEAD_END in self._answer and self._requests:
            head, rest = self._answer.split(HEAD_END, 1)
            found = _LENGTH(head)
            length = int(found[1]) if found else 0
            if len(rest) < length:
                return
            self._answer = rest[length:]
            status = int(head.split(b" ", 2)[1])
            if status in (429, 502, 503, 504):
                after = _RETRY_AFTER(head)
                self._fail(float(after[1]) if after else 1.0)
                return
            if not 200 <= status < 300:
                raise LoadError(
                    f"publishing was answered with {status}: {rest[:length].decode(errors='replace')[:500]}"
                )
            self._answered(self._requests[0])

    def _answered(self, request: Request) -> None:
        request.answers -= 1
        if request.answers == 0:
            self._requests.popleft()
            self.swarm.tally.published += len(request.items)
            self.swarm.kept.update(channel for channel, _, _ in request.items)


@attrs.frozen
class SteadyPace:
    """A fixed number of messages a second, whether they are delivered or not.

    Args:
        start: The time of the first burst (``perf_counter``).
        interval: Seconds from burst to burst.
    """

    start: float
    interval: float

    def wait(self, now: float, bursts: int) -> float:
        """Return the seconds until the burst's time."""
        return self.start + bursts * self.interval - now


@attrs.frozen
class Saturating:
    """As fast as deliveries allow: a bounded number of them may be under way."""

    swarm: Swarm
    under_way: int

    def wait(self, now: float, bursts: int) -> float:
        """Return 0 while fewer deliveries than the bound are under way."""
        return 0.0 if self.swarm.behind < self.under_way else float("inf")
