"""The scenarios. Each takes a fresh server and returns figures by name.

Streams are all open before anything is published. The clock and the CPU count start after a warm-up and
stop when everything published was delivered, so no server gains by leaving work for later.
"""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter, process_time

import attrs

from bench.peer import Peer
from bench.server import HOST, BenchError, Server
from heliograph.client.load import Pace, Publishing, Saturating, SteadyPace, Swarm, TrafficShape

EVERYONE = ("heliograph", "fastapi", "ws", "nchan", "floor")
OURS = ("heliograph",)
UNDER_WAY = 16
"""Bursts that may be under way at saturation."""

MOST_STREAMS = 10_000

RAMP_SECONDS = 90.0
DRAIN_SECONDS = 60.0
BACK_SECONDS = 90.0

Figures = dict[str, float]


@attrs.frozen
class Scale:
    """The extent of the measurements; ``--quick`` is for developing, its figures are rough.

    Args:
        streams: Factor on the number of streams.
        seconds: Length of a measurement.
        warm_up: Seconds of the same traffic before it.
        rounds: The number of times that each is repeated.
    """

    streams: float = 1.0
    seconds: float = 8.0
    warm_up: float = 2.0
    rounds: int = 3

    def count(self, streams: int) -> int:
        """Scale a number of streams."""
        return max(10, round(streams * self.streams))


FULL = Scale()
QUICK = Scale(streams=0.2, seconds=2.0, warm_up=0.5, rounds=1)


@attrs.frozen
class Scenario:
    """A named measurement and the peers that it is made of."""

    name: str
    title: str
    measure: Callable[[Peer, Scale], Figures]
    transports: tuple[str, ...] = ("ws", "sse")
    peers: tuple[str, ...] = EVERYONE

    def takes(self, peer: Peer) -> bool:
        """Tell whether it is made of this peer."""
        return peer.name in self.peers and set(self.transports) <= set(peer.transports)


