"""What a WebSocket client may say that nobody foresaw."""

import pytest
import structlog
from tests.conformance.clients import PING, TEXT, client_frame, open_ws
from tests.http.conftest import Api, Start, key, output

from heliograph.http.streams.websocket import WebSocketStream


async def test_a_ref_that_can_not_be_written_is_refused(api: Api) -> None:
    """What is nested deeper than JSON is written here is an error that names ``ref``; the stream lives on."""
    async with await open_ws(api.url) as watch:
        for kind in ("ping", "subscribe", "nonsense"):
            for depth in (254, 1000):
                nested = "[" * depth + "]" * depth
                text = f'{{"type": "{kind}", "channel": "task:1", "ref": {nested}}}'
                await watch.send_frame(TEXT, text.encode())
                told = await watch.until("error")
                assert (told.fields["code"], told.fields["ref"]) == ("invalid", None)
                assert told.fields["detail"].startswith("ref: ")
        deep = "[" * 200 + "]" * 200
        await watch.send_frame(TEXT, f'{{"type": "ping", "ref": {deep}}}'.encode())
        assert (await watch.until("pong")).fields["ref"]


async def test_a_message_that_is_no_object_is_told(api: Api) -> None:
    """An error about a message as a whole names no field."""
    async with await open_ws(api.url) as watch:
        await watch.send_frame(TEXT, b"[]")
        assert (await watch.until("error")).fields["detail"] == "a message must be a JSON object"


async def test_a_message_may_begin_with_a_byte_order_mark(api: Api) -> None:
    """It is skipped, as in a request's body."""
    async with await open_ws(api.url) as watch:
        await watch.send_frame(TEXT, b'\xef\xbb\xbf{"type": "ping", "ref": 1}')
        assert (await watch.until("pong")).fields["ref"] == 1


async def test_every_ping_has_its_pong(api: Api) -> None:
    """Pings that come together are answered one by one, in their order."""
    async with await open_ws(api.url) as watch:
        await watch.stream.send_all(b"".join(client_frame(PING, b"%d" % number) for number in range(5)))
        pongs = [await watch.until("pong frame") for _ in range(5)]
    assert [pong.fields["payload"] for pong in pongs] == [b"%d" % number for number in range(5)]


async def test_another_key_ends_what_it_does_not_cover(start: Start) -> None:
    """After a second ``auth`` the subscriptions that the new key may not have are ended, and said to be."""
    keys = (
        key("wide", "wide"),
        key("narrow", "narrow", "task:1"),
    )
    api = await start(auth={"keys": keys})
    async with await open_ws(api.url, headers={"X-API-Key": "wide"}) as watch:
        for channel in ("task:1", "task:2"):
            await watch.say("subscribe", channel=channel)
            await watch.until("subscribed")
        await watch.say("auth", key="narrow")
        assert (await watch.next()).kind == "authenticated"
        assert (await watch.next()).fields == {"channel": "task:2", "ref": None}
        items = [output("2", "secret"), output("1", "mine")]
        await api.publish(*items, headers={"X-API-Key": "wide"})
        assert await watch.outputs(1) == ["mine"]


async def test_those_who_have_not_said_who_they_are_have_a_bound_of_their_own(start: Start) -> None:
    """Sockets before their ``auth`` are few, and take no room from keys."""
    api = await start(auth={"keys": (key("a", "a"),)}, streams={"max_streams_before_auth": 2})
    async with await open_ws(api.url) as one, await open_ws(api.url) as two:
        assert (one.status, two.status) == (101, 101)
        async with await open_ws(api.url) as three:
            assert three.status == 429
        async with await open_ws(api.url, headers={"X-API-Key": "a"}) as known:
            assert known.status == 101
        await one.say("auth", key="a")
        await one.until("authenticated")
        async with await open_ws(api.url) as again:
            assert again.status == 101


async def test_a_key_watches_only_so_many_channels_in_all(start: Start) -> None:
    """The subscriptions of all streams of a key are bounded; what ends makes room."""
    api = await start(streams={"max_subscriptions_per_key": 3})
    async with await open_ws(api.url) as one, await open_ws(api.url) as two:
        for watch, channel in ((one, "task:1"), (one, "task:2"), (two, "task:3")):
            await watch.say("subscribe", channel=channel)
            await watch.until("subscribed")
        await one.say("unsubscribe", channel="task:1")
        await one.until("unsubscribed")
        await two.say("subscribe", channel="task:4")
        await two.until("subscribed")
        await two.say("subscribe", channel="task:5")
        assert (await two.until("error")).fields["code"] == "too_many"
        assert (await two.end())["code"] == 4505


async def test_a_mistake_in_a_message_is_told(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw is logged, and the client hears 1011 instead of nothing."""

    def fail(self: WebSocketStream, request: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(WebSocketStream, "_subscribe", fail)
    with structlog.testing.capture_logs() as logs:
        async with await open_ws(api.url) as watch:
            await watch.say("subscribe", channel="task:1")
            assert (await watch.end())["code"] == 1011
    assert [entry["log_level"] for entry in logs] == ["error"]


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("18446744073709551616", "n: is a whole number beyond 64 bits"),
        ("0.1234567890123456789", "n: is a number beyond what a double tells apart"),
        ("9007199254740993e0", "n: is a number beyond what a double tells apart"),
        ('"cut \\ud83d"', "n has half a character"),
    ],
)
async def test_what_would_be_changed_is_refused_by_its_name_and_ref(api: Api, field: str, said: str) -> None:
    """A message with a number or text that can't be kept is refused as over HTTP; its sender knows which."""
    async with await open_ws(api.url, "/ws/page") as watch:
        for kind in ("ping", "chat.message", "task.input"):
            await watch.send_frame(TEXT, f'{{"type": "{kind}", "ref": [7], "n": {field}}}'.encode())
            told = await watch.until("error")
            assert told.fields["ref"] == [7]
            assert said in told.fields["detail"]
