"""What ``heliograph tail`` shows of a task, and that it ends when the task has."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import trio

from heliograph.client.api import Client
from heliograph.client.following import Following, Item
from heliograph.client.tail import show_channel
from heliograph.model.event import Event, event_json
from heliograph.model.ids import format_id, make_id

if TYPE_CHECKING:
    from tests.client.conftest import FakeService

OUTPUT, STATUS, NOTE = "task.output", "task.status", "deploy.note"


def story(*topics: str) -> list[Event]:
    """Make the events of a task; each status is its end."""
    payloads: dict[str, dict[str, Any]] = {OUTPUT: {"output": "line"}, STATUS: {"status": "completed"}}
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        Event(make_id(1000 + n), "task:t1", n, topic, moment, {"task_id": "t1", **payloads.get(topic, {})})
        for n, topic in enumerate(topics, 1)
    ]


def stream(events: list[Event]) -> tuple[int, bytes]:
    """Make the answer of an event stream that is cut behind these events."""
    blocks = [f"id: {event.cursor}\ndata: ".encode() + event_json(event) + b"\n\n" for event in events]
    return 200, b"retry: 1\n\n" + b"".join(blocks)


def task(status: str, last: Event) -> tuple[int, bytes]:
    """Make the answer to what is asked about the task."""
    times = dict.fromkeys(("created_at", "updated_at"), last.timestamp)
    return 200, orjson.dumps({"task_id": "t1", "status": status, "last_event_id": last.cursor, **times})


def page(events: list[Event], next_cursor: str | None = None) -> tuple[int, bytes]:
    """Make a page of events, newest first."""
    newest_first = [orjson.loads(event_json(event)) for event in reversed(events)]
    meta = {"next_cursor": next_cursor, "stream_cursor": "9000-0"}
    return 200, orjson.dumps({"events": newest_first, "meta": meta})


async def show(service: FakeService, following: Following) -> list[Item]:
    """Show the task to its end; return what was shown."""
    shown: list[Item] = []
    with trio.fail_after(10):
        async with Client(service.url) as client:
            await show_channel(client, following, "sse", shown.append, lambda sentence: None, follow_on=False)
    return shown


def queries(service: FakeService) -> list[str]:
    """Return what was asked, in order."""
    return [target for _, target, _ in service.asked]


@pytest.mark.parametrize("status", ["running", "completed"])
async def test_filter_that_hides_the_end(service: FakeService, status: str) -> None:
    """With a filter that hides the task's end, what passes it is shown, and the end is noticed even so."""
    events = story(NOTE, OUTPUT, NOTE, OUTPUT, STATUS)
    service.streams.extend([task(status, events[-1]), page([events[0], events[2]])])
    if status == "completed":
        service.streams.append(page(events[-1:]))  # its end is still kept
    service.streams.append(stream(events))
    assert await show(service, Following("task:t1", NOTE, tail=2)) == [events[0], events[2]]
    _, listed, *_, streamed = queries(service)
    assert "limit=2" in listed
    assert "topic=deploy.note" in listed
    assert f"after={format_id(events[0].id - 1)}" in streamed
    assert "topic" not in streamed


async def test_filter_that_shows_the_end(service: FakeService) -> None:
    """A filter that the task's end passes is left to the service."""
    events = story(STATUS)
    service.streams.extend([task("running", events[0]), stream(events)])
    assert await show(service, Following("task:t1", "task.*", tail=2)) == events
    assert "topic=task." in queries(service)[-1]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("reset", {"channel": "task:t1", "oldest": "1003-0", "head": "1009-0", "reason": "no longer kept"}),
        ("gap", {"from": "1001-1", "to": "1003-0", "count": None, "reason": "no longer kept"}),
    ],
)
async def test_an_end_that_was_lost(service: FakeService, kind: str, fields: dict[str, Any]) -> None:
    """When the end of an ended task can't be given any more, that is shown and nothing is waited for."""
    events = story(OUTPUT, OUTPUT, STATUS)
    notice = f"event: {kind}\ndata: ".encode() + orjson.dumps(fields) + b"\n\n"
    kept = page(events[-1:])
    service.streams.extend([task("completed", events[-1]), kept, (200, b"retry: 1\n\n" + notice)])
    (shown,) = await show(service, Following("task:t1", after="1001-0"))
    assert type(shown).__name__.lower() == kind


async def test_an_ended_task_of_which_nothing_is_kept(service: FakeService) -> None:
    """Of a task whose every event retention has removed nothing is shown, and nothing waited for."""
    service.streams.extend([task("completed", story(STATUS)[0]), page([])])
    assert await show(service, Following("task:t1", after="0-0")) == []


async def test_long_tail_behind_a_filter(service: FakeService) -> None:
    """A tail of more events than a page has begins on a later page."""
    events = story(*[NOTE] * 700, STATUS)
    service.streams.extend(
        [task("running", events[-1]), page(events[200:700], "older"), page(events[100:200], "older still")]
    )
    service.streams.append(stream(events[100:]))
    assert await show(service, Following("task:t1", NOTE, tail=600)) == events[100:700]
    assert ["limit=500" in query for query in queries(service)][1:3] == [True, False]
    assert "limit=100&cursor=older" in queries(service)[2]


async def test_nothing_behind_a_filter(service: FakeService) -> None:
    """Of an ended task with nothing that passes the filter, nothing is waited for."""
    events = story(OUTPUT, STATUS)
    service.streams.extend([task("completed", events[-1]), page([])])
    assert await show(service, Following("task:t1", NOTE, tail=100)) == []


async def test_service_that_is_away_at_first(service: FakeService) -> None:
    """That a task has ended is asked again until it is known; the last event may be no terminal one."""
    events = story(STATUS, OUTPUT)
    kept = page(events[-1:])
    service.streams.extend([(503, b"{}"), task("completed", events[-1]), kept, stream(events[1:])])
    assert await show(service, Following("task:t1", tail=1)) == events[1:]
