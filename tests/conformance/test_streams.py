"""The protocol of streams, each case over WebSocket and SSE: where to begin, what to watch, how it ends."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import orjson
import pytest
import trio
from tests.conformance.clients import (
    DEADLINE,
    TEXT,
    TRANSPORTS,
    Told,
    Watch,
    ask,
    client_frame,
    connect,
    get,
    handshake,
    numbers,
    open_sse,
    open_ws,
    output,
    outputs,
    publish,
    status,
    until_found,
    until_metric,
    watch,
)
from tests.conformance.conftest import Launch, embedded
from tests.storages import Form, SqliteForm

from heliograph.config import KeySettings
from heliograph.model.ids import parse_id


def key(name: str, secret: str, *channels: str, scopes: tuple[str, ...] = ("read", "publish")) -> KeySettings:
    """Configure an API key."""
    return KeySettings(name, _sha256(secret), scopes, channels)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


async def ticket_for(url: str, secret: str) -> str:
    """Buy a ticket."""
    answer = await ask(url, "POST", "/api/v1/stream-tickets", {"X-API-Key": secret})
    assert answer.status == 201
    ticket: str = answer.json()["ticket"]
    return ticket


async def next_millisecond() -> None:
    """Let the clock of the ids move on."""
    now = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 <= now + 1:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("end", ["first", "last"])
async def test_a_log_says_that_its_range_has_more(url: str, end: str) -> None:
    """Lines that did not fit in one answer are told, so a range is read whole from either end."""
    await publish(url, *(output("1", "x" * 5000) for _ in range(400)))
    await until_lines(url, "1", 400)
    path = "/api/v1/tasks/1/logs"
    first, last, seqs, more = 1, 400, list[int](), True
    answers = 0
    while more:
        size = "limit=5000" if end == "first" else "tail=5000"
        answer = await get(url, f"{path}?from_seq={first}&to_seq={last}&{size}")
        lines = [line["seq"] for line in answer["lines"]]
        seqs, first, last = (
            (seqs + lines, lines[-1] + 1, last) if end == "first" else (lines + seqs, first, lines[0] - 1)
        )
        more = answer["meta"]["more"]
        answers += 1
    assert seqs == list(range(1, 401))
    assert answers > 1
    size = "limit=10" if end == "first" else "tail=10"
    assert (await get(url, f"{path}?{size}&from_seq=390"))["meta"]["more"]
    assert not (await get(url, f"{path}?{size}&from_seq=391"))["meta"]["more"]


async def until_lines(url: str, task: str, count: int) -> None:
    """Wait until the store has so many lines of a task."""
    await until_found(url, f"/api/v1/tasks/{task}")
    with trio.fail_after(DEADLINE):
        while (await get(url, f"/api/v1/tasks/{task}"))["output_lines"] < count:  # noqa: ASYNC110 - its state
            await trio.sleep(0.05)


class TestWhereToBegin:
    """``after``, ``tail`` and ``Last-Event-ID``."""

    async def test_a_watch_begins_live(self, transport: str, url: str) -> None:
        """Without a position a watcher is given only what happens from then on."""
        await publish_seen(url, *outputs("1", 1, 3))
        async with await watch(transport, url, "task:1") as one:
            await one.live()
            await publish(url, *outputs("1", 4, 6))
            assert await one.outputs(3) == numbers(4, 6)

    async def test_0_0_begins_at_the_oldest_kept(self, transport: str, url: str) -> None:
        """The position 0-0 gives everything that is kept, then what follows, each with its number."""
        await publish(url, *outputs("1", 1, 1200))
        async with await watch(transport, url, "task:1", after="0-0") as one:
            story = await one.story(1200)
            await publish(url, *outputs("1", 1201, 1210))
            story += await one.story(10)
        assert [told.output for told in story] == numbers(1, 1210)
        assert [told.seq for told in story] == list(range(1, 1211))

    async def test_a_cursor_of_rest_is_a_position(self, transport: str, url: str) -> None:
        """What a publisher or a list was answered is where a stream goes on, without a hole or a double."""
        ids = await publish(url, *outputs("1", 1, 5))
        async with await watch(transport, url, "task:1", after=ids[2]) as one:
            assert await one.outputs(2) == ["4", "5"]
        listed = await get(url, "/api/v1/events?channel=task:1")
        seen = [event["payload"]["output"] for event in reversed(listed["events"])]
        await publish(url, *outputs("1", 6, 7))
        async with await watch(transport, url, "task:1", after=listed["meta"]["stream_cursor"]) as one:
            assert seen + await one.outputs(7 - len(seen)) == numbers(1, 7)
        await until_found(url, "/api/v1/tasks/1")
        snapshot = await get(url, "/api/v1/tasks/1")
        while parse_id(snapshot["meta"]["stream_cursor"]) < parse_id(snapshot["last_event_id"]):
            snapshot = await get(url, "/api/v1/tasks/1")  # it may be newer than its cursor, never older
        await publish(url, output("1", "8"))
        last: int = snapshot["last_seq"]
        async with await watch(transport, url, "task:1", after=snapshot["meta"]["stream_cursor"]) as one:
            assert await one.outputs(8 - last) == numbers(last + 1, 8)

    async def test_a_time_is_a_position(self, transport: str, url: str) -> None:
        """An ISO time, with or without an offset, gives everything from that moment on."""
        await publish(url, *outputs("1", 1, 3))
        await next_millisecond()
        moment = datetime.now(UTC)
        await publish(url, *outputs("1", 4, 5))
        for text in (moment.isoformat(), moment.replace(tzinfo=None).isoformat()):
            async with await watch(transport, url, "task:1", after=text) as one:
                assert await one.outputs(2) == ["4", "5"]

    async def test_the_present_time_begins_live(self, transport: str, url: str) -> None:
        """A time after the newest event is no cursor ahead of the log: the stream goes on from now."""
        await publish_seen(url, output("1", "old"))
        await next_millisecond()
        async with await watch(transport, url, "task:1", after=datetime.now(UTC).isoformat()) as one:
            await one.live()
            await next_millisecond()
            await publish(url, output("1", "new"))
            assert await one.outputs(1) == ["new"]

    async def test_a_tail_comes_first(self, transport: str, url: str) -> None:
        """``tail`` gives the last events in order and goes on with what follows."""
        await publish(url, *outputs("1", 1, 50))
        async with await watch(transport, url, "task:1", tail=3) as one:
            assert await one.outputs(3) == numbers(48, 50)
            await publish(url, *outputs("1", 51, 52))
            assert await one.outputs(2) == ["51", "52"]

    async def test_a_tail_is_whole_however_large(self, transport: str, url: str) -> None:
        """A tail of more bytes than any page of the log gives exactly as many events as were asked for."""
        ids = await publish(url, *(output("1", "x" * 5000) for _ in range(400)))
        async with await watch(transport, url, "task:1", tail=350) as one:
            assert [told.id for told in await one.story(350)] == ids[50:]

    async def test_a_tail_of_nothing_can_be_resumed(self, transport: str, url: str) -> None:
        """A tail that finds no event still says where the stream begins, so a reconnect misses nothing."""
        async with await watch(transport, url, "task:1", tail=2) as one:
            cursor = await one.live()
        await publish(url, *outputs("1", 1, 5))
        async with await watch(transport, url, "task:1", after=cursor) as one:
            assert await one.outputs(5) == numbers(1, 5)

    async def test_a_tail_counts_what_the_filter_passes(self, transport: str, url: str) -> None:
        """A tail with a topic has that many events of that topic."""
        for number in range(1, 6):
            await publish(url, output("1", str(number)), status("1", "running"))
        async with await watch(transport, url, "task:1", tail=2, topic="task.output") as one:
            assert await one.outputs(2) == ["4", "5"]

    async def test_the_header_wins_over_the_query(self, url: str) -> None:
        """An EventSource reconnects with the query of its first connect; its Last-Event-ID counts."""
        ids = await publish(url, *outputs("1", 1, 5))
        path = "/api/v1/events/stream?channel=task:1&after=0-0&tail=1"
        async with await open_sse(url, path, {"Last-Event-ID": ids[3]}) as one:
            assert await one.outputs(1) == ["5"]
        async with await open_sse(url, path, {"Last-Event-ID": "1970-01-01T00:00:00Z"}) as one:
            assert await one.outputs(5) == numbers(1, 5)

    async def test_http_1_0_gets_the_same_blocks_bare(self, url: str) -> None:
        """Without chunks the same blocks go out, and the end is the end of the connection."""
        await publish(url, *outputs("1", 1, 3), status("1", "completed"))
        await until_found(url, "/api/v1/tasks/1")
        async with await open_sse(url, "/api/v1/tasks/1/stream", version="1.0") as one:
            assert [told.fields["topic"] for told in await one.story(4)] == [
                *["task.output"] * 3,
                "task.status",
            ]
            await one.end()

    @embedded
    @pytest.mark.parametrize(
        "after", ["x", "1-2-3", "9998000000000000-0", "-1-0", "2026-99-99T00:00:00Z", "1"]
    )
    async def test_a_foreign_position(self, transport: str, url: str, after: str) -> None:
        """No position of ours: a WebSocket hears an error that names the field, an event stream a reset."""
        async with await watch(transport, url, "task:1", after=after) as one:
            if transport == "sse":
                assert (await one.next()).kind == "open"
                reset = await one.next()
                assert (reset.kind, reset.fields["reason"]) == (
                    "reset",
                    "the cursor is none of this service's",
                )
                await publish(url, output("1", "new"))
                assert await one.outputs(1) == ["new"]
                return
            error = await one.until("error")
            assert error.fields["code"] == "invalid"
            assert error.fields["detail"].startswith("after:")
            await one.say("ping")
            await one.until("pong")


async def publish_seen(url: str, *items: dict[str, Any]) -> list[str]:
    """Publish items of tasks; return their ids once a watcher has been given them.

    A node of the distributed form answers a publisher before it hears of the events itself. What is
    watched is a selection that no test has, so that its ring keeps nothing for them.
    """
    async with await watch("sse", url, "task:*", topic="task.*") as one:
        await one.live()
        ids = await publish(url, *items)
        await one.story(len(items))
    return ids


class TestLoss:
    """A position that can't be honoured is never met with silence."""

    async def test_a_cursor_ahead_of_the_log(self, transport: str, url: str) -> None:
        """A cursor that the log never gave is answered by a reset, and the stream goes on live."""
        (head,) = await publish_seen(url, output("1", "1"))
        ahead = f"{int(head.split('-')[0]) + 10**9}-0"
        async with await watch(transport, url, "task:1", after=ahead) as one:
            reset = await one.until("reset")
            assert parse_id(reset.fields.pop("head")) >= parse_id(head)  # the service adds events of its own
            assert reset.fields == {
                "channel": "task:1",
                "oldest": "0-0",
                "reason": "the cursor is ahead of the log",
            }
            await publish(url, output("1", "2"))
            assert await one.outputs(1) == ["2"]

    async def test_a_cursor_of_another_log(self, transport: str, url: str) -> None:
        """A cursor from before the log began is answered by a reset, though newer events have come since.

        So is one while a watcher from the log's very beginning is there, whose events memory has whole.
        """
        begun = time.time_ns() // 1_000_000
        async with await watch(transport, url, "task:1", after="0-0") as first:
            await publish(url, output("1", "1"))
            assert await first.outputs(1) == ["1"]
            async with await watch(transport, url, "task:1", after=f"{begun - 3_600_000}-0") as one:
                reset = await one.until("reset")
                assert reset.fields["reason"] == "the log has lost the cursor's event"
                await publish(url, output("1", "2"))
                assert await one.outputs(1) == ["2"]

    async def test_a_reset_moves_the_cursor(self, transport: str, url: str) -> None:
        """After a reset the client's cursor is one that the log knows, so it is not reset for ever."""
        (head,) = await publish_seen(url, output("1", "1"))
        async with await watch(transport, url, "task:1", after="8000000000000-0") as one:
            if transport == "ws":
                subscribed = await one.until("subscribed")
                assert subscribed.fields["recovered"] is False
                begin = subscribed.fields["cursor"]
            else:
                begin = await one.live()
            assert parse_id(head) <= parse_id(begin) < parse_id("8000000000000-0")

    async def test_a_trimmed_cursor(self, transport: str, launch: Launch, form: Form) -> None:
        """A cursor older than what is kept is answered by a reset with the range, then live events."""
        url = (await launch()).url
        ids = await publish_seen(url, *outputs("1", 1, 5), output("2", "other"))
        await form.forget(parse_id(ids[2]))
        for channel in ("task:1", "task:*", "*"):
            async with await watch(transport, url, channel, after=ids[0]) as one:
                reset = await one.until("reset")
                head = reset.fields.pop("head")
                assert parse_id(head) >= parse_id(ids[5])  # the service adds events of its own
                assert reset.fields == {
                    "channel": channel,
                    "oldest": ids[2],
                    "reason": "events after the cursor are no longer kept",
                }
        async with await watch(transport, url, "task:1", after=ids[2]) as one:
            assert await one.outputs(2) == ["4", "5"]
        async with await watch(transport, url, "task:2", after=ids[0]) as one:
            assert await one.outputs(1) == ["other"]
        async with await watch(transport, url, "task:1", after="0-0") as one:
            assert await one.outputs(2) == ["4", "5"]

    @embedded
    async def test_a_cursor_moves_only_behind_its_reset(self, launch: Launch, form: Form) -> None:
        """An event stream that is cut before its reset was read leaves the client with the cursor it had."""
        url = (await launch()).url
        ids = await publish_seen(url, *outputs("1", 1, 5))
        await form.forget(parse_id(ids[2]))
        async with await watch("sse", url, "task:1", after=ids[0]) as one:
            first = await one.story(2, "open", "reset", "event")
        assert [told.kind for told in first] == ["open", "reset"]
        assert first[0].id == ids[0]
        assert first[1].id == first[1].fields["head"]

    @embedded  # the other form has two places to read from; what their outages do is chaos
    async def test_a_log_that_can_not_be_read(self, transport: str, launch: Launch, form: SqliteForm) -> None:
        """A failing log is told inside the stream, and everything goes on when it is back."""
        url = (await launch()).url
        ids = await publish(url, *outputs("1", 1, 3))
        form.execute("ALTER TABLE events RENAME TO away")
        async with await watch(transport, url, "task:1", after="0-0") as one:
            if transport == "ws":
                error = await one.until("error")
                assert error.fields["code"] == "unavailable"
                form.execute("ALTER TABLE away RENAME TO events")
                await one.say("subscribe", channel="task:1", after=ids[0])
                assert await one.outputs(2) == ["2", "3"]
            else:
                told = await one.until("reconnect")
                assert told.fields["reason"] == "the log can not be read now"
                assert told.fields["after_ms"] > 0
                assert await one.end() == {"whole": True}
                form.execute("ALTER TABLE away RENAME TO events")


