from collections.abc import AsyncIterator, Sequence

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st
from tests.actors.conftest import Recorder, ending, event, ids, run_in_virtual_time, subscribe
from tests.memory_log import MemoryLog
from tests.strategies import draft, output

from heliograph.actors import broadcaster as broadcaster_module
from heliograph.actors import replay as replay_module
from heliograph.actors.hub import Hub
from heliograph.actors.subscriber import Subscriber
from heliograph.actors.subscription import Message, Subscription
from heliograph.model.channels import Selection
from heliograph.model.errors import Unavailable
from heliograph.model.event import Event
from heliograph.model.ids import OLDEST, EventId
from heliograph.storage.protocols import PositionLost

FLUSH = 0.02
Clock = trio.testing.MockClock


def make_hub(
    log: MemoryLog, *, flush: float = FLUSH, ring: int = 100, total: int = 10**7, linger: float = 5
) -> Hub:
    """Make a hub that begins at the log's head."""
    return Hub(
        log,
        log.position,
        flush_seconds=flush,
        ring_events=ring,
        ring_bytes=10**6,
        ring_total_bytes=total,
        linger_seconds=linger,
    )


@pytest.fixture
async def log() -> MemoryLog:
    """Make an empty log."""
    return MemoryLog()


@pytest.fixture
async def hub(log: MemoryLog, nursery: trio.Nursery) -> AsyncIterator[Hub]:
    """Run a hub that is fed by hand."""
    made = make_hub(log)
    nursery.start_soon(made.run)
    yield made
    nursery.cancel_scope.cancel()


async def ready() -> bool:
    """Be ready for the next page at once."""
    await trio.lowlevel.checkpoint()
    return True


async def watch(hub: Hub, *selectors: str, topic: str = "*") -> Recorder:
    """Attach a recorder that wants what is new."""
    recorder = Recorder()
    await attach(hub, recorder, hub.live_position(Selection.of(selectors, topic)), *selectors, topic=topic)
    return recorder


async def attach(
    hub: Hub, recorder: Recorder, position: int, *selectors: str, topic: str = "*"
) -> Subscription:
    """Attach a recorder from a position on."""
    subscription = subscribe(recorder, *selectors, topic=topic, position=position)
    await hub.attach(subscription, ready)
    return subscription


async def dispatch(hub: Hub, *events: Event) -> None:
    """Feed a batch to the hub, and let it work as far as it can."""
    await hub.inbox.send(events)
    await trio.testing.wait_all_tasks_blocked()


# Who hears what


async def test_an_event_reaches_everybody_whose_selection_covers_it(hub: Hub, autojump_clock: Clock) -> None:
    """The channel itself, its pattern, everything, and sets of channels hear an event; others do not."""
    recorders = {
        name: await watch(hub, *name.split(","))
        for name in ("task:1", "task:*", "*", "task:1,webhooks", "task:2", "workflow:*", "webhooks")
    }
    await dispatch(hub, event(1), event(2, "webhooks", "webhook.received", n=1))
    heard = {name: [one.seq for one in recorder.events] for name, recorder in recorders.items()}
    assert heard == {
        "task:1": [1],
        "task:*": [1],
        "*": [1, 2],
        "task:1,webhooks": [1, 2],
        "task:2": [],
        "workflow:*": [],
        "webhooks": [2],
    }


async def test_a_topic_filter_hides_the_rest(hub: Hub, autojump_clock: Clock) -> None:
    """A filter on topics lets through what it names, on the same channels."""
    exact = await watch(hub, "task:1", topic="task.status")
    below = await watch(hub, "*", topic="task.*")
    await dispatch(hub, event(1), ending(2), event(3, "task:1", "other"))
    assert (exact.seqs, below.seqs) == ([[2]], [[1, 2]])


async def test_who_watches_the_same_shares_a_broadcaster(hub: Hub) -> None:
    """Equal selections, however they were written, have one broadcaster."""
    await watch(hub, "task:1", "webhooks")
    await watch(hub, "webhooks", "task:1", "task:1")
    stats = hub.stats()
    assert (stats.broadcasters, stats.subscriptions) == (1, 2)


async def test_who_detached_hears_nothing(hub: Hub) -> None:
    """After detaching a watcher gets nothing; detaching again, or before attaching, is harmless."""
    recorder = Recorder()
    never = subscribe(recorder, "task:9")
    hub.detach(never)
    subscription = await attach(hub, recorder, OLDEST, "task:1")
    hub.detach(subscription)
    hub.detach(subscription)
    await dispatch(hub, event(1))
    assert recorder.events == []


