"""A node is killed right after it has taken a message: the engine answers it all the same, once."""

from __future__ import annotations

import subprocess
import sys
import time

from tests.chaos.conftest import NodeMaker
from tests.conformance.test_engine import ENGINE
from tests.servers import free_port, wait_until


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

        wait_until(answered, "every question is answered", 40)
        for number, conversation in enumerate(asked):
            _, messages = second.ask(f"/api/conversations/{conversation}/messages")
            words = f"question\n{number}\n"
            assert [one["content"] for one in messages] == [f"question {number}", f"You said:\n{words}"]
    finally:
        engine.kill()
        engine.wait()
