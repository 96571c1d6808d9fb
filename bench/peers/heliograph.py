"""Heliograph as ``heliograph serve`` starts it: embedded, with its durable log on."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

from bench.peer import Command
from heliograph import __version__
from heliograph.client.load import Heliograph


class HeliographPeer:
    """The server under test. Channels are tasks, and what is published are lines of their output."""

    name = "heliograph"
    transports = ("ws", "sse")

    def missing(self) -> str | None:
        """Nothing is."""
        return None

    def version(self) -> str:
        """Name it, with what it stands on."""
        parts = ", ".join(f"{name} {version(name)}" for name in ("trio", "hypercorn", "quart-trio"))
        return f"heliograph {__version__} ({parts})"

    def command(self, port: int, folder: Path) -> Command:
        """Start it with its data in the folder; the same folder again means the same data."""
        config = folder / "config.toml"
        config.write_text("")
        return Command(
            [sys.executable, "-m", "heliograph", "serve", "--config", str(config)],
            {"PORT": str(port), "HELIOGRAPH_DATA": str(folder / "data"), "LOG_LEVEL": "WARNING"},
        )

    def dialect(self, host: str) -> Heliograph:
        """Speak as any client does."""
        return Heliograph(host)

    def channel(self, number: int) -> str:
        """Name a task's channel."""
        return f"task:bench-{number}"
