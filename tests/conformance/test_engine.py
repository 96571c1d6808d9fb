"""The loop: a message, the engine, an answer that grows, one stored message; also when somebody is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from tests.conformance.serving import serve, settings_for
from tests.polling import until
from tests.servers import free_port
from tests.storages import DistributedForm, Form

from heliograph.config import EngineSettings

ENGINE = Path(__file__).parents[2] / "examples" / "engine" / "engine.py"
WORDS = [str(number) for number in range(12)]

Launch = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def launch_engine() -> Iterator[Launch]:
    """Starts the example's engine; kills it at the end."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(*arguments: str) -> subprocess.Popen[bytes]:
        running.append(subprocess.Popen([sys.executable, str(ENGINE), *arguments], stderr=subprocess.DEVNULL))
        return running[-1]

    yield begin
    for engine in running:
        engine.kill()
        engine.wait()


class Loop:
    """A service with an engine, and somebody who asks."""

    def __init__(self, url: str) -> None:
        self.http = httpx.AsyncClient(base_url=url, timeout=30)

    async def get(self, path: str) -> Any:
        """Get JSON."""
        answer = await self.http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def ask(self, message: str) -> dict[str, str]:
        """Ask the engine; return the task and the conversation."""
        answer = await self.http.post("/api/chat?session_id=s", json={"message": message})
        assert answer.status_code == 200, answer.text
        data: dict[str, str] = answer.json()["data"]
        return data

    async def messages(self, conversation: str) -> list[tuple[str, str]]:
        """Return who said what."""
        found = await self.get(f"/api/conversations/{conversation}/messages")
        return [(one["role"], one["content"]) for one in found]

    async def settled(self, task: str) -> None:
        """Wait until the dispatch of a task is settled."""

        async def is_settled() -> bool:
            found = await self.get(f"/api/v1/events?channel=task:{task}&topic=engine.*")
            return any(event["topic"] == "engine.settled" for event in found["events"])

        await until(is_settled, 30)


async def opened(nursery: trio.Nursery, form: Form, tmp_path: Path, **engine: Any) -> Loop:
    """Start a service that knows of an engine."""
    settings = form.place(settings_for(tmp_path))
    served = await serve(nursery, attrs.evolve(settings, engine=EngineSettings(**engine)))
    return Loop(served.url)


ANSWER = "You said:\n" + "".join(f"{word}\n" for word in WORDS)


async def test_an_answer_comes_once_though_the_engine_is_killed(
    nursery: trio.Nursery, form: Form, tmp_path: Path, launch_engine: Launch
) -> None:
    """An engine that is killed in the middle and started again answers anew, and there is one answer."""
    port = free_port()
    loop = await opened(nursery, form, tmp_path, url=f"http://127.0.0.1:{port}")
    arguments = ("--port", str(port), "--service", str(loop.http.base_url))
    engine = launch_engine(*arguments)
    asked = await loop.ask(" ".join(WORDS))
    conversation = asked["conversation_id"]

    async def grows() -> bool:
        found = await loop.get(f"/api/v1/conversations/{conversation}/messages")
        return any(len(one["content"].split()) > 4 for one in found["growing"])

    await until(grows, 30)
    engine.send_signal(signal.SIGKILL)
    engine.wait()
    launch_engine(*arguments)
    await loop.settled(asked["task_id"])
    assert await loop.messages(conversation) == [("user", " ".join(WORDS)), ("assistant", ANSWER)]
    task = await loop.get(f"/api/tasks/{asked['task_id']}")
    assert (task["status"], task["result"]) == ("completed", ANSWER)
    await loop.http.aclose()
    nursery.cancel_scope.cancel()


async def test_an_engine_takes_tasks_from_a_list_in_redis(
    nursery: trio.Nursery, distributed: DistributedForm, tmp_path: Path, launch_engine: Launch
) -> None:
    """What is asked is pushed on the list that the settings name, in the form that engines read there."""
    queue = f"tasks-{os.getpid()}"
    loop = await opened(nursery, distributed, tmp_path, queue=queue)
    arguments = ("--redis", distributed.redis_url, "--queue", queue, "--service", str(loop.http.base_url))
    launch_engine(*arguments)
    first = await loop.ask("hello")
    await loop.settled(first["task_id"])
    assert await loop.messages(first["conversation_id"]) == [
        ("user", "hello"),
        ("assistant", "You said:\nhello\n"),
    ]
    await loop.http.aclose()
    nursery.cancel_scope.cancel()
