"""What happens to a client that does not keep up: by the policy of its subscription, and never in silence."""

from __future__ import annotations

import trio
from tests.conformance.clients import (
    TRANSPORTS,
    Told,
    Watch,
    get,
    metric,
    open_sse,
    open_ws,
    output,
    publish,
    status,
    until_metric,
    watch,
)
from tests.conformance.conftest import Launch, embedded
from tests.polling import until
from tests.storages import Form
from trio.testing import MockClock

from heliograph.model.ids import EventId, format_id, parse_id

RECEIVE_BUFFER = 16 * 1024
BUDGET = {"pending_bytes": 256 * 1024}
LINE = "x" * 10_000


def position(cursor: str) -> tuple[int, ...]:
    """Make cursors comparable."""
    return tuple(map(int, cursor.split("-")))


async def flood(url: str, count: int, *tasks: str) -> dict[str, list[str]]:
    """Publish many large lines to tasks in turn, small steps; return the ids of each."""
    ids: dict[str, list[str]] = {task: [] for task in tasks}
    for _ in range(count // 20):
        for task, one in zip(
            tasks * 20, await publish(url, *(output(task, LINE) for task in tasks * 20)), strict=True
        ):
            ids[task].append(one)
    return ids


def accounted(story: list[Told], ids: list[str]) -> tuple[list[str], int]:
    """Check that every id was given once or lies in a gap; return the ids given and the number in gaps."""
    given = [told.id for told in story if told.kind == "event"]
    gaps = [told.fields for told in story if told.kind == "gap"]
    assert len(set(given)) == len(given)
    assert [position(one) for one in given if one] == sorted(position(one) for one in given if one)
    for one in ids:
        covered = any(position(gap["from"]) <= position(one) <= position(gap["to"]) for gap in gaps)
        assert (one in given) or covered, f"{one} was lost in silence"
    lost = len(ids) - len(given)
    assert sum(gap["count"] for gap in gaps) == lost
    return [one for one in given if one], lost


async def read_up_to(one: Watch, last: str) -> list[Told]:
    """Read events and gaps until an id was given."""
    story: list[Told] = []
    while not story or story[-1].id != last:
        story += await one.story(1)
    return story


class TestDisconnect:
    """The default: the stream ends, and the client resumes from its cursor."""

    async def test_a_slow_client_is_ended_and_resumes(self, transport: str, launch: Launch) -> None:
        """Over its budget a client is told to come back, and finds everything after its last id."""
        url = (await launch(streams=BUDGET)).url
        async with await watch(transport, url, "task:1", receive_buffer=RECEIVE_BUFFER) as one:
            await one.live()
            ids = (await flood(url, 1000, "1"))["1"]
            await until_metric(url, 0, "subscriptions")
            told = await one.to_end()
        *events, reconnect, end = [item for item in told if item.kind not in {"open", "keepalive"}]
        assert reconnect.kind == "reconnect"
        assert reconnect.fields["reason"] == "slow consumer; resume from your cursor"
        assert 0 < reconnect.fields["after_ms"] <= 1000
        assert end.fields == (
            {"code": 4008, "reason": "slow consumer; resume from your cursor"}
            if transport == "ws"
            else {"whole": True}
        )
        seen = [item.id for item in events]
        assert seen == ids[: len(seen)]
        assert 0 < len(seen) < len(ids)
        async with await watch(transport, url, "task:1", after=one.cursor) as again:
            seen += [item.id for item in await again.story(len(ids) - len(seen))]
        assert seen == ids
        await until_metric(url, 1, "streams_ended_total", transport=transport, reason="slow")

    @embedded
    async def test_others_do_not_notice(self, launch: Launch) -> None:
        """Beside a client that reads nothing, others are given everything at once."""
        url = (await launch(streams=BUDGET)).url
        async with (
            await watch("ws", url, "task:1", receive_buffer=RECEIVE_BUFFER) as stalled,
            await watch("ws", url, "task:1") as ws,
            await watch("sse", url, "task:1") as sse,
        ):
            for one in (stalled, ws, sse):
                await one.live()
            given: dict[str, list[Told]] = {}

            async def read(one: Watch) -> None:
                given[one.transport] = await one.story(1000)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, ws)
                nursery.start_soon(read, sse)
                ids = (await flood(url, 1000, "1"))["1"]
            for transport in TRANSPORTS:
                assert [told.id for told in given[transport]] == ids

    async def test_a_long_history_waits_for_its_client(self, transport: str, launch: Launch) -> None:
        """A replay of far more than the budget goes at the pace of the client and ends nobody."""
        url = (await launch(streams=BUDGET)).url
        ids = (await flood(url, 1000, "1"))["1"]
        async with await watch(transport, url, "task:1", after="0-0", receive_buffer=RECEIVE_BUFFER) as one:
            first = await one.story(1)
            # Meanwhile the service has filled what it may; the metric is of the whole service.
            await until_pending(url)
            assert await metric(url, "pending_bytes") < 4 * 1024 * 1024
            assert [told.id for told in first + await one.story(999)] == ids

    @embedded
    async def test_answers_that_are_never_read(self, fast_clock: MockClock, launch: Launch) -> None:
        """A client that asks and asks and reads no answer is ended, not collected for."""
        url = (await launch(streams={"pending_bytes": 16 * 1024})).url
        async with await open_ws(url, receive_buffer=RECEIVE_BUFFER) as one:
            await one.say("subscribe", channel="task:1")
            for _ in range(1000):
                await one.say("ping", ref="x" * 10_000)
            await until_metric(url, 1, "streams_ended_total", transport="ws", reason="slow")


