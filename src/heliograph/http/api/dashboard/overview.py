"""The dashboard's overview: health and status in numbers, and the lists of agents and skills."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Literal

import attrs
import trio

from heliograph import __version__
from heliograph.actors.figures import Question
from heliograph.actors.monitor import MachineState, Part
from heliograph.http.api import samples
from heliograph.http.api.endpoint import DASHBOARD, Described, Endpoint, of_view
from heliograph.http.api.routes import agents, system
from heliograph.http.api.routes.agents import Agent, AgentList, AgentListing
from heliograph.http.api.routes.system import EngineView
from heliograph.http.api.services import Services
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.parameters import Nothing
from heliograph.http.rules.schema import says
from heliograph.model.analytics.cube import ALL, ALL_TIME, View
from heliograph.model.analytics.rollup import DIMENSIONS
from heliograph.model.analytics.totals import unpack
from heliograph.model.errors import Invalid, Unavailable

QUEUED = View(None, tuple(frozenset({"queued"}) if name == "status" else None for name in DIMENSIONS))
COUNTING_SECONDS = 0.2
"""The most seconds for counting: health must be answered whenever the process can."""

Count = Annotated[int, says(minimum=0)]


@attrs.frozen
class DashboardHealth:
    """The answer of a live process, and its load."""

    status: Literal["healthy"]
    service: str
    version: str
    uptime_seconds: Count
    queue_length: Annotated[int, says("Tasks that are queued.", minimum=0)]
    sessions: Annotated[int, says("Pages that have a WebSocket of their own.", minimum=0)]
    connections: Annotated[int, says("Open streams.", minimum=0)]


@attrs.frozen
class DashboardStatus:
    """The machine, as the dashboard's page shows it."""

    machine_id: str
    status: Literal["online"]
    service: str
    version: str
    uptime_seconds: Count
    queue_length: Count
    sessions: Count
    connections: Count
    machine: MachineState
    parts: Mapping[str, Part]
    engine: EngineView
    lag_ms: Mapping[str, int]
    events_per_second: float


async def health(services: Services, who: Identity) -> DashboardHealth:
    """Tell that the process answers: live. Where keys are asked for, strangers learn nothing of tasks."""
    return DashboardHealth(
        status="healthy",
        service="heliograph",
        version=__version__,
        uptime_seconds=round(time.time() - system.STARTED),
        queue_length=0 if services.authenticator.keyed else await _queued(services),
        sessions=services.streams.sessions,
        connections=len(services.streams.streams),
    )


async def machine(services: Services, who: Identity, asked: Nothing) -> DashboardStatus:
    """Describe the machine, and its load."""
    state = await services.monitor.state()
    return DashboardStatus(
        machine_id=services.monitor.node,
        status="online",
        service="heliograph",
        version=__version__,
        uptime_seconds=round(time.time() - system.STARTED),
        queue_length=await _queued(services) if who.covers("task:*") else 0,
        sessions=services.streams.sessions,
        connections=len(services.streams.streams),
        machine=state.machine,
        parts=state.parts,
        engine=system.engine_view(services, who),
        lag_ms=system.lags(services),
        events_per_second=state.events_per_second,
    )


async def _queued(services: Services) -> int:
    """Count the tasks that are queued; 0 while the aggregator can't say."""
    with trio.move_on_after(COUNTING_SECONDS):
        try:
            answer = await services.histogram.ask([Question(QUEUED, [ALL_TIME])], services.log.position)
        except Unavailable:
            return 0
        ((sums,),) = answer.sums
        return unpack(sums.get(ALL, 0)).created
    return 0


@attrs.frozen
class Registered:
    """Something that a fleet has, by its name."""

    name: str
    description: str
    is_builtin: bool


@attrs.frozen
class DashboardAgent(Registered):
    """An agent of the fleet."""

    agent_type: str | None


def _agent(agent: Agent) -> DashboardAgent:
    running = agent.tasks["running"]
    about = agent.description or f"{sum(agent.tasks.values())} tasks, {running} of them running"
    return DashboardAgent(agent.name, about, is_builtin=False, agent_type=agent.agent_type)


def agent_rows(found: AgentList) -> list[DashboardAgent]:
    """Present a page of agents."""
    return [_agent(agent) for agent in found.agents]


async def registered_agents(services: Services, who: Identity, asked: AgentListing) -> list[Registered]:
    """List the agents of the fleet, as registered ones."""
    found = await agents.list_agents(services, who, asked)
    return [Registered(agent.name, _agent(agent).description, is_builtin=False) for agent in found.agents]


async def registered_skills(services: Services, who: Identity, asked: Nothing) -> list[Registered]:
    """List skills; always empty, since the fleet publishes none."""
    return []


_LIST = of_view(agents.ENDPOINTS, agents.list_agents)
_STATUS = DashboardStatus(
    machine_id="studio",
    status="online",
    service="heliograph",
    version=__version__,
    uptime_seconds=3600,
    queue_length=2,
    sessions=1,
    connections=3,
    machine=system.MACHINE,
    parts=system.PARTS,
    engine=EngineView("http", "ok", samples.NOON, 1.5, 0, None),
    lag_ms={"subscriber": 0},
    events_per_second=1.5,
)

ENDPOINTS = [
    Endpoint(
        "GET",
        "/api/health",
        health,
        DASHBOARD,
        Described("Live."),
        scope=None,
        example=DashboardHealth("healthy", "heliograph", __version__, 3600, 2, 1, 3),
    ),
    Endpoint(
        "GET",
        "/api/status",
        machine,
        DASHBOARD,
        Described("The state of the service."),
        refuses=(Invalid,),
        example=_STATUS,
    ),
    _LIST.in_dashboard("/api/agents", "A page of agents.", agent_rows),
    Endpoint(
        "GET",
        "/api/registry/agents",
        registered_agents,
        DASHBOARD,
        Described("A page of agents."),
        channels=_LIST.channels,
        refuses=_LIST.refuses,
        example=[Registered("planner", "1 tasks, 0 of them running", is_builtin=False)],
    ),
    Endpoint(
        "GET",
        "/api/registry/skills",
        registered_skills,
        DASHBOARD,
        Described("None."),
        refuses=(Invalid,),
        example=[],
    ),
]
