"""Answering what a task asks: once, with one of its choices, and only while it waits."""

from __future__ import annotations

from typing import Any

from tests.http.conftest import Api, created, output, status

ANSWERS = "/api/v1/tasks/1/answers"


async def asking(api: Api, question_id: str | None = "q1", **more: Any) -> None:
    """Let task 1 ask something and wait."""
    said = {"task_id": "1", "question": "Which branch?", "question_id": question_id, **more}
    payload = {name: value for name, value in said.items() if value is not None}
    await api.publish({"topic": "task.question", "payload": payload}, status("waiting_input"))


async def given(api: Api) -> list[Any]:
    """Return the answers that are on the task's channel."""
    found = await api.get("/api/v1/events?channel=task:1&topic=task.input")
    return [(event["payload"], event["sender"]) for event in found["events"]]


async def test_an_answer_is_heard_once(api: Api) -> None:
    """It is an event on the task's channel; a retry adds none, and another answer is too late."""
    await asking(api)
    first = await api.send("POST", ANSWERS, {"content": "main", "question_id": "q1"}, 201)
    assert (first["task_id"], first["question_id"], first["content"]) == ("1", "q1", "main")
    assert await api.send("POST", ANSWERS, {"content": "main"}, 201) == first
    late = await api.problem("POST", ANSWERS, json={"content": "other"})
    assert (late["status"], late["code"], late["detail"]) == (409, "not_asked", "local has answered already")
    await api.publish(status("running"), output("1"))
    assert await api.send("POST", ANSWERS, {"content": "main"}, 201) == first
    assert (await api.problem("POST", ANSWERS, json={"content": "other"}))["status"] == 409
    assert await given(api) == [({"task_id": "1", "question_id": "q1", "content": "main"}, "local")]


async def test_the_next_question_takes_the_next_answer(api: Api) -> None:
    """What answered the question before is no answer to this one, and who has read that one is told."""
    await asking(api)
    await api.send("POST", ANSWERS, {"content": "main"}, 201)
    await api.publish(status("running"))
    await asking(api, "q2")
    old = await api.problem("POST", ANSWERS, json={"content": "main", "question_id": "q1"})
    assert (old["status"], old["detail"]) == (409, "the task does not ask 'q1' any more")
    await api.send("POST", ANSWERS, {"content": "main"}, 201)
    assert len(await given(api)) == 2


async def test_an_answer_is_one_of_the_choices(api: Api) -> None:
    """Where the question has choices anything else is refused by its field, and so is an empty answer."""
    await asking(api, choices=["yes", "no"])
    problem = await api.problem("POST", ANSWERS, json={"content": "maybe"})
    assert problem["status"] == 422
    assert problem["errors"] == [{"field": "content", "detail": "must be one of yes, no"}]
    assert (await api.problem("POST", ANSWERS, json={"content": ""}))["status"] == 422
    await api.send("POST", ANSWERS, {"content": "no"}, 201)


async def test_a_task_that_does_not_wait_is_not_answered(api: Api) -> None:
    """A task that runs, one that has ended, and none at all take no answer."""
    await api.publish(created("1"), output("1"))
    problem = await api.problem("POST", ANSWERS, json={"content": "x"})
    assert (problem["status"], problem["detail"]) == (409, "the task is running, and asks nothing now")
    await api.publish(status("completed"))
    assert (await api.problem("POST", ANSWERS, json={"content": "x"}))["status"] == 409
    assert (await api.problem("POST", "/api/v1/tasks/none/answers", json={"content": "x"}))["status"] == 404
    assert await given(api) == []


async def test_a_task_may_wait_without_a_question(api: Api) -> None:
    """It is answered as often as somebody says something; a retry is known by its key."""
    await api.publish(created("1"), output("1"), status("waiting_input"))
    for key, content in (("a", "go on"), ("a", "go on"), ("b", "go on")):
        answer = await api.http.post(ANSWERS, json={"content": content}, headers={"Idempotency-Key": key})
        assert answer.status_code == 201, answer.text
    assert [payload["content"] for payload, _ in await given(api)] == ["go on", "go on"]
    again = await api.problem("POST", ANSWERS, json={"content": "stop"}, headers={"Idempotency-Key": "a"})
    assert again["status"] == 409
