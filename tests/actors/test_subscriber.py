from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
import structlog.testing
import trio
import trio.testing
from sqlalchemy import Connection, text
from tests.memory_log import MemoryLog
from tests.strategies import output

from heliograph.actors.subscriber import Followed, Subscriber, SubscriberStats
from heliograph.model.errors import Unavailable
from heliograph.model.event import Event
from heliograph.model.ids import OLDEST
from heliograph.storage.embedded.sqlite import open_sqlite
from heliograph.storage.protocols import PositionLost


async def append(log: MemoryLog, count: int) -> None:
    """Append lines, one by one."""
    for _ in range(count):
        await log.append([[output("1", f"{len(log.events)}")]])


def batch(followed: Followed) -> Sequence[Event]:
    """Return what was handed on as the batch that it is."""
    assert not isinstance(followed, PositionLost)
    return followed


async def test_every_outlet_gets_every_event(nursery: trio.Nursery) -> None:
    """Each outlet is given all events after the start, in order."""
    log = MemoryLog()
    await append(log, 3)
    outlets = [trio.open_memory_channel[Followed](10) for _ in range(2)]
    subscriber = Subscriber(log, log.events[0].id, [send for send, _ in outlets])
    nursery.start_soon(subscriber.run)
    await trio.testing.wait_all_tasks_blocked()
    await append(log, 2)
    await trio.testing.wait_all_tasks_blocked()
    for _, receive in outlets:
        heard: list[Event] = []
        while receive.statistics().current_buffer_used:
            heard += batch(receive.receive_nowait())
        assert heard == log.events[1:]
    stats = subscriber.stats()
    assert (stats.position, stats.events) == (log.position, 4)
    nursery.cancel_scope.cancel()


async def test_a_full_outlet_makes_it_wait(nursery: trio.Nursery) -> None:
    """An outlet that takes nothing holds the following up; nothing is skipped and nothing piles up."""
    log = MemoryLog()
    send, receive = trio.open_memory_channel[Followed](1)
    subscriber = Subscriber(log, OLDEST, [send])
    nursery.start_soon(subscriber.run)
    for _ in range(5):
        await append(log, 1)
        await trio.testing.wait_all_tasks_blocked()
    assert subscriber.stats() == SubscriberStats(log.events[0].id, 1, 1)
    heard: list[Event] = []
    for _ in range(3):
        heard += batch(await receive.receive())
        await trio.testing.wait_all_tasks_blocked()
    assert heard == log.events
    nursery.cancel_scope.cancel()


async def test_an_outage_is_waited_out(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    """While the log can't be read it is tried about every second, and nothing is missing afterwards."""
    log = MemoryLog()
    await append(log, 2)
    send, receive = trio.open_memory_channel[Followed](10)
    nursery.start_soon(Subscriber(log, log.events[0].id, [send]).run)
    assert await receive.receive() == log.events[1:]
    log.fault = Unavailable("away")
    await append_during_outage(log)
    await trio.sleep(100)
    assert 100 <= log.tails <= 250
    assert receive.statistics().current_buffer_used == 0
    log.fault = None
    assert await receive.receive() == log.events[2:]
    nursery.cancel_scope.cancel()


async def append_during_outage(log: MemoryLog) -> None:
    """Append while the log can't be read by others."""
    fault, log.fault = log.fault, None
    await log.append([[output("1", "meanwhile")]])
    log.fault = fault


async def test_a_database_that_can_not_be_read_is_waited_out(nursery: trio.Nursery, tmp_path: Path) -> None:
    """A follower that is behind the memory of the embedded log goes on when the file can be read again."""
    async with open_sqlite(tmp_path, timedelta(days=1)) as (log, _):
        await log.append([[output("1", str(n)) for n in range(3)]])
    async with open_sqlite(tmp_path, timedelta(days=1)) as (log, database):
        await database.write(execute, "ALTER TABLE events RENAME TO away")
        send, receive = trio.open_memory_channel[Followed](10)
        subscriber = Subscriber(log, OLDEST, [send])
        with trio.fail_after(90), structlog.testing.capture_logs() as told:
            nursery.start_soon(subscriber.run)
            while not told:  # noqa: ASYNC110 - there is no event to wait for
                await trio.sleep(0.005)
            assert subscriber.stats().batches == 0
            await database.write(execute, "ALTER TABLE away RENAME TO events")
            assert [event.seq for event in batch(await receive.receive())] == [1, 2, 3]
        assert [one["event"] for one in told] == ["not following", "following"]
        nursery.cancel_scope.cancel()


def execute(connection: Connection, statement: str) -> None:
    """Execute a statement."""
    connection.execute(text(statement))


async def test_its_end_closes_the_outlets() -> None:
    """When it is cancelled, whoever receives from it hears the end."""
    send, receive = trio.open_memory_channel[Followed](1)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Subscriber(MemoryLog(), OLDEST, [send]).run)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    with pytest.raises(trio.EndOfChannel):
        await receive.receive()


async def test_an_outlet_that_went_away_is_a_bug() -> None:
    """An outlet that was closed at its other end is not passed over in silence."""
    log = MemoryLog()
    send, receive = trio.open_memory_channel[Followed](1)
    receive.close()
    await append(log, 1)
    with pytest.raises(trio.BrokenResourceError):
        await Subscriber(log, OLDEST, [send]).run()