async def test_a_large_batch_leaves_time_to_others(hub: Hub, nursery: trio.Nursery) -> None:
    """While thousands of events are handed out other tasks have their turns, and order and position hold."""
    recorder = await watch(hub, "*")
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while hub.stats().events < 10_000:
            turns += 1
            await trio.lowlevel.checkpoint()

    nursery.start_soon(take_turns)
    await dispatch(hub, *(event(number) for number in range(1, 10_001)))
    assert turns >= 10
    hub.flush_all()
    assert [seq for batch in recorder.seqs for seq in batch] == list(range(1, 10_001))
    assert hub.position == event(10_000).id


async def test_the_hub_counts(hub: Hub, autojump_clock: Clock) -> None:
    """Its numbers are those of what went through it, also when a broadcaster has gone."""
    subscription = await attach(hub, Recorder(), OLDEST, "task:1")
    await watch(hub, "*")
    await dispatch(hub, event(1), event(2), event(3, "webhooks"))
    hub.detach(subscription)
    await trio.sleep(10)
    stats = hub.stats()
    assert (stats.events, stats.deliveries, stats.position) == (3, 5, event(3).id)
    assert (stats.broadcasters, stats.subscriptions, stats.inbox) == (1, 1, 0)
    (one,) = hub.broadcaster_stats()
    assert (one.selection, one.messages) == ("*", 3)


# When it is flushed


async def test_the_first_message_goes_out_at_once(hub: Hub, autojump_clock: Clock) -> None:
    """After a pause a message is not held back."""
    recorder = await watch(hub, "task:1")
    await trio.sleep(1)
    await dispatch(hub, event(1))
    assert (recorder.seqs, recorder.times) == ([[1]], [1])


async def test_what_comes_soon_after_goes_out_joined(hub: Hub, autojump_clock: Clock) -> None:
    """Messages within the flush interval wait for its end, and are one delivery."""
    recorder = await watch(hub, "task:1")
    for number in range(1, 6):
        await dispatch(hub, event(number))
        await trio.sleep(FLUSH / 10)
    assert recorder.seqs == [[1]]
    await trio.sleep(1)
    assert recorder.seqs == [[1], [2, 3, 4, 5]]
    assert recorder.times == [0, pytest.approx(FLUSH)]


async def test_flushes_keep_their_distance(hub: Hub, autojump_clock: Clock) -> None:
    """Under a steady flow a watcher is written to once per interval, however many messages come."""
    recorder = await watch(hub, "task:1")
    for number in range(1, 101):
        await dispatch(hub, event(number))
        await trio.sleep(FLUSH / 10)
    await trio.sleep(1)
    assert [one.seq for one in recorder.events] == list(range(1, 101))
    distances = [late - early for early, late in zip(recorder.times, recorder.times[1:], strict=False)]
    assert min(distances) >= FLUSH - 1e-9
    assert len(recorder.batches) <= 12


async def test_the_end_of_a_task_does_not_wait(hub: Hub, autojump_clock: Clock) -> None:
    """A terminal status flushes at once, together with what waited before it."""
    recorder = await watch(hub, "task:1")
    await dispatch(hub, event(1))
    await dispatch(hub, event(2))
    await dispatch(hub, ending(3, "failed"))
    assert (recorder.seqs, recorder.times) == ([[1], [2, 3]], [0, 0])


async def test_channels_wait_by_themselves(hub: Hub, autojump_clock: Clock) -> None:
    """A flush of one channel delays no other, and each has its own end of the interval."""
    one, other = await watch(hub, "task:1"), await watch(hub, "task:2")
    await dispatch(hub, event(1))
    await trio.sleep(FLUSH / 2)
    await dispatch(hub, event(2), event(3, "task:2"))
    assert other.times == [FLUSH / 2]
    await dispatch(hub, event(4, "task:2"))
    await trio.sleep(1)
    assert (one.times, other.times) == ([0, pytest.approx(FLUSH)], [FLUSH / 2, pytest.approx(1.5 * FLUSH)])


