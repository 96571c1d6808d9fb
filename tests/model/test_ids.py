from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.model import ids
from heliograph.model.errors import Invalid
from heliograph.model.ids import (
    EPOCH,
    MILLISECONDS_LIMIT,
    OLDEST,
    SEQUENCE_LIMIT,
    format_id,
    from_microseconds,
    make_id,
    parse_id,
    parse_position,
    parse_time,
    time_of,
    to_microseconds,
)

MILLISECONDS = st.integers(0, MILLISECONDS_LIMIT - 1)
SEQUENCES = st.integers(0, SEQUENCE_LIMIT - 1)
PARTS = st.tuples(MILLISECONDS, SEQUENCES)
MOMENTS = st.datetimes(
    datetime(1970, 1, 2),
    datetime(9998, 12, 30),
    timezones=st.timezones() | st.just(UTC),
    allow_imaginary=False,
)


def bad_fields(parse: Callable[[str, str], object], text: str, field: str) -> list[str]:
    """Return the fields that a parser refuses; any other exception passes."""
    try:
        parse(text, field)
    except Invalid as invalid:
        return [error.field for error in invalid.errors]
    return []


@given(PARTS)
def test_an_id_is_read_back_from_its_text(parts: tuple[int, int]) -> None:
    """Formatting and parsing an id gives the id back, and the text has its two parts."""
    made = make_id(*parts)
    assert format_id(made) == "{}-{}".format(*parts)
    assert parse_id(format_id(made)) == made
    assert made < 2**63


@given(st.lists(PARTS, min_size=2, max_size=20))
def test_ids_are_ordered_as_their_parts_are(several: list[tuple[int, int]]) -> None:
    """Ids compare as numbers in the order of time and, within a millisecond, of sequence."""
    for one, next_one in pairwise(sorted(several)):
        assert make_id(*one) < make_id(*next_one) or one == next_one


@given(st.text() | st.from_regex(r"\d{0,20}-?\d{0,20}"))
def test_any_text_is_an_id_or_names_its_field(text: str) -> None:
    """Text that is not a cursor is refused by an error that names the field, never by another exception."""
    assert bad_fields(parse_id, text, "after") in ([], ["after"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "5-",
        "-5",
        "-1-0",
        "1-0-0",
        " 1-0",
        "1-0\n",
        "\u0661-\u0660",
        "1_0-0",
        f"{MILLISECONDS_LIMIT}-0",
        f"0-{SEQUENCE_LIMIT}",
        "99999999999999-0",
        "1-0\0",
        "\ud800-0",
    ],
)
def test_a_forged_cursor_is_refused(text: str) -> None:
    """What only looks like a cursor, or lies out of range, is refused."""
    with pytest.raises(Invalid):
        parse_id(text)


def test_the_oldest_position_is_before_every_event() -> None:
    """``0-0`` parses to the position before the first event."""
    assert parse_id("0-0") == OLDEST < make_id(0, 1)


@given(PARTS)
def test_the_time_in_an_id_is_its_milliseconds(parts: tuple[int, int]) -> None:
    """The moment in an id is exact to the millisecond."""
    assert time_of(make_id(*parts)) == EPOCH + timedelta(milliseconds=parts[0])


@given(MOMENTS)
def test_microseconds_keep_a_moment_exactly(moment: datetime) -> None:
    """Storing a moment as microseconds and reading it gives the same moment, in UTC."""
    back = from_microseconds(to_microseconds(moment))
    assert back == moment.astimezone(UTC)  # across zones, Python calls no ambiguous time equal
    assert back.tzinfo is UTC


@given(MOMENTS)
def test_a_time_is_read_back_from_its_iso_form(moment: datetime) -> None:
    """Any moment in any zone is read from ISO 8601 and turned to UTC."""
    read = parse_time(moment.isoformat(), "timestamp")
    assert read == moment.astimezone(UTC)
    assert read.tzinfo is UTC


def test_a_time_without_an_offset_is_utc() -> None:
    """An ISO time that names no zone is taken as UTC."""
    assert parse_time("2026-03-29T02:30:00", "t") == datetime(2026, 3, 29, 2, 30, tzinfo=UTC)


def test_an_offset_is_applied() -> None:
    """A time with an offset is the same moment in UTC."""
    east = timezone(timedelta(hours=5, minutes=30))
    assert parse_time("2026-01-01T05:30:00+05:30", "t") == datetime(2026, 1, 1, 5, 30, tzinfo=east)


@given(st.text(max_size=40) | st.datetimes().map(datetime.isoformat))
def test_any_text_is_a_time_or_names_its_field(text: str) -> None:
    """Text that is no time, or one out of range, is refused by an error that names the field."""
    assert bad_fields(parse_time, text, "since") in ([], ["since"])


@pytest.mark.parametrize(
    "text", ["1969-12-31T23:59:59Z", "1970-01-01T00:00:00+01:00", "0001-01-01", "9999-12-31T23:59:59-12:00"]
)
def test_a_time_out_of_range_is_refused(text: str) -> None:
    """Times before the epoch or at the end of what dates can say are refused."""
    with pytest.raises(Invalid):
        parse_time(text, "t")


@given(PARTS)
def test_a_position_may_be_a_cursor(parts: tuple[int, int]) -> None:
    """A position written as a cursor is that cursor."""
    assert parse_position(format_id(make_id(*parts)), "after") == make_id(*parts)


@given(st.datetimes(datetime(1970, 1, 1), datetime(2248, 1, 1), timezones=st.just(UTC)))
def test_a_position_may_be_a_time(moment: datetime) -> None:
    """A position written as a time lies just before the events of that millisecond."""
    position = parse_position(moment.isoformat(), "after")
    milliseconds = to_microseconds(moment) // 1000
    assert position < make_id(milliseconds) or position == OLDEST
    if milliseconds:
        assert position >= make_id(milliseconds - 1, SEQUENCE_LIMIT - 1)


def test_a_position_may_be_a_date() -> None:
    """A date is its first moment in UTC."""
    assert parse_position("2026-01-31", "after") == parse_position("2026-01-31T00:00:00Z", "after")


def test_a_position_beyond_every_id_is_still_one() -> None:
    """A time later than ids can say gives a position that a database can compare with."""
    assert make_id(0) < parse_position("9998-01-01T00:00:00Z", "after") < 2**63


def test_ids_reach_far_enough() -> None:
    """Ids have room for two centuries and for a million events in a millisecond."""
    assert time_of(make_id(ids.MILLISECONDS_LIMIT - 1)).year > 2200
    assert ids.SEQUENCE_LIMIT >= 1_000_000
