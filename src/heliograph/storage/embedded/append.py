"""One append to the embedded database, within its transaction.

The requests' drafts get ids and ``seq`` numbers and become events, which are stored with their keys and
folded.

Only one process writes to the database, in one transaction at a time. So the writer remembers the channels
that it has written to lately (``written``), and a line of a running task is stored without reading anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import attrs
import orjson
from sqlalchemy import BigInteger, Connection, bindparam, func, insert, select

from heliograph.model.errors import HeliographError
from heliograph.model.event import Draft, Event
from heliograph.model.ids import EPOCH, MICROSECOND, SEQUENCE_BITS, EventId, make_id, time_of, to_microseconds
from heliograph.model.prices import Prices
from heliograph.storage.protocols import Receipt
from heliograph.storage.sql import keys, schema
from heliograph.storage.sql.fold import fold
from heliograph.storage.sql.prepared import Prepared, upsert, upsertion
from heliograph.storage.sql.written import Written

WANTED = select(func.json_each(bindparam("wanted")).table_valued("value").c.value)
"""A list as one parameter, a JSON text, so that one statement serves any length."""

HEADS = Prepared(
    select(schema.channels.c.name, schema.channels.c.head_seq).where(schema.channels.c.name.in_(WANTED)),
    raw=True,
)
KNOWN = Prepared(
    select(
        schema.idempotency_keys.c.key,
        schema.idempotency_keys.c.event_id,
        schema.idempotency_keys.c.fingerprint,
    ).where(
        schema.idempotency_keys.c.key.in_(WANTED),
        schema.idempotency_keys.c.expires_at > bindparam("now", type_=BigInteger),
    ),
    raw=True,
)
KEEP = Prepared(insert(schema.events), [column.name for column in schema.events.c], raw=True)
KEY_COLUMNS = [column.name for column in schema.idempotency_keys.c]
KEEP_KEYS = Prepared(upsertion("sqlite", schema.idempotency_keys, KEY_COLUMNS), KEY_COLUMNS, raw=True)

Marks = dict[str, tuple[EventId, str]]
"""By idempotency key: its event, and the fingerprint of what was published with it."""


@attrs.frozen
class Appended:
    """The result of an appending transaction.

    Args:
        answers: For each request its receipt, or the error that refused it alone.
        events: The new events, in order.
        heads: The last ``seq`` of each of their channels.
        steady: The channels whose entities are stored and steady (see ``storage.sql.entity``).
    """

    answers: Sequence[Receipt | HeliographError]
    events: Sequence[Event]
    heads: Mapping[str, int]
    steady: set[str]


def append(
    connection: Connection,
    requests: Sequence[Sequence[Draft]],
    written: Written,
    last_id: EventId,
    now_ms: int,
    key_ttl: timedelta,
    prices: Prices,
) -> Appended:
    """Store and fold the drafts of several requests.

    Args:
        connection: A connection in the only writing transaction.
        requests: The requests; each is stored whole or not at all.
        written: The memory of the transactions committed so far.
        last_id: The newest id so far; new ids are larger even if the clock stood still or went back.
        now_ms: The time, in milliseconds since the epoch.
        key_ttl: How long keys are kept.
        prices: Prices, for results that don't give their cost.
    """
    channels = {draft.channel for request in requests for draft in request}
    heads = _heads(connection, channels, written)
    known = _known(connection, requests, now_ms)
    fresh: Marks = {}
    answers: list[Receipt | HeliographError] = []
    events: list[Event] = []
    rows: list[tuple[object, ...]] = []
    milliseconds, moment = 0, EPOCH
    for request in requests:
        marks = [None if draft.key is None else keys.fingerprint(draft) for draft in request]
        conflict = _conflict(request, marks, known, heads)
        if conflict is not None:
            answers.append(conflict)
            continue
        ids = []
        for draft, mark in zip(request, marks, strict=True):
            if draft.key is not None and draft.key in known:
                ids.append(known[draft.key][0])
                continue
            last_id = EventId(max(make_id(now_ms), last_id + 1))
            if last_id >> SEQUENCE_BITS != milliseconds:  # mostly one for all events
                milliseconds, moment = last_id >> SEQUENCE_BITS, time_of(last_id)
            heads[draft.channel] = seq = heads.get(draft.channel, 0) + 1
            event = _event(draft, last_id, seq, moment)
            events.append(event)
            at = milliseconds * 1000 if event.timestamp is moment else to_microseconds(event.timestamp)
            rows.append((*event[:4], at, draft.sender, draft.correlation_id, draft.body.decode()))
            ids.append(last_id)
            if draft.key is not None and mark is not None:
                known[draft.key] = fresh[draft.key] = (last_id, mark)
        answers.append(Receipt(tuple(ids)))
    moved = {event.channel: heads[event.channel] for event in events}
    KEEP.run(connection, rows)
    upsert(connection, schema.channels, [{"name": name, "head_seq": seq} for name, seq in moved.items()])
    if fresh:
        expires_at = now_ms * 1000 + key_ttl // MICROSECOND
        KEEP_KEYS.run(connection, [(key, *mark, expires_at) for key, mark in fresh.items()])
    steady = fold(connection, events, prices, written.steady(moved.keys()))
    return Appended(answers, events, moved, steady)


def _event(draft: Draft, event_id: EventId, seq: int, moment: datetime) -> Event:
    return Event(
        event_id,
        draft.channel,
        seq,
        draft.topic,
        draft.timestamp or moment,
        draft.payload,
        draft.sender,
        draft.correlation_id,
        draft.body,
    )


def _heads(connection: Connection, channels: set[str], written: Written) -> dict[str, int]:
    heads = written.heads(channels)
    if others := sorted(channels - heads.keys()):
        heads.update(HEADS.fetch(connection, wanted=orjson.dumps(others).decode()))
    return heads


def _known(connection: Connection, requests: Sequence[Sequence[Draft]], now_ms: int) -> Marks:
    wanted = sorted({draft.key for request in requests for draft in request if draft.key is not None})
    if not wanted:
        return {}
    found = KNOWN.fetch(connection, wanted=orjson.dumps(wanted).decode(), now=now_ms * 1000)
    return {key: (event_id, mark) for key, event_id, mark in found}


def _conflict(
    request: Sequence[Draft], marks: Sequence[str | None], known: Marks, heads: Mapping[str, int]
) -> HeliographError | None:
    """Return why a request is refused, if it is.

    It reuses a key for other content, or has an event that must follow another one than its channel's last.
    """
    within: dict[str, str] = {}
    for index, (draft, mark) in enumerate(zip(request, marks, strict=True)):
        if draft.follows is not None and heads.get(draft.channel, 0) != draft.follows:
            return keys.overtaken(draft)
        if draft.key is None or mark is None:
            continue
        before = known[draft.key][1] if draft.key in known else within.setdefault(draft.key, mark)
        if before != mark:
            return keys.conflict(index, draft)
    return None
