"""``python -m bench.page``: what the dashboard costs a browser, in front of a service of its own.

A fleet of running tasks is shown in Chromium without a graphics card. Measured are the main thread when
nothing happens and while lines come, the heap before and after, how much rows move while the pointer is among
them, what a tab is sent beside all lines, and how long it takes to open a long log and a run of many steps.
At the end the page is held against the service's own answers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from typing import Any

import click
import httpx
import trio
from rich.console import Console
from rich.table import Table
from tests.browser.chromium import Page, chromium, new_page
from tests.servers import free_port
from trio_websocket import ConnectionClosed, open_websocket_url

BATCH = 500
RATE = 500
"""Lines a second."""

Asked = list[dict[str, Any]]
ALL: Asked = [{"channel": "task:*"}]
SHOWN: Asked = [
    {"channel": "task:*", "topic": "task.status"},
    {"channel": "task:*", "topic": "task.created"},
    {"channel": "task:*", "topic": "task.output", "every": 30},
    *({"channel": f"task:task-{n}", "topic": "task.output", "every": 1} for n in range(24)),
]
"""The subscriptions of the list of a thousand tasks, of which two dozen are in view."""

LIVE = "document.getElementById('connection')?.dataset.state === 'live'"
SHIFTS = """
    window.shifted = 0;
    new PerformanceObserver((list) => list.getEntries().forEach((shift) => (window.shifted += shift.value)))
        .observe({ type: "layout-shift" });
"""
TOTALS = "[...document.querySelectorAll('#totals b')].map((total) => total.textContent).join()"


@asynccontextmanager
async def service() -> AsyncIterator[httpx.AsyncClient]:
    """Run a service in a process of its own."""
    port = free_port()
    with tempfile.TemporaryDirectory() as data:
        environment = {**os.environ, "HELIOGRAPH_DATA": data, "LOG_LEVEL": "WARNING"}
        command = [sys.executable, "-m", "heliograph", "serve", "--port", str(port)]
        process = subprocess.Popen(command, env=environment)  # noqa: ASYNC220 - it is only started
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                await _answers(client)
                yield client
        finally:
            process.terminate()
            process.wait()


async def _answers(client: httpx.AsyncClient) -> None:
    with trio.fail_after(30):
        for _ in count():
            try:
                await client.get("/api/ready")
            except httpx.TransportError:
                await trio.sleep(0.1)
            else:
                return


async def publish(client: httpx.AsyncClient, items: list[dict[str, Any]]) -> None:
    """Publish items, some hundred at a time."""
    for first in range(0, len(items), BATCH):
        (await client.post("/api/v1/events", json=items[first : first + BATCH])).raise_for_status()


def line(task: str, text: str) -> dict[str, Any]:
    """Make a line of output."""
    return {"type": "task_output", "task_id": task, "output": text}


async def busy(page: Page, seconds: float) -> float:
    """Return the share of the time in which the main thread worked, in percent."""
    before = await _metrics(page)
    await trio.sleep(seconds)
    after = await _metrics(page)
    worked = after["TaskDuration"] - before["TaskDuration"]
    return 100 * worked / (after["Timestamp"] - before["Timestamp"])


async def heap(page: Page) -> float:
    """Return the heap after a collection, in megabytes."""
    await page.call("HeapProfiler.collectGarbage")
    return float((await _metrics(page))["JSHeapUsedSize"]) / 1e6


async def _metrics(page: Page) -> dict[str, float]:
    found = (await page.call("Performance.getMetrics"))["metrics"]
    return {metric["name"]: metric["value"] for metric in found}


async def count_bytes(url: str, subscriptions: Asked, told: Callable[[int], None]) -> None:
    """Subscribe as a page would, again after each rotation, and tell of every message's size."""
    while True:
        async with open_websocket_url(url.replace("http", "ws") + "/ws") as socket:
            for one in subscriptions:
                await socket.send_message(json.dumps({"type": "subscribe", **one}))
            with suppress(ConnectionClosed):
                while True:
                    told(len(await socket.get_message()))


async def opening(page: Page, url: str, until: str) -> float:
    """Return the seconds until an address is shown."""
    await page.go("about:blank")
    begun = time.perf_counter()
    await page.go(url)
    await page.until(until, seconds=60)
    return time.perf_counter() - begun


