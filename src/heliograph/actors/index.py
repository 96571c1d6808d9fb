"""The index: finds the watchers of an event by exact channels, topics and prefixes.

A selection names channels or patterns (``task:1``, ``task:*``, ``*``), one topic or pattern (``task.output``,
``pipeline.*``, ``*``), and maybe one run. An event has at most three selectors that cover its channel, as
many patterns as its topic has parts, and one run. So a few lookups find its watchers, whatever the number of
other watchers. A canonical selection covers a channel by one selector only, so no watcher is found twice.

Most channels are watched whole, or not at all. What was found for such a channel is remembered until a
watcher comes or goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import attrs

from heliograph.model.channels import EVERYTHING, Selection, selectors_of, topic_patterns_of
from heliograph.model.event import Event
from heliograph.model.workflows.vocabulary import run_of

W = TypeVar("W")

REMEMBERED = 10_000
"""The most channels whose watchers are remembered; then all are forgotten."""


@attrs.define
class _Watched(Generic[W]):
    """The watchers of one selector.

    Args:
        whole: The watchers of all its events, as nearly all are.
        by_topic: The watchers of a topic, or of a pattern of topics.
        by_run: The watchers of one run: of all its events, or of some topics.
    """

    whole: list[W] = attrs.field(factory=list)
    by_topic: dict[str, list[W]] = attrs.field(factory=dict)
    by_run: dict[str, _Watched[W]] = attrs.field(factory=dict)

    def __bool__(self) -> bool:
        return bool(self.whole or self.by_topic or self.by_run)

    def add(self, topic: str, run: str | None, watcher: W) -> None:
        """Add a watcher of a topic and a run."""
        if run is not None:
            self.by_run.setdefault(run, _Watched()).add(topic, None, watcher)
        elif topic == EVERYTHING:
            self.whole.append(watcher)
        else:
            self.by_topic.setdefault(topic, []).append(watcher)

    def remove(self, topic: str, run: str | None, watcher: W) -> None:
        """Remove a watcher that was added with this topic and run."""
        if run is not None:
            self.by_run[run].remove(topic, None, watcher)
            if not self.by_run[run]:
                del self.by_run[run]
        elif topic == EVERYTHING:
            self.whole.remove(watcher)
        else:
            self.by_topic[topic].remove(watcher)
            if not self.by_topic[topic]:
                del self.by_topic[topic]

    def some(self, event: Event) -> list[W]:
        """Return the watchers of a topic or run that have this event."""
        found: list[W] = []
        if self.by_topic:
            for pattern in topic_patterns_of(event.topic):
                found += self.by_topic.get(pattern, ())
        if self.by_run:
            run = run_of(event)
            of_run = None if run is None else self.by_run.get(run)
            if of_run is not None:
                found += of_run.whole
                found += of_run.some(event)
        return found


class WatcherIndex(Generic[W]):
    """Watchers by selector, topic and run."""

    def __init__(self) -> None:
        self._watched: dict[str, _Watched[W]] = {}
        self._whole: dict[str, Sequence[W]] = {}  # by channel, of those without watchers of a topic or run

    def __len__(self) -> int:
        """Return the number of watched selectors."""
        return len(self._watched)

    def add(self, selection: Selection, watcher: W) -> None:
        """Take a watcher in."""
        for selector in selection.selectors:
            self._watched.setdefault(selector, _Watched()).add(selection.topic, selection.run, watcher)
        self._whole.clear()

    def remove(self, selection: Selection, watcher: W) -> None:
        """Remove a watcher that was added with this selection."""
        for selector in selection.selectors:
            watched = self._watched[selector]
            watched.remove(selection.topic, selection.run, watcher)
            if not watched:
                del self._watched[selector]
        self._whole.clear()

    def watchers(self, event: Event) -> Sequence[W]:
        """Return the watchers of an event."""
        found = self._whole.get(event.channel)
        return self._find(event) if found is None else found

    def _find(self, event: Event) -> Sequence[W]:
        found: list[W] = []
        whole = True
        for selector in selectors_of(event.channel):
            watched = self._watched.get(selector)
            if watched is not None:
                found += watched.whole
                if watched.by_topic or watched.by_run:
                    whole = False
                    found += watched.some(event)
        if whole:
            if len(self._whole) >= REMEMBERED:
                self._whole.clear()
            self._whole[event.channel] = found or ()
        return found
