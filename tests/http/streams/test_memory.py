"""What an idle stream keeps in memory, counted byte by byte."""

from __future__ import annotations

import gc
import tracemalloc
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
import trio
from tests.conformance.clients import TRANSPORTS
from tests.http.conftest import Api

from heliograph.client.load.run import Heliograph
from heliograph.http.wire.lot import EpollLot

STREAMS = 200
MOST_BYTES = 1150
"""What a stream may keep, without what the allocator adds to that."""


async def open_streams(api: Api, transport: str, count: int, stack: ExitStack) -> None:
    """Open streams of one channel; each is live when this returns."""
    parts = urlsplit(api.url)
    spoken = Heliograph(parts.netloc)
    for _ in range(count):
        stream = await trio.open_tcp_stream(parts.hostname or "", parts.port or 0)
        stack.callback(stream.socket.close)
        await stream.send_all(spoken.open(transport, "task:1", None))
        if transport == "ws":
            await stream.receive_some(4096)
            await stream.send_all(spoken.subscribe("task:1", None))
        read = b""
        while (b"subscribed" if transport == "ws" else b"cursor") not in read:
            read += await stream.receive_some(4096)


@pytest.mark.parametrize("lot", [EpollLot], indirect=True)
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.usefixtures("lot")
async def test_an_idle_stream_keeps_little(api: Api, transport: str) -> None:
    """An idle stream keeps about a kilobyte: no task, no socket's objects, nothing for what may yet come."""
    with ExitStack() as stack:
        await open_streams(api, transport, 20, stack)
        gc.collect()
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        before = tracemalloc.take_snapshot()
        await open_streams(api, transport, STREAMS, stack)
        gc.collect()
        after = tracemalloc.take_snapshot()
    ours = [tracemalloc.Filter(True, "*/heliograph/*"), tracemalloc.Filter(True, "*/trio/_core/*")]
    changes = after.filter_traces(ours).compare_to(before.filter_traces(ours), "filename")
    assert sum(change.size_diff for change in changes) / STREAMS < MOST_BYTES