async def test_a_large_channel_holds_up_no_other(
    hub: Hub, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel with many watchers is flushed in a task of its own, in steps, and in order."""
    monkeypatch.setattr(broadcaster_module, "INLINE_WATCHERS", 4)
    monkeypatch.setattr(broadcaster_module, "STEP_WATCHERS", 1)
    many = [await watch(hub, "task:1") for _ in range(5)]
    small = await watch(hub, "task:2")
    reached: list[int] = []
    small.on_deliver = lambda: reached.append(sum(bool(recorder.seqs) for recorder in many))
    await hub.inbox.send([event(1)])
    await hub.inbox.send([event(2), event(3, "task:2")])
    await trio.sleep(1)
    assert reached[0] < len(many)
    assert all([one.seq for one in recorder.events] == [1, 2] for recorder in many)


@pytest.mark.parametrize("way", ["ending", "flush_all"])
async def test_nothing_overtakes_a_large_flush(
    hub: Hub, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """What is to go out at once while a large flush is under way waits its turn, also if few are left."""
    monkeypatch.setattr(broadcaster_module, "INLINE_WATCHERS", 4)
    monkeypatch.setattr(broadcaster_module, "STEP_WATCHERS", 1)
    recorders = [Recorder() for _ in range(8)]
    subscriptions = [await attach(hub, recorder, OLDEST, "task:1") for recorder in recorders]
    await hub.inbox.send([event(1)])
    while not recorders[0].events:
        await trio.lowlevel.checkpoint()
    for subscription in subscriptions[:5]:
        hub.detach(subscription)
    await hub.inbox.send([ending(2) if way == "ending" else event(2)])
    await trio.lowlevel.checkpoint()
    if way == "flush_all":
        hub.flush_all()
    await trio.sleep(1)
    assert all([one.seq for one in recorder.events] == [1, 2] for recorder in recorders[5:])


async def test_what_waits_goes_out_when_told(hub: Hub, autojump_clock: Clock) -> None:
    """Flushing everything, as draining does, does not wait for the interval."""
    recorder = await watch(hub, "task:1")
    await dispatch(hub, event(1))
    await dispatch(hub, event(2))
    hub.flush_all()
    assert (recorder.seqs, recorder.times) == ([[1], [2]], [0, 0])


async def test_the_end_of_the_inbox_flushes_and_ends(autojump_clock: Clock) -> None:
    """When the subscriber has closed the inbox, what waits goes out and the hub returns."""
    hub = make_hub(MemoryLog(), flush=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hub.run)
        recorder = await watch(hub, "task:1")
        await dispatch(hub, event(1))
        await dispatch(hub, event(2))
        hub.inbox.close()
    assert recorder.seqs == [[1], [2]]


# How long a broadcaster lives


async def test_a_broadcaster_lingers(hub: Hub, log: MemoryLog, autojump_clock: Clock) -> None:
    """Without watchers it is kept for a while, so that who comes back at once needs no reading."""
    await log.append([[output("1", "a")]])
    subscription = await attach(hub, Recorder(), OLDEST, "task:1")
    hub.detach(subscription)
    await dispatch(hub, *log.events)
    await trio.sleep(4)
    calls = log.calls
    recorder = Recorder()
    await attach(hub, recorder, OLDEST, "task:1")
    assert ids(recorder.events) == ids(log.events)
    assert log.calls == calls


async def test_a_broadcaster_retires(hub: Hub, autojump_clock: Clock) -> None:
    """After the linger without watchers it is forgotten, and a new one begins where the hub is."""
    subscription = await attach(hub, Recorder(), OLDEST, "task:1")
    await watch(hub, "*")
    await dispatch(hub, event(1))
    hub.detach(subscription)
    await trio.sleep(8)
    assert hub.stats().broadcasters == 1
    assert not hub.reaches_back_to(Selection.of(["task:1"]), OLDEST)
    recorder = await watch(hub, "task:1")
    await dispatch(hub, event(2))
    assert recorder.seqs == [[2]]


async def test_a_watched_broadcaster_never_retires(hub: Hub, autojump_clock: Clock) -> None:
    """As long as somebody watches, however quiet the channel is, the broadcaster stays."""
    recorder = await watch(hub, "task:1")
    await trio.sleep(100)
    await dispatch(hub, event(1))
    assert recorder.seqs == [[1]]


async def test_a_held_broadcaster_never_retires(hub: Hub, log: MemoryLog, autojump_clock: Clock) -> None:
    """While a subscription is being attached, however slowly, its broadcaster stays and collects."""
    await log.append([[output("1", "a")]])
    await dispatch(hub, *log.events)
    recorder = Recorder()

    async def slowly() -> bool:
        await trio.sleep(30)
        return True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hub.attach, subscribe(recorder, "task:1"), slowly)
        await trio.sleep(20)
        await log.append([[output("1", "b")]])
        await dispatch(hub, log.events[1])
    assert ids(recorder.events) == ids(log.events)


# What all rings keep together


async def test_all_rings_together_are_bounded(
    log: MemoryLog, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    """Over their bound the rings of the quietest go, whole, and who comes late to those reads the log."""
    await log.append([[output("00", "x")]])
    size = Message(log.events[0]).size
    hub = make_hub(log, total=100 * size)
    nursery.start_soon(hub.run)
    for number in range(20):
        await watch(hub, f"task:{number:02}")
    for number in range(20):
        for _ in range(10):
            await log.append([[output(f"{number:02}", "x")]])
            await dispatch(hub, log.events[-1])
            assert hub.stats().ring_bytes <= 100 * size
        await trio.sleep(1)
    rings = [one.ring for one in hub.broadcaster_stats()]
    assert rings == sorted(rings)
    assert rings[-5:] == [10] * 5
    assert sum(rings) * size == hub.stats().ring_bytes > 80 * size
    for number, read in ((1, 1), (19, 0)):
        calls, recorder = log.calls, Recorder()
        mine = [one for one in log.events if one.channel == f"task:{number:02}"]
        await attach(hub, recorder, EventId(mine[0].id - 1), f"task:{number:02}")
        assert (ids(recorder.events), log.calls) == (ids(mine), calls + read)
    nursery.cancel_scope.cancel()


async def test_a_retired_ring_is_not_counted(hub: Hub, autojump_clock: Clock) -> None:
    """What a ring kept is given back when its broadcaster goes, and when the log is lost."""
    subscription = await attach(hub, Recorder(), OLDEST, "task:1")
    await watch(hub, "*")
    await dispatch(hub, event(1))
    both = hub.stats().ring_bytes
    hub.detach(subscription)
    await trio.sleep(8)
    assert 0 < hub.stats().ring_bytes == both // 2
    await hub.inbox.send(PositionLost(EventId(7), "lost"))
    await trio.testing.wait_all_tasks_blocked()
    assert hub.stats().ring_bytes == 0


async def test_retiring_with_a_flush_to_come_keeps_nothing(hub: Hub, autojump_clock: Clock) -> None:
    """What waited for its flush when its broadcaster went is not kept, nor counted, for ever."""
    subscription = await attach(hub, Recorder(), OLDEST, "task:1")
    hub.detach(subscription)
    await trio.sleep(FLUSH / 4)  # so that retirements come between two events
    for number in range(1, 800):  # twice as often as is flushed: something waits then
        await dispatch(hub, event(number))
        await trio.sleep(0.01)
    await trio.sleep(5)
    assert (hub.stats().broadcasters, hub.stats().ring_bytes) == (0, 0)


# Positions


async def test_where_a_newcomer_begins(hub: Hub, autojump_clock: Clock) -> None:
    """A newcomer begins at the hub's position, or before what waits for a flush."""
    task = Selection.of(["task:1"])
    assert hub.live_position(task) == hub.position == OLDEST
    await watch(hub, "task:1")
    await dispatch(hub, event(1), event(2, "task:9"))
    assert hub.live_position(task) == hub.position == event(2).id
    await dispatch(hub, event(3), event(4))
    assert hub.live_position(task) == EventId(event(3).id - 1)
    assert hub.live_position(Selection.of(["task:9"])) == event(4).id


async def test_what_is_kept_in_memory_needs_no_log(hub: Hub, autojump_clock: Clock) -> None:
    """A position within the ring, or at the hub's position where nobody watches, is within memory."""
    task = Selection.of(["task:1"])
    await watch(hub, "task:1")
    await dispatch(hub, event(1), event(2))
    assert hub.reaches_back_to(task, OLDEST)
    assert hub.reaches_back_to(task, event(2).id)
    assert not hub.reaches_back_to(task, event(3).id)
    assert not hub.reaches_back_to(Selection.of(["task:2"]), event(1).id)
    assert hub.reaches_back_to(Selection.of(["task:2"]), event(2).id)


async def test_a_cursor_moves_where_nothing_came(hub: Hub, autojump_clock: Clock) -> None:
    """A subscription is caught up to the hub's position unless something waits for it."""
    subscription = await attach(hub, Recorder(), OLDEST, "task:1")
    await dispatch(hub, event(1), event(2, "task:9"))
    assert hub.caught_up_to(subscription) == event(2).id
    await dispatch(hub, event(3), event(4, "task:9"))
    assert hub.caught_up_to(subscription) == event(1).id
    assert hub.caught_up_to(subscribe(Recorder(), "task:9", position=event(1).id)) == event(1).id


# Attaching


async def test_attaching_waits_between_pages(
    hub: Hub, log: MemoryLog, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that is slow to take a page is not given the next one."""
    monkeypatch.setattr(replay_module, "PAGE_EVENTS", 2)
    await log.append([[output("1", f"{n}") for n in range(5)]])
    await dispatch(hub, *log.events)
    recorder = Recorder()

    async def slowly() -> bool:
        await trio.sleep(10)
        return True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hub.attach, subscribe(recorder, "task:1"), slowly)
        await trio.sleep(5)
        assert recorder.seqs == [[1, 2]]
        await trio.sleep(10)
        assert recorder.seqs == [[1, 2], [3, 4]]
    assert recorder.seqs == [[1, 2], [3, 4], [5]]


@pytest.mark.parametrize("asked", ["from the oldest", "from a cursor"])
async def test_what_retention_takes_under_a_replay_is_told(
    hub: Hub, log: MemoryLog, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    """Events removed between two pages are told as a gap before the next page, and only they."""
    monkeypatch.setattr(replay_module, "PAGE_EVENTS", 2)
    await log.append([[output("1", f"{n}") for n in range(10)]])
    await dispatch(hub, *log.events)
    events = log.events
    start = OLDEST if asked == "from the oldest" else events[0].id
    log.trimmed = events[0].id
    recorder = Recorder()
    pages = 0

    async def trim_behind_the_first_page() -> bool:
        nonlocal pages
        pages += 1
        if pages == 1:
            log.trimmed = events[6].id
        return True

    await hub.attach(subscribe(recorder, "task:1", position=start), trim_behind_the_first_page)
    assert recorder.seqs == [[2, 3], [8, 9], [10]]
    assert recorder.gaps == [(events[2].id, events[6].id)]


async def test_what_retention_takes_before_the_first_page_is_told(
    hub: Hub, log: MemoryLog, autojump_clock: Clock
) -> None:
    """A cursor that was good when it was checked, and is not when its page is read, is told a gap."""
    await log.append([[output("1", f"{n}") for n in range(4)]])
    await dispatch(hub, *log.events)
    log.trimmed = log.events[2].id
    recorder = Recorder()
    await attach(hub, recorder, log.events[0].id, "task:1")
    assert (recorder.gaps, recorder.seqs) == ([(log.events[0].id, log.trimmed)], [[4]])


@pytest.mark.parametrize("moment", ["while a page is read", "while a page is taken"])
async def test_a_loss_of_the_log_under_a_replay_is_told(
    hub: Hub, log: MemoryLog, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Who replays when the log is lost is told so, is given nothing older any more, and goes on live."""
    monkeypatch.setattr(replay_module, "PAGE_EVENTS", 2)
    await log.append([[output("1", f"{n}") for n in range(6)]])
    await dispatch(hub, *log.events)
    log.seconds_per_call = 10
    recorder = Recorder()

    async def slowly() -> bool:
        await trio.sleep(10)
        return True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hub.attach, subscribe(recorder, "task:1"), slowly)
        await trio.sleep(25 if moment == "while a page is read" else 15)
        await hub.inbox.send(PositionLost(log.events[2].id, "Redis lost events"))
        await trio.testing.wait_all_tasks_blocked()
        assert recorder.resets == ["Redis lost events"]
    await dispatch(hub, event(2_000_000_000_000))
    assert (recorder.seqs, recorder.resets) == ([[1, 2], [2_000_000_000_000]], ["Redis lost events"])


async def test_who_comes_back_to_the_same_place_later_needs_no_log(
    log: MemoryLog, autojump_clock: Clock
) -> None:
    """After the first has been replayed, others at its place or behind it are served from memory."""
    await log.append([[output("1", f"{n}") for n in range(5)]])
    hub = make_hub(log)
    recorders = [Recorder() for _ in range(3)]
    await attach(hub, recorders[0], log.events[0].id, "task:1")
    calls = log.calls
    assert hub.reaches_back_to(Selection.of(["task:1"]), log.events[0].id)
    await attach(hub, recorders[1], log.events[0].id, "task:1")
    await attach(hub, recorders[2], log.events[2].id, "task:1")
    assert log.calls == calls
    assert [[one.seq for one in recorder.events] for recorder in recorders] == [
        [2, 3, 4, 5],
        [2, 3, 4, 5],
        [4, 5],
    ]


async def test_what_was_read_of_a_lost_log_is_not_kept(log: MemoryLog, autojump_clock: Clock) -> None:
    """A page that was being read when the log was replaced is in nobody's way later."""
    await log.append([[output("1", f"{n}") for n in range(5)]])
    hub = make_hub(log)
    log.seconds_per_call = 1
    selection, behind = Selection.of(["task:1"]), log.events[0].id
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hub.run)
        nursery.start_soon(attach, hub, Recorder(), behind, "task:1")
        await trio.sleep(0.5)
        await hub.inbox.send(PositionLost(log.events[3].id, "replaced"))
        await trio.sleep(5)
        assert not hub.reaches_back_to(selection, behind)
        nursery.cancel_scope.cancel()


