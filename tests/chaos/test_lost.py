"""Redis comes back with less than it had acknowledged: watchers are told, and what is archived goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from tests.archived import await_outputs, check_archive
from tests.deployment import Node
from tests.polling import until
from tests.servers import READY_SECONDS, RedisServer

from heliograph.client import Client, Following, Item, Reset, follow
from heliograph.model.event import Event
from heliograph.model.ids import EventId, format_id

if TYPE_CHECKING:
    from tests.chaos.conftest import NodeMaker
    from tests.servers import PostgresServer


class Watcher:
    """Follows one task from its beginning and keeps what comes."""

    def __init__(self, client: Client, transport: str) -> None:
        self._client, self._transport = client, transport
        self._items: list[Item] = []
        self._came = trio.Event()

    async def run(self) -> None:
        """Follow until cancelled."""
        following = Following("task:t", after="0-0")
        async with follow(self._client, following, self._transport) as found:
            async for item in found:
                self._items.append(item)
                self._came.set()
                self._came = trio.Event()

    async def take(self, count: int) -> list[Item]:
        """Return the next so many items."""
        with trio.fail_after(READY_SECONDS):
            while len(self._items) < count:
                await self._came.wait()
        taken, self._items = self._items[:count], self._items[count:]
        return taken


@asynccontextmanager
async def watching(url: str) -> AsyncIterator[list[Watcher]]:
    """Follow over both transports."""
    async with Client(url) as client, trio.open_nursery() as nursery:
        watchers = [Watcher(client, transport) for transport in ("ws", "sse")]
        for watcher in watchers:
            nursery.start_soon(watcher.run)
        yield watchers
        nursery.cancel_scope.cancel()


async def publish(node: Node, first: int, last: int) -> None:
    """Publish lines of output as soon as the log takes them, once even if an answer was lost."""

    async def kept() -> bool:
        texts = map(str, range(first, last + 1))
        lines = [{"type": "task_output", "task_id": "t", "output": text, "key": text} for text in texts]
        return (await trio.to_thread.run_sync(node.publish, *lines)).status_code == 201

    await until(kept)


def seqs(found: list[Item]) -> list[int]:
    """Return the numbers of events."""
    return [item.seq for item in found if isinstance(item, Event)]


@pytest.mark.parametrize("how", ["flushed", "wiped", "rolled back"])
async def test_watchers_are_reset_when_redis_lost_what_is_archived(
    make_node: NodeMaker, redis: RedisServer, database_url: str, how: str
) -> None:
    """Whatever Redis has lost, watchers get a reset, and seq goes on where the archive says."""
    node = make_node("node")
    await node.begin()
    await publish(node, 1, 5)
    size = redis.append_only_file.stat().st_size
    await publish(node, 6, 10)
    await trio.to_thread.run_sync(await_outputs, database_url, 10)
    async with watching(node.url) as watchers:
        for watcher in watchers:
            assert seqs(await watcher.take(10)) == list(range(1, 11))
        if how == "flushed":
            with redis.client() as client:
                client.flushall()
        else:
            redis.kill()
            with redis.append_only_file.open("ab") as file:
                file.truncate(size if how == "rolled back" else 0)
            redis.start()
        for watcher in watchers:
            [reset] = await watcher.take(1)
            assert isinstance(reset, Reset)
            assert "lost events" in reset.reason
        await publish(node, 11, 11)
        for watcher in watchers:
            assert seqs(await watcher.take(1)) == [11]
    await_outputs(database_url, 11)
    check_archive(database_url, [str(n) for n in range(1, 12)])
    assert node.metric("log_losses_total") == 1


async def test_watchers_are_reset_when_redis_lost_what_nobody_has(
    make_node: NodeMaker, redis: RedisServer, postgres: PostgresServer, database_url: str
) -> None:
    """Events that were seen but are in neither database are followed by a reset, their numbers by others."""
    node = make_node("node")
    await node.begin()
    await publish(node, 1, 5)
    await_outputs(database_url, 5)
    size = redis.append_only_file.stat().st_size
    postgres.kill()
    async with watching(node.url) as watchers:
        for watcher in watchers:
            assert seqs(await watcher.take(5)) == [1, 2, 3, 4, 5]
        await publish(node, 6, 10)
        for watcher in watchers:
            assert seqs(await watcher.take(5)) == [6, 7, 8, 9, 10]
        redis.kill()
        with redis.append_only_file.open("ab") as file:
            file.truncate(size)
        postgres.start()
        redis.start()
        for watcher in watchers:
            [reset] = await watcher.take(1)
            assert isinstance(reset, Reset)
        await publish(node, 11, 11)
        for watcher in watchers:
            assert seqs(await watcher.take(1)) == [6]
    await_outputs(database_url, 6)
    check_archive(database_url, ["1", "2", "3", "4", "5", "11"])


async def test_a_cursor_of_an_event_that_nobody_has_is_reset(
    make_node: NodeMaker, redis: RedisServer, postgres: PostgresServer, database_url: str
) -> None:
    """Who was away while Redis lost the last event that it saw is told so, later on and by each node.

    The last cursor that is still there goes on, and what comes afterwards has newer ids.
    """
    node = make_node("node")
    await node.begin()
    await publish(node, 1, 5)
    await_outputs(database_url, 5)
    size = redis.append_only_file.stat().st_size
    postgres.kill()
    async with watching(node.url) as [watcher, _]:
        kept = (await watcher.take(5))[-1]
        await publish(node, 6, 7)
        lost, last = await watcher.take(2)
    redis.kill()
    with redis.append_only_file.open("ab") as file:
        file.truncate(size)
    postgres.start()
    redis.start()
    await publish(node, 8, 12)
    await_outputs(database_url, 10)
    another = make_node("another")
    await another.begin()
    for url in (node.url, another.url):
        for transport in ("ws", "sse"):
            for seen in (lost, last):
                assert isinstance(seen, Event)
                [reset] = await first_items(url, transport, seen.id, 1)
                assert isinstance(reset, Reset)
                assert "lost" in reset.reason
            assert isinstance(kept, Event)
            assert isinstance(last, Event)
            events = await first_items(url, transport, kept.id, 5)
            assert seqs(events) == [6, 7, 8, 9, 10]
            assert all(isinstance(one, Event) and one.id > last.id for one in events)


async def first_items(url: str, transport: str, after: EventId, count: int) -> list[Item]:
    """Follow the task from an event on; return the first items."""
    items: list[Item] = []
    with trio.fail_after(READY_SECONDS):
        async with (
            Client(url) as client,
            follow(client, Following("task:t", after=format_id(after)), transport) as found,
        ):
            async for item in found:
                items.append(item)
                if len(items) == count:
                    break
    return items
