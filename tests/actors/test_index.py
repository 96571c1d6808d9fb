"""Who watches an event."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.actors import index as index_module
from heliograph.actors.index import WatcherIndex
from heliograph.model.channels import Selection, topic_matches, topic_patterns_of
from heliograph.model.event import Event
from heliograph.model.ids import EPOCH, make_id
from heliograph.model.workflows.vocabulary import concerns

CHANNELS = ("task:1", "task:2", "workflow:a", "topic:x.y", "webhooks")
SELECTORS = (*CHANNELS, "task:*", "workflow:*", "topic:*", "*")
TOPICS = ("task.output", "task.status", "run.started", "x", "x.y", "x.y.z")
PATTERNS = (*TOPICS, "*", "task.*", "x.*", "x.y.*", "run.*")
RUNS = ("r1", "r2")

SELECTIONS = st.builds(
    lambda selectors, topic, run: Selection(Selection.of(selectors).selectors, topic, 0, run),
    st.lists(st.sampled_from(SELECTORS), max_size=3),
    st.sampled_from(PATTERNS),
    st.sampled_from([None, None, *RUNS]),
)
EVENTS = st.builds(
    lambda channel, topic, run: event(channel, topic, **({} if run is None else {"run_id": run})),
    st.sampled_from(CHANNELS),
    st.sampled_from(TOPICS),
    st.sampled_from([None, *RUNS]),
)


def event(channel: str, topic: str, **payload: Any) -> Event:
    """Make an event."""
    return Event(make_id(1), channel, 1, topic, EPOCH, payload)


@given(st.lists(SELECTIONS, max_size=12), st.lists(EVENTS, min_size=1, max_size=4), st.data())
def test_it_finds_whom_an_event_concerns(
    selections: list[Selection], events: list[Event], data: st.DataObject
) -> None:
    """Whatever comes and goes, each event finds exactly the watchers whose selection covers it, once each."""
    index: WatcherIndex[int] = WatcherIndex()
    there: set[int] = set()

    def check() -> None:
        for happened in [*events, *events]:
            assert sorted(index.watchers(happened)) == sorted(
                number
                for number in there
                if selections[number].covers(happened.channel, happened.topic)
                and concerns(selections[number], happened)
            )

    for number, selection in enumerate(selections):
        index.add(selection, number)
        there.add(number)
        check()
    gone = data.draw(st.sets(st.sampled_from(range(len(selections))))) if selections else set()
    for number in gone:
        index.remove(selections[number], number)
        there.remove(number)
        check()
    for number in there:
        index.remove(selections[number], number)
    assert len(index) == 0


def test_the_remembered_channels_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishers that make channels for ever do not fill the memory, and their watchers are found on."""
    monkeypatch.setattr(index_module, "REMEMBERED", 100)
    index: WatcherIndex[int] = WatcherIndex()
    index.add(Selection(("task:*",)), 1)
    for number in range(1000):
        assert index.watchers(event(f"task:{number}", "task.output")) == [1]
        assert len(index._whole) <= 100


@given(st.sampled_from(TOPICS), st.sampled_from(PATTERNS))
def test_the_patterns_of_a_topic(topic: str, pattern: str) -> None:
    """The filters that a topic passes are its patterns, and ``*``."""
    assert topic_matches(pattern, topic) == (pattern == "*" or pattern in topic_patterns_of(topic))


class CountingDict(dict[Any, Any]):
    """Counts what is looked up in it."""

    looked_up = 0

    def get(self, key: Any, default: Any = None) -> Any:
        """Look up, and count."""
        CountingDict.looked_up += 1
        return super().get(key, default)


def test_those_who_want_something_else_cost_nothing() -> None:
    """Ten thousand selections that do not match take as many look-ups as one."""

    def looked_up(others: int) -> int:
        index: WatcherIndex[int] = WatcherIndex()
        for number in range(others):
            index.add(Selection(("task:*",), f"a{number}.b"), number)
            index.add(Selection((f"task:{number + 5}",)), number)
            index.add(Selection(("task:*",), "*", 0, f"run-{number}"), number)
        index._watched = CountingDict(index._watched)
        for watched in index._watched.values():
            watched.by_topic = CountingDict(watched.by_topic)
            watched.by_run = CountingDict(watched.by_run)
        CountingDict.looked_up = 0
        assert index.watchers(event("task:victim", "task.x", run_id="another")) == []
        return CountingDict.looked_up

    assert looked_up(10_000) == looked_up(1) <= 10
