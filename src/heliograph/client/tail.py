"""Showing a channel, and knowing when a task's channel has shown all there will be."""

from __future__ import annotations

from collections.abc import Callable

from heliograph.client.api import Client
from heliograph.client.follow import Item, Subscription, follow
from heliograph.model.errors import HeliographError, NotFound, Unavailable
from heliograph.model.event import Event
from heliograph.model.ids import EventId, parse_id, parse_position
from heliograph.model.task import TERMINAL


async def show_channel(
    client: Client,
    subscription: Subscription,
    transport: str,
    show: Callable[[Item], object],
    notify: Callable[[str], object],
    *,
    follow_on: bool,
) -> None:
    """Show a channel until its task has ended, or without end.

    Args:
        client: Of the service.
        subscription: What to show.
        transport: ``sse`` or ``ws``.
        show: Given each item.
        notify: Told, in sentences for people, what is waited for.
        follow_on: Go on after the end of the task.

    Raises:
        ClientFault: The service refuses.
    """
    ends_at = None if follow_on else await _end_of_task(client, subscription.channel, notify)
    if ends_at is not None and _is_behind(subscription, ends_at):
        return
    trouble = _Trouble(client.url, notify)
    async with follow(client, subscription, transport, trouble.tell) as items:
        async for item in items:
            trouble.over()
            show(item)
            if isinstance(item, Event) and not follow_on and _is_last(item, subscription, ends_at):
                return


async def _end_of_task(client: Client, channel: str, notify: Callable[[str], object]) -> EventId | None:
    """Return the id of a task's last event, if it has ended already."""
    kind, _, task_id = channel.partition(":")
    if kind != "task" or task_id == "*":
        return None
    try:
        task = await client.task(task_id)
    except NotFound:
        notify(f"{channel} is not known yet; waiting for it")
        return None
    except Unavailable:
        return None  # following tells of it, and tries again
    return parse_id(task["last_event_id"]) if task["status"] in TERMINAL else None


def _is_behind(subscription: Subscription, ends_at: EventId) -> bool:
    """Tell whether nothing is left to show of an ended task."""
    if subscription.after is not None:
        return parse_position(subscription.after, "--after") >= ends_at
    return not subscription.tail


def _is_last(event: Event, subscription: Subscription, ends_at: EventId | None) -> bool:
    if ends_at is not None:
        return event.id >= ends_at
    ends = event.topic == "task.status" and event.payload["status"] in TERMINAL
    return ends and event.channel == subscription.channel


class _Trouble:
    """Tells once that the service is away, until it is back."""

    def __init__(self, url: str, notify: Callable[[str], object]) -> None:
        self._url = url
        self._notify = notify
        self._told = False

    def tell(self, error: HeliographError) -> None:
        if not self._told:
            self._told = True
            self._notify(f"{error}; trying again")

    def over(self) -> None:
        self._told = False
