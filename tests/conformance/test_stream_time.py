"""What time does to streams, over both transports, in virtual time with the settings of a real service.

Over the embedded form alone: virtual time runs on whenever nothing happens for a moment, and Redis and
PostgreSQL take theirs. What storage has to do with it is in ``test_streams``, in real time.
"""

from __future__ import annotations

from itertools import pairwise

import attrs
import pytest
import trio
from tests.conformance.clients import (
    Told,
    Watch,
    connect,
    numbers,
    open_ws,
    output,
    outputs,
    publish,
    until_metric,
    watch,
)
from tests.conformance.conftest import Launch, embedded
from trio.testing import MockClock

from heliograph.config import StreamSettings
from heliograph.model.ids import parse_id

pytestmark = embedded
DEFAULTS = StreamSettings()
HOURS = 10_000.0


@attrs.frozen
class Moment:
    """What was told, and when in virtual seconds."""

    told: Told
    at: float


async def listen(one: Watch, *, until: float = HOURS, kinds: tuple[str, ...] = ()) -> list[Moment]:
    """Note everything that is told to a watch up to its end, or for so long."""
    begin = trio.current_time()
    moments: list[Moment] = []
    with trio.move_on_after(until):
        while not moments or moments[-1].told.kind != "end":
            moments.append(Moment(await one.next(), trio.current_time() - begin))
    return [moment for moment in moments if not kinds or moment.told.kind in kinds]


class TestLiveness:
    """Signs of life, and what happens without them."""

    async def test_the_pause_before_reconnecting_comes_first(self, fast_clock: MockClock, url: str) -> None:
        """An event stream begins with ``retry``, different for each client."""
        pauses = set()
        for _ in range(5):
            async with await watch("sse", url, "task:1") as one:
                first = await one.next()
                assert first.kind == "open"
                pauses.add(first.fields["retry"])
        assert len(pauses) > 1
        assert all(500 <= pause <= 10_000 for pause in pauses)

    async def test_keepalives(self, fast_clock: MockClock, transport: str, url: str) -> None:
        """A quiet stream shows a sign of life every thirty seconds."""
        async with await watch(transport, url, "task:1") as one:
            await one.live()
            beats = await listen(one, until=200, kinds=("keepalive",))
        pauses = [after.at - before.at for before, after in pairwise(beats)]
        assert len(beats) >= 5
        assert all(29 <= pause <= 32 for pause in pauses)

    async def test_keepalives_move_the_cursor_behind_a_filter(self, fast_clock: MockClock, url: str) -> None:
        """Where a filter hides events, the id of a keepalive moves the client's cursor past them."""
        async with await watch("sse", url, "task:1", topic="task.status") as one:
            begin = await one.live()
            ids = await publish(url, *outputs("1", 1, 5))
            moved = await one.until("keepalive")
            assert parse_id(moved.id or "") >= parse_id(ids[-1]) > parse_id(begin)
            assert moved.fields["cursor"] == moved.id
            quiet = await listen(one, until=100)
            assert {moment.told.kind for moment in quiet} == {"keepalive"}

    async def test_a_client_that_does_not_pong_is_closed(self, fast_clock: MockClock, launch: Launch) -> None:
        """Who leaves a ping unanswered for the pong's deadline is closed with 4012; who answers is not."""
        url = (await launch()).url
        async with await watch("ws", url, "task:1") as dumb, await watch("ws", url, "task:1") as alive:
            dumb.answers_pings = False
            await alive.live()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    listen,
                    alive,
                )
                moments = await listen(dumb)
                nursery.cancel_scope.cancel()
            pinged = next(moment.at for moment in moments if moment.told.kind == "keepalive")
            assert moments[-1].told.fields["code"] == 4012
            assert 0 <= moments[-1].at - pinged - DEFAULTS.pong_seconds <= 2
            await alive.say("ping")
            await alive.until("pong")
        await until_metric(url, 1, "streams_ended_total", transport="ws", reason="no_pong")

    async def test_anything_that_is_said_is_a_sign_of_life(self, fast_clock: MockClock, url: str) -> None:
        """A client that talks but does not pong is there."""
        async with await watch("ws", url, "task:1") as one:
            one.answers_pings = False
            with trio.move_on_after(150):
                while (told := await one.next()).kind != "end":
                    if told.kind == "keepalive":
                        await one.say("ping")
            assert not one.ended


class TestSubscribeInTime:
    """A WebSocket without a subscription is for nothing."""

    async def test_a_connection_that_says_nothing_is_closed(self, fast_clock: MockClock, url: str) -> None:
        """Without a first subscription it ends with 1008 after thirty seconds."""
        async with await open_ws(url) as one:
            moments = await listen(one)
        assert moments[-1].told.fields["code"] == 1008
        assert 30 <= moments[-1].at <= 32

    async def test_talk_is_no_subscription(self, fast_clock: MockClock, url: str) -> None:
        """Pings and mistakes do not put the deadline off."""
        async with await open_ws(url) as one:
            begin = trio.current_time()
            await one.say("ping")
            while (told := await one.next()).kind != "end":
                await trio.sleep(1)
                await one.say("ping" if told.kind == "error" else "nonsense")
            assert told.fields["code"] == 1008
            assert trio.current_time() - begin <= 33

    async def test_leaving_the_last_channel_starts_the_deadline(
        self, fast_clock: MockClock, url: str
    ) -> None:
        """After the last ``unsubscribe`` there is as much time again."""
        async with await watch("ws", url, "task:1") as one:
            await one.until("subscribed")
            await listen(one, until=100)
            await one.say("unsubscribe", channel="task:1")
            moments = await listen(one)
        assert moments[-1].told.fields["code"] == 1008
        assert 30 <= moments[-1].at <= 32