class TestComingBack:
    """A stream that was ended goes on, from the cursor that it was ended with."""

    async def test_a_planned_end(self, transport: str, launch: Launch) -> None:
        """After a rotation, whose notice carries the cursor, everything that came meanwhile is there."""
        url = (await launch(streams={"rotate_seconds": 0.5})).url
        await publish(url, *outputs("1", 1, 3))
        async with await watch(transport, url, "task:1", after="0-0") as one:
            told = await one.to_end()
        seen = [item.output for item in told if item.kind == "event"]
        [cursor] = [item.fields["cursor"] for item in told if item.kind == "reconnect"]
        await publish(url, *outputs("1", 4, 6))
        async with await watch(transport, url, "task:1", after=cursor) as again:
            assert seen + await again.outputs(6 - len(seen)) == numbers(1, 6)

    async def test_a_restart(self, transport: str, launch: Launch) -> None:
        """A stream of a service that was stopped goes on where it was started again on the same data."""
        served = await launch(server={"drain_seconds": 0.1})
        async with await watch(transport, served.url, "task:1", after="0-0") as one:
            await publish(served.url, *outputs("1", 1, 3))
            assert await one.outputs(3) == numbers(1, 3)
            await served.terminate()
            cursor = (await one.until("reconnect")).fields["cursor"]
        url = (await launch()).url
        async with await watch(transport, url, "task:1", after=cursor) as again:
            await publish(url, *outputs("1", 4, 6))
            story = await again.story(3)
        assert [told.output for told in story] == numbers(4, 6)
        assert [told.seq for told in story] == [4, 5, 6]

    async def test_behind_a_filter(self, launch: Launch) -> None:
        """Keepalives move the client's cursor past what a filter hides, to where it can go on from."""
        url = (await launch(streams={"keepalive_seconds": 0.1})).url
        async with await watch("sse", url, "task:1", topic="task.status") as one:
            await one.live()
            ids = await publish(url, *outputs("1", 1, 5))
            while parse_id(one.cursor or "0-0") < parse_id(ids[-1]):
                await one.until("keepalive")
        await publish(url, output("1", "6"))
        async with await watch("sse", url, "task:1", after=one.cursor) as again:
            assert await again.outputs(1) == ["6"]


