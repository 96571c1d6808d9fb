"""Watchers who want to see what goes on, and not all of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing
from tests.actors.conftest import Recorder, event
from tests.actors.test_hub import make_hub, ready
from tests.memory_log import MemoryLog

from heliograph.actors.ring import Ring
from heliograph.actors.sampler import ROOM, Sampler
from heliograph.actors.subscription import Message, Overflow, Subscription
from heliograph.model.channels import Selection
from heliograph.model.ids import make_id

LATEST = Selection(("task:*",), "task.output", 1)


async def test_the_newest_of_each_channel_comes_once_an_interval(autojump_clock: Callable[[], float]) -> None:
    """The first comes at once, then once a second the newest of each channel, in the order of ids."""
    hub = make_hub(MemoryLog())
    recorder = Recorder()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hub.run)
        subscription = Subscription(recorder, LATEST, Overflow.DISCONNECT, ends_with_task=False)
        subscription.position = hub.live_position(LATEST)
        await hub.attach(subscription, ready)
        begin = trio.current_time()
        for number in range(1, 101):
            await hub.inbox.send([event(number, f"task:{number % 3}")])
            await trio.sleep(0.025)
        await trio.sleep(2)
        nursery.cancel_scope.cancel()
    assert recorder.seqs[0] == [1]
    assert recorder.seqs[-1] == [98, 99, 100]
    assert [round(time - begin, 6) for time in recorder.times] == pytest.approx([0, 1, 2, 3])
    assert all(len(seqs) == 3 and sorted(seqs) == seqs for seqs in recorder.seqs[1:])


def test_what_waits_is_bounded_by_the_channels() -> None:
    """However many messages come between two flushes, few more than one of each channel wait."""
    sampler = Sampler(LATEST, Ring(make_id(1000), 100, 10**6), 1)
    for number in range(1, 20 * ROOM):
        sampler.offer(Message(event(number, f"task:{number % 7}")))
        assert len(sampler._waiting) <= ROOM
    recorder = Recorder()
    subscription = Subscription(recorder, LATEST, Overflow.DISCONNECT, ends_with_task=False)
    subscription.position = make_id(1000)
    assert sampler.join(subscription)
    sampler.flush(0)
    assert recorder.seqs == [list(range(20 * ROOM - 7, 20 * ROOM))]
