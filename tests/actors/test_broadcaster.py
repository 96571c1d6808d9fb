import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from tests.actors.conftest import Recorder, event, subscribe

from heliograph.actors import broadcaster as module
from heliograph.actors.broadcaster import INLINE_WATCHERS, STEP_WATCHERS, Broadcaster, BroadcasterStats
from heliograph.actors.ring import Ring
from heliograph.actors.subscription import Message, Subscription
from heliograph.model.channels import Selection
from heliograph.model.ids import EventId, make_id


def position(number: int) -> EventId:
    """Return the id of the event of this number."""
    return make_id(1000 + number)


def broadcaster(ring_events: int = 100, ring_bytes: int = 10**6) -> Broadcaster:
    """Make a broadcaster of the task 1 that begins before the event 1."""
    return Broadcaster(Selection.of(["task:1"]), Ring(position(0), ring_events, ring_bytes))


def offer(to: Broadcaster, *numbers: int) -> None:
    """Offer the events of these numbers."""
    for number in numbers:
        to.offer(Message(event(number)))


def watch(on: Broadcaster, number: int = 0) -> Recorder:
    """Join a recorder that has seen everything up to the event of this number."""
    recorder = Recorder()
    assert on.join(subscribe(recorder, "task:1", position=position(number)))
    return recorder


def test_everybody_gets_a_flush_in_one_piece() -> None:
    """What waited goes to each watcher as one batch, in order, and then nothing waits."""
    caster = broadcaster()
    recorders = [watch(caster) for _ in range(3)]
    offer(caster, 1, 2, 3)
    assert caster.waiting
    assert recorders[0].seqs == []
    caster.flush(0)
    assert not caster.waiting
    assert [recorder.seqs for recorder in recorders] == [[[1, 2, 3]]] * 3
    assert caster.stats() == BroadcasterStats(
        "task:1", subscriptions=3, ring=3, messages=3, flushes=1, deliveries=9
    )


def test_a_flush_of_nothing_is_none() -> None:
    """A flush when nothing waits writes nothing and does not count."""
    caster = broadcaster()
    recorder = watch(caster)
    caster.flush(5)
    assert recorder.seqs == []
    assert (caster.stats().flushes, caster.last_flush) == (0, -1.0)


def test_who_left_hears_nothing_more() -> None:
    """After leaving a watcher gets nothing; leaving twice is harmless."""
    caster = broadcaster()
    recorder = Recorder()
    subscription = subscribe(recorder, "task:1", position=position(0))
    caster.join(subscription)
    assert caster.has(subscription)
    caster.leave(subscription)
    caster.leave(subscription)
    assert not caster.has(subscription)
    offer(caster, 1)
    caster.flush(0)
    assert recorder.seqs == []


def test_who_comes_late_takes_the_rest_of_the_ring() -> None:
    """A watcher behind joins with what it missed in one batch, and goes on live."""
    caster = broadcaster()
    offer(caster, 1, 2, 3)
    caster.flush(0)
    offer(caster, 4)
    recorder = watch(caster, 1)
    caster.flush(1)
    assert recorder.seqs == [[2, 3], [4]]


def test_who_is_up_to_date_takes_nothing() -> None:
    """A watcher at the newest message joins without a delivery."""
    caster = broadcaster()
    offer(caster, 1, 2)
    caster.flush(0)
    assert watch(caster, 2).seqs == []


def test_the_ring_does_not_reach_behind_its_floor() -> None:
    """Who is further behind than the ring reaches is not joined and given nothing."""
    caster = broadcaster(ring_events=2)
    offer(caster, 1, 2, 3)
    caster.flush(0)
    assert caster.ring.floor == position(1)
    recorder = Recorder()
    assert not caster.join(subscribe(recorder, "task:1", position=position(0)))
    assert recorder.seqs == []
    assert watch(caster, 1).seqs == [[2, 3]]


def test_a_new_broadcaster_knows_nothing_older() -> None:
    """Before its first message, only who is at its floor or beyond can join."""
    caster = broadcaster()
    assert not caster.join(subscribe(Recorder(), "task:1", position=EventId(position(0) - 1)))
    assert watch(caster, 0).seqs == []
    assert watch(caster, 7).seqs == []


