"""Lists of tasks, and the search in their logs, over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from tests.conformance.clients import open_sse
from tests.http.conftest import Api, created, output, status

from heliograph.model.task import STATUSES
from heliograph.storage.sql.entities import task


async def test_tasks_are_counted_for_a_filter(api: Api) -> None:
    """Counts are of what the filter finds, whatever status was asked for; without asking there are none."""
    await api.publish(
        *(created(f"a{n}", agent="a", name=f"nightly job {n}") for n in range(5)),
        *(status("failed", f"a{n}") for n in range(3)),
        created("b", agent="b", name="nightly job of another"),
    )
    page = await api.get("/api/v1/tasks?counts=true&agent=a&status=failed&limit=2&text=job%20NIGHTLY")
    assert len(page["tasks"]) == 2
    assert page["meta"]["counts"] == {**dict.fromkeys(STATUSES, 0), "queued": 2, "failed": 3}
    assert "counts" not in (await api.get("/api/v1/tasks"))["meta"]


async def test_tasks_are_sorted_page_by_page(api: Api) -> None:
    """Sorted by cost the dearest comes first, on every page; a sort that is none is refused."""
    await api.publish(
        *(created(name) for name in "abcd"),
        *(
            {"type": "task_status", "task_id": name, "status": "completed", "result": {"cost_usd": cost}}
            for name, cost in (("a", 0.5), ("c", 3), ("d", 0))
        ),
    )
    names: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page: dict[str, Any] = await api.get(
            f"/api/v1/tasks?sort=cost&limit=1{cursor and f'&cursor={cursor}'}"
        )
        names += [task["task_id"] for task in page["tasks"]]
        cursor = page["meta"]["next_cursor"]
    assert names == ["c", "a", "d", "b"]
    assert (await api.problem("GET", "/api/v1/tasks?sort=name"))["status"] == 422


async def test_logs_are_searched(api: Api) -> None:
    """The next line with a text is found from any place, forwards and backwards."""
    await api.publish(*(output("t", f"line {n}{' ERROR' if n % 10 == 0 else ''}") for n in range(1, 51)))

    async def found(query: str) -> list[int]:
        return [line["seq"] for line in (await api.get(f"/api/v1/tasks/t/logs?{query}"))["lines"]]

    assert await found("text=error&from_seq=11&limit=2") == [20, 30]
    assert await found("text=error&to_seq=29&tail=1") == [20]
    assert await found("stream=stderr") == []
    assert await found("text=&limit=2") == [1, 2]


async def test_the_stream_of_a_task_that_runs_again_goes_on(api: Api) -> None:
    """A resumed task's own stream has both attempts, and ends when the last one does."""
    await api.publish(
        output("r", "first run"),
        status("failed", "r", result={"error": "rate limited", "cost_usd": 0.5}),
        status("running", "r"),
        output("r", "working again"),
    )
    task = await api.get("/api/v1/tasks/r")
    assert (task["status"], task["attempts"], task["error"]) == ("running", 2, None)
    async with await open_sse(api.url, "/api/v1/tasks/r/stream") as stream:
        told = await stream.story(4)
        await api.publish(status("completed", "r", result={"cost_usd": 0.25}))
        told += await stream.story(1)
        await stream.to_end()
    assert [one.fields["payload"].get("status", "line") for one in told] == [
        *("line", "failed", "running", "line"),
        "completed",
    ]
    assert (await api.get("/api/v1/tasks/r"))["cost_usd"] == 0.75
    async with await open_sse(api.url, "/api/v1/tasks/r/stream") as again:
        assert len(await again.story(5)) == 5
        await again.to_end()


async def test_a_result_has_a_most(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends add up one result; over a limit the next one takes its place, so that it can't grow for ever."""
    monkeypatch.setattr(task, "MOST_RESULT", 60)
    results = []
    for name in "abc":
        await api.publish(status("completed", result={name: "x" * 20}))
        results.append(sorted((await api.get("/api/v1/tasks/1"))["result"]))
    assert results == [["a"], ["a", "b"], ["c"]]


async def test_silent_tasks_are_found(api: Api) -> None:
    """Of those that run, the ones of which nothing was heard for so long come, the longest silent first."""
    now = datetime.now(UTC)

    def heard(name: str, seconds: int) -> dict[str, Any]:
        return status("running", name, timestamp=(now - timedelta(seconds=seconds)).isoformat())

    await api.publish(heard("a", 500), heard("b", 700), heard("c", 100), heard("d", 900))
    await api.publish(output("d", "here"))
    page = await api.get("/api/v1/tasks?status=running&silent=300&sort=silence&limit=1&counts=true")
    assert [task["task_id"] for task in page["tasks"]] == ["b"]
    assert page["meta"]["counts"]["running"] == 2
    cursor = page["meta"]["next_cursor"]
    page = await api.get(f"/api/v1/tasks?status=running&silent=300&sort=silence&limit=1&cursor={cursor}")
    assert [task["task_id"] for task in page["tasks"]] == ["a"]
    assert page["meta"]["next_cursor"] is None
    assert (await api.problem("GET", "/api/v1/tasks?silent=0"))["status"] == 422


async def test_tasks_are_grouped(api: Api) -> None:
    """Each group comes once over all pages, the one with the newest task first, with its counts by status."""
    await api.publish(
        *(created(f"a{n}", agent="a", session_id=f"s{n}") for n in range(3)),
        created("none"),
        *(created(f"b{n}", agent="b", model="m") for n in range(2)),
        status("failed", "a1"),
    )
    groups: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await api.get(f"/api/v1/task-groups?by=agent&limit=1{cursor and f'&cursor={cursor}'}")
        groups += page["groups"]
        cursor = page["meta"]["next_cursor"]
    counted = {group["name"]: {k: v for k, v in group["tasks"].items() if v} for group in groups}
    assert counted == {"b": {"queued": 2}, None: {"queued": 1}, "a": {"queued": 2, "failed": 1}}
    assert [group["newest"] for group in groups] == sorted((g["newest"] for g in groups), reverse=True)
    one = await api.get("/api/v1/task-groups?by=session_id&status=failed&text=A")
    assert [(group["name"], group["tasks"]["failed"]) for group in one["groups"]] == [("s1", 1)]
    nobodys = await api.get("/api/v1/tasks?without=agent&counts=true")
    assert [task["task_id"] for task in nobodys["tasks"]] == ["none"]
    assert nobodys["meta"]["counts"]["queued"] == 1
    for wrong in ("task-groups?by=name", "tasks?without=name"):
        assert (await api.problem("GET", f"/api/v1/{wrong}"))["status"] == 422


@pytest.mark.parametrize("dialect", ["/api", "/api/v1"])
async def test_a_log_as_lines_of_json_has_no_other_line_ends(api: Api, dialect: str) -> None:
    """Clients that split text at U+0085, U+2028 or U+2029, as httpx does, read each line whole."""
    said = "a\u2028b\u2029c\u0085d\r\ne"
    await api.publish({"type": "task_output", "task_id": "1", "output": said}, output())
    answer = await api.http.get(f"{dialect}/tasks/1/logs/full", headers={"Accept": "application/x-ndjson"})
    first, _ = answer.text.splitlines()
    assert orjson.loads(first)["output"] == said
