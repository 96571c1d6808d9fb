"""What a WebSocket client may say that nobody foresaw."""

import pytest
import structlog
from tests.conformance.clients import TEXT, open_ws
from tests.http.conftest import Api

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


async def test_a_mistake_in_a_message_is_told(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw is logged, and the client hears 1011 instead of nothing."""

    async def fail(self: WebSocketStream, request: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(WebSocketStream, "_subscribe", fail)
    with structlog.testing.capture_logs() as logs:
        async with await open_ws(api.url) as watch:
            await watch.say("subscribe", channel="task:1")
            assert (await watch.end())["code"] == 1011
    assert [entry["log_level"] for entry in logs] == ["error"]