@given(st.lists(st.integers(1, 400), max_size=30), st.integers(1, 10), st.integers(1000, 8000))
def test_the_ring_is_bounded(outputs: list[int], ring_events: int, ring_bytes: int) -> None:
    """The ring holds the newest messages within both bounds, and the floor is the newest one dropped."""
    caster = broadcaster(ring_events, ring_bytes)
    sizes = []
    for number, length in enumerate(outputs, 1):
        message = Message(event(number, output="x" * length))
        sizes.append(message.size)
        caster.offer(message)
        caster.flush(0)
        kept = caster.stats().ring
        assert kept <= ring_events
        assert sum(sizes[len(sizes) - kept :]) <= ring_bytes
        assert caster.ring.floor == position(number - kept)
        if kept < min(number, ring_events):
            assert sum(sizes[len(sizes) - kept - 1 :]) > ring_bytes


def test_a_newcomer_begins_before_what_waits() -> None:
    """Who wants only what is new begins before the messages that wait, and gets them with everybody."""
    caster = broadcaster()
    offer(caster, 1)
    caster.flush(0)
    assert caster.live_position(position(1)) == position(1)
    offer(caster, 2, 3)
    assert caster.live_position(position(3)) == EventId(position(2) - 1)


def test_a_lost_position_forgets_everything() -> None:
    """After the log was replaced nothing old is given or flushed, and nobody joins from before."""
    caster = broadcaster()
    offer(caster, 1)
    caster.flush(0)
    offer(caster, 2)
    caster.lose_position(position(10))
    assert not caster.join(subscribe(Recorder(), "task:1", position=position(1)))
    recorder = watch(caster, 10)
    caster.flush(1)
    offer(caster, 11)
    caster.flush(2)
    assert recorder.seqs == [[11]]
    assert caster.stats().ring == 1


def messages(*numbers: int) -> list[Message]:
    """Make the messages of these numbers, as a page has them."""
    return [Message(event(number)) for number in numbers]


def test_the_ring_takes_in_what_was_replayed() -> None:
    """A page that leads up to the ring lets others join where it begins, each message once and in order."""
    caster = Broadcaster(Selection.of(["task:1"]), Ring(position(3), 100, 10**6))
    offer(caster, 4, 5)
    caster.flush(0)
    caster.ring.reach_back(position(1), messages(2, 3, 4), position(4))
    assert watch(caster, 1).seqs == [[2, 3, 4, 5]]
    assert watch(caster, 2).seqs == [[3, 4, 5]]
    assert not caster.join(subscribe(Recorder(), "task:1", position=position(0)))
    caster.ring.reach_back(position(0), [], position(1))
    assert watch(caster, 0).seqs == [[2, 3, 4, 5]]


@pytest.mark.parametrize(
    ("after", "through", "ring_events", "ring_bytes"),
    [(1, 2, 100, 10**6), (3, 4, 100, 10**6), (1, 3, 2, 10**6), (1, 3, 100, 2000)],
)
def test_the_ring_takes_nothing_in_that_does_not_fit(
    after: int, through: int, ring_events: int, ring_bytes: int
) -> None:
    """A page that ends before the ring, begins within it, or is too much for it changes nothing."""
    caster = Broadcaster(Selection.of(["task:1"]), Ring(position(3), ring_events, ring_bytes))
    offer(caster, 4)
    caster.flush(0)
    caster.ring.reach_back(position(after), messages(*range(after + 1, through + 1)), position(through))
    assert (caster.ring.floor, caster.stats().ring) == (position(3), 1)
    assert watch(caster, 3).seqs == [[4]]


def test_it_is_idle_without_watchers_and_newcomers() -> None:
    """Nobody watching, nobody attaching and nothing being flushed is what idle means."""
    caster = broadcaster()
    newcomer = subscribe(Recorder(), "task:1")
    assert caster.idle
    caster.attaching.add(newcomer)
    assert not caster.idle
    caster.attaching.remove(newcomer)
    watch(caster)
    assert not caster.idle


