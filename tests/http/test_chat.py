"""Asking: what one request makes, and what it makes when it comes again."""

from __future__ import annotations

from tests.http.conftest import Api, Start, key


async def test_a_question_makes_a_conversation_a_message_and_a_task(api: Api) -> None:
    """All that a question makes is there at once, and names each other."""
    asked = await api.send("POST", "/api/chat?session_id=s", {"message": "What is new? " * 10})
    task_id, conversation = asked["data"]["task_id"], asked["data"]["conversation_id"]
    assert asked == {
        "success": True,
        "message": "kept; no engine is configured",
        "data": {"task_id": task_id, "conversation_id": conversation},
        "error": None,
    }
    assert task_id.startswith("task-")
    assert task_id[5:].isalnum()
    found = await api.get(f"/api/conversations/{conversation}")
    assert found["title"] == ("What is new? " * 10)[:50]
    assert [(one["role"], one["task_id"]) for one in found["messages"]] == [("user", task_id)]
    task = await api.get(f"/api/tasks/{task_id}")
    assert (task["status"], task["assigned_agent"], task["agent_type"]) == ("queued", "brain", "planning")
    assert (task["session_id"], task["conversation_id"]) == ("s", conversation)
    await api.send("POST", f"/api/chat?session_id=s&conversation_id={conversation}", {"message": "And now?"})
    assert (await api.get(f"/api/conversations/{conversation}/metrics"))["total_tasks"] == 2


async def test_a_dashboard_says_its_session(api: Api) -> None:
    """In the dashboard API a question has a session; without one it is refused by that name."""
    for query in ("", "?session_id=", "?conversation_id=none"):
        problem = await api.problem("POST", f"/api/chat{query}", json={"message": "Hi"})
        assert problem["status"] == 422
        assert [(one["field"], one["detail"]) for one in problem["errors"]] == [("session_id", "is missing")]
    assert await api.get("/api/tasks") == []
    assert (await api.send("POST", "/api/v1/chat", {"message": "Hi"}, 201))["success"]


async def test_a_question_that_comes_again_is_asked_once(api: Api) -> None:
    """With the same key the same question makes nothing new, and another one is refused."""
    head = {"Idempotency-Key": "k"}
    answers = [await api.http.post("/api/v1/chat", json={"message": "Once"}, headers=head) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert (await api.get("/api/v1/tasks"))["tasks"][1:] == []
    problem = await api.problem("POST", "/api/v1/chat", json={"message": "Other"}, headers=head)
    assert problem["status"] == 409


async def test_keys_and_names_of_questions_are_their_owners(start: Start) -> None:
    """Another API key may use the same idempotency key, and another conversation the same id of a message."""
    api = await start(auth={"keys": (key("a", "a"), key("b", "b"))}, engine={"url": "http://127.0.0.1:9"})
    said = {"role": "user", "content": "Once", "message_id": "m"}
    tasks = []
    for caller in "ab":
        headers = {"X-API-Key": caller, "Idempotency-Key": "k"}
        asked = await api.http.post("/api/v1/chat", json={"message": "Once"}, headers=headers)
        data = asked.json()["data"]
        path = f"/api/v1/conversations/{data['conversation_id']}/messages"
        for _ in range(2):
            stored = await api.http.post(path, json=said, headers={"X-API-Key": caller})
            assert stored.status_code == 201
        tasks += [data["task_id"], stored.json()["task_id"]]
    assert len(set(tasks)) == 4


async def test_an_engine_is_given_what_was_said_before(start: Start) -> None:
    """The request for the engine has the message and the conversation before it; what came is not lost."""
    api = await start(engine={"url": "http://127.0.0.1:9"})
    asked = await api.send("POST", "/api/v1/chat", {"message": "My name is Ada."}, 201)
    conversation = asked["data"]["conversation_id"]
    said = {"role": "assistant", "content": "Hello."}
    await api.send("POST", f"/api/v1/conversations/{conversation}/messages", said, 201)
    path = f"/api/v1/conversations/{conversation}/messages"
    stored = await api.send("POST", path, {"role": "user", "content": "Who am I?"}, 201)
    events = (await api.get(f"/api/v1/events?channel=task:{stored['task_id']}&topic=engine.requested"))[
        "events"
    ]
    assert events[0]["payload"] == {
        "task_id": stored["task_id"],
        "conversation_id": conversation,
        "prompt": "user: My name is Ada.\nassistant: Hello.\nuser: Who am I?",
        "repo_path": "/app",
    }
    kept = await api.send("POST", f"{path}?run=false", {"role": "user", "content": "Only a note."}, 201)
    assert kept["task_id"] is None


async def test_an_answer_after_the_end_says_the_end_again(api: Api) -> None:
    """An engine ends its task before it gives its answer; whoever watches for ends hears of it once more."""
    asked = await api.send("POST", "/api/chat?session_id=s", {"message": "Hi"})
    task, conversation = asked["data"]["task_id"], asked["data"]["conversation_id"]
    await api.send("PATCH", f"/api/tasks/{task}", {"status": "completed", "cost_usd": 0.5})
    for _ in range(2):
        said = {"role": "assistant", "content": "Hello.", "task_id": task}
        await api.send("POST", f"/api/conversations/{conversation}/messages", said)
    events = (await api.get(f"/api/v1/events?channel=task:{task}&topic=task.status"))["events"]
    assert [event["payload"]["status"] for event in events] == ["completed", "completed", "queued"]
    assert (await api.get(f"/api/tasks/{task}"))["cost_usd"] == 0.5