async def measure(tasks: int, seconds: float, lines: int, steps: int) -> list[tuple[str, str]]:
    """Measure everything; return what was found, in words."""
    found: list[tuple[str, str]] = []
    async with service() as client, trio.open_nursery() as nursery:
        base = str(client.base_url)
        names = [f"task-{n}" for n in range(tasks)]
        for name in names:
            created = {"task_id": name, "name": f"Work on {name}", "agent": f"agent-{hash(name) % 9}"}
            await publish(client, [{"topic": "task.created", "payload": created}, line(name, "begun")])
        with chromium() as address:
            async with new_page(address) as page:
                await page.call("Performance.enable")
                await page.go(base)
                await page.until(f"{LIVE} && document.querySelectorAll('a.row').length > 20")
                await trio.sleep(5)
                found.append(
                    (f"main thread, {tasks} running, nothing happens", f"{await busy(page, 10):.1f} %")
                )
                before = await heap(page)
                await page.evaluate(SHIFTS)
                await page.point(700, 500)  # in the list
                sizes = {"all": 0, "shown": 0}
                for name, subscriptions in (("all", ALL), ("shown", SHOWN)):
                    nursery.start_soon(count_bytes, base, subscriptions, partial(add, sizes, name))
                with trio.CancelScope() as writing:
                    nursery.start_soon(write, client, names, writing)
                    share = await busy(page, seconds / 2) / 2
                    halfway = await heap(page)
                    share += await busy(page, seconds / 2) / 2
                    writing.cancel()
                found.append((f"main thread at {RATE} lines/s", f"{share:.1f} %"))
                found.append(("layout shift, pointer in the list", f"{await page.evaluate('shifted'):.4f}"))
                await page.point(700, 10)
                after = await heap(page)
                found.append(
                    ("heap before, halfway and after", f"{before:.2f}, {halfway:.2f} and {after:.2f} MB")
                )
                hour = {name: size / seconds * 3600 / 1e6 for name, size in sizes.items()}
                found.append(("sent to a tab in an hour", f"{hour['shown']:.0f} MB"))
                found.append(("every line of every task", f"{hour['all']:.0f} MB"))
                ends = [{"type": "task_status", "task_id": name, "status": "completed"} for name in names]
                await publish(client, ends)
                counts = (await client.get("/api/v1/tasks?counts=true&limit=1")).json()["meta"]["counts"]
                await page.until(f"{TOTALS} === '0,0,0,0,0,{counts['completed']:,},0'", seconds=30)
                found.append(("page and service at the end", "equal"))
                for first in range(0, lines, 5000):
                    await publish(client, [line("long", f"line {n}") for n in range(first, first + 5000)])
                shown = "[...document.querySelectorAll('.view .text')].at(-1)?.textContent"
                last = f"{shown} === 'line {lines - 1}'"
                took = await opening(page, f"{base}/#/tasks/long", last)
                found.append((f"to open a log of {lines:,} lines", f"{took:.2f} s"))
                await publish(client, run_of(steps))
                took = await opening(
                    page, f"{base}/#/workflows/w/runs/r", "document.querySelectorAll('.step').length > 0"
                )
                found.append((f"to open a run of {steps:,} steps", f"{took:.2f} s"))
        nursery.cancel_scope.cancel()
    return found


async def write(client: httpx.AsyncClient, names: list[str], scope: trio.CancelScope) -> None:
    """Write lines to all tasks in turn, until the scope is cancelled."""
    for n in count():
        if scope.cancel_called:
            return
        due = trio.current_time() + 0.1
        some = [names[(n * RATE // 10 + i) % len(names)] for i in range(RATE // 10)]
        await publish(
            client, [line(name, f"line {n} of some length, as programs write them") for name in some]
        )
        await trio.sleep_until(due)


def run_of(steps: int) -> list[dict[str, Any]]:
    """Make the events of a run of many steps."""

    def event(topic: str, **more: Any) -> dict[str, Any]:
        payload = {"workflow_id": "w", "run_id": "r", **more}
        return {"topic": topic, "channel": "workflow:w", "payload": payload}

    middle = [
        event(topic, step=f"step-{n}") for n in range(steps) for topic in ("step.started", "step.completed")
    ]
    return [event("run.started"), *middle, event("run.finished", status="success")]


def add(sizes: dict[str, int], name: str, size: int) -> None:
    """Count a message."""
    sizes[name] += size


@click.command()
@click.option("--tasks", default=1000, help="Tasks that run.")
@click.option("--minutes", default=1.0, help="Minutes in which lines come.")
@click.option("--lines", default=2_000_000, help="Lines of the long log.")
@click.option("--steps", default=10_000, help="Steps of the run.")
def main(tasks: int, minutes: float, lines: int, steps: int) -> None:
    """Measure the dashboard in a browser."""
    table = Table("what", "measured")
    for row in trio.run(measure, tasks, minutes * 60, lines, steps):
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
