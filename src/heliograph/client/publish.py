"""The command ``heliograph publish``: items from a file, or from a pipe as they arrive."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import orjson
import trio

from heliograph.client.answers import Accepted
from heliograph.client.api import CONNECT_TIMEOUT, Client
from heliograph.client.items import ItemParser
from heliograph.model.errors import FieldError, HeliographError, Invalid, Unavailable

READ_BYTES = 64 * 1024
BATCH_ITEMS = 1000
BATCH_BYTES = 1024 * 1024


async def publish_items(client: Client, items: Sequence[Any], patience: float) -> Accepted:
    """Publish items, all or none.

    Args:
        client: The client of the service.
        items: The items, in either form.
        patience: Seconds to go on trying while the service is away; there is at least one try.

    Raises:
        Unavailable: The service is still away.
        ClientFault: The service refuses the items.
    """
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise Invalid([FieldError("", "each item must be a JSON object", index)])
    deadline = trio.current_time() + patience

    def give_up_in_time(error: HeliographError, delay: float) -> None:
        if trio.current_time() + delay > deadline:
            raise error

    with trio.move_on_after(max(patience, CONNECT_TIMEOUT)):
        return await client.publish(items, give_up_in_time)
    raise Unavailable(f"{client.url} did not answer in time")


async def publish_stream(
    client: Client, descriptor: int, patience: float, on_kept: Callable[[Accepted], object]
) -> None:
    """Publish the items of a file or pipe as they arrive.

    Args:
        client: The client of the service.
        descriptor: The file to read from, until its end.
        patience: Seconds to go on trying while the service is away, each time.
        on_kept: Called for each batch that the service keeps.

    Raises:
        Malformed: The input is not JSON.
        Invalid: The service refuses items; they are numbered from the first that was read, from 0.
        HeliographError: It refuses otherwise, or is still away.
    """
    reader = ItemParser()
    count = 0
    data = None
    while data != b"":
        data = await trio.to_thread.run_sync(os.read, descriptor, READ_BYTES, abandon_on_cancel=True)
        items = reader.feed(data) if data else reader.finish()
        for batch in _batches(items):
            try:
                on_kept(await publish_items(client, batch, patience))
            except Invalid as invalid:
                errors = [attrs.evolve(error, index=count + (error.index or 0)) for error in invalid.errors]
                raise Invalid(errors) from None
            count += len(batch)


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Cut items into requests well within a service's limits; a larger item goes alone."""
    start = size = 0
    for end, item in enumerate(items):
        more = len(orjson.dumps(item))
        if start < end and (end - start == BATCH_ITEMS or size + more > BATCH_BYTES):
            yield items[start:end]
            start, size = end, 0
        size += more
    if items:
        yield items[start:]
