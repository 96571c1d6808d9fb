"""The load test: what it makes of bytes, how it counts, and a run against the real service.

Rules of this file: the scripted server is a plain socket driven from the test itself, so the swarm and
its server take turns in one thread and nothing depends on time.
"""

from __future__ import annotations

import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import perf_counter_ns

import attrs
import httpx
import orjson
import pytest
import trio
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from heliograph.client.load.publishing import Publishing, Saturating, SteadyPace, TrafficShape
from heliograph.client.load.run import Heliograph, LoadRun, Plan, load_command
from heliograph.client.load.scan import BlockScanner, BrokenProtocol, FrameScanner
from heliograph.client.load.swarm import LoadError, Swarm, Tally, allow_sockets, resumable
from heliograph.config import ServerSettings as Listen
from heliograph.config import Settings, StorageSettings
from heliograph.service import run

PATIENCE = 20.0


def frame(payload: bytes, first: int = 0x81) -> bytes:
    """Make a frame as a server sends it."""
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 1 << 16:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


def message(seq: int) -> bytes:
    """Make an event as the WebSocket carries it."""
    text = f"sent={perf_counter_ns() // 1000}; x"
    return orjson.dumps({"type": "event", "payload": {"text": text}, "id": f"5-{seq}", "seq": seq})


def frames(*numbers: int) -> bytes:
    """Make the frames of some events."""
    return b"".join(frame(message(number)) for number in numbers)


def pieces(data: bytes, cuts: Sequence[int]) -> Iterator[bytes]:
    """Cut data at some places."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(places):
        yield data[start:end]


class TestScanners:
    """What is made of bytes."""

    @given(
        st.lists(st.sampled_from([0, 1, 125, 126, 300, 65535, 65536]), max_size=5), st.lists(st.integers(0))
    )
    def test_frames_are_found_wherever_the_bytes_are_cut(self, sizes: list[int], cuts: list[int]) -> None:
        """Every text frame comes out whole, of each length form, however reads divide the bytes."""
        payloads = [b"x" * size for size in sizes]
        scanner = FrameScanner()
        data = b"".join(map(frame, payloads))
        found = [text for piece in pieces(data, cuts) for text in scanner.feed(piece)]
        assert found == payloads
        assert scanner.idle
        again = [text for piece in pieces(data, cuts) for text in scanner.feed(scanner.take_back() + piece)]
        assert again == payloads

    @given(
        st.lists(st.sampled_from(["a", "id: 1-1", "event: e\ndata: {}"])),
        st.lists(st.integers(0)),
        st.booleans(),
    )
    def test_blocks_are_found_wherever_the_bytes_are_cut(
        self, blocks: list[str], cuts: list[int], carriage_returns: bool
    ) -> None:
        """Every block of a chunked event stream comes out whole, with newlines of either kind."""
        chunks = [f"{block}\n\n".encode() for block in blocks]
        if carriage_returns:
            chunks = [chunk.replace(b"\n", b"\r\n") for chunk in chunks]
        data = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
        scanner = BlockScanner(chunked=True)
        found = [block.decode() for piece in pieces(data, cuts) for block in scanner.feed(piece)]
        assert found == blocks
        assert scanner.idle
        again = [
            block.decode()
            for piece in pieces(data, cuts)
            for block in scanner.feed(scanner.take_back() + piece)
        ]
        assert again == blocks

    def test_the_last_chunk_ends_an_event_stream(self) -> None:
        """A chunk of size nought says that nothing more comes."""
        scanner = BlockScanner(chunked=True)
        assert scanner.feed(b"3\r\na\n\n\r\n0\r\n\r\n") == [b"a"]
        assert scanner.ended

    def test_an_event_stream_without_chunks_is_read_as_it_comes(self) -> None:
        """A server that closes instead of chunking is understood."""
        scanner = BlockScanner(chunked=False)
        assert scanner.feed(b"data: 1\n\ndata:") == [b"data: 1"]
        assert not scanner.idle

    @pytest.mark.parametrize("data", [b"\x81\x80\0\0\0\0", b"\x01\x00", b"\xc1\x00", b"\x82\x00"])
    def test_frames_that_no_server_of_ours_sends_are_refused(self, data: bytes) -> None:
        """A masked, fragmented, compressed or binary frame is named, not misread."""
        with pytest.raises(BrokenProtocol):
            FrameScanner().feed(data)

    def test_a_broken_chunk_size_is_refused(self) -> None:
        """A chunk whose size is no number is named."""
        with pytest.raises(BrokenProtocol, match="zz"):
            BlockScanner(chunked=True).feed(b"zz\r\n")


class Script:
    """A server whose every word the test says."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.swarm = Swarm(Heliograph("test"), *self.listener.getsockname())
        self.peers: list[socket.socket] = []

    def accept(self) -> tuple[socket.socket, bytes]:
        """Take the next connection and the request that it begins with."""
        self.until(self._readable(self.listener))
        peer, _ = self.listener.accept()
        self.peers.append(peer)
        return peer, self.read(peer)

    def read(self, peer: socket.socket) -> bytes:
        """Read what the swarm has sent."""
        self.until(self._readable(peer))
        return peer.recv(65536)

    def web_socket(self) -> socket.socket:
        """Take a WebSocket through its handshake and its subscription."""
        peer, request = self.accept()
        assert request.startswith(b"GET /ws HTTP/1.1")
        peer.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        assert b'"subscribe"' in self.read(peer)
        live = self.swarm.live
        peer.sendall(frame(b'{"type":"subscribed","cursor":"4-0"}'))
        self.until(lambda: self.swarm.live == live + 1)
        return peer

    def event_stream(self) -> tuple[socket.socket, bytes]:
        """Take an event stream through its handshake; return its request too."""
        peer, request = self.accept()
        live = self.swarm.live
        peer.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.until(lambda: self.swarm.live == live + 1)
        return peer, request

    def until(self, condition: Callable[[], bool]) -> None:
        """Let the swarm run until something holds."""
        assert self.swarm.run(condition, PATIENCE)

    @staticmethod
    def _readable(sock: socket.socket) -> Callable[[], bool]:
        return lambda: bool(select.select([sock], [], [], 0)[0])

    def close(self) -> None:
        """Close everything."""
        self.swarm.close()
        for peer in self.peers:
            peer.close()
        self.listener.close()


