"""A node is killed, once it has taken a message or while the answer grows: there is one answer, once."""

from __future__ import annotations

import subprocess
import sys
import time

import trio
from tests.chaos.conftest import NodeMaker
from tests.conformance.clients import open_ws
from tests.conformance.test_engine import ENGINE
from tests.servers import READY_SECONDS, free_port, wait_until


def test_a_killed_node_leaves_no_question_unanswered(make_node: NodeMaker) -> None:
    """Wherever the node was when it was killed, another one sees to it that there is one answer."""
    port = free_port()
    settings = f'[engine]\nurl = "http://127.0.0.1:{port}"\n'
    first, second = make_node("a", settings=settings), make_node("b", settings=settings)
    for node in (first, second):
        node.start()
    engine = subprocess.Popen([sys.executable, str(ENGINE), "--port", str(port), "--service", second.url])
    try:
        asked = []
        for number in range(3):
            answer = first._http.post("/api/chat?session_id=s", json={"message": f"question {number}"})
            assert answer.status_code == 200, answer.text
            asked.append(answer.json()["data"]["conversation_id"])
            time.sleep(0.05 * number)
        first.kill()

        def answered() -> bool:
            return all(len(second.ask(f"/api/conversations/{one}/messages")[1]) == 2 for one in asked)

        wait_until(answered, "every question is answered")
        for number, conversation in enumerate(asked):
            _, messages = second.ask(f"/api/conversations/{conversation}/messages")
            words = f"question\n{number}\n"
            assert [one["content"] for one in messages] == [f"question {number}", f"You said:\n{words}"]
    finally:
        engine.kill()
        engine.wait()


async def test_an_answer_grows_on_though_its_node_is_killed(make_node: NodeMaker) -> None:
    """The node that an engine speaks to is killed in the middle: watchers elsewhere hear each word once."""
    port = free_port()
    settings = f'[engine]\nurl = "http://127.0.0.1:{port}"\n'
    first, second = make_node("a", settings=settings), make_node("b", settings=settings)
    for node in (first, second):
        await node.begin()
    command = [sys.executable, str(ENGINE), "--port", str(port), "--service", first.url]
    engine = await trio.to_thread.run_sync(subprocess.Popen, command)
    words = [f"word-{number}" for number in range(40)]
    try:
        async with await open_ws(second.url, "/ws/dashboard") as page:
            await page.say("chat.message", message=" ".join(words))
            asked = (await page.until("done")).fields
            await page.say("subscribe", channel=f"conversation:{asked['conversation_id']}", after="0-0")
            grown, killed, ended = "", False, False
            with trio.fail_after(READY_SECONDS):
                while not ended:
                    told = await page.until("event")
                    payload = told.fields["payload"]
                    if told.fields["topic"] == "conversation.delta":
                        grown = payload["content"] if payload.get("rewind") else grown + payload["content"]
                        # Not the task's status: that comes by another subscription, perhaps before the last.
                        ended = payload.get("done", False)
                    if not killed and len(grown.split()) > 10:
                        first.kill()
                        await first.begin()
                        killed = True
        answer = "You said:\n" + "".join(f"{word}\n" for word in words)
        assert (killed, grown) == (True, answer)
        for node in (first, second):
            _, messages = node.ask(f"/api/conversations/{asked['conversation_id']}/messages")
            said = [(message["role"], message["content"]) for message in messages]
            assert said == [("user", " ".join(words)), ("assistant", answer)]
    finally:
        engine.kill()
        engine.wait()
