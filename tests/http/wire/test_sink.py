import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.actors.subscription import Batch, Encoder, Message, Overflow, Subscription
from heliograph.http.wire import sink as sink_module
from heliograph.http.wire.sink import LOW_WATER, UNREAD_BUDGETS, Loss, Sink
from heliograph.model.channels import Selection
from heliograph.model.event import Event
from heliograph.model.ids import EventId

WHEN = datetime(2026, 1, 31, 12, tzinfo=UTC)
FAREWELL = b"F\n"
FILLING = "C 0000000"
SEND_BUFFER = 4096


def encode(event: Event) -> bytes:
    """Encode an event as a line of its channel, its id and some padding."""
    return b"E %b %d %b\n" % (event.channel.encode(), event.id, b"x" * int(event.payload["size"]))


@attrs.define(eq=False)
class Owner:
    """The owner of a sink, as a stream is one: it says farewell to who is too slow."""

    nursery: trio.Nursery
    encode: Encoder = encode
    sink: Sink | None = None
    slow: int = 0
    lost: int = 0
    counted: int = 0
    resume: list[EventId | None] = attrs.field(factory=list)

    def start_task(self, flush: Callable[[], Awaitable[None]]) -> None:
        """Start the flusher."""
        self.nursery.start_soon(flush)

    def count_loss(self, loss: Loss) -> None:
        """Count a loss."""
        self.counted += loss.count

    def describe_loss(self, loss: Loss) -> bytes:
        """Write a loss as a line."""
        selectors = ",".join(loss.subscription.selection.selectors)
        return b"G %b %d %d %d\n" % (selectors.encode(), loss.first, loss.last, loss.count)

    def too_slow(self, untaken: EventId | None) -> None:
        """Forget what waits and say farewell."""
        assert self.sink is not None
        self.slow += 1
        self.resume = [self.sink.discard_unsent(), untaken]
        self.sink.finish(FAREWELL)

    def peer_lost(self) -> None:
        """Hear that the peer is gone."""
        self.lost += 1

    def deliver(self, subscription: Subscription, batch: Batch) -> None:
        """Write a batch, as a stream does for a live subscription."""
        assert self.sink is not None
        self.sink.write(batch.joined(encode), subscription, batch)

    @property
    def descriptor(self) -> int | None:
        """Offer the sink's, as a stream does."""
        assert self.sink is not None
        return self.sink.descriptor

    def keep_rest(self, subscription: Subscription, batch: Batch, sent: int) -> None:
        """Keep the rest, as a stream does."""
        assert self.sink is not None
        self.sink.keep(batch.joined(encode), sent, subscription, batch)

    def task_ended(self, subscription: Subscription) -> None:
        """Be a watcher."""

    def gap(self, subscription: Subscription, through: EventId) -> None:
        """Be a watcher."""

    def reset(self, subscription: Subscription, reason: str) -> None:
        """Be a watcher."""


@attrs.define(eq=False)
class Pair:
    """A sink, its owner, and the peer's end of the connection."""

    sink: Sink
    owner: Owner
    peer: socket.socket
    received: bytes = b""

    def read(self, most: int = 1 << 30) -> None:
        """Read as the peer, at most so many bytes of what is there."""
        try:
            while most > 0 and (data := self.peer.recv(min(most, 65536))):
                self.received += data
                most -= len(data)
        except BlockingIOError:
            pass

    async def read_all(self) -> None:
        """Read until nothing is pending any more."""
        with trio.fail_after(10):
            while self.sink.pending_bytes:
                await trio.testing.wait_all_tasks_blocked()
                self.read()
        await trio.testing.wait_all_tasks_blocked()
        self.read()

    def subscribe(self, *selectors: str, overflow: Overflow = Overflow.DISCONNECT) -> Subscription:
        """Make a subscription of the owner."""
        return Subscription(self.owner, Selection.of(selectors), overflow)

    def fill(self) -> None:
        """Write until the socket takes no more and something is pending."""
        while not self.sink.pending_bytes:
            self.sink.write(f"{FILLING}\n".encode() * 20)

    def lines(self) -> list[str]:
        """Return what the peer has received, line by line."""
        assert self.received.endswith(b"\n") or not self.received
        return self.received.decode().splitlines()


