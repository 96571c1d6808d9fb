from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from tests.memory_log import MemoryLog
from tests.strategies import output

from heliograph.actors import appender as module
from heliograph.actors.appender import Appender, AppenderStats
from heliograph.model.errors import Conflict, HeliographError, Unavailable
from heliograph.storage.protocols import Receipt


async def publish(
    appender: Appender, *texts: str, answers: list[Receipt | HeliographError], key: str = ""
) -> None:
    """Append lines as one request; record the answer."""
    try:
        answers.append(await appender.append([output("1", text, key or None) for text in texts]))
    except HeliographError as error:
        answers.append(error)


def texts(log: MemoryLog) -> list[str]:
    """Return the lines in the log."""
    return [event.payload["output"] for event in log.events]


async def test_a_request_is_answered_when_it_is_durable(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """The receipt comes after the log has answered, and has one id for each draft."""
    log = MemoryLog(seconds_per_call=1)
    appender = Appender(log, 10)
    nursery.start_soon(appender.run)
    receipt = await appender.append([output("1", "a"), output("1", "b")])
    assert trio.current_time() == 1
    assert list(receipt.ids) == [event.id for event in log.events]
    assert appender.stats() == AppenderStats(waiting=0, requests=1, events=2, groups=1, refused=0, failed=0)
    nursery.cancel_scope.cancel()


async def test_what_waits_is_written_together(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Requests that come while the log is busy share the next write, in their order."""
    log = MemoryLog(seconds_per_call=1)
    appender = Appender(log, 10)
    nursery.start_soon(appender.run)
    answers: list[Receipt | HeliographError] = []
    async with trio.open_nursery() as publishers:
        for text in "abcde":
            publishers.start_soon(lambda one: publish(appender, one, answers=answers), text)
            await trio.testing.wait_all_tasks_blocked()
    assert log.calls == 2
    assert texts(log) == list("abcde")
    assert trio.current_time() == 2
    assert appender.stats().groups == 2
    nursery.cancel_scope.cancel()


async def test_a_group_is_bounded(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write takes no request that would bring it over its number of events; that goes with the next."""
    monkeypatch.setattr(module, "GROUP_EVENTS", 8)
    log = MemoryLog(seconds_per_call=1)
    appender = Appender(log, 10)
    answers: list[Receipt | HeliographError] = []
    async with trio.open_nursery() as publishers:
        for _ in range(5):
            publishers.start_soon(lambda: publish(appender, "a", "b", "c", answers=answers))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(appender.run)
    assert log.calls == 3
    assert len(log.events) == 15
    nursery.cancel_scope.cancel()


async def test_a_full_inbox_refuses(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    """A publisher beyond the bound is refused at once, with when to come again, and nothing of it is kept."""
    log = MemoryLog(seconds_per_call=1)
    appender = Appender(log, 2)
    answers: list[Receipt | HeliographError] = []
    for text in "ab":
        nursery.start_soon(lambda one: publish(appender, one, answers=answers), text)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(Unavailable) as caught:
        await appender.append([output("1", "c")])
    assert caught.value.retry_after > 0
    assert (appender.stats().waiting, appender.stats().refused) == (2, 1)
    nursery.start_soon(appender.run)
    await trio.sleep(5)
    assert sorted(texts(log)) == ["a", "b"]
    assert len(answers) == 2
    nursery.cancel_scope.cancel()


async def test_an_outage_is_answered_and_passes(nursery: trio.Nursery) -> None:
    """When the log is away everybody who waited hears so, and later requests are served again."""
    log = MemoryLog(fault=Unavailable("the log is away", 7))
    appender = Appender(log, 10)
    answers: list[Receipt | HeliographError] = []
    async with trio.open_nursery() as publishers:
        for text in "ab":
            publishers.start_soon(lambda one: publish(appender, one, answers=answers), text)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(appender.run)
    assert log.calls == 1
    assert answers == [log.fault, log.fault]
    log.fault = None
    await appender.append([output("1", "c")])
    assert texts(log) == ["c"]
    assert (appender.stats().failed, appender.stats().requests) == (2, 1)
    nursery.cancel_scope.cancel()


async def test_a_conflict_concerns_one_request(nursery: trio.Nursery) -> None:
    """A request whose key was used for something else is refused alone, among those written with it."""
    log = MemoryLog()
    appender = Appender(log, 10)
    answers: list[Receipt | HeliographError] = []
    async with trio.open_nursery() as publishers:
        for text in "abc":
            key = "k" if text != "c" else ""
            publishers.start_soon(
                lambda one, key: publish(appender, one, answers=answers, key=key), text, key
            )
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(appender.run)
    assert sorted(type(answer).__name__ for answer in answers) == ["Conflict", "Receipt", "Receipt"]
    assert any(isinstance(answer, Conflict) for answer in answers)
    assert len(log.events) == 2
    assert log.calls == 1
    nursery.cancel_scope.cancel()


async def test_a_publisher_that_leaves_disturbs_nobody(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A publisher cancelled while it waits is appended or not, and the others get their receipts."""
    log = MemoryLog(seconds_per_call=1)
    appender = Appender(log, 10)
    nursery.start_soon(appender.run)
    answers: list[Receipt | HeliographError] = []
    with trio.move_on_after(0.5) as patience:
        await appender.append([output("1", "gone")])
    assert patience.cancelled_caught
    await publish(appender, "stays", answers=answers)
    assert isinstance(answers[0], Receipt)
    assert texts(log) == ["gone", "stays"]
    nursery.cancel_scope.cancel()


async def test_closing_writes_what_waits(autojump_clock: trio.testing.MockClock) -> None:
    """After closing, what waited is still appended, ``run`` returns, and newcomers hear that it stops."""
    log = MemoryLog(seconds_per_call=1)
    appender = Appender(log, 10)
    answers: list[Receipt | HeliographError] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(appender.run)
        for text in "abc":
            nursery.start_soon(lambda one: publish(appender, one, answers=answers), text)
        await trio.testing.wait_all_tasks_blocked()
        appender.close()
        with pytest.raises(Unavailable, match="stopping"):
            await appender.append([output("1", "late")])
    assert sorted(texts(log)) == ["a", "b", "c"]
    assert all(isinstance(answer, Receipt) for answer in answers)


async def test_nobody_waits_for_one_that_was_cancelled(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that are written, wait for room or wait in the inbox are refused at once, as is what comes."""
    monkeypatch.setattr(module, "GROUP_EVENTS", 2)
    appender = Appender(MemoryLog(seconds_per_call=60), 10)
    running = await nursery.start(cancellable, appender.run)
    answers: list[Receipt | HeliographError] = []
    with trio.fail_after(1):
        async with trio.open_nursery() as publishers:
            for _ in range(2):
                for _ in range(3):
                    publishers.start_soon(lambda: publish(appender, "a", "b", answers=answers))
                await trio.testing.wait_all_tasks_blocked()
            running.cancel()
    await publish(appender, "late", answers=answers)
    assert [str(one) for one in answers] == ["the service is stopping"] * 7
    assert trio.current_time() == 0


async def cancellable(
    run: Callable[[], Awaitable[None]], *, task_status: trio.TaskStatus[trio.CancelScope]
) -> None:
    """Run an actor in a scope of its own."""
    with trio.CancelScope() as scope:
        task_status.started(scope)
        await run()
