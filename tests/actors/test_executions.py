"""Events that name only their session go where their run is, as far as that is known in time."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from heliograph.actors import executions
from heliograph.actors.executions import PATIENCE_SECONDS, UNKNOWN_SECONDS, Executions
from heliograph.model.errors import Unavailable
from heliograph.model.event import Draft
from heliograph.model.intake import parse_items
from heliograph.model.workflows.spending import Spending
from heliograph.storage.protocols import Store


class FewRuns:
    """A store that knows some runs, counts who asks, and may be away or slow."""

    def __init__(self, **workflows: str) -> None:
        self.workflows = workflows
        self.asked: list[str] = []
        self.away = False
        self.seconds = 0.0

    async def get(self, kind: Any, name: str) -> Spending | None:
        """Return what is known of a run."""
        self.asked.append(name)
        await trio.sleep(self.seconds)
        if self.away:
            raise Unavailable("away")
        return Spending(name, self.workflows[name]) if name in self.workflows else None


def drafts(*items: tuple[str, dict[str, Any]]) -> list[Draft]:
    """Check items as a publisher's."""
    return parse_items([{"topic": topic, "payload": payload} for topic, payload in items], 10_000)


def call(session: str) -> tuple[str, dict[str, Any]]:
    """Make an event that names only its session."""
    return "tool.started", {"session_id": session, "tool": "t"}


async def channels(known: Executions, *items: tuple[str, dict[str, Any]], only: str = "") -> list[str]:
    """Return where events are put, by a publisher who may use channels that begin so."""
    placed = await known.place(drafts(*items), lambda channel: channel.startswith(only))
    return [draft.channel for draft in placed]


async def test_what_a_runner_named_is_remembered_and_the_rest_asked_for() -> None:
    """Nothing that this node was told is asked for, within one request too; all else is asked for once."""
    store = FewRuns(theirs="v")
    known = Executions(cast(Store, store))
    begun = "dag.started", {"execution_id": "mine", "pipeline": "w"}
    assert await channels(known, call("mine"), begun, call("mine")) == [
        *("topic:tool.started", "workflow:w", "workflow:w")
    ]
    assert await channels(known, call("theirs"), call("theirs")) == ["workflow:v"] * 2
    assert store.asked == ["mine", "theirs"]
    named = "tool.started", {"session_id": "mine", "execution_id": "other"}
    assert await channels(known, named, call("no name!")) == ["topic:tool.started"] * 2


async def test_a_publisher_stays_on_its_channels() -> None:
    """Whose key does not cover the workflow publishes on the topic, as before."""
    known = Executions(cast(Store, FewRuns(r="w")))
    assert await channels(known, call("r"), only="topic:") == ["topic:tool.started"]
    assert await channels(known, call("r"), only="workflow:w") == ["workflow:w"]


async def test_a_session_that_nobody_knows_is_asked_for_now_and_then(autojump_clock: MockClock) -> None:
    """It is not asked for again at once, but a moment later, when a runner may have named it elsewhere."""
    store = FewRuns()
    known = Executions(cast(Store, store))
    for _ in range(3):
        assert await channels(known, call("r")) == ["topic:tool.started"]
    assert store.asked == ["r"]
    store.workflows["r"] = "w"
    await trio.sleep(UNKNOWN_SECONDS)
    assert await channels(known, call("r")) == ["workflow:w"]


async def test_publishing_does_not_wait_for_a_store_that_is_away(autojump_clock: MockClock) -> None:
    """An outage, or a store that is slow, leaves events on their topics; a request waits once for all."""
    store = FewRuns(r="w")
    known = Executions(cast(Store, store))
    store.away = True
    assert await channels(known, call("r")) == ["topic:tool.started"]
    store.away, store.seconds = False, 60
    began = trio.current_time()
    assert await channels(known, *(call(f"s{number}") for number in range(50))) == ["topic:tool.started"] * 50
    assert trio.current_time() - began == pytest.approx(PATIENCE_SECONDS)


async def test_no_more_are_remembered_than_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session that was named longest ago is forgotten, and asked for when it is named again."""
    monkeypatch.setattr(executions, "REMEMBERED", 2)
    store = FewRuns(a="w", b="w", c="w")
    known = Executions(cast(Store, store))
    assert await channels(known, *map(call, "abacaab")) == ["workflow:w"] * 7
    assert store.asked == ["a", "b", "c", "b"]
