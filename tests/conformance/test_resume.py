"""Streams that are cut and resumed, under load: no event twice and none missing, which ``seq`` proves."""

from __future__ import annotations

import random
import socket
import struct
from collections import defaultdict
from urllib.parse import urlsplit

import attrs
import h11
import orjson
import trio
from tests.conformance.clients import (
    DEADLINE,
    TEXT,
    BlockParser,
    FrameParser,
    Parser,
    Told,
    client_frame,
    connect,
    handshake,
    output,
    request_head,
)
from tests.conformance.conftest import Launch

WATCHERS, CUTS = 5, 100
PUBLISHERS = 8
BATCH = 5


@attrs.define
class Reader:
    """Watches every task, is cut again and again, and goes on from its last id.

    Attributes:
        seen: The numbers given of each channel, in their order.
        cursor: The newest id that came whole.
    """

    transport: str
    url: str
    seen: dict[str, list[int]] = attrs.field(factory=lambda: defaultdict(list))
    cursor: str = "0-0"

    async def read(self, size: float, rude: bool, goal: dict[str, int] | None = None) -> None:
        """Connect, read so many bytes (or up to the goal), and cut the connection.

        Args:
            rude: Cut by a reset and not by an orderly end.
            goal: The last number of each channel.
        """
        parser: Parser
        if self.transport == "ws":
            parser = FrameParser()
            ask = {"type": "subscribe", "channel": "task:*", "after": self.cursor}
            request = handshake(self.url) + client_frame(TEXT, orjson.dumps(ask))
        else:
            parser = BlockParser()
            fields = {"Host": "localhost", "Last-Event-ID": self.cursor}
            request = request_head("GET", "/api/v1/events/stream?channel=task:*", fields)
        stream = await connect(self.url)
        if rude:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            await stream.send_all(request)
            head: bytes | None = b""
            while size > 0 and (goal is None or not self.reached(goal)):
                data = await stream.receive_some(int(min(size, 65536)))
                assert data, "the service ended a stream that nothing was wrong with"
                size -= len(data)
                if head is not None:
                    head += data
                    before, found, data = head.partition(b"\r\n\r\n")
                    if not found:
                        continue
                    assert before.split()[1] == (b"101" if self.transport == "ws" else b"200")
                    head = None
                if data:
                    for told in parser.feed(data):
                        self.take(told)
        finally:
            await trio.aclose_forcefully(stream)

    def take(self, told: Told) -> None:
        """Note what was told."""
        assert told.kind not in {"gap", "reset", "error", "end"}, told
        if told.kind == "event":
            self.seen[told.fields["channel"]].append(told.seq)
        if told.id is not None:
            self.cursor = told.id

    def reached(self, goal: dict[str, int]) -> bool:
        """Tell whether everything up to the goal was given."""
        return all(self.seen[channel][-1:] == [last] for channel, last in goal.items())


@attrs.define
class Publisher:
    """Publishes to one task for as long as it is let, one request after the other."""

    url: str
    task: str
    acknowledged: int = 0

    async def run(self, stop: trio.Event) -> None:
        """Publish until told to stop."""
        parser = h11.Connection(h11.CLIENT)
        async with await connect(self.url) as stream:
            while not stop.is_set():
                items = [output(self.task, str(self.acknowledged + n + 1)) for n in range(BATCH)]
                await self.post(stream, parser, orjson.dumps(items))
                self.acknowledged += BATCH

    async def post(self, stream: trio.SocketStream, parser: h11.Connection, body: bytes) -> None:
        """Make one request."""
        head = {
            "Host": urlsplit(self.url).netloc,
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
        }
        request = h11.Request(method="POST", target="/api/v1/events", headers=list(head.items()))
        await stream.send_all(b"".join(parser.send(event) or b"" for event in (request, h11.Data(data=body))))
        parser.send(h11.EndOfMessage())
        while not isinstance(event := parser.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                parser.receive_data(await stream.receive_some(65536))
            elif isinstance(event, h11.Response):
                assert event.status_code == 201
        parser.start_next_cycle()


async def test_a_stream_cut_at_any_byte_is_resumed(transport: str, launch: Launch) -> None:
    """Cut five hundred times at random bytes while eight publish, every watcher has seen everything once."""
    url = (await launch()).url
    chance = random.Random(20_26)
    publishers = [Publisher(url, str(number)) for number in range(PUBLISHERS)]
    readers = [Reader(transport, url) for _ in range(WATCHERS)]
    stop = trio.Event()

    async def be_cut(reader: Reader) -> None:
        for _ in range(CUTS):
            # Within the head, within the first event, or after some hundreds of them.
            size = chance.choice((chance.randint(1, 500), chance.randint(1, 3000), chance.randint(1, 60_000)))
            await reader.read(size, rude=chance.random() < 0.5)

    with trio.fail_after(2 * DEADLINE):
        async with trio.open_nursery() as nursery:
            for publisher in publishers:
                nursery.start_soon(publisher.run, stop)
            async with trio.open_nursery() as cutting:
                for reader in readers:
                    cutting.start_soon(be_cut, reader)
            stop.set()
        goal = {f"task:{publisher.task}": publisher.acknowledged for publisher in publishers}
        async with trio.open_nursery() as nursery:
            for reader in readers:
                nursery.start_soon(reader.read, float("inf"), False, goal)
    assert min(goal.values()) > 0
    for reader in readers:
        assert reader.seen == {channel: list(range(1, last + 1)) for channel, last in goal.items()}
