"""Publishes to the server under test from the swarm's own thread, at a pace, and keeps account of answers."""

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
        channels: The channels, in turn.
        burst: Messages of one publish.
        size: Length of a message's text in bytes.
        spread: Whether the messages of a burst go to channels in turn, instead of to one.
    """

    channels: tuple[str, ...]
    burst: int = 1
    size: int = 200
    spread: bool = False


class Pace(Protocol):
    """The time at which the next burst may go."""

    def wait(self, now: float, bursts: int) -> float:
        """Return the seconds until burst number ``bursts`` (from 0) is due; infinite: after some delivery."""


class Publishing:
    """Publishes bursts over a few kept-alive connections, at a pace, until stopped.

    Where the messages are numbered here, a channel's always go over the same connection, so that they are
    published in the order of their numbers. A request that gets no answer, or is refused for now (429,
    502 to 504), is sent again with the same key. Each text carries the moment it was first sent.

    Args:
        swarm: The swarm that moves it and keeps account.
        traffic: The traffic to publish.
        pace: The times of its bursts.
        connections: Over how many connections.
        depth: Requests under way at one time on each.

    Attributes:
        bursts: The number of bursts begun.
        last: The number of bursts after which it ends by itself; ``None``: it does not.
        active: Whether it goes on.
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
        """Publish what is due; return the seconds until there may be more to do."""
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
        """Return the connection of the next burst, perhaps a busy one."""
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
    """One burst as it goes over the wire.

    Args:
        items: Its messages.
        data: The bytes to send, the same ones again after a failure.
        answers: The number of answers still to come.
    """

    items: list[tuple[str, int, str]]
    data: bytes
    answers: int


class Feed:
    """One connection that publishes; requests are answered in their order.

    Args:
        swarm: The swarm whose selector moves it.
        depth: Requests that may be under way at one time.
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
        """Come back after a failure, when it is time; return the seconds until then."""
        if not self._again:
            return 1.0
        if self._again <= now:
            self._again = 0.0
            self._connect()
            return 1.0
        return self._again - now

    def ready(self) -> None:
        """Send what is left, and read answers."""
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
        """Open a connection for everything that is not answered yet."""
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
        """Close, and send what is not answered again later; if that is nothing, there is nothing to do."""
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
        start: The moment of the first burst (``perf_counter``).
        interval: Seconds from burst to burst.
    """

    start: float
    interval: float

    def wait(self, now: float, bursts: int) -> float:
        """Return the seconds until the burst's moment."""
        return self.start + bursts * self.interval - now


@attrs.frozen
class Saturating:
    """As fast as deliveries allow: a bounded number of them may be under way."""

    swarm: Swarm
    under_way: int

    def wait(self, now: float, bursts: int) -> float:
        """Return 0 while fewer deliveries than the bound are under way."""
        return 0.0 if self.swarm.behind < self.under_way else float("inf")
