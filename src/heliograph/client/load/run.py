"""``heliograph load``: many watchers and a publisher against a running instance, and their measurements.

It opens streams on channels of its own (``topic:load.…``, so no task or analytics is touched), publishes at a
rate through the same API as every publisher, and proves by ``seq`` what each stream got. Streams that are
told to reconnect, or are cut, resume from their cursor, so a restart of the service during a run is a fair
test, not its end.
"""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from secrets import token_hex
from time import perf_counter
from types import FrameType
from typing import Any, ClassVar
from urllib.parse import urlencode, urlsplit

import attrs
import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from heliograph.client.load.publishing import Publishing, SteadyPace, TrafficShape
from heliograph.client.load.scan import TEXT, client_frame
from heliograph.client.load.swarm import LoadError, Swarm, allow_sockets

CONNECT_SECONDS = 5.0
RAMP_SECONDS = 120.0
DRAIN_SECONDS = 15.0
CONNECTIONS = 8
"""Connections to publish over."""

TRANSPORTS = {"ws": ("ws",), "sse": ("sse",), "both": ("ws", "sse")}


@attrs.frozen
class Heliograph:
    """The dialect of Heliograph.

    Args:
        host: Value of the ``Host`` header.
        prefix: Path before ``/api`` and ``/ws``, if any.
        api_key: Sent with every request; ``None``: none.
    """

    host: str
    prefix: str = ""
    api_key: str | None = None
    numbers: ClassVar[bool] = True

    def open(self, transport: str, channel: str, cursor: str | None) -> bytes:
        """Return the request that opens a stream; an event stream's has the channel and the cursor."""
        if transport == "ws":
            return self._request(
                "GET /ws",
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: aGVsaW9ncmFwaC1sb2FkIQ==\r\n",
            )
        query = {"channel": channel} | ({"after": cursor} if cursor else {})
        return self._request(f"GET /api/v1/events/stream?{urlencode(query)}", "Accept: text/event-stream\r\n")

    def subscribe(self, channel: str, cursor: str | None) -> bytes:
        """Return the WebSocket message that subscribes to the channel from the cursor."""
        message = {"type": "subscribe", "channel": channel} | ({"after": cursor} if cursor else {})
        return client_frame(TEXT, orjson.dumps(message))

    def publish(self, items: Sequence[tuple[str, int, str]], key: str) -> tuple[bytes, int]:
        """Return one request with all items; a task's channel gets lines of output, others plain events."""
        body = orjson.dumps([_item(channel, text) for channel, _, text in items])
        headers = (
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nIdempotency-Key: {key}\r\n"
        )
        return self._request("POST /api/v1/events", headers) + body, 1

    def _request(self, line: str, headers: str) -> bytes:
        method, path = line.split(" ", 1)
        key = f"X-API-Key: {self.api_key}\r\n" if self.api_key else ""
        return f"{method} {self.prefix}{path} HTTP/1.1\r\nHost: {self.host}\r\n{key}{headers}\r\n".encode()


def _item(channel: str, text: str) -> dict[str, Any]:
    if channel.startswith("task:"):
        return {"type": "task_output", "task_id": channel[5:], "output": text}
    return {"topic": "load", "channel": channel, "payload": {"text": text}}


