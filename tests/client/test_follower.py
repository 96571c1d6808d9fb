"""Following over both transports: what was said must hold for SSE and WebSocket alike."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import trio
import trio_websocket

from heliograph.client.api import Client
from heliograph.client.follower import follow
from heliograph.client.following import Following, Gap, Item, Reset
from heliograph.model import errors
from heliograph.model.channels import RESERVED_TOPICS
from heliograph.model.event import Event, event_json, message_json
from heliograph.model.ids import EventId, make_id

if TYPE_CHECKING:
    from tests.client.conftest import FakeService

GO_ON = b"retry: 1\n\n"


def event(n: int, topic: str = "task.output") -> Event:
    """Make the n-th event of task t1."""
    payload = {"task_id": "t1", "output": f"line {n}\r\n💡", "stream": "stdout"}
    if topic == "task.status":
        payload = {"task_id": "t1", "status": "running"}
    return Event(make_id(1000 + n), "task:t1", n, topic, datetime(2026, 1, 1, tzinfo=UTC), payload)


def block(event: Event) -> bytes:
    """Write an event as SSE."""
    head = f"event: {event.topic}\nid: {event.cursor}\ndata: ".encode()
    return head + event_json(event) + b"\n\n"


def sse(kind: str, data: dict[str, Any]) -> bytes:
    """Write a notice as SSE."""
    return f"event: {kind}\ndata: ".encode() + orjson.dumps(data) + b"\n\n"


async def collect(
    client: Client,
    following: Following,
    count: int,
    transport: str = "sse",
    on_retry: Callable[[errors.HeliographError], object] = lambda error: None,
) -> list[Item]:
    """Follow until so many items have come."""
    items: list[Item] = []
    with trio.fail_after(20):
        async with follow(client, following, transport, on_retry) as stream:
            async for item in stream:
                items.append(item)
                if len(items) == count:
                    break
    return items


@pytest.fixture
async def client(service: FakeService) -> AsyncIterator[Client]:
    """A client of the fake service."""
    async with Client(service.url, "key") as client:
        yield client


def afters(service: FakeService) -> list[str | None]:
    """Return the position that each connection asked for."""
    targets = [target for _, target, _ in service.asked]
    return [target.partition("after=")[2].partition("&")[0] or None for target in targets]


async def test_cut_anywhere(service: FakeService, client: Client) -> None:
    """A stream that is cut at every byte in turn gives each event once and in order."""
    history = [event(n) for n in range(1, 4)]
    whole = GO_ON + b"".join(map(block, history))
    for cut in range(0, len(whole), 7):
        arrived = [past for past in history if len(GO_ON + b"".join(map(block, history[: past.seq]))) <= cut]
        rest = b"".join(map(block, history[len(arrived) :]))
        service.streams.extend([(200, whole[:cut]), (200, rest)])
        assert await collect(client, Following("task:t1", after="0-0"), 3) == history
        assert afters(service)[-1] == (arrived[-1].cursor if arrived else "0-0")


async def test_doubled_by_the_service(service: FakeService, client: Client) -> None:
    """An event that a stream gives again is not given twice."""
    service.streams.extend([(200, GO_ON + block(event(1))), (200, block(event(1)) + block(event(2)))])
    assert await collect(client, Following("task:t1"), 2) == [event(1), event(2)]


async def test_tail_only_at_first(service: FakeService, client: Client) -> None:
    """A tail is asked for until something came, then the position is."""
    service.streams.extend([(200, GO_ON), (200, GO_ON + block(event(1))), (200, block(event(2)))])
    await collect(client, Following("task:t1", tail=5), 2)
    assert ["tail=5" in target for _, target, _ in service.asked] == [True, True, False]
    assert afters(service) == [None, None, event(1).cursor]


async def test_id_only_block(service: FakeService, client: Client) -> None:
    """A block with only an id moves the position from which the next connection goes on."""
    service.streams.extend([(200, GO_ON + b"id: 77-0\n\n"), (200, block(event(1)))])
    await collect(client, Following("task:t1"), 1)
    assert afters(service)[-1] == "77-0"


async def test_finished(service: FakeService, client: Client) -> None:
    """204 ends the following."""
    service.streams.extend([(200, GO_ON + block(event(1))), (204, b"")])
    assert await collect(client, Following("task:t1"), 99) == [event(1)]


async def test_notices(service: FakeService, client: Client) -> None:
    """Gaps and resets are items; after a reset the position is the service's, and smaller ids are taken."""
    gap = {"channel": "task:t1", "from": "1-0", "to": "2-0", "count": 3, "reason": "drop_oldest"}
    reset = {"channel": "task:t1", "oldest": "0-0", "head": "5-0", "reason": "the log is new"}
    words = GO_ON + sse("gap", gap) + block(event(9)) + sse("keepalive", {}) + sse("reset", reset)
    service.streams.extend([(200, words), (200, block(event(1)))])
    assert await collect(client, Following("task:t1"), 4) == [
        Gap("task:t1", "1-0", "2-0", 3, "drop_oldest"),
        event(9),
        Reset("task:t1", "0-0", "5-0", "the log is new"),
        event(1),
    ]
    assert afters(service)[-1] == "5-0"