async def test_an_outage_while_attaching_is_told(hub: Hub, log: MemoryLog, autojump_clock: Clock) -> None:
    """When the log can't be read attaching fails, nothing is subscribed, and the broadcaster retires."""
    await log.append([[output("1", "a")]])
    await dispatch(hub, *log.events)
    log.fault = Unavailable("away")
    with pytest.raises(Unavailable):
        await attach(hub, Recorder(), OLDEST, "task:1")
    assert hub.stats().subscriptions == 0
    await trio.sleep(10)
    assert hub.stats().broadcasters == 0


async def test_attaching_can_be_cancelled(hub: Hub, log: MemoryLog, autojump_clock: Clock) -> None:
    """A client that goes while its history is read leaves nothing behind."""
    await log.append([[output("1", "a")]])
    await dispatch(hub, *log.events)
    log.seconds_per_call = 5
    with trio.move_on_after(1) as patience:
        await attach(hub, Recorder(), OLDEST, "task:1")
    assert patience.cancelled_caught
    await trio.sleep(20)
    assert (hub.stats().subscriptions, hub.stats().broadcasters) == (0, 0)


# Attaching without a hole, whatever happens meanwhile

CHANNELS = ["task:1", "task:2", "task:3", "webhooks"]
SELECTIONS = [
    Selection.of(["task:1"]),
    Selection.of(["task:*"]),
    Selection.of([]),
    Selection.of(["task:2", "webhooks"]),
    Selection.of(["task:*"], "task.status"),
]


