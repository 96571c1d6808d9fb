import socket
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from tests.actors.conftest import encode, ending, event, run_in_virtual_time

from heliograph.actors import broadcaster as broadcaster_module
from heliograph.actors import lane as lane_module
from heliograph.actors.broadcaster import Broadcaster
from heliograph.actors.ring import Ring
from heliograph.actors.subscription import Batch, Encoder, Message, Subscription
from heliograph.model.channels import Selection
from heliograph.model.event import Event
from heliograph.model.ids import EventId, make_id

SELECTION = Selection.of(["task:1"])
Opener = Callable[..., "Socketed"]


@attrs.define(eq=False)
class Socketed:
    """A watcher with a socket, which keeps what the socket does not take, as a stream does.

    Attributes:
        end: Where it writes.
        peer: The client's end.
        calls: How many batches came by a call.
        kept: Bytes that wait.
    """

    end: socket.socket
    peer: socket.socket
    subscription: Subscription
    encode: Encoder = encode
    calls: int = 0
    kept: bytes = b""
    ended: int = 0

    @property
    def descriptor(self) -> int | None:
        """Offer the socket while nothing waits."""
        return None if self.kept else self.end.fileno()

    def deliver(self, subscription: Subscription, batch: Batch) -> None:
        """Keep everything for ``drain`` to write."""
        self.calls += 1
        self.kept += batch.joined(self.encode)
        self.drain()

    def keep_rest(self, subscription: Subscription, batch: Batch, sent: int) -> None:
        """Keep the rest."""
        assert not self.kept
        self.kept = batch.joined(self.encode)[sent:]

    def drain(self) -> None:
        """Write what waits, as far as the socket takes it."""
        try:
            while self.kept:
                self.kept = self.kept[self.end.send(self.kept) :]
        except OSError:
            pass

    def fill(self) -> int:
        """Fill the socket; return with how many bytes."""
        filled = 0
        try:
            while True:
                filled += self.end.send(b"x" * 65536)
        except BlockingIOError:
            return filled

    def read(self) -> bytes:
        """Read what there is for the client."""
        data = b""
        try:
            while piece := self.peer.recv(1 << 20):
                data += piece
        except BlockingIOError:
            pass
        return data

    def task_ended(self, subscription: Subscription) -> None:
        """Hear of the end."""
        self.ended += 1

    def gap(self, subscription: Subscription, through: EventId) -> None:
        """Be a watcher."""

    def reset(self, subscription: Subscription, reason: str) -> None:
        """Be a watcher."""


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """Return a list of sockets that are closed at the end."""
    made: list[socket.socket] = []
    yield made
    for one in made:
        one.close()


def open_watcher(caster: Broadcaster, sockets: list[socket.socket], **options: Any) -> Socketed:
    """Join a watcher with a socket, from the beginning."""
    ours, peer = socket.socketpair()
    sockets += [ours, peer]
    for one in (ours, peer):
        one.setblocking(False)
    options.setdefault("position", make_id(1000))
    watcher = Socketed(ours, peer, None)  # type: ignore[arg-type]  # each refers to the other
    watcher.subscription = Subscription(watcher, SELECTION, **options)
    assert caster.join(watcher.subscription)
    return watcher


@pytest.fixture
def caster() -> Broadcaster:
    """Make a broadcaster of the task 1."""
    return Broadcaster(SELECTION, Ring(make_id(1000), 100, 10**6))


def flush(caster: Broadcaster, *events: Event) -> None:
    """Offer events and flush them."""
    for one in events:
        caster.offer(Message(one))
    caster.flush(0)


def test_who_is_in_step_is_written_to_without_a_call(
    caster: Broadcaster, sockets: list[socket.socket]
) -> None:
    """After its first batch a watcher gets all others through its descriptor, and its position moves."""
    watchers = [open_watcher(caster, sockets) for _ in range(3)]
    flush(caster, event(1))
    flush(caster, event(2), event(3))
    flush(caster, event(4))
    assert [watcher.read() for watcher in watchers] == [b"1 2 3 4 "] * 3
    assert [watcher.calls for watcher in watchers] == [1, 1, 1]
    assert {watcher.subscription.position for watcher in watchers} == {make_id(1004)}


def test_a_full_socket_among_others(caster: Broadcaster, sockets: list[socket.socket]) -> None:
    """Of a batch that a socket takes in part the rest is kept; those after it get theirs once."""
    watchers = [open_watcher(caster, sockets) for _ in range(5)]
    flush(caster, event(1))
    full, others = watchers[2], [*watchers[:2], *watchers[3:]]
    assert [watcher.read() for watcher in others] == [b"1 "] * 4
    filled = full.fill()
    flush(caster, event(2), event(3))
    assert [watcher.read() for watcher in others] == [b"2 3 "] * 4
    assert full.kept == b"2 3 "
    assert full.subscription.lane is None
    assert full.read() == b"1 " + b"x" * filled
    full.drain()
    for number in (4, 5):
        flush(caster, event(number))
    assert full.read() == b"2 3 4 5 "
    assert full.calls == 2  # the first batch, and the one behind which it fell into step again