@pytest.mark.parametrize("transport", ["sse", "ws"])
@pytest.mark.parametrize("topic", sorted(RESERVED_TOPICS))
async def test_events_named_like_notices(
    service: FakeService, client: Client, nursery: trio.Nursery, topic: str, transport: str
) -> None:
    """An event of an older log whose topic is a word of the stream is an event, not that word."""
    history = [event(1, topic), event(2)]
    if transport == "ws":
        script: Script = [message_json(past) for past in history]
        assert (await follow_scripts(nursery, [script], Following("*"), 2))[0] == history
    else:
        service.streams.append((200, GO_ON + b"".join(map(block, history))))
        assert await collect(client, Following("*"), 2) == history


async def test_reconnect_notice(service: FakeService, client: Client) -> None:
    """A planned rotation is followed at once when the service says so."""
    bye = b"retry: 600000\n\n" + sse("reconnect", {"after_ms": 1, "cursor": "9-0", "reason": "rotation"})
    service.streams.extend([(200, block(event(1)) + bye), (200, block(event(2)))])
    assert await collect(client, Following("task:t1"), 2) == [event(1), event(2)]


@pytest.mark.parametrize("transport", ["sse", "ws"])
async def test_refused(service: FakeService, client: Client, transport: str) -> None:
    """A refusal is raised, not tried again."""
    service.streams.append((403, b'{"detail": "not for you"}'))
    with pytest.raises(errors.Forbidden, match="not for you"):
        await collect(client, Following("task:t1"), 1, transport)
    assert len(service.asked) == 1


@pytest.mark.parametrize("transport", ["sse", "ws"])
async def test_overloaded(service: FakeService, client: Client, transport: str) -> None:
    """A service that is overloaded is tried again, and the caller is told."""
    service.streams.extend([(503, b"{}"), (403, b"{}")])
    told: list[errors.HeliographError] = []
    with pytest.raises(errors.Forbidden):
        await collect(client, Following("task:t1"), 1, transport, told.append)
    assert isinstance(told[0], errors.Unavailable)


Script = list[dict[str, Any] | bytes | int]