@attrs.frozen
class Publish:
    """Append events on these channels, in one request."""

    channels: Sequence[str]
    ends: bool


@attrs.frozen
class Attach:
    """Attach to a selection from some position: of an event, of the log's head, or live."""

    selection: Selection
    start: int | str


@attrs.frozen
class Detach:
    """Detach one of those attached."""

    which: int


@attrs.frozen
class Wait:
    """Let time pass."""

    seconds: float


@attrs.frozen
class Slow:
    """Make the log and the clients slow, or quick again."""

    log: float
    clients: float


ACTIONS = st.one_of(
    st.builds(Publish, st.lists(st.sampled_from(CHANNELS), min_size=1, max_size=5), st.booleans()),
    st.builds(Attach, st.sampled_from(SELECTIONS), st.sampled_from(["head", "live"]) | st.integers(0, 30)),
    st.builds(Detach, st.integers(0, 5)),
    st.builds(Wait, st.sampled_from([0.0, 0.001, 0.01, 0.02, 0.05, 1.0, 3.0])),
    st.builds(Slow, st.sampled_from([0.0, 0.005, 0.03]), st.sampled_from([0.0, 0.01, 0.5])),
)


@attrs.define(eq=False)
class Scenario:
    """Runs actions against a hub, and knows what every watcher must have heard."""

    flush: float
    ring: int
    linger: float
    log: MemoryLog = attrs.field(factory=MemoryLog)
    clients: float = 0.0
    attached: list[tuple[Subscription, Recorder, EventId]] = attrs.field(factory=list)
    live: set[Subscription] = attrs.field(factory=set)
    detached: dict[Subscription, int] = attrs.field(factory=dict)

    async def run(self, actions: Sequence[object]) -> None:
        """Run the actions, let everything settle, and check."""
        hub = make_hub(self.log, flush=self.flush, ring=self.ring, linger=self.linger)
        subscriber = Subscriber(self.log, self.log.position, [hub.inbox])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hub.run)
            nursery.start_soon(subscriber.run)
            for action in actions:
                await self.act(action, hub, nursery)
            await trio.sleep(60)
            nursery.cancel_scope.cancel()
        for subscription, recorder, start in self.attached:
            self.check(subscription, recorder, start)

    async def act(self, action: object, hub: Hub, nursery: trio.Nursery) -> None:
        """Take one action."""
        match action:
            case Publish(channels, ends):
                drafts = [
                    draft("webhook.received", {"n": 1})
                    if channel == "webhooks"
                    else draft("task.status", {"task_id": channel[5:], "status": "completed"})
                    if ends
                    else output(channel[5:], "x")
                    for channel in channels
                ]
                nursery.start_soon(self.log.append, [drafts])
            case Attach(selection, start):
                self.attach(hub, nursery, selection, start)
            case Detach(which) if which < len(self.attached):
                subscription, recorder, _ = self.attached[which]
                if subscription in self.live:
                    hub.detach(subscription)
                    self.detached.setdefault(subscription, len(recorder.events))
            case Wait(seconds):
                await trio.sleep(seconds)
            case Slow(log, clients):
                self.log.seconds_per_call, self.clients = log, clients

    def attach(self, hub: Hub, nursery: trio.Nursery, selection: Selection, start: int | str) -> None:
        """Begin to attach a recorder."""
        position = hub.live_position(selection)
        if start == "head":
            position = self.log.position
        elif isinstance(start, int):
            position = self.log.events[start].id if start < len(self.log.events) else OLDEST
        recorder = Recorder()
        subscription = Subscription(recorder, selection, position=position)
        self.attached.append((subscription, recorder, position))
        nursery.start_soon(self.bring_up, hub, subscription)

    async def bring_up(self, hub: Hub, subscription: Subscription) -> None:
        """Attach a subscription; from then on it may be detached."""
        await hub.attach(subscription, self.ready)
        self.live.add(subscription)

    async def ready(self) -> bool:
        """Take as long over a page as clients take now."""
        await trio.sleep(self.clients)
        return True

    def check(self, subscription: Subscription, recorder: Recorder, start: EventId) -> None:
        """Check that a watcher has heard everything once, in order, up to where it was detached."""
        selection = subscription.selection
        wanted = [
            one.id for one in self.log.events if one.id > start and selection.covers(one.channel, one.topic)
        ]
        if subscription in self.detached:
            wanted = wanted[: self.detached[subscription]]
        assert ids(recorder.events) == wanted


