"""Day after day of the programme, played by concurrent people through the public commands, each day counted by the model.

People come in circles, each with a unit, two activities a day, and one more that overlaps with both. While a day is served, the next one's
seats are asked for and the last one's time is approved. Only the clock is common to all: it goes forward when every circle waits for it.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from tests.faults import world
from tests.faults.clients import Asked, Clients
from tests.faults.invariants import need
from tests.faults.model import DAILY_CAP, OVER_AFTER, Activity, Entry, Volunteer
from tests.faults.system import ABSENT, until
from tests.faults.world import KIOSK, LEADER, at

STARS_HOURS = (2, 5, 10, 20, 40, 80, 160, 320, 640, 1280)
"""The first are soon won, and soon lost by a correction."""
FIRST_DAY = date(2017, 3, 5)
LEAVERS_FROM = 7000
"""The numbers of those who come on the first day only, under names of their own; then they are at rest, and may be erased."""
EARLY = ("06:30", "11:30")
"""Before eight it is still the day before in UTC."""
TRAVEL_S = 10.0

_DONE = {"confirm": "confirmed", "correct": "corrected", "reverse": "reversed"}


class CommonClock:
    """The travelling clock of the system. It moves when all who play by it wait for it, so nobody is asking anything that depends on it."""

    def __init__(self, travel: Callable[[datetime], Awaitable[None]], now: datetime) -> None:
        self._travel = travel
        self.now = now
        self.players = 0
        self._waiting: list[tuple[datetime, asyncio.Future[None]]] = []

    async def reach(self, instant: datetime) -> None:
        """Waits until it is that late."""
        if instant <= self.now:
            return
        waited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((instant, waited))
        if len(self._waiting) == self.players:
            await self._go_on()
        await waited

    async def leave(self) -> None:
        """One player fewer to wait for."""
        self.players -= 1
        if self._waiting and len(self._waiting) == self.players:
            await self._go_on()

    async def set(self, instant: datetime) -> None:
        """Moves it, whatever the servers are suffering."""
        while True:
            try:
                async with asyncio.timeout(TRAVEL_S):
                    await self._travel(instant)
                break
            except ABSENT:
                await asyncio.sleep(0.5)
        self.now = instant

    async def _go_on(self) -> None:
        await self.set(min(instant for instant, _ in self._waiting))
        for instant, waited in self._waiting:
            if instant <= self.now:
                waited.set_result(None)
        self._waiting = [(instant, waited) for instant, waited in self._waiting if instant > self.now]


@dataclass
class Day:
    """What a circle does on one day. `last` is the last thing that was said of its seats; `missing` never went out of a door."""

    on: date
    morning: Activity
    afternoon: Activity
    midday: Activity | None
    last: Asked
    missing: dict[UUID, set[UUID]] = field(default_factory=dict)
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def activities(self) -> list[Activity]:
        return [each for each in (self.morning, self.midday, self.afternoon) if each is not None]


class Circle:
    """People of one unit. Every answer is held against the model when the phase that it belongs to is over."""

    def __init__(
        self, clients: Clients, clock: CommonClock, seed: int, numbers: Sequence[int], unit: str, leaver: int, at_rest: asyncio.Queue[int]
    ) -> None:
        """Who is the `leaver` comes on the first day only; when that is counted, their number goes to those `at_rest`."""
        self.clients = clients
        self.clock = clock
        self.random = random.Random(seed)
        self.unit = unit
        self.numbers = numbers
        self.activities: list[Activity] = []
        self.leaver = leaver
        self.staying = [world.volunteer(number) for number in numbers]
        self.people = {each: Volunteer(each, [60 * hours for hours in STARS_HOURS]) for each in (*self.staying, world.volunteer(leaver))}
        self._at_rest = at_rest
        self.registered: dict[UUID, Asked] = {}
        self.happened = Counter[str]()
        self.programme: Asked
        self._approved: dict[UUID, tuple[Asked, list[tuple[Entry, str]]]] = {}
        """Of the last day that was counted: the last change of the person's account, and what counts."""
        self.has_kept_a_long_day = False
        """One day above the cap is confirmed as it was served, whatever chance does with the others."""

    async def begin(self, programme: Asked) -> None:
        """Everybody registers."""
        self.programme = programme
        own_name = world.name_of_their_own(self.leaver)
        registered = await asyncio.gather(
            *(world.register(self.clients, number, programme, self.unit) for number in self.numbers),
            world.register(self.clients, self.leaver, programme, self.unit, name=own_name),
        )
        assert all(each.accepted for each in registered), registered
        self.registered = dict(zip(self.people, registered, strict=True))

    # -- Seats

    async def fill(self, on: date) -> Day:
        """Publishes the activities of a day, and fills them."""
        people = list(self.people) if on == FIRST_DAY else self.staying
        share = len(people) // 2
        morning, first = await self._publish(on, *EARLY, share, 2)
        afternoon, second = await self._publish(on, "13:00", "18:00", share + 1, 2)
        day = Day(on, morning, afternoon, None, max(first, second, key=lambda each: each.position))
        for about in (self._ask_for_seats, self._answer_offers):
            asked = await self._each(people, lambda who, about=about: about(who, (morning, afternoon)))  # type: ignore[misc]
            self._judge_seats(asked, (morning, afternoon))
            day.last = max((each for each in [day.last, *asked] if each.accepted), key=lambda each: each.position)
        await self._overlap(day)
        return day

    async def _publish(self, on: date, starts: str, ends: str, capacity: int, wait_list_max: int) -> tuple[Activity, Asked]:
        starts_at, ends_at = at(on, starts), at(on, ends)
        published = await world.publish(
            self.clients, self.programme, starts_at, ends_at, capacity=capacity, wait_list_max=wait_list_max, unit=self.unit
        )
        assert published.accepted, published
        activity = Activity(world.activity_of(published), starts_at, ends_at, capacity, wait_list_max)
        self.activities.append(activity)
        return activity, published

    async def _ask_for_seats(self, who: UUID, activities: Iterable[Activity]) -> list[Asked]:
        """Asks, sometimes gives up, and sometimes comes back."""
        asked, first = [], self.registered[who]
        for activity in self._shuffled(activities):
            asked.append(await world.enroll(self.clients, activity.activity_id, who, after=first))
            if asked[-1].accepted and self._chance(0.05):
                await self._sees_own(activity, who, asked[-1], {"seated", "waiting", "offered"})
            if asked[-1].accepted and self._chance(0.3):
                asked.append(await world.withdraw(self.clients, activity.activity_id, who, after=first))
                if self._chance(0.1):
                    await self._sees_own(activity, who, asked[-1], {"withdrawn"})
                if self._chance(0.5):
                    asked.append(await world.enroll(self.clients, activity.activity_id, who, after=first))
        return asked

    async def _sees_own(self, activity: Activity, who: UUID, written: Asked, standings: set[str]) -> None:
        """Who sends the token of an answer back reads what the answer said (I12): who has a seat may give it up."""
        assert written.accepted, written
        ids = {"activity": str(activity.activity_id), "volunteer": str(who)}
        rows = await self.clients.rows("registration", "/enrollments", after=[written.token], **ids)
        need([row["standing"] in standings for row in rows] == [True], "I12", f"after {written} it reads {rows}")
        self.happened["read of what was just written"] += 1

    async def _answer_offers(self, who: UUID, activities: Iterable[Activity]) -> list[Asked]:
        """Most take the offered seat; some with a seat give it up, and what is offered then is left to lapse."""
        asked, first = [], self.registered[who]
        for activity in activities:
            standing = activity.places.get(who)
            if standing == "offered" and self._chance(0.7):
                asked.append(await world.accept(self.clients, activity.activity_id, who, after=first))
            elif standing == "seated" and self._chance(0.15):
                asked.append(await world.withdraw(self.clients, activity.activity_id, who, after=first))
        return asked

    def _judge_seats(self, asked: Sequence[Asked], activities: Iterable[Activity]) -> None:
        """Replays what was accepted in the log's order: each answer must be the one that the seats allowed."""
        by_id = {str(each.activity_id): each for each in activities}
        for each in sorted((each for each in asked if each.accepted), key=lambda each: each.position):
            activity = by_id[each.path.split("/")[2]]
            who = UUID(each.body["volunteer_id"]) if each.path.endswith("enrollments") else UUID(each.path.split("/")[4])
            if each.path.endswith("enrollments"):
                expected = activity.enroll(who)
            else:
                expected = activity.accept(who) if each.path.endswith("accept") else activity.withdraw(who)
            assert [each for each in each.types if each != "clash_overridden"] == expected, each
            self.happened.update(expected)
        assert {each.code for each in asked if not each.accepted} <= {"activity_full"}
        self.happened["activity full"] += sum(not each.accepted for each in asked)

    async def _overlap(self, day: Day) -> None:
        """Who has a seat may not have another one at that time, unless a coordinator says so."""
        midday, published = await self._publish(day.on, "10:00", "14:00", 3, 0)
        day.midday = midday
        seen = max(day.last, published, key=lambda each: each.position)
        busy = [who for who in self.people if who in {*day.morning.seated(), *day.afternoon.seated()}]
        few = self.random.sample(busy, min(len(busy), 5))
        for who in few[:2]:
            asked = await world.enroll(self.clients, midday.activity_id, who, after=seen)
            assert asked.code == "time_clash", asked
            self.happened["overlapping shift refused"] += 1
        forced = await asyncio.gather(
            *(world.seat_all_the_same(self.clients, midday.activity_id, who, after=seen, unit=self.unit) for who in few[1:])
        )
        assert all("clash_overridden" in each.types for each in forced if each.accepted), forced
        self._judge_seats(forced, (midday,))
        day.last = max((each for each in [seen, *forced] if each.accepted), key=lambda each: each.position)

    # -- At the door

    async def serve(self, day: Day) -> None:
        """From the first arrival until nobody can go out any more."""
        steps: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        doors: list[tuple[Activity, str, str, str]] = [(day.morning, "06:20", "11:10", "11:40"), (day.afternoon, "12:50", "17:30", "18:05")]
        if day.midday is not None:
            doors.append((day.midday, "09:50", "13:30", "14:05"))
        for activity, came, half, over in doors:
            early, late = list[UUID](), list[UUID]()
            steps += [
                (came, partial(self._arrive, day, activity, early, late)),
                (half, partial(self._leave, day, activity, early)),
                (over, partial(self._leave, day, activity, late)),
            ]
        for clock, does in sorted(steps, key=lambda each: each[0]):
            await self.clock.reach(at(day.on, clock))
            day.begun.set()
            await does()
        await self.clock.reach(at(day.on, "20:30"))
        for activity in day.activities:
            self.happened["lapsed offer"] += sum(standing == "expired" for standing in activity.gone.values())
            for who in day.missing.get(activity.activity_id, ()):
                self.people[who].miss_check_out(activity, day.on)
                self.happened["missed check-out"] += 1

    async def _arrive(self, day: Day, activity: Activity, early: list[UUID], late: list[UUID]) -> None:
        """Everybody with a seat, and some who have none any more; then it is settled who goes when, or never."""
        activity.let_offers_lapse()
        seated = activity.seated()
        gone = [who for who in activity.gone if self._chance(0.5)]
        await asyncio.gather(
            *(self._check_in(day, activity, who) for who in seated), *(self._is_refused(day, activity, who) for who in gone)
        )
        early += [who for who in seated if self._chance(0.5)]
        late += [who for who in seated if who not in early and self._chance(0.8)]
        day.missing[activity.activity_id] = {who for who in seated if who not in early + late}

    async def _leave(self, day: Day, activity: Activity, people: Iterable[UUID]) -> None:
        await asyncio.gather(*(self._check_out(day, activity, who) for who in people))

    async def _check_in(self, day: Day, activity: Activity, who: UUID) -> None:
        asked = await self._door(day, activity, who, "check-in")
        assert asked.types == ["checked_in"], asked
        self.people[who].check_in(activity, self.clock.now)
        if self._chance(0.1):
            assert (await self._door(day, activity, who, "check-in")).code == "already_checked_in"

    async def _is_refused(self, day: Day, activity: Activity, who: UUID) -> None:
        asked = await self._door(day, activity, who, "check-in")
        assert asked.code == "not_enrolled", asked

    async def _check_out(self, day: Day, activity: Activity, who: UUID) -> None:
        asked = await self._door(day, activity, who, "check-out")
        assert asked.types == ["checked_out"], asked
        self.people[who].check_out(activity, self.clock.now, day.on)

    async def _door(self, day: Day, activity: Activity, who: UUID, what: str) -> Asked:
        path = f"/activities/{activity.activity_id}/attendance/{who}/{what}"
        return await self.clients.ask("hours", *KIOSK, path, {}, after=[day.last.token], unit=self.unit)

    # -- What was served

    async def count(self, day: Day) -> None:
        """What was approved the day before wins stars; then everybody's time is approved, in each person's own order."""
        people = list(self.people) if day.on == FIRST_DAY else self.staying
        await asyncio.gather(*(self._count(day, who) for who in people))
        if day.on == FIRST_DAY:
            await self._honour(world.volunteer(self.leaver))
            self._at_rest.put_nowait(self.leaver)

    async def _count(self, day: Day, who: UUID) -> None:
        await self._honour(who)
        pending = await self._pending(day, self.people[who])
        overlapping = [
            (one, other)
            for place, one in enumerate(pending)
            for other in pending[place + 1 :]
            if one[0].starts_at < other[0].ends_at and other[0].starts_at < one[0].ends_at and one[0].minutes and other[0].minutes
        ]
        last: Asked | None = None
        if overlapping and self._chance(0.7):
            last = await self._race(who, overlapping[0])
            pending = [each for each in pending if each not in overlapping[0]]
        is_kept = not overlapping and not self.has_kept_a_long_day and sum(entry.minutes for entry, _ in pending) > DAILY_CAP
        self.has_kept_a_long_day |= is_kept
        for entry, entry_id in pending:
            last = await self._approve(who, entry, entry_id, "confirm" if is_kept and entry.minutes else "") or last
        if last is not None:
            self._approved[who] = last, [] if is_kept else [each for each in pending if each[0].state == "counted"]

    async def _honour(self, who: UUID) -> None:
        """Two applications; and now and then what they rest on is corrected, which may lose stars."""
        if who not in self._approved:
            return
        person, (last, entries) = self.people[who], self._approved.pop(who)
        for _ in range(2):
            await self._apply_for_star(person, last)
        if entries and self._chance(0.45):
            last = await self._approve(who, *self.random.choice(entries), "correct" if self._chance(0.8) else "reverse") or last
            self.happened["star lost"] += person.lose_stars()
            held = await self.clients.rows("recognition", "/stars", after=[last.token], volunteer=str(who))
            assert {each["stars"] for each in held} == person.stars, f"{held} of {who}, {person.stars} by the count"

    async def _apply_for_star(self, person: Volunteer, after: Asked) -> None:
        who = person.volunteer_id
        path = f"/volunteers/{who}/stars"
        asked = await self.clients.ask("recognition", who, "volunteer", path, {}, after=[after.token], unit=self.unit)
        expected = person.apply_for_star()
        assert asked.types == expected or (asked.code == "star_already_held" and not expected), asked
        self.happened.update(expected)

    async def _pending(self, day: Day, person: Volunteer) -> list[tuple[Entry, str]]:
        """The person's entries of the day with their ids, when all that must be there are."""
        expected = person.on(day.on, "pending")
        found: list[dict[str, Any]] = []

        async def are_there() -> bool:
            rows = await self.clients.rows("hours", "/confirm-queue", volunteer=str(person.volunteer_id))
            found[:] = [row for row in rows if row["served_on"] == day.on.isoformat()]
            return len(found) >= len(expected)

        await until(are_there, self.clients.patience, f"what {person.volunteer_id} served", every=0.2)
        ids = {(UUID(row["activity_id"]), datetime.fromisoformat(row["starts_at"]), row["minutes"]): row["entry_id"] for row in found}
        wanted = {(entry.activity_id, entry.starts_at, entry.minutes) for entry in expected}
        assert len(found) == len(expected), f"{found}, and by the count {expected}"
        assert ids.keys() == wanted, f"{found}, and by the count {expected}"
        return [(entry, ids[entry.activity_id, entry.starts_at, entry.minutes]) for entry in expected]

    async def _race(self, who: UUID, both: tuple[tuple[Entry, str], tuple[Entry, str]]) -> Asked | None:
        """Two entries of the same time are confirmed at once: one counts, and no minute twice."""
        person = self.people[who]
        body = {"served_on": both[0][0].served_on.isoformat()}
        asked = await asyncio.gather(
            *(
                self.clients.ask("hours", *LEADER, f"/accounts/{who}/entries/{entry_id}/confirm", body, unit=self.unit)
                for _, entry_id in both
            )
        )
        said = sorted(zip(both, asked, strict=True), key=lambda each: each[1].position if each[1].accepted else 2**63)
        for (entry, _), answer in said:
            overlaps = person.overlaps(entry, entry.starts_at, entry.ends_at)
            assert answer.code == ("overlapping_service" if overlaps else ""), answer
            if answer.accepted:
                entry.state = "counted"
        self.happened["same time confirmed twice at once"] += 1
        return said[0][1] if said[0][1].accepted else None

    async def _approve(self, who: UUID, entry: Entry, entry_id: str, how: str = "") -> Asked | None:
        """Confirms, corrects or turns down; a missed check-out is corrected or left. Nothing of what overlaps with what counts."""
        draw = self.random.random()
        how = how or ("correct" if draw < 0.7 else "leave") if not entry.minutes else how or self._choice(draw)
        if how == "leave":
            return None
        body: dict[str, Any] = {"served_on": entry.served_on.isoformat()}
        starts_at, ends_at = entry.starts_at, entry.ends_at
        if how == "correct":
            starts_at += timedelta(minutes=10)
            ends_at = starts_at + timedelta(minutes=self.random.randint(5, 90))
            assert ends_at <= self._slot_end(entry) + OVER_AFTER
            body |= {"starts_at": starts_at.isoformat(), "ends_at": ends_at.isoformat(), "reason": "wrong_time"}
        elif how == "reverse":
            body |= {"reason": "false_record"}
        if how != "confirm":
            body["requester_id"] = str(who)
        path = f"/accounts/{who}/entries/{entry_id}/{how}"
        asked = await self.clients.ask("hours", *LEADER, path, body, unit=self.unit)
        if how != "reverse" and self.people[who].overlaps(entry, starts_at, ends_at):
            assert asked.code == "overlapping_service", asked
            self.happened["overlapping time refused"] += 1
            return None
        assert asked.types[:1] == [f"service_time_{_DONE[how]}"], asked
        self.happened[asked.types[0]] += 1
        entry.starts_at, entry.ends_at = starts_at, ends_at
        entry.state = "reversed" if how == "reverse" else "counted"
        return asked

    def _slot_end(self, entry: Entry) -> datetime:
        return next(each.ends_at for each in reversed(self.activities) if each.activity_id == entry.activity_id)

    @staticmethod
    def _choice(draw: float) -> str:
        return "confirm" if draw < 0.75 else "correct" if draw < 0.9 else "reverse"

    def _chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def _shuffled(self, activities: Iterable[Activity]) -> list[Activity]:
        return self.random.sample(list(activities), len(list(activities)))

    @staticmethod
    async def _each(people: Sequence[UUID], does: Callable[[UUID], Coroutine[Any, Any, list[Asked]]]) -> list[Asked]:
        return [each for some in await asyncio.gather(*map(does, people)) for each in some]


