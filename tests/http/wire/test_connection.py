import math
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors.sweeper import Sweeper
from heliograph.http.wire.connection import (
    BUFFER_BYTES,
    LINGER_SECONDS,
    SHORT_BODY_BYTES,
    SHORT_BODY_SECONDS,
    WRITE_BYTES,
    Connection,
    stream_of,
)
from heliograph.http.wire.head import HEAD_LIMIT, Head

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PLAIN = b"GET /api/v1/tasks HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nGET /"
CHUNKED = b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nGET /\r\n0\r\n\r\n"
TWO_CHUNKS = (
    b"POST /echo HTTP/1.1\r\ntransfer-encoding: chunked\r\nhost: x\r\n\r\n"
    b"3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n"
)
SHORT = b"POST /short HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"


@attrs.define
class Peer:
    """A connection as hypercorn is given it, and the peer's end."""

    connection: Connection
    stream: trio.SocketStream

    async def read_for_hypercorn(self, most: int | None = None) -> bytes:
        """Read all that hypercorn would, up to the end of file; each piece within its deadline."""
        data = b""
        with trio.fail_after(5):
            while piece := await self.connection.receive_some(most):
                data += piece
        return data


class Nobody:
    """A successor that serves nothing."""

    async def serve(self, early: bytes) -> None:
        """Serve nothing."""


@asynccontextmanager
async def connect(
    write_timeout: float = 30,
    idle_timeout: float = math.inf,
    has_shortcut: Callable[[Head], bool] = lambda head: head.path == "/short",
) -> AsyncIterator[Peer]:
    """Connect over real sockets; ``/short`` has a shortcut."""
    ours, end = socket.socketpair()
    ours.setblocking(False)
    with ours:
        async with stream_of(end) as theirs, trio.open_nursery() as nursery:
            connection = Connection(ours, write_timeout, idle_timeout, has_shortcut)
            if idle_timeout < math.inf:
                nursery.start_soon(Sweeper(lambda: [connection], 1.0).run)
            yield Peer(connection, theirs)
            nursery.cancel_scope.cancel()


# What hypercorn reads


REQUESTS = st.lists(st.sampled_from([PLAIN, POST, CHUNKED, TWO_CHUNKS]), max_size=6)


@given(REQUESTS, st.lists(st.integers(1, 500), max_size=8), st.integers(1, 500))
def test_other_requests_pass_unchanged(requests: list[bytes], cuts: list[int], most: int) -> None:
    """In whatever pieces requests come, hypercorn reads all of them, as long as none has a shortcut."""

    async def main() -> None:
        data, sent = b"".join(requests), 0
        async with connect() as peer, trio.open_nursery() as nursery:
            received = bytearray()
            nursery.start_soon(read_on, peer, received, most)
            for place in sorted({*(cut for cut in cuts if cut < len(data)), len(data)}):
                await peer.stream.send_all(data[sent:place])
                sent = place
                await answer_all(peer, received)
            await peer.stream.send_eof()
            await answer_all(peer, received)
            assert received == data
            assert peer.connection.over

    trio.run(main)


@given(REQUESTS, st.binary(max_size=40), st.integers(1, 500))
def test_noise_behind_requests_ends_the_connection(requests: list[bytes], noise: bytes, most: int) -> None:
    """What is no head reaches hypercorn never, and nothing is waited for once it has ended."""

    async def main() -> None:
        async with connect() as peer, trio.open_nursery() as nursery:
            received = bytearray()
            nursery.start_soon(read_on, peer, received, most)
            await peer.stream.send_all(b"".join(requests) + noise)
            await answer_all(peer, received)
            await peer.stream.send_eof()
            await answer_all(peer, received)
            assert received == b"".join(requests)
            assert peer.connection.over

    trio.run(main)


async def read_on(peer: Peer, received: bytearray, most: int = 65536) -> None:
    """Read to the end as hypercorn does."""
    while data := await peer.connection.receive_some(most):
        received += data


async def answer_all(peer: Peer, received: bytearray) -> None:
    """Answer one request after the other until nothing more is read."""
    before = -1
    while len(received) > before:
        before = len(received)
        await trio.testing.wait_all_tasks_blocked()
        with peer.connection.request():
            pass
        await trio.testing.wait_all_tasks_blocked()