@attrs.frozen
class Plan:
    """The plan of a run: streams, spread evenly over transports and channels, and its rate and duration."""

    streams: int
    transport: str
    channels: int
    rate: float
    burst: int
    duration: float
    size: int

    def watchers(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """Return each stream's transport and channel."""
        transports = TRANSPORTS[self.transport]
        width = len(transports)
        return [
            (transports[number % width], names[number // width % len(names)])
            for number in range(self.streams)
        ]


class LoadRun:
    """One load test: ramp, publish, drain; ``report`` may be called at any time.

    Args:
        plan: The plan of the run.
        url: The instance's URL, ``http://…``.
        api_key: A key that may read and publish; ``None``: none is needed.

    Raises:
        LoadError: The URL is not plain HTTP, nothing answers there, or too few files may be open.
    """

    def __init__(self, plan: Plan, url: str, api_key: str | None) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port or 80
        except ValueError as error:
            raise LoadError(f"{url} is no address: {error}") from None
        if parts.scheme != "http" or not parts.hostname:
            raise LoadError(f"the load test speaks plain HTTP; {url} is not an http:// address")
        allow_sockets(plan.streams + CONNECTIONS)
        self.plan = plan
        try:
            socket.create_connection((parts.hostname, port), CONNECT_SECONDS).close()
        except OSError as error:
            raise LoadError(f"nothing answers at {url}: {error}") from None
        dialect = Heliograph(parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), api_key)
        self.swarm = Swarm(dialect, parts.hostname, port)
        run = token_hex(4)
        self.channels = tuple(f"topic:load.{run}.{number}" for number in range(plan.channels))
        self.ramp_seconds = 0.0
        self.publish_seconds = 0.0
        self.drain_seconds = 0.0
        self.stopped = False

    def stop(self) -> None:
        """End early, between two steps; messages under way are still awaited, so they don't count as lost."""
        self.stopped = True

    def ramp(self, tick: Callable[[int], None]) -> None:
        """Open every stream unless stopped, calling ``tick`` with their number now and then.

        Raises:
            LoadError: They are not all open within the time allowed, or one is refused for good.
        """
        swarm, plan = self.swarm, self.plan
        begun = perf_counter()
        swarm.add(plan.watchers(self.channels))
        try:
            while not swarm.run(lambda: swarm.live >= plan.streams or self.stopped, 0.1):
                tick(swarm.live)
                if perf_counter() - begun > RAMP_SECONDS or swarm.watchers.total() < plan.streams:
                    why = ", ".join(f"{n} times {code}" for code, n in swarm.tally.disconnects.items())
                    raise LoadError(
                        f"{swarm.live} of {plan.streams} streams could be opened ({why or 'no answer'})"
                    )
        finally:
            self.ramp_seconds = perf_counter() - begun
        tick(swarm.live)

    def publish(self, tick: Callable[[float], None]) -> None:
        """Publish for the planned duration unless stopped, calling ``tick`` with the seconds passed."""
        plan = self.plan
        begun = perf_counter()
        publishing = Publishing(
            self.swarm,
            TrafficShape(self.channels, plan.burst, plan.size),
            SteadyPace(begun, plan.burst / plan.rate),
            CONNECTIONS,
        )
        self.swarm.publishers.append(publishing)
        try:
            while (passed := perf_counter() - begun) < plan.duration and not self.stopped:
                tick(passed)
                self.swarm.run(lambda: self.stopped, min(0.1, plan.duration - passed))
        finally:
            publishing.active = False
            self.publish_seconds = perf_counter() - begun

    def drain(self) -> None:
        """Wait, bounded, until every answer and every delivery has come."""
        swarm = self.swarm
        begun = perf_counter()
        swarm.run(lambda: swarm.drained, DRAIN_SECONDS)
        self.drain_seconds = perf_counter() - begun

    def report(self) -> dict[str, Any]:
        """Return the measurements so far."""
        swarm, plan = self.swarm, self.plan
        tally = swarm.settle()
        seconds = self.publish_seconds + self.drain_seconds
        return {
            "streams": plan.streams,
            "transport": plan.transport,
            "channels": plan.channels,
            "open": swarm.live,
            "connects_per_second": _rate(min(tally.connects, plan.streams), self.ramp_seconds),
            "published": tally.published,
            "published_per_second": _rate(tally.published, self.publish_seconds),
            "deliveries": tally.deliveries,
            "deliveries_per_second": _rate(tally.deliveries, seconds),
            "latency_ms": {
                name: tally.percentile(fraction)
                for name, fraction in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
            },
            "lost": swarm.lost,
            "duplicated": tally.duplicated,
            "out_of_order": tally.out_of_order,
            "resumed": tally.resumed,
            "publishes_repeated": tally.refused,
            "disconnects": dict(tally.disconnects),
            "notices": dict(tally.notices),
        }


def _rate(count: int, seconds: float) -> float | None:
    return round(count / seconds, 1) if seconds else None


def table(report: dict[str, Any]) -> Table:
    """Format a report for people."""
    shown = Table("measured", "value", title="heliograph load")
    shown.columns[1].justify = "right"
    for name, value in report.items():
        label = name.replace("_per_second", "/s").replace("_", " ")
        if name == "latency_ms":
            for fraction, latency in value.items():
                shown.add_row(f"latency {fraction}", "-" if latency is None else f"{latency:.1f} ms")
        elif isinstance(value, dict):
            if name == "disconnects":
                shown.add_row("disconnects", str(sum(value.values())))
            for code, count in value.items():
                shown.add_row(f"{label}: {code}", f"{count:,}")
        elif isinstance(value, int | float):
            shown.add_row(label, f"{value:,}")
        else:
            shown.add_row(label, "-" if value is None else str(value))
    return shown


@click.command("load")
@click.option("--streams", type=click.IntRange(1, 60_000), default=1000, show_default=True, help="Watchers.")
@click.option("--transport", type=click.Choice(list(TRANSPORTS)), default="both", show_default=True)
@click.option("--channels", type=click.IntRange(1, 60_000), default=10, show_default=True)
@click.option(
    "--rate",
    type=click.FloatRange(0.01, 1_000_000),
    default=100.0,
    show_default=True,
    help="Messages a second, over all channels.",
)
@click.option(
    "--burst", type=click.IntRange(1, 10_000), default=1, show_default=True, help="Messages of one publish."
)
@click.option(
    "--duration",
    type=click.FloatRange(0.1, 86_400),
    default=10.0,
    show_default=True,
    help="Seconds of publishing.",
)
@click.option(
    "--size", type=click.IntRange(32, 1_000_000), default=200, show_default=True, help="Bytes of a message."
)
@click.option("--url", envvar="HELIOGRAPH_URL", default="http://127.0.0.1:5000", show_default=True)
@click.option("--api-key", envvar="HELIOGRAPH_API_KEY", default=None, help="A key that may read and publish.")
@click.option("--json", "as_json", is_flag=True, help="Write the report as JSON.")
def load_command(
    streams: int,
    transport: str,
    channels: int,
    rate: float,
    burst: int,
    duration: float,
    size: int,
    url: str,
    api_key: str | None,
    as_json: bool,
) -> None:
    """Open many streams on a running instance, publish to them, and report what they got.

    The exit status is 1 if any message was lost, came twice or came out of order, and 2 if the run was not
    possible. Ctrl-C ends the run and shows the measurements so far; a second one does not wait for that.
    """
    plan = Plan(streams, transport, channels, rate, burst, duration, size)
    notes = Console(stderr=True)
    try:
        run = LoadRun(plan, url, api_key)
    except LoadError as error:
        notes.print(f"heliograph load: {error}", highlight=False, markup=False)
        sys.exit(2)
    failed = False
    try:
        with _stopped_by_interrupt(run):
            _with_progress(run, notes)
        if run.stopped:
            notes.print("stopped; this is what was measured so far")
    except LoadError as error:
        notes.print(f"heliograph load: {error}", highlight=False, markup=False)
        failed = True
    finally:
        report = run.report()
        run.swarm.close()
    if as_json:
        click.echo(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    else:
        Console().print(table(report))
    if failed:
        sys.exit(2)
    if report["lost"] or report["duplicated"] or report["out_of_order"]:
        sys.exit(1)


@contextmanager
def _stopped_by_interrupt(run: LoadRun) -> Iterator[None]:
    """Let the first Ctrl-C stop a run between two steps: an exception would leave messages half counted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        run.stop()

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _with_progress(run: LoadRun, console: Console) -> None:
    plan = run.plan
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[live]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        ramp = progress.add_task("streams open", total=plan.streams, live="")
        run.ramp(lambda count: progress.update(ramp, completed=count))
        publish = progress.add_task("seconds of publishing", total=round(plan.duration), live="")

        def tick(passed: float) -> None:
            deliveries = f"{run.swarm.tally.deliveries:,} deliveries, {run.swarm.live:,} streams"
            progress.update(publish, completed=int(passed), live=deliveries)

        run.publish(tick)
        run.drain()
        tick(round(run.publish_seconds))
