"""A stream and what happens beside it: replays that take their time, peers that go, endings that meet."""

from __future__ import annotations

import math
import socket
from collections.abc import Sequence

import attrs
import pytest
import trio
from tests.conformance.clients import TRANSPORTS, client_frame, until_metric, watch
from tests.http.conftest import Api, output
from tests.memory_log import MemoryLog

from heliograph.actors import replay
from heliograph.actors.hub import Hub
from heliograph.config import StreamSettings
from heliograph.http.streams.reason import Reason
from heliograph.http.streams.registry import StreamRegistry
from heliograph.http.streams.sse import SseStream
from heliograph.http.streams.watching import WatchRequest
from heliograph.http.wire.lot import TaskLot
from heliograph.model.channels import Selection
from heliograph.model.errors import Unavailable
from heliograph.model.ids import OLDEST, EventId
from heliograph.storage.embedded.sqlite import SqliteLog
from heliograph.storage.protocols import WHOLE_LOG, Page

PING = 9


@attrs.define
class SlowLog:
    """Makes replays wait.

    Args:
        asked: What is being read.
        given_up: How many readings were cancelled.
        going_on: Lets them go on.
    """

    asked: list[Selection] = attrs.field(factory=list)
    given_up: int = 0
    going_on: trio.Event = attrs.field(factory=trio.Event)

    async def wait(self, selection: Selection) -> None:
        """Wait as somebody who reads a selection."""
        self.asked.append(selection)
        try:
            await self.going_on.wait()
        except trio.Cancelled:
            self.given_up += 1
            raise


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> SlowLog:
    """Make the log of services slow to be read."""
    slow, read = SlowLog(), SqliteLog.read

    async def wait_and_read(log: SqliteLog, selection: Selection, after: EventId, limit: int) -> Page:
        if selection != WHOLE_LOG:
            await slow.wait(selection)
        return await read(log, selection, after, limit)

    monkeypatch.setattr(SqliteLog, "read", wait_and_read)
    return slow


def selectors(asked: Sequence[Selection]) -> list[str]:
    """Return what was asked for, as a client writes it."""
    return [str(selection) for selection in asked]


async def test_a_client_is_heard_while_it_is_replayed(api: Api, slow: SlowLog) -> None:
    """During a replay pings are answered, live channels come, and another replay waits for its turn."""
    await api.publish(output("1", "old"), output("2", "old"))
    async with await watch("ws", api.url, "task:1", after="0-0") as one:
        await one.until("subscribed")
        await one.say("ping", ref=1)
        assert (await one.until("pong")).fields["ref"] == 1
        await one.send_frame(PING, b"still there?")
        await one.say("subscribe", channel="task:2", after="0-0")
        await one.say("subscribe", channel="task:3")
        assert (await one.until("subscribed")).fields["channel"] == "task:3"
        await api.publish(output("3", "new"))
        assert await one.outputs(1) == ["new"]
        assert selectors(slow.asked) == ["task:1"]
        slow.going_on.set()
        assert await one.outputs(1) == ["old"]
        assert (await one.until("subscribed")).fields["channel"] == "task:2"
        assert await one.outputs(1) == ["old"]


async def test_a_replay_that_is_unsubscribed_ends(api: Api, slow: SlowLog) -> None:
    """A replay under way and one that waits can be unsubscribed; nothing of them comes any more."""
    await api.publish(output("1", "old"), output("2", "old"))
    async with await watch("ws", api.url, "task:1", after="0-0") as one:
        await one.until("subscribed")
        await one.say("subscribe", channel="task:2", after="0-0")
        for channel in ("task:2", "task:1"):
            await one.say("unsubscribe", channel=channel)
            assert (await one.until("unsubscribed")).fields["channel"] == channel
        slow.going_on.set()
        await one.say("subscribe", channel="task:1")
        assert (await one.next()).kind == "subscribed"
        assert slow.given_up == 1
        await api.publish(output("2", "unheard"), output("1", "new"))
        assert await one.outputs(1) == ["new"]