@asynccontextmanager
async def make_pair(budget: int = 10_000, stall: float = 1000) -> AsyncIterator[Pair]:
    """Connect a sink to a peer over small real sockets."""
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    peer.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    async with trio.open_nursery() as nursery:
        owner = Owner(nursery)
        trio_socket = trio.socket.from_stdlib_socket(ours)
        owner.sink = Sink(trio_socket.fileno(), budget, stall, owner)
        yield Pair(owner.sink, owner, peer)
        owner.sink.close()
        trio_socket.close()
        peer.close()
        nursery.cancel_scope.cancel()


def batch(*numbers: int, channel: str = "task:1", size: int = 10) -> Batch:
    """Make a batch of events of these ids."""
    return Batch(
        [Message(Event(EventId(number), channel, number, "a", WHEN, {"size": size})) for number in numbers]
    )


def events_of(lines: Sequence[str]) -> list[int]:
    """Return the ids of the events among lines."""
    return [int(line.split()[2]) for line in lines if line.startswith("E ")]


def gaps_of(lines: Sequence[str]) -> list[tuple[int, int, int]]:
    """Return first, last and count of the gaps among lines."""
    return [
        (int(first), int(last), int(count))
        for _, _, first, last, count in (line.split() for line in lines if line.startswith("G "))
    ]


# One by one


async def test_what_fits_is_sent_at_once() -> None:
    """A write that the socket takes is with the peer when the call returns, and nothing is kept."""
    async with make_pair() as pair:
        pair.sink.write(b"C 1\n")
        pair.owner.deliver(pair.subscribe("task:1"), batch(1, 2))
        pair.read()
        assert pair.lines() == ["C 1", "E task:1 1 xxxxxxxxxx", "E task:1 2 xxxxxxxxxx"]
        assert pair.sink.pending_bytes == 0


@pytest.mark.parametrize("overflow", list(Overflow))
async def test_a_large_batch_leaves_room_for_what_is_said(overflow: Overflow) -> None:
    """A batch of many budgets at once makes its client no slow one when a ping comes: it may be reading."""
    budget = 20_000
    async with make_pair(budget=budget) as pair:
        pair.owner.deliver(pair.subscribe("task:1", overflow=overflow), batch(1, size=40 * budget))
        assert pair.sink.pending_bytes > (UNREAD_BUDGETS + 1) * budget
        pair.sink.write(b"C 1\n")
        assert pair.owner.slow == 0
        await pair.read_all()
        assert events_of(pair.lines()) == [1]
        assert pair.lines()[-1] == "C 1"


async def test_what_does_not_fit_follows_in_order() -> None:
    """A piece much larger than the socket takes, and all that is written behind it, arrives in order."""
    async with make_pair(budget=1_000_000) as pair:
        subscription = pair.subscribe("task:1")
        pair.owner.deliver(subscription, batch(1, size=300_000))
        assert pair.sink.pending_bytes > 250_000
        for number in range(2, 200):
            pair.owner.deliver(subscription, batch(number))
        pair.sink.write(b"C 1\n")
        await pair.read_all()
        assert events_of(pair.lines()) == list(range(1, 200))
        assert pair.lines()[-1] == "C 1"
        assert pair.owner.slow == 0


async def test_a_slow_client_of_disconnect_is_told_to_come_again() -> None:
    """Over the budget the stream is told; what was begun is finished, then comes the farewell and the end."""
    async with make_pair(budget=5000) as pair:
        subscription = pair.subscribe("task:1")
        pair.owner.deliver(subscription, batch(1, size=20_000))
        for number in range(2, 300):
            pair.owner.deliver(subscription, batch(number, size=50))
        assert pair.owner.slow == 1
        await pair.read_all()
        assert events_of(pair.lines()) == [1]
        assert pair.lines()[-1] == "F"
        assert pair.peer.recv(10) == b""


