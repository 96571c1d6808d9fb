"""Event ids, which are also the cursors.

An id is written ``<milliseconds>-<sequence>`` and ordered over the whole deployment. Inside the
process and in every database it is one 64-bit integer, ``milliseconds << 20 | sequence``: it compares
and indexes as fast as a number can, fits SQLite's rowid and PostgreSQL's bigint, and leaves room for
a million events in a millisecond and for times up to the year 2248.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import NewType

from heliograph.model.errors import Invalid

EventId = NewType("EventId", int)

SEQUENCE_BITS = 20
SEQUENCE_LIMIT = 1 << SEQUENCE_BITS
MILLISECONDS_LIMIT = 1 << (63 - SEQUENCE_BITS)

OLDEST = EventId(0)
"""``0-0``: before every event, so "from the oldest kept"."""

NEWEST = EventId((1 << 63) - 1)
"""The greatest id there can be."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

ID = r"(\d{1,14})-(\d{1,7})"
_ID = re.compile(ID, re.ASCII)


def make_id(milliseconds: int, sequence: int = 0) -> EventId:
    """Pack an id from its two parts."""
    return EventId(milliseconds << SEQUENCE_BITS | sequence)


def format_id(event_id: int) -> str:
    """Write an id as ``<milliseconds>-<sequence>``."""
    return f"{event_id >> SEQUENCE_BITS}-{event_id & SEQUENCE_LIMIT - 1}"


def format_ids(event_ids: Iterable[int]) -> list[str]:
    """Write ids as ``format_id`` does, without a call for each: an answer may have 20,000."""
    return [f"{one >> SEQUENCE_BITS}-{one & SEQUENCE_LIMIT - 1}" for one in event_ids]


def parse_id(text: str, field: str = "cursor") -> EventId:
    """Parse an id or cursor in the form of ``format_id``.

    Raises:
        Invalid: The text is not of that form, or out of range; the error names ``field``.
    """
    match = _ID.fullmatch(text)
    if match:
        milliseconds, sequence = int(match[1]), int(match[2])
        if milliseconds < MILLISECONDS_LIMIT and sequence < SEQUENCE_LIMIT:
            return make_id(milliseconds, sequence)
    raise Invalid.field(field, "must be a cursor of the form <milliseconds>-<sequence>, such as 0-0")


def time_of(event_id: int) -> datetime:
    """Return the moment in an id, in UTC, to the millisecond."""
    return EPOCH + timedelta(milliseconds=event_id >> SEQUENCE_BITS)


def to_microseconds(moment: datetime) -> int:
    """Return an aware datetime as whole microseconds since the epoch: how times are stored."""
    return (moment - EPOCH) // MICROSECOND


def from_microseconds(microseconds: int) -> datetime:
    """Turn stored microseconds back into an aware UTC datetime."""
    return EPOCH + timedelta(microseconds=microseconds)


def parse_time(text: str, field: str) -> datetime:
    """Parse an ISO 8601 time; one without an offset is taken as UTC, and a date as its midnight.

    Raises:
        Invalid: The text is not a time, or not between the years 1970 and 9998; the error names ``field``.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is not None and 1970 <= moment.year < 9999:
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        if moment >= EPOCH:
            return moment
    raise Invalid.field(field, "must be an ISO 8601 time, such as 2026-01-31T12:00:00Z")


def is_time(text: str) -> bool:
    """Tell whether the text of a position is meant as an ISO time, or date, and not as a cursor."""
    return "T" in text or ":" in text or text.count("-") > 1


def parse_position(text: str, field: str) -> EventId:
    """Parse a position in the log: a cursor, or an ISO time (then: everything from that moment on).

    Raises:
        Invalid: It is neither; the error names ``field``.
    """
    if is_time(text):
        moment = parse_time(text, field)
        return EventId(min(max(OLDEST, make_id(to_microseconds(moment) // 1000) - 1), NEWEST))
    return parse_id(text, field)