class TestWhatToWatch:
    """Channels, patterns and filters."""

    async def test_a_channel_is_isolated(self, transport: str, url: str) -> None:
        """A watcher of one channel is given nothing of another, not even of one with a longer name."""
        async with await watch(transport, url, "task:1") as one:
            await one.live()
            await publish(url, output("2", "other"), output("10", "longer"), output("1", "own"))
            assert await one.outputs(1) == ["own"]

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("task:*", ["task:1", "task:2"]),
            ("workflow:*", ["workflow:w"]),
            ("*", ["task:1", "workflow:w", "task:2", "topic:deploy.done"]),
        ],
    )
    async def test_patterns(self, transport: str, url: str, pattern: str, expected: list[str]) -> None:
        """A pattern gives every channel of its kind, a star everything, replayed and live alike."""
        items = [
            output("1", "a"),
            {"topic": "pipeline.started", "payload": {"workflow_id": "w"}},
            output("2", "b"),
            {"topic": "deploy.done", "payload": {"n": 1}},
        ]
        await publish(url, *items)
        async with await watch(transport, url, pattern, after="0-0") as one:
            replayed = await self._published(one, len(expected))
            await publish(url, *items)
            live = await self._published(one, len(expected))
        assert [told.fields["channel"] for told in replayed] == expected
        assert [told.fields["channel"] for told in live] == expected
        assert {told.fields["channel"]: told.seq for told in live} == dict.fromkeys(expected, 2)

    async def _published(self, one: Watch, count: int) -> list[Told]:
        """Take events, without those that the service itself adds about them."""
        story: list[Told] = []
        while len(story) < count:
            told = await one.until("event", "gap", "reset")
            if told.fields["channel"] != "analytics":
                story.append(told)
        return story

    async def test_several_channels(self, transport: str, url: str) -> None:
        """One stream takes several channels; each is in order and whole, replayed and live."""
        for number in range(1, 21):
            await publish(url, *(output(task, str(number)) for task in "abcd"))
        async with await watch(transport, url, "task:a", "task:c", after="0-0") as one:
            story = await one.story(40)
            await publish(url, *(output(task, "21") for task in "abcd"))
            story += await one.story(2)
        for task in "ac":
            mine = [told.output for told in story if told.fields["channel"] == f"task:{task}"]
            assert mine == numbers(1, 21)
        if transport == "sse":
            ids = [tuple(map(int, told.id.split("-"))) for told in story if told.id]
            assert ids == sorted(ids)

    async def test_many_channels(self, transport: str, url: str) -> None:
        """Two hundred channels on one stream are each given their own events."""
        names = [f"t{number}" for number in range(200)]
        async with await watch(transport, url, *(f"task:{name}" for name in names)) as one:
            if transport == "ws":
                await one.story(200, "subscribed")
            else:
                await one.live()
            await publish(url, *(output(name, name) for name in names))
            story = await one.story(200)
        assert sorted(told.output for told in story) == sorted(names)
        assert {told.seq for told in story} == {1}

    async def test_topics(self, transport: str, url: str) -> None:
        """A topic filter passes what it names; a pattern passes what is below it."""
        items = [
            output("1", "x"),
            status("1", "running"),
            {"topic": "pipeline.done", "payload": {"task_id": "1"}},
        ]
        await publish(url, *items)
        for topic, expected in {
            "task.status": ["task.status"],
            "task.*": ["task.output", "task.status"],
            "pipeline.*": ["pipeline.done"],
            "*": ["task.output", "task.status", "pipeline.done"],
        }.items():
            async with await watch(transport, url, "task:1", topic=topic, after="0-0") as one:
                story = await one.story(len(expected))
                assert [told.fields["topic"] for told in story] == expected

    async def test_every_form_of_event(self, transport: str, url: str) -> None:
        """Payloads arrive whole, whatever kinds of newline, quotes or other alphabets are in them."""
        text = 'a\nb\r\nc\rd\u2028e\u2029 "quoted" \\ 日本 🙂 data: x\n\nid: 9\n\nevent: y'
        items: list[dict[str, Any]] = [
            output("1", text),
            status("1", "completed"),
            {"topic": "x.y", "channel": "task:1", "payload": {"deep": [1, {"two": None}]}, "sender": "me"},
        ]
        items[1]["payload"]["result"] = {"cost_usd": 0.25, "stdout": text}
        await publish(url, *items)
        async with await watch(transport, url, "task:1", after="0-0") as one:
            first, second, third = await one.story(3)
        assert first.output == text
        assert second.fields["payload"]["status"] == "completed"
        assert second.fields["payload"]["result"] == {"cost_usd": 0.25, "stdout": text}
        assert third.fields["payload"] == {"deep": [1, {"two": None}]}
        assert (third.fields["topic"], third.fields["sender"]) == ("x.y", "me")

    @embedded
    @pytest.mark.parametrize("channel", ["", "task", "task:", "task:a/b", "nonsense:1", "task:**", "x" * 300])
    async def test_an_unknown_form_of_channel_is_refused(
        self, transport: str, url: str, channel: str
    ) -> None:
        """What is neither channel nor pattern is answered by an error that says what exists."""
        async with await watch(transport, url, channel) as one:
            if transport == "sse" and channel:
                assert one.status == 422
            elif transport == "sse":
                assert one.status == 200  # an empty parameter is an absent one
            else:
                error = await one.until("error")
                assert error.fields["code"] == "invalid"
                assert "task:{id}" in error.fields["detail"]

    async def test_unsubscribe(self, url: str) -> None:
        """A channel that was left is silent; the others go on."""
        async with await watch("ws", url, "task:1", "task:2") as one:
            await one.story(2, "subscribed")
            await publish(url, output("1", "a"))
            assert await one.outputs(1) == ["a"]
            await one.say("unsubscribe", channel="task:1", ref=7)
            assert (await one.until("unsubscribed")).fields == {"channel": "task:1", "ref": 7}
            await publish(url, output("1", "b"), output("2", "c"))
            assert await one.outputs(1) == ["c"]
            await one.say("unsubscribe", channel="task:1")
            assert (await one.until("error")).fields["code"] == "invalid"

    async def test_resubscribe(self, url: str) -> None:
        """Subscribing again begins anew at the position that is named, and nothing comes twice after that."""
        ids = await publish(url, *outputs("1", 1, 4))
        async with await watch("ws", url, "task:1", after="0-0") as one:
            assert await one.outputs(4) == numbers(1, 4)
            await one.say("subscribe", channel="task:1", after=ids[1])
            assert (await one.until("subscribed")).fields["recovered"] is True
            assert await one.outputs(2) == ["3", "4"]
            await publish(url, output("1", "5"), output("1", "6"))
            assert await one.outputs(2) == ["5", "6"]
            await one.say("unsubscribe", channel="task:1")
            await one.until("unsubscribed")
            await one.say("subscribe", channel="task:1", after=ids[3])
            assert await one.outputs(2) == ["5", "6"]

    async def test_overlapping_subscriptions(self, url: str) -> None:
        """Each subscription of a WebSocket is given what it asked for, also where two overlap."""
        async with await watch("ws", url, "task:1", "task:*") as one:
            await one.story(2, "subscribed")
            await publish(url, output("1", "a"))
            assert await one.outputs(2) == ["a", "a"]


