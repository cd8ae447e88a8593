"""Working days of the bureau: weekends, public holidays and the days worked in their place (chinesecalendar)."""

from datetime import date, timedelta
from typing import Final

import chinese_calendar

_DAY: Final = timedelta(days=1)


def is_working_day(day: date) -> bool:
    """Whether `day` is worked, make-up days counted.

    A year whose holidays are not yet in the library (they are announced each November) falls back to Monday to Friday.
    """
    try:
        return bool(chinese_calendar.is_workday(day))
    except NotImplementedError:
        return day.weekday() < 5


def working_day_after(day: date, count: int) -> date:
    """The `count`-th working day (from 1) after `day`, which itself never counts.

    Years that the library does not know count Monday to Friday; see `is_working_day`.
    """
    while count > 0:
        day += _DAY
        count -= is_working_day(day)
    return day
