"""The agents of the fleet, as far as their tasks tell of them.

Counts come from the aggregator's memory, and what the newest task of each agent says from one look into an
index for each agent of the page; so an answer costs the same however many tasks there were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated

import attrs

from heliograph.actors.figures import Question
from heliograph.http.api import samples
from heliograph.http.api.endpoint import Described, Endpoint
from heliograph.http.api.services import Services
from heliograph.http.api.shared import ListMeta
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.parameters import encode_cursor, page_cursor, page_limit, require_utf8
from heliograph.http.rules.schema import COUNT, record, says
from heliograph.model.analytics.cube import ALL_TIME, View
from heliograph.model.analytics.rollup import DIMENSIONS, UNKNOWN
from heliograph.model.analytics.totals import unpack
from heliograph.model.errors import Invalid, Unavailable
from heliograph.model.task import STATUSES, TASK


def _with_status(status: str) -> View:
    return View("agent", tuple(frozenset({status}) if name == "status" else None for name in DIMENSIONS))


QUESTIONS = [Question(_with_status(status), [ALL_TIME], most=None) for status in STATUSES]


def _agent_name(name: str) -> str:
    return require_utf8(name, "cursor")


@attrs.frozen
class AgentListing:
    """Which agents to list."""

    limit: int = page_limit()
    cursor: str | None = page_cursor(_agent_name, str)


@attrs.frozen
class Agent:
    """An agent, as its tasks tell of it."""

    name: str
    agent_type: str | None
    tasks: Annotated[Mapping[str, int], says(**record(dict.fromkeys(STATUSES, COUNT)))]
    last_seen: datetime | None


@attrs.frozen
class AgentList:
    """A page of agents."""

    agents: Sequence[Agent]
    meta: ListMeta


async def list_agents(services: Services, who: Identity, asked: AgentListing) -> AgentList:
    """List agents by name, with their tasks by status and when they were last heard of."""
    after = asked.cursor or ""
    answer = await services.histogram.ask(QUESTIONS, services.log.position)
    counts: dict[str, dict[str, int]] = {}
    for status, (sums,) in zip(STATUSES, answer.sums, strict=True):
        for name, value in sums.items():
            if value and name > after and name != UNKNOWN:
                counts.setdefault(name, dict.fromkeys(STATUSES, 0))[status] = unpack(value).created
    names = sorted(counts)
    more, names = len(names) > asked.limit, names[: asked.limit]
    latest = await services.store.newest(TASK, "agent", names)
    agents = [
        Agent(
            name,
            latest[name].agent_type if name in latest else None,
            counts[name],
            latest[name].updated_at if name in latest else None,
        )
        for name in names
    ]
    following = encode_cursor(names[-1]) if more else None
    return AgentList(agents, ListMeta(following, answer.cursor))


ENDPOINTS = [
    Endpoint(
        "GET",
        "/api/v1/agents",
        list_agents,
        "agents",
        Described("A page of agents."),
        channels=lambda asked: ("task:*",),
        refuses=(Invalid, Unavailable),
        example=AgentList(
            [Agent("planner", None, {**dict.fromkeys(STATUSES, 0), "completed": 1}, samples.TASK.updated_at)],
            samples.LAST_PAGE,
        ),
    )
]