class TestEndOfATask:
    """The stream of one task, ``/api/v1/tasks/{id}/stream``."""

    async def test_it_ends_with_the_terminal_event(self, url: str) -> None:
        """A task's stream gives the task from its beginning and ends with the event that finishes it."""
        await publish(url, *outputs("1", 1, 3))
        await until_found(url, "/api/v1/tasks/1")
        async with await open_sse(url, "/api/v1/tasks/1/stream") as one:
            assert await one.outputs(3) == numbers(1, 3)
            await publish(url, output("1", "4"), status("1", "completed"), output("1", "late"))
            assert await one.outputs(1) == ["4"]
            assert (await one.until("event")).fields["payload"]["status"] == "completed"
            assert [told.kind for told in await one.to_end()] == ["end"]

    async def test_a_finished_task_is_replayed_and_ends(self, url: str) -> None:
        """Whoever comes after the end is given the whole and the end."""
        await publish(url, *outputs("1", 1, 3), status("1", "failed"), output("1", "late"))
        await until_found(url, "/api/v1/tasks/1")
        async with await open_sse(url, "/api/v1/tasks/1/stream") as one:
            told = await one.to_end()
        assert [one.kind for one in told] == ["open", "event", "event", "event", "event", "end"]
        assert told[-1].fields == {"whole": True}

    @pytest.mark.parametrize(("tail", "story"), [(1, []), (3, []), (4, []), (5, ["3"]), (9, ["1", "2", "3"])])
    async def test_a_tail_ends_with_the_terminal_event(self, url: str, tail: int, story: list[str]) -> None:
        """However short a finished task's tail is, and whatever came later, its stream ends with its end."""
        late = [output("1", text) for text in ("late", "later", "latest")]
        await publish(url, *outputs("1", 1, 3), status("1", "completed"), *late)
        await until_found(url, "/api/v1/tasks/1")
        async with await open_sse(url, f"/api/v1/tasks/1/stream?tail={tail}") as one:
            assert await one.outputs(len(story)) == story
            assert (await one.until("event")).fields["payload"]["status"] == "completed"
            assert [told.kind for told in await one.to_end()] == ["end"]

    async def test_who_has_seen_the_end_gets_204(self, url: str) -> None:
        """An EventSource that reconnects after the end is told to stop."""
        await publish(url, output("1", "1"), status("1", "completed"))
        await until_found(url, "/api/v1/tasks/1")
        async with await open_sse(url, "/api/v1/tasks/1/stream") as one:
            await one.to_end()
        async with await open_sse(
            url, "/api/v1/tasks/1/stream", {"Last-Event-ID": one.cursor or ""}
        ) as again:
            assert again.status == 204

    @pytest.mark.parametrize("query", ["", "?tail=2", "?after=0-0", "?after=2020-01-01T00:00:00Z"])
    async def test_an_end_that_is_no_longer_kept(self, launch: Launch, form: Form, query: str) -> None:
        """A finished task whose end retention has removed is told so once; after that its client stops."""
        url = (await launch()).url
        ids = await publish(url, output("1", "1"), status("1", "completed"))
        await form.forget(parse_id(ids[1]))
        async with await open_sse(url, f"/api/v1/tasks/1/stream{query}") as one:
            told = await one.to_end()
        assert [each.kind for each in told] == ["open", "reset", "end"]
        assert told[1].fields["oldest"] == ids[1]
        async with await open_sse(
            url, "/api/v1/tasks/1/stream", {"Last-Event-ID": one.cursor or ""}
        ) as again:
            assert again.status == 204

    async def test_a_cursor_before_what_is_kept_is_reset_to_that(self, launch: Launch, form: Form) -> None:
        """Who comes back to a finished task too late is told so, and given what is kept up to its end."""
        url = (await launch()).url
        ids = await publish_seen(url, *outputs("1", 1, 3), status("1", "completed"), output("1", "late"))
        await until_found(url, "/api/v1/tasks/1")
        await form.forget(parse_id(ids[1]))
        async with await open_sse(url, "/api/v1/tasks/1/stream", {"Last-Event-ID": ids[0]}) as one:
            told = await one.to_end()
        assert [each.kind for each in told] == ["open", "reset", "event", "event", "end"]
        assert [each.id for each in told[2:4]] == ids[2:4]

    async def test_an_unknown_task_is_404(self, url: str) -> None:
        """There is no stream of a task that nobody has heard of."""
        async with await open_sse(url, "/api/v1/tasks/nobody/stream") as one:
            assert one.status == 404


