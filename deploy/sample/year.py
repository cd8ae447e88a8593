"""A lived-in year, told as what happens when: twelve months of a water bureau's volunteers that end yesterday.

Every activity day has three activities of three units. What goes wrong in life goes wrong here too, in its turn: seats run out, offers
lapse over a holiday, a check-out is forgotten, rain cancels, a record turns out to be false and takes a star with it.
"""

import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import yaml

from deploy.sample.player import Answer, Player, SampleError, Who, together
from deploy.sample.tally import ZONE, Stretch, Tally, stretches
from shared.calendar import is_working_day, working_day_after

HERE: Final = Path(__file__).parent
BUREAU: Final = Who("bureau-admin", "bureau_admin", "water-bureau")
DEPUTY: Final = Who("deputy-bureau-admin", "bureau_admin", "water-bureau")
"""The second person of the bureau, who approves what the first proposes."""
AUDITOR: Final = Who("auditor", "auditor", "water-bureau")
PERIOD_DAYS: Final = 14
"""From one activity day to the next; the programme's occasions lie between."""
STEP: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Volunteer:
    """One line of year.yaml. `slug` stands in keys, which are ASCII."""

    slug: str
    name: str
    unit: str
    age: int
    regular: bool = False
    proxy: bool = False
    guardian: str | None = None
    joins: int = 0
    skills: tuple[str, ...] = ()

    @property
    def who(self) -> Who:
        return Who(self.name, "volunteer", self.unit)

    @property
    def id(self) -> UUID:
        return self.who.id


@dataclass
class Activity:
    """One activity on its way through the year."""

    key: str
    unit: str
    idea: Mapping[str, Any]
    carrier: str
    starts_at: datetime
    ends_at: datetime
    arrive_at: datetime
    leave_at: datetime
    capacity: int
    occasion: str | None = None
    wait_list: int = 3
    recorder: str = "kiosk"
    people: list[Volunteer] = field(default_factory=list)
    """Who asks for a seat, in this order."""
    id: UUID = field(default_factory=lambda: UUID(int=0))
    seated: list[Volunteer] = field(default_factory=list)
    waiting: list[Volunteer] = field(default_factory=list)
    absent: set[str] = field(default_factory=set)
    forgets: set[str] = field(default_factory=set)
    is_cancelled: bool = False
    served: list[Stretch] = field(default_factory=list)

    @property
    def path(self) -> str:
        return f"/activities/{self.id}"


def admin(unit: str) -> Who:
    return Who(f"admin-{unit}", "unit_admin", unit)


def at(day: date, clock: str) -> datetime:
    """An instant of the bureau's wall clock."""
    return datetime.combine(day, time.fromisoformat(clock), ZONE)


def id_number(born: date, number: int) -> str:
    """A number with a right check digit, in a region (3799) that does not exist."""
    digits = f"379901{born:%Y%m%d}{number:03d}"
    total = sum(int(digit) * weight for digit, weight in zip(digits, (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2), strict=True))
    return digits + "10X98765432"[total % 11]


def longest_break(first: date, last: date) -> tuple[date, date]:
    """The last working day before the longest run of days off, and the first after it."""
    days = [first + STEP * number for number in range((last - first).days)]
    working = [day for day in days if is_working_day(day)]
    return max(pairwise(working), key=lambda pair: pair[1] - pair[0])


