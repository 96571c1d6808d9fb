"""The fold: applies a batch of events to the store, in the transaction that stores the events.

The id of the last folded event is written in the same transaction, so folding is exactly-once: after
a crash either both are there or neither is, and a restart goes on from the checkpoint.

Each event goes to the entities of its channel's family (``storage.sql.entities``). An entity's share in
others (see ``model.kind``) is taken back and added anew in the order in which events changed the entity.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import attrs
from sqlalchemy import Connection, and_, bindparam, delete

from heliograph.model.analytics.measured import MEASURED
from heliograph.model.event import Event
from heliograph.model.ids import EventId
from heliograph.model.kind import Key, Kind, Share
from heliograph.model.prices import NO_PRICES, Prices
from heliograph.storage.sql import retention, schema
from heliograph.storage.sql.checkpoint import read_checkpoint
from heliograph.storage.sql.database import chunks
from heliograph.storage.sql.entities import ENTITIES
from heliograph.storage.sql.entity import Beside, Entity, Merging, Steady
from heliograph.storage.sql.prepared import insert, upsert
from heliograph.storage.sql.rollups import Measurement

FAMILIES: dict[str, list[Entity[Any]]] = {}
STEADY: dict[str, Steady[Any]] = {}
"""By family of channels: the entities folded from them, and the fast path there, if one has it."""

CHANGING: dict[str, frozenset[str]] = {}
"""By family of channels with a fast path: the topics that need the slow path for any of its entities."""

FEEDS: dict[Kind[Any], list[Kind[Any]]] = {}
"""By kind: the kinds that its entities feed."""

for _entity in ENTITIES:
    if _entity.kind.family is not None:
        for _family in (_entity.kind.family, *_entity.kind.further):
            FAMILIES.setdefault(_family, []).append(_entity)
        if _entity.steady is not None:
            STEADY[_entity.kind.family] = _entity.steady
    for _feeder in _entity.kind.fed_by:
        FEEDS.setdefault(_feeder, []).append(_entity.kind)
for _family, _steady in STEADY.items():
    _others = (one.kind.topics for one in FAMILIES[_family] if one.steady is None)
    CHANGING[_family] = _steady.changing.union(*_others)


@attrs.frozen
class Feeding:
    """A share that an event adds to an entity (``sign`` 1), or takes from it (-1)."""

    event_id: EventId
    share: Share
    sign: int


Steps = dict[Kind[Any], list[tuple[Key, Event | Feeding]]]
"""By kind: the events and feedings of its entities, in order."""


def fold(
    connection: Connection,
    events: Sequence[Event],
    prices: Prices = NO_PRICES,
    steady: Container[str] = frozenset(),
) -> set[str]:
    """Fold events, in order and all newer than the checkpoint, into the tables; move the checkpoint.

    Args:
        connection: A connection in the transaction that stores the events.
        events: The events to fold.
        prices: Prices, for results that don't give their cost.
        steady: Channels whose entity is known to be stored and steady. Their events are added to its row
            without reading it. Only the single writer of the tables can know these.

    Returns:
        The channels of ``events`` whose entity is stored and steady once the transaction is committed.
    """
    if not events:
        return set()
    retention.count(connection, len(events))
    by_channel: dict[str, list[Event]] = {}
    changing: set[str] = set()
    for event in events:
        channel = event.channel
        family, _, _ = channel.partition(":")
        if family in CHANGING:
            by_channel.setdefault(channel, []).append(event)
            if event.topic in CHANGING[family]:
                changing.add(channel)
    adding = {channel for channel in by_channel if channel in steady and channel not in changing}
    _add(connection, [by_channel[channel] for channel in adding])
    others = [event for event in events if event.channel not in adding] if adding else events
    settled = _fold(connection, others, prices) if others else set()
    upsert(connection, schema.checkpoints, [{"name": schema.FOLDED, "event_id": events[-1].id}])
    return adding | settled


def _add(connection: Connection, by_channel: Sequence[Sequence[Event]]) -> None:
    """Add the events of steady entities to the counts in their rows.

    Raises:
        RuntimeError: A row is missing: another writer has changed the tables.
    """
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for events in by_channel:
        family, _, _ = events[0].channel.partition(":")
        rows.setdefault(family, []).append(STEADY[family].row(events))
    for family, some in rows.items():
        if STEADY[family].add.run(connection, some) != len(some):
            raise RuntimeError(f"a {family} that was stored is not there any more")


def begin_checkpoint(connection: Connection) -> EventId:
    """Return the checkpoint, and make sure that it has a row: only an existing row can be a fence."""
    checkpoint = read_checkpoint(connection)
    upsert(connection, schema.checkpoints, [{"name": schema.FOLDED, "event_id": checkpoint}])
    return checkpoint


def _fold(connection: Connection, events: Sequence[Event], prices: Prices) -> set[str]:
    """Apply events to the entities that they touch; return the channels of those that are then steady."""
    steps: Steps = {}
    for event in events:
        for entity in FAMILIES.get(event.channel.partition(":")[0], ()):
            key = entity.kind.key_of(event)
            if key is not None:
                steps.setdefault(entity.kind, []).append((key, event))
    settled: set[str] = set()
    for entity in ENTITIES:
        if entity.kind in steps:
            batch = EntityBatch(entity, connection, prices, steps)
            batch.run()
            settled.update(batch.steady_channels())
    return settled


class EntityBatch:
    """The part of a batch that concerns the entities of one kind.

    Args:
        entity: The kind's declaration.
        connection: A connection in the transaction.
        prices: Prices, for results that don't give their cost.
        steps: The steps of all kinds. The feedings that this kind causes are added to those of the fed kinds.
    """

    def __init__(self, entity: Entity[Any], connection: Connection, prices: Prices, steps: Steps) -> None:
        self._entity = entity
        self._connection = connection
        self._prices = prices
        self._steps = steps
        self._values: dict[Key, Any] = {}
        self._shares: dict[tuple[Kind[Any], Key], Share | None] = {}
        self._merging: dict[Merging[Any], list[Any]] = {}
        self._beside: set[tuple[Any, ...]] = set()

    def run(self) -> None:
        """Read the entities, apply their steps in order, and write them."""
        kind = self._entity.kind
        steps = self._steps[kind]
        if kind.fed_by and kind.family is not None:
            steps = sorted(steps, key=lambda step: _when(step[1]))
        self._read({key for key, _ in steps})
        measurement = Measurement(self._values) if kind is MEASURED.kind else None
        for key, what in steps:
            if isinstance(what, Feeding):
                self._feed(key, what)
            else:
                self._apply(key, what, measurement)
        self._write()
        if measurement is not None:
            measurement.write(self._connection, self._values)

    def steady_channels(self) -> Iterator[str]:
        """Yield the channels of the entities that are steady now."""
        steady = self._entity.steady
        if steady is not None:
            for key, value in self._values.items():
                if steady.is_steady(value):
                    yield f"{self._entity.kind.family}:{key[0]}"

    def _read(self, keys: set[Key]) -> None:
        entity, names = self._entity, self._entity.kind.key
        for some in chunks(sorted({key[0] for key in keys})):
            for row in self._connection.execute(entity.reading(), {"wanted": some}).mappings():
                key = tuple(row[name] for name in names)
                if key in keys:
                    self._values[key] = entity.to_value(row)
        for key, value in self._values.items():
            for merging in entity.merging:
                if merging.due(value):
                    self._merging.setdefault(merging, []).append(value)
            if entity.beside is not None:
                self._beside |= entity.beside.rows(value)
            for fed in FEEDS.get(entity.kind, ()):
                self._shares[fed, key] = fed.fed_by[entity.kind](value)

    def _apply(self, key: Key, event: Event, measurement: Measurement | None) -> None:
        kind = self._entity.kind
        value = self._values.get(key)
        if measurement is not None:
            measurement.before(key, value, event)
        if value is None:
            assert kind.first_seen is not None
            value = self._values[key] = kind.first_seen(event)
        value.apply(event, self._prices)
        if measurement is not None:
            measurement.after(key, value, event)
        self._share(key, value, event.id)

    def _feed(self, key: Key, feeding: Feeding) -> None:
        kind = self._entity.kind
        value = self._values.get(key)
        if value is None:
            assert kind.fed is not None
            value = self._values[key] = kind.fed(feeding.share)
        value.feed(feeding.share, feeding.sign)
        self._share(key, value, feeding.event_id)

    def _share(self, key: Key, value: Any, event_id: EventId) -> None:
        """Add feedings for a changed share: the old one is taken back, the new one added."""
        for fed in FEEDS.get(self._entity.kind, ()):
            before = self._shares.get((fed, key))
            after = fed.fed_by[self._entity.kind](value)
            if after != before:
                self._shares[fed, key] = after
                for share, sign in ((before, -1), (after, 1)):
                    if share is not None:
                        step = share.owner, Feeding(event_id, share, sign)
                        self._steps.setdefault(fed, []).append(step)

    def _write(self) -> None:
        """Write the rows, grouped by the columns that they set."""
        for merging, values in self._merging.items():
            merging.write(self._connection, values)
        rows: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for value in self._values.values():
            row = self._entity.to_row(value)
            rows.setdefault(tuple(row), []).append(row)
        for alike in rows.values():
            upsert(self._connection, self._entity.table, alike)
        if self._entity.beside is not None:
            self._write_beside(self._entity.beside)

    def _write_beside(self, beside: Beside[Any]) -> None:
        """Insert and delete the rows beside the entities, where these have changed."""
        now = set().union(*map(beside.rows, self._values.values()))
        names = tuple(beside.table.c.keys())
        insert(
            self._connection, beside.table, [dict(zip(names, row, strict=True)) for row in now - self._beside]
        )
        gone = [dict(zip((f"at_{name}" for name in names), row, strict=True)) for row in self._beside - now]
        if gone:
            mine = and_(*(beside.table.c[name] == bindparam(f"at_{name}") for name in names))
            self._connection.execute(delete(beside.table).where(mine), gone)


def _when(what: Event | Feeding) -> EventId:
    return what.event_id if isinstance(what, Feeding) else what.id
