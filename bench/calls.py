"""Python calls that publishing takes: a count that machine and load don't change, where seconds do.

The service runs in this process over SQLite. Its threads count the Python functions that they call, by
``sys.setprofile``; the publisher is a thread that doesn't count, with a plain socket. Each event is a line of
a running task, which most events are. Nobody watches. The count is the median of all requests: what actors do
once a second is part of few of them, and of more the slower the machine is.
"""

from __future__ import annotations

import socket
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path
from statistics import median
from types import FrameType
from urllib.parse import urlsplit

import attrs
import orjson
import trio

from bench.peer import Peer
from bench.scenarios import OURS, Figures, Scale, Scenario
from heliograph import service
from heliograph.config import ServerSettings, Settings, StorageSettings

REQUESTS = 500
BATCH = 20
"""Events of a request in the second measurement."""


class Count:
    """Calls of Python functions in every thread that was started under it."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, frame: FrameType, what: str, argument: object) -> None:
        """Take notice of what the interpreter does."""
        if what == "call":
            self.calls += 1


def _calls(peer: Peer, scale: Scale) -> Figures:
    """Count the calls for an event alone, and for one of many in a request."""
    figures: Figures = {}
    for name, batch in (("alone", 1), ("together", BATCH)):
        with tempfile.TemporaryDirectory(prefix="bench-calls-") as folder:
            count = Count()
            sys.setprofile(count)
            threading.setprofile(count)
            try:
                figures[name] = trio.run(_serve, Path(folder), count, batch)
            finally:
                sys.setprofile(None)
                threading.setprofile(None)
    return figures


async def _serve(folder: Path, count: Count, batch: int) -> float:
    settings = attrs.evolve(
        Settings(), storage=StorageSettings(folder / "data"), server=ServerSettings(port=0)
    )
    async with trio.open_nursery() as nursery:
        url = await nursery.start(partial(service.run, settings))
        counted = await trio.to_thread.run_sync(_publish, url, count, batch)
        nursery.cancel_scope.cancel()
    return counted


def _publish(url: str, count: Count, batch: int) -> float:
    sys.setprofile(None)
    where = urlsplit(url)
    line = {"type": "task_output", "task_id": "bench", "output": "x" * 100}
    body = orjson.dumps([line] * batch)
    request = (
        f"POST /api/v1/events HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    with socket.create_connection((where.hostname or "", where.port or 0)) as connection:
        for _ in range(50):
            _ask(connection, request)
        counts = []
        for _ in range(REQUESTS):
            before = count.calls
            _ask(connection, request)
            counts.append(count.calls - before)
        return median(counts) / batch


def _ask(connection: socket.socket, request: bytes) -> None:
    connection.sendall(request)
    answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 201"), answer
    head, _, body = answer.partition(b"\r\n\r\n")
    length = next(
        int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
    )
    while len(body) < length:
        body += connection.recv(65536)


SCENARIOS = (Scenario("calls", "Python calls to publish an event", _calls, (), OURS),)
