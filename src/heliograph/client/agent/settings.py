"""The settings of this process's publishing, as ``heliograph.configure`` sets them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import attrs

from heliograph.client import environment

Overflow = Literal["drop", "wait"]

MIB = 1024 * 1024


@attrs.frozen
class ClientSettings:
    """The settings of this process's publishing.

    Args:
        url: The service's URL; by default ``HELIOGRAPH_URL``.
        api_key: The key to publish and read with; by default ``HELIOGRAPH_API_KEY``.
        enabled: ``False``: nothing is published or written at all, as for a program's own tests.
        spools: The folder of all spools.
        spool_bytes: The bytes that may wait on disk while the service is away.
        overflow: The policy beyond that: ``drop`` leaves lines out, and the task shows how many; ``wait``
            blocks the thread that prints until there is room again.
        exit_seconds: Seconds that the end of the program may wait for the service. Unsent items then stay in
            the spool, and the next program sends them.
        heartbeat_seconds: The silence after which a task publishes that it is alive; 0: never.
    """

    url: str = attrs.field(factory=environment.service_url)
    api_key: str | None = attrs.field(factory=environment.api_key, repr=False)
    enabled: bool = True
    spools: Path = attrs.field(factory=environment.spool_folder, converter=Path)
    spool_bytes: int = attrs.field(default=256 * MIB, validator=attrs.validators.gt(0))
    overflow: Overflow = attrs.field(default="drop", validator=attrs.validators.in_(("drop", "wait")))
    exit_seconds: float = attrs.field(default=5.0, validator=attrs.validators.ge(0))
    heartbeat_seconds: float = attrs.field(default=15.0, validator=attrs.validators.ge(0))
