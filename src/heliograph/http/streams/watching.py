"""Watching: what one client watches, and how each of its subscriptions becomes live.

There is no socket and no byte here: the client is a ``Viewer``, which writes in the words of its protocol. A
subscription that begins now is live at once. One that begins in the past is replayed first, at the client's
pace. One task replays all of a client's subscriptions, one after the other. Meanwhile the client is read, and
its leaving ends the replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import attrs
import structlog
import trio

from heliograph.actors.hub import Hub
from heliograph.actors.subscription import Overflow, Subscription, Watcher
from heliograph.model.channels import Selection
from heliograph.model.errors import Unavailable
from heliograph.model.ids import OLDEST, EventId

MAX_TAIL = 10_000

log = structlog.get_logger(__name__)


@attrs.frozen
class WatchRequest:
    """A client's request to watch something, checked.

    Args:
        selection: Channels and filter.
        after: Resume after this position; ``OLDEST``: from the oldest kept event; ``None``: live only.
        after_is_time: Whether ``after`` was given as a time, which may be newer than the newest event.
        foreign: Whether the client's cursor is not one of this service's; a reset tells the client so.
        tail: Without ``after``: the number of newest events to begin with.
        overflow: The policy for a client that does not keep up.
        ends_with_task: Whether the stream ends with the event that finishes the task.
        task_end: Id of that event, if the task has finished already.
        ends_after: Ignore ends of the task up to this event, since the task runs again.
        names: Whether an event stream names its events (``event: task.output``).
        ref: Returned to the client as it came.
        announced: Whether the client is sent ``subscribed``; false for what it did not ask for.
    """

    selection: Selection
    after: EventId | None = None
    after_is_time: bool = False
    foreign: bool = False
    tail: int = 0
    overflow: Overflow = Overflow.DISCONNECT
    ends_with_task: bool = False
    task_end: EventId | None = None
    ends_after: EventId = OLDEST
    names: bool = True
    ref: Any = None
    announced: bool = True

    @property
    def live(self) -> bool:
        """Whether it begins with new events, so that no history must be read."""
        return self.after is None and not self.tail and not self.foreign and self.task_end is None


@attrs.frozen
class CursorLost:
    """Why a client's cursor can't be honoured, and the oldest position that can be."""

    oldest: EventId
    reason: str


@contextmanager
def _failure_sent(viewer: Viewer, request: WatchRequest) -> Iterator[None]:
    """Tell the client if the body fails, so that nothing comes of ``request``."""
    try:
        yield
    except Unavailable as error:
        viewer.unwatched(request, error, None)
    except Exception:
        log.exception("unexpected error in a subscription")
        viewer.failed()


class Viewer(Watcher, Protocol):
    """The client, as ``Watching`` sees it."""

    @property
    def ending(self) -> bool:
        """Whether the stream is ending, so that nothing more begins."""
        ...

    def announce(self, request: WatchRequest, cursor: EventId, reset: CursorLost | None) -> None:
        """Tell the client where its subscription begins and, if its own cursor can't be honoured, why."""
        ...

    def unwatched(self, request: WatchRequest, error: Unavailable, reached: EventId | None) -> None:
        """Tell the client that ``request`` has failed, since the log can't be read now.

        Args:
            request: The request that has failed.
            error: Why.
            reached: The position up to which everything was given; ``None``: the request had not begun.
        """
        ...

    def failed(self) -> None:
        """Act on a bug, which was logged already."""
        ...

    async def room(self) -> bool:
        """Wait until the client takes more; false when it never will."""
        ...


