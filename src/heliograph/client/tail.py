"""Showing a channel, up to the end of its task if it is a task's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from heliograph.client.api import Client
from heliograph.client.follower import follow
from heliograph.client.following import Following, Gap, Item
from heliograph.client.retry import insist
from heliograph.model.channels import EVERYTHING, topic_matches
from heliograph.model.errors import HeliographError, NotFound
from heliograph.model.event import Event
from heliograph.model.ids import OLDEST, EventId, format_id, parse_id, parse_position
from heliograph.model.task import TERMINAL

PAGE_EVENTS = 500

T = TypeVar("T")


async def show_channel(
    client: Client,
    following: Following,
    transport: str,
    show: Callable[[Item], object],
    notify: Callable[[str], object],
    *,
    follow_on: bool,
) -> None:
    """Show a channel until its task has ended, or for ever; wait for a service that is away.

    Args:
        client: The client of the service.
        following: The selection to show.
        transport: ``sse`` or ``ws``.
        show: Called with each item.
        notify: Called with a sentence for people when it has to wait.
        follow_on: Whether to go on after the end of the task.

    Raises:
        ClientFault: The service refuses.
    """
    trouble = _Trouble(client.url, notify)
    topic = following.topic or EVERYTHING
    ends_at = None
    task_id = None if follow_on else _task_of(following.channel)
    if task_id is not None:
        ends_at = await _insist(lambda: _end_of_task(client, task_id, notify), trouble)
        if not topic_matches(topic, "task.status"):
            await _insist(lambda: _lift_filter(client, following), trouble)
    if ends_at is not None:
        if _is_behind(following, ends_at):
            return
        if not (await _insist(lambda: client.events(channel=following.channel, limit=1), trouble)).events:
            notify(f"{following.channel} has ended, and nothing of it is kept any more")
            return
    async with follow(client, following, transport, trouble.report) as items:
        async for item in items:
            trouble.recovered()
            if not isinstance(item, Event) or topic_matches(topic, item.topic):
                show(item)
            if not follow_on and _is_last(item, following, ends_at):
                return


def _task_of(channel: str) -> str | None:
    """Return the id of a channel's task, if the channel is a single task's."""
    kind, _, task_id = channel.partition(":")
    return task_id if kind == "task" and task_id != "*" else None


async def _insist(ask: Callable[[], Awaitable[T]], trouble: _Trouble) -> T:
    """Retry until the service answers."""
    answer = await insist(ask, lambda error, delay: trouble.report(error))
    trouble.recovered()
    return answer


async def _end_of_task(client: Client, task_id: str, notify: Callable[[str], object]) -> EventId | None:
    """Return the id of a task's last event, if it has ended already."""
    try:
        task = await client.task(task_id)
    except NotFound:
        notify(f"task:{task_id} is not known yet; waiting for it")
        return None
    return parse_id(task.last_event_id) if task.status in TERMINAL else None


async def _lift_filter(client: Client, following: Following) -> None:
    """Follow all topics, so that the task's end is seen, but begin where the filtered tail begins."""
    channel, topic = following.channel, following.topic
    if following.after is None and following.tail:
        following.after = await _before_last(client, channel, topic, following.tail)
    following.topic = None


async def _before_last(client: Client, channel: str, topic: str | None, count: int) -> str:
    """Return the position just before the newest ``count`` events of a selection."""
    cursor = None
    while True:
        limit = min(count, PAGE_EVENTS)
        page = await client.events(channel=channel, topic=topic, limit=limit, cursor=cursor)
        count, cursor = count - len(page.events), page.next_cursor
        if count == 0 or cursor is None:
            return format_id(page.events[-1].id - 1) if page.events else page.stream_cursor


def _is_behind(following: Following, ends_at: EventId) -> bool:
    """Tell whether the following has passed the task's last event."""
    if following.after is not None:
        return parse_position(following.after, "--after") >= ends_at
    return not following.tail


def _is_last(item: Item, following: Following, ends_at: EventId | None) -> bool:
    if ends_at is not None:
        return _reach(item) >= ends_at
    if not isinstance(item, Event):
        return False
    ends = item.topic == "task.status" and item.payload["status"] in TERMINAL
    return ends and item.channel == following.channel


def _reach(item: Item) -> EventId:
    """Return the position after which the stream goes on; after a reset that is the log's head."""
    if isinstance(item, Event):
        return item.id
    position = item.end if isinstance(item, Gap) else item.head
    return OLDEST if position is None else parse_id(position)


class _Trouble:
    """Reports once that the service is away, until it is back."""

    def __init__(self, url: str, notify: Callable[[str], object]) -> None:
        self._url = url
        self._notify = notify
        self._told = False

    def report(self, error: HeliographError) -> None:
        if not self._told:
            self._told = True
            self._notify(f"{error}; trying again")

    def recovered(self) -> None:
        self._told = False
