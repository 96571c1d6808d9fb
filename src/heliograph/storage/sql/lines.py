"""Lines of output: the events of an entity's channel that are read by range of ``seq``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import JSON, ColumnElement, Connection, Row, Text, and_, cast, func, select

from heliograph.model.ids import EventId
from heliograph.model.kind import Kind
from heliograph.storage.protocols import LineFilter, LogLine
from heliograph.storage.sql.queries import payload_size, within_bytes
from heliograph.storage.sql.schema import events


def read_lines(
    connection: Connection,
    kind: Kind[Any],
    name: str,
    first_seq: int,
    last_seq: int | None,
    limit: int,
    newest: bool,
    wanted: LineFilter,
) -> tuple[Sequence[LogLine], bool]:
    """Read an entity's lines of output in a range of ``seq`` (inclusive), in order; tell whether it has more.

    Returns fewer than ``limit`` when they reach ``PAGE_BYTES``; none only when there are none.
    """
    where = [
        events.c.channel == f"{kind.family}:{name}",
        events.c.seq >= first_seq,
        events.c.topic == kind.lines,
    ]
    if last_seq is not None:
        where.append(events.c.seq <= last_seq)
    where += _narrowed(wanted, connection.dialect.name)
    found, more = within_bytes(
        connection,
        select(events.c.seq, events.c.id, events.c.timestamp, events.c.payload)
        .where(and_(*where))
        .order_by(events.c.seq.desc() if newest else events.c.seq)
        .limit(limit + 1),
        payload_size,
    )
    lines = [_line(row) for row in found[:limit]]
    return lines[::-1] if newest else lines, more or len(found) > limit


def _narrowed(wanted: LineFilter, dialect: str) -> list[ColumnElement[bool]]:
    where = []
    if wanted.stream is not None:
        where.append(func.coalesce(_field("stream", dialect), "stdout") == wanted.stream)
    if wanted.text is not None:
        pattern = "%" + re.sub("([%_!])", r"!\1", wanted.text) + "%"
        output = _field("output", dialect)
        # SQLite's LIKE ignores the case of ASCII letters by itself, without a call for every line.
        where.append(output.like(pattern, "!") if dialect == "sqlite" else output.ilike(pattern, "!"))
    return where


def _field(name: str, dialect: str) -> ColumnElement[str]:
    """Return a text in the payload."""
    if dialect == "sqlite":
        return func.json_extract(events.c.payload, f"$.{name}", type_=Text)
    return cast(events.c.payload, JSON).op("->>", return_type=Text())(name)


def _line(row: Row[Any]) -> LogLine:
    payload = orjson.loads(row.payload)
    return LogLine(
        seq=row.seq,
        id=EventId(row.id),
        timestamp=row.timestamp,
        stream=payload.get("stream") or "stdout",
        output=payload["output"],
        partial=payload.get("partial") is True,
        rewind=payload.get("rewind") is True,
    )
