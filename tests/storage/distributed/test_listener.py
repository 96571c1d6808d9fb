"""What pub/sub has delivered is not lost with the connection that brought it."""

from __future__ import annotations

from datetime import timedelta

import pytest
import trio
from tests.storages import DistributedForm, migrated_database

from heliograph.model.errors import Unavailable
from heliograph.storage.protocols import PubSubMessage
from heliograph.storage.settings import RedisSettings


async def test_what_came_before_the_connection_broke_is_heard(postgres_url: str, redis_url: str) -> None:
    """Messages that were delivered are returned, and only the next call meets the broken connection."""
    with migrated_database(postgres_url) as url:
        form = DistributedForm(url, redis_url, RedisSettings(prefix="pubsub", bridge="pubsub:*"))
        async with form.node(timedelta(days=1)) as node:
            listener = node.listener
            assert listener is not None
            assert await listener.begin()
            assert list(await listener.receive()) == []
            texts = [str(number).encode() for number in range(10)]

            def publish_and_break() -> None:
                for text in texts:
                    assert node.stream.client.publish("pubsub:t", text) == 1
                node.stream.client.client_kill_filter(_type="pubsub")

            await trio.to_thread.run_sync(publish_and_break)
            assert [
                heard.data for heard in await listener.receive() if isinstance(heard, PubSubMessage)
            ] == texts
            with pytest.raises(Unavailable):
                await listener.receive()
            await listener.end()
