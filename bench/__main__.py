"""``python -m bench [NAME…]``: measure, side by side, in interleaved rounds; print the table."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import attrs
import click
import orjson
from rich.console import Console

from bench import calls, client, conversations, machine, multitude, programs, report, scenarios, storage, tls
from bench.peer import Peer
from bench.peers.fastapi import FastApiPeer
from bench.peers.floor import FloorPeer
from bench.peers.heliograph import HeliographPeer
from bench.peers.nchan import NchanPeer
from bench.peers.ws import WsPeer
from bench.scenarios import FULL, MOST_STREAMS, QUICK, Scale, Scenario
from bench.server import CLIENT_CPUS, BenchError
from heliograph import logs
from heliograph.client.load import LoadError, allow_sockets

PEERS: tuple[Peer, ...] = (HeliographPeer(), FastApiPeer(), WsPeer(), NchanPeer(), FloorPeer())
NAMES = [peer.name for peer in PEERS]
SCENARIOS = (
    *scenarios.SCENARIOS,
    *multitude.SCENARIOS,
    *storage.SCENARIOS,
    *calls.SCENARIOS,
    *conversations.SCENARIOS,
    *client.SCENARIOS,
    *programs.SCENARIOS,
    *tls.SCENARIOS,
)


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...", type=click.Choice([one.name for one in SCENARIOS]))
@click.option("--list", "listing", is_flag=True, help="Name the scenarios and end.")
@click.option("--quick", is_flag=True, help="Few streams, short, one round: to see that it runs.")
@click.option("--rounds", type=click.IntRange(1, 99), help="Rounds instead of the usual number.")
@click.option("--peer", "only", multiple=True, type=click.Choice(NAMES), help="Only this one.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures.")
def main(
    names: tuple[str, ...],
    listing: bool,
    quick: bool,
    rounds: int | None,
    only: tuple[str, ...],
    file: Path | None,
) -> None:
    """Measure Heliograph beside its peers; with names, only these scenarios."""
    console = Console()
    if listing:
        for scenario in SCENARIOS:
            console.print(f"{scenario.name:15} {scenario.title}", highlight=False)
        return
    logs.configure("WARNING")  # of what is measured in this process
    scale = QUICK if quick else FULL
    scale = attrs.evolve(scale, rounds=rounds or scale.rounds)
    os.sched_setaffinity(0, CLIENT_CPUS)
    try:
        allow_sockets(MOST_STREAMS)  # here, so that the servers inherit it
    except LoadError as error:
        console.print(error, style="yellow", highlight=False, markup=False)
    about = machine.describe()
    for name, value in about.items():
        console.print(f"{name:11} {value}", highlight=False, markup=False)
    wanted = [peer for peer in PEERS if not only or peer.name in only]
    skipped = {peer.name: why for peer in wanted if (why := peer.missing())}
    peers = [peer for peer in wanted if peer.name not in skipped]
    versions = {peer.name: peer.version() for peer in peers}
    for name, value in versions.items():
        console.print(f"{name:11} {value}", highlight=False, markup=False)
    for name, why in skipped.items():
        console.print(f"{name:11} SKIPPED: {why}", style="yellow", highlight=False, markup=False)
    chosen = [scenario for scenario in SCENARIOS if not names or scenario.name in names]
    results: report.Results = {}
    failures: list[str] = []
    try:
        for scenario in chosen:
            results[scenario.name] = {}
            able = [peer for peer in peers if scenario.takes(peer)]
            _measure(console, scenario, able, scale, results, failures)
    except KeyboardInterrupt:
        console.print("stopped; this is what was measured so far")
    console.print(report.table(results, [peer.name for peer in peers]))
    for line in [*report.faults(results), *failures]:
        console.print(line, style="yellow", highlight=False, markup=False)
    if file is not None:
        content = {
            "machine": about,
            "versions": versions,
            "skipped": skipped,
            "scale": attrs.asdict(scale),
            "results": results,
            "failures": failures,
        }
        file.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
    sys.exit(1 if failures else 0)


def _measure(
    console: Console,
    scenario: Scenario,
    peers: list[Peer],
    scale: Scale,
    results: report.Results,
    failures: list[str],
) -> None:
    """Run the rounds of one scenario, every peer once in each, so that slow drift meets all alike."""
    for number in range(1, scale.rounds + 1):
        for peer in peers:
            where = f"{scenario.name}, {peer.name}, round {number}"
            with console.status(where):
                try:
                    figures = scenario.measure(peer, scale)
                except (BenchError, LoadError) as error:
                    failures.append(f"{where}: {error}")
                    continue
            results[scenario.name].setdefault(peer.name, []).append(figures)
            shown = ", ".join(f"{name} {value:,.2f}" for name, value in figures.items())
            console.print(f"{where}: {shown}", highlight=False, markup=False)


if __name__ == "__main__":
    main()