@given_settings(max_examples=300)
@given(
    st.lists(ACTIONS, min_size=5, max_size=40),
    st.sampled_from([0.0, FLUSH]),
    st.sampled_from([1, 2, 5, 100]),
    st.sampled_from([0.0, 0.5]),
    st.integers(1, 4),
    st.booleans(),
)
def test_attaching_leaves_no_hole(
    actions: list[object], flush: float, ring: int, linger: float, page: int, large: bool
) -> None:
    """However publishing, attaching, leaving and flushing interleave, each event is heard once, in order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay_module, "PAGE_EVENTS", page)
        if large:
            patch.setattr(broadcaster_module, "INLINE_WATCHERS", 1)
            patch.setattr(broadcaster_module, "STEP_WATCHERS", 1)
        run_in_virtual_time(Scenario(flush, ring, linger).run, actions)


async def test_nobody_begins_to_watch_before_the_position_is_known(
    log: MemoryLog, nursery: trio.Nursery
) -> None:
    """While the log was never reached streams are refused; once its position comes, they begin there."""
    hub = Hub(
        log,
        None,
        flush_seconds=FLUSH,
        ring_events=10,
        ring_bytes=1000,
        ring_total_bytes=1000,
        linger_seconds=1,
    )
    nursery.start_soon(hub.run)
    everything = Selection.of(["*"])
    with pytest.raises(Unavailable, match="not been reached"):
        hub.live_position(everything)
    await hub.inbox.send(PositionLost(EventId(7), "the log was not reachable until now"))
    await trio.testing.wait_all_tasks_blocked()
    assert hub.live_position(everything) == 7
    nursery.cancel_scope.cancel()
