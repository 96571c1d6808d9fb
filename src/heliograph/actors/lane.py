"""A lane: watchers in step, whose bytes go to their sockets in one loop that Python does not run.

Watchers of the same encoding that have been given the same, and for whom nothing waits to be written, get
the same bytes at the same time; nothing has to be decided for any of them. So they are kept as
descriptors, and ``os.write`` is mapped over these: between two system calls there is then no bytecode. That
is worth more than it looks, since each system call drives the interpreter out of the processor's caches.

Who is not in step is apart, and is given each batch with a call: a newcomer, a client whose socket was full,
a stream that ends with its task. A watcher steps aside by itself (``Subscription.step_aside``) as soon as
bytes of it wait, and before its socket is closed: the number of a closed descriptor may be somebody else's.

*Refused alternatives.* ``io_uring`` submits all writes with one system call, but containers mostly forbid it.
Threads: the kernel's part is the greater one, but it holds on to the same locks.
"""

from __future__ import annotations

import os
from itertools import islice, repeat

from heliograph.actors.subscription import Batch, Encoder, Subscription
from heliograph.model.ids import EventId

LANE_WATCHERS = 256
"""The most in one lane; a large flush lets others run between two of them."""


class Lane:
    """Some watchers in step.

    Args:
        encode: Their encoding.
        position: Everything up to this id was delivered to all of them.
        apart: The watchers that step aside are added here.
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
        """Tell whether a watcher of this encoding and position is in step here, and there is room."""
        return self.encode == encode and self.position == position and len(self._members) < LANE_WATCHERS

    def enter(self, subscription: Subscription, descriptor: int) -> None:
        """Take in a subscription that is apart and in step."""
        del self._apart[subscription]
        self._members[subscription] = descriptor
        subscription.lane = self

    def step_aside(self, subscription: Subscription) -> None:
        """Put a member apart."""
        del self._members[subscription]
        self._apart[subscription] = None

    def write(self, batch: Batch) -> None:
        """Write the next batch to every member."""
        data = batch.joined(self.encode)
        descriptors = list(self._members.values())
        sent: list[int] = []
        while len(sent) < len(descriptors):
            try:
                # All that ``extend`` has taken before an error stays taken.
                sent.extend(map(os.write, islice(descriptors, len(sent), None), repeat(data)))
            except OSError:
                sent.append(0)  # the socket is full; or broken, which its sink finds out by itself
        self.position = batch.last_id
        if sent.count(len(data)) < len(sent):
            for subscription, size in zip(list(self._members), sent, strict=True):
                if size < len(data):
                    subscription.step_aside()
                    subscription.watcher.keep_rest(subscription, batch, size)
