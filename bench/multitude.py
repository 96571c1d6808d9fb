"""Fifty thousand streams at once, and five thousand that come back at once."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections import Counter
from time import perf_counter
from typing import Any

import orjson

from bench.peer import ROOT, Peer
from bench.scenarios import OURS, Figures, Scale, Scenario, publishing, swarm_of
from bench.server import HOST, BenchError, Server
from heliograph.client.load import SteadyPace, Swarm, Tally

MULTITUDE = 50_000
CHANNELS = 500
RATE = 500
PROCESSES = 4
SPARE_FILES = 300
"""Descriptors of the service that are no streams."""

BACK_SECONDS = 60.0
DRAIN_SECONDS = 60.0


class Watchers:
    """A process of watchers, with a source address of its own."""

    def __init__(self, port: int, number: int, streams: int) -> None:
        address = f"127.0.0.{number + 2}"
        self._process = subprocess.Popen(
            [
                *("timeout", "--kill-after=5", "900", sys.executable, "-m", "bench.watchers"),
                *(str(port), str(streams), str(CHANNELS), address),
            ],
            cwd=ROOT,
            env={"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def line(self) -> bytes:
        """Read what it says next."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchError("a process of watchers has ended")
        return line

    def tell(self, kept: Counter[str]) -> None:
        """Tell it how many messages each channel has."""
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps(kept) + b"\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def _multitude(peer: Peer, scale: Scale) -> Figures:
    """Open as many streams as files may be open, at most 50,000; then publish 500 messages a second."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(scale.count(MULTITUDE), most - SPARE_FILES) // PROCESSES
    with Server(peer) as server:
        empty = server.memory()
        crowds: list[Watchers] = []
        try:
            begun, cpu = perf_counter(), server.cpu()
            crowds += [Watchers(server.port, number, count) for number in range(PROCESSES)]
            live = sum(int(crowd.line().split()[1]) for crowd in crowds)
            opened, connect = perf_counter() - begun, (server.cpu() - cpu) / max(1, live)
            idle = server.memory()
            publisher = Swarm(peer.dialect(f"{HOST}:{server.port}"), HOST, server.port)
            sent = publishing(publisher, peer, CHANNELS, SteadyPace(perf_counter(), 1 / RATE), connections=8)
            publisher.run(lambda: False, scale.warm_up)
            _tell(crowds, publisher.kept)  # what the warm-up took is not counted
            begun, cpu, published = perf_counter(), server.cpu(), publisher.tally.published
            publisher.run(lambda: False, scale.seconds * 3)
            sent.active = False
            seconds, busy = perf_counter() - begun, server.cpu() - cpu
            rate = (publisher.tally.published - published) / seconds
            publisher.run(lambda: sent.idle, DRAIN_SECONDS)
            told = _tell(crowds, publisher.kept)
            memory = server.memory()
            publisher.close()
        finally:
            for crowd in crowds:
                crowd.close()
    tally = Tally()
    for one in told:
        tally.latency.update(dict(one["latency"]))
    return {
        "streams": live,
        "seconds_to_open": opened,
        "connect_us": connect * 1e6,
        "memory_mib": memory / 1024**2,
        "idle_mib": idle / 1024**2,
        "memory_kib": (idle - empty) / max(1, live) / 1024,
        "messages_per_second": rate,
        "server_cpu": busy / seconds,
        "p50_ms": tally.percentile(0.5) or 0.0,
        "p99_ms": tally.percentile(0.99) or 0.0,
        **{name: sum(one[name] for one in told) for name in ("lost", "duplicated", "out_of_order")},
        "disconnects": sum(sum(one["disconnects"].values()) for one in told),
    }


def _tell(crowds: list[Watchers], kept: Counter[str]) -> list[dict[str, Any]]:
    for crowd in crowds:
        crowd.tell(kept)
    return [orjson.loads(crowd.line()) for crowd in crowds]


def _return(peer: Peer, scale: Scale) -> Figures:
    """Kill the service under 5,000 streams; when it listens again, let all of them come back at once."""
    count, channels = scale.count(5_000), 50
    with Server(peer) as server, swarm_of(server, count, channels, ("ws", "sse")) as swarm:
        sent = publishing(swarm, peer, channels, SteadyPace(perf_counter(), 1 / 100), connections=8)
        swarm.run(lambda: False, scale.warm_up)
        sent.active = False
        swarm.run(lambda: swarm.drained, DRAIN_SECONDS)
        server.kill()
        swarm.run(lambda: swarm.live == 0, 10)
        server.start()
        swarm.hasten()
        begun, cpu = perf_counter(), server.cpu()
        back = swarm.run(lambda: swarm.live >= count, BACK_SECONDS)
        seconds, cpu = perf_counter() - begun, server.cpu() - cpu
        return {
            "back": float(count if back else swarm.live),
            "seconds_back": seconds,
            "connect_us": cpu / count * 1e6,
            "lost": swarm.lost,
            "duplicated": swarm.tally.duplicated,
            "out_of_order": swarm.tally.out_of_order,
        }


SCENARIOS = (
    Scenario(
        "multitude",
        "50,000 streams, as far as ulimit -n allows, 500 channels, 500 messages/s, four client processes",
        _multitude,
        peers=OURS,
    ),
    Scenario("return", "5,000 streams that all come back at once after a restart", _return, peers=OURS),
)