@pytest.fixture
def script() -> Iterator[Script]:
    """Give a scripted server and the swarm that watches it."""
    made = Script()
    yield made
    made.close()


class TestSwarm:
    """How streams count and come back."""

    def test_missing_late_and_doubled_messages_are_told_apart(self, script: Script) -> None:
        """A hole is missing until it is filled late; a number seen before is a duplicate."""
        script.swarm.add([("ws", "c")])
        peer = script.web_socket()
        peer.sendall(frames(1, 2, 5, 3, 2, 5, 6))
        script.until(lambda: script.swarm.streams[0].seq == 6)
        tally = script.swarm.settle()
        assert (tally.deliveries, tally.missing, tally.out_of_order, tally.duplicated) == (5, 1, 1, 2)
        assert tally.latency.total() == 5

    def test_watchers_are_counted_alike_however_their_reads_are_cut(self, script: Script) -> None:
        """Remembered reads count the same as parsed ones, also when one watcher's bytes come in two parts."""
        script.swarm.add([("ws", "c")] * 3)
        peers = [script.web_socket() for _ in range(3)]
        data = frames(1, 2, 3)
        for peer in peers[:2]:
            peer.sendall(data)
        script.until(lambda: script.swarm.tally.deliveries == 6)
        peers[2].sendall(data[:30])
        script.swarm.step(0.01)
        peers[2].sendall(data[30:])
        script.until(lambda: script.swarm.tally.deliveries == 9)
        tally = script.swarm.settle()
        assert tally.latency.total() == 9
        assert [stream.cursor for stream in script.swarm.streams] == ["5-3"] * 3
        assert script.swarm.lost == tally.duplicated == tally.out_of_order == 0

    def test_reads_that_end_within_a_message_are_shared_too(self, script: Script) -> None:
        """Where a read ends within a message, what is whole of it is remembered, and the rest is not lost."""
        script.swarm.add([("ws", "c")] * 2)
        peers = [script.web_socket() for _ in range(2)]
        data = frames(1, 2, 3)
        for peer in peers:
            peer.sendall(data[:-5])
        script.until(lambda: script.swarm.tally.deliveries == 4)
        for peer in peers:
            peer.sendall(data[-5:])
        script.until(lambda: script.swarm.tally.deliveries == 6)
        (recent,) = {id(stream.recent): stream.recent for stream in script.swarm.streams}.values()
        assert [sum(read.hits.values()) for read in recent.values()] == [2, 2]
        assert script.swarm.settle().latency.total() == 6

    def test_what_one_watcher_missed_is_not_hidden_by_another(self, script: Script) -> None:
        """Bytes that differ from the remembered ones are read on their own."""
        script.swarm.add([("ws", "c")] * 2)
        first, second = script.web_socket(), script.web_socket()
        first.sendall(frames(1, 2, 3))
        script.until(lambda: script.swarm.tally.deliveries == 3)
        second.sendall(frames(1, 3))
        script.until(lambda: script.swarm.tally.deliveries == 5)
        assert script.swarm.tally.missing == 1

    def test_what_never_came_is_lost(self, script: Script) -> None:
        """Messages that a publisher was told are kept count as lost while a stream has not got them."""
        script.swarm.add([("ws", "c")])
        script.web_socket().sendall(frames(1))
        script.swarm.kept["c"] = 3
        script.until(lambda: script.swarm.tally.deliveries == 1)
        assert script.swarm.lost == 2

    def test_a_cut_event_stream_comes_back_with_its_cursor(self, script: Script) -> None:
        """After the server has hung up, the stream asks for what follows its last event."""
        script.swarm.add([("sse", "c")])
        peer, request = script.event_stream()
        assert b"after=" not in request
        block = b"event: load\nid: 5-1\ndata: " + message(1) + b"\n\n"
        peer.sendall(b"%x\r\n%s\r\n" % (len(block), block))
        script.until(lambda: script.swarm.tally.deliveries == 1)
        peer.close()
        _, request = script.event_stream()
        assert b"after=5-1" in request
        assert script.swarm.tally.resumed == 1
        assert script.swarm.tally.disconnects == {"end": 1}

    def test_a_stream_comes_back_when_it_was_told_to(self, script: Script) -> None:
        """A reconnect notice sets the delay, and the close code is counted."""
        script.swarm.add([("ws", "c")])
        peer = script.web_socket()
        peer.sendall(frame(b'{"type":"reconnect","after_ms":1}') + frame(b"\x0f\xa1rotate", 0x88))
        script.web_socket()
        assert script.swarm.tally.disconnects == {"4001": 1}
        assert script.swarm.tally.connects == 2

    @pytest.mark.parametrize("begun", [False, True])
    def test_a_subscription_that_fails_for_now_is_made_again(self, script: Script, begun: bool) -> None:
        """A stream whose subscription the service can't serve now comes back, without what it has already."""
        script.swarm.add([("ws", "c")])
        peer, _ = script.accept()
        peer.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        assert b'"subscribe"' in script.read(peer)
        error = frame(b'{"type":"error","code":"unavailable"}')
        story = frame(b'{"type":"subscribed","cursor":"4-0"}') + frames(1) if begun else b""
        peer.sendall(story + error + frame(b"\x03\xf5", 0x88))
        script.web_socket()
        assert script.swarm.tally.disconnects == {"error unavailable": 1}
        assert (script.swarm.tally.deliveries, script.swarm.streams[0].seq) == (begun, begun)
        assert script.swarm.streams[0].cursor == ("5-1" if begun else "4-0")

    @pytest.mark.parametrize("word", [b"HTTP/1.1 101 Switching Protocols\r\n\r\n", frame(b"hi", 0x89)])
    def test_a_connection_that_breaks_before_our_answer_is_made_again(
        self, script: Script, word: bytes
    ) -> None:
        """Where a word of ours finds the connection gone, the stream comes back and the run goes on."""
        script.swarm.add([("ws", "c")])
        peer = script.accept()[0] if word.startswith(b"HTTP") else script.web_socket()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or the reset overtakes the word
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # end it by a reset
        peer.sendall(word)
        peer.close()
        script.web_socket()
        assert script.swarm.tally.disconnects.total() == 1
        assert not script.swarm.tally.disconnects.keys() - {"EPIPE", "ECONNRESET"}

    @pytest.mark.parametrize("code", [4500, 4503, 4505])
    def test_a_stream_that_is_not_wanted_stays_away(self, script: Script, code: int) -> None:
        """A code that means do not come back ends the stream for good."""
        script.swarm.add([("ws", "c")])
        script.web_socket().sendall(frame(code.to_bytes(2, "big"), 0x88))
        script.until(lambda: script.swarm.live == 0)
        assert script.swarm.watchers["c"] == 0
        assert not resumable(str(code))

    def test_pings_are_answered(self, script: Script) -> None:
        """A ping gets a masked pong with its payload."""
        script.swarm.add([("ws", "c")])
        peer = script.web_socket()
        peer.sendall(frame(b"hi", 0x89))
        assert script.read(peer) == b"\x8a\x82\0\0\0\0hi"

    def test_a_refused_handshake_is_counted_by_its_status(self, script: Script) -> None:
        """An HTTP error in place of the stream is a disconnect of that name."""
        script.swarm.add([("ws", "c")])
        peer, _ = script.accept()
        peer.sendall(b"HTTP/1.1 401 Unauthorized\r\n\r\n")
        script.until(lambda: script.swarm.tally.disconnects.total() == 1)
        assert script.swarm.tally.disconnects == {"http 401": 1}

    def test_too_many_streams_for_this_process_are_refused(self) -> None:
        """The limit of open files is named when it can't be raised far enough."""
        with pytest.raises(LoadError, match="ulimit"):
            allow_sockets(2**40)


