"""The dashboard API answers its page's own requests, in the forms that the page reads without a check."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
import trio
from tests.conformance.clients import open_ws
from tests.factories import TaskFactory
from tests.factories.telling import told_of
from tests.http.conftest import Api, created, output, status

from heliograph.http.api.dashboard import logs

DAY = datetime.now(UTC).date().isoformat()


@attrs.define
class Page:
    """Reads answers as the page's views do: what is missing, or null where it computes, ends it."""

    api: Api

    async def overview(self) -> dict[str, Any]:
        """Ask what every view asks."""
        health = await self.api.get("/api/health")
        cards = [health[name] + 0 for name in ("queue_length", "sessions", "connections")]
        summary = await self.api.get("/api/analytics/summary")
        names = ("today_cost", "today_tasks", "total_cost", "total_tasks")
        return {"cards": cards, **{name: summary[name] + 0 for name in names}}

    async def global_log(self) -> list[str]:
        """Show the logs of the newest tasks."""
        shown = []
        for task in await self.api.get("/api/tasks?limit=5"):
            log = await self.api.get(f"/api/tasks/{task['task_id']}/logs")
            assert isinstance(log["is_live"], bool)
            shown.append(f"{log['task_id'].split('-')[0]} {log['status'].lower()}: {log['output']}")
        return shown

    async def ledger(self, **filters: str) -> tuple[list[str], int]:
        """Show a numbered page; filters that are not set are sent empty."""
        agents = [agent["name"] for agent in await self.api.get("/api/agents")]
        assert all(isinstance(name, str) for name in agents)
        query = "&".join(f"{name}={filters.get(name, '')}" for name in ("session_id", "status", "subagent"))
        table = await self.api.get(f"/api/tasks/table?page=1&{query}")
        rows = [
            f"{row['task_id']} {row['assigned_agent']} {row['status'].upper()} {row['cost_usd']:.4f}"
            for row in table["tasks"]
        ]
        return rows, table["total_pages"] + 0

    async def charts(self) -> dict[str, list[Any]]:
        """Draw the histogram and the leaderboard."""
        lists: dict[str, list[Any]] = await self.api.get(
            "/api/analytics/costs/histogram?days=7&granularity=day"
        )
        assert len({len(one) for one in lists.values()}) == 1
        for date in lists["dates"]:
            datetime.fromisoformat(date)
        board = await self.api.get("/api/analytics/costs/by-subagent?days=30")
        return {**board, **lists}

    async def registry(self) -> list[str]:
        """Show what is registered."""
        agents, skills = [await self.api.get(f"/api/registry/{name}") for name in ("agents", "skills")]
        return [f"{one['name']}: {one['description']}" for one in (*agents, *skills)]


@pytest.fixture
async def page(api: Api) -> Page:
    """Start a service with some tasks, as an engine tells of them."""
    first = TaskFactory.create_completed(
        task_id="task-1", session_id="s1", input_message="Say hello", input_tokens=10, output_tokens=5
    )
    *begun, ended = told_of(first, agent="brain")
    await api.publish(*begun, output("task-1", "hello"), output("task-1", "world"), ended)
    second = TaskFactory.create_failed("no", task_id="task-2", session_id="s2")
    await api.publish(*told_of(second, agent="planner"), created("task-3"))
    return Page(api)


async def test_an_empty_service_shows_an_empty_page(api: Api) -> None:
    """Before anything has happened every view shows zeros and nothing else."""
    page = Page(api)
    shown = await page.overview()
    assert shown == {
        "cards": [0, 0, 0],
        "today_cost": 0,
        "today_tasks": 0,
        "total_cost": 0,
        "total_tasks": 0,
    }
    assert await page.global_log() == []
    assert await page.ledger() == ([], 0)
    assert (await page.charts())["dates"] == []
    assert await page.registry() == []


