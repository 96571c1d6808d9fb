"""Everything breaks, in random order, under publishers and watchers: nothing is lost or doubled.

``CHAOS_SECONDS`` is how long, ``CHAOS_SEED`` repeats an order of faults; both are printed.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import attrs
import httpx
import trio
from sqlalchemy import make_url
from tests.archived import await_outputs, check_archive, read_archive
from tests.deployment import Node
from tests.polling import until
from tests.proxy import Proxy
from tests.servers import Server

from heliograph.client import Client, Following, follow
from heliograph.model.channels import Selection
from heliograph.model.event import Event
from heliograph.model.ids import format_id

if TYPE_CHECKING:
    from tests.chaos.conftest import NodeMaker
    from tests.servers import PostgresServer, RedisServer

SECONDS = float(os.environ.get("CHAOS_SECONDS", "15"))
SEED = int(os.environ.get("CHAOS_SEED", random.randrange(1_000_000)))
SETTLE_SECONDS = 60.0
PUBLISHERS = 4
TASKS = 5
SETTINGS = """
redis.timeout = 1.5
postgres.statement_timeout = 2.0
postgres.takeover_seconds = 2.0
server.drain_seconds = 0.2
streams.rotate_seconds = 5.0
"""
CHANNELS = ["task:0", "task:1", "task:*", "*", "task:2", "task:*"]


class Strict(Following):
    """A following that takes it ill if an event comes again, instead of passing over it."""

    def is_new(self, item: object) -> bool:
        """Move on to an item."""
        assert isinstance(item, Event), item
        assert item.id > self.last, f"{format_id(item.id)} after {format_id(self.last)}"
        return super().is_new(item)


@attrs.define
class Watcher:
    """Follows a channel, now on this node and now on that; keeps what it saw."""

    channel: str
    transport: str
    dice: random.Random
    seen: list[Event] = attrs.field(factory=list)
    hops: int = 0
    stays: bool = False

    async def run(self, urls: list[str]) -> None:
        """Hop between nodes until cancelled, each time from the last event seen.

        Once nothing breaks any more it stays where it is: on a busy machine a short hop may see nothing.
        """
        while True:
            after = format_id(self.seen[-1].id) if self.seen else "0-0"
            following = Strict(self.channel, after=after)
            with trio.move_on_after(math.inf if self.stays else self.dice.uniform(0.5, 4)):
                async with (
                    Client(self.dice.choice(urls)) as client,
                    follow(client, following, self.transport) as found,
                ):
                    async for item in found:
                        assert isinstance(item, Event)
                        self.seen.append(item)
            self.hops += 1

    def wanted(self, events: list[Event]) -> list[Event]:
        """Pick the events of the channel."""
        selection = Selection.of([self.channel])
        return [event for event in events if selection.covers(event.channel, event.topic)]

    async def has_seen(self, last: Event) -> bool:
        """Tell whether it has come to an event."""
        return bool(self.seen) and self.seen[-1].id >= last.id

    def lack(self, wanted: list[Event]) -> str:
        """Say how far it has come."""
        last = format_id(self.seen[-1].id) if self.seen else "nothing"
        return (
            f"{self.channel} over {self.transport} came to {last} of {format_id(wanted[-1].id)}, "
            f"{len(self.seen)} of {len(wanted)} events in {self.hops} hops"
        )


@attrs.define
class Publisher:
    """Publishes batches, each one again and again to any node until it is acknowledged."""

    name: int
    dice: random.Random
    outputs: list[str] = attrs.field(factory=list)
    tries: int = 0
    refused: int = 0

    async def run(self, urls: list[str], stop: trio.Event) -> None:
        """Publish until stopped; the last batch is acknowledged too."""
        with httpx.Client(verify=False, timeout=4) as http:
            while not stop.is_set():
                texts = [f"{self.name}/{len(self.outputs) + n}" for n in range(self.dice.randint(1, 20))]
                items = [
                    {
                        "type": "task_output",
                        "task_id": str(self.dice.randrange(TASKS)),
                        "output": text,
                        "key": text,
                    }
                    for text in texts
                ]
                while not await self._try(http, self.dice.choice(urls), items):  # noqa: ASYNC110
                    await trio.sleep(self.dice.uniform(0.02, 0.2))
                self.outputs += texts
                await trio.sleep(self.dice.uniform(0, 0.05))

    async def _try(self, http: httpx.Client, url: str, items: list[dict[str, str]]) -> bool:
        self.tries += 1
        try:
            # In a thread: httpx's asynchronous client leaves generators behind when a request breaks.
            answer = await trio.to_thread.run_sync(partial(http.post, f"{url}/api/v1/events", json=items))
        except httpx.TransportError:
            return False
        self.refused += answer.status_code == 503
        assert answer.status_code in (201, 503), answer.text
        return answer.status_code == 201


class Faults:
    """What can break: each of these for a while, then it is mended; nothing breaks twice at the same time."""

    def __init__(self, dice: random.Random, servers: dict[str, Server], proxies: dict[str, Proxy]) -> None:
        self.counts: dict[str, int] = {}
        self._dice = dice
        self._faults: list[tuple[str, str, Callable[[], Awaitable[None]]]] = []
        self._broken: set[str] = set()
        for name, server in servers.items():
            self._faults.append((f"kill {name}", name, partial(self._kill, server)))
            self._faults.append((f"pause {name}", name, partial(self._pause, server)))
        for name, proxy in proxies.items():
            self._faults.append((f"cut {name}", name, partial(self._cut, proxy)))
            self._faults.append((f"stall {name}", name, partial(self._stall, proxy)))

    async def run(self) -> None:
        """Break things until cancelled; whatever is broken then is mended before this returns."""
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(SECONDS):
                while True:
                    await trio.sleep(self._dice.uniform(0.1, 1.5))
                    name, what, fault = self._dice.choice(self._faults)
                    if what not in self._broken:
                        self._broken.add(what)
                        self.counts[name] = self.counts.get(name, 0) + 1
                        nursery.start_soon(self._break, what, fault)

    async def _break(self, what: str, fault: Callable[[], Awaitable[None]]) -> None:
        await fault()
        self._broken.discard(what)

    async def _kill(self, server: Server) -> None:
        server.check()
        await trio.to_thread.run_sync(server.kill)
        await trio.sleep(self._dice.uniform(0, 2))
        await trio.to_thread.run_sync(server.start)

    async def _pause(self, server: Server) -> None:
        server.pause()
        await trio.sleep(self._dice.uniform(0.2, 5))
        server.resume()
        server.check()

    async def _cut(self, proxy: Proxy) -> None:
        for _ in range(self._dice.randint(1, 5)):
            proxy.cut()
            await trio.sleep(self._dice.uniform(0, 0.3))

    async def _stall(self, proxy: Proxy) -> None:
        proxy.stall()
        await trio.sleep(self._dice.uniform(0.2, 5))
        proxy.flow()


async def test_nothing_is_lost_whatever_breaks(
    make_node: NodeMaker, redis: RedisServer, postgres: PostgresServer, database_url: str
) -> None:
    """Every acknowledged event is archived once, numbered, folded, and seen by every watcher."""
    print(f"CHAOS_SEED={SEED} CHAOS_SECONDS={SECONDS:g}")  # noqa: T201
    dice = random.Random(SEED)
    publishers = [Publisher(n, random.Random(SEED + 1 + n)) for n in range(PUBLISHERS)]
    watchers = [
        Watcher(channel, transport, random.Random(SEED + 100 + n))
        for n, (channel, transport) in enumerate(zip(CHANNELS, ["ws", "sse"] * 3, strict=True))
    ]
    async with trio.open_nursery() as network:
        proxies: dict[str, Proxy] = {}
        nodes: dict[str, Node] = {}
        for name in ("a", "b"):
            for server in (redis, postgres):
                where = f"{name} to {type(server).__name__}"
                proxies[where] = Proxy(server.port)
                await network.start(proxies[where].run)
            to_redis, to_postgres = list(proxies.values())[-2:]
            nodes[name] = make_node(
                name,
                database_url=_through(database_url, to_postgres),
                redis_url=_through(redis.url, to_redis),
                settings=SETTINGS,
            )
            await nodes[name].begin()
        urls = [node.url for node in nodes.values()]
        servers: dict[str, Server] = {"redis": redis, "postgres": postgres, **nodes}
        faults = Faults(dice, servers, proxies)
        stop = trio.Event()
        async with trio.open_nursery() as watching:
            for watcher in watchers:
                watching.start_soon(watcher.run, urls)
            async with trio.open_nursery() as publishing:
                for publisher in publishers:
                    publishing.start_soon(publisher.run, urls, stop)
                await faults.run()
                publishing.cancel_scope.deadline = trio.current_time() + SETTLE_SECONDS
                stop.set()
            assert not publishing.cancel_scope.cancelled_caught, "publishing does not go on"
            for one in servers.values():
                one.check()
            outputs = [text for publisher in publishers for text in publisher.outputs]
            await trio.to_thread.run_sync(await_outputs, database_url, len(outputs), SETTLE_SECONDS)
            archived = await trio.to_thread.run_sync(read_archive, database_url)

            for watcher in watchers:
                watcher.stays = True
            for watcher in watchers:
                wanted = watcher.wanted(archived.events)
                with trio.move_on_after(SETTLE_SECONDS):
                    await until(partial(watcher.has_seen, wanted[-1]), math.inf)
                assert await watcher.has_seen(wanted[-1]), watcher.lack(wanted)
            watching.cancel_scope.cancel()
        network.cancel_scope.cancel()
    print(  # noqa: T201
        f"{len(outputs)} events in {sum(p.tries for p in publishers)} requests, "
        f"{sum(p.refused for p in publishers)} refused; {sum(w.hops for w in watchers)} hops; "
        f"{sum(faults.counts.values())} faults: {dict(sorted(faults.counts.items()))}"
    )
    check_archive(database_url, outputs)
    for watcher in watchers:
        ids = [event.id for event in watcher.wanted(archived.events)]
        assert [event.id for event in watcher.seen][: len(ids)] == ids


def _through(url: str, proxy: Proxy) -> str:
    return make_url(url).set(port=proxy.port).render_as_string(hide_password=False)
