"""The sections of the settings that only the distributed form reads."""

from __future__ import annotations

import attrs
from attrs import validators

from heliograph.model.settings import number


@attrs.frozen
class RedisSettings:
    """The log of the distributed form.

    Args:
        prefix: Begins every key, so that several deployments can share one Redis.
        keep_events: The number of archived events that stay in the stream, for cursors while PostgreSQL is
            away.
        max_events: The number of events waiting in the stream at which publishing is refused.
        max_memory: Publishing is refused above this part of Redis's ``maxmemory``.
        bridge: Pattern of the pub/sub channels whose messages are taken into the log; empty: nothing is
            bridged.
        bridge_stream: The stream whose entries are taken into the log where something is bridged; empty:
            none.
        timeout: Seconds after which a connection that says nothing is given up.
    """

    prefix: str = attrs.field(default="heliograph", validator=validators.matches_re(r"[A-Za-z0-9._-]{1,64}"))
    keep_events: int = number(100_000, 1000, 100_000_000)
    max_events: int = number(5_000_000, 1000, 1_000_000_000)
    max_memory: float = number(0.9, 0.1, 1)
    bridge: str = "task:*"
    bridge_stream: str = "task_events"
    timeout: float = number(5.0, 0.5, 60)


@attrs.frozen
class PostgresSettings:
    """The store of the distributed form.

    Args:
        pool_size: Connections of one node for questions.
        statement_timeout: Seconds after which PostgreSQL gives up a statement.
        takeover_seconds: The silence after which PostgreSQL ends the archiver's session, so that another
            node takes over from one that is paused or cut off.
    """

    pool_size: int = number(8, 1, 200)
    statement_timeout: float = number(10.0, 0.1, 3600)
    takeover_seconds: float = number(6.0, 1, 600)
