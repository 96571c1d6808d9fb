"""The stream of a page that never says anything, ``/ws/<session>``."""

from __future__ import annotations

from hashlib import sha256

import pytest
import trio
from tests.conformance.clients import Told, Watch, open_ws
from tests.conformance.conftest import Launch
from tests.http.conftest import Api, Start, key, output
from trio.testing import MockClock

from heliograph.config import KeySettings

STATUS = {"type": "task_status", "task_id": "1", "status": "running"}


async def settled(one: Watch) -> None:
    """Wait until a page watches what it never asks for; it is told nothing of that."""
    await one.say("ping")
    assert (await one.next()).kind == "pong"


async def test_it_hears_the_statuses_of_all_tasks(api: Api) -> None:
    """Without a word it is told every status, and nothing else."""
    async with await open_ws(api.url, "/ws/dashboard") as one:
        await settled(one)
        await api.publish(output("1"), STATUS, output("2"), {**STATUS, "task_id": "2", "status": "failed"})
        told = [await one.next() for _ in range(2)]
    assert [(each.fields["channel"], each.fields["payload"]["status"]) for each in told] == [
        ("task:1", "running"),
        ("task:2", "failed"),
    ]


async def test_it_hears_whether_the_command_line_is_ready(api: Api) -> None:
    """It is told the state of the engine's command line in its own form."""
    async with await open_ws(api.url, "/ws/dashboard") as one:
        await settled(one)
        await api.publish({"topic": "cli.status", "channel": "status", "payload": {"active": True}})
        told = await one.until("cli_status_update")
    assert (told.fields["active"], told.fields["session_id"]) == (True, None)


async def test_it_may_subscribe_further(api: Api) -> None:
    """It takes every message of a WebSocket; what it watches from the start it may leave."""
    async with await open_ws(api.url, "/ws/dashboard") as one:
        await settled(one)
        await one.say("unsubscribe", channel="task:*", topic="task.status")
        await one.until("unsubscribed")
        await one.say("subscribe", channel="task:1")
        await one.until("subscribed")
        await api.publish(output("1", "a line"), output("2", "unheard"), output("1", "another"))
        assert await one.outputs(2) == ["a line", "another"]


async def act(one: Watch, kind: str, **fields: object) -> Told:
    """Have a page ask for something; return the answer."""
    await one.say(kind, **fields, ref=kind)
    told = await one.until("done", "error")
    assert told.fields["ref"] == kind
    return told


async def test_it_asks_stops_and_answers(api: Api) -> None:
    """What a page says is done as over HTTP: a question makes a task, which hears its input and its stop."""
    async with await open_ws(api.url, "/ws/tabs/7") as one:
        asked = await act(one, "chat.message", message="What is new?")
        task, talk = asked.fields["task_id"], asked.fields["conversation_id"]
        found = await api.get(f"/api/tasks/{task}")
        assert (found["status"], found["session_id"], found["conversation_id"]) == ("queued", "tabs/7", talk)
        again = await act(one, "chat.message", message="And now?", conversation_id=talk, session_id="s")
        assert (await api.get(f"/api/tasks/{again.fields['task_id']}"))["session_id"] == "s"
        said = await api.get(f"/api/conversations/{talk}/messages")
        assert [message["content"] for message in said] == ["What is new?", "And now?"]
        answered = await act(one, "task.input", task_id=task, content="main", question_id="q")
        assert (answered.kind, answered.fields["of"]) == ("done", "task.input")
        inputs = (await api.get(f"/api/v1/events?channel=task:{task}&topic=task.input"))["events"]
        assert [event["payload"]["content"] for event in inputs] == ["main"]
        assert [one["content"] for one in await api.get(f"/api/tasks/{task}/logs/user-inputs")] == ["main"]
        for stopped in (True, False):
            done = await act(one, "task.stop", task_id=task)
            assert (done.fields["stopped"], done.fields["status"]) == (stopped, "cancelled")
        late = await act(one, "task.input", task_id=task, content="too late")
        assert late.fields["code"] == "conflict"