async def test_every_view_shows_what_there_is(page: Page) -> None:
    """The page's requests, in its order, find what was published."""
    shown = await page.overview()
    assert (shown["cards"], shown["today_tasks"], shown["total_cost"]) == ([1, 0, 0], 3, 0.05)
    assert await page.global_log() == [
        "task queued: ",
        "task failed: ",
        "task completed: hello\nworld",
    ]
    rows, pages = await page.ledger()
    assert rows == [
        "task-3 None QUEUED 0.0000",
        "task-2 planner FAILED 0.0000",
        "task-1 brain COMPLETED 0.0500",
    ]
    assert pages == 1
    charts = await page.charts()
    assert (charts["dates"], charts["task_counts"], charts["error_counts"]) == ([DAY], [3], [1])
    assert (charts["tokens"], charts["subagents"]) == ([15], ["brain", "planner"])
    assert [one.partition(":")[0] for one in await page.registry()] == ["brain", "planner"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"status": "completed"}, ["task-1"]),
        ({"subagent": "planner"}, ["task-2"]),
        ({"session_id": "s1"}, ["task-1"]),
        ({"session_id": "s1", "status": "failed"}, []),
        ({"subagent": "brain", "status": "completed"}, ["task-1"]),
    ],
)
async def test_the_ledger_filters(page: Page, filters: dict[str, str], expected: list[str]) -> None:
    """Each filter of the page holds, and the number of pages with it."""
    rows, pages = await page.ledger(**filters)
    assert [row.partition(" ")[0] for row in rows] == expected
    assert pages == len(expected)


async def test_a_table_is_turned_over(page: Page) -> None:
    """Pages do not overlap and leave nothing out, in either order."""
    for order, expected in (
        ("desc", ["task-3", "task-2", "task-1"]),
        ("asc", ["task-1", "task-2", "task-3"]),
    ):
        names = []
        for number in (1, 2, 3):
            path = f"/api/tasks/table?page={number}&page_size=2&sort_order={order}"
            table = await page.api.get(path)
            assert (table["total"], table["total_pages"], table["page"]) == (3, 2, number)
            names += [row["task_id"] for row in table["tasks"]]
        assert names == expected


async def test_a_table_is_sorted(page: Page) -> None:
    """The table is sorted by what its columns show, in either order."""
    for cost, name in ((0.2, "task-1"), (0.9, "task-2"), (0.5, "task-3")):
        await page.api.publish(status("completed", name, result={"cost_usd": cost}))
    for order, expected in (("desc", [0.9, 0.5, 0.2]), ("asc", [0.2, 0.5, 0.9])):
        costs = []
        for number in (1, 2):
            path = f"/api/tasks/table?page={number}&page_size=2&sort_by=cost_usd&sort_order={order}"
            costs += [row["cost_usd"] for row in (await page.api.get(path))["tasks"]]
        assert costs == expected


async def test_an_engine_tells_how_long_it_worked(page: Page) -> None:
    """A duration that the engine measured is shown as it said, and the newest output with it."""
    await page.api.publish(
        output("task-9", "a"),
        output("task-9", "b"),
        status("completed", "task-9", result={"duration_seconds": 12.5}),
    )
    task = await page.api.get("/api/tasks/task-9")
    assert (task["duration_seconds"], task["output_stream"]) == (12.5, "a\nb")


async def test_conversations_are_summed_up(page: Page) -> None:
    """The sums of conversations are of those that changed in the range."""
    posted = await page.api.http.post("/api/conversations", json={"title": "one"})
    name = posted.json()["conversation_id"]
    await page.api.http.post(f"/api/conversations/{name}/messages", json={"role": "user", "content": "hi"})
    await page.api.http.post("/api/conversations", json={"title": "two"})
    sums = await page.api.get(f"/api/analytics/conversations?start_date={DAY}")
    assert (sums["total_conversations"], sums["total_messages"], sums["avg_messages"]) == (2, 1, 0.5)
    assert {one["title"] for one in sums["conversations"]} == {"one", "two"}
    assert (await page.api.get(f"/api/analytics/conversations?end_date={DAY}"))["conversations"] == []


async def test_lists_are_bare_with_cursors_in_headers(page: Page) -> None:
    """A page of a list is an array; the headers lead to the next page, and to the stream."""
    names: list[str] = []
    url = "/api/tasks?limit=2"
    while url:
        answer = await page.api.http.get(url)
        assert answer.headers["x-stream-cursor"]
        names += [row["task_id"] for row in answer.json()]
        following = answer.headers.get("link", "")
        assert ("x-next-cursor" in answer.headers) == bool(following)
        url = following and f"/api/tasks{following[1:].partition('>')[0]}"
    assert names == ["task-3", "task-2", "task-1"]


