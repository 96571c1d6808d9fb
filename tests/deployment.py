"""Nodes of Heliograph as child processes, to be killed, paused and asked."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import trio
from tests.servers import Server, free_port


class Node(Server):
    """``heliograph serve`` on a loopback port that it keeps over restarts.

    Args:
        folder: For its settings and its log; each node has its own.
        database_url: Where PostgreSQL is for this node.
        redis_url: Where Redis is for this node.
        settings: What its ``config.toml`` says.
    """

    def __init__(self, folder: Path, database_url: str, redis_url: str, settings: str = "") -> None:
        folder.mkdir()
        config = folder / "config.toml"
        config.write_text(settings)
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self.output = folder / "node.log"
        environment = {
            **os.environ,
            "PORT": str(port),
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "LOG_LEVEL": "INFO",
        }
        self._http = self._client()
        command = [sys.executable, "-m", "heliograph", "serve", "--config", str(config)]
        super().__init__(command, self.output, self._is_healthy, env=environment)

    def kill(self) -> None:
        """End it with SIGKILL, and close the connections to it."""
        super().kill()
        self._http.close()
        self._http = self._client()

    def _client(self) -> httpx.Client:
        # The certificates, which plain HTTP needs none of, take longer to read than the requests do.
        return httpx.Client(base_url=self.url, verify=False, timeout=10)

    def _is_healthy(self) -> bool:
        try:
            return self._http.get("/api/health", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    async def begin(self) -> None:
        """Start it, while the event loop goes on."""
        await trio.to_thread.run_sync(self.start)

    def ask(self, path: str) -> tuple[int, Any]:
        """Return status and body of an answer."""
        response = self._http.get(path)
        return response.status_code, response.json()

    def checks(self) -> Mapping[str, str]:
        """Return what ``/api/ready`` says of each part."""
        checks: Mapping[str, str] = self.ask("/api/ready")[1]["checks"]
        return checks

    def publish(self, *items: Mapping[str, Any]) -> httpx.Response:
        """Publish items in one request, in a single try."""
        return self._http.post("/api/v1/events", json=items)

    def metric(self, name: str) -> float:
        """Return a metric that has no labels."""
        text = self._http.get("/metrics").text
        [value] = re.findall(rf"^heliograph_{name} (\S+)$", text, re.MULTILINE)
        return float(value)

    @property
    def archives(self) -> bool:
        """Whether it is the one that archives."""
        return self.metric("archiver_active") == 1