class Season:
    """All circles, and the days so far."""

    def __init__(self, clients: Clients, seed: int, *, circles: int, people: int) -> None:
        self.clients = clients
        self.random = random.Random(seed)
        self.clock = CommonClock(clients.system.travel, at(FIRST_DAY, "03:00"))
        self._at_rest = asyncio.Queue[int]()
        self._to_rest = circles
        self.circles = [
            Circle(
                clients,
                self.clock,
                seed + number,
                range(number * people, (number + 1) * people),
                world.UNITS[number % len(world.UNITS)],
                LEAVERS_FROM + number,
                self._at_rest,
            )
            for number in range(circles)
        ]
        self.days = 0

    @property
    def activities(self) -> list[Activity]:
        return [each for circle in self.circles for each in circle.activities]

    @property
    def people(self) -> dict[UUID, Volunteer]:
        return {who: person for circle in self.circles for who, person in circle.people.items()}

    @property
    def happened(self) -> Counter[str]:
        """What the answers have shown."""
        counted = sum((each.happened for each in self.circles), Counter[str]())
        counted["minutes above the cap"] = sum(each.over_cap for each in self.people.values())
        return counted

    async def leaver(self, within: float) -> int | None:
        """The number of somebody who has served and comes no more; each is given once. None when all were, or nobody is at rest in time."""
        if not self._to_rest:
            return None
        try:
            number = await asyncio.wait_for(self._at_rest.get(), within)
        except TimeoutError:
            return None
        self._to_rest -= 1
        return number

    async def begin(self) -> None:
        """The programme, the policies and the volunteers."""
        await self.clock.set(self.clock.now)
        self.programme = await world.adopt_programme(self.clients)
        self.hours_policy, self.star_policy = await world.adopt_policies(self.clients, STARS_HOURS)
        await asyncio.gather(*(each.begin(self.programme) for each in self.circles))

    async def play(self, stop: asyncio.Event) -> None:
        """Until `stop` is set, and to the end of the day. Fails with the first answer that should have been another."""
        self.clock.players = len(self.circles)
        async with asyncio.TaskGroup() as tasks:
            for circle in self.circles:
                tasks.create_task(self._go_on(circle, stop))

    @staticmethod
    async def _fill_next(circle: Circle, day: Day) -> Day:
        """On the day before at the earliest, so that each offer lapses two hours before the start: in time for none to follow it."""
        await day.begun.wait()
        return await circle.fill(day.on + timedelta(days=1))

    async def _go_on(self, circle: Circle, stop: asyncio.Event) -> None:
        """A day is served while the next one is filled, and the one before is counted."""
        day: Day | None = await circle.fill(FIRST_DAY)
        before: Day | None = None
        while day is not None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(circle.serve(day))
                following = None if stop.is_set() else tasks.create_task(self._fill_next(circle, day))
                if before is not None:
                    tasks.create_task(circle.count(before))
            before, day = day, None if following is None else following.result()
            self.days = max(self.days, (before.on - FIRST_DAY).days + 1)
        await self.clock.leave()
        assert before is not None
        await circle.count(before)
