"""Executions: finds the run of an event that names only its session.

Programs that call models and tools know their session, which is the id of a run, but not the run's workflow.
Once a runner has named both, such an event goes to the workflow's channel, and so into the run's stream;
before that, it goes to its topic's channel. Sessions that were named on this node are remembered; those that
were named on other nodes are in the store a moment later.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TypeVar

import trio

from heliograph.model.errors import Unavailable
from heliograph.model.event import Draft
from heliograph.model.workflows.spending import SPENDING
from heliograph.model.workflows.vocabulary import execution_of, session_of
from heliograph.storage.protocols import Store

REMEMBERED = 10_000
"""The number of sessions that are remembered; those that were named longest ago are dropped."""
UNKNOWN_SECONDS = 1.0
"""The time for which the store is not asked again for a session that it did not know."""
PATIENCE_SECONDS = 0.5
"""The longest time that a request waits for the store; its events are published in any case."""

STEP_DRAFTS = 1000
"""The number of drafts that are placed between two checkpoints."""

T = TypeVar("T")


class Executions:
    """The workflows of sessions, as far as one node knows them.

    Args:
        store: Asked for sessions that are not remembered.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._workflows: OrderedDict[str, str] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()

    async def place(self, drafts: Sequence[Draft], allowed: Callable[[str], bool]) -> Sequence[Draft]:
        """Return the drafts; those that name only their session are moved to the channel of its workflow.

        Args:
            drafts: The drafts in the order of publishing.
            allowed: Tells whether the publisher may use a channel; if not, a draft is not moved.
        """
        if all(channel.startswith("task:") for channel in {draft.channel for draft in drafts}):
            return drafts  # as most are: a task is in its channel whatever session it belongs to
        deadline = trio.current_time() + PATIENCE_SECONDS
        placed: list[Draft] = []
        for draft in drafts:
            if len(placed) % STEP_DRAFTS == STEP_DRAFTS - 1:
                await trio.lowlevel.checkpoint()
            if draft.channel.startswith("workflow:"):
                execution = execution_of(draft.channel, draft.payload)
                if execution is not None:
                    self._learn(*execution)
            elif draft.channel == f"topic:{draft.topic}":
                session = session_of(draft.topic, draft.payload)
                workflow = None if session is None else await self._workflow_of(session, deadline)
                if workflow is not None and allowed(f"workflow:{workflow}"):
                    draft = draft._replace(channel=f"workflow:{workflow}")
            placed.append(draft)
        return placed

    async def _workflow_of(self, session: str, deadline: float) -> str | None:
        workflow = self._workflows.get(session)
        if workflow is not None:
            self._workflows.move_to_end(session)
            return workflow
        if self._unknown.get(session, 0.0) > trio.current_time():
            return None
        with trio.move_on_at(deadline):
            try:
                found = await self._store.get(SPENDING, session)
            except Unavailable:
                found = None
            if found is not None and found.workflow_id is not None:
                self._learn(session, found.workflow_id)
                return found.workflow_id
        _remember(self._unknown, session, trio.current_time() + UNKNOWN_SECONDS)
        return None

    def _learn(self, session: str, workflow: str) -> None:
        self._unknown.pop(session, None)
        _remember(self._workflows, session, workflow)


def _remember(known: OrderedDict[str, T], session: str, what: T) -> None:
    known[session] = what
    known.move_to_end(session)
    if len(known) > REMEMBERED:
        known.popitem(last=False)