def test_a_flush_during_which_watchers_leave_reaches_the_others() -> None:
    """A watcher that makes itself or others leave while it is written to hides nothing from the rest."""
    caster = broadcaster()
    recorders = [Recorder() for _ in range(3)]
    subscriptions = [subscribe(recorder, "task:1", position=position(0)) for recorder in recorders]
    for subscription in subscriptions:
        caster.join(subscription)
    recorders[0].on_deliver = lambda: caster.leave(subscriptions[0])
    offer(caster, 1)
    caster.flush(0)
    assert [recorder.seqs for recorder in recorders] == [[[1]]] * 3
    assert len(caster.subscriptions) == 2


def test_it_is_large_above_its_bound() -> None:
    """Up to its bound of watchers a broadcaster is flushed in one call, above in steps."""
    caster = broadcaster()
    for _ in range(INLINE_WATCHERS):
        watch(caster)
    assert not caster.large
    watch(caster)
    assert caster.large


async def test_a_large_flush_lets_others_run(autojump_clock: trio.testing.MockClock) -> None:
    """Between the steps of a large flush other tasks run, and everybody has everything in the end."""
    caster = broadcaster()
    recorders = [watch(caster) for _ in range(3 * STEP_WATCHERS)]
    seen: list[int] = []
    offer(caster, 1)

    async def other() -> None:
        while not seen or seen[-1] < len(recorders):
            seen.append(sum(bool(recorder.seqs) for recorder in recorders))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        nursery.start_soon(caster.flush_in_steps, 0.02)
    assert any(0 < reached < len(recorders) for reached in seen)
    assert all(recorder.seqs == [[1]] for recorder in recorders)
    assert not caster.flushing


async def test_a_large_flush_keeps_its_interval(autojump_clock: trio.testing.MockClock) -> None:
    """What comes during a large flush goes out joined, an interval after the flush began."""
    caster = broadcaster()
    recorders = [watch(caster) for _ in range(STEP_WATCHERS + 1)]
    offer(caster, 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(caster.flush_in_steps, 0.5)
        while not recorders[0].seqs:
            await trio.lowlevel.checkpoint()
        assert caster.waiting
        offer(caster, 2, 3)
    assert all(recorder.seqs == [[1], [2, 3]] for recorder in recorders)
    assert all(recorder.times == [0, 0.5] for recorder in recorders)
    assert trio.current_time() == 0.5


STEPS = st.lists(
    st.sampled_from(["offer", "join", "join behind", "leave", "checkpoint", "wait"]), min_size=1, max_size=40
)


@given(STEPS, st.integers(1, 3))
def test_joining_and_leaving_amid_a_flush(steps: list[str], watchers: int) -> None:
    """Whoever joins or leaves between the steps of a flush, each has every message of its time once."""

    async def main() -> None:
        caster = broadcaster()
        joined: list[tuple[Subscription, Recorder, int]] = []
        left: dict[Recorder, int] = {}
        newest = 0

        def join(number: int) -> None:
            recorder = Recorder()
            subscription = subscribe(recorder, "task:1", position=position(number))
            assert caster.join(subscription)
            joined.append((subscription, recorder, number))

        for _ in range(watchers):
            join(0)
        async with trio.open_nursery() as nursery:
            for step in steps:
                match step:
                    case "offer":
                        newest += 1
                        offer(caster, newest)
                        if not caster.flushing:
                            caster.flushing = True
                            nursery.start_soon(caster.flush_in_steps, 0.02)
                    case "join":
                        join(newest)
                    case "join behind":
                        join(max(0, newest - 3))
                    case "leave":
                        subscription, recorder, _ = joined[len(joined) // 2]
                        caster.leave(subscription)
                        left.setdefault(recorder, len(recorder.events))
                    case "checkpoint":
                        await trio.lowlevel.checkpoint()
                    case "wait":
                        await trio.sleep(0.015)
        for _, recorder, start in joined:
            delivered = [one.seq for one in recorder.events]
            if recorder in left:
                assert delivered == list(range(start + 1, start + 1 + left[recorder]))
            else:
                assert delivered == list(range(start + 1, newest + 1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STEP_WATCHERS", 1)
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