async def test_hypercorn_is_given_one_request_at_a_time() -> None:
    """What is pipelined behind a request, be it in its segment or a later one, waits for the answer."""
    async with connect() as peer:
        await peer.stream.send_all(POST + PLAIN + POST[:-3])
        assert await peer.connection.receive_some(65536) == POST
        async with trio.open_nursery() as nursery:
            received = bytearray()
            nursery.start_soon(read_on, peer, received)
            await peer.stream.send_all(POST[-3:])
            for expected in (b"", PLAIN, PLAIN + POST):
                await trio.testing.wait_all_tasks_blocked()
                assert received == expected
                with peer.connection.request():
                    pass
            nursery.cancel_scope.cancel()


async def test_a_failed_request_is_followed_by_none() -> None:
    """After an error that the app let through nothing more is handed on: hypercorn is about to close."""
    async with connect() as peer:
        await peer.stream.send_all(PLAIN + SHORT)
        assert await peer.connection.receive_some(65536) == PLAIN
        with pytest.raises(ZeroDivisionError), peer.connection.request():
            raise ZeroDivisionError
        async with trio.open_nursery() as nursery:
            nursery.start_soon(check_end_of_file, peer)
            await trio.testing.wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 1
            await peer.connection.send_all(b"HTTP/1.1 500 \r\n\r\n")
            await peer.connection.send_all(b"sorry")
            await peer.connection.aclose()
        assert await peer.stream.receive_some(1000) == b"HTTP/1.1 500 \r\n\r\nsorry"
        assert peer.connection.over


async def test_no_more_is_read_than_fits() -> None:
    """While a request is served, what follows it is read up to a bound; the rest stays in the socket."""
    more = b"GET /" + b"x" * (4 * BUFFER_BYTES)
    async with connect() as peer, trio.open_nursery() as nursery:
        await peer.stream.send_all(PLAIN)
        assert await peer.connection.receive_some(65536) == PLAIN
        nursery.start_soon(peer.stream.send_all, more)
        nursery.start_soon(check_end_of_file, peer)
        await trio.testing.wait_all_tasks_blocked()
        peer.connection.detach(lambda stream: Nobody())
        assert BUFFER_BYTES <= len(peer.connection.take_early()) < 2 * BUFFER_BYTES
        nursery.cancel_scope.cancel()


# Upgrades


@given(
    st.sampled_from([b"", PLAIN, POST, PLAIN + POST]),
    st.binary(max_size=60),
    st.lists(st.integers(1, len(UPGRADE) + 300), max_size=6),
    st.integers(1, 500),
)
def test_what_follows_an_upgrade_is_kept_back(
    before: bytes, frames: bytes, cuts: list[int], most: int
) -> None:
    """Whatever is pipelined before it and wherever it is cut, hypercorn reads no byte behind its head."""

    async def main() -> None:
        async with connect() as peer:
            data, head, sent = before + UPGRADE + frames, bytearray(), 0
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_on, peer, head, most)
                for place in sorted({*cuts, len(data)}):
                    await peer.stream.send_all(data[sent:place])
                    sent = place
                    if len(head) < len(before + UPGRADE):
                        await answer_all(peer, head)
                assert head == before + UPGRADE
                peer.connection.detach(lambda stream: Nobody())
            early = peer.connection.take_early()
            await peer.stream.send_eof()
            with trio.fail_after(5):
                while piece := await stream_of(peer.connection.socket).receive_some(65536):
                    early += piece
            assert early == frames

    trio.run(main)


async def check_end_of_file(peer: Peer) -> None:
    """Check that hypercorn reads the end of file next."""
    assert await peer.connection.receive_some(65536) == b""


@pytest.mark.parametrize(
    "line",
    [b"Upgrade: websocket", b"upgrade:websocket", b"UPGRADE: \tWebSocket \t", b"X: y\r\nUpgrade: websocket"],
)
async def test_an_upgrade_is_known_in_any_spelling(line: bytes) -> None:
    """The header is found whatever its case and spaces."""
    key = b"\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    head = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\n" + line + key
    async with connect() as peer:
        await peer.stream.send_all(head + b"frames")
        assert await peer.connection.receive_some(65536) == head
        assert peer.connection.take_early() == b"frames"


@pytest.mark.parametrize(
    "body", [b"5;x=y\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\nA: b\r\n\r\n", b"x\r\n"]
)
async def test_hypercorn_has_what_leaves_a_doubt_to_itself(body: bytes) -> None:
    """From chunks on whose end is not plain, hypercorn is given everything, as it comes."""
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    async with connect() as peer, trio.open_nursery() as nursery:
        received = bytearray()
        nursery.start_soon(read_on, peer, received)
        await peer.stream.send_all(head + body + SHORT)
        await answer_all(peer, received)
        await peer.stream.send_all(SHORT)
        await answer_all(peer, received)
        assert received == head + body + SHORT + SHORT
        nursery.cancel_scope.cancel()


