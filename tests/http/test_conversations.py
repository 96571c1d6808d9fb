"""Conversations and messages over REST and on streams."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.factories import ConversationFactory, TaskFactory
from tests.factories.telling import told_of
from tests.http.conftest import Api

from heliograph.storage.sql import queries

V1 = "/api/v1/conversations"


async def make(api: Api, **more: Any) -> str:
    """Make a conversation; return its id."""
    made = await api.send("POST", V1, {"title": "News", **more}, 201)
    conversation_id: str = made["conversation_id"]
    return conversation_id


async def say(api: Api, conversation: str, content: str, role: str = "user", **more: Any) -> Any:
    """Store a message."""
    return await api.send(
        "POST", f"{V1}/{conversation}/messages", {"role": role, "content": content, **more}, 201
    )


async def texts(api: Api, conversation: str, query: str = "") -> list[str]:
    """Return what the messages of an answer say."""
    found = await api.get(f"{V1}/{conversation}/messages{query}")
    return [message["content"] for message in found["messages"]]


async def test_a_conversation_is_made_changed_and_deleted(api: Api) -> None:
    """It is what was said of it last; deleted, it is gone with its messages."""
    name = await make(api, flow_id="github:acme/app#12", source="slack", metadata={"a": 1})
    found = await api.get(f"{V1}/{name}")
    assert (found["user_id"], found["metadata"]) == ("default-user", {"a": 1, "source": "slack"})
    assert (await api.get(f"{V1}/by-flow/github%3Aacme%2Fapp%2312"))["conversation_id"] == name
    changed = await api.send("PUT", f"{V1}/{name}", {"title": "Old news", "is_archived": True}, 200)
    assert (changed["title"], changed["is_archived"], changed["flow_id"]) == (
        "Old news",
        True,
        "github:acme/app#12",
    )
    assert (await api.get(V1))["conversations"] == []
    [listed] = (await api.get(f"{V1}?archived=true&search=NEWS"))["conversations"]
    assert listed == changed
    assert (await api.send("DELETE", f"{V1}/{name}", None, 200))["success"]
    for path in ("", "/messages", "/context", "/metrics"):
        assert (await api.problem("GET", f"{V1}/{name}{path}"))["status"] == 404
    assert (await api.problem("GET", f"{V1}/by-flow/github:acme/app%2312"))["status"] == 404


async def test_messages_come_oldest_first(api: Api) -> None:
    """Pages go on where the one before ended; the tail, the context and a cleared conversation are less."""
    name = await make(api)
    for n in range(5):
        await say(api, name, f"text {n}", ("user", "assistant", "system")[n % 3])
    pages, cursor = [], ""
    while cursor is not None:
        page = await api.get(f"{V1}/{name}/messages?limit=2{cursor and f'&cursor={cursor}'}")
        pages.append([message["content"] for message in page["messages"]])
        cursor = page["meta"]["next_cursor"]
    assert pages == [["text 0", "text 1"], ["text 2", "text 3"], ["text 4"]]
    assert await texts(api, name, "?tail=2") == ["text 3", "text 4"]
    context = (await api.get(f"{V1}/{name}/context?max_messages=3"))["messages"]
    assert [message["content"] for message in context] == ["text 1", "text 3", "text 4"]
    assert (await api.get(f"{V1}/{name}"))["message_count"] == 5
    await api.send("POST", f"{V1}/{name}/clear", None, 200)
    await say(api, name, "anew")
    assert await texts(api, name) == ["anew"]
    assert (await api.get(f"{V1}/{name}"))["message_count"] == 1


async def test_a_conversation_adds_up_its_tasks(api: Api) -> None:
    """Cost, number and time of its tasks count, failed ones too."""
    name = await make(api)
    began = datetime(2026, 1, 31, 12, tzinfo=UTC)
    conversation = ConversationFactory.create(conversation_id=name)
    for number, seconds in enumerate((2, 1)):
        task = TaskFactory.create(created_at=began - timedelta(hours=number))
        task.start()
        task.complete("done", cost_usd=0.25) if number == 0 else task.fail("no")
        task.cost_usd, task.duration_seconds = 0.25 * (number + 1), seconds
        task.started_at = task.created_at + timedelta(seconds=1)
        task.completed_at = task.started_at + timedelta(seconds=seconds)
        conversation.add_task(task)
        await api.publish(*told_of(task, conversation_id=name))
    found = await api.get(f"{V1}/{name}/metrics")
    for moment in ("started_at", "completed_at"):
        assert datetime.fromisoformat(found.pop(moment)) == getattr(conversation, moment)
    assert found == {
        "conversation_id": name,
        "message_count": 0,
        "total_cost_usd": conversation.total_cost_usd,
        "total_tasks": conversation.total_tasks,
        "total_duration_seconds": conversation.total_duration_seconds,
    }
    assert (found["total_cost_usd"], found["total_duration_seconds"]) == (0.75, 3.0)


async def test_an_answer_grows_and_is_stored_once(api: Api) -> None:
    """Pieces make one message when they end; in between one gets the text so far, and its place."""
    name = await make(api)

    async def piece(text: str, **more: Any) -> str:
        payload = {"message_id": "m", "content": text, **more}
        item = {"topic": "conversation.delta", "channel": f"conversation:{name}", "payload": payload}
        return str((await api.publish(item))["cursor"])

    await piece("lost ")
    await piece("Hello", rewind=True)
    last = await piece(", wor")
    found = await api.get(f"{V1}/{name}/messages")
    assert found["messages"] == []
    [growing] = found["growing"]
    assert (growing["content"], growing["last_event_id"]) == ("Hello, wor", last)
    await piece("ld", done=True)
    await piece(" too late")
    found = await api.get(f"{V1}/{name}/messages")
    assert found["growing"] == []
    assert [message["content"] for message in found["messages"]] == ["Hello, world"]


async def test_answers_that_grow_between_each_other_keep_apart(api: Api) -> None:
    """Of pieces that alternate each message gets its own, from its rewind to its end, and no others."""
    name = await make(api)

    def piece(message: str, text: str, **more: Any) -> dict[str, Any]:
        payload = {"message_id": message, "content": text, **more}
        return {"topic": "conversation.delta", "channel": f"conversation:{name}", "payload": payload}

    await api.publish(piece("a", "A1 "), piece("b", "lost "), piece("c", "C1 "), piece("alone", "it is"))
    await api.publish(piece("b", "B1 ", rewind=True), piece("a", "A2"), piece("c", "C2"))
    found = await api.get(f"{V1}/{name}/messages")
    texts = {one["message_id"]: one["content"] for one in found["growing"]}
    assert texts == {"a": "A1 A2", "b": "B1 ", "c": "C1 C2", "alone": "it is"}
    await api.publish(piece("a", "!", done=True), piece("b", "B2", done=True), piece("a", " too late"))
    await api.publish(piece("c", ".", done=True))
    found = await api.get(f"{V1}/{name}/messages")
    texts = {one["message_id"]: one["content"] for one in found["messages"]}
    assert texts == {"a": "A1 A2!", "b": "B1 B2", "c": "C1 C2."}
    assert [one["content"] for one in found["growing"]] == ["it is"]


async def test_what_grows_together_is_read_once(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages that end at once read what stands between their pieces once, and not for each of them."""
    name = await make(api)

    def piece(message: str, **more: Any) -> dict[str, Any]:
        payload = {"message_id": message, "content": "x", **more}
        return {"topic": "conversation.delta", "channel": f"conversation:{name}", "payload": payload}

    await api.publish(*(piece(f"m{number}") for number in range(50)))
    await api.publish(*(piece("between") for _ in range(100)))
    read: list[int] = []
    read_events = queries.read_events

    def counting(*args: Any, **kwargs: Any) -> Any:
        found, more = read_events(*args, **kwargs)
        read.append(len(found))
        return found, more

    monkeypatch.setattr(queries, "read_events", counting)
    await api.publish(*(piece(f"m{number}", done=True) for number in range(50)))
    assert sum(read) == 200
    read.clear()
    messages = (await api.get(f"{V1}/{name}/messages?limit=500"))["messages"]
    assert [one["content"] for one in messages] == ["xx"] * 50


