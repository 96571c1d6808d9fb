"""The agents of the fleet: those that tasks name, those with cards in workflows, and the engine's.

Counts come from the aggregator's memory, and the facts of each agent's newest task from one index lookup per
agent of the page. So the cost of an answer does not depend on the number of tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated

import attrs

from heliograph.actors.figures import Question
from heliograph.http.api import samples
from heliograph.http.api.endpoint import Described, Endpoint
from heliograph.http.api.services import Services
from heliograph.http.api.shared import ListMeta
from heliograph.http.api.talking import AGENT
from heliograph.http.rules.auth import Identity
from heliograph.http.rules.parameters import encode_cursor, page_cursor, page_limit, require_utf8
from heliograph.http.rules.schema import COUNT, record, says
from heliograph.model.analytics.cube import ALL_TIME, View
from heliograph.model.analytics.rollup import DIMENSIONS, UNKNOWN, slot_of
from heliograph.model.analytics.totals import unpack
from heliograph.model.errors import Invalid, Unavailable
from heliograph.model.task import STATUSES, TASK, TERMINAL, Task
from heliograph.model.workflows.cards import Card


def _with_status(status: str) -> View:
    return View("agent", tuple(frozenset({status}) if name == "status" else None for name in DIMENSIONS))


NO_FILTERS: tuple[None, ...] = (None,) * len(DIMENSIONS)
QUESTIONS = [Question(_with_status(status), [ALL_TIME], most=None) for status in STATUSES]


def _agent_name(name: str) -> str:
    return require_utf8(name, "cursor")


@attrs.frozen
class AgentListing:
    """The filters and the page of a list of agents."""

    limit: int = page_limit()
    cursor: str | None = page_cursor(_agent_name, str)


@attrs.frozen
class Agent:
    """An agent; one for each name, whether tasks or cards name it."""

    name: str
    agent_type: str | None
    description: Annotated[str, says("The description on its card.")]
    known_by: Annotated[
        Sequence[str], says("The sources that name it: tasks, cards of workflows, the engine.")
    ]
    workflows: Annotated[Sequence[str], says("The workflows that have a card of it.")]
    tasks: Annotated[Mapping[str, int], says(**record(dict.fromkeys(STATUSES, COUNT)))]
    running: Annotated[int, says("Tasks that it works on now.", minimum=0)]
    success_rate: Annotated[
        float | None, says("The share of its ended tasks that succeeded; null when none has ended.")
    ]
    cost_today_usd: Annotated[float, says("The cost of its tasks that have ended since midnight, UTC.")]
    last_seen: datetime | None


@attrs.frozen
class AgentList:
    """A page of agents."""

    agents: Sequence[Agent]
    meta: ListMeta


async def list_agents(services: Services, who: Identity, asked: AgentListing) -> AgentList:
    """List agents by name, each once: those of tasks, those of workflows' cards, and the engine."""
    after = asked.cursor or ""
    midnight = slot_of(datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0))
    today = Question(View("agent", NO_FILTERS), [(midnight, ALL_TIME[1])], most=None)
    answer = await services.histogram.ask([*QUESTIONS, today], services.log.position)
    *by_status, (costs,) = answer.sums
    counts: dict[str, dict[str, int]] = {}
    for status, (sums,) in zip(STATUSES, by_status, strict=True):
        for name, value in sums.items():
            if value and name != UNKNOWN:
                counts.setdefault(name, dict.fromkeys(STATUSES, 0))[status] = unpack(value).created
    cards = _cards(services)
    engines = {AGENT} if services.engine.configured else set()
    names = sorted(name for name in counts.keys() | cards.keys() | engines if name > after)
    more, names = len(names) > asked.limit, names[: asked.limit]
    latest = await services.store.newest(TASK, "agent", names)
    agents = [
        _agent(
            name,
            counts.get(name),
            latest.get(name),
            cards.get(name, {}),
            unpack(costs.get(name, 0)).cost_nanos,
            of_engine=name in engines,
        )
        for name in names
    ]
    following = encode_cursor(names[-1]) if more else None
    return AgentList(agents, ListMeta(following, answer.cursor))


def _cards(services: Services) -> Mapping[str, Mapping[str, Card]]:
    """Return the cards of each agent, by workflow."""
    found: dict[str, dict[str, Card]] = {}
    for name, workflow in services.registry.catalogue.workflows.items():
        for card in workflow.cards:
            found.setdefault(card.name, {})[name] = card
    return found


def _agent(
    name: str,
    counted: Mapping[str, int] | None,
    newest: Task | None,
    cards: Mapping[str, Card],
    cost_nanos: int,
    *,
    of_engine: bool,
) -> Agent:
    card = next(iter(cards.values()), None)
    tasks = counted or dict.fromkeys(STATUSES, 0)
    ended = sum(tasks[status] for status in TERMINAL)
    agent_type = None if newest is None else newest.agent_type
    tellers = {"tasks": counted is not None, "cards": card is not None, "engine": of_engine}
    return Agent(
        name=name,
        agent_type=card.type if agent_type is None and card is not None else agent_type,
        description="" if card is None else card.description,
        known_by=[teller for teller, tells in tellers.items() if tells],
        workflows=sorted(cards),
        tasks=tasks,
        running=tasks["running"],
        success_rate=tasks["completed"] / ended if ended else None,
        cost_today_usd=cost_nanos / 10**9,
        last_seen=None if newest is None else newest.updated_at,
    )


_EXAMPLE = Agent(
    name="planner",
    agent_type="llm",
    description="Plans the day",
    known_by=["tasks", "cards"],
    workflows=["nightly"],
    tasks={**dict.fromkeys(STATUSES, 0), "completed": 1},
    running=0,
    success_rate=1.0,
    cost_today_usd=0.05,
    last_seen=samples.TASK.updated_at,
)

ENDPOINTS = [
    Endpoint(
        "GET",
        "/api/v1/agents",
        list_agents,
        "agents",
        Described("A page of agents."),
        channels=lambda asked: ("task:*",),
        refuses=(Invalid, Unavailable),
        example=AgentList([_EXAMPLE], samples.LAST_PAGE),
    )
]
