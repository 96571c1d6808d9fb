"""The inbox of an actor: what is taken at once, what waits, and in which order."""

from __future__ import annotations

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors.inbox import Inbox


class Owner:
    """Takes the items below ``large`` at once, and the rest one by one, a checkpoint after each."""

    def __init__(self, size: int = 4, large: int = 100) -> None:
        self.inbox: Inbox[int] = Inbox(size, self._take)
        self.large = large
        self.got: list[int] = []
        self.at_once = 0
        self.may_work = trio.Event()
        self.may_work.set()

    def _take(self, item: int) -> int | None:
        if item >= self.large:
            return item
        self.at_once += 1
        self.got.append(item)
        return None

    async def run(self) -> None:
        """Take what comes through the inbox; work on it only when that is allowed."""
        async for item in self.inbox:
            await self.may_work.wait()
            self.got.append(item)


async def test_a_resting_owner_takes_in_the_senders_turn(nursery: trio.Nursery) -> None:
    """An item that a resting owner takes is handled when ``send`` returns, without a checkpoint."""
    owner = Owner()
    nursery.start_soon(owner.run)
    await trio.testing.wait_all_tasks_blocked()
    with trio.testing.assert_no_checkpoints():
        await owner.inbox.send(1)
        await owner.inbox.send(2)
    assert (owner.got, owner.at_once) == ([1, 2], 2)


async def test_nothing_overtakes(nursery: trio.Nursery) -> None:
    """While an item is on its way or worked on, no later one is taken at once; afterwards they are again."""
    owner = Owner()
    nursery.start_soon(owner.run)
    await trio.testing.wait_all_tasks_blocked()
    owner.may_work = trio.Event()
    await owner.inbox.send(100)
    await owner.inbox.send(1)
    await trio.testing.wait_all_tasks_blocked()
    await owner.inbox.send(2)
    assert owner.got == []
    owner.may_work.set()
    await trio.testing.wait_all_tasks_blocked()
    await owner.inbox.send(3)
    assert (owner.got, owner.at_once) == ([100, 1, 2, 3], 1)


async def test_before_the_owner_runs_items_wait() -> None:
    """Nothing is taken before the owner asks, and a full inbox makes the sender wait."""
    owner = Owner(size=1)
    await owner.inbox.send(1)
    with trio.move_on_after(0) as scope:
        await owner.inbox.send(2)
    assert (scope.cancelled_caught, owner.at_once, owner.inbox.waiting) == (True, 0, 1)


async def test_a_closed_inbox_is_emptied_first(nursery: trio.Nursery) -> None:
    """The owner's loop ends after what waited when the inbox was closed, resting or not."""
    owner = Owner()
    await owner.inbox.send(1)
    owner.inbox.close()
    await owner.run()
    assert owner.got == [1]
    resting, ended = Owner(), trio.Event()

    async def run() -> None:
        await resting.run()
        ended.set()

    nursery.start_soon(run)
    await trio.testing.wait_all_tasks_blocked()
    resting.inbox.close()
    await ended.wait()


@given(
    items=st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30),
    size=st.integers(min_value=0, max_value=3),
)
def test_order_is_kept(items: list[tuple[bool, bool]], size: int) -> None:
    """Whatever is large, and wherever the sender pauses, all items come once and in order."""

    async def main() -> None:
        owner = Owner(size, large=1000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(owner.run)
            for number, (large, pause) in enumerate(items):
                await owner.inbox.send(number + 1000 * large)
                if pause:
                    await trio.lowlevel.checkpoint()
            owner.inbox.close()
        assert [item % 1000 for item in owner.got] == list(range(len(items)))

    trio.run(main)
