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
    """Set where this process publishes, and how. Earlier items are sent with the settings before.

    A call is needed only for what the environment does not give: ``HELIOGRAPH_URL`` and
    ``HELIOGRAPH_API_KEY``.

    Args:
        url: The service's URL; by default ``HELIOGRAPH_URL``, or ``http://127.0.0.1:5000``.
        api_key: The key to publish and read with; by default ``HELIOGRAPH_API_KEY``.
        enabled: ``False``: nothing is published or written at all, as for a program's own tests.
        spools: The folder for unsent items; by default ``~/.local/state/heliograph/spool``.
        spool_bytes: The bytes that may wait there while the service is away; by default 256 MiB.
        overflow: The policy beyond that: ``drop`` (the default) leaves lines out, and the task shows how
            many; ``wait`` blocks the thread that prints until there is room again.
        exit_seconds: Seconds that the end of the program may wait for the service; by default 5. Unsent items
            then stay on disk, and the next program sends them.
        heartbeat_seconds: The silence after which a task publishes that it is alive; by default 15. 0: never.

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
