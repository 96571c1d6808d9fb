"""Lines of output: the events of an entity's channel that are read by range of ``seq``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import orjson
from sqlalchemy import JSON, ColumnElement, Connection, Text, bindparam, cast, func, literal, select
from sqlalchemy.dialects.postgresql import aggregate_order_by

from heliograph.model.ids import from_microseconds
from heliograph.model.kind import Kind
from heliograph.storage.protocols import LineFilter, LogLine, LogText
from heliograph.storage.sql.pages import PAGE_BYTES, Paged, Raw, asked_of, within_bytes
from heliograph.storage.sql.prepared import Prepared
from heliograph.storage.sql.schema import events

LAST = 2**62
"""A ``seq`` that no line reaches."""


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
    values: dict[str, Any] = {
        "channel": f"{kind.family}:{name}",
        "topic": kind.lines,
        "first": first_seq,
        "last": LAST if last_seq is None else last_seq,
        "most": limit + 1,
    }
    if wanted.text is not None:
        values["text"] = "%" + re.sub("([%_!])", r"!\1", wanted.text) + "%"
    if wanted.stream is not None:
        values["stream"] = wanted.stream
    asked = _asked(connection.dialect.name, newest, wanted.text is not None, wanted.stream is not None)
    found, more = within_bytes(connection, asked, values)
    lines = _lines(found[:limit])
    return lines[::-1] if newest else lines, more or len(found) > limit


TEXT_LINES = 8000
TEXT_CHARACTERS = PAGE_BYTES
"""The largest page of text; the database joins a page, so it is measured before."""


def read_text(connection: Connection, kind: Kind[Any], name: str, first_seq: int) -> LogText | None:
    """Read many lines of output at once as text, from ``first_seq`` on; ``None`` if there are none.

    The database joins their payloads, which are decoded as one. The text is ``None`` if some lines are
    marked, or the page is too large: then they must be read as lines.
    """
    values = {"channel": f"{kind.family}:{name}", "topic": kind.lines, "first": first_seq}
    ((size, last),) = MEASURED.rows(connection, values)
    if last is None:
        return None
    if size > TEXT_CHARACTERS:
        return LogText(None, last)
    ((joined,),) = _joined(connection.dialect.name).fetch(connection, **values)
    if '"partial"' in joined or '"rewind"' in joined:
        return LogText(None, last)
    texts = [payload["output"] for payload in orjson.loads(f"[{joined}]")]
    text = "".join([text if text.endswith("\n") else f"{text}\n" for text in texts])
    return LogText(text.encode(), last)


PAGE = (
    select(events.c.seq, events.c.payload)
    .where(
        events.c.channel == bindparam("channel"),
        events.c.seq >= bindparam("first"),
        events.c.topic == bindparam("topic"),
    )
    .order_by(events.c.seq)
    .limit(TEXT_LINES)
    .subquery()
)
MEASURED = Prepared(select(func.sum(func.length(PAGE.c.payload)), func.max(PAGE.c.seq)))


@cache
def _joined(dialect: str) -> Prepared:
    if dialect == "sqlite":
        return Prepared(select(func.group_concat(PAGE.c.payload, ",")))
    return Prepared(select(func.string_agg(PAGE.c.payload, aggregate_order_by(literal(","), PAGE.c.seq))))


@cache
def _asked(dialect: str, newest: bool, by_text: bool, by_stream: bool) -> Paged:
    where = [
        events.c.channel == bindparam("channel"),
        events.c.seq >= bindparam("first"),
        events.c.seq <= bindparam("last"),
        events.c.topic == bindparam("topic"),
    ]
    if by_stream:
        where.append(func.coalesce(_field("stream", dialect), "stdout") == bindparam("stream", type_=Text))
    if by_text:
        pattern, output = bindparam("text", type_=Text), _field("output", dialect)
        # SQLite's LIKE ignores the case of ASCII letters by itself, so ``lower`` need not be called per line.
        where.append(output.like(pattern, "!") if dialect == "sqlite" else output.ilike(pattern, "!"))
    statement = select(events.c.seq, events.c.id, events.c.timestamp, events.c.payload).where(*where)
    return asked_of(statement, [events.c.seq.desc() if newest else events.c.seq], ("payload",))


def _field(name: str, dialect: str) -> ColumnElement[str]:
    """Return the expression for a text field of the payload."""
    if dialect == "sqlite":
        return func.json_extract(events.c.payload, f"$.{name}", type_=Text)
    return cast(events.c.payload, JSON).op("->>", return_type=Text())(name)


def _lines(rows: Sequence[Raw]) -> list[LogLine]:
    payloads = orjson.loads(f"[{','.join([row[3] for row in rows])}]")
    return [
        LogLine(
            seq,
            event_id,
            from_microseconds(timestamp),
            payload.get("stream") or "stdout",
            payload["output"],
            payload.get("partial") is True,
            payload.get("rewind") is True,
        )
        for (seq, event_id, timestamp, _), payload in zip(rows, payloads, strict=True)
    ]