@contextmanager
def swarm_of(server: Server, streams: int, channels: int, transports: tuple[str, ...]) -> Iterator[Swarm]:
    """Open streams, evenly over channels and transports; settle them at the end."""
    swarm = Swarm(server.peer.dialect(f"{HOST}:{server.port}"), HOST, server.port)
    width = len(transports)
    swarm.add(
        (transports[number % width], server.peer.channel(number // width % channels))
        for number in range(streams)
    )
    gc.collect()
    gc.disable()  # a collection over so many streams would show up as the server's latency
    try:
        if not swarm.run(lambda: swarm.live >= streams, RAMP_SECONDS):
            raise BenchError(f"{swarm.live} of {streams} streams opened: {dict(swarm.tally.disconnects)}")
        swarm.run(lambda: False, 0.5)
        yield swarm
    finally:
        gc.enable()
        swarm.close()


def publishing(
    swarm: Swarm,
    peer: Peer,
    channels: int,
    pace: Pace,
    burst: int = 1,
    *,
    spread: bool = False,
    connections: int = 1,
    depth: int = 1,
) -> Publishing:
    """Have something published to the first channels, at a pace, while the swarm runs."""
    names = tuple(peer.channel(number) for number in range(channels))
    made = Publishing(swarm, TrafficShape(names, burst, spread=spread), pace, connections, depth)
    swarm.publishers.append(made)
    return made


def _measure(server: Server, swarm: Swarm, publishing: Publishing, scale: Scale) -> Figures:
    """Warm up, then count CPU, deliveries and latencies until everything is delivered."""
    swarm.run(lambda: False, scale.warm_up)
    tally = swarm.settle()
    tally.latency.clear()
    delivered, published = tally.deliveries, tally.published
    begun, cpu, own = perf_counter(), server.cpu(), process_time()
    swarm.run(lambda: False, scale.seconds)
    publishing.active = False
    rate = (tally.published - published) / (perf_counter() - begun)
    drained = swarm.run(lambda: swarm.drained, DRAIN_SECONDS)
    cpu, own, seconds = server.cpu() - cpu, process_time() - own, perf_counter() - begun
    deliveries = swarm.settle().deliveries - delivered
    if not deliveries:
        raise BenchError(f"{server.peer.name} delivered nothing: {dict(tally.disconnects)}")
    return {
        "cpu_us": cpu / deliveries * 1e6,
        "per_second": deliveries / seconds,
        "per_cpu_second": deliveries / cpu if cpu else 0.0,
        "messages_per_second": rate,
        "p50_ms": tally.percentile(0.5) or 0.0,
        "p99_ms": tally.percentile(0.99) or 0.0,
        "server_cpu": cpu / seconds,
        "client_cpu": own / seconds,
        "drained": float(drained),
        **_faults(swarm),
    }


def _faults(swarm: Swarm) -> Figures:
    tally = swarm.tally
    return {
        "lost": swarm.lost,
        "duplicated": tally.duplicated,
        "out_of_order": tally.out_of_order,
        "disconnects": tally.disconnects.total(),
        **{f"disconnects {code}": float(count) for code, count in tally.disconnects.items()},
    }


def _steady(
    transport: str, streams: int, rate: float, burst: int = 1, channels: int = 1
) -> Callable[[Peer, Scale], Figures]:
    """Publish at a fixed rate; with more than one channel, a burst goes over channels in turn."""

    def measure(peer: Peer, scale: Scale) -> Figures:
        watched = scale.count(channels) if channels > 1 else 1
        count = scale.count(streams)
        with Server(peer) as server, swarm_of(server, count, watched, (transport,)) as swarm:
            pace = SteadyPace(perf_counter(), burst / rate)
            sent = publishing(swarm, peer, watched, pace, burst, spread=channels > 1)
            return _measure(server, swarm, sent, scale)

    return measure


def _saturation(transport: str) -> Callable[[Peer, Scale], Figures]:
    """Publish as fast as messages are delivered, to 500 streams in bursts of 20."""

    def measure(peer: Peer, scale: Scale) -> Figures:
        count, burst = scale.count(500), 20
        with Server(peer) as server, swarm_of(server, count, 1, (transport,)) as swarm:
            swarm.pause = 0.002  # the client's core is not to be the limit
            pace = Saturating(swarm, UNDER_WAY * burst * count)
            sent = publishing(swarm, peer, 1, pace, burst, connections=4, depth=4)
            return _measure(server, swarm, sent, scale)

    return measure


def _idle(transport: str) -> Callable[[Peer, Scale], Figures]:
    """Open 2,000 streams on one channel and let them be; some were opened before, so code is loaded."""

    def measure(peer: Peer, scale: Scale) -> Figures:
        count = scale.count(2000)
        with Server(peer) as server, swarm_of(server, 50, 1, (transport,)):
            memory, cpu = server.memory(), server.cpu()
            with swarm_of(server, count, 1, (transport,)) as swarm:
                cpu = server.cpu() - cpu
                swarm.run(lambda: False, 1.0)
                return {
                    "memory_kib": (server.memory() - memory) / count / 1024,
                    "connect_us": cpu / count * 1e6,
                    **_faults(swarm),
                }

    return measure


def _crowd(peer: Peer, scale: Scale) -> Figures:
    """5,000 WebSockets and 5,000 event streams on 100 channels, 200 messages a second."""
    count, channels = scale.count(MOST_STREAMS), 100
    with Server(peer) as server:
        empty = server.memory()
        with swarm_of(server, count, channels, ("ws", "sse")) as swarm:
            sent = publishing(swarm, peer, channels, SteadyPace(perf_counter(), 1 / 200), connections=8)
            figures = _measure(server, swarm, sent, attrs.evolve(scale, seconds=scale.seconds * 3))
            memory = server.memory()
            return {
                **figures,
                "memory_mib": memory / 1024**2,
                "memory_kib": (memory - empty) / count / 1024,
            }


def _stalled(peer: Peer, scale: Scale) -> Figures:
    """Have some watchers never read: how long they are kept, at what memory, and who else notices."""
    stalled, streams = scale.count(100), scale.count(200)
    with Server(peer) as server, swarm_of(server, streams, 1, ("ws", "sse")) as swarm:
        memory, sockets = server.memory(), server.sockets()
        dead = [_stall(server, peer.channel(0)) for _ in range(stalled)]
        swarm.run(lambda: server.sockets() >= sockets + stalled, 10)
        sent = publishing(swarm, peer, 1, SteadyPace(perf_counter(), 1 / 50))
        sent.traffic = attrs.evolve(sent.traffic, size=8192)
        begun, peak = perf_counter(), [0]

        def evicted() -> bool:
            peak[0] = max(peak[0], server.memory())
            # The publisher's own connection is one more than at first.
            return server.sockets() <= sockets + 1

        while not evicted() and perf_counter() - begun < BACK_SECONDS:
            swarm.run(lambda: False, 0.25)
        seconds = perf_counter() - begun
        left = max(0, server.sockets() - sockets - 1)
        sent.active = False
        swarm.run(lambda: swarm.drained, DRAIN_SECONDS)
        for sock in dead:
            sock.close()
        tally = swarm.settle()
        return {
            "evicted": stalled - left,
            "kept": left,
            "seconds": seconds,
            "peak_mib": (peak[0] - memory) / 1024**2,
            "p99_ms": tally.percentile(0.99) or 0.0,
            **_faults(swarm),
        }


def _lines(peer: Peer, scale: Scale) -> Figures:
    """Publish a task's lines as fast as they are acknowledged; how long until every watcher has all."""
    lines, watchers, burst = 10_000, 100, 500
    with Server(peer) as server, swarm_of(server, watchers, 1, ("ws",)) as swarm:
        publishing(swarm, peer, 1, SteadyPace(perf_counter(), scale.warm_up), burst)
        swarm.run(lambda: swarm.tally.published >= burst, DRAIN_SECONDS)
        swarm.publishers.clear()
        swarm.run(lambda: swarm.drained, DRAIN_SECONDS)
        tally = swarm.settle()
        tally.latency.clear()
        before, cpu, begun = tally.published, server.cpu(), perf_counter()
        sent = publishing(swarm, peer, 1, SteadyPace(begun, 0.0), burst, depth=2)
        sent.last = lines // burst
        sent.traffic = attrs.evolve(sent.traffic, size=80)
        swarm.run(lambda: tally.published - before >= lines, DRAIN_SECONDS)
        published = perf_counter() - begun
        swarm.run(lambda: swarm.drained, DRAIN_SECONDS)
        return {
            "seconds_published": published,
            "seconds_delivered": perf_counter() - begun,
            "deliveries": swarm.settle().deliveries,
            "server_cpu_seconds": server.cpu() - cpu,
            "p99_ms": tally.percentile(0.99) or 0.0,
            **_faults(swarm),
        }


def _stall(server: Server, channel: str) -> socket.socket:
    """Open an event stream with a small window and never read it."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((HOST, server.port))
    sock.sendall(server.peer.dialect(f"{HOST}:{server.port}").open("sse", channel, None))
    return sock


def _restart(peer: Peer, scale: Scale) -> Figures:
    """Kill the server under 5,000 streams and a publisher that repeats; start it again on its data."""
    count, channels = scale.count(5_000), 50
    with Server(peer) as server, swarm_of(server, count, channels, ("ws", "sse")) as swarm:
        sent = publishing(swarm, peer, channels, SteadyPace(perf_counter(), 1 / 100), connections=8)
        swarm.run(lambda: False, scale.warm_up)
        connects = swarm.tally.connects
        server.kill()
        killed = perf_counter()
        swarm.run(lambda: swarm.live == 0, 10)
        server.start()
        listening = perf_counter()
        back = swarm.run(lambda: swarm.live >= count, BACK_SECONDS)
        all_back = perf_counter()
        sent.active = False
        swarm.run(lambda: swarm.drained, DRAIN_SECONDS)
        caught_up = perf_counter()
        return {
            "back": float(swarm.live if not back else count),
            "seconds_down": listening - killed,
            "seconds_back": all_back - listening,
            "seconds_caught_up": caught_up - listening,
            "connects": swarm.tally.connects - connects,
            **_faults(swarm),
            "disconnects": 0.0,  # all were cut, on purpose
        }


WS, SSE = ("ws",), ("sse",)

SCENARIOS = (
    Scenario("steady-ws", "1,000 WebSockets on a channel, 20 messages/s", _steady("ws", 1000, 20), WS),
    Scenario("steady-sse", "1,000 event streams on a channel, 20 messages/s", _steady("sse", 1000, 20), SSE),
    Scenario("bursts-ws", "500 WebSockets, 4 bursts of 20 a second", _steady("ws", 500, 80, 20), WS),
    Scenario("bursts-sse", "500 event streams, 4 bursts of 20 a second", _steady("sse", 500, 80, 20), SSE),
    Scenario("saturation-ws", "500 WebSockets, bursts of 20 without pause", _saturation("ws"), WS),
    Scenario("saturation-sse", "500 event streams, bursts of 20 without pause", _saturation("sse"), SSE),
    Scenario("idle-ws", "2,000 WebSockets opened, then idle", _idle("ws"), WS),
    Scenario("idle-sse", "2,000 event streams opened, then idle", _idle("sse"), SSE),
    Scenario(
        "channels",
        "2,000 channels with one WebSocket each, 2,000 messages/s, published 20 at a time",
        _steady("ws", 2000, 2000, 20, 2000),
        WS,
    ),
    Scenario("lines", "10,000 lines of one task to 100 watchers, at once", _lines, peers=OURS),
    Scenario(
        "crowd",
        "5,000 WebSockets and 5,000 event streams, 100 channels, 200 messages/s",
        _crowd,
        peers=OURS,
    ),
    Scenario(
        "stalled",
        "100 readers that never read beside 200 that do, 50 messages of 8 KiB a second",
        _stalled,
        peers=OURS,
    ),
    Scenario(
        "restart", "kill -9 under 5,000 streams and a publisher, then start again", _restart, peers=OURS
    ),
)
