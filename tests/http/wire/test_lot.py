"""The parking lot: who is heard, who has gone, and that nobody's words reach another."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import attrs
import pytest
import structlog
import trio
import trio.testing

from heliograph.http.wire.descriptor import CLOSED, close
from heliograph.http.wire.lot import BITE_SOCKETS, READ_BYTES, EpollLot, Lot, TaskLot, open_lot

FORMS = [pytest.param(EpollLot, id="epoll"), pytest.param(TaskLot, id="tasks")]


@attrs.define(eq=False)
class Stream:
    """Whoever is parked: it writes down what it hears.

    Args:
        lot: Where it is.
        descriptor: Its own.
        peer: The other end.
        said: What it has heard, piece by piece.
        act: Done with each piece; tells whether it is to be heard further.
    """

    lot: Lot
    descriptor: int
    peer: socket.socket
    said: list[bytes] = attrs.field(factory=list)
    ends: int = 0
    act: Callable[[bytes], bool] = lambda data: True

    def on_data(self, data: bytes) -> bool:
        """Write it down."""
        self.said.append(data)
        return self.act(data)

    def gone(self) -> None:
        """Close, once."""
        if self.descriptor != CLOSED:
            self.ends += 1
            descriptor, self.descriptor = self.descriptor, CLOSED
            self.lot.leave(descriptor)
            close(descriptor)

    async def until_said(self, words: bytes) -> None:
        """Wait until it has heard just this."""
        await self.until(lambda: bool(self.said))
        assert self.said == [words]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds of it."""
        with trio.fail_after(10):
            while not holds():  # noqa: ASYNC110 - the kernel is part of it
                await trio.sleep(0.001)


@attrs.define
class Place:
    """A lot that runs, and who is in it."""

    lot: Lot
    nursery: trio.Nursery
    stack: ExitStack = attrs.field(factory=ExitStack)

    def stream(self) -> Stream:
        """Make a stream that isn't parked yet."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.stack.enter_context(theirs)
        made = Stream(self.lot, ours.detach(), theirs)
        self.stack.callback(made.gone)
        return made

    async def park(self, stream: Stream | None = None) -> Stream:
        """Park a stream."""
        made = stream or self.stream()
        self.nursery.start_soon(self.lot.keep, made.descriptor, made)
        await trio.testing.wait_all_tasks_blocked()
        return made


@pytest.fixture(params=FORMS)
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """Run a lot of each form."""
    async with trio.open_nursery() as nursery:
        made = Place(request.param(), nursery)
        nursery.start_soon(made.lot.run)
        with made.stack:
            yield made
        nursery.cancel_scope.cancel()


@pytest.fixture
def captured() -> Iterator[list[structlog.typing.EventDict]]:
    """Return what is logged."""
    with structlog.testing.capture_logs() as logs:
        yield logs


async def test_each_hears_its_own_peer(place: Place) -> None:
    """What a peer says reaches its stream and no other, in order."""
    streams = [await place.park() for _ in range(3 * BITE_SOCKETS)]
    for number, stream in enumerate(streams):
        stream.peer.send(b"%d" % number)
    for number, stream in enumerate(streams):
        await stream.until_said(b"%d" % number)
    streams[0].peer.send(b" again")
    await streams[0].until(lambda: b"".join(streams[0].said) == b"0 again")


@pytest.mark.parametrize("reset", [False, True])
async def test_a_peer_that_goes_is_told_once(place: Place, reset: bool) -> None:
    """A stream whose peer closes or resets is gone, after it has heard the peer's last words."""
    listener = trio.socket.socket()
    await listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    with listener, socket.create_connection(listener.getsockname()) as peer:
        ours, _ = await listener.accept()
        stream = await place.park(Stream(place.lot, ours.detach(), peer))
        if reset:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            peer.send(b"last words")
    await stream.until(lambda: stream.ends == 1)
    assert b"".join(stream.said) == (b"" if reset else b"last words")


async def test_a_stream_may_end_by_what_it_hears(place: Place) -> None:
    """A stream that wants to hear no more is gone, and the others go on."""
    one, other = await place.park(), await place.park()
    one.act = lambda data: False
    one.peer.send(b"enough")
    await one.until(lambda: one.ends == 1)
    other.peer.send(b"more")
    await other.until(lambda: other.said == [b"more"])


