"""Small deployments for tests of analytics: an embedded log, and nodes that aggregate it and answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import attrs
import orjson
import trio
from quart_trio import QuartTrio
from sqlalchemy import Connection, insert
from tests.polling import until

from heliograph.actors.appender import Appender
from heliograph.actors.histogram import Histogram
from heliograph.actors.subscriber import Subscriber
from heliograph.config import AuthSettings, Settings
from heliograph.http.api.app import create_app
from heliograph.http.api.counts import RequestCounts
from heliograph.http.api.services import Services
from heliograph.http.rules.auth import Authenticator
from heliograph.http.rules.under_way import UnderWay
from heliograph.model.channels import EVERYTHING, Selection
from heliograph.model.event import Event
from heliograph.model.intake import parse_items
from heliograph.model.prices import Price, Prices
from heliograph.storage.embedded.sqlite import SqliteLog, open_sqlite
from heliograph.storage.protocols import Receipt
from heliograph.storage.sql import schema
from heliograph.storage.sql.database import Database
from heliograph.storage.sql.fold import fold
from heliograph.storage.sql.store import SqlStore

PRICES = Prices([Price("m1", Decimal(3), Decimal(15), Decimal("0.3"), Decimal("3.75"))])
INTERVAL = 0.02
"""Seconds between deltas: tests needn't wait for a second."""

EVERYWHERE = Selection((EVERYTHING,))


@attrs.define
class FewServices:
    """As much of the services as analytics use."""

    log: SqliteLog
    histogram: Histogram
    settings: Settings = attrs.field(factory=Settings)
    authenticator: Authenticator = attrs.field(factory=lambda: Authenticator(AuthSettings()))
    requests: RequestCounts = attrs.field(factory=RequestCounts)
    questions: UnderWay = attrs.field(factory=lambda: UnderWay("questions", 100))
    traced: bool = False


@attrs.define
class Node:
    """An aggregator over a store, and the app that answers from it."""

    log: SqliteLog
    database: Database
    appender: Appender
    interval: float = INTERVAL
    histogram: Histogram = attrs.field(init=False)
    app: QuartTrio = attrs.field(init=False)
    _started: Histogram = attrs.field(init=False)
    _running: trio.CancelScope | None = None

    def start(self, nursery: trio.Nursery) -> None:
        """Start it, or start it again from its store."""
        self.stop()
        self._running = trio.CancelScope()
        store = SqlStore(self.database)
        self.histogram = Histogram(self.log, store, self.appender.append, PRICES, interval=self.interval)
        self._started = self.histogram
        self.app = create_app(cast(Services, FewServices(self.log, self.histogram)))
        subscriber = Subscriber(self.log, self.log.position, [self.histogram.inbox])
        nursery.start_soon(_run, subscriber, self.histogram, self._running)

    async def loaded(self) -> bool:
        """Tell whether the aggregator that it has started has loaded."""
        return self._started.loaded

    def stop(self) -> None:
        """Stop it where it stands."""
        if self._running is not None:
            self._running.cancel()

    async def get(self, path: str, query: Mapping[str, Any], status: int = 200) -> Any:
        """Ask the app for JSON, expecting a status."""
        response = await self.app.test_client().get(path, query_string=dict(query))
        body = orjson.loads(await response.get_data())
        assert response.status_code == status, body
        return body


async def _run(subscriber: Subscriber, histogram: Histogram, scope: trio.CancelScope) -> None:
    with scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subscriber.run)
            nursery.start_soon(histogram.run)


@attrs.define
class Deployment:
    """A log with its own store, and a second store that an archiver fills now and then.

    Args:
        log: The log.
        near: The store that is always as far as the log.
        far: The store that lags behind.
        nursery: For nodes.
        appender: Of all nodes.
        nodes: Those that were started.
    """

    log: SqliteLog
    near: Database
    far: Database
    nursery: trio.Nursery
    appender: Appender
    nodes: list[Node] = attrs.field(factory=list)

    def node(self, *, far: bool = False, interval: float = INTERVAL) -> Node:
        """Start a node over one of the stores."""
        node = Node(self.log, self.far if far else self.near, self.appender, interval)
        node.start(self.nursery)
        self.nodes.append(node)
        return node

    async def publish(self, items: Iterable[dict[str, Any]]) -> Receipt:
        """Publish some items in one request; not while a node loads, since what it finds is in no delta."""
        for node in self.nodes:
            await until(node.loaded)
        return await self.appender.append(parse_items(items, 2**20))

    async def archive(self) -> None:
        """Bring the far store up to the log."""
        done = await SqlStore(self.far).checkpoint()
        events = await self.events(done)
        await self.far.write(_archive, events)

    async def events(self, after: int = 0, selection: Selection = EVERYWHERE) -> list[Event]:
        """Read the log after a position."""
        found: list[Event] = []
        more, position = True, after
        while more:
            page = await self.log.read(selection, position, 1000)  # type: ignore[arg-type]
            found += page.events
            more, position = page.more, page.through
        return found


def _archive(connection: Connection, events: Sequence[Event]) -> None:
    if events:
        rows = [event._asdict() for event in events]
        for row in rows:
            row["payload"] = row.pop("body").decode()
        connection.execute(insert(schema.events), rows)
        fold(connection, events, PRICES)


@asynccontextmanager
async def deployment(folder: Path) -> AsyncIterator[Deployment]:
    """Open a deployment in a folder; its nodes stop at the end."""
    ttl = timedelta(days=1)
    async with (
        open_sqlite(folder / "near", ttl, PRICES) as (log, near),
        open_sqlite(folder / "far", ttl, PRICES) as (_, far),
        trio.open_nursery() as nursery,
    ):
        appender = Appender(log, 100)
        nursery.start_soon(appender.run)
        yield Deployment(log, near, far, nursery, appender)
        nursery.cancel_scope.cancel()
