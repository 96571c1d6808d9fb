"""The cost of a task's line to the program that prints it, and the cost of importing the client.

Programs of their own print numbered lines in a tight loop: once with a service, once with none. Each tells
the time of the whole loop, and of its slowest line: while the background thread works, both share one
interpreter.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from statistics import median

import orjson

from bench.peer import Peer
from bench.scenarios import OURS, Figures, Scale, Scenario
from bench.server import HOST, Server

LINES = 1_000

PRINTS = f"""
from time import perf_counter
import json, sys, heliograph
heliograph.configure(url=sys.argv[1], spools=sys.argv[2], exit_seconds=5 if sys.argv[3] == "there" else 0)
with heliograph.task("bench") as task:
    task.print("the first line starts the thread")
    slowest, begun = 0.0, perf_counter()
    for n in range({LINES}):
        before = perf_counter()
        task.print("line", n)
        slowest = max(slowest, perf_counter() - before)
    took = perf_counter() - begun
sent = heliograph.flush(20) if sys.argv[3] == "there" else False
print(json.dumps([took / {LINES} * 1e6, slowest * 1e3, sent]))
"""

IMPORTS = """
from time import perf_counter
begun = perf_counter()
import heliograph
heliograph.task, heliograph.run
print(perf_counter() - begun)
"""


def _lines(peer: Peer, scale: Scale) -> Figures:
    """Print lines with the service there and away; import the client."""
    figures: Figures = {}
    with Server(peer) as server, tempfile.TemporaryDirectory(prefix="bench-spools-") as spools:
        for name, url in (("there", f"http://{HOST}:{server.port}"), ("away", f"http://{HOST}:9")):
            figures[f"line_us_{name}"], figures[f"slowest_ms_{name}"], sent = orjson.loads(
                _run(PRINTS, url, spools, name)
            )
            if name == "there":
                figures["sent"] = float(sent)
    figures["import_ms"] = median(float(_run(IMPORTS)) for _ in range(5)) * 1000
    return figures


def _run(program: str, *arguments: str) -> bytes:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, env=os.environ, check=True
    )
    return done.stdout


SCENARIOS = (
    Scenario("client", "1,000 lines of a program's task, with a service and without one", _lines, peers=OURS),
)
