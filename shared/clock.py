"""Where `now` comes from: an argument for everything that decides.

`system` everywhere; `travel` only in the local stack and in tests (architecture, section 7). The travelling clock is a
row in the service's database, so its reader lives with the event store; this module holds the type and civil dates.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, time
from typing import Final
from zoneinfo import ZoneInfo

Clock = Callable[[], Awaitable[datetime]]
"""Gives the present instant in UTC."""

CIVIL_ZONE: Final = ZoneInfo("Asia/Shanghai")
"""Civil dates and working days of the bureau; instants are UTC."""


async def system_clock() -> datetime:
    """The machine's instant, UTC."""
    return datetime.now(UTC)


def civil_date(instant: datetime) -> date:
    """The day on the bureau's wall calendar at `instant`."""
    return instant.astimezone(CIVIL_ZONE).date()


def civil_midnight(day: date) -> datetime:
    """The UTC instant at which `day` begins in the bureau."""
    return datetime.combine(day, time(), CIVIL_ZONE).astimezone(UTC)