async def test_a_task_is_whole(page: Page) -> None:
    """One task has what the document says, its input in full."""
    task = await page.api.get("/api/tasks/task-1")
    assert (task["input_message"], task["source"], task["completed_at"] is not None) == (
        "Say hello",
        "dashboard",
        True,
    )
    assert (task["input_tokens"], task["output_tokens"], task["assigned_agent"]) == (10, 5, "brain")
    assert (await page.api.problem("GET", "/api/tasks/none"))["detail"].startswith("there is no task 'none'")


async def test_the_page_hears_the_end_of_a_task(page: Page) -> None:
    """On the page's own socket, which it never speaks on, a task's end is told in its form."""
    async with await open_ws(page.api.url, "/ws/dashboard", {"Origin": page.api.url}) as socket:
        await socket.say("ping")
        await socket.until("pong")
        assert (await page.overview())["cards"][1:] == [1, 1]
        await page.api.publish(status("completed", "task-3"))
        with trio.fail_after(5):
            (told,) = await socket.story(1)
        assert told.fields["payload"]["status"] == "completed"
        asked = await page.api.send("POST", "/api/chat?session_id=s", {"message": "What is new?"})
        told = await socket.next()
    assert (told.fields["payload"]["task_id"], told.fields["payload"]["status"]) == (
        asked["data"]["task_id"],
        "queued",
    )


# What an engine says by REST


async def test_an_engine_reports_a_task(page: Page) -> None:
    """An engine creates a task, says that it runs and how it ended; every view shows it."""
    told = {
        "input_message": "Fix it",
        "source": "webhook",
        "source_metadata": {"pr": 5},
        "assigned_agent": "brain",
    }
    for path in ("/api/tasks", "/api/tasks"):  # a retry is harmless
        answer = await page.api.http.post(path, json={"task_id": "task-9", "flow_id": "github:a/b#1", **told})
        assert (answer.status_code, answer.json()) == (201, {"task_id": "task-9", "conversation_id": None})
    await page.api.http.patch("/api/tasks/task-9", json={"status": "in_progress"})
    assert (await page.api.get("/api/tasks/task-9"))["status"] == "running"
    ended = {"status": "success", "output": "done", "cost_usd": 0.25, "input_tokens": 7, "output_tokens": 3}
    answer = await page.api.http.patch(
        "/api/tasks/task-9", json={**ended, "duration_seconds": 2, "thoughts": "…"}
    )
    assert answer.json() == {"task_id": "task-9", "status": "completed"}
    task = await page.api.get("/api/tasks/task-9")
    shown = {
        name: task[name] for name in ("status", "result", "cost_usd", "source", "source_metadata", "flow_id")
    }
    assert shown == {
        "status": "completed",
        "result": "done",
        "cost_usd": 0.25,
        "source": "webhook",
        "source_metadata": {"pr": 5},
        "flow_id": "github:a/b#1",
    }
    assert (await page.api.get("/api/tasks/task-9/logs"))["output"] == "done"
    assert (await page.api.get("/api/v1/tasks/task-9"))["result"]["thoughts"] == "…"


async def test_what_a_task_has_so_far_is_kept_before_its_end(page: Page) -> None:
    """What an engine says beside a status that is no end stands in the event; it ends nothing."""
    told = {"status": "running", "output": "half done", "cost_usd": 0.25, "step": 2}
    await page.api.http.patch("/api/tasks/task-8", json=told)
    (event,) = (await page.api.get("/api/v1/events?channel=task:task-8"))["events"]
    assert event["payload"]["result"] == {"output": "half done", "cost_usd": 0.25, "step": 2}
    task = await page.api.get("/api/v1/tasks/task-8")
    assert (task["status"], task["result"], task["finished_at"]) == ("running", None, None)