class Watching:
    """The subscriptions of one client.

    Args:
        viewer: The client; ``close`` drops it, since a reference cycle would keep a stream's memory.
        hub: Where subscriptions attach.
        start_task: Starts a task in the nursery that outlives every stream.

    Attributes:
        subscriptions: The subscriptions that have begun.
        replays: The requests that begin in the past; the first is being replayed, the others wait.
    """

    __slots__ = ("_hub", "_replaying", "_start_task", "_viewer", "replays", "subscriptions")

    def __init__(self, viewer: Viewer, hub: Hub, start_task: Callable[..., None]) -> None:
        self._viewer: Viewer | None = viewer
        self._hub = hub
        self._start_task = start_task
        self._replaying: trio.CancelScope | None = None
        self.subscriptions: tuple[Subscription, ...] = ()
        self.replays: tuple[WatchRequest, ...] = ()

    @property
    def busy(self) -> bool:
        """Whether there is any subscription or request for one."""
        return bool(self.subscriptions or self.replays)

    @property
    def count(self) -> int:
        """The number of channels and patterns that are watched or waiting to be replayed."""
        if not self.replays and len(self.subscriptions) == 1:  # the usual case, made cheap
            return len(self.subscriptions[0].selection.selectors)
        return sum(len(selection.selectors) for selection in self.selections)

    @property
    def selections(self) -> set[Selection]:
        """The selections that are watched or waiting to be replayed."""
        return {one.selection for one in self.subscriptions} | {one.selection for one in self.replays}

    def watch(self, request: WatchRequest) -> None:
        """Begin a subscription: at once if it is live only, else in the replaying task."""
        if request.live:
            self._begin_live(request)
            return
        self.replays += (request,)
        if self._replaying is None:
            self._replaying = trio.CancelScope()
            self._start_task(self._replay_all)

    def forget(self, selection: Selection) -> bool:
        """End the subscription, replay or waiting request of ``selection``; tell whether there was one."""
        known = False
        for place, request in enumerate(self.replays):
            if request.selection == selection:
                known = True
                self.replays = self.replays[:place] + self.replays[place + 1 :]
                if place == 0 and self._replaying is not None:
                    self._replaying.cancel()
                break
        for subscription in self.subscriptions:
            if subscription.selection == selection:
                known = True
                self._hub.detach(subscription)
                self._forget(subscription)
                break
        return known

    def leave_all(self) -> None:
        """End every subscription and replay."""
        for subscription in self.subscriptions:
            self._hub.detach(subscription)
        self.subscriptions = ()
        if self._replaying is not None:
            self.replays = ()
            self._replaying.cancel()

    def close(self) -> None:
        """End every subscription and replay for good, and drop the viewer."""
        self.leave_all()
        self._viewer = None

    def leave_lane(self) -> None:
        """Have further batches go through the sink, behind the client's pending bytes."""
        for subscription in self.subscriptions:
            subscription.leave_lane()

    def safe_cursor(self) -> EventId | None:
        """Return a cursor from which the client misses nothing on any of its channels."""
        if not self.subscriptions:
            return None
        return min(self._hub.caught_up_to(subscription) for subscription in self.subscriptions)

    async def _replay_all(self) -> None:
        while self.replays:
            request = self.replays[0]
            with trio.CancelScope() as self._replaying:
                if self._viewer is not None:
                    await self._viewer.room()
                await self._begin(request)
            # By identity: the request may have been forgotten and an equal one made since.
            self.replays = tuple(waiting for waiting in self.replays if waiting is not request)
        self._replaying = None

    def _begin_live(self, request: WatchRequest) -> None:
        """Begin with new events, without waiting."""
        viewer = self._viewer
        if viewer is None:
            return
        with _failure_sent(viewer, request):
            subscription = self._announce(viewer, request, self._hub.live_position(request.selection), None)
            self._hub.join(subscription)
            if viewer.ending:
                self._hub.detach(subscription)

    async def _begin(self, request: WatchRequest) -> None:
        viewer = self._viewer
        if viewer is None:
            return
        with _failure_sent(viewer, request):
            await self._attach(viewer, request)

    async def _attach(self, viewer: Viewer, request: WatchRequest) -> None:
        """Find where to start, announce it, replay, and go live.

        Raises:
            Unavailable: The log can't be read now.
        """
        start, reset = await self._starting_point(request)
        await trio.lowlevel.checkpoint_if_cancelled()  # a request forgotten meanwhile must not be announced
        subscription = self._announce(viewer, request, start, reset)
        if request.task_end is not None and start >= request.task_end:
            viewer.task_ended(subscription)
            return
        try:
            await self._hub.attach(subscription, viewer.room)
        except Unavailable as error:
            self._forget(subscription)
            viewer.unwatched(request, error, subscription.position)
        if viewer.ending:
            self._hub.detach(subscription)

    def _announce(
        self, viewer: Viewer, request: WatchRequest, start: EventId, reset: CursorLost | None
    ) -> Subscription:
        """Make the subscription, and tell the client where it begins."""
        subscription = Subscription(
            viewer, request.selection, request.overflow, request.ends_with_task, request.ends_after, start
        )
        self.subscriptions += (subscription,)
        viewer.announce(request, start, reset)
        return subscription

    def _forget(self, subscription: Subscription) -> None:
        self.subscriptions = tuple(one for one in self.subscriptions if one is not subscription)

    async def _starting_point(self, request: WatchRequest) -> tuple[EventId, CursorLost | None]:
        """Return the position to begin at and, if the client's cursor can't be honoured, why.

        Raises:
            Unavailable: The log can't be read now.
        """
        replay, selection = self._hub.replay, request.selection
        live = self._hub.live_position(selection)
        if request.task_end is not None:
            trimmed = (await replay.bounds(selection)).trimmed
            if trimmed >= request.task_end:
                return trimmed, CursorLost(trimmed, "the task has ended, and its end is no longer kept")
        if request.foreign:
            oldest = (await replay.bounds(selection)).trimmed
            start = live if request.after is None else max(request.after, oldest)
            return start, CursorLost(oldest, "the cursor is none of this service's")
        if request.after is None:
            return (await replay.tail_start(selection, request.tail) if request.tail else live), None
        # A time may well lie where no event can be.
        may_be_lost = not request.after_is_time
        lost = may_be_lost and replay.is_lost(request.after)
        if request.after == OLDEST or (not lost and self._hub.reaches_back_to(selection, request.after)):
            return request.after, None
        bounds = await replay.bounds(selection)
        if may_be_lost and replay.is_lost(request.after):
            start = live if request.task_end is None else bounds.trimmed
            return start, CursorLost(bounds.trimmed, "the log has lost the cursor's event")
        if request.after > bounds.head:
            ahead = CursorLost(bounds.trimmed, "the cursor is ahead of the log")
            return live, None if request.after_is_time else ahead
        if request.after < bounds.trimmed:
            # A finished task has no new events, so begin with what is left of it.
            start = live if request.task_end is None else bounds.trimmed
            return start, CursorLost(bounds.trimmed, "events after the cursor are no longer kept")
        return request.after, None