async def test_retention_under_a_replay_is_told(transport: str, launch: Launch, form: Form) -> None:
    """What is removed while a slow client replays is told as a gap in its place; nothing else is missing."""
    served = await launch()
    ids = (await flood(served.url, 1000, "1"))["1"]
    await served.terminate()  # what was published is not in its memory any more
    url = (await launch(streams=BUDGET)).url
    removed = ids[899]
    async with await watch(transport, url, "task:1", after=ids[0], receive_buffer=RECEIVE_BUFFER) as one:
        story = await one.story(1)
        await until_pending(url)
        await form.forget(parse_id(removed))
        story += await read_up_to(one, ids[-1])
    [place] = [index for index, told in enumerate(story) if told.kind == "gap"]
    gap = story.pop(place).fields
    given = [told.id for told in story]
    assert given == ids[1 : place + 1] + ids[900:]
    assert gap == {
        "channel": "task:1",
        "from": format_id(EventId(parse_id(ids[place]) + 1)),
        "to": removed,
        "count": None,
        "reason": "no longer kept",
    }


async def test_an_end_removed_under_its_replay_ends_the_stream(launch: Launch, form: Form) -> None:
    """A finished task's stream whose end is removed before it was given says so and does not stay open."""
    served = await launch()
    ids = (await flood(served.url, 500, "1"))["1"]
    (end,) = await publish(served.url, status("1", "completed"))
    late = (await flood(served.url, 100, "1"))["1"]
    await served.terminate()
    url = (await launch(streams=BUDGET)).url

    async def finished() -> bool:
        return bool((await get(url, "/api/v1/tasks/1"))["status"] == "completed")

    # The distributed form knows it later; a running task's stream would stay open.
    await until(finished)
    async with await open_sse(url, "/api/v1/tasks/1/stream", receive_buffer=RECEIVE_BUFFER) as one:
        story = await one.story(1)
        await until_pending(url)
        await form.forget(parse_id(late[0]))
        story += await one.to_end()
    given = [told.id for told in story if told.kind == "event"]
    assert given == ids[: len(given)]
    assert [told.kind for told in story[-2:]] == ["gap", "end"]
    assert parse_id(story[-2].fields["to"]) == parse_id(late[0]) > parse_id(end)


