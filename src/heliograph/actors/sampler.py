"""A broadcaster for watchers that want samples of the events, not all of them.

Only the newest message of each channel goes out in each interval. A list of a thousand tasks that write
hundreds of lines a second needs their latest lines, and no more than can be read. Watchers do not resume
here: a message that was left out is no loss, and the next one is newer than anything that was missed.
"""

from __future__ import annotations

from heliograph.actors.broadcaster import Broadcaster
from heliograph.actors.subscription import Batch, Message

ROOM = 1024
"""The most waiting messages before those that are not their channel's newest are dropped."""


class Sampler(Broadcaster):
    """Fans out the newest message of each channel, once in each interval of its selection."""

    _room = ROOM

    def offer(self, message: Message) -> None:
        """Take a message of the selection; it goes out with the next flush, unless a newer one comes."""
        super().offer(message)
        if len(self._waiting) >= self._room:
            self._thin_out()
            self._room = max(ROOM, 2 * len(self._waiting))

    def _begin_flush(self, now: float) -> Batch | None:
        self._thin_out()
        return super()._begin_flush(now)

    def _thin_out(self) -> None:
        newest: dict[str, Message] = {}
        for message in self._waiting:
            newest.pop(message.event.channel, None)  # so that the dictionary stays in the order of ids
            newest[message.event.channel] = message
        self._waiting = list(newest.values())
