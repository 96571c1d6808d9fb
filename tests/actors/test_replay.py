import pytest
import trio
import trio.testing
from tests.actors.conftest import encode, ids
from tests.memory_log import MemoryLog
from tests.strategies import output

from heliograph.actors import replay as module
from heliograph.actors.replay import Replay, ReplayPage, ReplayStats
from heliograph.model.channels import Selection
from heliograph.model.errors import Unavailable
from heliograph.model.event import Event
from heliograph.model.ids import OLDEST, EventId
from heliograph.storage.protocols import Bounds

TASK = Selection.of(["task:1"])


@pytest.fixture
async def log(monkeypatch: pytest.MonkeyPatch) -> MemoryLog:
    """Fill a log whose reads take a second, and make pages small."""
    monkeypatch.setattr(module, "PAGE_EVENTS", 3)
    made = MemoryLog()
    await made.append([[output("1", f"{n}"), output("2", f"{n}")] for n in range(5)])
    made.seconds_per_call = 1
    made.calls = 0
    return made


def events(page: ReplayPage) -> list[Event]:
    """Return the events of a page."""
    return [message.event for message in page.batch.messages] if page.batch else []


async def test_pages_go_on_where_the_last_one_ended(
    log: MemoryLog, autojump_clock: trio.testing.MockClock
) -> None:
    """Pages one behind the other give a selection's events once, then an empty page at the head."""
    replay = Replay(log)
    position, read = OLDEST, list[Event]()
    for _ in range(3):
        page = await replay.page(TASK, position)
        read += events(page)
        position = page.through
    assert read == [event for event in log.events if event.channel == "task:1"]
    assert position == log.position
    assert page.batch is None


async def test_the_pages_of_a_tail(log: MemoryLog, autojump_clock: trio.testing.MockClock) -> None:
    """The pages behind the start of a tail have the newest messages, exactly so many if there are."""
    replay = Replay(log)
    page = await replay.page(TASK, await replay.tail_start(TASK, 2))
    assert [event.payload["output"] for event in events(page)] == ["3", "4"]
    page = await replay.page(TASK, await replay.tail_start(TASK, 100))
    assert [event.payload["output"] for event in events(page)] == ["0", "1", "2"]
    assert await replay.tail_start(Selection.of(["task:none"]), 2) == log.position


async def test_where_a_tail_begins_is_asked_once(
    log: MemoryLog, autojump_clock: trio.testing.MockClock
) -> None:
    """Who asks for the same tail while somebody does shares the answer; another length is asked."""
    replay = Replay(log)
    starts: list[EventId] = []

    async def ask(count: int) -> None:
        starts.append(await replay.tail_start(TASK, count))

    async with trio.open_nursery() as askers:
        for _ in range(50):
            askers.start_soon(ask, 2)
        askers.start_soon(ask, 3)
        askers.start_soon(replay.page, TASK, EventId(2))
    assert log.calls == 3
    assert len(starts) == 51
    assert len(set(starts)) == 2


async def test_the_same_page_is_read_once_for_everybody(
    log: MemoryLog, autojump_clock: trio.testing.MockClock
) -> None:
    """Who asks for a page that is being read shares that reading, and its encoding."""
    replay = Replay(log)
    pages: list[ReplayPage] = []

    async def ask(after: EventId) -> None:
        pages.append(await replay.page(TASK, after))

    async with trio.open_nursery() as askers:
        for _ in range(50):
            askers.start_soon(ask, OLDEST)
        askers.start_soon(ask, log.events[0].id)
    assert log.calls == 2
    first = [page for page in pages if events(page)[0] == log.events[0]]
    assert len(first) == 50
    assert len({id(page.batch) for page in first}) == 1
    assert first[0].batch is not None
    assert len({id(page.batch.joined(encode)) for page in first if page.batch}) == 1
    assert replay.stats() == ReplayStats(pages=2, shared=49)


async def test_what_is_kept_is_asked_once(log: MemoryLog, autojump_clock: trio.testing.MockClock) -> None:
    """Who asks what is kept of a channel while somebody does shares the answer; other channels are asked."""
    replay = Replay(log)
    answers: list[Bounds] = []

    async def ask(selection: Selection) -> None:
        answers.append(await replay.bounds(selection))

    async with trio.open_nursery() as askers:
        for _ in range(50):
            askers.start_soon(ask, TASK)
        askers.start_soon(ask, Selection.of(["task:2"]))
    assert log.calls == 2
    assert answers == [Bounds(OLDEST, log.position)] * 51


async def test_a_page_is_not_kept(log: MemoryLog, autojump_clock: trio.testing.MockClock) -> None:
    """A page asked for again later is read again, with what has come meanwhile."""
    replay = Replay(log)
    behind = log.events[-1].id
    assert (await replay.page(TASK, behind)).batch is None
    await log.append([[output("1", "new")]])
    assert ids(events(await replay.page(TASK, behind))) == [log.position]


async def test_an_outage_is_told_to_everybody_who_waits(
    log: MemoryLog, autojump_clock: trio.testing.MockClock
) -> None:
    """When a reading fails all who shared it hear so, and the next one reads anew."""
    replay = Replay(log)
    log.fault = Unavailable("away")
    heard: list[str] = []

    async def ask() -> None:
        with pytest.raises(Unavailable) as caught:
            await replay.page(TASK, OLDEST)
        heard.append(str(caught.value))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
    assert heard == ["away"] * 3
    assert log.calls == 1
    log.fault = None
    assert len(events(await replay.page(TASK, OLDEST))) == 3


async def test_a_reader_that_is_cancelled_is_replaced(
    log: MemoryLog, autojump_clock: trio.testing.MockClock
) -> None:
    """When the one who reads for others is cancelled, one of those who wait reads in its place."""
    replay = Replay(log)
    pages: list[ReplayPage] = []
    first = trio.CancelScope()

    async def read_and_leave() -> None:
        with first:
            await replay.page(TASK, OLDEST)

    async def ask() -> None:
        pages.append(await replay.page(TASK, OLDEST))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_and_leave)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            nursery.start_soon(ask)
        await trio.sleep(0.5)
        first.cancel()
    assert log.calls == 2
    assert [len(events(page)) for page in pages] == [3, 3, 3]
