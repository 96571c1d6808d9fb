"""Nodes follow the log: what they append themselves is in memory at once, and what others append is read."""

from __future__ import annotations

from datetime import timedelta

import trio
from tests.storages import DistributedForm, migrated_database

from heliograph.actors.replay import Replay
from heliograph.model.channels import Selection
from heliograph.model.event import Event
from heliograph.model.ids import SEQUENCE_BITS, EventId, format_id
from heliograph.model.intake import parse_item
from heliograph.storage.protocols import Log, Receipt
from heliograph.storage.settings import RedisSettings

EACH = 150


async def test_nodes_that_append_at_once_all_hear_everything_once(postgres_url: str, redis_url: str) -> None:
    """Every node hears all events in the order of their ids, whoever has appended them, and however mixed."""
    with migrated_database(postgres_url) as url:
        form = DistributedForm(url, redis_url, RedisSettings(prefix="following"))
        day = timedelta(days=1)
        async with form.node(day) as one, form.node(day) as other, form.node(day) as silent:
            heard: list[list[Event]] = [[], [], []]
            nodes = (one, other, silent)

            async def follow(log: Log, into: list[Event], after: EventId) -> None:
                while len(into) < 2 * EACH:
                    into += await log.tail(into[-1].id if into else after)

            async def append(log: Log, name: str) -> None:
                for number in range(EACH):
                    said = {"type": "task_output", "task_id": name, "output": f"{name} {number}"}
                    await log.append([[parse_item(said, 1 << 20)]])

            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    for node, into in zip(nodes, heard, strict=True):
                        nursery.start_soon(follow, node.log, into, node.log.position)
                    nursery.start_soon(append, one.log, "a")
                    nursery.start_soon(append, other.log, "b")
            assert heard[0] == heard[1] == heard[2]
            ids = [event.id for event in heard[0]]
            assert ids == sorted(set(ids))
            for name in ("a", "b"):
                mine = [event for event in heard[0] if event.channel == f"task:{name}"]
                assert [event.payload["output"] for event in mine] == [f"{name} {n}" for n in range(EACH)]
                assert [event.seq for event in mine] == list(range(1, EACH + 1))


async def test_what_a_node_appends_is_in_its_memory(postgres_url: str, redis_url: str) -> None:
    """The next events are there with the receipt; a key that is known adds none."""
    with migrated_database(postgres_url) as url:
        form = DistributedForm(url, redis_url, RedisSettings(prefix="memory"))
        async with form.node(timedelta(days=1)) as node:
            start = node.log.position
            said = {"type": "task_output", "task_id": "t", "output": "once", "key": "k"}
            draft = parse_item(said, 1 << 20)
            for _ in range(2):
                await node.log.append([[draft]])
            reading = node.log.remembered(start, 10)
            assert reading is not None
            assert [(event.seq, event.payload["output"]) for event in reading.events] == [(1, "once")]
            assert reading.events == node.stream.read(start, 10).events


async def test_no_id_is_given_twice_though_the_clock_is_behind(postgres_url: str, redis_url: str) -> None:
    """A Redis that has lost everything, and whose clock is behind, gives newer ids than a node has seen."""
    with migrated_database(postgres_url) as url:
        form = DistributedForm(url, redis_url, RedisSettings(prefix="behind"))
        async with form.node(timedelta(days=1)) as node:
            client, prefix = node.stream.client, node.stream.prefix
            said = [[parse_item({"topic": "x.y"}, 1 << 20)]]

            async def append() -> EventId:
                [receipt] = await node.log.append(said)
                assert isinstance(receipt, Receipt)
                return receipt.cursor

            await append()
            ahead = format_id(EventId(node.log.position + (10**7 << SEQUENCE_BITS)))
            await trio.to_thread.run_sync(client.hset, f"{prefix}:state", "head", ahead)
            seen = await append()
            gone = [f"{prefix}:{name}" for name in ("events", "state", "heads")]
            await trio.to_thread.run_sync(client.delete, *gone)
            assert await append() > seen
            replay = Replay(node.log)
            await replay.bounds(Selection.of(["topic:x.y"]))
            assert replay.is_lost(seen)
            assert not replay.is_lost(EventId(seen + 1))