async def test_one_piece_is_taken_however_large() -> None:
    """A message larger than the whole budget reaches a client that keeps up."""
    async with make_pair(budget=1000) as pair:
        pair.owner.deliver(pair.subscribe("task:1"), batch(1, size=100_000))
        await pair.read_all()
        assert events_of(pair.lines()) == [1]
        assert pair.owner.slow == 0


async def test_drop_oldest_drops_the_oldest_and_says_so() -> None:
    """The oldest unsent events make room, and one notice in their place tells which and how many."""
    async with make_pair(budget=5000) as pair:
        subscription = pair.subscribe("task:1", overflow=Overflow.DROP_OLDEST)
        pair.fill()
        for number in range(1, 301):
            pair.owner.deliver(subscription, batch(number, size=90))
            assert pair.sink.pending_bytes <= 5000
            assert pair.sink.pending_bytes > 3500 or not pair.owner.counted, "more was dropped than needed"
        await pair.read_all()
        (gap,) = gaps_of(pair.lines())
        events = events_of(pair.lines())
        assert events == list(range(events[0], 301))
        assert gap == (1, events[0] - 1, events[0] - 1)
        assert next(line for line in pair.lines() if line != FILLING).startswith("G ")
        assert pair.owner.counted == gap[2]
        assert pair.owner.slow == 0
        assert 20 < len(events) < 60


async def test_latest_keeps_the_newest_of_each_channel() -> None:
    """Only the newest unsent event of each channel survives, in order, behind a notice of the others."""
    async with make_pair(budget=2000) as pair:
        subscription = pair.subscribe("task:*", overflow=Overflow.LATEST)
        pair.fill()
        for number in range(1, 101):
            pair.owner.deliver(subscription, batch(number, channel=f"task:{number % 3}", size=100))
        await pair.read_all()
        events, gaps = events_of(pair.lines()), gaps_of(pair.lines())
        assert events[-3:] == [98, 99, 100]
        assert sum(count for _, _, count in gaps) == 100 - len(events)
        assert pair.owner.counted == 100 - len(events)


async def test_latest_holds_the_budget() -> None:
    """However many channels there are, no more waits than the budget: the oldest go, and are told."""
    async with make_pair(budget=5000) as pair:
        subscription = pair.subscribe("task:*", overflow=Overflow.LATEST)
        pair.fill()
        passes = 0
        for number in range(1, 1001):
            before = pair.owner.counted
            pair.owner.deliver(subscription, batch(number, channel=f"task:{number}", size=100))
            assert pair.sink.pending_bytes <= 5000
            passes += pair.owner.counted > before
        assert passes < 200, "each message cost a pass over what waits"
        await pair.read_all()
        (gap,) = gaps_of(pair.lines())
        events = events_of(pair.lines())
        assert events == list(range(events[0], 1001))
        assert len(events) > 20
        assert gap == (1, events[0] - 1, events[0] - 1)
        assert pair.owner.counted == gap[2]