async def test_a_task_has_one_answer(api: Api) -> None:
    """Whatever an engine that was started again says, the first answer to a task stays, and comes once."""
    name = await make(api)
    first = await say(api, name, "It is 42.", "assistant", task_id="task-1")
    again = await say(api, name, "It is 42.", "assistant", task_id="task-1")
    other = await say(api, name, "It is 43.", "assistant", task_id="task-1")
    assert first["message_id"] == again["message_id"] == other["message_id"]
    assert other["content"] == "It is 42."
    assert await texts(api, name) == ["It is 42."]
    events = (await api.get(f"/api/v1/events?channel=conversation:{name}"))["events"]
    assert [event["topic"] for event in events] == ["conversation.message", "conversation.created"]


@pytest.mark.parametrize(
    ("method", "path", "body", "fields"),
    [
        ("POST", "", {}, {"title"}),
        ("POST", "", {"title": 1, "colour": "red"}, {"title", "colour"}),
        ("POST", "", {"title": "x" * 1001}, {"title"}),
        ("PUT", "/{id}", {"is_archived": "yes"}, {"is_archived"}),
        ("POST", "/{id}/messages", {"role": "king", "content": None}, {"role", "content"}),
        (
            "POST",
            "/{id}/messages",
            {"role": "user", "content": "x", "message_id": "?"},
            {"payload.message_id"},
        ),
        ("GET", "?cursor=abc&limit=0", None, {"cursor", "limit"}),
        ("GET", "/{id}/messages?cursor=WzFd&tail=0", None, {"cursor", "tail"}),
        ("GET", "/{id}/context?roles=king", None, {"roles"}),
    ],
)
async def test_bad_input_names_its_fields(
    api: Api, method: str, path: str, body: Any, fields: set[str]
) -> None:
    """A problem names each field that is wrong, and nothing is kept."""
    name = await make(api)
    before = (await api.get("/api/v1/events"))["total"]
    problem = await api.problem(method, V1 + path.replace("{id}", name), json=body)
    assert problem["status"] == 422
    assert {error["field"] for error in problem["errors"]} == fields
    assert (await api.get("/api/v1/events"))["total"] == before


