"""Day after day of the programme, played by concurrent people through the public commands, each day counted by the model."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from tests.faults import world
from tests.faults.clients import Asked, Clients
from tests.faults.model import DAILY_CAP, OVER_AFTER, Activity, Entry, Volunteer
from tests.faults.system import until
from tests.faults.world import KIOSK, LEADER, at

PEOPLE = 8
STARS_HOURS = (2, 5, 10, 20, 40)
"""Low, so that they are soon won, and soon lost by a correction."""
PENDING_WITHIN_S = 60.0


class Season:
    """The days so far. Every answer is held against the model when the phase that it belongs to is over."""

    def __init__(self, clients: Clients, seed: int) -> None:
        self.clients = clients
        self.random = random.Random(seed)
        self.day = date(2017, 3, 5)
        self.now = at(self.day, "05:00")
        self.activities: list[Activity] = []
        self.people = {
            world.volunteer(number): Volunteer(world.volunteer(number), [60 * hours for hours in STARS_HOURS]) for number in range(PEOPLE)
        }
        self.registered: dict[UUID, Asked] = {}
        self.stars_lost = 0
        self.has_kept_a_long_day = False
        """One day above the cap is confirmed as it was served, whatever chance does with the others."""
        self.lapsed = 0

    async def begin(self) -> None:
        """The programme, the policies and the volunteers."""
        await self.clients.system.travel(self.now)
        self.programme = await world.adopt_programme(self.clients)
        hours, stars = (
            (world.SAMPLE / "hours-policy.yaml").read_text(),
            f"""
            version: "faults"
            effective_from: 2017-01-01
            thresholds_hours: [{", ".join(map(str, STARS_HOURS))}]
        """,
        )
        self.hours_policy = await self.clients.ask("hours", *world.BUREAU, "/hours-policies", {"file": hours})
        self.star_policy = await self.clients.ask("recognition", *world.BUREAU, "/star-policies", {"file": stars})
        registered = await asyncio.gather(*(world.register(self.clients, number, self.programme) for number in range(PEOPLE)))
        assert all(each.accepted for each in registered), registered
        self.registered = dict(zip(self.people, registered, strict=True))

    async def play_a_day(self) -> None:
        """Enrol, serve in the morning and in the afternoon, approve, apply for stars; then the next day begins."""
        morning, afternoon = await self._publish("08:00", "12:00", 4), await self._publish("13:00", "18:00", 5)
        for about in (self._ask_for_seats, self._answer_offers):
            asked = await self._everybody(lambda who, about=about: about(who, (morning, afternoon)))  # type: ignore[misc]
            self._judge_seats(asked, (morning, afternoon))
        self.last = max((each for each in self.clients.accepted if each.service == "registration"), key=lambda each: each.position)
        missing = set[UUID]()
        for activity, times in ((morning, ("07:50", "11:50", "12:10")), (afternoon, ("12:50", "17:30", "18:05"))):
            missing |= await self._serve(activity, times)
        await self._travel("20:30")
        self.lapsed += sum(standing == "expired" for each in (morning, afternoon) for standing in each.gone.values())
        for activity in (morning, afternoon):
            for who in missing:
                if activity.activity_id in self.people[who].inside:
                    self.people[who].miss_check_out(activity, self.day)
        await self._everybody(self._count)
        self.day += timedelta(days=1)
        await self._travel("05:00")

    async def _publish(self, starts: str, ends: str, capacity: int) -> Activity:
        starts_at, ends_at = at(self.day, starts), at(self.day, ends)
        published = await world.publish(self.clients, self.programme, starts_at, ends_at, capacity=capacity, wait_list_max=2)
        assert published.accepted, published
        activity = Activity(world.activity_of(published), starts_at, ends_at, capacity, 2)
        self.activities.append(activity)
        return activity

    async def _ask_for_seats(self, who: UUID, activities: Iterable[Activity]) -> list[Asked]:
        """Asks, sometimes gives up, and sometimes comes back."""
        asked, first = [], self.registered[who]
        for activity in self._shuffled(activities):
            asked.append(await world.enroll(self.clients, activity.activity_id, who, after=first))
            if asked[-1].accepted and self._chance(0.3):
                asked.append(await world.withdraw(self.clients, activity.activity_id, who, after=first))
                if self._chance(0.5):
                    asked.append(await world.enroll(self.clients, activity.activity_id, who, after=first))
        return asked

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

    def _judge_seats(self, asked: list[Asked], activities: Iterable[Activity]) -> None:
        """Replays what was accepted in the log's order: each answer must be the one that the seats allowed."""
        by_id = {str(each.activity_id): each for each in activities}
        for each in sorted((each for each in asked if each.accepted), key=lambda each: each.position):
            activity = by_id[each.path.split("/")[2]]
            who = UUID(each.body["volunteer_id"]) if each.path.endswith("enrollments") else UUID(each.path.split("/")[4])
            if each.path.endswith("enrollments"):
                expected = activity.enroll(who)
            else:
                expected = activity.accept(who) if each.path.endswith("accept") else activity.withdraw(who)
            assert each.types == expected, each
        assert {each.code for each in asked if not each.accepted} <= {"activity_full"}

    async def _serve(self, activity: Activity, times: tuple[str, str, str]) -> set[UUID]:
        """In at the first time, out at the second or third, or never; who never went out."""
        came, half, over = times
        await self._travel(came)
        activity.let_offers_lapse()
        seated = activity.seated()
        await self._at_the_door(seated, lambda who: self._check_in(activity, who))
        await self._at_the_door([who for who in activity.gone if self._chance(0.5)], lambda who: self._is_refused(activity, who))
        early = [who for who in seated if self._chance(0.5)]
        late = [who for who in seated if who not in early and self._chance(0.8)]
        for clock, people in ((half, early), (over, late)):
            await self._travel(clock)
            await self._at_the_door(people, lambda who: self._check_out(activity, who))
        return {who for who in seated if who not in early + late}

    async def _check_in(self, activity: Activity, who: UUID) -> None:
        asked = await self._door(activity, who, "check-in")
        assert asked.types == ["checked_in"], asked
        self.people[who].check_in(activity, self.now)
        if self._chance(0.1):
            assert (await self._door(activity, who, "check-in")).code == "already_checked_in"

    async def _is_refused(self, activity: Activity, who: UUID) -> None:
        asked = await self._door(activity, who, "check-in")
        assert asked.code == "not_enrolled", asked

    async def _check_out(self, activity: Activity, who: UUID) -> None:
        asked = await self._door(activity, who, "check-out")
        assert asked.types == ["checked_out"], asked
        self.people[who].check_out(activity, self.now, self.day)

    async def _door(self, activity: Activity, who: UUID, what: str) -> Asked:
        path = f"/activities/{activity.activity_id}/attendance/{who}/{what}"
        return await self.clients.ask("hours", *KIOSK, path, {}, after=[self.last.token])

    async def _count(self, who: UUID) -> None:
        """Approves what the person served today, in the person's own order, and applies for stars."""
        person = self.people[who]
        pending = await self._pending(person)
        last: Asked | None = None
        is_kept = not self.has_kept_a_long_day and sum(entry.minutes for entry, _ in pending) > DAILY_CAP
        self.has_kept_a_long_day |= is_kept
        for entry, entry_id in pending:
            last = await self._approve(who, entry, entry_id, "confirm" if is_kept else "") or last
        if last is None:
            return
        for _ in range(2):
            asked = await self.clients.ask("recognition", who, "volunteer", f"/volunteers/{who}/stars", {}, after=[last.token])
            expected = person.apply_for_star()
            assert asked.types == expected or (asked.code == "star_already_held" and not expected), asked
        for entry, entry_id in pending:
            if entry.state == "counted" and not is_kept and self._chance(0.3):
                last = await self._approve(who, entry, entry_id, "correct")
                self.stars_lost += person.lose_stars()
                assert last is not None
                held = await self.clients.rows("recognition", "/stars", after=[last.token], volunteer=str(who))
                assert {each["stars"] for each in held} == person.stars

    async def _pending(self, person: Volunteer) -> list[tuple[Entry, str]]:
        """The person's entries of today with their ids, when all that must be there are."""
        expected = person.on(self.day, "pending")
        found: list[dict[str, Any]] = []

        async def are_there() -> bool:
            rows = await self.clients.rows("hours", "/confirm-queue", volunteer=str(person.volunteer_id))
            found[:] = [row for row in rows if row["served_on"] == self.day.isoformat()]
            return len(found) >= len(expected)

        await until(are_there, PENDING_WITHIN_S, f"what {person.volunteer_id} served")
        ids = {(UUID(row["activity_id"]), datetime.fromisoformat(row["starts_at"]), row["minutes"]): row["entry_id"] for row in found}
        assert len(ids) == len(found) == len(expected)
        return [(entry, ids[entry.activity_id, entry.starts_at, entry.minutes]) for entry in expected]

    async def _approve(self, who: UUID, entry: Entry, entry_id: str, how: str = "") -> Asked | None:
        """Confirms, corrects or turns down; a missed check-out is corrected or left."""
        draw = self.random.random()
        how = how or ("correct" if draw < 0.7 else "leave") if not entry.minutes else how or self._choice(draw)
        if how == "leave":
            return None
        body: dict[str, Any] = {"served_on": self.day.isoformat()}
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
        asked = await self.clients.ask("hours", *LEADER, f"/accounts/{who}/entries/{entry_id}/{how}", body)
        assert asked.types[:1] == [f"service_time_{_DONE[how]}"], asked
        entry.starts_at, entry.ends_at = starts_at, ends_at
        entry.state = "reversed" if how == "reverse" else "counted"
        return asked

    def _slot_end(self, entry: Entry) -> datetime:
        return next(each.ends_at for each in self.activities if each.activity_id == entry.activity_id)

    @staticmethod
    def _choice(draw: float) -> str:
        return "confirm" if draw < 0.75 else "correct" if draw < 0.9 else "reverse"

    def _chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def _shuffled(self, activities: Iterable[Activity]) -> list[Activity]:
        return self.random.sample(list(activities), len(list(activities)))

    async def _travel(self, clock: str) -> None:
        self.now = at(self.day, clock)
        await self.clients.system.travel(self.now)

    async def _everybody(self, does: Callable[[UUID], Coroutine[Any, Any, Any]]) -> list[Asked]:
        done = await asyncio.gather(*(does(who) for who in self.people))
        return [each for some in done if some for each in some]

    @staticmethod
    async def _at_the_door(people: Iterable[UUID], does: Callable[[UUID], Coroutine[Any, Any, None]]) -> None:
        await asyncio.gather(*(does(who) for who in people))


_DONE = {"confirm": "confirmed", "correct": "corrected", "reverse": "reversed"}
