"""The stream of a page that never says anything, ``/ws/<session>``."""

from __future__ import annotations

import pytest
import trio
from tests.conformance.clients import Watch, open_ws
from tests.conformance.conftest import Launch
from tests.http.conftest import Api, Start, key, output
from trio.testing import MockClock

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


@pytest.mark.parametrize("kind", ["chat.message", "task.stop", "task.input"])
async def test_what_is_not_served_yet_is_answered(api: Api, kind: str) -> None:
    """What such a page may say, but the service does not do, is an error, and the stream lives on."""
    async with await open_ws(api.url, "/ws/dashboard") as one:
        await one.say(kind, task_id="1", message="hello")
        error = await one.until("error")
        assert error.fields["detail"] == f"type: {kind} is not served yet"
        await one.say("ping")
        await one.until("pong")


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
