"""A lane: watchers in step, whose bytes are written in one loop without Python bytecode.

Watchers are in step if they have the same encoding and position, and no pending bytes. They get the same
bytes at the same time, with no decision for any of them. So they are kept as descriptors, and ``os.write`` is
mapped over these: no bytecode runs between two system calls. That is worth more than it looks, since each
system call drives the interpreter out of the processor's caches.

A watcher that is not in step is *apart*, and gets each batch by a call: a newcomer, a client whose socket was
full, a stream that ends with its task. A watcher leaves its lane (``Subscription.leave_lane``) as soon as it
has pending bytes, and before its socket is closed: the number of a closed descriptor may be reused.

*Refused alternatives.* ``io_uring`` submits all writes with one system call, but containers mostly forbid it.
Threads: the kernel's part is the greater one, but it holds on to the same locks.
"""

from __future__ import annotations

import os
from itertools import islice, repeat

from heliograph.actors.subscription import Batch, Encoder, Subscription
from heliograph.model.ids import EventId

LANE_WATCHERS = 256
"""The most watchers in one lane; a large flush has a checkpoint between two lanes."""


class Lane:
    """Some watchers in step.

    Args:
        encode: The encoding of all members.
        position: The position of all members.
        apart: The set of watchers that are apart, to which members that leave are added.
    """

    __slots__ = ("_apart", "_members", "encode", "position")

    def __init__(self, encode: Encoder, position: EventId, apart: dict[Subscription, None]) -> None:
        self.encode = encode
        self.position = position
        self._apart = apart
        self._members: dict[Subscription, int] = {}

    def __len__(self) -> int:
        return len(self._members)

    def takes(self, encode: Encoder, position: EventId) -> bool:
        """Tell whether a watcher of this encoding and position is in step, and the lane has room."""
        return self.encode == encode and self.position == position and len(self._members) < LANE_WATCHERS

    def enter(self, subscription: Subscription, descriptor: int) -> None:
        """Add a subscription that was apart."""
        del self._apart[subscription]
        self._members[subscription] = descriptor
        subscription.lane = self

    def leave_lane(self, subscription: Subscription) -> None:
        """Move a member to those that are apart."""
        del self._members[subscription]
        self._apart[subscription] = None

    def write(self, batch: Batch) -> None:
        """Write the next batch to every member."""
        data = batch.joined(self.encode)
        descriptors = list(self._members.values())
        sent: list[int] = []
        while len(sent) < len(descriptors):
            try:
                # ``extend`` keeps what it has added before an error, so the loop goes on after it.
                sent.extend(map(os.write, islice(descriptors, len(sent), None), repeat(data)))
            except OSError:
                sent.append(0)  # the socket is full, or broken, which its sink will find
        self.position = batch.last_id
        if sent.count(len(data)) < len(sent):
            for subscription, size in zip(list(self._members), sent, strict=True):
                if size < len(data):
                    subscription.leave_lane()
                    subscription.watcher.keep_rest(subscription, batch, size)