async def test_a_replay_that_fails_goes_on_behind_what_it_gave(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event stream whose log fails between two pages ends with the cursor of what the client has."""
    read = SqliteLog.read

    async def read_once(log: SqliteLog, selection: Selection, after: EventId, limit: int) -> Page:
        if selection != WHOLE_LOG and after > OLDEST:
            raise Unavailable("away")
        return await read(log, selection, after, limit)

    monkeypatch.setattr(SqliteLog, "read", read_once)
    monkeypatch.setattr(replay, "PAGE_EVENTS", 2)
    ids = (await api.publish(*(output("1", str(n)) for n in range(4))))["ids"]
    async with await watch("sse", api.url, "task:1", after="0-0") as one:
        assert await one.outputs(2) == ["0", "1"]
        told = await one.until("reconnect")
    assert told.id == told.fields["cursor"] == ids[1]


async def test_a_replay_that_is_asked_for_again_begins_anew(api: Api, slow: SlowLog) -> None:
    """Subscribing again, with the very same words, while the first replay is under way, replays once."""
    await api.publish(output("1", "old"))
    async with await watch("ws", api.url, "task:1", after="0-0") as one:
        await one.until("subscribed")
        await one.say("subscribe", channel="task:1", after="0-0")
        assert (await one.next()).kind == "subscribed"
        slow.going_on.set()
        assert await one.outputs(1) == ["old"]
        await api.publish(output("1", "new"))
        assert await one.outputs(1) == ["new"]


async def test_a_client_that_closes_ends_its_replay(api: Api, slow: SlowLog) -> None:
    """A close frame is answered at once, whatever is being replayed."""
    await api.publish(output("1", "old"))
    async with await watch("ws", api.url, "task:1", after="0-0") as one:
        await one.until("subscribed")
        await one.stream.send_all(client_frame(8, b"\x03\xe8"))
        assert (await one.end())["code"] == 1000
    await until_metric(api.url, 0, "streams", transport="ws")
    assert slow.given_up == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_client_that_is_gone_is_not_replayed(api: Api, slow: SlowLog, transport: str) -> None:
    """Whoever has gone is not read for any more, and is not counted as a stream."""
    await api.publish(output("1", "old"))
    async with await watch(transport, api.url, "task:1", after="0-0"):
        await until_metric(api.url, 1, "streams", transport=transport)
        while not slow.asked:  # noqa: ASYNC110 - a state of the service
            await trio.sleep(0.01)
    await until_metric(api.url, 0, "streams", transport=transport)
    assert slow.given_up == 1


async def test_replays_leave_questions_a_connection(api: Api, slow: SlowLog) -> None:
    """However many replays wait for a slow database, at most two of them are in it."""
    await api.publish(*(output(f"{number}", "old") for number in range(5)))
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(watch_and_wait, api, f"task:{number}")
        await until_metric(api.url, 5, "streams", transport="ws")
        assert len(slow.asked) == 2
        slow.going_on.set()


async def watch_and_wait(api: Api, channel: str) -> None:
    """Watch a channel from its beginning, until its one line has come."""
    async with await watch("ws", api.url, channel, after="0-0") as one:
        assert await one.outputs(1) == ["old"]


async def test_cutting_a_stream_that_is_closed_is_harmless() -> None:
    """A stream may be cut by the sweeper after its end has been reached on another way."""
    ours, theirs = socket.socketpair()
    hub = Hub(
        MemoryLog(),
        OLDEST,
        flush_seconds=0.02,
        ring_events=10,
        ring_bytes=1000,
        ring_total_bytes=1000,
        linger_seconds=1,
    )
    registry = StreamRegistry(StreamSettings(), lambda *_: None, TaskLot())
    request = WatchRequest(Selection.of(["task:1"]))
    stream = SseStream(ours, hub, registry, "somebody", request, chunked=True)
    registry.add(stream)
    with theirs:
        stream.cut(Reason.SLOW)
        stream.cut(Reason.SHUTDOWN)
    assert (stream.reason, stream.due) == (Reason.SLOW, math.inf)
