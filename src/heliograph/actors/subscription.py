"""Subscriptions, and what they connect: encoded messages and watchers.

A message is an event with its encodings, each made when it is first needed and then shared by all watchers. A
watcher takes bytes on behalf of a client; the http room implements it for WebSocket and SSE. Everything here
is called synchronously by a broadcaster, between two of its own checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Protocol

import attrs

from heliograph.model.channels import Selection
from heliograph.model.event import Event
from heliograph.model.ids import OLDEST, EventId
from heliograph.model.task import TERMINAL

Encoder = Callable[[Event], bytes]


class Overflow(StrEnum):
    """The policy for a subscription whose client does not keep up."""

    DISCONNECT = "disconnect"
    DROP_OLDEST = "drop_oldest"
    LATEST = "latest"


def ends_task(event: Event) -> bool:
    """Tell whether an event ends its task."""
    return event.topic == "task.status" and event.payload.get("status") in TERMINAL


MESSAGE_BYTES = 1100
"""The bytes of an event's objects, its message and one encoding, without its payload (measured)."""

TEXT_COPIES = 3
OBJECT_COPIES = 8
"""The factor on the bytes of a payload's JSON: as JSON, as an object and in one encoding. Lines of
output are one long text; other objects cost about six times their JSON."""


class Message:
    """An event and its encodings."""

    __slots__ = ("_encodings", "_size", "event")

    def __init__(self, event: Event) -> None:
        self.event = event
        self._encodings: dict[Encoder, bytes] = {}
        self._size = 0

    def encoded(self, encode: Encoder) -> bytes:
        """Return the event in one encoding, made at most once."""
        data = self._encodings.get(encode)
        if data is None:
            data = self._encodings[encode] = encode(self.event)
        return data

    @property
    def size(self) -> int:
        """Roughly the bytes that the message takes with one encoding; always the same number."""
        if not self._size:
            copies = TEXT_COPIES if "output" in self.event.payload else OBJECT_COPIES
            self._size = MESSAGE_BYTES + copies * len(self.event.json)
        return self._size


class Batch:
    """Some messages in order, and their joined bytes per encoding; the same for every watcher."""

    __slots__ = ("_joined", "first_id", "last_id", "messages")

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = messages
        self.first_id = messages[0].event.id
        self.last_id = messages[-1].event.id
        self._joined: dict[Encoder, bytes] = {}

    def joined(self, encode: Encoder) -> bytes:
        """Return the bytes of all messages, joined."""
        data = self._joined.get(encode)
        if data is None:
            data = b"".join([message.encoded(encode) for message in self.messages])
            self._joined[encode] = data
        return data

    def after(self, position: EventId) -> Batch | None:
        """Return the part after a position; ``None`` if there is none."""
        newer = [message for message in self.messages if message.event.id > position]
        return Batch(newer) if newer else None

    def to_task_end(self, after: EventId = OLDEST) -> Batch | None:
        """Return the part up to the first event after a position that ends a task; ``None`` if none does."""
        for index, message in enumerate(self.messages):
            if message.event.id > after and ends_task(message.event):
                return Batch(self.messages[: index + 1])
        return None


class Watcher(Protocol):
    """One client's connection, as the actors see it; no method waits."""

    encode: Encoder

    @property
    def descriptor(self) -> int | None:
        """The descriptor to write to directly; ``None`` while bytes are pending."""
        ...

    def deliver(self, subscription: Subscription, batch: Batch) -> None:
        """Write a batch, keep it for later, or apply the overflow policy."""
        ...

    def keep_rest(self, subscription: Subscription, batch: Batch, sent: int) -> None:
        """Take over a batch of which only ``sent`` bytes went to the descriptor."""
        ...

    def task_ended(self, subscription: Subscription) -> None:
        """Act on the end of the subscription's task, whose last event was delivered."""
        ...

    def gap(self, subscription: Subscription, through: EventId) -> None:
        """Tell the client that the events after its position up to ``through`` are no longer kept."""
        ...

    def reset(self, subscription: Subscription, reason: str) -> None:
        """Tell the client that the next events do not connect to those that it has."""
        ...


class InStep(Protocol):
    """The lane that a subscription is in, as the subscription sees it."""

    position: EventId

    def leave_lane(self, subscription: Subscription) -> None:
        """Move a member to those that are apart."""
        ...


@attrs.define(eq=False)
class Subscription:
    """One watcher's interest in one selection.

    Args:
        watcher: The watcher that it belongs to.
        selection: The watched selection.
        overflow: The policy for a client that does not keep up.
        ends_with_task: Whether the subscription ends with the event that finishes the task.
        ends_after: Ignore ends of the task up to this event, since the task runs again.
        position: Every event up to this id was delivered or lies before the subscription.
        live: Whether the subscription has joined a broadcaster; before that it is replayed at its client's
            pace.
        lane: The broadcaster's lane that it is in, if any; the position is then the lane's.
    """

    watcher: Watcher
    selection: Selection
    overflow: Overflow = Overflow.DISCONNECT
    ends_with_task: bool = False
    ends_after: EventId = OLDEST
    _position: EventId = OLDEST
    live: bool = False
    lane: InStep | None = None

    @property
    def position(self) -> EventId:
        """Every event up to this id was delivered or lies before the subscription."""
        return self._position if self.lane is None else self.lane.position

    @position.setter
    def position(self, position: EventId) -> None:
        self.leave_lane()
        self._position = position

    @property
    def in_step_at(self) -> int | None:
        """The descriptor for a lane to write to; ``None`` if each batch must go through ``deliver``."""
        return None if self.ends_with_task else self.watcher.descriptor

    def leave_lane(self) -> None:
        """Leave the lane, if it is in one, so that the next batches go through ``deliver``."""
        if self.lane is not None:
            self._position = self.lane.position
            self.lane.leave_lane(self)
            self.lane = None

    def deliver(self, batch: Batch) -> None:
        """Deliver the part of a batch after the position; only when apart, and with batches in order."""
        if batch.first_id <= self._position:
            newer = batch.after(self._position)
            if newer is None:
                return
            batch = newer
        ending = batch.to_task_end(self.ends_after) if self.ends_with_task else None
        if ending is not None:
            batch = ending
        self._position = batch.last_id
        self.watcher.deliver(self, batch)
        if ending is not None:
            self.watcher.task_ended(self)
