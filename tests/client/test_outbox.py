from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from heliograph.client import outbox as outbox_module
from heliograph.client.api import Client
from heliograph.client.outbox import Outbox
from heliograph.client.spool import OutputRun, Spool
from heliograph.model.errors import Unauthenticated

if TYPE_CHECKING:
    from tests.client.conftest import FakeService

NOW = {"Retry-After": "0"}


@pytest.fixture
async def client(service: FakeService) -> AsyncIterator[Client]:
    """A client of the fake service."""
    async with Client(service.url) as client:
        yield client


def item(n: int) -> dict[str, object]:
    """Make an item with a number."""
    return {"topic": "n", "payload": {"n": n}}


def numbers(service: FakeService) -> list[int]:
    """Return the numbers that were kept."""
    return [kept["payload"]["n"] for kept in service.kept]


async def test_order_through_trouble(
    service: FakeService, client: Client, spool: Spool, nursery: trio.Nursery
) -> None:
    """Through refusals and lost answers everything arrives in order and once, while more is appended."""
    service.script.extend([(503, NOW, {}), "lost", (500, NOW, {}), "lost", (429, NOW, {})])
    outbox = Outbox(spool, client, lambda sentence: None)
    nursery.start_soon(outbox.send)
    with trio.fail_after(20):
        for n in range(50):
            await outbox.put([item(n)])
            await wait_all_tasks_blocked()
        outbox.close()
        assert await outbox.sent(patience=10)
    assert numbers(service) == list(range(50))
    assert spool.unsent == 0


async def test_batches(service: FakeService, client: Client, spool: Spool, nursery: trio.Nursery) -> None:
    """What waits together leaves together: many items, few requests."""
    outbox = Outbox(spool, client, lambda sentence: None)
    outbox.append([item(n) for n in range(5000)])
    outbox.close()
    with trio.fail_after(10):
        await outbox.send()
    assert numbers(service) == list(range(5000))
    assert len(service.asked) == 1


async def test_first_item_at_once(
    service: FakeService, client: Client, spool: Spool, nursery: trio.Nursery
) -> None:
    """A first item is not held back for company."""
    outbox = Outbox(spool, client, lambda sentence: None)
    nursery.start_soon(outbox.send)
    await outbox.put([item(1)])
    with trio.fail_after(5):
        assert await outbox.sent(patience=5)
    assert numbers(service) == [1]


async def test_bound(service: FakeService, client: Client, spool: Spool, nursery: trio.Nursery) -> None:
    """At its bound the outbox makes the writer wait, says so, and goes on when something was sent."""
    told: list[str] = []
    outbox = Outbox(spool, client, told.append, limit=1)
    outbox.append([item(0)])
    nursery.start_soon(outbox.put, [item(1)])
    await wait_all_tasks_blocked()
    assert b'"n":1' not in spool.read(10_000)
    assert "waits" in told[0]
    nursery.start_soon(outbox.send)
    with trio.fail_after(5):
        while len(service.kept) < 2:
            await trio.testing.wait_all_tasks_blocked(0.01)
    assert numbers(service) == [0, 1]


async def test_cancelled_put(client: Client, spool: Spool) -> None:
    """A put that is cancelled while it waits has taken nothing."""
    outbox = Outbox(spool, client, lambda sentence: None, limit=1)
    outbox.append([item(0)])
    before = spool.unsent
    with trio.CancelScope() as scope:
        scope.cancel()
        await outbox.put([item(1)])
    assert spool.unsent == before


