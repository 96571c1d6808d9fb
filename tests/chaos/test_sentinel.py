"""The master of Redis dies, and what the Sentinel promotes in its place goes on as the log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
from tests.archived import await_outputs, check_archive
from tests.chaos.test_lost import publish, seqs, watching
from tests.servers import RedisServer, SentinelServer, redis_server, sentinel_server, wait_until

from heliograph.client import Reset

if TYPE_CHECKING:
    from tests.chaos.conftest import NodeMaker

SERVICE = "the-log"


@attrs.frozen
class Pair:
    """A master, its replica, and the Sentinel that watches both."""

    master: RedisServer
    replica: RedisServer
    sentinel: SentinelServer

    @property
    def url(self) -> str:
        """What a node is told."""
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/{SERVICE}/0"

    def await_copy(self) -> None:
        """Wait until the replica has everything that the master has executed so far."""
        with self.master.client() as client:
            client.set("marker", "1")
            assert client.wait(1, 20_000) == 1

    def fail_over(self) -> None:
        """Kill the master, and wait for the promotion of its replica."""
        self.master.kill()
        if not self.replica.running:
            self.replica.start()

        def promoted() -> bool:
            with self.replica.client() as client:
                return bool(client.info("replication")["role"] == "master")

        wait_until(promoted, "the replica is promoted")


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Return a master that has a replica which the Sentinel knows."""
    with (
        redis_server() as master,
        redis_server(replicaof=f"127.0.0.1 {master.port}") as replica,
        sentinel_server(SERVICE, master) as sentinel,
        sentinel.client() as client,
    ):

        def known() -> bool:
            found = client.sentinel_slaves(SERVICE)
            return [(one["port"], one["master-link-status"]) for one in found] == [(replica.port, "ok")]

        wait_until(known, "the Sentinel knows the replica")
        yield Pair(master, replica, sentinel)


async def test_what_was_replicated_survives_a_failover(
    make_node: NodeMaker, pair: Pair, database_url: str
) -> None:
    """Publishing goes on by itself on the promoted replica, and watchers see every number once."""
    node = make_node("node", redis_url=pair.url)
    await node.begin()
    async with watching(node.url) as watchers:
        await publish(node, 1, 10)
        node.pause()  # it publishes of its own accord too: nothing may follow what was copied
        await trio.to_thread.run_sync(pair.await_copy)
        pair.master.kill()
        node.resume()
        await trio.to_thread.run_sync(pair.fail_over)
        await publish(node, 11, 20)
        for watcher in watchers:
            assert seqs(await watcher.take(20)) == list(range(1, 21))
    await trio.to_thread.run_sync(await_outputs, database_url, 20)
    check_archive(database_url, [str(n) for n in range(1, 21)])
    assert node.metric("log_losses_total") == 0


async def test_what_was_not_replicated_is_told(make_node: NodeMaker, pair: Pair, database_url: str) -> None:
    """A promoted replica that lacks events makes watchers hear a reset, and no number comes twice."""
    node = make_node("node", redis_url=pair.url)
    await node.begin()
    async with watching(node.url) as watchers:
        await publish(node, 1, 5)
        await trio.to_thread.run_sync(pair.await_copy)
        pair.replica.kill()
        await publish(node, 6, 10)
        await trio.to_thread.run_sync(await_outputs, database_url, 10)
        for watcher in watchers:
            assert seqs(await watcher.take(10)) == list(range(1, 11))
        await trio.to_thread.run_sync(pair.fail_over)
        for watcher in watchers:
            [reset] = await watcher.take(1)
            assert isinstance(reset, Reset)
            assert "lost events" in reset.reason
        await publish(node, 11, 11)
        for watcher in watchers:
            assert seqs(await watcher.take(1)) == [11]
    await trio.to_thread.run_sync(await_outputs, database_url, 11)
    check_archive(database_url, [str(n) for n in range(1, 12)])
    assert node.metric("log_losses_total") == 1
