"""What was removed is told, whatever stands in between."""

from __future__ import annotations

from datetime import timedelta

import trio
from sqlalchemy import create_engine, event, insert
from tests.storages import DistributedForm, archived, migrated_database
from tests.strategies import output

from heliograph.model.channels import Selection
from heliograph.model.ids import EventId
from heliograph.storage.distributed.postgres import database_url
from heliograph.storage.protocols import Receipt
from heliograph.storage.settings import RedisSettings
from heliograph.storage.sql import schema
from heliograph.storage.sql.trimmed import trimmed_through

KEY_TTL = timedelta(days=1)


def test_a_pattern_is_a_range_of_bytes_in_every_locale(postgres_url: str) -> None:
    """PostgreSQL is asked for the names of a pattern in the order of bytes, whatever its own order is."""
    asked: list[str] = []
    with migrated_database(postgres_url) as url:
        engine = create_engine(database_url(url))
        event.listen(engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
        with engine.connect() as connection:
            row = {"name": "task:old", "head_seq": 9, "trimmed_id": 7}
            connection.execute(insert(schema.channels).values(row))
            asked.clear()
            assert trimmed_through(connection, Selection.of(["task:*"])) == EventId(7)
        engine.dispose()
    assert asked[0].count('(channels.name COLLATE "C")') == 2


async def test_an_empty_redis_still_tells_what_retention_removed(postgres_url: str, redis_url: str) -> None:
    """When Redis was replaced, a cursor before what was removed is told so, as it was before."""
    with migrated_database(postgres_url) as url:
        form = DistributedForm(url, redis_url, RedisSettings(prefix="trimmed", bridge=""))
        async with form.open(KEY_TTL) as storage:
            [receipt] = await storage.log.append([[output("t", str(n)) for n in range(9)]])
            assert isinstance(receipt, Receipt)
            await archived(storage)
            await form.forget(receipt.ids[4])
        async with form.node(KEY_TTL) as node:
            await trio.to_thread.run_sync(lambda: node.stream.client.delete(*_keys(node.stream.client)))
        async with form.node(KEY_TTL) as node:
            assert (await node.log.bounds(Selection.of(["task:t"]))).trimmed == receipt.ids[4]


async def test_a_hole_is_told(postgres_url: str, redis_url: str) -> None:
    """When the archive goes on behind events that are nowhere any more, cursors before them are told so."""
    with migrated_database(postgres_url) as url:
        form = DistributedForm(url, redis_url, RedisSettings(prefix="hole", bridge=""))
        async with form.open(KEY_TTL) as storage:
            [first] = await storage.log.append([[output("t", "kept")]])
            await archived(storage)
        assert isinstance(first, Receipt)
        async with form.node(KEY_TTL) as node:  # nobody archives
            [lost] = await node.log.append([[output("t", "lost")]])
            assert isinstance(lost, Receipt)
            await trio.to_thread.run_sync(node.stream.remove, lost.cursor)
            await trio.to_thread.run_sync(_forget_removed, node.stream.client)
        async with form.open(KEY_TTL) as storage:
            await archived(storage)
            assert (await storage.log.bounds(Selection.of(["task:t"]))).trimmed == lost.cursor
            page = await storage.log.read(Selection.of(["task:t"]), lost.cursor, 10)
            assert not page.events


def _keys(client: object) -> list[bytes]:
    return list(client.scan_iter("{trimmed}:*"))  # type: ignore[attr-defined]


def _forget_removed(client: object) -> None:
    client.hdel("{hole}:state", "removed")  # type: ignore[attr-defined]
