"""A log in memory, to test in virtual time what stands on a log; the tests of the real one keep it honest."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import attrs
import trio

from heliograph.model.channels import Selection
from heliograph.model.errors import Conflict, HeliographError
from heliograph.model.event import Draft, Event
from heliograph.model.ids import OLDEST, EventId, make_id
from heliograph.storage.protocols import Bounds, LostRange, Page, Receipt


@attrs.define(eq=False)
class MemoryLog:
    """Implements ``storage.protocols.Log``.

    Args:
        seconds_per_call: How long an append or a read takes; most of a read lies after its look at the
            position and before its look at the events, where a real one is slow.
        fault: Raised by appends, reads and tails while it is set.
        trimmed: Up to where retention has removed what there was, of every selection.
        calls: How many appends and reads were made.
        tails: How many tails had something to tell.
    """

    seconds_per_call: float = 0.0
    fault: HeliographError | None = None
    trimmed: EventId = OLDEST
    calls: int = 0
    tails: int = 0
    events: list[Event] = attrs.field(factory=list)
    _keys: dict[str, tuple[EventId, bytes]] = attrs.field(factory=dict)
    _committed: trio.Event = attrs.field(factory=trio.Event)

    @property
    def position(self) -> EventId:
        """The newest id."""
        return self.events[-1].id if self.events else OLDEST

    async def append(self, requests: Sequence[Sequence[Draft]]) -> Sequence[Receipt | HeliographError]:
        """Append several requests; each is kept whole or not at all."""
        await self._work()
        answers = [self._append(drafts) for drafts in requests]
        self._committed.set()
        self._committed = trio.Event()
        return answers

    def _append(self, drafts: Sequence[Draft]) -> Receipt | HeliographError:
        known = dict(self._keys)
        for draft in drafts:
            content = f"{draft.channel}\n{draft.topic}\n".encode() + draft.body
            if draft.key is not None and known.setdefault(draft.key, (OLDEST, content))[1] != content:
                return Conflict(f"the key {draft.key!r} was used for a different event")
        return Receipt(tuple(self._add(draft) for draft in drafts))

    def _add(self, draft: Draft) -> EventId:
        content = f"{draft.channel}\n{draft.topic}\n".encode() + draft.body
        if draft.key in self._keys:
            return self._keys[draft.key][0]
        number = len(self.events) + 1
        made = Event(
            id=make_id(1_700_000_000_000 + number // 3, number % 3),
            channel=draft.channel,
            seq=1 + sum(event.channel == draft.channel for event in self.events),
            topic=draft.topic,
            timestamp=draft.timestamp or datetime.fromtimestamp(1_700_000_000 + number, UTC),
            payload=draft.payload,
            sender=draft.sender,
            correlation_id=draft.correlation_id,
            body=draft.body,
        )
        self.events.append(made)
        if draft.key is not None:
            self._keys[draft.key] = (made.id, content)
        return made.id

    async def tail(self, after: EventId) -> Sequence[Event]:
        """Wait for events after a position."""
        while after >= self.position:
            await self._committed.wait()
        self.tails += 1
        if self.fault is not None:
            raise self.fault
        return [event for event in self.events if event.id > after]

    async def read(self, selection: Selection, after: EventId, limit: int) -> Page:
        """Read a selection's events after a position."""
        position = self.position
        await self._work()
        found = [event for event in self._covered(selection) if event.id > after][:limit]
        if len(found) == limit:
            return Page(found, found[-1].id, True, self._missing(after))
        through = max(position, after, *(event.id for event in found[-1:]))
        return Page(found, through, False, self._missing(after))

    async def tail_start(self, selection: Selection, count: int) -> EventId:
        """Return where a selection's last events begin."""
        position = self.position
        await self._work()
        found = self._covered(selection)[-count:]
        return EventId(found[0].id - 1) if found else position

    async def bounds(self, selection: Selection) -> Bounds:
        """Tell what is kept of a selection."""
        await self._work()
        return Bounds(self.trimmed, self.position)

    @property
    def losses(self) -> Sequence[LostRange]:
        """It loses nothing."""
        return ()

    def _covered(self, selection: Selection) -> list[Event]:
        return [
            event
            for event in self.events
            if event.id > self.trimmed and selection.covers(event.channel, event.topic)
        ]

    def _missing(self, after: EventId) -> EventId:
        return self.trimmed if self.trimmed > after else OLDEST

    async def _work(self) -> None:
        self.calls += 1
        await trio.sleep(self.seconds_per_call)
        if self.fault is not None:
            raise self.fault
