"""Large amounts: a burst of lines in front of many watchers, and a log of 200 MB in constant memory."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import attrs
import trio
from tests.conformance.clients import (
    DEADLINE,
    TRANSPORTS,
    Watch,
    connect,
    get,
    metric,
    output,
    outputs,
    publish,
    request_head,
    watch,
)
from tests.conformance.serving import process

from heliograph.model.intake import parse_item
from heliograph.storage.embedded.sqlite import open_sqlite

WATCHERS = 100
LINES = 10_000
LOG_BYTES = int(os.environ.get("HELIOGRAPH_TEST_LOG_BYTES", 200_000_000))
MEMORY = 30_000_000
SEQ = re.compile(rb'"seq":(\d+)')


async def numbers_read(one: Watch, last: int) -> list[int]:
    """Read the numbers of the events without parsing more of them, so that the test is not what is slow."""
    found: list[int] = []
    rest = b""
    while not found or found[-1] != last:
        data = await one.stream.receive_some(1 << 18)
        assert data, f"ended after {found[-1:]}"
        rest += data
        cut = rest.rfind(b"}") + 1  # a number is never cut in two: something always follows it
        found += map(int, SEQ.findall(rest, 0, cut))
        rest = rest[cut:]
    return found


async def test_ten_thousand_lines_in_front_of_a_hundred_watchers(tmp_path: Path) -> None:
    """Lines of one task, as fast as they can be published, arrive at every watcher, in order, none lost."""
    async with process(tmp_path) as served:
        watches = [await watch(TRANSPORTS[number % 2], served.url, "task:1") for number in range(WATCHERS)]
        seen: dict[int, list[int]] = {}

        async def read(number: int) -> None:
            async with watches[number] as one:
                await one.live()
                ready.append(number)
                seen[number] = await numbers_read(one, LINES)

        ready: list[int] = []
        with trio.fail_after(DEADLINE):
            async with trio.open_nursery() as nursery:
                for number in range(WATCHERS):
                    nursery.start_soon(read, number)
                while len(ready) < WATCHERS:  # noqa: ASYNC110 - a counter in this very test
                    await trio.sleep(0.01)
                for first in range(1, LINES + 1, 500):
                    await publish(served.url, *outputs("1", first, first + 499))
        assert await metric(served.url, "deliveries_total") == WATCHERS * LINES
    assert len(seen) == WATCHERS
    assert all(numbers == list(range(1, LINES + 1)) for numbers in seen.values())


async def write_log(folder: Path, size: int) -> int:
    """Write a task's log of so many bytes as the service would, but in large steps; return its lines."""
    text = "0123456789abcdef" * 62
    lines = size // (len(text) + 9)
    async with open_sqlite(folder, timedelta(days=1)) as (log, _):
        for first in range(0, lines, 5000):
            some = range(first, min(first + 5000, lines))
            drafts = [parse_item(output("big", f"{number:08} {text}"[:-1]), 1 << 20) for number in some]
            await log.append([drafts])
    return lines


@attrs.define
class Download:
    """Counts what comes of a body, and looks at the beginning of each line.

    Attributes:
        size: Bytes of the body.
        lines: Lines in it.
        in_order: Whether each line has begun with its number.
    """

    size: int = 0
    lines: int = 0
    in_order: bool = True
    _rest: bytes = b""

    def feed(self, data: bytes) -> None:
        """Take a part of the body."""
        self.size += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            self.in_order = self.in_order and int(line[:8]) == self.lines
            self.lines += 1


async def body(url: str, path: str) -> AsyncIterator[bytes]:
    """Yield the chunks of a chunked answer."""
    async with await connect(url) as stream:
        await stream.send_all(request_head("GET", path, {"Host": "localhost", "Connection": "close"}))
        rest = b""
        while b"\r\n\r\n" not in rest:
            rest += await stream.receive_some(65536)
        head, _, rest = rest.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        parts: deque[bytes] = deque([rest])
        while True:
            line, found, after = b"".join(parts).partition(b"\r\n")
            if not found:
                parts.append(await stream.receive_some(1 << 18))
                continue
            size = int(line, 16)
            parts = deque([after])
            have = len(after)
            while have < size + 2:
                parts.append(await stream.receive_some(1 << 18))
                assert parts[-1], "the connection ended within the body"
                have += len(parts[-1])
            joined = b"".join(parts)
            if size == 0:
                return
            yield joined[:size]
            parts = deque([joined[size + 2 :]])


async def test_a_large_log_in_constant_memory(tmp_path: Path) -> None:
    """A log of 200 MB is served whole, with less than 30 MB more resident memory than before."""
    lines = await write_log(tmp_path / "data", LOG_BYTES)
    async with process(tmp_path) as served:
        # What any first answer costs is not this one's: warm up on a small log.
        await publish(served.url, *outputs("small", 1, 2000))
        async for _ in body(served.url, "/api/v1/tasks/small/logs/full"):
            pass
        assert (await get(served.url, "/api/v1/tasks/big"))["output_lines"] == lines
        before = most = served.process.memory_info().rss
        download = Download()
        async for data in body(served.url, "/api/v1/tasks/big/logs/full"):
            download.feed(data)
            most = max(most, served.process.memory_info().rss)
    assert (download.lines, download.in_order) == (lines, True)
    assert download.size >= 0.99 * LOG_BYTES
    assert most - before < MEMORY, f"{(most - before) / 1e6:.1f} MB more"