class Year:
    """The story. `play` plays it from its first instant to its last."""

    def __init__(self, player: Player, ends_on: date, say: Callable[[str], None]) -> None:
        self.player = player
        self.tally = Tally()
        self.ends_on = ends_on
        self.starts_on = ends_on - timedelta(days=364)
        self._say = say
        told = yaml.safe_load((HERE / "year.yaml").read_text(encoding="utf-8"))
        self._programme = yaml.safe_load((HERE / "programme-2017.yaml").read_text(encoding="utf-8"))
        self._units = [each["code"] for each in self._programme["units"]]
        self._ideas: Mapping[str, Sequence[Mapping[str, Any]]] = told["ideas"]
        self._occasion_carriers: Mapping[str, str] = told["occasions"]
        self._people = [Volunteer(f"v{number:02d}", **{**each, "skills": tuple(each.get("skills", ()))})
                        for number, each in enumerate(told["volunteers"], 1)]  # fmt: skip
        self.instants = 0
        self._gone: set[str] = set()
        self._steps: dict[tuple[datetime, int], list[Callable[[], Awaitable[Any]]]] = defaultdict(list)
        self._open_now: list[Activity] = []
        self._published = 0
        self._popular_days: list[int] = []
        self._plan()

    async def play(self) -> None:
        """Every step in order; the clock moves from one instant to the next when all is quiet."""
        before: datetime | None = None
        while self._steps:
            instant, phase = min(self._steps)
            actions = self._steps.pop((instant, phase))
            if instant != before:
                await self.player.logs.move(instant)
                before, self.instants = instant, self.instants + 1
            await together(action() for action in actions)
        await self.player.logs.move(at(self.ends_on, "23:59"))

    def _on(self, instant: datetime, action: Callable[[], Awaitable[Any]], phase: int = 1) -> None:
        self._steps[instant, phase].append(action)

    # --- the plan of the year ---------------------------------------------------------------------------------------------------------

    def _plan(self) -> None:
        self._on(at(self.starts_on, "09:00"), self._begin, 0)
        self._on(at(self.starts_on, "09:00"), lambda: self._register(0))
        days = list(self._activity_days())
        self._last = len(days) - 1
        for number, (day, occasion) in enumerate(days):
            opens_on = days[number - 1][0] + 2 * STEP if number else self.starts_on + STEP
            self._plan_day(number, day, occasion, opens_on, closes_on=day + 2 * STEP)
        self._plan_holiday([day for day, _ in days])
        self._plan_night_watch([day for day, _ in days])
        self._plan_end()

    def _activity_days(self) -> Iterator[tuple[date, str | None]]:
        """Every second week, and on the occasions of the programme; never two within five days."""
        occasions: dict[date, str] = {}
        for each in self._programme["occasions"]:
            for year in (self.starts_on.year, self.ends_on.year):
                day = date(year, each["month"], each["day"])
                far = all(abs((day - other).days) > 5 for other in occasions)
                if each["code"] in self._occasion_carriers and self.starts_on + 6 * STEP < day < self.ends_on - 4 * STEP and far:
                    occasions[day] = each["code"]
        day = self.starts_on + 10 * STEP
        days: dict[date, str | None] = dict(occasions)
        while day < self.ends_on - 4 * STEP:
            if all(abs((day - other).days) > 5 for other in occasions):
                days[day] = None
            day += timedelta(days=PERIOD_DAYS)
        yield from sorted(days.items())

    def _plan_day(self, number: int, day: date, occasion: str | None, opens_on: date, closes_on: date) -> None:
        """Three activities with the same hours: a morning every third time, else the whole day; one day is too long for the daily cap."""
        hours = ("09:00", "11:30", "08:50", "11:35") if number % 3 == 2 else ("09:00", "16:30", "08:50", "16:35")
        made = [self._activity(f"{day}/{letter}", day, hours, occasion if letter == "a" else None) for letter in "abc"]
        made[0].capacity, made[1].capacity, made[2].capacity = 10, 6, 6
        made[0].recorder = "leader"
        if number == 10:  # The same people go on in the evening.
            hours = ("17:00", "20:00", "16:35", "20:05")
            made.append(self._activity(f"{day}/d", day, hours, None))
            made[3].capacity = 6
        is_time = number >= 5 and number - (self._popular_days or [-9])[-1] >= 9 and len(self._popular_days) < 2
        if is_time and (lapses := self._plain_lapse(day)) is not None:
            self._popular_days.append(number)
            made.append(popular := self._activity(f"{day}/p", day, hours, None))
            popular.capacity = 4
            self._plan_offers(popular, day - 4 * STEP, day - 3 * STEP, lapses)
        self._on(at(opens_on, "09:30"), lambda: self._open_day(number, made), 2)
        for each in made:
            self._on(each.arrive_at, partial(self._arrive, each))
            self._on(each.leave_at, partial(self._leave, each), 0)
        if number == 6:
            made[1].capacity = 8
        if number % 7 == 4:
            made[2].is_cancelled = True
            self._on(made[2].arrive_at, lambda: self._cancel(made[2]), 0)
        if number % 5 == 3:
            made[1].forgets.add("last")
        self._on(at(closes_on, "09:30"), lambda: together(self._close(each, number) for each in made), 0)
        self._on(at(closes_on, "09:30"), lambda: self._stars(number), 1)

    def _activity(self, key: str, day: date, hours: tuple[str, str, str, str], occasion: str | None) -> Activity:
        """The next unit and the next idea, in turn."""
        carriers = list(self._ideas)
        turn = self._published + self._published // len(self._units)  # Else every unit would always have the same carrier.
        carrier = self._occasion_carriers[occasion] if occasion else carriers[turn % len(carriers)]
        ideas = self._ideas[carrier]
        unit = self._units[self._published % len(self._units)]
        idea = ideas[(self._published // len(carriers)) % len(ideas)]
        self._published += 1
        starts_at, ends_at, arrive_at, leave_at = (at(day, clock) for clock in hours)
        return Activity(key, unit, idea, carrier, starts_at, ends_at, arrive_at, leave_at, 6, occasion)

    @staticmethod
    def _plain_lapse(day: date) -> date | None:
        """The morning on which an offer of three days before has lapsed, when that leaves time for one more offer."""
        lapses = working_day_after(day - 3 * STEP, 1) + STEP
        return lapses if lapses <= day - STEP else None

    def _plan_offers(self, activity: Activity, first: date, second: date, lapsed: date) -> None:
        """A seat is given up and accepted by the next in line; another is offered, lapses and goes to the one after."""
        self._on(at(first, "10:00"), lambda: self._withdraw(activity, "first"))
        self._on(at(second, "10:00"), lambda: self._accept(activity))
        self._on(at(second, "10:00"), lambda: self._withdraw(activity, "second"), 2)
        self._on(at(lapsed, "09:00"), lambda: self._lapse_and_accept(activity))

    def _plan_holiday(self, taken: Sequence[date]) -> None:
        """The same over the longest holiday of the year: the offer's term ends with the first working day after it."""
        eve, back = longest_break(self.starts_on + 30 * STEP, self.ends_on - 20 * STEP)
        lapsed = working_day_after(back, 1) + STEP
        day = lapsed + 2 * STEP
        while day in taken:
            day += STEP
        activity = self._activity(f"{day}/h", day, ("14:00", "17:00", "13:50", "17:05"), None)
        activity.capacity = 4
        self._on(at(eve - 3 * STEP, "09:30"), lambda: self._open(activity, self._crowd(activity)), 2)
        self._plan_offers(activity, eve, back, lapsed)
        self._on(activity.arrive_at, lambda: self._arrive(activity))
        self._on(activity.leave_at, lambda: self._leave(activity))
        self._on(at(day + STEP, "09:00"), lambda: self._close(activity, None))

    def _plan_night_watch(self, taken: Sequence[date]) -> None:
        """Flood season: from ten in the evening to two in the morning, which are two civil days."""
        nights = (date(year, month, 21) for month in (7, 8) for year in (self.starts_on.year, self.ends_on.year))
        day = next(night for night in nights if self.starts_on + 10 * STEP < night < self.ends_on - 10 * STEP)
        while {day, day + STEP} & set(taken):
            day += STEP
        activity = Activity(
            f"{day}/night", "reservoir-station", {"title": "汛期夜间巡堤", "place": "水库大坝", "has_risk": True}, "caring-for-nature",
            at(day, "22:00"), at(day + STEP, "02:00"), at(day, "21:45"), at(day + STEP, "02:10"), 6, recorder="admin",
        )  # fmt: skip
        grown = [each for each in self._people if each.guardian is None and not each.joins and 25 < each.age < 60]
        minor = next(each for each in self._people if each.guardian is not None)

        async def open_watch() -> None:
            there = [each for each in grown if each.slug not in self._gone]
            await self._open(activity, random.Random(activity.key).sample(there, 6))  # noqa: S311  # A story, not a secret.
            await self._enroll(activity, minor, refused="minor_in_risk_activity")

        self._on(at(day - 5 * STEP, "09:30"), open_watch, 2)
        self._on(activity.arrive_at, lambda: self._arrive(activity))
        self._on(activity.leave_at, lambda: self._leave(activity))
        self._on(at(day + 2 * STEP, "09:00"), lambda: self._close(activity, None))

    def _plan_end(self) -> None:
        """What still waits when the year ends: hours to be approved, and activities to come, one of them full and one without anybody."""
        day = self.ends_on - 2 * STEP
        last = self._activity(f"{day}/last", day, ("14:00", "17:00", "13:50", "17:05"), None)
        self._on(at(day - 3 * STEP, "09:30"), lambda: self._open(last, self._crowd(last)[:5]), 2)
        self._on(last.arrive_at, lambda: self._arrive(last))
        self._on(last.leave_at, lambda: self._leave(last))
        for days, capacity, wanted in ((5, 6, 4), (8, 4, 8), (12, 6, 0)):
            day = self.ends_on + days * STEP
            coming = self._activity(f"{day}/coming", day, ("09:00", "11:30", "08:50", "11:35"), None)
            coming.capacity = capacity
            self._on(at(self.ends_on, "15:00"), partial(self._open_coming, coming, wanted), 2)

    async def _open_coming(self, activity: Activity, wanted: int) -> None:
        await self._open(activity, self._crowd(activity)[:wanted])

    # --- what happens -----------------------------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        """The programme of 2017, carried on for each year that is played; rules and roles."""
        tell = self.player.tell
        await self.player.appoint(BUREAU, DEPUTY)
        for year in sorted({2017, self.starts_on.year, self.ends_on.year, (self.ends_on + 20 * STEP).year}):
            text = (HERE / "programme-2017.yaml").read_text(encoding="utf-8")
            if year != 2017:
                text = yaml.safe_dump(self._carried_on(year), allow_unicode=True, sort_keys=False, width=1000)
            await tell(BUREAU, "registration", "/programmes", {"file": text}, f"programme/{year}")
            await self._approve_programme(year)
        for service, name in (("hours", "hours"), ("recognition", "star")):
            text = (HERE / f"{name}-policy.yaml").read_text(encoding="utf-8")
            await tell(BUREAU, service, f"/{name}-policies", {"file": text}, f"{name}-policy")
        roles = [(each, "unit_admin") for each in map(admin, self._units)]
        roles += [(each, each.role) for each in (BUREAU, DEPUTY, AUDITOR)]
        roles += [(Who(f"{kind}-{unit}", role, unit), role) for unit in self._units for kind, role in _RECORDERS.items()]
        roles.append((_FORMER, _FORMER.role))
        await together(
            tell(BUREAU, "registration", f"/people/{who.id}/roles", {"role": role, "unit_code": who.unit}, f"role/{who.name}",
                 after="registration")
            for who, role in roles
        )  # fmt: skip
        self._say(f"the programme is adopted, {len(self._units)} units and {len(roles)} roles are known")

    async def _approve_programme(self, year: int) -> None:
        """The second person looks at what it would change, and approves it."""
        after = [self.player.tokens["registration"]]
        (seen,) = await self.player.caller.rows(DEPUTY, "registration", "/programme-proposals", after, year=str(year))
        if seen["units"] != len(self._units):
            raise SampleError(f"the programme of {year} would register {seen['units']} units, not {len(self._units)}")
        path = f"/programmes/{seen['proposal_id']}/approve"
        await self.player.tell(DEPUTY, "registration", path, {}, f"programme/{year}/approved")

    def _carried_on(self, year: int) -> Mapping[str, Any]:
        head = dict(self._programme["programme"])
        head |= {"year": year, "starts_on": date(year, 1, 1), "ends_on": date(year, 12, 31), "issued_on": date(year, 1, 4)}
        head |= {
            "title": head["title"].replace("2017", str(year)),
            "document_reference": head["document_reference"].replace("2017", str(year)),
        }
        return {**self._programme, "programme": head}

    async def _register(self, number: int) -> None:
        """Who joins now, by consent; some by proxy of their unit."""
        joining = [each for each in self._people if each.joins == number]
        await together(self._register_one(each) for each in joining)
        if joining:
            self._say(f"{len(joining)} volunteers register")

    async def _register_one(self, person: Volunteer) -> None:
        number = int(person.slug[1:])
        born = self.starts_on - timedelta(days=int(365.25 * person.age) + 20 + 6 * number)
        body = {
            "unit_code": person.unit,
            "name": person.name,
            "id_number": id_number(born, number),
            "phone": None if person.proxy else f"199000{number:05d}",
            "skills": list(person.skills),
            "consents": ["register", "be_named"] if number % 3 else ["register"],
            "consent_text_version": "2017-1",
            "guardian_name": person.guardian,
        }
        if person.proxy:
            body["volunteer_id"] = str(person.id)
        await self.player.tell(self._asker(person), "registration", "/volunteers", body, f"register/{person.slug}", after="registration")
        self.tally.volunteers.add(person.id)

    async def _open_day(self, number: int, activities: Sequence[Activity]) -> None:
        """Three activities are published and fill up: the regulars in the first, whoever has time in the others."""
        if number:
            await self._register(number)
        chance = random.Random(activities[0].key)  # noqa: S311  # A story, not a secret.
        regulars = [each for each in self._people if each.regular and not self._rests(each)]
        others = [each for each in self._people if not each.regular and each.joins < max(number, 1) and each.slug not in self._gone]
        chance.shuffle(others)
        first, second, third, *more = activities
        chosen = {first.key: regulars, second.key: others[:6], third.key: others[6:11]}
        chosen |= {each.key: others[11:19] if each.key.endswith("p") else regulars[:5] for each in more}
        await together(self._open(each, chosen[each.key]) for each in activities)
        if number == 6:
            await self._clash(first.people[0], second)
        if number == 8:
            await self._remove(third)
        if number == 12:
            await self._someone_leaves(second)
        self._say(f"{first.starts_at:%Y-%m-%d}: {len(activities)} activities, {sum(len(each.seated) for each in activities)} seats taken")

    def _rests(self, person: Volunteer) -> bool:
        """The last of the regulars stops as soon as the first star is paid for."""
        return person.name == _RESTING and self.tally.credited(person.id) >= 6000

    def _crowd(self, activity: Activity) -> list[Volunteer]:
        """Eight people for four seats."""
        people = [each for each in self._people if not each.regular and not each.joins and each.slug not in self._gone]
        return random.Random(activity.key).sample(people, 8)  # noqa: S311  # A story, not a secret.

    async def _open(self, activity: Activity, people: Sequence[Volunteer]) -> None:
        """Publishes, and lets people enrol: one after the other where there are more of them than seats."""
        activity.people = list(people)
        idea = activity.idea
        has_risk = bool(idea.get("has_risk"))
        body = {
            "unit_code": activity.unit,
            "title": idea["title"],
            "carrier": activity.carrier,
            "target_group": idea.get("target_group"),
            "occasion": activity.occasion,
            "place": idea["place"],
            "starts_at": activity.starts_at.isoformat(),
            "ends_at": activity.ends_at.isoformat(),
            "positions": [{"code": "volunteer", "name": "志愿者", "capacity": activity.capacity, "duties": "听从现场安排"}],
            "wait_list_max": activity.wait_list,
            "risk_note": "近水作业, 穿救生衣" if has_risk else "",
            "has_risk": has_risk,
            "insurance": "志愿者意外险 2017-示例" if has_risk else None,
        }
        answer = await self.player.tell(admin(activity.unit), "registration", "/activities", body, f"publish/{activity.key}")
        activity.id = answer.stream_id
        self._open_now.append(activity)
        self.tally.seats[activity.id].clear()
        self.tally.outcomes["open"] += 1
        if len(people) <= activity.capacity:
            await together(self._enroll(activity, each) for each in people)
            activity.seated.sort(key=people.index)  # Answers came in any order; what follows must not depend on it.
            return
        room = activity.capacity + activity.wait_list
        for place, each in enumerate(people):
            await self._enroll(activity, each, refused=None if place < room else "activity_full")

    async def _enroll(
        self, activity: Activity, person: Volunteer, *, refused: str | None = None, why: str | None = None, after: str | None = None
    ) -> None:
        """The person enrols; `why` lets a coordinator override a clash."""
        asker = admin(person.unit) if why else self._asker(person)
        body = {"volunteer_id": str(person.id), "position": "volunteer", **({"override_reason": why} if why else {})}
        key = f"enrol/{activity.key}/{person.slug}{'/override' if why else ''}"
        path = f"{activity.path}/enrollments"
        answer = await self.player.tell(asker, "registration", path, body, key, after=after, refused=refused)
        if "enrollment_accepted" in answer.events:
            self._seat(activity, person)
        elif "enrollment_waitlisted" in answer.events:
            activity.waiting.append(person)

    def _seat(self, activity: Activity, person: Volunteer) -> None:
        activity.seated.append(person)
        self.tally.seats[activity.id].add(person.id)

    def _free(self, activity: Activity, person: Volunteer) -> None:
        activity.seated.remove(person)
        self.tally.seats[activity.id].discard(person.id)

    async def _withdraw(self, activity: Activity, key: str) -> None:
        """The first who has a seat gives it up; it is offered at once to the head of the wait-list."""
        person = activity.seated[0]
        answer = await self._give_up(activity, person, key, "volunteer_withdrew")
        if answer.events != ["enrollment_withdrawn", "seat_offered"]:
            raise SampleError(f"a freed seat of {activity.key} was not offered: {answer.events}")

    async def _give_up(self, activity: Activity, person: Volunteer, key: str, reason: str) -> Answer:
        asker = admin(activity.unit) if reason == "organiser_removed" else self._asker(person)
        path = f"{activity.path}/enrollments/{person.id}/withdraw"
        answer = await self.player.tell(asker, "registration", path, {"reason": reason}, f"withdraw/{activity.key}/{key}")
        self._free(activity, person)
        return answer

    @staticmethod
    def _asker(person: Volunteer) -> Who:
        """Who asks for a person: themself, or their unit for those without a phone."""
        return admin(person.unit) if person.proxy else person.who

    async def _accept(self, activity: Activity) -> None:
        """The head of the wait-list takes the seat on offer."""
        person = activity.waiting.pop(0)
        path = f"{activity.path}/enrollments/{person.id}/accept"
        await self.player.tell(self._asker(person), "registration", path, {}, f"accept/{activity.key}/{person.slug}")
        self._seat(activity, person)

    async def _lapse_and_accept(self, activity: Activity) -> None:
        """Whoever did not answer in time is off the list, and the one after has the offer now."""
        late = activity.waiting.pop(0)
        path = f"{activity.path}/enrollments/{late.id}/accept"
        key = f"accept/{activity.key}/{late.slug}/late"
        await self.player.tell(self._asker(late), "registration", path, {}, key, refused="no_offer")
        await self._accept(activity)

    async def _clash(self, person: Volunteer, wants: Activity) -> None:
        """Two places at once: refused, until a coordinator allows it. The person goes to the one they had first."""
        await self._enroll(wants, person, refused="time_clash", after="registration")
        wants.absent.add(person.slug)
        await self._enroll(wants, person, why="两处相邻, 可兼顾")

    async def _remove(self, activity: Activity) -> None:
        """The organiser takes somebody off the list."""
        await self._give_up(activity, activity.seated[-1], "removed", "organiser_removed")

    async def _someone_leaves(self, activity: Activity) -> None:
        """One leaves the programme, and so the seat; another no longer wants to be named; a former leader's role ends."""
        tell = self.player.tell
        elsewhere = {who.slug for each in self._open_now if each is not activity for who in (*each.seated, *each.waiting)}
        person = next(each for each in activity.seated if not (each.proxy or each.guardian or each.slug in elsewhere))
        await tell(person.who, "registration", f"/volunteers/{person.id}/leave", {}, f"leave/{person.slug}")
        self._gone.add(person.slug)
        self._free(activity, person)
        other = next(each for each in self._people if each.regular)
        path = f"/volunteers/{other.id}/consents/withdraw"
        await tell(other.who, "registration", path, {"consent": "be_named"}, f"not-named/{other.slug}")
        body = {"role": _FORMER.role, "unit_code": _FORMER.unit, "reason": "调离"}
        await tell(BUREAU, "registration", f"/people/{_FORMER.id}/roles/withdraw", body, "former-leader")
        self._on(activity.arrive_at, partial(self._come_back, activity), 2)

    async def _come_back(self, activity: Activity) -> None:
        """The former leader's token still lives, and opens no door any more."""
        path = f"{activity.path}/attendance/{activity.seated[0].id}/check-in"
        await self.player.tell(_FORMER, "hours", path, {}, "former-leader/check-in", refused="role_withdrawn")

    async def _cancel(self, activity: Activity) -> None:
        """Rain, on the very morning."""
        body = {"reason": "暴雨预警, 活动取消"}
        await self.player.tell(admin(activity.unit), "registration", f"{activity.path}/cancel", body, f"cancel/{activity.key}")
        self._ended(activity, "cancelled")

    def _ended(self, activity: Activity, outcome: str) -> None:
        self._open_now.remove(activity)
        self.tally.outcomes["open"] -= 1
        self.tally.outcomes[outcome] += 1

    def _recorder(self, activity: Activity) -> Who:
        if activity.recorder == "admin":
            return admin(activity.unit)
        return Who(f"{activity.recorder}-{activity.unit}", _RECORDERS[activity.recorder], activity.unit)

    async def _arrive(self, activity: Activity) -> None:
        """Everybody with a seat is checked in, but for those who do not come."""
        if activity.is_cancelled:
            return
        if len(activity.seated) > 4 and activity.capacity == 6:
            activity.absent |= {activity.seated[0].slug} if random.Random(activity.key).random() < 0.3 else set()  # noqa: S311  # A story.
        await together(self._check(activity, each, "in") for each in activity.seated if each.slug not in activity.absent)

    async def _leave(self, activity: Activity) -> None:
        """Everybody is checked out, but for one who is forgotten now and then."""
        if activity.is_cancelled:
            return
        there = [each for each in activity.seated if each.slug not in activity.absent]
        if "last" in activity.forgets:
            activity.forgets = {there[-1].slug}
        await together(self._check(activity, each, "out") for each in there if each.slug not in activity.forgets)
        begins = max(activity.arrive_at, activity.starts_at)
        for each in there:
            ends = begins if each.slug in activity.forgets else activity.leave_at
            missed = [Stretch(each.id, activity.id, begins.date(), begins, begins)]
            activity.served += list(stretches(each.id, activity.id, begins, ends)) or missed
        self.tally.pending |= {each.entry_id for each in activity.served}

    async def _check(self, activity: Activity, person: Volunteer, way: str) -> None:
        path = f"{activity.path}/attendance/{person.id}/check-{way}"
        key = f"check-{way}/{activity.key}/{person.slug}"
        await self.player.tell(self._recorder(activity), "hours", path, {}, key)

    async def _close(self, activity: Activity, number: int | None) -> None:
        """Two days later: held, and every entry approved by another person than who recorded it."""
        if activity.is_cancelled:
            return
        approver = BUREAU if activity.recorder == "admin" else admin(activity.unit)
        result = {"result": f"{len(activity.served)}人次参加, 活动顺利"}
        await self.player.tell(admin(activity.unit), "registration", f"{activity.path}/hold", result, f"hold/{activity.key}")
        self._ended(activity, "held")
        if activity.recorder == "admin" and activity.served:
            await self._decide(admin(activity.unit), activity.served[0], "confirm", {}, refused="approver_is_recorder")
        await together(self._approve(activity, approver, each) for each in activity.served)
        if number is not None and number % 6 == 1 and activity.key.endswith("a"):
            await self._correct(
                approver, activity.served[0], activity.ends_at - timedelta(hours=1), "wrong_time", self._recorder(activity).id
            )
        if number is not None and number % 8 == 5 and activity.key.endswith("c"):
            await self._reverse(approver, activity.served[-1])

    async def _approve(self, activity: Activity, approver: Who, stretch: Stretch) -> None:
        if stretch.minutes:
            await self._decide(approver, stretch, "confirm", {})
            self.tally.count(stretch)
        else:  # The check-out was missed: what was served is what the volunteer and the leader say.
            await self._correct(approver, stretch, activity.ends_at, "check_out_missed", stretch.volunteer)

    async def _correct(self, approver: Who, stretch: Stretch, ends_at: datetime, reason: str, requester: UUID) -> None:
        right = Stretch(stretch.volunteer, stretch.activity, stretch.on, stretch.starts_at, ends_at)
        times = {"starts_at": right.starts_at.isoformat(), "ends_at": right.ends_at.isoformat()}
        await self._decide(approver, stretch, "correct", {**times, "reason": reason, "requester_id": str(requester)})
        self.tally.count(right)

    async def _reverse(self, approver: Who, stretch: Stretch) -> None:
        await self._decide(approver, stretch, "reverse", {"reason": "false_record", "requester_id": str(stretch.volunteer)})
        self.tally.drop(stretch)

    async def _decide(self, approver: Who, stretch: Stretch, what: str, body: Mapping[str, Any], refused: str | None = None) -> None:
        path = f"/accounts/{stretch.volunteer}/entries/{stretch.entry_id}/{what}"
        key = f"{what}/{stretch.entry_id}"
        await self.player.tell(approver, "hours", path, {"served_on": stretch.on.isoformat(), **body}, key, refused=refused)

    async def _stars(self, number: int) -> None:
        """Applications: some too early, those of the regulars once their hours are there. An inspection takes one star's hours away."""
        regulars = [each for each in self._people if each.regular]
        applying = regulars[:2] if number == 7 else [self._people[10]] if number == 15 else []
        applying += [each for each in regulars if self.tally.may_have_star(each.id) and not self.tally.held.get(each.id)]
        await together(self._apply(each, number) for each in applying if not self._was_withdrawn(each))
        resting = next(each for each in regulars if each.name == _RESTING)
        if number == self._last - 1 and self.tally.held.get(resting.id):
            counted = [each for each in self.tally.counted.values() if each.volunteer == resting.id]
            for each in sorted(counted, key=lambda one: one.starts_at)[:3]:
                await self._reverse(BUREAU, each)
            self._say("an inspection finds false records: a star goes by itself")

    def _was_withdrawn(self, person: Volunteer) -> bool:
        return person.name == _RESTING and self.tally.star_outcomes["withdrawn"] > 0

    async def _apply(self, person: Volunteer, number: int) -> None:
        answer = await self.player.tell(
            person.who, "recognition", f"/volunteers/{person.id}/stars", {}, f"star/{person.slug}/{number}", after="hours"
        )
        is_due = self.tally.may_have_star(person.id)
        if answer.events != [f"star_{'granted' if is_due else 'declined'}"]:
            raise SampleError(f"a star for {self.tally.credited(person.id)} minutes was answered with {answer.events}")
        self.tally.star_outcomes["granted" if is_due else "declined"] += 1
        if is_due:
            self.tally.held[person.id] = self.tally.held.get(person.id, 0) + 1


_RECORDERS: Final = {"kiosk": "kiosk", "leader": "activity_leader"}
_FORMER: Final = Who("former-leader", "activity_leader", "rural-water-station")
_RESTING: Final = "陶然然"
