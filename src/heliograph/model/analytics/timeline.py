"""Ranges of time, cut into buckets by the wall clock of a time zone.

An hour begins when the zone's clocks show a full hour; a day, a week (on Monday) or a month begins at the
first moment with its date. So a day has 23 or 25 hours when the clocks change, the hour that is repeated in
autumn is two buckets, in a half-hour zone hours begin at :30 UTC, and a day that a zone skipped altogether
has no bucket. Buckets leave no gaps and never overlap; the first and last are cut to the range.

All bounds are on the 15-minute slots of ``model.analytics.rollup``: ranges are widened to whole slots, and
the few offsets of the 1970s that were not multiples of 15 minutes are rounded down to one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import count
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import attrs

from heliograph.model.analytics.rollup import SLOT_MINUTES, slot_of, slot_start
from heliograph.model.errors import Invalid
from heliograph.model.ids import EPOCH, parse_time

GRANULARITIES = ("15m", "hour", "day", "week", "month")
MAX_BUCKETS = 5000
HOUR = 60 // SLOT_MINUTES
"""Slots in an hour."""

TIME_HELP = (
    "must be an ISO 8601 time or date (taken in tz when it has no offset), now, or relative to now such as "
    "-90m, -24h, -7d or -4w"
)

_RELATIVE = re.compile(r"([+-]?)(\d{1,6})(m|h|d|w)", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_ZONE = re.compile(r"[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+)*", re.ASCII)
_UNESCAPED_PLUS = re.compile(r"(:\d\d(?:\.\d+)?) (\d\d:?\d\d)$", re.ASCII)


@attrs.frozen
class Bucket:
    """One bucket of a range.

    Args:
        first: Its first slot.
        last: The slot after its last one.
        start: Its beginning, in ISO 8601 by the zone's clock, with the offset of that moment.
        end: The beginning of the next bucket, in the same form.
        utc_offset: The offset at its start, such as ``+02:00``.
    """

    first: int
    last: int
    start: str
    end: str
    utc_offset: str


@attrs.frozen
class Range:
    """A range of time in whole slots; ``last`` is the slot after it."""

    first: int
    last: int

    @property
    def previous(self) -> Range:
        """The range of equal length that ends where this one begins; it does not reach before 1970."""
        return Range(max(0, 2 * self.first - self.last), self.first)


def parse_zone(text: str, field: str = "tz") -> ZoneInfo:
    """Find a time zone by its IANA name.

    Raises:
        Invalid: There is none of that name; the error names ``field``.
    """
    if _ZONE.fullmatch(text):
        try:
            return ZoneInfo(text)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            pass  # unknown, no zone file, or a folder of them such as Europe
    raise Invalid.field(field, "must be an IANA time zone, such as UTC, Europe/Berlin or Asia/Kolkata")


def parse_moment(text: str, now: datetime, zone: ZoneInfo, field: str) -> datetime:
    """Parse a moment: ISO 8601, ``now``, or relative to now.

    Args:
        text: The text as it came in a query; an offset's ``+`` may have become a space.
        now: The current time, aware.
        zone: The zone of a time or date without an offset.
        field: The name of the field in the error.

    Raises:
        Invalid: It has none of these forms, or is not between the years 1970 and 9998.
    """
    if text == "now":
        return now.astimezone(UTC)
    relative = _RELATIVE.fullmatch(text)
    try:
        if relative:
            sign = 1 if relative[1] == "+" else -1
            moment = now + sign * timedelta(**{_UNITS[relative[3]]: int(relative[2])})
            return parse_time(moment.isoformat(), field)
        iso = _UNESCAPED_PLUS.sub(r"\1+\2", text)
        moment = datetime.fromisoformat(iso)
        if moment.tzinfo is None:
            iso = moment.replace(tzinfo=zone).astimezone(UTC).isoformat()
        return parse_time(iso, field)
    except (ValueError, OverflowError, Invalid):
        raise Invalid.field(field, TIME_HELP) from None


def make_range(start: datetime, end: datetime, field: str = "from") -> Range:
    """Widen a range of time to whole slots.

    Raises:
        Invalid: It ends where it begins, or before; the error names ``field``.
    """
    if start >= end:
        raise Invalid.field(field, f"must be before to, which is {end.isoformat()}")
    return Range(slot_of(start), slot_of(end - timedelta(microseconds=1)) + 1)


@lru_cache(maxsize=64)
def buckets(span: Range, granularity: str, zone: ZoneInfo) -> Sequence[Bucket]:
    """Cut a range into buckets.

    Raises:
        Invalid: There would be more than ``MAX_BUCKETS``.
    """
    made: list[Bucket] = []
    first = span.first
    for edge in _edges(span.first, granularity, zone):
        if edge <= first:
            continue
        made.append(_bucket(first, min(edge, span.last), zone))
        if edge >= span.last:
            return tuple(made)
        first = edge
        if len(made) == MAX_BUCKETS:
            break
    raise Invalid.field(
        "granularity",
        f"{granularity} would make more than {MAX_BUCKETS} buckets of this range; take a coarser one "
        f"({', '.join(GRANULARITIES)}) or a shorter range",
    )


def about_buckets(span: Range, granularity: str) -> int:
    """Return about how many buckets a range makes; no less than it does, but for a few at its ends."""
    slots = {"15m": 1, "hour": HOUR}.get(granularity, 23 * HOUR)
    return (span.last - span.first) // slots


def _bucket(first: int, last: int, zone: ZoneInfo) -> Bucket:
    start = slot_start(first).astimezone(zone).isoformat()
    end = slot_start(last).astimezone(zone).isoformat()
    return Bucket(first, last, start, end, start[19:])


def _edges(first: int, granularity: str, zone: ZoneInfo) -> Iterator[int]:
    """Yield the beginnings of buckets, from about ``first`` on, in order."""
    match granularity:
        case "15m":
            yield from count(first)
        case "hour":
            yield from _hours(first, zone)
        case _:
            yield from _dates(slot_start(first), granularity, zone)


def _hours(slot: int, zone: ZoneInfo) -> Iterator[int]:
    offset = _offset(slot, zone)
    while True:
        after = slot + HOUR - (slot + offset) % HOUR
        changed = _offset(after, zone)
        if (changed - offset) % HOUR:
            # After a change of half an hour the next full hour comes at another moment.
            after = next(later for later in count(slot + 1) if _offset(later, zone) != offset)
            changed = _offset(after, zone)
        slot, offset = after, changed
        yield slot


def _dates(moment: datetime, granularity: str, zone: ZoneInfo) -> Iterator[int]:
    day = moment.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    while True:
        if granularity == "day":
            day += timedelta(days=1)
        elif granularity == "week":
            day += timedelta(days=7 - day.weekday())
        else:
            day = (day.replace(day=1) + timedelta(days=31)).replace(day=1)
        # fold=0 takes the first of two midnights; where the clocks skip midnight, it is the moment they do
        yield slot_of(max(EPOCH, day.replace(tzinfo=zone, fold=0).astimezone(UTC)))


def _offset(slot: int, zone: ZoneInfo) -> int:
    """Return a zone's offset at the beginning of a slot, in slots."""
    moment = slot_start(slot).astimezone(zone).utcoffset() or timedelta()
    return moment // timedelta(minutes=SLOT_MINUTES)
