"""What the actors' tests share: a watcher that records, events without a log, and runs in virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs
import trio
import trio.testing

from heliograph.actors.subscription import Batch, Encoder, Subscription
from heliograph.model.channels import Selection
from heliograph.model.event import Event
from heliograph.model.ids import OLDEST, EventId, make_id

WHEN = datetime(2026, 1, 31, 12, tzinfo=UTC)


def encode(event: Event) -> bytes:
    """Encode an event as its seq, which makes joined bytes easy to read."""
    return b"%d " % event.seq


@attrs.define(eq=False)
class Recorder:
    """A watcher that keeps what it is given.

    Attributes:
        batches: Each delivery, as its events.
        times: When each came, if Trio runs.
        ended: How often it heard that the task has ended.
        gaps: What it was told of what is no longer kept: behind which position, up to which id.
        resets: The reasons of resets.
        on_deliver: Called after each delivery.
    """

    encode: Encoder = encode
    batches: list[list[Event]] = attrs.field(factory=list)
    times: list[float] = attrs.field(factory=list)
    ended: int = 0
    gaps: list[tuple[EventId, EventId]] = attrs.field(factory=list)
    resets: list[str] = attrs.field(factory=list)
    on_deliver: Callable[[], None] = lambda: None

    @property
    def events(self) -> list[Event]:
        """Everything that was delivered, in order."""
        return [event for batch in self.batches for event in batch]

    @property
    def seqs(self) -> list[list[int]]:
        """The seqs of each delivery."""
        return [[event.seq for event in batch] for batch in self.batches]

    def deliver(self, subscription: Subscription, batch: Batch) -> None:
        """Record a delivery, and check that its joined bytes are those of its messages."""
        assert batch.joined(self.encode) == b"".join(
            message.encoded(self.encode) for message in batch.messages
        )
        self.batches.append([message.event for message in batch.messages])
        if trio.lowlevel.in_trio_run():
            self.times.append(trio.current_time())
        self.on_deliver()

    @property
    def descriptor(self) -> int | None:
        """Say that it is to be called for each delivery."""
        return None

    def keep_rest(self, subscription: Subscription, batch: Batch, sent: int) -> None:
        """Be a watcher; nothing of it is ever partly sent."""
        raise AssertionError

    def task_ended(self, subscription: Subscription) -> None:
        """Record the end of the task."""
        self.ended += 1

    def gap(self, subscription: Subscription, through: EventId) -> None:
        """Record a gap."""
        self.gaps.append((subscription.position, through))

    def reset(self, subscription: Subscription, reason: str) -> None:
        """Record a reset."""
        self.resets.append(reason)


def subscribe(
    recorder: Recorder,
    *selectors: str,
    topic: str = "*",
    position: int = OLDEST,
    ends_with_task: bool = False,
) -> Subscription:
    """Make a subscription of a recorder."""
    return Subscription(
        recorder, Selection.of(selectors, topic), position=EventId(position), ends_with_task=ends_with_task
    )


def event(number: int, channel: str = "task:1", topic: str = "task.output", **payload: Any) -> Event:
    """Make the event of this number; it is also its seq."""
    return Event(
        make_id(1000 + number), channel, number, topic, WHEN, payload or {"task_id": "1", "output": "x"}
    )


def ending(number: int, status: str = "completed") -> Event:
    """Make the event of this number, which ends the task 1."""
    return event(number, topic="task.status", task_id="1", status=status)


def ids(events: Sequence[Event]) -> list[EventId]:
    """Return the ids of events."""
    return [one.id for one in events]


def run_in_virtual_time(main: Callable[..., Awaitable[None]], *args: Any) -> None:
    """Run a test of its own clock, which jumps whenever everybody waits; for property tests."""
    trio.run(main, *args, clock=trio.testing.MockClock(autojump_threshold=0))