class FakeSocketService:
    """A WebSocket service with a script for each connection: messages, then a close code."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = deque(scripts)
        self.heard: list[dict[str, Any]] = []
        self.url = ""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            server = await nursery.start(trio_websocket.serve_websocket, self._converse, "127.0.0.1", 0, None)
            self.url = f"http://127.0.0.1:{server.port}"
            task_status.started()

    async def _converse(self, request: trio_websocket.WebSocketRequest) -> None:
        connection = await request.accept()
        self.heard.append(orjson.loads(await connection.get_message()))
        for step in self.scripts.popleft():
            if isinstance(step, int):
                await connection.aclose(step, "so it is")
            else:
                text = step if isinstance(step, bytes) else orjson.dumps(step)
                await connection.send_message(text.decode())


async def follow_scripts(
    nursery: trio.Nursery, scripts: Iterable[Script], following: Following, count: int
) -> tuple[list[Item], list[dict[str, Any]]]:
    """Follow a scripted WebSocket service; return the items and what it heard."""
    service = FakeSocketService(*scripts)
    await nursery.start(service.run)
    async with Client(service.url) as client:
        items = await collect(client, following, count, "ws")
    nursery.cancel_scope.cancel()
    return items, service.heard


def subscribed(cursor: str) -> dict[str, Any]:
    """Make the answer to a following."""
    return {"type": "subscribed", "channel": "task:t1", "cursor": cursor, "recovered": False, "ref": None}


BYE = {"type": "reconnect", "after_ms": 1, "cursor": "1002-0", "reason": "rotation"}


async def test_ws_resumes(nursery: trio.Nursery) -> None:
    """A WebSocket that closes is opened again after the last event; every form of message is an event."""
    created = Event(
        EventId(make_id(1005)), "task:t1", 5, "task.created", event(1).timestamp, {"task_id": "t1"}, "me", "c"
    )
    items, heard = await follow_scripts(
        nursery,
        [
            [subscribed("1000-0"), message_json(event(1)), message_json(event(2)), BYE, 4001],
            [message_json(event(2)), message_json(event(3, "task.status")), 1012],
            [message_json(created)],
        ],
        Following("task:t1", tail=7),
        4,
    )
    assert items == [event(1), event(2), event(3, "task.status"), created]
    assert heard == [
        {"type": "subscribe", "channel": "task:t1", "tail": 7},
        {"type": "subscribe", "channel": "task:t1", "after": "1002-0"},
        {"type": "subscribe", "channel": "task:t1", "after": "1003-0"},
    ]


@pytest.mark.parametrize("tail", [None, 100])
async def test_ws_start(nursery: trio.Nursery, tail: int | None) -> None:
    """A connection that is lost before the first event goes on from where it began."""
    _, heard = await follow_scripts(
        nursery,
        [[subscribed("1000-0"), 1001], [message_json(event(1))]],
        Following("task:t1", tail=tail),
        1,
    )
    assert heard[1] == {"type": "subscribe", "channel": "task:t1", "after": "1000-0"}


async def test_ws_notices(nursery: trio.Nursery) -> None:
    """Gaps and resets are items over WebSocket too."""
    gap = {"type": "gap", "channel": "task:t1", "from": "1-0", "to": "2-0", "count": 3, "reason": "latest"}
    reset = {"type": "reset", "channel": "task:t1", "oldest": "0-0", "head": "5-0", "reason": "new"}
    items, _ = await follow_scripts(nursery, [[gap, reset]], Following("task:t1"), 2)
    assert items == [
        Gap("task:t1", "1-0", "2-0", 3, "latest"),
        Reset("task:t1", "0-0", "5-0", "new"),
    ]


@pytest.mark.parametrize(
    ("code", "kind"),
    [(4500, errors.Unauthenticated), (4503, errors.Forbidden), (4505, errors.ClientFault)],
)
async def test_ws_do_not_come_back(
    nursery: trio.Nursery, code: int, kind: type[errors.HeliographError]
) -> None:
    """Close codes from 4500 on are refusals."""
    service = FakeSocketService([code])
    await nursery.start(service.run)
    async with Client(service.url) as client:
        with pytest.raises(kind, match="so it is"):
            await collect(client, Following("task:t1"), 1, "ws")
    nursery.cancel_scope.cancel()


async def test_ws_error_message(nursery: trio.Nursery) -> None:
    """An error message about the following is raised with its words."""
    error = {
        "type": "error",
        "code": "invalid",
        "title": "…",
        "detail": "after: must be a cursor",
        "ref": None,
    }
    service = FakeSocketService([error])
    await nursery.start(service.run)
    async with Client(service.url) as client:
        with pytest.raises(errors.ClientFault, match="must be a cursor"):
            await collect(client, Following("task:t1"), 1, "ws")
    nursery.cancel_scope.cancel()


async def test_ws_cancelled_while_it_fails(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancellation that meets a failure of the connection cancels, and nothing is raised."""
    close = trio.aclose_forcefully

    async def close_and_cancel(stream: trio.abc.AsyncResource) -> None:
        await close(stream)
        scope.cancel()

    monkeypatch.setattr(trio, "aclose_forcefully", close_and_cancel)
    error = {"type": "error", "code": "unavailable", "title": "…", "detail": "away", "ref": None}
    service = FakeSocketService([error])
    await nursery.start(service.run)
    with trio.CancelScope() as scope:
        async with Client(service.url) as client:
            await collect(client, Following("task:t1"), 1, "ws")
    assert scope.cancelled_caught
    nursery.cancel_scope.cancel()
