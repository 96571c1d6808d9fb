from collections.abc import Sequence

import pytest
import trio
import trio.testing
from tests.memory_log import MemoryLog
from tests.strategies import output

from heliograph.actors.subscriber import Followed, Subscriber, SubscriberStats
from heliograph.model.event import Event
from heliograph.model.ids import OLDEST
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