@embedded
class TestErrors:
    """What a client gets wrong is answered, and the stream goes on."""

    @pytest.mark.parametrize(
        ("text", "code", "detail"),
        [
            ("{", "malformed", "not valid JSON"),
            ("[1]", "invalid", "JSON object"),
            ("{}", "invalid", "type"),
            ('{"type": 1}', "invalid", "type"),
            ('{"type": "shout"}', "invalid", "type"),
            ('{"type": "subscribe"}', "invalid", "channel"),
            ('{"type": "subscribe", "channel": 5}', "invalid", "channel"),
            ('{"type": "subscribe", "channel": "task:1", "from": 1}', "invalid", "from"),
            ('{"type": "subscribe", "channel": "task:1", "tail": -1}', "invalid", "tail"),
            ('{"type": "subscribe", "channel": "task:1", "tail": true}', "invalid", "tail"),
            ('{"type": "subscribe", "channel": "task:1", "tail": 1e9}', "invalid", "tail"),
            ('{"type": "subscribe", "channel": "task:1", "after": 5}', "invalid", "after"),
            ('{"type": "subscribe", "channel": "task:1", "overflow": "block"}', "invalid", "overflow"),
            ('{"type": "subscribe", "channel": "task:1", "topic": "a b"}', "invalid", "topic"),
            ('{"type": "unsubscribe", "channel": "task:9"}', "invalid", "channel"),
            ('{"type": "ping", "x": "\\ud800"}', "malformed", "not valid JSON"),
        ],
    )
    async def test_a_bad_message_gets_an_error(self, url: str, text: str, code: str, detail: str) -> None:
        """Each mistake is named, and the next message is served."""
        async with await open_ws(url) as one:
            await one.send_frame(TEXT, text.encode())
            error = await one.until("error")
            assert error.fields["code"] == code
            assert detail in error.fields["detail"]
            await one.say("subscribe", channel="task:1", ref={"any": ["thing"]})
            assert (await one.until("subscribed")).fields["ref"] == {"any": ["thing"]}

    async def test_binary_messages_get_one_error(self, url: str) -> None:
        """A binary message is answered once, however many frames it came in."""
        async with await open_ws(url) as one:
            await one.stream.send_all(
                client_frame(2, b"\0" * 500, fin=False)
                + client_frame(0, b"\0" * 500, fin=False)
                + client_frame(0, b"\0", fin=True)
            )
            await one.say("ping")
            assert [(await one.next()).kind for _ in range(2)] == ["error", "pong"]

    @pytest.mark.parametrize(
        "query",
        ["tail=-1", "tail=x", "tail=1_0", "tail=99999999", "overflow=block", "topic=a b", "nonsense=1"],
    )
    async def test_a_bad_query_is_refused(self, url: str, query: str) -> None:
        """Each mistake is named in a problem document, before a stream begins."""
        answer = await ask(url, "GET", f"/api/v1/events/stream?channel=task:1&{quote(query, safe='=')}")
        assert answer.status == 422
        assert answer.json()["errors"][0]["field"] == query.partition("=")[0]

    async def test_messages_in_pieces(self, url: str) -> None:
        """A message may come byte by byte and in fragments, with pings between."""
        message = orjson.dumps({"type": "ping", "ref": "é" * 20})
        frames = b"".join(
            client_frame(TEXT if at == 0 else 0, message[at : at + 1], fin=at == len(message) - 1)
            + client_frame(9, b"%d" % at)
            for at in range(len(message))
        )
        async with await open_ws(url) as one:
            for at in range(len(frames)):
                await one.stream.send_all(frames[at : at + 1])
            assert (await one.until("pong")).fields["ref"] == "é" * 20

    async def test_what_is_sent_with_the_handshake_counts(self, url: str) -> None:
        """Messages that come in one packet with the handshake are served like any other."""
        await publish(url, output("1", "1"))
        stream = await connect(url)
        message = orjson.dumps({"type": "subscribe", "channel": "task:1", "after": "0-0"})
        await stream.send_all(handshake(url) + client_frame(TEXT, message))
        async with Watch("ws", stream) as one:
            await one.read_head()
            assert await one.outputs(1) == ["1"]

    async def test_no_compression_is_negotiated(self, url: str) -> None:
        """An offer of compression is not taken, since everybody gets the same bytes."""
        async with await open_ws(url) as one:
            assert one.status == 101
            assert "sec-websocket-extensions" not in one.headers


