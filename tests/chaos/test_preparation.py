"""A run of Redis is prepared once, however many ask at the same time."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import trio
from tests.storages import DistributedForm

from heliograph.storage.settings import RedisSettings

if TYPE_CHECKING:
    from tests.servers import RedisServer

PAUSE_MILLISECONDS = 300


async def test_nodes_that_come_at_once_prepare_redis_once(redis: RedisServer, database_url: str) -> None:
    """Who waits while another one prepares finds it done, and not a Redis that lost its events."""
    form = DistributedForm(database_url, redis.url, RedisSettings(bridge=""))
    async with trio.open_nursery() as nursery:
        with redis.client() as client:  # so that it takes a while until Redis has what was committed
            client.execute_command("CLIENT", "PAUSE", str(PAUSE_MILLISECONDS), "WRITE")

        async def come() -> None:
            async with form.node(timedelta(days=1)) as node:
                state = await trio.to_thread.run_sync(node.stream.state)
                assert (state.generation, state.lost) == (1, 0)

        for _ in range(3):
            nursery.start_soon(come)
