"""The floor: a C program that only writes, for what the system calls alone cost here."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import attrs

from bench.peer import BUILD, Command, PlainDialect, numbered

SOURCE = Path(__file__).with_name("floor.c")
PROGRAM = BUILD / "floor"


@attrs.frozen
class FloorDialect(PlainDialect):
    """A burst is one request of lines."""

    def publish(self, items: Sequence[tuple[str, int, str]], key: str) -> tuple[bytes, int]:
        """Write one request with a line for each item."""
        lines = (f"{channel}\t{numbered(seq, text)}\n" for channel, seq, text in items)
        return self.post("/publish", "".join(lines).encode(), "text/plain"), 1


class FloorPeer:
    """The floor: no server that anyone could use."""

    name = "floor"
    transports = ("ws", "sse")

    def missing(self) -> str | None:
        """Compile it; say when there is no compiler."""
        if shutil.which("cc") is None:
            return "there is no C compiler (cc)"
        PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        arguments = ["cc", "-O2", "-o", str(PROGRAM), str(SOURCE)]
        try:
            subprocess.run(arguments, check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            return f"it could not be compiled: {error}"
        return None

    def version(self) -> str:
        """Name the compiler."""
        compiler = subprocess.run(["cc", "--version"], check=True, capture_output=True, text=True)
        return compiler.stdout.splitlines()[0]

    def command(self, port: int, folder: Path) -> Command:
        """Start it."""
        return Command([str(PROGRAM), str(port)])

    def dialect(self, host: str) -> FloorDialect:
        """Speak in lines."""
        return FloorDialect(host)

    def channel(self, number: int) -> str:
        """Name a room."""
        return str(number)