class TestRotation:
    """Every stream ends from time to time, so that nodes and proxies can go away."""

    async def test_a_stream_rotates(self, fast_clock: MockClock, transport: str, url: str) -> None:
        """After about five minutes the client is told when to come back and from where, and loses nothing."""
        await publish(url, *outputs("1", 1, 3), output("2", "hidden"))
        async with await watch(transport, url, "task:1", after="0-0") as one:
            assert await one.outputs(3) == numbers(1, 3)
            moments = await listen(one)
        *_, last, end = [moment for moment in moments if moment.told.kind != "keepalive"]
        assert last.told.kind == "reconnect"
        assert 0.8 * DEFAULTS.rotate_seconds - 2 <= end.at <= 1.2 * DEFAULTS.rotate_seconds + 2
        assert 0 < last.told.fields["after_ms"] <= 5000
        assert last.told.fields["reason"] == "planned rotation; come back"
        assert end.told.fields in ({"code": 4001, "reason": "planned rotation; come back"}, {"whole": True})
        cursor = last.told.fields["cursor"]
        if transport == "sse":
            assert one.cursor == cursor
        await publish(url, *outputs("1", 4, 6))
        async with await watch(transport, url, "task:1", after=cursor) as again:
            assert await again.outputs(3) == numbers(4, 6)

    async def test_streams_that_came_together_do_not_go_together(
        self, fast_clock: MockClock, transport: str, launch: Launch
    ) -> None:
        """The moments of rotation and the pauses before coming back are spread."""
        url = (await launch()).url
        ends: list[float] = []
        pauses: list[int] = []

        async def run() -> None:
            async with await watch(transport, url, "task:1") as one:
                moments = await listen(one)
                ends.append(moments[-1].at)
                pauses.append(next(m.told.fields["after_ms"] for m in moments if m.told.kind == "reconnect"))

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(run)
        assert max(ends) - min(ends) > 0.1 * DEFAULTS.rotate_seconds
        assert len(set(pauses)) > 6
        await until_metric(url, 12, "streams_ended_total", transport=transport, reason="rotate")

    async def test_the_farewell_has_a_deadline(
        self, fast_clock: MockClock, transport: str, launch: Launch
    ) -> None:
        """A client that never closes its side is cut off a few seconds after the farewell."""
        url = (await launch(streams={"rotate_seconds": 60})).url
        async with await watch(transport, url, "task:1") as one:
            begin = (await listen(one))[-1].at
            assert begin <= 75
            await until_metric(url, 0, "streams", transport=transport)
            await until_metric(url, 1, "streams_ended_total", transport=transport, reason="rotate")


class TestDrain:
    """SIGTERM empties the service over a window, and nobody loses anything."""

    async def test_a_drain(self, fast_clock: MockClock, launch: Launch) -> None:
        """Each stream hears when to come back and from where, at its own moment; then goes on elsewhere."""
        window = 10.0
        served = await launch(server={"drain_seconds": window})
        url = served.url
        count = 20
        ids = await publish(url, *outputs("1", 1, 3))
        ends: list[tuple[str, float, list[Told]]] = []
        began = trio.Event()
        sent = 0.0

        async def run(transport: str, *, task_status: trio.TaskStatus[None]) -> None:
            async with await watch(transport, url, "task:1", after=ids[0]) as one:
                assert await one.outputs(2) == ["2", "3"]
                task_status.started()
                told = [moment.told for moment in await listen(one)]
                ends.append((transport, trio.current_time() - sent, told))

        async with trio.open_nursery() as nursery:
            for number in range(count):
                await nursery.start(run, ("ws", "sse")[number % 2])
            sent = trio.current_time()
            began.set()
            with trio.fail_after(HOURS):
                await served.terminate()
            with pytest.raises(OSError, match="refused"):
                await connect(url)
        assert len(ends) == count
        for transport, at, told in ends:
            assert at <= window + 1
            reconnect, end = [one for one in told if one.kind in {"reconnect", "end"}]
            assert reconnect.fields["reason"] == "the service restarts"
            assert parse_id(reconnect.fields["cursor"]) >= parse_id(ids[-1])
            assert end.fields["code" if transport == "ws" else "whole"] == (
                1012 if transport == "ws" else True
            )
        moments = [at for _, at, _ in ends]
        assert max(moments) - min(moments) > window / 4
        pauses = {one.fields["after_ms"] for _, _, told in ends for one in told if one.kind == "reconnect"}
        assert len(pauses) > count / 2
        again = (await launch()).url
        await publish(again, *outputs("1", 4, 5))
        for transport in ("ws", "sse"):
            async with await watch(transport, again, "task:1", after=ids[-1]) as one:
                story = await one.story(2)
                assert [told.seq for told in story] == [4, 5]
