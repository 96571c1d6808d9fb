"""FastAPI on uvicorn with uvloop, httptools and websockets; sse-starlette for event streams."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.peer import Command, PlainDialect

PACKAGES = ("fastapi", "uvicorn", "uvloop", "httptools", "websockets", "sse-starlette")


class FastApiPeer:
    """The server that most of the users would write instead."""

    name = "fastapi"
    transports = ("ws", "sse")

    def missing(self) -> str | None:
        """Name the package that is not installed."""
        for package in PACKAGES:
            try:
                version(package)
            except PackageNotFoundError:
                return f"{package} is not installed (pip install 'heliograph[bench]')"
        return None

    def version(self) -> str:
        """Name all the packages."""
        return ", ".join(f"{package} {version(package)}" for package in PACKAGES)

    def command(self, port: int, folder: Path) -> Command:
        """Start uvicorn with the app, one worker."""
        return Command([sys.executable, "-m", "bench.peers.fastapi_app", str(port)])

    def dialect(self, host: str) -> PlainDialect:
        """Speak as to any peer."""
        return PlainDialect(host)

    def channel(self, number: int) -> str:
        """Name a channel."""
        return str(number)
