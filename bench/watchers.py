"""A process of watchers: ``python -m bench.watchers PORT STREAMS CHANNELS ADDRESS``, moved by its input.

One process can't hold all clients of fifty thousand streams, nor one source address all their ports. It says
``live`` when all of its streams are. For each line that it reads, how many messages each channel has got by
then (a JSON object), it answers with what it saw, as JSON, when it has all of them or a minute has passed.
"""

from __future__ import annotations

import gc
import sys
import threading
from queue import SimpleQueue

import orjson

from bench.peers.heliograph import HeliographPeer
from bench.server import HOST
from heliograph.client.load import Swarm, allow_sockets

RAMP_SECONDS = 240.0
DRAIN_SECONDS = 60.0
TRANSPORTS = ("ws", "sse")


def main(port: int, streams: int, channels: int, address: str) -> None:
    """Open the streams, and tell of them until the input ends."""
    allow_sockets(streams)
    peer = HeliographPeer()
    swarm = Swarm(peer.dialect(f"{HOST}:{port}"), HOST, port, source=address)
    swarm.add((TRANSPORTS[number % 2], peer.channel(number // 2 % channels)) for number in range(streams))
    swarm.run(lambda: swarm.live >= streams, RAMP_SECONDS)
    gc.collect()
    gc.disable()
    lines: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    print("live", swarm.live, flush=True)
    while True:
        swarm.run(lambda: not lines.empty(), 900.0)
        line = lines.get()
        if not line:
            return
        swarm.kept.update(orjson.loads(line))
        swarm.run(lambda: swarm.lost == 0, DRAIN_SECONDS)
        tally = swarm.settle()
        told = {
            "lost": swarm.lost,
            "duplicated": tally.duplicated,
            "out_of_order": tally.out_of_order,
            "deliveries": tally.deliveries,
            "disconnects": tally.disconnects,
            "latency": list(tally.latency.items()),
        }
        tally.latency.clear()
        swarm.kept.clear()
        print(orjson.dumps(told).decode(), flush=True)


def _read(lines: SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        lines.put(line)
    lines.put(b"")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