async def test_the_dashboard_reads_bare_arrays(api: Api) -> None:
    """Its page gets arrays by limit and offset, one conversation with its messages, and no wrappers."""
    base = "/api/conversations"
    names = [(await api.send("POST", base, {"title": f"News {n}"}))["conversation_id"] for n in range(3)]
    await api.send("PUT", f"{base}/{names[0]}", {"is_archived": True})
    for n in range(3):
        await api.send("POST", f"{base}/{names[1]}/messages", {"role": "user", "content": f"text {n}"})
    listed = await api.get(base)
    assert [one["conversation_id"] for one in listed] == [names[1], names[2]]
    everything = await api.get(f"{base}?include_archived=true&limit=2&offset=1&search=news")
    assert [one["conversation_id"] for one in everything] == [names[0], names[2]]
    messages = await api.get(f"{base}/{names[1]}/messages?limit=2&offset=1")
    assert [one["content"] for one in messages] == ["text 1", "text 2"]
    assert set(messages[0]) == {
        *("message_id", "conversation_id", "role", "content", "task_id", "created_at", "metadata")
    }
    found = await api.get(f"{base}/{names[1]}")
    assert [one["content"] for one in found["messages"]] == ["text 0", "text 1", "text 2"]
    assert "meta" not in found
    context = await api.get(f"{base}/{names[1]}/context?max_messages=1&roles=user,assistant")
    assert [set(one) for one in context] == [{"role", "content", "created_at"}]
    assert await api.send("DELETE", f"{base}/{names[2]}") == {
        "success": True,
        "message": f"{names[2]} is deleted",
        "data": None,
        "error": None,
    }
    assert (await api.problem("GET", f"{base}?offset=10001"))["status"] == 422
