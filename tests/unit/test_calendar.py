"""Working days of the bureau, holidays and make-up days counted."""

from datetime import date

from shared.calendar import is_working_day, working_day_after


def test_a_holiday_on_a_weekday_is_not_worked() -> None:
    assert not is_working_day(date(2017, 4, 4))  # Qingming, a Tuesday.


def test_a_weekend_day_that_makes_up_for_a_holiday_is_worked() -> None:
    assert is_working_day(date(2017, 4, 1))  # A Saturday, in exchange for Monday 3 April.


def test_the_day_itself_never_counts() -> None:
    assert working_day_after(date(2017, 3, 6), 1) == date(2017, 3, 7)


def test_working_days_step_over_a_holiday_and_land_on_make_up_days() -> None:
    assert working_day_after(date(2017, 3, 31), 1) == date(2017, 4, 1)
    assert working_day_after(date(2017, 4, 1), 1) == date(2017, 4, 5)
    assert working_day_after(date(2017, 3, 31), 5) == date(2017, 4, 10)


def test_a_year_whose_holidays_are_not_announced_counts_monday_to_friday() -> None:
    assert working_day_after(date(2099, 1, 2), 1) == date(2099, 1, 5)  # Friday to Monday.
    assert is_working_day(date(2099, 10, 1))
