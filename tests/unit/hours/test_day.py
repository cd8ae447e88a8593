"""Where an interval is cut at midnight in Asia/Shanghai, and how its minutes are counted."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.hours.domain.day import civil_day, day_of, minutes_between, split_at_midnight
from shared.clock import CIVIL_ZONE, civil_date, civil_midnight
from tests.unit.hours.scenes import at

INSTANTS = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def test_a_day_begins_at_sixteen_hours_utc_of_the_day_before() -> None:
    day = civil_day(date(2017, 1, 1), CIVIL_ZONE)
    assert (day.begins, day.ends) == (datetime(2016, 12, 31, 16, tzinfo=UTC), datetime(2017, 1, 1, 16, tzinfo=UTC))
    assert day_of(datetime(2016, 12, 31, 16, tzinfo=UTC), CIVIL_ZONE) == day
    assert day_of(datetime(2016, 12, 31, 15, 59, 59, tzinfo=UTC), CIVIL_ZONE).on == date(2016, 12, 31)


def test_a_night_over_new_year_is_two_days_of_two_years() -> None:
    parts = split_at_midnight(at(22, 30, day=date(2017, 12, 31)), at(1, 15, day=date(2018, 1, 1)), CIVIL_ZONE)
    assert [(each.day.on, minutes_between(each.starts_at, each.ends_at)) for each in parts] == [
        (date(2017, 12, 31), 90),
        (date(2018, 1, 1), 75),
    ]


def test_an_interval_that_ends_at_midnight_stays_in_its_day() -> None:
    (part,) = split_at_midnight(at(23), at(0, day=date(2017, 3, 23)), CIVIL_ZONE)
    assert part.day.on == date(2017, 3, 22)
    assert part.day.holds(part.starts_at, part.ends_at)


def test_less_than_a_minute_counts_nothing() -> None:
    assert split_at_midnight(at(9), at(9, 0, 59), CIVIL_ZONE) == []
    assert minutes_between(at(9, 0, 30), at(10, 0, 29)) == 59
    assert minutes_between(at(10), at(9)) == 0


@given(INSTANTS, st.timedeltas(timedelta(0), timedelta(days=3)))
def test_the_parts_lie_within_their_days_follow_one_another_and_never_count_more_than_the_whole(start: datetime, length: timedelta) -> None:
    parts = split_at_midnight(start, start + length, CIVIL_ZONE)
    for each in parts:
        assert each.day.on == civil_date(each.starts_at)
        assert each.day.begins == civil_midnight(each.day.on)
        assert each.day.holds(each.starts_at, each.ends_at)
    assert all(one.ends_at <= other.starts_at for one, other in pairwise(parts))
    counted = sum(minutes_between(each.starts_at, each.ends_at) for each in parts)
    assert 0 <= minutes_between(start, start + length) - counted <= 3  # Less than a minute is lost at each end of a day.
