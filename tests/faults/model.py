"""An independent count of what must be, in plain Python: it knows the rules as `domain.md` states them, and none of the project's code.

It is told what was answered, in the order of the log's positions, and says what that answer had to be. Minutes are integers; a day is a
civil day.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Literal
from uuid import UUID

DAILY_CAP = 480
OVER_AFTER = timedelta(minutes=120)
"""How long after the end a check-out is accepted."""


@dataclass
class Activity:
    """Seats of one position, the wait-list, and the time slot. `places` is in order of arrival."""

    activity_id: UUID
    starts_at: datetime
    ends_at: datetime
    capacity: int
    wait_list_max: int
    places: dict[UUID, Literal["seated", "offered", "waiting"]] = field(default_factory=dict)
    gone: dict[UUID, Literal["withdrawn", "expired"]] = field(default_factory=dict)

    def count(self, *standings: str) -> int:
        """How many stand so."""
        return sum(each in standings for each in self.places.values())

    def seated(self) -> list[UUID]:
        """Who has a seat."""
        return [who for who, standing in self.places.items() if standing == "seated"]

    def enroll(self, who: UUID) -> list[str]:
        """What must happen when `who` enrols and is not refused."""
        assert who not in self.places, "enrolled twice"
        self.gone.pop(who, None)
        if self.count("seated", "offered") < self.capacity:
            self.places[who] = "seated"
            return ["enrollment_accepted"]
        assert self.count("waiting") < self.wait_list_max, "the wait-list is longer than allowed"
        self.places[who] = "waiting"
        return ["enrollment_waitlisted"]

    def accept(self, who: UUID) -> list[str]:
        """The offered seat is taken."""
        assert self.places.get(who) == "offered", "nothing was on offer"
        self.places[who] = "seated"
        return ["offer_accepted"]

    def withdraw(self, who: UUID) -> list[str]:
        """A place is given up; a seat that becomes free goes to who waits longest."""
        del self.places[who]
        self.gone[who] = "withdrawn"
        return ["enrollment_withdrawn", *self._offer()]

    def let_offers_lapse(self) -> None:
        """It is so late that no new offers can follow."""
        for who, standing in list(self.places.items()):
            if standing == "offered":
                del self.places[who]
                self.gone[who] = "expired"

    def _offer(self) -> list[str]:
        offered = []
        for who, standing in self.places.items():
            if standing == "waiting" and self.count("seated", "offered") < self.capacity:
                self.places[who] = "offered"
                offered.append("seat_offered")
        return offered


@dataclass
class Entry:
    """What one pair served on one day."""

    activity_id: UUID
    served_on: date
    starts_at: datetime
    ends_at: datetime
    state: Literal["pending", "counted", "reversed"] = "pending"

    @property
    def minutes(self) -> int:
        """Whole minutes, rounded down."""
        return max((self.ends_at - self.starts_at) // timedelta(minutes=1), 0)


@dataclass(frozen=True)
class Erased:
    """Somebody whose data two others have had erased: nobody can say any more who it was, and nothing is decided about them any more.

    Hours and stars stay as they were counted, of nobody in particular.
    """

    volunteer_id: UUID
    name: str
    id_number: str

    standing = "erased"
    refusal = "person_erased"
    """What registration answers to whatever is asked about them."""

    @property
    def words(self) -> tuple[str, str]:
        """What nobody may read anywhere any more."""
        return self.name, self.id_number


@dataclass
class Volunteer:
    """One person: who is at which door, what was served, which stars are held."""

    volunteer_id: UUID
    thresholds: Sequence[int]
    inside: dict[UUID, datetime] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    stars: set[int] = field(default_factory=set)

    def check_in(self, activity: Activity, now: datetime) -> None:
        """An early arrival counts from the start."""
        self.inside[activity.activity_id] = max(now, activity.starts_at)

    def check_out(self, activity: Activity, now: datetime, day: date) -> Entry:
        """What was served is to be confirmed."""
        return self._served(activity.activity_id, day, self.inside.pop(activity.activity_id), now)

    def miss_check_out(self, activity: Activity, day: date) -> Entry:
        """Nobody knows when the person left: nothing counts until it is corrected."""
        began = self.inside.pop(activity.activity_id)
        return self._served(activity.activity_id, day, began, began)

    def _served(self, activity_id: UUID, day: date, starts_at: datetime, ends_at: datetime) -> Entry:
        entry = Entry(activity_id, day, starts_at, ends_at)
        self.entries.append(entry)
        return entry

    def on(self, day: date, state: str) -> list[Entry]:
        """The day's entries in one state."""
        return [each for each in self.entries if each.served_on == day and each.state == state]

    def overlaps(self, entry: Entry, starts_at: datetime, ends_at: datetime) -> bool:
        """Whether another entry that counts holds a part of the interval."""
        return any(
            each is not entry and each.state == "counted" and each.starts_at < ends_at and starts_at < each.ends_at for each in self.entries
        )

    def days(self) -> dict[date, tuple[int, int]]:
        """Minutes that count and minutes above the cap, by day."""
        served: dict[date, int] = {}
        for each in self.entries:
            if each.state == "counted":
                served[each.served_on] = served.get(each.served_on, 0) + each.minutes
        return {day: (min(minutes, DAILY_CAP), max(minutes - DAILY_CAP, 0)) for day, minutes in served.items()}

    @property
    def credited(self) -> int:
        """Minutes that count."""
        return sum(counted for counted, _ in self.days().values())

    @property
    def over_cap(self) -> int:
        """Minutes above the cap of their days."""
        return sum(above for _, above in self.days().values())

    def apply_for_star(self) -> list[str]:
        """The next star, if the minutes suffice; nothing when all are held."""
        following = [number for number in range(1, len(self.thresholds) + 1) if number not in self.stars]
        if not following:
            return []
        if self.credited < self.thresholds[following[0] - 1]:
            return ["star_declined"]
        self.stars.add(following[0])
        return ["star_granted"]

    def lose_stars(self) -> int:
        """Those whose minutes are gone; how many."""
        lost = {number for number in self.stars if self.credited < self.thresholds[number - 1]}
        self.stars -= lost
        return len(lost)
