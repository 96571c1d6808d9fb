"""The writer's memory of the channels that it has written to lately.

The one writer of the tables need not read back what it has just written: a channel's last ``seq``, and
whether its entity is stored and steady, so that events are only added to it (see ``fold``). The memory is
updated after a transaction's commit, never before, and dropped when the writer's term ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

WRITTEN_CHANNELS = 20_000


class Written:
    """The state of the channels that were written to last, as committed."""

    def __init__(self) -> None:
        self._channels: dict[str, tuple[int, bool]] = {}

    def heads(self, channels: set[str]) -> dict[str, int]:
        """Return the last ``seq`` of each of the ``channels`` that is remembered."""
        return {name: self._channels[name][0] for name in channels & self._channels.keys()}

    def steady(self, channels: Set[str]) -> set[str]:
        """Return those of the ``channels`` whose entity is known to be stored and steady."""
        return {name for name in channels & self._channels.keys() if self._channels[name][1]}

    def forget(self, channels: Iterable[str]) -> None:
        """Forget that the entities of ``channels`` are steady, since they were removed."""
        for name in channels:
            if name in self._channels:
                self._channels[name] = (self._channels[name][0], False)

    def drop(self, channels: Iterable[str]) -> None:
        """Forget all of ``channels``, since they are no more."""
        for name in channels:
            self._channels.pop(name, None)

    def learn(self, heads: Mapping[str, int], steady: set[str]) -> None:
        """Remember the committed channels; forget those that were written to longest ago."""
        for name, seq in heads.items():
            self._channels.pop(name, None)
            self._channels[name] = (seq, name in steady)
        while len(self._channels) > WRITTEN_CHANNELS:
            del self._channels[next(iter(self._channels))]
