import math
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from heliograph.http.connection import HEAD_LIMIT, LINGER_SECONDS, WRITE_BYTES, Connection

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
PLAIN = b"GET /api/tasks HTTP/1.1\r\nHost: x\r\n\r\n"


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
async def connect(write_timeout: float = 30, idle_timeout: float = math.inf) -> AsyncIterator[Peer]:
    """Connect over real sockets."""
    ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair())
    async with ours, theirs:
        yield Peer(Connection(ours, write_timeout, idle_timeout), theirs)


# What is read


@given(
    st.lists(
        st.binary(max_size=40)
        | st.sampled_from([b"G", b"GET ", PLAIN, b"\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n"]),
        max_size=8,
    )
)
def test_an_ordinary_request_passes_unchanged(pieces: list[bytes]) -> None:
    """Whatever bytes come, in whatever pieces, hypercorn reads them all as long as nobody asks to upgrade."""

    async def main() -> None:
        async with connect() as peer:
            received = b""
            for piece in filter(None, pieces):
                await peer.stream.send_all(piece)
                received += await peer.connection.receive_some(65536)
            await peer.stream.send_eof()
            assert received == b"".join(pieces)
            assert await peer.connection.receive_some(65536) == b""
            assert peer.connection.take_early() == b""

    trio.run(main)


@given(st.binary(max_size=60), st.lists(st.integers(1, len(UPGRADE) + 60), max_size=6), st.integers(1, 500))
def test_what_follows_an_upgrade_is_kept_back(frames: bytes, cuts: list[int], most: int) -> None:
    """Wherever the bytes are cut, hypercorn reads just the head of the upgrade, the successor the rest."""

    async def main() -> None:
        async with connect() as peer:
            data, head, places = UPGRADE + frames, b"", sorted({*cuts, len(UPGRADE) + len(frames)})
            sent = 0
            for place in places:
                await peer.stream.send_all(data[sent:place])
                sent = max(sent, min(place, len(data)))
                while len(head) < min(sent, len(UPGRADE)):
                    head += await peer.connection.receive_some(most)
            assert head == UPGRADE
            async with trio.open_nursery() as nursery:
                nursery.start_soon(check_end_of_file, peer)
                await trio.testing.wait_all_tasks_blocked()
                peer.connection.detach(lambda stream: Nobody())
            early = peer.connection.take_early()
            await peer.stream.send_eof()
            with trio.fail_after(5):
                while piece := await peer.connection.socket.recv(65536):
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
    head = b"GET / HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n\r\n"
    async with connect() as peer:
        await peer.stream.send_all(head + b"frames")
        assert await peer.connection.receive_some(65536) == head
        assert peer.connection.take_early() == b"frames"


@pytest.mark.parametrize(
    "line", [b"Upgrade: h2c", b"X-Upgrade: websocket", b"X: Upgrade: websocket", b"Upgrades: websocket"]
)
async def test_other_headers_are_no_upgrade(line: bytes) -> None:
    """A header that merely looks like it keeps nothing back."""
    data = b"GET / HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n\r\nmore"
    async with connect() as peer:
        await peer.stream.send_all(data)
        assert await peer.connection.receive_some(65536) == data


async def test_a_second_request_may_upgrade() -> None:
    """On a connection that was kept alive, a later request may still become a stream."""
    async with connect() as peer:
        await peer.stream.send_all(PLAIN)
        assert await peer.connection.receive_some(65536) == PLAIN
        await peer.stream.send_all(UPGRADE + b"frames")
        assert await peer.connection.receive_some(65536) == UPGRADE
        assert peer.connection.take_early() == b"frames"


async def test_a_head_without_end_is_not_collected() -> None:
    """A head larger than any that is served is passed on without being kept."""
    async with connect() as peer:
        total = 0
        while total < 2 * HEAD_LIMIT:
            piece = b"GET " + b"x" * 10_000
            await peer.stream.send_all(piece)
            total += len(await peer.connection.receive_some(65536))
            assert len(peer.connection._head) <= HEAD_LIMIT + len(piece)


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
        await peer.connection.socket.send(b"mine")
        assert await peer.stream.receive_some(1000) == b"mine"
        await peer.stream.send_all(b"yours")
        assert await peer.connection.socket.recv(1000) == b"yours"


async def test_detaching_wakes_the_reader() -> None:
    """A read that is under way ends at once, without losing what comes later."""
    async with connect() as peer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(check_end_of_file, peer)
            await trio.testing.wait_all_tasks_blocked()
            peer.connection.detach(lambda stream: Nobody())
        await peer.stream.send_all(b"later")
        assert await peer.connection.socket.recv(1000) == b"later"


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
            early = await peer.connection.socket.recv(1000)
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


async def test_closing_ends_the_reading() -> None:
    """When hypercorn closes, a read under way ends, and there is nothing more to read for it."""
    async with connect() as peer:
        await peer.stream.send_all(UPGRADE)
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
    async with connect() as endless:
        await endless.connection.linger()
        assert trio.current_time() == LINGER_SECONDS
