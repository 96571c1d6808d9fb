"""The cost of ``heliograph exec`` to a program: CPU for a line that is read and kept, or sent.

The floor of the first is the same program into a pipe that is only read. Nothing is sent while the program
runs in the first measurement: the service is not there, and the spool takes it all.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from time import perf_counter

from bench.peer import Peer
from bench.scenarios import OURS, Figures, Scale, Scenario
from bench.server import HOST, BenchError, Server

KEPT_LINES = 2_000_000
SENT_LINES = 100_000
NOBODY = "http://127.0.0.1:1"


def _exec(peer: Peer, scale: Scale) -> Figures:
    """Run a program that writes short lines as fast as it can."""
    kept, sent = scale.count(KEPT_LINES), scale.count(SENT_LINES)
    read_seconds, read_cpu = _run(["cat"], kept, stdin=True)
    kept_seconds, kept_cpu = _run(_command(NOBODY, kept, wait=0), kept)
    with Server(peer) as server:
        before = server.cpu()
        sent_seconds, sent_cpu = _run(_command(f"http://{HOST}:{server.port}", sent, wait=60), sent)
        return {
            "read_us": read_cpu / kept * 1e6,
            "kept_us": kept_cpu / kept * 1e6,
            "kept_seconds": kept_seconds,
            "read_seconds": read_seconds,
            "sent_us": sent_cpu / sent * 1e6,
            "sent_per_second": sent / sent_seconds,
            "server_us": (server.cpu() - before) / sent * 1e6,
        }


def _command(url: str, lines: int, wait: float) -> list[str]:
    return [
        *(sys.executable, "-m", "heliograph", "exec", "--quiet", "--url", url, "--wait", str(wait), "--"),
        *("sh", "-c", f"yes 'a line of output' | head -n {lines}"),
    ]


def _run(command: Sequence[str], lines: int, *, stdin: bool = False) -> tuple[float, float]:
    """Run a command to its end; return its seconds, and the CPU seconds of it and of what it started."""
    with tempfile.TemporaryDirectory(prefix="bench-exec-") as state:
        begun, before = perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        program = f"yes 'a line of output' | head -n {lines} | exec \"$@\"" if stdin else 'exec "$@"'
        done = subprocess.run(
            ["sh", "-c", program, "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "XDG_STATE_HOME": state},
            check=False,
        )
        seconds, after = perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise BenchError(f"{command[0]} ended with {done.returncode}: {done.stderr.decode()[-2000:]}")
        return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


SCENARIOS = (Scenario("exec", "a program that writes lines, under heliograph exec", _exec, (), OURS),)