async def test_an_engine_may_speak_before_the_task_is_known(page: Page) -> None:
    """What an engine says of a task that nobody has created begins it."""
    await page.api.http.patch("/api/tasks/new", json={"status": "running"})
    assert (await page.api.get("/api/tasks/new"))["status"] == "running"


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", "/api/tasks", {"task_id": "a b"}, "task_id"),
        ("POST", "/api/tasks", {"assigned_agent": 5}, "assigned_agent"),
        ("PATCH", "/api/tasks/1", {}, "status"),
        ("PATCH", "/api/tasks/1", {"status": "odd"}, "status"),
        ("PATCH", "/api/tasks/1", {"status": "failed", "cost_usd": -1}, "cost_usd"),
    ],
)
async def test_bad_reports_are_named(page: Page, method: str, path: str, body: Any, field: str) -> None:
    """A field that is wrong is named, and nothing is kept."""
    kept = "/api/v1/events?channel=task:*"  # the aggregator's own come when they are due
    before = await page.api.get(kept)
    problem = await page.api.problem(method, path, json=body)
    assert [error["field"] for error in problem["errors"]] == [field]
    assert (await page.api.get(kept))["events"] == before["events"]


async def test_a_task_is_stopped_once(page: Page) -> None:
    """Stopping cancels what has not ended, and says so of what has."""
    first, second = [(await page.api.http.post("/api/tasks/task-3/stop")).json() for _ in range(2)]
    assert (first["success"], second["success"]) == (True, False)
    assert "cancelled" in second["message"]
    assert (await page.api.get("/api/tasks/task-3"))["status"] == "cancelled"
    assert (await page.api.http.post("/api/tasks/none/stop")).status_code == 404


# All that was said of a task


async def test_the_log_has_its_parts(page: Page) -> None:
    """What an engine tells of its thoughts and tools is in the parts of the whole log, in order."""
    said = [
        ("task.context_built", {"enriched_prompt": "Say hello, politely"}),
        ("task.thinking", {"content": "hm"}),
        ("task.tool_call", {"name": "grep", "input": {"q": 1}}),
        ("task.tool_result", {"name": "grep", "content": "found", "is_error": False}),
        ("webhook.received", {"source": "github"}),
        ("response.immediate", {"target": "pr"}),
        ("knowledge.query", {"tool_name": "search", "query": "why"}),
    ]
    for topic, payload in said:
        await page.api.publish({"topic": topic, "channel": "task:task-1", "payload": payload})
    log = await page.api.get("/api/tasks/task-1/logs/full")
    assert list(log) == [
        "metadata",
        "input",
        "webhook_flow",
        "agent_output",
        "knowledge_interactions",
        "final_result",
    ]
    assert (log["metadata"]["assigned_agent"], log["metadata"]["cost_usd"]) == ("brain", 0.05)
    assert log["input"] == {"message": "Say hello", "enriched_prompt": "Say hello, politely"}
    kinds = [entry["type"] for entry in log["agent_output"]]
    assert kinds == ["output", "output", "thinking", "tool_call", "tool_result"]
    assert log["agent_output"][3]["tool_input"] == '{"q":1}'
    assert [entry["stage"] for entry in log["webhook_flow"]] == ["received", "response_immediate"]
    assert log["final_result"]["success"] is True
    for part in log:
        found = await page.api.get(f"/api/tasks/task-1/logs/{part.replace('_', '-')}")
        assert found == log[part]
    assert await page.api.get("/api/tasks/task-3/logs/final-result") is None
    assert await page.api.get("/api/tasks/task-3/logs/agent-output") == []
    summary = await page.api.get("/api/tasks/task-1/knowledge-summary")
    assert summary == {"total_queries": 1, "total_results": 0, "tools": ["search"]}


async def test_a_long_log_keeps_its_newest(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more entries than are given the newest are, and the answer says that there are others."""
    monkeypatch.setattr(logs, "MAX_ENTRIES", 2)
    log = await page.api.get("/api/tasks/task-1/logs/full")
    assert ([entry["content"] for entry in log["agent_output"]], log["truncated"]) == (["world"], True)
    text = await page.api.http.get("/api/tasks/task-1/logs/full", headers={"Accept": "text/plain"})
    assert text.text == "hello\nworld\n"