@embedded
class TestLimits:
    """Every limit has its answer."""

    async def test_channels_per_stream(self, transport: str, launch: Launch) -> None:
        """More channels than allowed end a WebSocket with 4505 and refuse an event stream."""
        url = (await launch(streams={"max_channels": 3})).url
        async with await watch(transport, url, "task:1", "task:2", "task:3", "task:4") as one:
            if transport == "sse":
                assert one.status == 422
            else:
                told = await one.to_end()
                assert [item.kind for item in told] == ["subscribed"] * 3 + ["error", "end"]
                assert told[-2].fields["code"] == "too_many"
                assert told[-1].fields["code"] == 4505
        async with await watch(transport, url, "task:1", "task:2", "task:3") as one:
            await one.live()

    async def test_message_size(self, launch: Launch) -> None:
        """A message as large as allowed is read, a larger one ends the stream with 1009."""
        url = (await launch(streams={"max_message_bytes": 1000})).url
        empty = len(orjson.dumps({"type": "ping", "ref": ""}))
        async with await open_ws(url) as one:
            await one.say("ping", ref="x" * (1000 - empty))
            await one.until("pong")
            await one.say("ping", ref="x" * (1001 - empty))
            assert (await one.end())["code"] == 1009

    @pytest.mark.parametrize("whole", [True, False])
    async def test_streams_in_all(self, transport: str, launch: Launch, whole: bool) -> None:
        """One stream too many is refused so that it comes back by itself, and taken when there is room."""
        limit = "max_streams" if whole else "max_streams_per_key"
        url = (await launch(streams={limit: 2})).url
        async with await watch("ws", url, "task:1") as one, await watch("sse", url, "task:1") as two:
            await one.live()
            await two.live()
            async with (
                await watch(transport, url, "task:1") if transport == "sse" else await open_ws(url) as three
            ):
                if transport == "sse":
                    # Anything else than 200 would end an EventSource for good.
                    assert three.status == 200
                    told = await three.to_end()
                    assert [item.kind for item in told] == ["reconnect", "end"]
                    assert 5000 <= told[0].fields["retry"] <= 30000
                else:
                    assert three.status in {429, 503}
                    assert int(three.headers["retry-after"]) >= 1
            await until_metric(url, 1, "streams_refused_total", transport=transport, reason=limit)
        for name in TRANSPORTS:
            await until_metric(url, 0, "streams", transport=name)
        async with await watch(transport, url, "task:1") as one:
            await one.live()

    async def test_streams_per_key_counts_who_said_auth(self, launch: Launch) -> None:
        """A WebSocket that says who it is counts for that key from then on."""
        keys = (key("a", "sa"), key("b", "sb"))
        url = (await launch(auth={"keys": keys}, streams={"max_streams_per_key": 1})).url
        async with await open_ws(url) as one, await open_ws(url, headers={"X-API-Key": "sb"}) as two:
            await one.say("auth", key="sa")
            await one.until("authenticated")
            assert two.status == 101
            async with await open_ws(url, headers={"X-API-Key": "sa"}) as three:
                assert three.status in {429, 503}
            async with await open_ws(url) as four:
                await four.say("auth", key="sb")
                assert (await four.until("error")).fields["code"] == "too_many"
                assert (await four.end())["code"] == 1013  # below 4500: come back