def test_a_batch_that_fits_in_part(caster: Broadcaster, sockets: list[socket.socket]) -> None:
    """What a socket has taken of a batch is not sent again, and what it has not taken is not lost."""
    watcher, other = open_watcher(caster, sockets), open_watcher(caster, sockets)
    flush(caster, event(1))
    numbers = range(2, 100_000)
    expected = b"".join(b"%d " % number for number in range(1, 100_000))
    flush(caster, *map(event, numbers))
    assert watcher.kept
    assert other.kept
    for one in (watcher, other):
        received = b""
        while one.kept:
            received += one.read()
            one.drain()
        assert received + one.read() == expected
    assert watcher.subscription.position == make_id(1000 + numbers[-1])


def test_a_broken_socket_among_others(caster: Broadcaster, sockets: list[socket.socket]) -> None:
    """A peer that is gone costs nobody else a byte."""
    watchers = [open_watcher(caster, sockets) for _ in range(3)]
    flush(caster, event(1))
    watchers[1].peer.close()
    flush(caster, event(2))
    flush(caster, event(3))
    assert watchers[0].read() == watchers[2].read() == b"1 2 3 "
    assert watchers[1].subscription.lane is None


def test_who_leaves_is_written_to_no_more(caster: Broadcaster, sockets: list[socket.socket]) -> None:
    """The descriptor of who has left a lane is forgotten, before somebody else can have its number."""
    watcher, other = open_watcher(caster, sockets), open_watcher(caster, sockets)
    flush(caster, event(1))
    caster.leave(watcher.subscription)
    flush(caster, event(2))
    assert (watcher.read(), other.read()) == (b"1 ", b"1 2 ")
    assert watcher.subscription.position == make_id(1001)
    assert caster.subscriptions == [other.subscription]


def test_a_stream_that_ends_with_its_task_stays_apart(
    caster: Broadcaster, sockets: list[socket.socket]
) -> None:
    """Each batch is looked at for the end of the task, which nothing may follow."""
    watcher = open_watcher(caster, sockets, ends_with_task=True)
    flush(caster, event(1))
    flush(caster, event(2), ending(3), event(4))
    assert watcher.read() == b"1 2 3 "
    assert (watcher.calls, watcher.ended) == (2, 1)


def test_encodings_have_lanes_of_their_own(caster: Broadcaster, sockets: list[socket.socket]) -> None:
    """Watchers of two encodings each get their own bytes."""
    plain, other = open_watcher(caster, sockets), open_watcher(caster, sockets)
    other.encode = lambda event: b"<%d>" % event.seq
    flush(caster, event(1))
    flush(caster, event(2))
    assert (plain.read(), other.read()) == (b"1 2 ", b"<1><2>")


def test_a_position_set_from_outside(caster: Broadcaster, sockets: list[socket.socket]) -> None:
    """Who is moved on is looked at again: what lies before its new position is not delivered."""
    watcher = open_watcher(caster, sockets)
    flush(caster, event(1))
    watcher.subscription.position = make_id(1003)
    for number in (2, 3, 4):
        flush(caster, event(number))
    assert watcher.read() == b"1 4 "


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["offer", "join", "leave", "aside", "full", "empty", "checkpoint", "wait"]),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=40,
)


@given(STEPS, st.integers(1, 5))
def test_coming_going_and_stalling_amid_a_flush(steps: list[tuple[str, int]], watchers: int) -> None:
    """Whatever happens between the lanes of a flush, each watcher has all of its time once, in order."""
    sockets: list[socket.socket] = []

    async def main() -> None:
        caster = Broadcaster(SELECTION, Ring(make_id(1000), 100, 10**6))
        here: list[tuple[Socketed, int]] = []
        got: dict[Socketed, bytes] = {}
        newest = 0

        def join() -> None:
            here.append((open_watcher(caster, sockets, position=EventId(make_id(1000 + newest))), newest))

        def read(watcher: Socketed) -> None:
            while True:
                data = watcher.read().replace(b"x", b"")
                got[watcher] = got.get(watcher, b"") + data
                if not watcher.kept:
                    return
                watcher.drain()

        for _ in range(watchers):
            join()
        async with trio.open_nursery() as nursery:
            for step, number in steps:
                watcher = here[number % len(here)][0]
                match step:
                    case "offer":
                        newest += 1
                        caster.offer(Message(event(newest)))
                        if not caster.flushing:
                            caster.flushing = True
                            nursery.start_soon(caster.flush_in_steps, 0.02)
                    case "join":
                        join()
                    case "leave" if len(here) > 1:
                        caster.leave(watcher.subscription)
                        start = next(since for one, since in here if one is watcher)
                        here[:] = [one for one in here if one[0] is not watcher]
                        read(watcher)
                        through = (watcher.subscription.position >> 20) - 1000
                        assert got.pop(watcher) == numbers(start, through)
                    case "aside":
                        watcher.subscription.leave_lane()
                    case "full" if not watcher.kept:
                        watcher.fill()
                    case "empty":
                        read(watcher)
                    case "checkpoint":
                        await trio.lowlevel.checkpoint()
                    case "wait":
                        await trio.sleep(0.015)
        for watcher, start in here:
            read(watcher)
            assert got[watcher] == numbers(start, newest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broadcaster_module, "STEP_WATCHERS", 1)
        patch.setattr(lane_module, "LANE_WATCHERS", 2)
        run_in_virtual_time(main)
    for one in sockets:
        one.close()


def numbers(after: int, through: int) -> bytes:
    """Encode the events after one number and up to another."""
    return b"".join(b"%d " % number for number in range(after + 1, through + 1))