async def test_a_mistake_ends_its_stream_only(
    place: Place, captured: list[structlog.typing.EventDict]
) -> None:
    """What is wrong with one stream is logged, and the others go on."""
    one, other = await place.park(), await place.park()
    one.act = lambda data: bool(1 // 0)
    one.peer.send(b"x")
    await one.until(lambda: one.ends == 1)
    other.peer.send(b"y")
    await other.until(lambda: other.said == [b"y"])
    assert [entry["log_level"] for entry in captured] == ["error"]


async def test_a_number_that_is_used_again_hears_nothing_of_its_predecessor(place: Place) -> None:
    """When one stream's words close others that have spoken too, what these said reaches nobody.

    Not their successors either, who have got their numbers and are parked before the lot has its next turn.
    """
    streams = [await place.park() for _ in range(4)]
    successors: list[Stream] = []

    def close_others(data: bytes) -> bool:
        if not successors:
            for stream in streams:
                if stream is not spoke_first():
                    stream.gone()
                    successors.append(place.stream())
            for successor in successors:
                place.nursery.start_soon(place.lot.keep, successor.descriptor, successor)
        return True

    def spoke_first() -> Stream:
        return next(stream for stream in streams if stream.said)

    numbers = {stream.descriptor for stream in streams}
    for stream in streams:
        stream.act = close_others
        stream.peer.send(b"for me")
    await streams[0].until(lambda: len(successors) == 3)
    assert numbers & {successor.descriptor for successor in successors}
    await trio.testing.wait_all_tasks_blocked()
    assert [len(stream.said) for stream in streams].count(1) == 1
    assert [successor.said for successor in successors] == [[], [], []]
    for successor in successors:
        successor.peer.send(b"hello")
        await successor.until_said(b"hello")


async def test_who_talks_without_end_holds_nobody_up(place: Place) -> None:
    """Of each socket one bounded piece is read before the others, and other tasks, have their turn."""
    loud = [await place.park() for _ in range(2 * BITE_SOCKETS)]
    quiet = await place.park()
    turns: list[int] = []
    for stream in loud:
        stream.peer.setblocking(False)
        while True:
            try:
                stream.peer.send(b"x" * 65536)
            except BlockingIOError:
                break
    quiet.peer.send(b"?")
    before = [sum(map(len, stream.said)) for stream in loud]

    async def count_turns() -> None:
        while not quiet.said:
            turns.append(1)
            await trio.lowlevel.checkpoint()

    await count_turns()
    assert turns
    heard = [sum(map(len, stream.said)) - past for stream, past in zip(loud, before, strict=True)]
    assert max(heard) <= 4 * READ_BYTES
    assert all(len(piece) <= READ_BYTES for stream in loud for piece in stream.said)


async def test_who_is_on_hold_hears_the_rest_later(place: Place) -> None:
    """While a stream is on hold what its peer says, and that it ends, waits; others are heard."""
    one, other = await place.park(), await place.park()

    def hold(data: bytes) -> bool:
        place.lot.hold(one.descriptor)
        return True

    one.act = hold
    one.peer.send(b"do this")
    await one.until_said(b"do this")
    one.peer.send(b"and that")
    one.peer.shutdown(socket.SHUT_WR)
    other.peer.send(b"hello")
    await other.until_said(b"hello")
    assert one.said == [b"do this"]
    one.act = lambda data: True
    place.lot.resume(one.descriptor)
    await one.until(lambda: one.ends == 1)
    assert one.said == [b"do this", b"and that"]
    place.lot.resume(one.descriptor)


async def test_who_is_on_hold_may_be_cut(place: Place) -> None:
    """A stream that is on hold can be closed, and its number be used again."""
    one = await place.park()
    descriptor = one.descriptor
    place.lot.hold(descriptor)
    one.gone()
    place.lot.resume(descriptor)
    other = await place.park()
    other.peer.send(b"hello")
    await other.until_said(b"hello")
    assert one.said == []


async def test_words_that_came_early_are_heard_first(place: Place) -> None:
    """What was read before a stream was parked reaches it before the rest, and may put it on hold."""
    stream = place.stream()

    def hold(data: bytes) -> bool:
        place.lot.hold(stream.descriptor)
        return True

    stream.act = hold
    stream.peer.send(b"the rest")
    place.nursery.start_soon(place.lot.keep, stream.descriptor, stream, b"early")
    await trio.testing.wait_all_tasks_blocked()
    assert stream.said == [b"early"]
    stream.act = lambda data: True
    place.lot.resume(stream.descriptor)
    await stream.until(lambda: stream.said == [b"early", b"the rest"])


async def test_cutting_wakes_and_leaving_twice_is_harmless(place: Place) -> None:
    """A stream that is closed by somebody else is heard no more, and may be told to leave again."""
    stream = await place.park()
    descriptor = stream.descriptor
    stream.gone()
    place.lot.leave(descriptor)
    await trio.testing.wait_all_tasks_blocked()
    assert stream.ends == 1
    with trio.fail_after(5):
        await place.lot.left()


async def test_everybody_leaves() -> None:
    """Those without a task are waited for until the last of them has gone."""
    async with trio.open_nursery() as nursery:
        place = Place(EpollLot(), nursery)
        nursery.start_soon(place.lot.run)
        with place.stack:
            streams = [await place.park() for _ in range(2)]
            left = trio.Event()

            async def wait() -> None:
                await place.lot.left()
                left.set()

            nursery.start_soon(wait)
            streams[0].peer.close()
            await streams[0].until(lambda: streams[0].ends == 1)
            await trio.testing.wait_all_tasks_blocked()
            assert not left.is_set()
            streams[1].peer.close()
            with trio.fail_after(5):
                await left.wait()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("form", FORMS)
async def test_cancelling_ends_all(form: Callable[[], Lot]) -> None:
    """Who is parked when everything is cancelled is gone then; who comes later is gone at once."""
    async with trio.open_nursery() as nursery:
        place = Place(form(), nursery)
        nursery.start_soon(place.lot.run)
        streams = [await place.park() for _ in range(2)]
        late = place.stream()
        nursery.cancel_scope.cancel()
    assert [stream.ends for stream in streams] == [1, 1]
    with trio.CancelScope() as scope:
        scope.cancel()
        await place.lot.keep(late.descriptor, late)
    assert late.ends == 1
    place.stack.close()


def test_the_system_decides_on_the_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no epoll, each stream has its task."""
    assert isinstance(open_lot(), EpollLot)
    monkeypatch.delattr(select, "epoll")
    assert isinstance(open_lot(), TaskLot)
