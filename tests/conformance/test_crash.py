"""A service that is killed at random moments while eight publish: what was acknowledged is there, once."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from tests.conformance.clients import DEADLINE, Told, ask, get, watch
from tests.conformance.serving import Process, process

PUBLISHERS = 8
KILLS = 5
STATUSES = ("queued", "running", "completed", "failed", "cancelled")


@attrs.define
class Publisher:
    """Publishes to tasks of its own, every item with a key, and repeats a request until it is answered.

    Attributes:
        sent: What was sent, by key.
        ids: What was acknowledged: the id of each key.
        retries: Requests that had to be sent again.
    """

    name: int
    url: str
    chance: random.Random
    sent: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    ids: dict[str, str] = attrs.field(factory=dict)
    retries: int = 0

    async def run(self, stop: trio.Event) -> None:
        """Publish until told to stop; the last request is answered too."""
        while not stop.is_set():
            items = [self.item() for _ in range(self.chance.randint(1, 20))]
            await self.deliver(items)

    def item(self) -> dict[str, Any]:
        """Make up the next thing that happens to one of the tasks."""
        number = len(self.sent)
        task = f"p{self.name}-{self.chance.randrange(5)}"
        payload: dict[str, Any]
        if self.chance.random() < 0.2:
            payload = {"status": self.chance.choice(STATUSES)}
            if self.chance.random() < 0.5:
                payload["result"] = {"cost_usd": self.chance.randrange(10**6) / 10**6, "input_tokens": number}
            topic = "task.status"
        else:
            topic, payload = "task.output", {"output": f"{number} " + "é" * self.chance.randrange(200)}
        item = {"topic": topic, "key": f"{self.name}/{number}", "payload": {"task_id": task, **payload}}
        self.sent[f"{self.name}/{number}"] = item
        return item

    async def deliver(self, items: list[dict[str, Any]]) -> None:
        """Send a request until it is acknowledged."""
        while True:
            try:
                answer = await ask(self.url, "POST", "/api/v1/events", json=items)
            except OSError:
                self.retries += 1
                await trio.sleep(0.02)
                continue
            assert answer.status == 201, answer.body
            self.ids |= dict(zip((item["key"] for item in items), answer.json()["ids"], strict=True))
            return


async def kill_and_restart(served: Process, chance: random.Random, publishers: list[Publisher]) -> None:
    """Kill the service at some moment after it has acknowledged something, and start it again."""
    before = sum(len(publisher.ids) for publisher in publishers)
    wanted = before + chance.randint(1, 600)
    while sum(len(publisher.ids) for publisher in publishers) < wanted:  # noqa: ASYNC110 - any moment will do
        await trio.sleep(chance.uniform(0.0005, 0.01))
    served.kill()
    await served.start()


def recount(story: list[Told]) -> dict[str, dict[str, Any]]:
    """Fold the log into tasks by other means than the service's own."""
    by_task: dict[str, list[Told]] = defaultdict(list)
    for told in story:
        by_task[told.fields["payload"]["task_id"]].append(told)
    tasks = {}
    for name, events in by_task.items():
        lines = [told.output for told in events if told.fields["topic"] == "task.output"]
        status = "queued"
        attempts: list[dict[str, Any]] = [{}]
        for payload in (told.fields["payload"] for told in events):
            said = payload.get("status", "running")  # a line begins what is queued
            if said in STATUSES[2:]:
                status = said
                attempts[-1] |= payload.get("result", {})
            elif payload.get("status") == "running" and status in STATUSES[2:]:
                status = "running"
                attempts.append({})
            elif status == "queued":
                status = said
        results = [attempt for attempt in attempts if attempt]
        cost = sum(round(result["cost_usd"] * 10**9) for result in results) / 10**9 if results else None
        tasks[name] = {
            "status": status,
            "output_lines": len(lines),
            "output_bytes": sum(len(line.encode()) for line in lines),
            "cost_usd": cost,
            "input_tokens": sum(result["input_tokens"] for result in results) if results else None,
            "last_seq": events[-1].seq,
            "last_event_id": events[-1].id,
        }
    return tasks


@pytest.mark.chaos
async def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    """After kill -9 at random moments what was acknowledged is there once; the tasks are the fold."""
    chance = random.Random(9)
    async with process(tmp_path) as served:
        publishers = [Publisher(name, served.url, random.Random(name)) for name in range(PUBLISHERS)]
        stop = trio.Event()
        with trio.fail_after(3 * DEADLINE):
            async with trio.open_nursery() as nursery:
                for publisher in publishers:
                    nursery.start_soon(publisher.run, stop)
                for _ in range(KILLS):
                    await kill_and_restart(served, chance, publishers)
                stop.set()
        sent = {key: item for publisher in publishers for key, item in publisher.sent.items()}
        ids = {key: one for publisher in publishers for key, one in publisher.ids.items()}
        assert ids.keys() == sent.keys()
        assert sum(publisher.retries for publisher in publishers) > 0
        async with await watch("sse", served.url, "task:*", after="0-0") as one:
            story = await one.story(len(sent))
        await served.stop()
        await served.start()  # and what was added after the last kill outlives an orderly end as well
        listed = await tasks_of(served.url)
        again = await get(served.url, "/api/v1/events?limit=1")
    assert story[-1].id == max(ids.values(), key=position)
    assert position(again["meta"]["stream_cursor"]) >= position(story[-1].id)  # the service adds its own
    assert len({told.id for told in story}) == len(story)
    by_id = {told.id: told for told in story}
    for key, item in sent.items():
        told = by_id[ids[key]]
        assert (told.fields["topic"], told.fields["payload"]) == (item["topic"], item["payload"])
    numbers: dict[str, list[int]] = defaultdict(list)
    for told in story:
        numbers[told.fields["channel"]].append(told.seq)
    for channel, seqs in numbers.items():
        assert seqs == list(range(1, len(seqs) + 1)), channel
    expected = recount(story)
    assert {
        name: {field: task[field] for field in expected[name]} for name, task in listed.items()
    } == expected


def position(cursor: str) -> tuple[int, ...]:
    """Make cursors comparable."""
    return tuple(map(int, cursor.split("-")))


async def tasks_of(url: str) -> dict[str, dict[str, Any]]:
    """Read every page of the list of tasks."""
    tasks: dict[str, dict[str, Any]] = {}
    path = "/api/v1/tasks?limit=7"
    cursor = ""
    while True:
        page = await get(url, path + cursor)
        tasks |= {task["task_id"]: task for task in page["tasks"]}
        if page["meta"]["next_cursor"] is None:
            return tasks
        cursor = f"&cursor={page['meta']['next_cursor']}"
