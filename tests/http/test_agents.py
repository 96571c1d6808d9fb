"""The list of agents, and the health of the platform."""

from typing import Any

from tests.http.conftest import Api, Start, created, output, status
from tests.http.rules.test_auth import KEYS
from tests.recorded import EXAMPLES

from heliograph.model.task import STATUSES


async def agents(api: Api, query: str = "") -> dict[str, Any]:
    """Return the agents of an answer by name."""
    return {agent["name"]: agent for agent in (await api.get("/api/v1/agents" + query))["agents"]}


async def test_agents_are_told_by_their_tasks(api: Api) -> None:
    """Each agent is there once, with its tasks by status as they are now and what its newest task says."""
    assert await agents(api) == {}
    await api.publish(
        created("1", "2026-01-31T12:00:00Z", agent="build", agent_type="cli"),
        created("2", "2026-01-31T12:01:00Z", agent="build", agent_type="llm"),
        created("3", "2026-01-31T12:02:00Z", agent="review"),
        created("4"),  # of no agent
        status("running", "1"),
        status("failed", "1"),
        status("running", "2"),
        output("2"),
    )
    found = await agents(api)
    newest = (await api.get("/api/v1/tasks/2"))["updated_at"]
    none = dict.fromkeys(STATUSES, 0)
    assert found["build"] == {
        "name": "build",
        "agent_type": "llm",
        "description": "",
        "known_by": ["tasks"],
        "workflows": [],
        "tasks": {**none, "running": 1, "failed": 1},
        "running": 1,
        "success_rate": 0.0,
        "cost_today_usd": 0.0,
        "last_seen": newest,
    }
    assert found["review"]["success_rate"] is None
    assert found["review"]["agent_type"] is None
    assert found["review"]["tasks"] == {**none, "queued": 1}
    assert list(found) == ["build", "review"]


async def test_an_agent_is_one_whoever_tells_of_it(start: Start) -> None:
    """An agent that tasks name and that two workflows have cards of is there once; so is the engine's."""
    api = await start(workflows=(EXAMPLES,), engine={"url": "http://127.0.0.1:9"})
    cards = {card["name"] for card in await cards_of(api)}
    known = min(cards)
    await api.publish(
        created("1", agent=known, agent_type="own"),
        status("completed", "1", result={"cost_usd": 0.25}),
        status("completed", "2", result={"cost_usd": 0.5}, timestamp="2026-01-31T12:00:00Z"),
        created("2", agent=known),
    )
    listed = (await api.get("/api/v1/agents?limit=500"))["agents"]
    names = [agent["name"] for agent in listed]
    assert names == sorted(set(names)) == sorted(cards | {"brain"})
    found = {agent["name"]: agent for agent in listed}
    assert found["brain"]["known_by"] == ["engine"]
    one = found[known]
    assert (one["known_by"], one["agent_type"], one["success_rate"]) == (["tasks", "cards"], "own", 1.0)
    assert one["cost_today_usd"] == 0.25
    assert one["workflows"]


async def cards_of(api: Api) -> list[dict[str, Any]]:
    """Return the cards of all workflows."""
    workflows = (await api.get("/api/v1/workflows"))["workflows"]
    paths = [f"/api/v1/workflows/{workflow['id']}/agents" for workflow in workflows]
    return [card for path in paths for card in (await api.get(path))["agents"]]


async def test_agents_come_in_pages(api: Api) -> None:
    """By name, page by page, each agent comes once; the last page says so."""
    await api.publish(*(created(name, agent=name) for name in "cadbe"))
    names, cursor = [], ""
    while cursor is not None:
        page = await api.get(f"/api/v1/agents?limit=2{cursor and f'&cursor={cursor}'}")
        names.append([agent["name"] for agent in page["agents"]])
        cursor = page["meta"]["next_cursor"]
        assert page["meta"]["stream_cursor"]
    assert names == [["a", "b"], ["c", "d"], ["e"]]
    for query in ("cursor=x", "limit=0", "agent=a"):
        assert (await api.problem("GET", f"/api/v1/agents?{query}"))["status"] == 422


async def test_agents_are_for_readers_of_tasks(start: Start) -> None:
    """The list needs a key that reads every task."""
    api = await start(auth={"keys": KEYS})
    assert (await api.problem("GET", "/api/v1/agents"))["status"] == 401
    assert (await api.problem("GET", "/api/v1/agents", headers={"X-API-Key": "w"}))["status"] == 403
    await api.get("/api/v1/agents", headers={"X-API-Key": "r"})


async def test_the_health_of_the_platform(api: Api) -> None:
    """It has the shape that dashboards know, with what this node has carried."""
    before = await api.get("/api/v1/health")
    assert before["status"] == "healthy"
    assert before["workflows"] == {"total": 0, "enabled": 0}
    await api.publish(output(), output())
    bus = (await api.get("/api/v1/health"))["bus"]
    assert bus["published"] >= before["bus"]["published"] + 2
    assert bus["errors"] == 0
    assert bus.keys() == {"published", "delivered", "errors"}