async def test_full_disk(
    client: Client, spool: Spool, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A full disk makes the writer wait until there is room again."""
    errors = [OSError(28, "No space left on device"), OSError(28, "No space left on device")]
    real = spool.append

    def append(items: list[dict[str, object]]) -> None:
        if errors:
            raise errors.pop()
        real(items)

    monkeypatch.setattr(spool, "append", append)
    told: list[str] = []
    await Outbox(spool, client, told.append).put([item(1)])
    assert b'"n":1' in spool.read(10_000)
    assert len(told) == 1


async def test_too_large(service: FakeService, client: Client, spool: Spool, nursery: trio.Nursery) -> None:
    """A request that is too large for the service is tried in halves."""
    service.script.extend([(413, {}, {}), (413, {}, {})])
    outbox = Outbox(spool, client, lambda sentence: None)
    outbox.append([item(n) for n in range(100)])
    outbox.close()
    with trio.fail_after(10):
        await outbox.send()
    assert numbers(service) == list(range(100))
    assert len(service.asked) == 5


def output(text: str, **marks: bool) -> dict[str, Any]:
    """Make a piece of output."""
    return {"topic": "task.output", "payload": {"task_id": "t", "output": text, **marks}}


async def test_a_piece_that_is_too_large(
    service: FakeService, client: Client, spool: Spool, nursery: trio.Nursery
) -> None:
    """A piece over the service's limit comes in pieces that make up the same line, in its place."""
    service.most = 200
    outbox = Outbox(spool, client, lambda sentence: None)
    outbox.append([output("before"), output("0123456789" * 30, rewind=True), output("after")])
    outbox.close()
    with trio.fail_after(10):
        await outbox.send()
    assert not spool.unsent
    payloads = [item["payload"] for item in service.kept]
    assert [payloads[0]["output"], payloads[-1]["output"]] == ["before", "after"]
    assert "".join(payload["output"] for payload in payloads[1:-1]) == "0123456789" * 30
    assert [payload.get("partial", False) for payload in payloads[1:-1]] == [True] * (len(payloads) - 3) + [
        False
    ]
    assert [payload.get("rewind", False) for payload in payloads[1:-1]] == [True] + [False] * (
        len(payloads) - 3
    )
    assert len({item["key"] for item in service.kept}) == len(payloads)


async def test_an_end_that_is_too_large(
    service: FakeService, client: Client, spool: Spool, nursery: trio.Nursery
) -> None:
    """A task's end is shortened until the service takes it: its status and exit code are what counts."""
    service.most = 200
    result = {"stdout": "x" * 5000, "exit_code": 3, "error": "e" * 5000, "duration": 1.5}
    outbox = Outbox(spool, client, lambda sentence: None)
    payload = {"task_id": "t", "status": "failed", "result": result}
    outbox.append([{"topic": "task.status", "payload": payload}])
    outbox.close()
    with trio.fail_after(10):
        await outbox.send()
    (kept,) = service.kept
    assert kept["payload"]["status"] == "failed"
    assert kept["payload"]["result"]["exit_code"] == 3
    assert 0 < len(kept["payload"]["result"]["stdout"]) < 200


async def test_a_run_of_lines(
    service: FakeService, client: Client, spool: Spool, nursery: trio.Nursery
) -> None:
    """Lines that wait as one record are sent as an item each, with keys of their own, between the others."""
    outbox = Outbox(spool, client, lambda sentence: None)
    template = {"topic": "task.output", "payload": {"task_id": "t", "stream": "stdout"}}
    text = "\n".join(map(str, range(10_000)))
    outbox.append([output("first"), OutputRun(template, text), output("last")])
    outbox.close()
    with trio.fail_after(10):
        await outbox.send()
    assert service.outputs() == ["first", *text.split("\n"), "last"]
    assert len({item["key"] for item in service.kept}) == 10_002
    assert service.kept[5]["payload"] == {"task_id": "t", "stream": "stdout", "output": "4"}


async def test_refused_items(
    service: FakeService, client: Client, spool: Spool, nursery: trio.Nursery, tmp_path: Path
) -> None:
    """Items that the service refuses by themselves are set aside in a file, and the others are sent."""
    bad = [{"field": "payload.output", "detail": "must be text", "index": index} for index in (1, 3)]
    service.script.extend([(422, {}, {"errors": bad}), (503, {"Retry-After": "0"}, {})])
    told: list[str] = []
    outbox = Outbox(spool, client, told.append)
    outbox.append([item(n) for n in range(5)])
    outbox.close()
    with trio.fail_after(10):
        await outbox.send()
    assert numbers(service) == [0, 2, 4]
    refused = (tmp_path / "refused.ndjson").read_bytes().splitlines()
    assert [orjson.loads(line)["payload"]["n"] for line in refused] == [1, 3]
    assert "2 items for good (payload.output: must be text" in told[0]
    assert spool.unsent == 0


async def test_an_item_that_is_too_large_by_itself(
    service: FakeService, client: Client, spool: Spool, nursery: trio.Nursery
) -> None:
    """One item that is too large is set aside; what stands behind it goes on."""
    service.script.extend([(413, {}, {"detail": "too large"})] * 3)
    outbox = Outbox(spool, client, lambda sentence: None)
    outbox.append([item(n) for n in range(3)])
    outbox.close()
    with trio.fail_after(10):
        await outbox.send()
    assert numbers(service) == [1, 2]


async def test_refusal(service: FakeService, client: Client, spool: Spool, nursery: trio.Nursery) -> None:
    """A service that refuses is told of once, nobody waits for it at the end, and nothing is dropped."""
    service.script.append((401, {}, {"detail": "unknown key"}))
    told: list[str] = []
    outbox = Outbox(spool, client, told.append)
    outbox.append([item(1)])
    outbox.close()
    nursery.start_soon(outbox.send)
    with trio.fail_after(5):
        assert not await outbox.sent(patience=1000)
    assert isinstance(outbox.error, Unauthenticated)
    assert "unknown key" in told[0]
    assert spool.unsent > 0


async def test_away_and_back(
    service: FakeService, client: Client, spool: Spool, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that is away is told of, and that it is back; sending goes on by itself."""
    monkeypatch.setattr(outbox_module, "PATIENCE_BEFORE_NOTICE", 0)
    told: list[str] = []
    service.script.extend([(503, NOW, {"detail": "log is away"})] * 2)
    outbox = Outbox(spool, client, told.append)
    outbox.append([item(1)])
    outbox.close()
    with trio.fail_after(10):
        await outbox.send()
    assert len(told) == 2
    assert "log is away" in told[0]
    assert "again" in told[1]


async def test_patience(client: Client, spool: Spool) -> None:
    """Without any progress, patience ends."""
    outbox = Outbox(spool, client, lambda sentence: None)
    outbox.append([item(1)])
    outbox.close()
    with trio.fail_after(5):
        assert not await outbox.sent(patience=0.01)
