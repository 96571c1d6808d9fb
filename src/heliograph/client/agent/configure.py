"""The configuration of the process: the service that it publishes to, and how."""

from __future__ import annotations

import os
from typing import Any

from heliograph.client.agent import courier
from heliograph.client.agent.settings import ClientSettings, Overflow


def configure(
    *,
    url: str | None = None,
    api_key: str | None = None,
    enabled: bool = True,
    spools: str | os.PathLike[str] | None = None,
    spool_bytes: int | None = None,
    overflow: Overflow | None = None,
    exit_seconds: float | None = None,
    heartbeat_seconds: float | None = None,
) -> None:
    """Set where this process publishes, and how. What it has said so far is sent as it was meant.

    Nobody needs to call it: the environment says ``HELIOGRAPH_URL`` and ``HELIOGRAPH_API_KEY``.

    Args:
        url: The service's URL; by default ``HELIOGRAPH_URL``, or ``http://127.0.0.1:5000``.
        api_key: The key to publish and read with; by default ``HELIOGRAPH_API_KEY``.
        enabled: ``False``: nothing is published or written at all, as a program's own tests may want it.
        spools: The folder for what is not sent yet; by default ``~/.local/state/heliograph/spool``.
        spool_bytes: The bytes that may wait there while the service is away; by default 256 MiB.
        overflow: Beyond that, ``drop`` (the default) leaves lines out, and the task says how many; ``wait``
            holds the thread that prints until there is room again.
        exit_seconds: Seconds that the end of the program may wait for the service; by default 5. The unsent
            then stays on disk, and the next program sends it.
        heartbeat_seconds: A task that says nothing for so long is said to be alive; by default 15. 0: never.

    Raises:
        ValueError: A value is out of range.
    """
    given: dict[str, Any] = {
        "url": None if url is None else url.rstrip("/"),
        "api_key": api_key,
        "enabled": enabled,
        "spools": spools,
        "spool_bytes": spool_bytes,
        "overflow": overflow,
        "exit_seconds": exit_seconds,
        "heartbeat_seconds": heartbeat_seconds,
    }
    courier.use(ClientSettings(**{name: value for name, value in given.items() if value is not None}))