class TestPublishing:
    """How messages are published, paced and repeated."""

    @pytest.mark.parametrize("status", [429, 502, 503, 504])
    def test_a_refused_request_is_repeated_with_its_key(self, script: Script, status: int) -> None:
        """Refused for now, or by a proxy, the same bytes come again, so nothing is kept twice or lost."""
        publishing = Publishing(script.swarm, TrafficShape(("task:a",)), SteadyPace(0.0, 1e9))
        script.swarm.publishers.append(publishing)
        peer, request = script.accept()
        peer.sendall(b"HTTP/1.1 %d Away\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n" % status)
        again, repeated = script.accept()
        assert repeated == request
        assert b"Idempotency-Key: task:a/1\r\n" in request
        again.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}")
        script.until(lambda: publishing.idle)
        assert (script.swarm.tally.published, script.swarm.tally.refused) == (1, 1)
        assert script.swarm.kept == {"task:a": 1}

    def test_a_refusal_that_repeating_will_not_mend_ends_the_run(self, script: Script) -> None:
        """A 401 is told with its body."""
        script.swarm.publishers.append(Publishing(script.swarm, TrafficShape(("c",)), SteadyPace(0.0, 1e9)))
        peer, _ = script.accept()
        peer.sendall(b"HTTP/1.1 401 Who\r\nContent-Length: 7\r\n\r\nbad key")
        with pytest.raises(LoadError, match="401: bad key"):
            script.until(lambda: False)

    def test_a_burst_goes_to_one_channel_or_over_all(self, script: Script) -> None:
        """Bursts take channels in turn; spread, their messages do."""
        for spread, channels in ((False, ["a", "a", "a"]), (True, ["a", "b", "a"])):
            script.swarm.sent.clear()
            publishing = Publishing(
                script.swarm, TrafficShape(("a", "b"), 3, spread=spread), SteadyPace(0.0, 1e9)
            )
            publishing.go_on(1.0)
            assert list(script.swarm.sent.elements()) == sorted(channels)
            publishing.close()

    def test_saturation_waits_for_deliveries(self, script: Script) -> None:
        """A burst is due while fewer deliveries are under way than the bound."""
        pace = Saturating(script.swarm, 10)
        assert pace.wait(0.0, 0) == 0
        script.swarm.expected = 10
        assert pace.wait(0.0, 1) == float("inf")
        script.swarm.tally.deliveries = 1
        assert pace.wait(0.0, 1) == 0

    def test_a_steady_pace_is_kept_from_its_start(self) -> None:
        """The moment of a burst depends on its number, not on when the last one went."""
        assert SteadyPace(100.0, 0.5).wait(101.0, 4) == 1.0
        assert SteadyPace(100.0, 0.5).wait(103.0, 4) == -1.0


