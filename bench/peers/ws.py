"""Node with the package ``ws``, taken from npm once."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from bench.peer import BUILD, Command, PlainDialect

MODULES = BUILD / "node" / "node_modules"


class WsPeer:
    """WebSockets only."""

    name = "ws"
    transports = ("ws",)

    def missing(self) -> str | None:
        """Install the package if needed; say what is not here."""
        for program in ("node", "npm"):
            if shutil.which(program) is None:
                return f"{program} is not installed"
        if not (MODULES / "ws").exists():
            MODULES.parent.mkdir(parents=True, exist_ok=True)
            arguments = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(MODULES.parent), "ws"]
            try:
                subprocess.run(arguments, check=True, capture_output=True, timeout=120)
            except (subprocess.SubprocessError, OSError) as error:
                return f"npm install ws failed: {error}"
        return None

    def version(self) -> str:
        """Name both."""
        node = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True)
        package = json.loads((MODULES / "ws" / "package.json").read_text())
        return f"node {node.stdout.strip()}, ws {package['version']}"

    def command(self, port: int, folder: Path) -> Command:
        """Start one process."""
        script = Path(__file__).with_name("ws_server.cjs")
        return Command(["node", str(script), str(port)], {"NODE_PATH": str(MODULES)})

    def dialect(self, host: str) -> PlainDialect:
        """Speak as to any peer."""
        return PlainDialect(host)

    def channel(self, number: int) -> str:
        """Name a channel."""
        return str(number)
