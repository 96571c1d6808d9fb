"""The largest requests hold up everybody else for a short while only.

The tasks of a Trio run take turns, so a request holds up all others for as long as one of its steps takes.
A step is measured by its calls, of Python's functions and of C's, which no machine's load changes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import attrs
import httpx
import orjson
import trio
from tests.conformance.conftest import Launch, embedded
from tests.polling import until
from tests.recorded import EXAMPLES

from heliograph.actors.figures import MAX_GROUPS
from heliograph.model.ids import parse_id

EVENTS = 20_000
MOST = 30_000
"""The most calls of one step, which are a few milliseconds; to look through the newest events in memory takes
more than 20,000. Giving each event its owner's key in one step would take 140,000."""


@attrs.define(eq=False)
class Steps(trio.abc.Instrument):
    """The most calls in one step of any task but the test's own.

    Args:
        own: The test's task.
        calls: The calls of the step that is under way.
        most: The most calls of a step so far, and the task's name.
    """

    own: trio.lowlevel.Task
    calls: int = 0
    most: tuple[int, str] = (0, "")

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Begin to count."""
        self.calls = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Compare the count."""
        if task is not self.own:
            self.most = max(self.most, (self.calls, task.name))

    def count(self, frame: FrameType, what: str, argument: object) -> None:
        """Take notice of what the interpreter does."""
        if what in {"call", "c_call"}:
            self.calls += 1


@contextmanager
def counting() -> Iterator[Steps]:
    """Count the calls of the steps in this run, but not those of threads, which hold up nobody."""
    steps = Steps(trio.lowlevel.current_task())
    trio.lowlevel.add_instrument(steps)
    sys.setprofile(steps.count)
    try:
        yield steps
    finally:
        sys.setprofile(None)
        trio.lowlevel.remove_instrument(steps)


async def test_a_request_of_most_events_goes_in_steps(launch: Launch) -> None:
    """As many events as a request takes, with keys, are published without a long step."""
    url = (await launch()).url
    items = [{"type": "task_output", "task_id": f"t{number % 50}", "output": "x"} for number in range(EVENTS)]
    body = orjson.dumps(items)
    async with httpx.AsyncClient(verify=False, timeout=60) as http:
        with counting() as steps:
            answer = await http.post(f"{url}/api/v1/events", content=body, headers={"Idempotency-Key": "k"})
            assert answer.status_code == 201, answer.text

            async def dispatched() -> bool:
                status = await http.get(f"{url}/api/v1/status")
                return parse_id(status.json()["position"]) >= parse_id(answer.json()["cursor"])

            await until(dispatched)
    assert steps.most[0] < MOST, steps.most


@embedded
async def test_a_large_body_goes_in_steps(launch: Launch) -> None:
    """A megabyte of small lists in one event, a task or a conversation is not walked member by member."""
    url = (await launch()).url
    lists: list[list[object]] = [[]] * 250_000
    async with httpx.AsyncClient(base_url=url, verify=False, timeout=60) as http:
        for path, body in (
            ("/api/v1/events", {"topic": "x.y", "payload": {"a": lists}}),
            ("/api/v1/tasks", {"metadata": {"a": lists}}),
            ("/api/v1/conversations", {"title": "t", "metadata": {"a": lists}}),
        ):
            content = orjson.dumps(body)
            with counting() as steps:
                answer = await http.post(path, content=content)
            assert answer.status_code == 201, answer.text
            assert steps.most[0] < MOST, (path, steps.most)


@embedded
async def test_a_large_delivery_goes_in_steps(launch: Launch) -> None:
    """What anybody may send to a webhook is read in a thread, and refused if it has too many parts."""
    url = (await launch(webhooks=EXAMPLES.with_name("webhooks"))).url
    few: list[object] = [[], 1e999] * 100_000
    async with httpx.AsyncClient(base_url=url, verify=False, timeout=60) as http:
        for content, status in (
            (json.dumps({"event": "deploy.failed", "x": few}).encode(), 200),
            (b'{"event": "deploy.failed", "x": [%b[]]}' % (b"[]," * 10_000_000), 413),
        ):
            with counting() as steps:
                answer = await http.post("/webhooks/deploys", content=content)
            assert answer.status_code == status, answer.text
            assert steps.most[0] < MOST, steps.most


@embedded
async def test_a_histogram_of_most_buckets_goes_in_steps(launch: Launch) -> None:
    """Thousands of buckets are cut, added up and shown without a long step, as JSON and as a table."""
    url = (await launch()).url
    hours, table = {"from": "-200d", "granularity": "hour"}, {"Accept": "text/csv"}
    async with httpx.AsyncClient(base_url=url, verify=False, timeout=60) as http:
        item = {"type": "task_status", "task_id": "t", "status": "completed", "result": {"cost_usd": 1}}
        assert (await http.post("/api/v1/events", json=item)).status_code == 201
        for path, query, headers in (
            ("/api/v1/analytics/costs/histogram", {**hours, "group_by": "model"}, {}),
            ("/api/v1/analytics/costs/histogram", hours, table),
            ("/api/analytics/costs/histogram", {"days": "200", "granularity": "hour"}, {}),
        ):
            with counting() as steps:
                answer = await http.get(path, params=query, headers=headers)
            assert answer.status_code == 200, answer.text
            assert steps.most[0] < MOST, (path, steps.most)


@embedded
async def test_hundreds_of_groups_go_in_steps(launch: Launch) -> None:
    """As many agents, types and models as an answer shows are added up without a long step."""
    url = (await launch()).url
    names = [f"n{number}" for number in range(MAX_GROUPS)]
    items = [
        {
            "topic": "task.created",
            "payload": {"task_id": name, "agent": name, "agent_type": name, "model": name},
        }
        for name in names
    ]
    items += [{"type": "task_status", "task_id": name, "status": "completed"} for name in names]
    async with httpx.AsyncClient(base_url=url, verify=False, timeout=60) as http:
        assert (await http.post("/api/v1/events", json=items)).status_code == 201
        for path in ("/api/v1/analytics/performance", "/api/v1/analytics/summary"):
            for headers in ({}, {"Accept": "text/csv"}):
                with counting() as steps:
                    answer = await http.get(path, headers=headers)
                assert answer.status_code == 200, answer.text
                assert answer.text.count("n77") >= 2, "its groups are shown"
                assert steps.most[0] < MOST, (path, headers, steps.most)