@embedded
class TestWhoMayWatch:
    """Keys, tickets, channels and origins."""

    async def test_a_key_in_a_header(self, transport: str, launch: Launch) -> None:
        """Both headers are read; a wrong key is refused at the handshake."""
        url = (await launch(auth={"keys": (key("a", "secret"),)})).url
        for headers in ({"X-API-Key": "secret"}, {"Authorization": "Bearer secret"}):
            async with await watch(transport, url, "task:1", headers=headers) as one:
                await one.live()
        if transport == "sse":
            for wrong in ({}, {"X-API-Key": "wrong"}):
                async with await watch(transport, url, "task:1", headers=wrong) as one:
                    assert one.status == 401
        else:
            async with await open_ws(url, headers={"X-API-Key": "wrong"}) as one:
                assert one.status == 401

    async def test_auth_as_the_first_message(self, launch: Launch) -> None:
        """A WebSocket may say its key; a wrong one, or none, ends it with 4500."""
        url = (await launch(auth={"keys": (key("a", "secret"),)})).url
        async with await open_ws(url) as one:
            await one.say("auth", key="secret", ref=1)
            assert (await one.until("authenticated")).fields == {"name": "a", "ref": 1}
            await one.say("subscribe", channel="task:1")
            await one.until("subscribed")
        for message in (
            {"type": "auth", "key": "wrong"},
            {"type": "auth"},
            {"type": "subscribe", "channel": "*"},
        ):
            async with await open_ws(url) as one:
                await one.send_frame(TEXT, orjson.dumps(message))
                error = await one.until("error")
                assert error.fields["code"] == "unauthenticated"
                assert (await one.end())["code"] == 4500

    async def test_a_ticket(self, transport: str, launch: Launch) -> None:
        """A key buys a ticket for the query string; a forged one is refused."""
        url = (await launch(auth={"keys": (key("a", "secret"),)})).url
        ticket = await ticket_for(url, "secret")
        for text, allowed in ((ticket, True), (f"{ticket[:-2]}xx", False)):
            if transport == "ws":
                opened = await open_ws(url, f"/ws?ticket={text}")
            else:
                opened = await open_sse(url, f"/api/v1/events/stream?channel=task:1&ticket={text}")
            async with opened as one:
                if not allowed:
                    assert one.status == 401
                    continue
                if transport == "ws":
                    await one.say("subscribe", channel="task:1")
                await one.live()

    async def test_a_ticket_as_the_first_message(self, launch: Launch) -> None:
        """A ticket may also be said."""
        url = (await launch(auth={"keys": (key("a", "secret"),)})).url
        ticket = await ticket_for(url, "secret")
        async with await open_ws(url) as one:
            await one.say("auth", ticket=ticket)
            await one.until("authenticated")

    @pytest.mark.parametrize("channel", ["task:2", "task:*", "*", "conversation:*"])
    async def test_a_forbidden_channel(self, transport: str, launch: Launch, channel: str) -> None:
        """A key watches its own channels only: 4503 on a WebSocket, 403 before an event stream."""
        keys = (key("a", "secret", "task:1", "workflow:*"),)
        url = (await launch(auth={"keys": keys})).url
        headers = {"X-API-Key": "secret"}
        for allowed in ("task:1", "workflow:7", "workflow:*"):
            async with await watch(transport, url, allowed, headers=headers) as one:
                await one.live()
        async with await watch(transport, url, channel, headers=headers) as one:
            if transport == "sse":
                assert one.status == 403
            else:
                assert (await one.until("error")).fields["code"] == "forbidden"
                assert (await one.end())["code"] == 4503

    async def test_the_scope_read_is_needed(self, transport: str, launch: Launch) -> None:
        """A key that may only publish watches nothing."""
        url = (await launch(auth={"keys": (key("a", "secret", scopes=("publish",)),)})).url
        async with await watch(transport, url, "task:1", headers={"X-API-Key": "secret"}) as one:
            if transport == "sse":
                assert one.status == 403
            else:
                assert (await one.end())["code"] == 4503

    async def test_origins(self, transport: str, launch: Launch) -> None:
        """A page of another origin opens no WebSocket and may not read an event stream."""
        url = (await launch(server={"cors_origins": ("https://board.example",)})).url
        for origin, allowed in {
            url: True,
            "https://board.example": True,
            "https://evil.example": False,
        }.items():
            headers = {"Origin": origin}
            if transport == "ws":
                async with await open_ws(url, headers=headers) as one:
                    assert one.status == (101 if allowed else 403)
            else:
                async with await watch("sse", url, "task:1", headers=headers) as one:
                    granted = one.headers.get("access-control-allow-origin")
                    assert granted == (origin if allowed else None)