async def test_another_protocol_is_not_offered_to_hypercorn() -> None:
    """Of a request that would upgrade to HTTP/2 hypercorn is given the request alone."""
    h2c = (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n"
    )
    async with connect() as peer:
        await peer.stream.send_all(h2c)
        assert await peer.connection.receive_some(65536) == b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def test_the_last_request_of_a_connection() -> None:
    """What comes behind a request that ends the connection is nobody's, and not in the way of its answer."""
    head = b"POST /echo HTTP/1.0\r\ncontent-length: 5\r\n\r\nhello"
    async with connect() as peer, trio.open_nursery() as nursery:
        received = bytearray()
        nursery.start_soon(read_on, peer, received)
        await peer.stream.send_all(head + b"\r\n" + SHORT)
        await answer_all(peer, received)
        assert received == head
        await peer.connection.aclose()
        assert peer.connection.over


async def test_a_second_request_may_upgrade() -> None:
    """On a connection that was kept alive, a later request may still become a stream."""
    async with connect() as peer:
        await peer.stream.send_all(PLAIN)
        assert await peer.connection.receive_some(65536) == PLAIN
        with peer.connection.request():
            await peer.stream.send_all(UPGRADE + b"frames")
        assert await peer.connection.receive_some(65536) == UPGRADE
        assert peer.connection.take_early() == b"frames"


@pytest.mark.parametrize(
    ("begin", "status"),
    [(b"GET /" + b"x" * (HEAD_LIMIT + 1), 431), (b"\x16\x03\x01", 400), (b"\r\n", 400), (H2_PREFACE, 505)],
)
async def test_what_can_be_no_head_is_not_waited_for(begin: bytes, status: int) -> None:
    """A head larger than any that is served, and noise, are refused before any end of them has come."""
    async with connect() as peer:
        await peer.stream.send_all(begin)
        with trio.fail_after(5):
            assert await peer.connection.next_short() is None
        assert peer.connection.over
        assert peer.connection.refused is not None
        assert peer.connection.refused.status == status


# Shortcuts


async def test_a_request_with_a_shortcut_is_not_hypercorns() -> None:
    """It is returned with its body, one after the other, and what comes behind it is looked at anew."""
    async with connect() as peer:
        await peer.stream.send_all(SHORT + SHORT + PLAIN)
        for _ in range(2):
            short = await peer.connection.next_short()
            assert short is not None
            assert (short[0].raw + short[1], short[1]) == (SHORT, b"hello")
        assert await peer.connection.next_short() is None
        assert not peer.connection.over
        assert await peer.connection.receive_some(65536) == PLAIN


async def test_hypercorn_reads_the_end_before_a_shortcut() -> None:
    """Before a request with a shortcut hypercorn reads the end; it writes nothing more, and may come back."""
    async with connect() as peer:
        await peer.stream.send_all(PLAIN)
        assert await peer.connection.receive_some(65536) == PLAIN
        async with trio.open_nursery() as nursery:
            nursery.start_soon(check_end_of_file, peer)
            await peer.stream.send_all(SHORT + PLAIN)
            await trio.testing.wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 1
            with peer.connection.request():
                await peer.connection.send_all(b"HTTP/1.1 200 \r\n\r\n")
                await peer.connection.send_all(b"")
        await peer.connection.send_all(b"nothing of this")
        await peer.connection.send_eof()
        await peer.connection.aclose()
        assert await peer.connection.next_short() is not None
        await peer.connection.answer(b"short")
        assert await peer.connection.next_short() is None
        assert await peer.connection.receive_some(65536) == PLAIN
        assert await peer.stream.receive_some(1000) == b"HTTP/1.1 200 \r\n\r\nshort"


async def test_a_declined_shortcut_is_hypercorns() -> None:
    """A request that its shortcut declines is read by hypercorn as it came, with what is behind it."""
    async with connect() as peer:
        await peer.stream.send_all(SHORT + PLAIN)
        short = await peer.connection.next_short()
        assert short is not None
        peer.connection.decline(*short)
        assert await peer.connection.next_short() is None
        assert await peer.connection.receive_some(65536) == SHORT
        with peer.connection.request():
            pass
        assert await peer.connection.receive_some(65536) == PLAIN


