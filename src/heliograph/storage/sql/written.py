"""The writer's memory of the channels that it has written to lately.

The one writer of the tables need not read back what it has just written: where a channel's numbers
stand, and whether its entity is stored and steady, so that events are only added to it (see ``fold``).
What a transaction has learnt is remembered when it is committed, never before, and forgotten when the
writer's term ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

WRITTEN_CHANNELS = 20_000


class Written:
    """The channels that were written to last, as committed."""

    def __init__(self) -> None:
        self._channels: dict[str, tuple[int, bool]] = {}

    def heads(self, channels: set[str]) -> dict[str, int]:
        """Return the last numbers of those channels that are remembered."""
        return {name: self._channels[name][0] for name in channels & self._channels.keys()}

    def steady(self, channels: Set[str]) -> set[str]:
        """Return the channels whose entity is known to be stored and steady."""
        return {name for name in channels & self._channels.keys() if self._channels[name][1]}

    def forget(self, channels: Iterable[str]) -> None:
        """Forget that the entities of channels are steady: they are not there any more."""
        for name in channels:
            if name in self._channels:
                self._channels[name] = (self._channels[name][0], False)

    def learn(self, heads: Mapping[str, int], steady: set[str]) -> None:
        """Remember the committed channels; forget those that were not written to for longest."""
        for name, seq in heads.items():
            self._channels.pop(name, None)
            self._channels[name] = (seq, name in steady)
        while len(self._channels) > WRITTEN_CHANNELS:
            del self._channels[next(iter(self._channels))]
