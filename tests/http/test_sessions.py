"""The list of sessions, and one session."""

from __future__ import annotations

from tests.factories import SessionFactory, TaskFactory
from tests.factories.telling import told_of
from tests.http.conftest import Api, created, status

from heliograph.model.task import STATUSES

NONE = dict.fromkeys(STATUSES, 0)


async def test_a_session_adds_its_tasks_up(api: Api) -> None:
    """A session has its tasks by status, and what those cost that have ended; its id may hold anything."""
    await api.publish(
        created("1", "2026-01-31T12:00:00Z", session_id="chat/1 #ü"),
        created("2", "2026-01-31T12:05:00Z", session_id="chat/1 #ü"),
        created("3", "2026-01-31T12:10:00Z", session_id="other"),
        status("completed", "2", result={"cost_usd": 0.25, "input_tokens": 5}),
    )
    found = await api.get("/api/v1/sessions/chat%2F1%20%23%C3%BC")
    assert found.pop("meta")["stream_cursor"]
    assert found["last_seen"] > "2026-01-31T12:05:00Z"
    del found["last_seen"]
    assert found == {
        "session_id": "chat/1 #ü",
        "tasks": {**NONE, "queued": 1, "completed": 1},
        "cost_usd": 0.25,
        "input_tokens": 5,
        "output_tokens": 0,
        "first_seen": "2026-01-31T12:00:00Z",
    }
    assert (await api.problem("GET", "/api/v1/sessions/chat"))["status"] == 404


async def test_a_session_is_what_its_tasks_make_of_it(api: Api) -> None:
    """Told task by task, the service's session adds up to what the session itself has counted."""
    session = SessionFactory.create(session_id="desk")
    for cost in (0.25, 0.5):
        task = TaskFactory.create_completed(cost_usd=cost, session_id=session.session_id)
        session.add_completed_task(task.cost_usd)
        await api.publish(*told_of(task))
    await api.publish(*told_of(TaskFactory.create_running(session_id=session.session_id)))
    found = await api.get("/api/v1/sessions/desk")
    assert (found["tasks"]["completed"], found["cost_usd"]) == (session.total_tasks, session.total_cost_usd)
    assert found["tasks"]["running"] == 1


async def test_sessions_come_in_pages(api: Api) -> None:
    """The session seen last comes first, each one once; a parameter that is wrong is named."""
    moments = [f"2026-01-31T12:0{n}:00Z" for n in range(5)]
    await api.publish(*(created(f"t{n}", moment, session_id=f"s{n}") for n, moment in enumerate(moments)))
    pages, cursor = [], ""
    while cursor is not None:
        page = await api.get(f"/api/v1/sessions?limit=2{cursor and f'&cursor={cursor}'}")
        pages.append([session["session_id"] for session in page["sessions"]])
        cursor = page["meta"]["next_cursor"]
    assert pages == [["s4", "s3"], ["s2", "s1"], ["s0"]]
    found = await api.get(f"/api/v1/sessions?since={moments[1]}&until={moments[3]}")
    assert [session["session_id"] for session in found["sessions"]] == ["s2", "s1"]
    for query in ("cursor=x", "limit=0", "agent=a", "since=yesterday"):
        problem = await api.problem("GET", f"/api/v1/sessions?{query}")
        assert [error["field"] for error in problem["errors"]] == [query.partition("=")[0]]