async def test_a_body_may_come_after_its_head(autojump_clock: trio.testing.MockClock) -> None:
    """A body is waited for, even when the service is stopping: its request has begun."""
    async with connect(idle_timeout=60) as peer, trio.open_nursery() as nursery:

        async def send() -> None:
            for place in range(len(SHORT)):
                await peer.stream.send_all(SHORT[place : place + 1])
                await trio.testing.wait_all_tasks_blocked()
                if place == len(SHORT) - 3:
                    peer.connection.stop()

        nursery.start_soon(send)
        short = await peer.connection.next_short()
        assert short is not None
        assert short[0].raw + short[1] == SHORT


@pytest.mark.parametrize(
    ("length", "waited"),
    [
        (b"5", SHORT_BODY_SECONDS),
        (b"%d" % (SHORT_BODY_BYTES + 1), 0),
        (b"5\r\nExpect: 100-continue", 0),
        (b"5\r\nConnection: close", 0),
    ],
)
async def test_a_slow_or_unusual_request_takes_no_shortcut(
    autojump_clock: trio.testing.MockClock, length: bytes, waited: float
) -> None:
    """A body that does not come soon or is large, and wishes about the connection, are hypercorn's."""
    data = b"POST /short HTTP/1.1\r\nHost: x\r\nContent-Length: " + length + b"\r\n\r\nhell"
    async with connect(idle_timeout=60) as peer:
        await peer.stream.send_all(data)
        assert await peer.connection.next_short() is None
        assert await peer.connection.receive_some(65536) == data
        assert trio.current_time() == waited


async def test_one_connection_leaves_time_to_others() -> None:
    """Between requests other tasks have their turn, also when all have come with the first."""
    async with connect() as peer:
        await peer.stream.send_all(SHORT * 4)
        assert await peer.connection.next_short() is not None
        for _ in range(3):
            with trio.testing.assert_checkpoints():
                assert await peer.connection.next_short() is not None


# What is written


async def test_a_head_goes_out_with_its_body() -> None:
    """The head of a response waits for what follows it, and both arrive in order."""
    async with connect() as peer:
        await peer.connection.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        await peer.connection.send_all(b"body")
        assert await peer.stream.receive_some(1000) == b"HTTP/1.1 200 OK\r\n\r\nbody"
        await peer.connection.send_all(b"HTTP/1.1 204 No Content\r\n\r\n")
        await peer.connection.send_all(b"")
        assert await peer.stream.receive_some(1000) == b"HTTP/1.1 204 No Content\r\n\r\n"


async def test_an_interim_response_goes_out_at_once() -> None:
    """A client that waits for ``100 Continue`` gets it before anything else is written."""
    async with connect() as peer:
        await peer.connection.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        with trio.fail_after(5):
            assert b"100" in await peer.stream.receive_some(1000)


async def test_a_large_body_waits_for_a_slow_reader() -> None:
    """More than the socket takes is written as the peer reads it."""
    body = bytes(range(256)) * 8000
    async with connect() as peer:
        received = bytearray()

        async def read() -> None:
            while len(received) < len(body):
                received.extend(await peer.stream.receive_some(50_000))

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.connection.send_all, body)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(read)
        assert received == body


async def test_a_stalled_reader_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    """A peer that takes nothing within the write timeout is given up."""
    async with connect(write_timeout=10) as peer:
        with pytest.raises(trio.BrokenResourceError):
            await peer.connection.send_all(bytes(4_000_000))
        assert trio.current_time() == 10


async def test_a_slow_reader_is_served(autojump_clock: trio.testing.MockClock) -> None:
    """A peer that takes a part within each write timeout gets everything, however long that is."""
    size = 2_000_000
    async with connect(write_timeout=10) as peer:

        async def read_slowly() -> None:
            received = 0
            while received < size:
                await trio.sleep(8)
                for _ in range(4):
                    with trio.move_on_after(0.1):
                        received += len(await peer.stream.receive_some(WRITE_BYTES))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_slowly)
            await peer.connection.send_all(bytes(size))
        assert trio.current_time() > 20


async def test_a_peer_that_is_gone_breaks_the_writing() -> None:
    """Writing to a connection that the peer has closed is told as a broken resource."""
    async with connect() as peer:
        await peer.stream.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await peer.connection.send_all(b"x")


# Detaching


async def test_a_detached_connection_is_silent() -> None:
    """After detaching hypercorn reads the end and writes into the void, and the socket stays open."""
    async with connect() as peer:
        successor = Nobody()
        peer.connection.detach(lambda stream: successor)
        assert peer.connection.successor is not None
        await peer.connection.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        await peer.connection.send_all(b"body")
        await peer.connection.send_eof()
        await peer.connection.aclose()
        assert await peer.connection.receive_some(65536) == b""
        peer.connection.socket.send(b"mine")
        assert await peer.stream.receive_some(1000) == b"mine"
        await peer.stream.send_all(b"yours")
        assert await stream_of(peer.connection.socket).receive_some(1000) == b"yours"


