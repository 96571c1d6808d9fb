"""What ``heliograph publish`` makes of its input."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import trio

from heliograph.client.answers import Accepted
from heliograph.client.api import Client
from heliograph.client.publish import BATCH_BYTES, BATCH_ITEMS, publish_stream
from heliograph.model import errors

if TYPE_CHECKING:
    from tests.client.conftest import FakeService

UNPROCESSABLE: tuple[int, dict[str, str], dict[str, Any]] = (
    422,
    {},
    {"errors": [{"index": 1, "field": "topic", "detail": "is missing"}]},
)


def notes(count: int, size: int) -> list[dict[str, Any]]:
    """Make items whose texts have so many bytes."""
    return [{"topic": "note", "payload": {"n": n, "text": "x" * size}} for n in range(count)]


async def publish(service: FakeService, path: Path, items: list[dict[str, Any]]) -> list[Accepted]:
    """Publish a JSON array from a file; return what the service said to each request."""
    receipts: list[Accepted] = []
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(descriptor, orjson.dumps(items), 0)
        with trio.fail_after(30):
            async with Client(service.url) as client:
                await publish_stream(client, descriptor, 10, receipts.append)
    finally:
        os.close(descriptor)
    return receipts


@pytest.mark.parametrize(
    ("count", "size", "batches"),
    [
        (BATCH_ITEMS + 1, 1, [BATCH_ITEMS, 1]),
        (10, BATCH_BYTES // 4, [3, 3, 3, 1]),
        (2, BATCH_BYTES, [1, 1]),
        (0, 0, []),
    ],
)
async def test_batches(
    service: FakeService, tmp_path: Path, count: int, size: int, batches: list[int]
) -> None:
    """One array becomes requests of a bounded number of items and bytes; each item is kept, in order."""
    receipts = await publish(service, tmp_path / "items.json", notes(count, size))
    assert [receipt.accepted for receipt in receipts] == batches
    assert [item["payload"]["n"] for item in service.kept] == list(range(count))


async def test_refused_item(service: FakeService, tmp_path: Path) -> None:
    """A refused item is named by its number in the whole input, not in its request."""
    service.script.append("keep")
    service.script.append(UNPROCESSABLE)
    with pytest.raises(errors.Invalid) as caught:
        await publish(service, tmp_path / "items.json", notes(10, BATCH_BYTES // 4))
    assert [error.index for error in caught.value.errors] == [4]
    assert len(service.kept) == 3