async def test_latest_replaces_what_it_has_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was kept goes out in small pieces, so that only the one being sent can't be replaced any more."""
    monkeypatch.setattr(sink_module, "PIECE_BYTES", 500)
    async with make_pair(budget=10_000) as pair:
        subscription = pair.subscribe("task:*", overflow=Overflow.LATEST)
        pair.fill()
        for number in range(1, 401):
            pair.owner.deliver(subscription, batch(number, channel=f"task:{number % 50}", size=100))
        pair.read(SEND_BUFFER // 2)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(401, 801):
            pair.owner.deliver(subscription, batch(number, channel=f"task:{number % 50}", size=100))
        await pair.read_all()
        events, gaps = events_of(pair.lines()), gaps_of(pair.lines())
        assert events == sorted(set(events))
        assert events[-50:] == list(range(751, 801))
        assert sum(count for _, _, count in gaps) == 800 - len(events) == pair.owner.counted


async def test_a_policy_touches_its_own_subscription_only() -> None:
    """What another subscription and the control have waiting stays when one is over the budget."""
    async with make_pair(budget=4000) as pair:
        patient = pair.subscribe("task:1")
        hasty = pair.subscribe("webhooks", overflow=Overflow.DROP_OLDEST)
        pair.fill()
        for number in range(1, 101):
            if number % 10 == 0:
                pair.owner.deliver(patient, batch(number, size=20))
            pair.owner.deliver(hasty, batch(1000 + number, channel="webhooks", size=100))
            pair.sink.write(b"C %d\n" % number)
        await pair.read_all()
        lines = pair.lines()
        assert [number for number in events_of(lines) if number < 1000] == list(range(10, 101, 10))
        assert [line for line in lines if line.startswith("C") and len(line) < 6] == [
            f"C {number}" for number in range(1, 101)
        ]
        assert pair.owner.slow == 0


async def test_answers_that_are_never_read_end_the_stream() -> None:
    """A peer that asks on and on and reads nothing is told to come again, within a bound of memory."""
    budget = 2000
    async with make_pair(budget=budget) as pair:
        pair.fill()
        while not pair.owner.slow:
            assert pair.sink.pending_bytes <= (UNREAD_BUDGETS + 1) * budget
            pair.sink.write(b"C 1\n" * 50)
        await pair.read_all()
        assert pair.lines()[-1] == "F"


async def test_the_farewell_is_never_lost() -> None:
    """However much of a large message is still unsent, the last words follow it."""
    async with make_pair(budget=100) as pair:
        subscription = pair.subscribe("task:1")
        pair.owner.deliver(subscription, batch(1, size=100_000))
        pair.owner.deliver(subscription, batch(2))
        assert pair.owner.slow == 1
        await pair.read_all()
        assert (events_of(pair.lines()), pair.lines()[-1]) == ([1], "F")


async def test_finishing_sends_what_waits_and_then_ends() -> None:
    """After the last words nothing more is taken; the peer reads everything up to them, then the end."""
    async with make_pair(budget=100_000) as pair:
        pair.fill()
        pair.owner.deliver(pair.subscribe("task:1"), batch(1, size=20_000))
        pair.sink.finish(b"C last\n")
        pair.sink.finish(b"C twice\n")
        pair.sink.write(b"C late\n")
        await pair.read_all()
        assert events_of(pair.lines()) == [1]
        assert pair.lines()[-1] == "C last"
        assert pair.peer.recv(10) == b""


async def test_finishing_an_idle_sink_ends_at_once() -> None:
    """With nothing waiting the last words and the end are with the peer when the call returns."""
    async with make_pair() as pair:
        pair.sink.finish(b"C last\n")
        assert pair.peer.recv(100) == b"C last\n"
        assert pair.peer.recv(100) == b""


async def test_after_closing_nothing_is_written() -> None:
    """A closed sink writes nothing, holds nothing, and keeps nobody waiting for room."""
    async with make_pair() as pair:
        pair.fill()
        pair.sink.close()
        pair.read()
        pair.received = b""
        pair.sink.write(b"C 1\n")
        pair.sink.finish(b"C 2\n")
        pair.owner.deliver(pair.subscribe("task:1"), batch(1))
        await trio.testing.wait_all_tasks_blocked()
        pair.read()
        assert pair.received == b""
        assert pair.sink.pending_bytes == 0
        assert pair.sink.closed
        assert not await pair.sink.room()


@pytest.mark.parametrize("pending", [False, True])
async def test_a_peer_that_is_gone_is_told_once(pending: bool) -> None:
    """Writing to a connection that the peer has reset raises nothing, and the owner hears so once."""
    async with make_pair() as pair:
        if pending:
            pair.fill()
        pair.peer.close()
        for _ in range(3):
            pair.sink.write(b"C 1\n")
            await trio.testing.wait_all_tasks_blocked()
        pair.sink.finish(FAREWELL)
        assert pair.owner.lost == 1
        assert pair.sink.closed


async def test_a_peer_that_takes_nothing_is_slow(autojump_clock: trio.testing.MockClock) -> None:
    """When nothing at all can be sent for the time of a stall, the stream is told; not before."""
    async with make_pair(stall=30) as pair:
        pair.fill()
        await trio.sleep(29)
        assert pair.owner.slow == 0
        await trio.sleep(2)
        assert pair.owner.slow == 1


async def test_a_peer_that_takes_a_little_is_not_stalled(autojump_clock: trio.testing.MockClock) -> None:
    """As long as some bytes are taken in time, however few, the peer is not stalled."""
    async with make_pair(budget=1_000_000, stall=30) as pair:
        pair.owner.deliver(pair.subscribe("task:1"), batch(1, size=100_000))
        for _ in range(10):
            await trio.sleep(20)
            pair.read(8192)
        assert pair.owner.slow == 0
        assert pair.sink.pending_bytes > 0


async def test_room_is_given_below_the_low_water() -> None:
    """Whoever produces waits until little is pending, and goes on as the peer reads."""
    async with make_pair(budget=10 * LOW_WATER) as pair:
        with trio.fail_after(5):
            assert await pair.sink.room()
        pair.owner.deliver(pair.subscribe("task:1"), batch(1, size=3 * LOW_WATER))
        async with trio.open_nursery() as nursery:
            given_room = trio.Event()

            async def wait_for_room() -> None:
                assert await pair.sink.room()
                assert pair.sink.pending_bytes <= LOW_WATER
                given_room.set()

            nursery.start_soon(wait_for_room)
            await trio.testing.wait_all_tasks_blocked()
            assert not given_room.is_set()
            await pair.read_all()
            with trio.fail_after(5):
                await given_room.wait()


@pytest.mark.parametrize("way", ["finish", "close", "peer"])
async def test_nobody_waits_for_room_at_the_end(way: str) -> None:
    """When the sink finishes or closes, or the peer goes, whoever waits for room hears that there is none."""
    async with make_pair(budget=10 * LOW_WATER) as pair:
        pair.owner.deliver(pair.subscribe("task:1"), batch(1, size=3 * LOW_WATER))
        answers: list[bool] = []

        async def wait_for_room() -> None:
            answers.append(await pair.sink.room())

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_for_room)
                await trio.testing.wait_all_tasks_blocked()
                if way == "finish":
                    pair.sink.finish(FAREWELL)
                elif way == "close":
                    pair.sink.close()
                else:
                    pair.peer.close()
        assert answers == [False]