async def test_detaching_wakes_the_reader() -> None:
    """A read that is under way ends at once, without losing what comes later."""
    async with connect() as peer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(check_end_of_file, peer)
            await trio.testing.wait_all_tasks_blocked()
            peer.connection.detach(lambda stream: Nobody())
        await peer.stream.send_all(b"later")
        assert await stream_of(peer.connection.socket).receive_some(1000) == b"later"


async def test_bytes_in_flight_at_detaching_are_kept() -> None:
    """What has just come when the connection is detached goes to the successor, read by hypercorn or not."""
    async with connect() as peer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(check_end_of_file, peer)
            await trio.testing.wait_all_tasks_blocked()
            os.write(peer.stream.socket.fileno(), b"early")
            peer.connection.detach(lambda stream: Nobody())
        early = peer.connection.take_early()
        if not early:
            early = await stream_of(peer.connection.socket).receive_some(1000)
        assert early == b"early"


# Deadlines


async def test_a_silent_connection_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    """A connection on which no request begins reads the end after the idle timeout."""
    async with connect(idle_timeout=60) as peer:
        assert await peer.connection.receive_some(65536) == b""
        assert trio.current_time() == 60


async def test_a_trickling_head_pushes_nothing_back(autojump_clock: trio.testing.MockClock) -> None:
    """Bytes that come one by one do not prolong the time for the head."""
    async with connect(idle_timeout=60) as peer, trio.open_nursery() as nursery:

        async def trickle() -> None:
            with suppress(trio.BrokenResourceError):
                for byte in UPGRADE:
                    await peer.stream.send_all(bytes([byte]))
                    await trio.sleep(1)

        nursery.start_soon(trickle)
        while await peer.connection.receive_some(65536):
            pass
        assert trio.current_time() == 60
        nursery.cancel_scope.cancel()


async def test_a_request_under_way_is_not_idle(autojump_clock: trio.testing.MockClock) -> None:
    """While a request is served silence is no reason to close; afterwards the time begins anew."""
    async with connect(idle_timeout=60) as peer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(check_end_of_file, peer)
            await trio.sleep(50)
            with peer.connection.request():
                await trio.sleep(500)
            await trio.sleep(59)
            assert len(nursery.child_tasks) == 1
        assert trio.current_time() == 50 + 500 + 60


async def test_stopping_closes_what_is_idle(autojump_clock: trio.testing.MockClock) -> None:
    """Told to stop, an idle connection ends at once, and a busy one as soon as its request has ended."""
    async with connect(idle_timeout=60) as idle, connect(idle_timeout=60) as busy:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(check_end_of_file, idle)
            nursery.start_soon(check_end_of_file, busy)
            with busy.connection.request():
                await trio.testing.wait_all_tasks_blocked()
                idle.connection.stop()
                busy.connection.stop()
                await trio.sleep(5)
                assert len(nursery.child_tasks) == 1
        assert trio.current_time() == 5


@pytest.mark.parametrize("before", [b"", PLAIN, UPGRADE])
async def test_closing_ends_the_reading(before: bytes) -> None:
    """When hypercorn closes, a read under way ends, and there is nothing more to read for it."""
    async with connect() as peer:
        if before:
            await peer.stream.send_all(before)
            await peer.connection.receive_some(65536)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(check_end_of_file, peer)
                await trio.testing.wait_all_tasks_blocked()
                await peer.connection.aclose()
            await peer.stream.send_all(b"late")
            await check_end_of_file(peer)


async def test_ending_the_answer_is_told_to_the_peer() -> None:
    """When hypercorn has written its last the peer reads the end, even in a task that was cancelled."""
    async with connect() as peer:
        with trio.CancelScope() as scope:
            scope.cancel()
            await peer.connection.send_all(b"last")
            await peer.connection.send_eof()
        assert await peer.stream.receive_some(100) == b"last"
        assert await peer.stream.receive_some(100) == b""


async def test_a_peer_still_sending_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    """What a peer still sends is read for a while, so that it sees the answer; one that goes on is not."""
    async with connect() as peer:
        await peer.stream.send_all(b"x" * 50_000)
        await peer.stream.send_eof()
        await peer.connection.linger()
        assert trio.current_time() == 0
    async with connect() as endless, trio.open_nursery() as nursery:
        nursery.start_soon(endless.connection.linger)
        assert await endless.stream.receive_some(1) == b""
        assert trio.current_time() == 0
    assert trio.current_time() == LINGER_SECONDS