async def until_pending(url: str) -> None:
    """Wait until something is pending and no more is added."""
    before = -1.0
    while (now := await metric(url, "pending_bytes")) == 0 or now != before:
        before = now
        await trio.sleep(0.02)


@embedded
class TestDropOldest:
    """The oldest make room, and a gap says which."""

    async def test_the_oldest_are_dropped_and_told(self, transport: str, launch: Launch) -> None:
        """A slow client is given what is new and a gap for what is not; both together are everything."""
        url = (await launch(streams=BUDGET)).url
        async with await watch(
            transport, url, "task:1", overflow="drop_oldest", receive_buffer=RECEIVE_BUFFER
        ) as one:
            await one.live()
            ids = (await flood(url, 1500, "1"))["1"]
            story = await read_up_to(one, ids[-1])
        given, lost = accounted(story, ids)
        assert lost > 0
        assert given[-1] == ids[-1]
        gaps = [told.fields for told in story if told.kind == "gap"]
        assert {(gap["channel"], gap["reason"]) for gap in gaps} == {("task:1", "drop_oldest")}
        assert await metric(url, "dropped_events_total", policy="drop_oldest") == lost
        assert len(gaps) < 20

    async def test_one_subscription_of_two(self, launch: Launch) -> None:
        """The policy is the subscription's: another on the same stream loses nothing."""
        url = (await launch(streams={"pending_bytes": 1024 * 1024})).url
        async with await open_ws(url, receive_buffer=RECEIVE_BUFFER) as one:
            await one.say("subscribe", channel="task:1", overflow="drop_oldest")
            await one.say("subscribe", channel="task:2")
            await one.story(2, "subscribed")
            ids: dict[str, list[str]] = {"1": [], "2": []}
            for _ in range(75):
                ids["1"] += (await flood(url, 20, "1"))["1"]
                ids["2"] += await publish(url, output("2", "small"))
            story: list[Told] = []
            while len([told for told in story if told.fields.get("channel") == "task:2"]) < 75 or (
                story[-1].id not in {ids["1"][-1], ids["2"][-1]}
            ):
                story += await one.story(1)
        small = [told.id for told in story if told.kind == "event" and told.fields["channel"] == "task:2"]
        assert small == ids["2"]
        large = [told for told in story if told.fields["channel"] == "task:1"]
        assert any(told.kind == "gap" for told in large)


@embedded
class TestLatest:
    """Only the newest of each channel stays."""

    async def test_the_newest_of_each_channel_survives(self, transport: str, launch: Launch) -> None:
        """A slow client of a pattern is given the newest of each task, and a gap for the rest."""
        url = (await launch(streams=BUDGET)).url
        async with await watch(
            transport, url, "task:*", overflow="latest", receive_buffer=RECEIVE_BUFFER
        ) as one:
            await one.live()
            early = await publish(url, status("quiet", "running"))
            ids = await flood(url, 500, "1", "2", "3")
            everything = sorted([*early, *ids["1"], *ids["2"], *ids["3"]], key=position)
            story = await read_up_to(one, everything[-1])
        given, lost = accounted(story, everything)
        assert lost > 0
        for task in "123":
            assert ids[task][-1] in given
        assert {told.fields["reason"] for told in story if told.kind == "gap"} == {"latest"}
        assert await metric(url, "dropped_events_total", policy="latest") == lost


@embedded
class TestStall:
    """A client that takes nothing at all."""

    async def test_a_stalled_client_is_dropped(
        self, fast_clock: MockClock, transport: str, launch: Launch
    ) -> None:
        """Whatever the policy, who takes no byte for the stall's deadline is ended, then cut off."""
        url = (await launch()).url
        async with await watch(
            transport, url, "task:1", overflow="latest", receive_buffer=RECEIVE_BUFFER
        ) as one:
            await one.live()
            await flood(url, 1000, "1")
            await until_metric(url, 1, "streams_ended_total", transport=transport, reason="slow")
            assert await metric(url, "pending_bytes") == 0
            assert await metric(url, "streams", transport=transport) == 0