async def test_discarding_keeps_what_was_begun() -> None:
    """Forgetting what waits leaves the rest of the piece that was partly sent."""
    async with make_pair(budget=100_000) as pair:
        subscription = pair.subscribe("task:1")
        pair.owner.deliver(subscription, batch(1, size=20_000))
        pair.owner.deliver(subscription, batch(2))
        assert pair.sink.discard_unsent() == 1  # the position before the one event that was not sent
        pair.sink.write(b"C 1\n")
        await pair.read_all()
        assert (events_of(pair.lines()), pair.lines()[-1]) == ([1], "C 1")


# Any interleaving


@attrs.frozen
class Deliver:
    """Deliver some batches to a subscription: the channel and the size of each event."""

    to: int
    times: int
    channels: Sequence[int]
    size: int


@attrs.frozen
class Control:
    """Write a control piece."""

    size: int


@attrs.frozen
class Read:
    """Let the peer read some, and the flusher write what fits."""

    most: int


ACTIONS = st.one_of(
    st.builds(
        Deliver,
        st.integers(0, 2),
        st.sampled_from([1, 3, 12]),
        st.lists(st.integers(0, 2), min_size=1, max_size=3),
        st.sampled_from([1, 20, 60, 200, 9000]),
    ),
    st.builds(Control, st.sampled_from([1, 60, 800])),
    st.builds(Read, st.sampled_from([1, 100, 1000, 100_000])),
)


