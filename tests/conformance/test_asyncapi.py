"""What streams really say is what ``/asyncapi.json`` says of them, and so is what they take."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator
from tests.conformance import clients
from tests.conformance.clients import TEXT, TRANSPORTS, get, open_ws, output, publish, status, watch
from tests.conformance.conftest import Launch, embedded
from tests.conformance.test_overflow import BUDGET, RECEIVE_BUFFER, flood, read_up_to
from tests.http.documented import Document

from heliograph.http.streams.watching import MAX_TAIL

pytestmark = embedded

Heard = list[tuple[str, dict[str, Any], Any]]
"""Messages as they came: transport, the fields of a block besides its data, and the data."""

RESET = "8000000000000-0"
"""A cursor that is ahead of every log."""


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    """Everything that the clients of a test are told."""
    found: Heard = []
    frame, block = clients.FrameParser._told, clients.BlockParser._told

    def read_frame(self: clients.FrameParser, opcode: int, payload: bytes) -> clients.Told:
        if opcode == TEXT:
            found.append(("ws", {}, orjson.loads(payload)))
        return frame(self, opcode, payload)

    def read_block(self: clients.BlockParser, text: str) -> clients.Told:
        fields: dict[str, Any] = dict(line.split(": ", 1) for line in text.split("\n"))
        data = fields.pop("data", None)
        if "retry" in fields:
            fields["retry"] = int(fields["retry"])
        found.append(("sse", fields, orjson.loads(data) if data else data))
        return block(self, text)

    monkeypatch.setattr(clients.FrameParser, "_told", read_frame)
    monkeypatch.setattr(clients.BlockParser, "_told", read_block)
    return found


def kind_of(transport: str, fields: dict[str, Any], data: Any, document: Document) -> str:
    """Return by what name the document has a message."""
    messages = document.content["components"]["messages"]
    if transport == "ws":
        return f"ws.{data['type']}"
    name = fields["event"]
    return f"sse.{name}" if f"sse.{name}" in messages else "sse.event"


def checked(document: Document, heard: Heard) -> set[str]:
    """Check all that was heard against the document; return the names of the messages."""
    names = set()
    for transport, fields, data in heard:
        name = kind_of(transport, fields, data, document)
        place = ("components", "messages", name)
        if "headers" in document.at(*place):
            document.check(fields, *place, "headers")
        if "payload" in document.at(*place):
            document.check(data, *place, "payload")
        else:
            assert data is None
        names.add(name)
    return names


def documented(document: Document, *operations: str) -> set[str]:
    """Return the names of the messages of some operations."""
    references = [
        document.content["channels"][channel]["messages"][kind]["$ref"]
        for operation in operations
        for message in document.content["operations"][operation]["messages"]
        for _, channel, _, kind in [document.path_of(message["$ref"])]
    ]
    return {reference.rpartition("/")[2] for reference in references}


async def test_streams_say_what_is_documented(launch: Launch, heard: Heard) -> None:
    """Everything that streams can say is heard once, and is of the documented schema; nothing else is."""
    served = await launch(streams={**BUDGET, "keepalive_seconds": 0.2})
    document = Document(await get(served.url, "/asyncapi.json"))
    ended = status("1", "completed")
    ended["payload"]["result"] = {"cost_usd": 0.05, "summary": "read", "input_tokens": None}
    piece = output("1", "50 %")
    piece["payload"] |= {"partial": True, "stream": "stderr", "more": [1]}
    other = {"topic": "pipeline.completed", "payload": {"n": 1}, "sender": "s"}
    ready = {"topic": "cli.status", "channel": "status", "payload": {"active": True}}
    await publish(served.url, piece, output("1", "a line"), ended, ready, other, status("2", "running"))
    for transport in TRANSPORTS:
        async with await watch(transport, served.url, "*", after="0-0") as one:
            await one.story(6)
            if transport == "ws":
                await one.say("ping", ref={"a": [1]})
                await one.say("unsubscribe", channel="*", ref=2)
                await one.say("subscribe", channel="nonsense")
                await one.say("auth", key="any")
                await one.until("authenticated")
            else:
                await one.until("keepalive")
        async with await watch(transport, served.url, "task:1", after=RESET) as one:
            await one.until("reset")
        async with await watch(
            transport, served.url, "task:3", overflow="drop_oldest", receive_buffer=RECEIVE_BUFFER
        ) as slow:
            await slow.live()
            ids = (await flood(served.url, 1000, "3"))["3"]
            await read_up_to(slow, ids[-1])
    async with (
        await watch("ws", served.url, "task:1", tail=1) as ws,
        await watch("sse", served.url, "task:1", tail=1) as sse,
    ):
        for one in (ws, sse):
            await one.story(1)
        await served.terminate()
        for one in (ws, sse):
            await one.until("reconnect")
    assert checked(document, heard) == documented(document, "hear", "streamEvents")


async def test_tasks_streams_say_what_is_documented(url: str, heard: Heard) -> None:
    """The stream of one task says nothing that is not documented."""
    document = Document(await get(url, "/asyncapi.json"))
    await publish(url, output("1", "a line"), status("1", "completed"))
    async with await clients.open_sse(url, "/api/v1/tasks/1/stream") as one:
        await one.to_end()
    names = checked(document, heard)
    assert {"sse.event", "sse.open"} <= names <= documented(document, "streamTask")


async def test_examples_of_messages_are_taken(url: str, heard: Heard) -> None:
    """What the document shows as an example of what to say is understood."""
    document = Document(await get(url, "/asyncapi.json"))
    messages = document.content["components"]["messages"]
    kinds = ("ws.auth", "ws.subscribe", "ws.ping", "ws.unsubscribe")
    answers: list[str] = []
    async with await open_ws(url) as ws:
        for name in kinds:
            (example,) = messages[name]["examples"]
            document.check(example["payload"], "components", "messages", name, "payload")
            await ws.send_frame(TEXT, orjson.dumps(example["payload"]))
            answers.append((await ws.next()).kind)
    assert set(kinds) == documented(document, "say")
    assert answers == ["authenticated", "subscribed", "pong", "unsubscribed"]


BAD: list[dict[str, Any]] = [
    {},
    {"type": "nonsense"},
    {"type": "subscribe"},
    {"type": "subscribe", "channel": "a b"},
    {"type": "subscribe", "channel": "topic:"},
    {"type": "subscribe", "channel": None},
    {"type": "subscribe", "channel": "*", "topic": "a..b"},
    {"type": "subscribe", "channel": "*", "after": 5},
    {"type": "subscribe", "channel": "*", "tail": -1},
    {"type": "subscribe", "channel": "*", "tail": MAX_TAIL + 1},
    {"type": "subscribe", "channel": "*", "tail": True},
    {"type": "subscribe", "channel": "*", "overflow": "nonsense"},
    {"type": "subscribe", "channel": "*", "nonsense": 1},
    {"type": "unsubscribe"},
    {"type": "unsubscribe", "channel": "*", "after": "0-0"},
    {"type": "ping", "channel": "*"},
    {"type": "auth", "key": 5},
]
SOUND: list[dict[str, Any]] = [
    {"type": "subscribe", "channel": "*", "tail": MAX_TAIL},
    {"type": "subscribe", "channel": "task:*", "topic": "task.*", "overflow": "latest", "ref": [None]},
    {"type": "subscribe", "channel": "webhooks", "topic": None, "after": None, "tail": None},
    {"type": "subscribe", "channel": "topic:a.b", "after": "2026-01-31", "overflow": None},
    {"type": "ping"},
    {"type": "auth", "ticket": None},
]


@pytest.mark.parametrize("message", BAD + SOUND, ids=repr)
async def test_messages_are_taken_as_documented(url: str, message: dict[str, Any]) -> None:
    """A message is taken by the service where it is of a documented schema, and only there."""
    document = Document(await get(url, "/asyncapi.json"))
    anyhow = [{"$ref": f"#/components/messages/{one}/payload"} for one in documented(document, "say")]
    valid = Draft202012Validator({**document.content, "anyOf": anyhow}).is_valid(message)
    async with await open_ws(url) as ws:
        await ws.send_frame(TEXT, orjson.dumps(message))
        told = await ws.next()
    assert (told.kind != "error") == valid == (message in SOUND)
