import attrs
import trio
import trio.testing

from heliograph.actors.sweeper import STEP_STREAMS, Sweeper, SweeperStats


@attrs.define(eq=False)
class Stream:
    """Something to look after: due again some seconds after each look."""

    due: float
    again: float = 1e9
    seen: list[float] = attrs.field(factory=list)

    def sweep(self, now: float) -> None:
        """Record the look."""
        self.seen.append(now)
        self.due = now + self.again


async def sweep_for(seconds: float, streams: list[Stream], interval: float = 1.0) -> Sweeper:
    """Sweep for a while."""
    sweeper = Sweeper(lambda: streams, interval)
    with trio.move_on_after(seconds):
        await sweeper.run()
    return sweeper


async def test_a_stream_is_looked_at_when_it_is_due(autojump_clock: trio.testing.MockClock) -> None:
    """Each stream is swept at the first pass at or after its moment, and not before."""
    streams = [Stream(0), Stream(1), Stream(2.5), Stream(100)]
    sweeper = await sweep_for(4.5, streams)
    assert [stream.seen for stream in streams] == [[1], [1], [3], []]
    assert sweeper.stats() == SweeperStats(passes=4, swept=3)


async def test_a_stream_says_when_it_is_due_again(autojump_clock: trio.testing.MockClock) -> None:
    """After a look the stream itself decides when the next one is."""
    stream = Stream(0, again=2)
    await sweep_for(6.5, [stream])
    assert stream.seen == [1, 3, 5]


async def test_streams_come_and_go(autojump_clock: trio.testing.MockClock) -> None:
    """Each pass looks at the streams of its moment."""
    streams = [Stream(0, again=1)]
    late, first = Stream(0), streams[0]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweep_for, 4.5, streams)
        await trio.sleep(2.5)
        streams[:] = [late]
    assert (first.seen, late.seen) == ([1, 2], [3])


async def test_many_streams_are_swept_in_steps(autojump_clock: trio.testing.MockClock) -> None:
    """Between the steps of a large pass others run."""
    streams = [Stream(0) for _ in range(3 * STEP_STREAMS)]
    seen_by_others: set[int] = set()

    async def other() -> None:
        await trio.sleep(1)
        for _ in range(10):
            seen_by_others.add(sum(bool(stream.seen) for stream in streams))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        nursery.start_soon(sweep_for, 1.5, streams)
    assert any(0 < seen < len(streams) for seen in seen_by_others)
    assert all(stream.seen == [1] for stream in streams)