@pytest.mark.parametrize(
    ("kind", "fields", "code", "said"),
    [
        ("chat.message", {}, "invalid", "message: is missing"),
        ("chat.message", {"message": ""}, "invalid", "message: must have at least 1"),
        ("chat.message", {"message": 5}, "invalid", "message: must be text"),
        ("chat.message", {"message": "m", "colour": "red"}, "invalid", "colour: is unknown"),
        (
            "chat.message",
            {"message": "m", "session_id": "x" * 1001},
            "invalid",
            "session_id: must have at most",
        ),
        ("chat.message", {"message": "m", "conversation_id": "none"}, "not_found", "no conversation"),
        ("task.stop", {}, "invalid", "task_id: is missing"),
        ("task.stop", {"task_id": "a b"}, "invalid", "task_id: must match"),
        ("task.stop", {"task_id": "none"}, "not_found", "no task"),
        ("task.input", {"task_id": "none", "content": "x"}, "not_found", "no task"),
        ("task.input", {"task_id": "1"}, "invalid", "content: is missing"),
    ],
)
async def test_what_is_wrong_is_named(
    api: Api, kind: str, fields: dict[str, object], code: str, said: str
) -> None:
    """A field that is wrong is named, nothing is kept, and the stream lives on."""
    async with await open_ws(api.url, "/ws/dashboard") as one:
        await settled(one)
        error = await act(one, kind, **fields)
        assert (error.kind, error.fields["code"]) == ("error", code)
        assert said in error.fields["detail"]
        await settled(one)
    assert (await api.get("/api/v1/events"))["events"] == []


async def test_it_may_do_what_its_key_may(start: Start) -> None:
    """A key that may only read is refused an action, and goes on hearing; on /ws there are no actions."""
    reader = KeySettings("reader", sha256(b"secret").hexdigest(), scopes=("read",))
    api = await start(auth={"keys": (reader,)})
    key = {"X-API-Key": "secret"}
    async with await open_ws(api.url, "/ws/dashboard") as one:
        await one.say("task.stop", task_id="1")
        assert (await one.until("error")).fields["code"] == "unauthenticated"
    async with await open_ws(api.url, "/ws/dashboard", key) as one:
        await settled(one)
        for kind, fields in (("chat.message", {"message": "m"}), ("task.stop", {"task_id": "1"})):
            assert (await act(one, kind, **fields)).fields["code"] == "forbidden"
        await settled(one)
    async with await open_ws(api.url, "/ws", key) as one:
        await one.say("task.stop", task_id="1")
        assert "type: must be one of" in (await one.until("error")).fields["detail"]


async def test_a_path_that_is_none_is_not_found(api: Api) -> None:
    """A WebSocket that nobody serves is refused as any path is."""
    for path in ("/nowhere", "/api/ws"):
        async with await open_ws(api.url, path, {"Origin": api.url}) as one:
            assert one.status == 404, path


async def test_its_silence_is_no_reason_to_close_it(fast_clock: MockClock, launch: Launch) -> None:
    """It is still there after the time in which others must subscribe, even if it watches nothing."""
    async with await open_ws((await launch()).url, "/ws/dashboard") as one:
        await settled(one)
        await one.say("unsubscribe", channel="task:*", topic="task.status")
        await one.until("unsubscribed")
        with trio.move_on_after(100):
            while True:
                assert (await one.next()).kind == "keepalive"
        await one.say("ping")
        await one.until("pong")


async def test_it_watches_once_it_has_said_who_it_is(start: Start) -> None:
    """With keys configured its first word is ``auth``; from then on it hears the statuses."""
    api = await start(auth={"keys": (key("page", "secret"),)})
    async with await open_ws(api.url, "/ws/dashboard") as one:
        await one.say("auth", key="secret")
        assert (await one.next()).kind == "authenticated"
        await settled(one)
        await api.publish(STATUS, headers={"X-API-Key": "secret"})
        assert (await one.next()).kind == "event"


async def test_a_key_that_may_not_see_the_fleet_is_refused(start: Start) -> None:
    """The statuses of all tasks are for keys that cover them."""
    api = await start(auth={"keys": (key("page", "secret", "task:1"),)})
    async with await open_ws(api.url, "/ws/dashboard", {"X-API-Key": "secret"}) as one:
        assert (await one.until("error")).fields["code"] == "forbidden"
        assert (await one.end())["code"] == 4503
