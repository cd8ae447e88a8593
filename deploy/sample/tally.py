"""The player's own count of the year: plain sums over what was answered, which the services' figures must equal in the end.

It shares no rule with the services: minutes are cut at midnight and capped by the day here once more.
"""

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Any, Final
from uuid import UUID, uuid5
from zoneinfo import ZoneInfo

from deploy.sample.player import SampleError

ZONE: Final = ZoneInfo("Asia/Shanghai")
DAY_MINUTES_MAX: Final = 480
STAR_MINUTES: Final = (100 * 60, 300 * 60, 600 * 60, 1000 * 60, 1500 * 60)


@dataclass(frozen=True, slots=True)
class Stretch:
    """What one pair of check-in and check-out served on one civil day."""

    volunteer: UUID
    activity: UUID
    on: date
    starts_at: datetime
    ends_at: datetime

    @property
    def entry_id(self) -> UUID:
        """As hours makes it: attendance (activity, volunteer), then pair and day."""
        return uuid5(uuid5(self.activity, str(self.volunteer)), f"1/{self.on.isoformat()}")

    @property
    def minutes(self) -> int:
        return int((self.ends_at - self.starts_at).total_seconds()) // 60


def stretches(volunteer: UUID, activity: UUID, starts_at: datetime, ends_at: datetime) -> Iterator[Stretch]:
    """An attendance by civil day."""
    while starts_at < ends_at:
        on = starts_at.astimezone(ZONE).date()
        until = min(ends_at, datetime.combine(on + timedelta(days=1), time(), ZONE))
        yield Stretch(volunteer, activity, on, starts_at, until)
        starts_at = until


@dataclass
class Tally:
    """What should stand in the services."""

    counted: dict[UUID, Stretch] = field(default_factory=dict)
    pending: set[UUID] = field(default_factory=set)
    """Entries that nobody has decided on."""
    seats: dict[UUID, set[UUID]] = field(default_factory=lambda: defaultdict(set))
    outcomes: Counter[str] = field(default_factory=Counter)
    held: dict[UUID, int] = field(default_factory=dict)
    """Stars by volunteer; nobody without one."""
    star_outcomes: Counter[str] = field(default_factory=Counter)
    volunteers: set[UUID] = field(default_factory=set)

    def days(self, volunteer: UUID) -> Counter[date]:
        """Minutes that count, by day and before the cap."""
        served = Counter[date]()
        for each in self.counted.values():
            if each.volunteer == volunteer:
                served[each.on] += each.minutes
        return served

    def credited(self, volunteer: UUID) -> int:
        """Minutes up to the daily cap."""
        return sum(min(minutes, DAY_MINUTES_MAX) for minutes in self.days(volunteer).values())

    def over_cap(self, volunteer: UUID) -> int:
        """Minutes above it."""
        return sum(max(minutes - DAY_MINUTES_MAX, 0) for minutes in self.days(volunteer).values())

    def count(self, stretch: Stretch) -> None:
        """Confirmed, or corrected to this."""
        self.counted[stretch.entry_id] = stretch
        self.pending.discard(stretch.entry_id)
        self._let_stars_go(stretch.volunteer)

    def drop(self, stretch: Stretch) -> None:
        """Reversed."""
        self.counted.pop(stretch.entry_id, None)
        self.pending.discard(stretch.entry_id)
        self._let_stars_go(stretch.volunteer)

    def may_have_star(self, volunteer: UUID) -> bool:
        """Whether the next star is paid for."""
        return self.credited(volunteer) >= STAR_MINUTES[self.held.get(volunteer, 0)]

    def _let_stars_go(self, volunteer: UUID) -> None:
        while (held := self.held.get(volunteer, 0)) and self.credited(volunteer) < STAR_MINUTES[held - 1]:
            self.star_outcomes["withdrawn"] += 1
            if held == 1:
                del self.held[volunteer]
            else:
                self.held[volunteer] = held - 1


Rows = Callable[[str, str], Awaitable[Sequence[Mapping[str, Any]]]]
"""All rows of a query: (service, path below `/api/v1`)."""


async def compare(tally: Tally, rows: Rows) -> Mapping[str, int]:
    """Holds the count against the services' own queries. The figures of the year; raises SampleError that names the differences."""
    wrong: list[str] = []

    def same(what: str, shown: Any, counted: Any) -> None:
        if shown != counted:
            wrong.append(f"{what}: the service shows {shown}, the count is {counted}")

    balances = await rows("hours", "/balances")
    credited, over_cap = Counter[UUID](), Counter[UUID]()
    for row in balances:
        who = UUID(row["volunteer_id"])
        credited[who] += row["timed_minutes"] + row["back_entered_minutes"] + row["transferred_minutes"]
        over_cap[who] += row["over_cap_minutes"]
    served = {each.volunteer for each in tally.counted.values()}
    for who in tally.volunteers | set(credited):
        same(f"minutes of {who}", credited[who], tally.credited(who))
        same(f"minutes over the cap of {who}", over_cap[who], tally.over_cap(who))

    queue = {UUID(row["entry_id"]) for row in await rows("hours", "/confirm-queue")}
    same("entries that wait for approval", queue, tally.pending)

    activities = await rows("registration", "/activities")
    same("activities", len(activities), len(tally.seats))
    for row in activities:
        seated = tally.seats.get(UUID(row["activity_id"]), set())
        same(f"seats of activity {row['activity_id']}", row["taken"], len(seated))
    same("activities by state", +Counter(row["state"] for row in activities), +tally.outcomes)

    for row in await rows("registration", "/volunteer-overview"):
        who = UUID(row["volunteer_id"])
        same(f"minutes of {who} in the overview", row["timed_minutes"], tally.credited(who))
        same(f"stars of {who} in the overview", row["stars"], tally.held.get(who, 0))

    stars = await rows("recognition", "/stars")
    shown = Counter(UUID(row["volunteer_id"]) for row in stars)
    same("volunteers with stars", dict(shown), tally.held)
    history = await rows("recognition", "/star-history")
    same("star decisions", Counter(row["outcome"] for row in history), +tally.star_outcomes)
    if wrong:
        raise SampleError("; ".join(wrong[:10]) + (f"; and {len(wrong) - 10} more" if len(wrong) > 10 else ""))
    return {
        "volunteers": len(tally.volunteers),
        "activities": len(activities),
        "seats taken": sum(len(seated) for seated in tally.seats.values()),
        "people who served": len(served),
        "hours": sum(credited.values()) // 60,
        "entries to approve": len(queue),
        "stars": len(stars),
    }
