from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.model.analytics.rollup import slot_start
from heliograph.model.analytics.timeline import (
    GRANULARITIES,
    MAX_BUCKETS,
    Range,
    buckets,
    make_range,
    parse_moment,
    parse_zone,
)
from heliograph.model.errors import Invalid

NOW = datetime(2026, 3, 1, 12, 7, 30, tzinfo=UTC)


def _cut(start: str, end: str, granularity: str, zone_name: str) -> list[tuple[str, float]]:
    zone = parse_zone(zone_name)
    span = make_range(parse_moment(start, NOW, zone, "from"), parse_moment(end, NOW, zone, "to"))
    return [(bucket.start, (bucket.last - bucket.first) / 4) for bucket in buckets(span, granularity, zone)]


def test_days_have_23_and_25_hours_when_the_clocks_change() -> None:
    """A day is as long as the zone's clocks make it."""
    assert _cut("2026-03-28", "2026-03-31", "day", "Europe/Berlin") == [
        ("2026-03-28T00:00:00+01:00", 24),
        ("2026-03-29T00:00:00+01:00", 23),
        ("2026-03-30T00:00:00+02:00", 24),
    ]
    assert _cut("2026-10-25", "2026-10-26", "day", "Europe/Berlin") == [("2026-10-25T00:00:00+02:00", 25)]


def test_the_repeated_hour_is_two_buckets() -> None:
    """When an hour comes twice, each has its own bucket, told apart by the offset."""
    starts = [start for start, _ in _cut("2026-10-25T01:00", "2026-10-25T04:00", "hour", "Europe/Berlin")]
    assert starts == [
        "2026-10-25T01:00:00+02:00",
        "2026-10-25T02:00:00+02:00",
        "2026-10-25T02:00:00+01:00",
        "2026-10-25T03:00:00+01:00",
    ]


def test_half_hour_zones_and_half_hour_changes() -> None:
    """Hours begin where the local clock shows a full hour, even if the clocks change by half of one."""
    assert _cut("2026-01-01T05:00+05:30", "2026-01-01T07:00+05:30", "hour", "Asia/Kolkata") == [
        ("2026-01-01T05:00:00+05:30", 1),
        ("2026-01-01T06:00:00+05:30", 1),
    ]
    assert _cut("2026-04-05T01:00", "2026-04-05T03:00", "hour", "Australia/Lord_Howe") == [
        ("2026-04-05T01:00:00+11:00", 1),
        ("2026-04-05T01:30:00+10:30", 0.5),
        ("2026-04-05T02:00:00+10:30", 1),
    ]
    assert _cut("2016-05-01T02:00-04:30", "2016-05-01T04:00-04:00", "hour", "America/Caracas") == [
        ("2016-05-01T02:00:00-04:30", 0.5),
        ("2016-05-01T03:00:00-04:00", 1),
    ]


def test_a_skipped_day_has_no_bucket_and_a_skipped_midnight_no_gap() -> None:
    """A day that a zone skipped is left out; a day without a midnight begins when its clocks jump."""
    days = [start[:10] for start, _ in _cut("2011-12-29", "2012-01-01", "day", "Pacific/Apia")]
    assert days == ["2011-12-29", "2011-12-31"]
    assert _cut("2018-11-03", "2018-11-06", "day", "America/Sao_Paulo") == [
        ("2018-11-03T00:00:00-03:00", 24),
        ("2018-11-04T01:00:00-02:00", 23),
        ("2018-11-05T00:00:00-02:00", 24),
    ]


def test_weeks_begin_on_monday_and_months_on_the_first() -> None:
    """The first and last buckets are cut to the range."""
    assert [start[:10] for start, _ in _cut("2026-01-15", "2026-02-03", "week", "Asia/Kathmandu")] == [
        "2026-01-15",
        "2026-01-19",
        "2026-01-26",
        "2026-02-02",
    ]
    assert _cut("2026-01-15", "2026-03-02", "month", "UTC") == [
        ("2026-01-15T00:00:00+00:00", 17 * 24),
        ("2026-02-01T00:00:00+00:00", 28 * 24),
        ("2026-03-01T00:00:00+00:00", 24),
    ]


slots = st.integers(0, 2_500_000)


@given(
    slots,
    st.integers(1, 2000),
    st.sampled_from(GRANULARITIES),
    st.sampled_from(sorted(available_timezones())),
)
def test_buckets_leave_no_gap_and_follow_the_clock(
    first: int, length: int, granularity: str, zone_name: str
) -> None:
    """Buckets tile the range exactly, none is empty, and each begins where the local label changes."""
    zone = parse_zone(zone_name)
    made = buckets(Range(first, first + length), granularity, zone)
    assert made[0].first == first
    assert made[-1].last == first + length
    for one, following in pairwise(made):
        assert one.first < one.last == following.first
    for bucket in made:
        assert bucket.start == slot_start(bucket.first).astimezone(zone).isoformat()
        assert bucket.start.endswith(bucket.utc_offset)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("now", NOW),
        ("-90m", NOW - timedelta(minutes=90)),
        ("-24h", NOW - timedelta(hours=24)),
        ("+1w", NOW + timedelta(weeks=1)),
        ("2026-01-31", datetime(2026, 1, 30, 23, tzinfo=UTC)),
        ("2026-07-31T10:00", datetime(2026, 7, 31, 8, tzinfo=UTC)),
        ("2026-07-31T10:00Z", datetime(2026, 7, 31, 10, tzinfo=UTC)),
        ("2026-07-31T10:00:00 02:00", datetime(2026, 7, 31, 8, tzinfo=UTC)),
    ],
)
def test_moments_are_read_in_the_zone(text: str, moment: datetime) -> None:
    """Relative moments count from now; times without an offset are the zone's; a lost plus is understood."""
    assert parse_moment(text, NOW, parse_zone("Europe/Berlin"), "from") == moment


@pytest.mark.parametrize("text", ["", "yesterday", "-5y", "1969-12-31", "9999-01-01", "-999999w", "24"])
def test_other_moments_are_refused(text: str) -> None:
    """Whatever is no moment is answered by the field's name and the forms that exist."""
    with pytest.raises(Invalid, match=r"^from: must be an ISO 8601 time"):
        parse_moment(text, NOW, parse_zone("UTC"), "from")


@pytest.mark.parametrize("name", ["", "Mars/Base", "Europe", "../etc/passwd", "europe berlin", "UTC\0"])
def test_unknown_zones_are_refused(name: str) -> None:
    """Only names of the IANA database are zones."""
    with pytest.raises(Invalid, match=r"^tz: must be an IANA time zone"):
        parse_zone(name)


def test_ranges_are_widened_to_whole_slots() -> None:
    """A range includes the quarter hours that it touches."""
    span = make_range(NOW, NOW + timedelta(minutes=15))
    assert slot_start(span.first) == NOW.replace(minute=0, second=0)
    assert slot_start(span.last) == NOW.replace(minute=30, second=0)
    assert span.previous == Range(span.first - 2, span.first)


def test_impossible_ranges_are_refused() -> None:
    """A range must not be empty, and not of more buckets than allowed."""
    with pytest.raises(Invalid, match=r"^from: must be before to"):
        make_range(NOW, NOW)
    with pytest.raises(Invalid, match=rf"^granularity: 15m would make more than {MAX_BUCKETS}"):
        buckets(Range(0, MAX_BUCKETS + 1), "15m", parse_zone("UTC"))
    assert len(buckets(Range(0, MAX_BUCKETS), "15m", parse_zone("UTC"))) == MAX_BUCKETS
