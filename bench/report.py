"""The table: ours beside theirs, the ratio beside its target; and the rows and targets, as data."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from statistics import median

import attrs
from rich.table import Table

Results = dict[str, dict[str, list[dict[str, float]]]]
"""The figures of each round, by scenario and peer."""

BURSTS = {"fastapi": 0.2, "ws": 0.3, "nchan": 0.5}
STEADY = {"fastapi": 0.5, "ws": 0.75, "nchan": 1.1}
SATURATION = {"fastapi": 6.0, "ws": 4.0, "nchan": 2.5}
MEMORY = {"fastapi": 0.25, "ws": 1.0, "nchan": 1.0}


@attrs.frozen
class Row:
    """One line of the table.

    Args:
        scenario: The scenario of the figure.
        figure: Its name there.
        title: The figure's meaning, with its unit.
        targets: The bound of the ratio ours/theirs, by peer.
        at_least: Whether the ratio must reach the bound, instead of staying within it.
        digits: Decimals shown.
    """

    scenario: str
    figure: str
    title: str
    targets: Mapping[str, float] = attrs.Factory(dict)
    at_least: bool = False
    digits: int = 1


ROWS = (
    Row("steady-ws", "cpu_us", "1,000 WebSockets, 20 msg/s: CPU µs per delivery", STEADY),
    Row("bursts-ws", "cpu_us", "500 WebSockets, bursts of 20: CPU µs per delivery", BURSTS, digits=2),
    Row("saturation-ws", "per_second", "500 WebSockets, saturated: deliveries/s", SATURATION, True, 0),
    Row("steady-sse", "cpu_us", "1,000 event streams, 20 msg/s: CPU µs per delivery", STEADY),
    Row("bursts-sse", "cpu_us", "500 event streams, bursts of 20: CPU µs per delivery", BURSTS, digits=2),
    Row("saturation-sse", "per_second", "500 event streams, saturated: deliveries/s", SATURATION, True, 0),
    Row("idle-ws", "memory_kib", "2,000 WebSockets: resident KiB per idle stream", MEMORY),
    Row("idle-sse", "memory_kib", "2,000 event streams: resident KiB per idle stream", MEMORY),
    Row("idle-ws", "connect_us", "WebSocket: CPU µs per connect", {"fastapi": 1.0}, digits=0),
    Row("idle-sse", "connect_us", "event stream: CPU µs per connect", {"fastapi": 1.0}, digits=0),
    Row("channels", "cpu_us", "2,000 channels: CPU µs per delivery", {"fastapi": 0.7, "ws": 1.2}),
    *(
        Row(scenario, f"p{percent}_ms", f"{scenario}: p{percent} ms, publish to socket")
        for scenario in ("steady-ws", "steady-sse", "bursts-ws", "bursts-sse", "channels")
        for percent in (50, 99)
    ),
    *(
        Row(scenario, "per_cpu_second", f"{scenario}: deliveries per second of server CPU", digits=0)
        for scenario in ("saturation-ws", "saturation-sse")
    ),
    *(
        Row(scenario, "client_cpu", f"{scenario}: CPUs used by the load client", digits=2)
        for scenario in ("saturation-ws", "saturation-sse")
    ),
    Row("crowd", "memory_mib", "10,000 streams: resident MiB in all", digits=0),
    Row("crowd", "memory_kib", "10,000 streams: resident KiB per stream"),
    Row("crowd", "messages_per_second", "10,000 streams: messages/s published, of 200", digits=0),
    Row("crowd", "server_cpu", "10,000 streams: CPUs used", digits=2),
    Row("crowd", "p50_ms", "10,000 streams: p50 ms, publish to socket"),
    Row("crowd", "p99_ms", "10,000 streams: p99 ms, publish to socket"),
    Row("stalled", "evicted", "stalled readers evicted", digits=0),
    Row("stalled", "kept", "stalled readers still there", digits=0),
    Row("stalled", "seconds", "stalled readers: seconds until all are gone"),
    Row("stalled", "peak_mib", "stalled readers: resident MiB more at the peak", digits=0),
    Row("stalled", "p99_ms", "stalled readers: p99 ms of the others"),
    Row("restart", "seconds_down", "restart: seconds from kill to listening"),
    Row("restart", "back", "restart: streams back", digits=0),
    Row("restart", "seconds_back", "restart: seconds from listening until all streams are back"),
    Row("restart", "seconds_caught_up", "restart: seconds from listening until all have everything"),
    Row("multitude", "streams", "multitude: streams", digits=0),
    Row("multitude", "memory_mib", "multitude: resident MiB in all", digits=0),
    Row("multitude", "memory_kib", "multitude: resident KiB per idle stream", digits=2),
    Row("multitude", "connect_us", "multitude: CPU µs per connect", digits=0),
    Row("multitude", "messages_per_second", "multitude: messages/s published, of 500", digits=0),
    Row("multitude", "server_cpu", "multitude: CPUs used", digits=2),
    Row("multitude", "p50_ms", "multitude: p50 ms, publish to socket"),
    Row("multitude", "p99_ms", "multitude: p99 ms, publish to socket"),
    Row("return", "back", "return: streams back", digits=0),
    Row("return", "seconds_back", "return: seconds from listening until all streams are back"),
    *(
        Row("appends", f"{fsync}_{batch}", f"appendfsync {fsync}, batches of {batch}: events/s", digits=0)
        for fsync in ("always", "everysec")
        for batch in (1, 10, 100)
    ),
    Row("archive", "rows_per_second", "archived to PostgreSQL: rows/s", digits=0),
    Row("two-nodes", "p50_ms", "published on one node, watched on another: p50 ms"),
    Row("two-nodes", "p99_ms", "published on one node, watched on another: p99 ms"),
    Row("backlog", "seconds", "1,000,000 events wait: seconds until all are archived"),
    Row("backlog", "rows_per_second", "1,000,000 events wait: rows/s", digits=0),
    Row("backlog", "peak_mib", "1,000,000 events wait: resident MiB of the node at the peak", digits=0),
    *(
        Row("conversations", f"{name}_{unit}", f"100,000 conversations: {what}, {said}", digits=2)
        for name, what in (
            ("list", "a page of them"),
            ("rare", "a search for a rare word"),
            ("common", "a search for common words"),
            ("messages", "a page of messages"),
            ("tail", "the last messages"),
        )
        for unit, said in (("ms", "ms"), ("factor", "times what it costs with 100"))
    ),
    Row("calls", "alone", "Python calls to publish an event alone", digits=0),
    Row("calls", "together", "Python calls to publish an event, 20 in a request"),
    Row("exec", "kept_us", "exec: CPU µs to read and keep a line", digits=2),
    Row("exec", "read_us", "exec: CPU µs to write it and read it through a pipe alone", digits=2),
    Row("exec", "sent_us", "exec: CPU µs to read, keep and send a line", digits=2),
    Row("exec", "sent_per_second", "exec: lines/s to the service", digits=0),
    Row("exec", "server_us", "exec: CPU µs of the service for a line", digits=2),
    Row("client", "line_us_there", "a line in the program's thread, µs"),
    Row("client", "line_us_away", "the same with the service away, µs"),
    Row("client", "slowest_ms_away", "the slowest of those, ms", digits=2),
    Row("client", "import_ms", "to import the client, ms"),
    *(
        Row("tls", f"{transport}_{name}_kib", f"TLS: resident KiB per idle {what}, {name}")
        for transport, what in (("ws", "WebSocket"), ("sse", "event stream"))
        for name in ("plain", "tls")
    ),
    Row("tls", "plain_connect_us", "TLS: CPU µs per connection without a request, plain", digits=0),
    Row(
        "tls", "tls_connect_us", "TLS: CPU µs per connection without a request, with its handshake", digits=0
    ),
    Row("tls", "half_open_kib", "TLS: resident KiB per half-open handshake"),
    Row("tls", "half_open_us", "TLS: CPU µs per half-open handshake", digits=0),
    Row("tls", "half_open_seconds", "TLS: seconds until 500 of them are given up"),
    Row("tls", "flood_kept", "TLS: connections kept of 3,000 half-open ones", digits=0),
)

FAULTS = {
    "lost": "lost",
    "duplicated": "duplicated",
    "out_of_order": "out of order",
    "disconnects": "disconnects",
}


def figure(results: Results, scenario: str, peer: str, name: str) -> float | None:
    """Return the median of a figure over the rounds; ``None`` if it was not measured."""
    rounds = [figures[name] for figures in results.get(scenario, {}).get(peer, []) if name in figures]
    return median(rounds) if rounds else None


def verdict(
    row: Row, ours: float | None, theirs: float | None, peer: str
) -> tuple[float, bool | None] | None:
    """Return the ratio ours/theirs and whether it keeps the target (``None``: there is none)."""
    if ours is None or not theirs:
        return None
    ratio = ours / theirs
    target = row.targets.get(peer)
    if target is None:
        return ratio, None
    return ratio, (operator.ge if row.at_least else operator.le)(ratio, target)


def table(results: Results, peers: Sequence[str]) -> Table:
    """Lay out every row that was measured."""
    shown = Table("measured", *peers, title="medians; in brackets ours/theirs and its target")
    for column in shown.columns[1:]:
        column.justify = "right"
    for row in ROWS:
        ours = figure(results, row.scenario, "heliograph", row.figure)
        values = [figure(results, row.scenario, peer, row.figure) for peer in peers]
        if all(value is None for value in values):
            continue
        cells = [_cell(row, peer, ours, value) for peer, value in zip(peers, values, strict=True)]
        shown.add_row(row.title, *cells)
    return shown


def _cell(row: Row, peer: str, ours: float | None, value: float | None) -> str:
    if value is None:
        return "-"
    text = f"{value:,.{row.digits}f}"
    compared = verdict(row, ours, value, peer)
    if peer == "heliograph" or compared is None:
        return text
    ratio, kept = compared
    if kept is None:
        return f"{text} \\[{ratio:.2f}]"
    sign = "≥" if row.at_least else "≤"
    colour = "green" if kept else "red"
    return f"{text} [{colour}]\\[{ratio:.2f} {sign} {row.targets[peer]:g}{'' if kept else ': missed'}][/]"


def faults(results: Results) -> list[str]:
    """Return a line for each round in which something was lost, doubled, out of order or cut."""
    lines = []
    for scenario, by_peer in results.items():
        for peer, rounds in by_peer.items():
            for number, figures in enumerate(rounds, 1):
                found = [
                    f"{name.replace('_', ' ')} {figures[name]:,.0f}" for name in FAULTS if figures.get(name)
                ]
                if figures.get("drained") == 0:
                    found.append("not drained in time")
                if found:
                    lines.append(f"{scenario}, {peer}, round {number}: {', '.join(found)}")
    return lines
