"""Redis or PostgreSQL falls silent: connections stay, new ones are taken, and nothing is ever answered."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import trio
from sqlalchemy import make_url
from tests.archived import await_outputs, check_archive
from tests.deployment import Node
from tests.proxy import Proxy
from tests.servers import wait_until

if TYPE_CHECKING:
    from tests.chaos.conftest import NodeMaker
    from tests.servers import PostgresServer, RedisServer

SETTINGS = """
redis.timeout = 1.0
postgres.statement_timeout = 1.0
"""


def line(text: str) -> dict[str, str]:
    """Make a line of output, with a key."""
    return {"type": "task_output", "task_id": "t", "output": text, "key": text}


def through(url: str, proxy: Proxy) -> str:
    """Return a URL that leads through a proxy."""
    return make_url(url).set(port=proxy.port).render_as_string(hide_password=False)


class Stalling:
    """A node whose way to each server can be stalled; its questions are asked in threads."""

    def __init__(self, node: Node, proxies: dict[str, Proxy]) -> None:
        self.node = node
        self._proxies = proxies

    def stall(self, which: str) -> None:
        """Let a server answer nothing any more."""
        self._proxies[which].stall()

    def flow(self, which: str) -> None:
        """Let it answer again."""
        self._proxies[which].flow()

    async def ask(self, question: Callable[..., Any], *arguments: Any) -> Any:
        """Do something that blocks."""
        return await trio.to_thread.run_sync(question, *arguments)

    async def told(self, which: str) -> str:
        """Wait until readiness says that something is wrong with a part; return what."""
        await self.ask(wait_until, lambda: self.node.checks()[which] != "ok", f"{which} is told")
        said: str = (await self.ask(self.node.checks))[which]
        return said

    async def ready(self) -> None:
        """Wait until everything is well."""
        await self.ask(wait_until, lambda: self.node.ask("/api/ready")[0] == 200, "it is ready")

    async def publish(self, *texts: str) -> int:
        """Publish lines in one request; return the status of the answer."""
        answer = await self.ask(self.node.publish, *map(line, texts))
        assert answer.status_code == 201 or int(answer.headers["Retry-After"]) >= 1
        return int(answer.status_code)


@pytest.fixture
async def stalling(
    make_node: NodeMaker,
    redis: RedisServer,
    postgres: PostgresServer,
    database_url: str,
    nursery: trio.Nursery,
) -> Stalling:
    """Return a node that is not started yet."""
    proxies = {"redis": Proxy(redis.port), "postgres": Proxy(postgres.port)}
    for proxy in proxies.values():
        await nursery.start(proxy.run)
    node = make_node(
        "node",
        redis_url=through(redis.url, proxies["redis"]),
        database_url=through(database_url, proxies["postgres"]),
        settings=SETTINGS,
    )
    return Stalling(node, proxies)


async def test_redis_falls_silent(stalling: Stalling, database_url: str) -> None:
    """Publishing answers 503 within the timeout, readiness says why, and everything goes on by itself."""
    await stalling.node.begin()
    await stalling.ready()
    assert await stalling.publish("0") == 201
    await stalling.ask(await_outputs, database_url, 1)
    stalling.stall("redis")
    assert await stalling.publish("1") == 503
    assert await stalling.told("redis")
    assert (await stalling.ask(stalling.node.checks))["postgres"] == "ok"
    assert (await stalling.ask(stalling.node.ask, "/api/v1/tasks/t"))[0] == 200
    await stalling.ask(wait_until, lambda: stalling.node.metric("log_reachable") == 0, "it follows no more")
    stalling.flow("redis")
    await stalling.ready()
    assert await stalling.publish("1", "2") == 201
    await stalling.ask(await_outputs, database_url, 3)
    check_archive(database_url, ["0", "1", "2"])


async def test_postgres_falls_silent(stalling: Stalling, database_url: str) -> None:
    """Questions answer 503 and readiness says why; publishing goes on, and is archived afterwards."""
    await stalling.node.begin()
    await stalling.ready()
    assert await stalling.publish("0") == 201
    await stalling.ask(await_outputs, database_url, 1)
    stalling.stall("postgres")
    assert await stalling.publish("1") == 201
    assert await stalling.told("postgres")
    assert (await stalling.ask(stalling.node.checks))["redis"] == "ok"
    assert (await stalling.ask(stalling.node.ask, "/api/v1/tasks/t"))[0] == 503
    assert await stalling.publish("2") == 201
    stalling.flow("postgres")
    await stalling.ready()
    await stalling.ask(await_outputs, database_url, 3)
    check_archive(database_url, ["0", "1", "2"])


async def test_a_node_starts_and_stops_while_they_are_silent(stalling: Stalling) -> None:
    """Servers that take connections and say nothing keep no node from starting, going on, or stopping."""
    for which in ("redis", "postgres"):
        stalling.stall(which)
    await stalling.node.begin()
    for which in ("redis", "postgres"):
        assert await stalling.told(which)
        stalling.flow(which)
    await stalling.ready()
    await stalling.ask(wait_until, lambda: stalling.node.archives, "it archives")
    stalling.stall("postgres")
    os.kill(stalling.node.pid, signal.SIGTERM)
    await stalling.ask(wait_until, lambda: stalling.node.exit_status is not None, "it stops")
    assert stalling.node.exit_status == 0