@pytest.mark.parametrize(
    ("transport", "answer"),
    [
        ("ws", b"junk\r\n\r\n"),
        ("sse", b"junk\r\n\r\n"),
        ("ws", b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + frame(b"hello")),
        ("ws", b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + frame(b"[]")),
        ("sse", b"HTTP/1.1 200 OK\r\n\r\nevent: reset\ndata: {a\n\n"),
    ],
)
def test_what_is_not_understood_ends_the_stream(script: Script, transport: str, answer: bytes) -> None:
    """A server that speaks another language is named, and not asked again."""
    script.swarm.add([(transport, "task:1")])
    peer, _ = script.accept()
    peer.sendall(answer)
    script.until(lambda: script.swarm.tally.disconnects.total() == 1)
    ((reason, _),) = script.swarm.tally.disconnects.items()
    assert reason.startswith("protocol: ")


def test_percentiles_are_read_off_the_bins() -> None:
    """A percentile is the upper edge of the bin it falls into, in milliseconds."""
    tally = Tally()
    assert tally.percentile(0.5) is None
    tally.latency.update({0: 50, 9: 49, 99: 1})
    assert [tally.percentile(part) for part in (0.5, 0.99, 1.0)] == [0.1, 1.0, 10.0]


def test_a_run_with_a_stream_that_is_refused_for_good_ends(script: Script) -> None:
    """A stream that will never open is told at once, with the reason, and nothing is waited for."""
    port = script.listener.getsockname()[1]
    made = LoadRun(Plan(2, "sse", 1, 1.0, 1, 1.0, 32), f"http://127.0.0.1:{port}", None)
    script.listener.accept()[0].close()  # the run's look whether anybody is there
    answers = [b"HTTP/1.1 403 Forbidden\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]
    looks = iter(range(50))

    def answer(live: int) -> None:
        if next(looks, None) is None:
            made.stop()
        while answers and select.select([script.listener], [], [], 0)[0]:
            peer, _ = script.listener.accept()
            script.peers.append(peer)
            peer.sendall(answers.pop())

    with pytest.raises(LoadError, match=r"1 of 2 streams could be opened \(1 times http 403"):
        made.ramp(answer)
    made.swarm.close()


@attrs.frozen
class Service:
    """A running service."""

    url: str

    async def load(self, *arguments: str) -> Result:
        """Run the command against it, in a thread as it would be in a process of its own."""
        invoke = partial(CliRunner().invoke, load_command, [*arguments, "--url", self.url, "--json"])
        return await trio.to_thread.run_sync(invoke)


@pytest.fixture
async def service(nursery: trio.Nursery, tmp_path: Path) -> Service:
    """Start the real service on a free port."""
    settings = Settings(server=Listen(port=0), storage=StorageSettings(data=tmp_path / "data"))
    return Service(await nursery.start(run, settings))


@pytest.mark.parametrize("transport", ["ws", "sse", "both"])
async def test_a_run_against_the_service_loses_nothing(service: Service, transport: str) -> None:
    """Every stream gets every message of its channel once, in order, and the report says so."""
    with trio.fail_after(60):
        result = await service.load(
            *("--streams", "20", "--transport", transport, "--channels", "2"),
            *("--rate", "200", "--burst", "5", "--duration", "0.5"),
        )
    report = orjson.loads(result.stdout)
    assert result.exit_code == 0, result.output
    assert report["published"] >= 10
    assert report["deliveries"] == report["published"] * 10
    assert report["open"] == 20
    assert report["lost"] == report["duplicated"] == report["out_of_order"] == 0
    assert report["disconnects"] == {}
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["max"]


async def test_ctrl_c_shows_what_was_measured_so_far(service: Service) -> None:
    """An interrupted run ends with its report and without a trace."""
    program = "from heliograph.client.load.run import load_command; load_command()"
    arguments = ["--streams", "4", "--duration", "600", "--json", "--url", service.url]
    with trio.fail_after(60):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        async with httpx.AsyncClient() as client:
            while not (await client.get(f"{service.url}/api/v1/status")).json()["deliveries"]:
                pass  # each question is a wait of its own
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        output = b"".join([part async for part in process.stdout])
        assert await process.wait() == 0
    assert orjson.loads(output)["deliveries"] > 0


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://127.0.0.1", "plain HTTP"),
        ("http://127.0.0.1:1", "nothing answers"),
        ("http://[1", "no address"),
        ("http://127.0.0.1:99999", "no address"),
    ],
)
def test_a_run_that_cannot_begin_says_why(url: str, why: str) -> None:
    """An address that can't be used is answered in one line, with status 2."""
    result = CliRunner().invoke(load_command, ["--url", url])
    assert result.exit_code == 2
    assert why in result.stderr