@attrs.define(eq=False)
class Model:
    """Writes to a sink and remembers what, to check it against what the peer reads."""

    pair: Pair
    subscriptions: Sequence[Subscription]
    written: list[list[int]] = attrs.field(factory=lambda: [[], [], []])
    controls: list[int] = attrs.field(factory=list)
    next: int = 1

    async def act(self, action: object) -> None:
        """Take one action."""
        if self.pair.owner.slow:
            return
        match action:
            case Deliver(to, times, channels, size):
                for _ in range(times):
                    if not self.pair.owner.slow:
                        self.deliver(to, channels, size)
            case Control(size):
                self.controls.append(self.next)
                self.pair.sink.write(b"C %d %b\n" % (self.next, b"x" * size))
                self.next += 1
            case Read(most):
                self.pair.read(most)
                await trio.testing.wait_all_tasks_blocked()

    def deliver(self, to: int, channels: Sequence[int], size: int) -> None:
        """Deliver one batch."""
        messages = []
        for channel in channels:
            name = f"task:{to}{channel}"
            messages.append(Message(Event(EventId(self.next), name, 1, "a", WHEN, {"size": size})))
            self.written[to].append(self.next)
            self.next += 1
        self.pair.owner.deliver(self.subscriptions[to], Batch(messages))

    def check(self) -> None:
        """Check everything that the peer has read."""
        lines = self.pair.lines()
        slow = self.pair.owner.slow > 0
        assert (lines[-1:] == ["F"]) == slow
        lines = [line for line in lines if line != FILLING]
        controls = [int(line.split()[1]) for line in lines if line.startswith("C ")]
        assert controls == (self.controls[: len(controls)] if slow else self.controls)
        order = [line for line in lines if line.startswith(("E ", "C "))]
        self.check_order([int(line.split()[2 if line.startswith("E ") else 1]) for line in order])
        for number, subscription in enumerate(self.subscriptions):
            mine = [line for line in lines if line.startswith((f"E task:{number}", f"G task:{number}"))]
            self.check_subscription(number, subscription.overflow, mine, slow)

    def check_order(self, received: list[int]) -> None:
        """Check that nothing overtakes anything, but for what ``latest`` holds back."""
        held_back = {
            one
            for subscription, numbers in zip(self.subscriptions, self.written, strict=True)
            if subscription.overflow is Overflow.LATEST
            for one in numbers
        }
        steady = [number for number in received if number not in held_back]
        assert steady == sorted(steady)

    def check_subscription(self, number: int, overflow: Overflow, lines: list[str], slow: bool) -> None:
        """Check that events come in order, and that gaps tell of what is missing, all and nothing else."""
        written, received, gaps = self.written[number], events_of(lines), gaps_of(lines)
        assert received == sorted(set(received))
        assert set(received) <= set(written)
        if overflow is Overflow.DISCONNECT:
            assert received == (written[: len(received)] if slow else written)
            assert gaps == []
            return
        if slow:  # what waited was forgotten with its gaps: the client resumes behind what it has read
            return
        missing = set(written) - set(received)
        told = set[int]()
        for first, last, count in gaps:
            inside = {one for one in missing if first <= one <= last}
            assert {first, last} <= inside
            # Under latest, an event of another channel that was kept in between may be lost later.
            assert len(inside) == count or overflow is Overflow.LATEST
            told |= inside
        assert told == missing
        assert sum(count for _, _, count in gaps) == len(missing)
        if overflow is Overflow.DROP_OLDEST:
            marks = [int(line.split()[2]) for line in lines]
            assert marks == sorted(marks), "a gap is not in the place of what was lost"
        elif written:
            # The newest of other channels may have had to go, where they did not fit.
            assert written[-1] in received


POLICIES = st.lists(
    st.sampled_from(
        [Overflow.DROP_OLDEST, Overflow.LATEST, Overflow.DROP_OLDEST, Overflow.LATEST, Overflow.DISCONNECT]
    ),
    min_size=3,
    max_size=3,
)


@settings(max_examples=300)
@given(
    st.lists(ACTIONS, min_size=15, max_size=60),
    POLICIES,
    st.sampled_from([300, 1000, 10_000]),
    st.booleans(),
)
def test_any_interleaving_of_writing_and_reading(
    actions: list[object], policies: list[Overflow], budget: int, clogged: bool
) -> None:
    """However writing, sending and reading interleave, pieces are whole, in order, and each loss is told."""

    async def main() -> None:
        async with make_pair(budget=budget) as pair:
            subscriptions = [
                pair.subscribe(*(f"task:{number}{channel}" for channel in range(3)), overflow=policy)
                for number, policy in enumerate(policies)
            ]
            model = Model(pair, subscriptions)
            if clogged:
                pair.fill()
            for action in actions:
                await model.act(action)
            await pair.read_all()
            model.check()

    trio.run(main)
