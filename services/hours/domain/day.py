"""Civil days: where an interval of service is cut at midnight. The zone is an argument; instants are UTC. No clock, no IO."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final

_MINUTE: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class CivilDay:
    """One day on the bureau's wall calendar, and the instants at which it begins and ends."""

    on: date
    begins: datetime
    ends: datetime

    def holds(self, starts_at: datetime, ends_at: datetime) -> bool:
        """Whether an interval lies within the day; it may end at midnight."""
        return self.begins <= starts_at and ends_at <= self.ends


@dataclass(frozen=True, slots=True)
class Served:
    """An interval of service within one civil day."""

    day: CivilDay
    starts_at: datetime
    ends_at: datetime


def civil_day(on: date, zone: tzinfo) -> CivilDay:
    """The day `on` as the zone has it."""
    return CivilDay(on, _midnight(on, zone), _midnight(on + timedelta(days=1), zone))


def day_of(instant: datetime, zone: tzinfo) -> CivilDay:
    """The day that `instant` falls on."""
    return civil_day(instant.astimezone(zone).date(), zone)


def split_at_midnight(starts_at: datetime, ends_at: datetime, zone: tzinfo) -> Sequence[Served]:
    """The parts of an interval by civil day, in order. A part of less than a minute counts nothing and is left out."""
    parts: list[Served] = []
    while starts_at < ends_at:
        day = day_of(starts_at, zone)
        until = min(ends_at, day.ends)
        if minutes_between(starts_at, until) > 0:
            parts.append(Served(day, starts_at, until))
        starts_at = until
    return parts


def minutes_between(starts_at: datetime, ends_at: datetime) -> int:
    """Whole minutes, rounded down: what is not a full minute is not credited (domain.md 1.9)."""
    return max((ends_at - starts_at) // _MINUTE, 0)


def _midnight(on: date, zone: tzinfo) -> datetime:
    return datetime.combine(on, time(), zone).astimezone(UTC)
