"""The small world of these tests: an invented programme, its volunteers, and what they ask for."""

from collections.abc import Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from deploy.local.keys import person_id
from services.registration.programme_file import proposal_of
from tests.faults.clients import Asked, Clients

SAMPLE = Path(__file__).parents[2] / "deploy" / "sample"
UNIT = "water-saving-office"
UNITS = (UNIT, "river-management-station", "rural-water-station", "reservoir-station", "general-office", "policy-and-law-office")
BUREAU = ("局长甲", "bureau_admin")
DEPUTY = ("副局长丁", "bureau_admin")
LEADER = ("科长乙", "unit_admin")
KIOSK = ("签到机一", "kiosk")
STAFF = tuple(person_id(name) for name, _ in (BUREAU, DEPUTY, LEADER, KIOSK))
ZONE = ZoneInfo("Asia/Shanghai")
NAME = "赵小山"
CANARIES = (NAME, "钱小河", "孙小岸", "9900001980")
"""The names of all volunteers, and how their ID numbers begin: what nobody may read outside a sealed field."""


def at(day: date, clock: str) -> datetime:
    """An instant by the wall clock."""
    return datetime.combine(day, time.fromisoformat(clock), ZONE)


def volunteer(number: int) -> UUID:
    """The id of an invented volunteer."""
    return person_id(f"志愿者{number}")


def name_of_their_own(number: int) -> str:
    """Of somebody who may be erased: by it every trace of them is found."""
    return f"孙小岸{number}"


def id_number(number: int) -> str:
    """A well-formed ID number that nobody has: the region does not exist."""
    digits = f"9900001980{1 + number // 1000 % 12:02}01{number % 1000:03}"
    total = sum(int(digit) * weight for digit, weight in zip(digits, (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2), strict=True))
    return digits + "10X98765432"[total % 11]


async def adopt_programme(clients: Clients) -> Asked:
    """The programme of 2017 and its units, by the two who may adopt it; and roles for all who act in this world."""
    everybody = [(*BUREAU, "bureau"), (*DEPUTY, "bureau"), *((*who, unit) for unit in UNITS for who in (LEADER, KIOSK))]
    await clients.system.appoint(*everybody)
    file = (SAMPLE / "programme-2017.yaml").read_text()
    await clients.ask("registration", *BUREAU, "/programmes", {"file": file})
    return await clients.ask("registration", *DEPUTY, f"/programmes/{proposal_of(file)[0]}/approve", {})


async def adopt_policies(clients: Clients, stars_hours: Sequence[int]) -> tuple[Asked, Asked]:
    """How hours count, as in the sample, and how many of them each star needs."""
    stars = f"""
        version: "faults"
        effective_from: 2017-01-01
        thresholds_hours: [{", ".join(map(str, stars_hours))}]
    """
    return (
        await clients.ask("hours", *BUREAU, "/hours-policies", {"file": (SAMPLE / "hours-policy.yaml").read_text()}),
        await clients.ask("recognition", *BUREAU, "/star-policies", {"file": stars}),
    )


async def register(
    clients: Clients, number: int, programme: Asked, unit: str = UNIT, *, name: str = NAME, with_number_of: int | None = None
) -> Asked:
    """A volunteer registers, by consent; with the ID number that belongs to the number, or to another one."""
    body = {
        "unit_code": unit,
        "name": name,
        "id_number": id_number(number if with_number_of is None else with_number_of),
        "consents": ["register"],
        "consent_text_version": "2017-1",
    }
    return await clients.ask("registration", volunteer(number), "volunteer", "/volunteers", body, after=[programme.token], unit=unit)


async def publish(
    clients: Clients, programme: Asked, starts_at: datetime, ends_at: datetime, *, capacity: int, wait_list_max: int, unit: str = UNIT
) -> Asked:
    """An activity with one position."""
    body: dict[str, Any] = {
        "unit_code": unit,
        "title": "清洁河道",
        "carrier": "caring-for-nature",
        "place": "淄河岸边",
        "starts_at": starts_at.isoformat(),
        "ends_at": ends_at.isoformat(),
        "positions": [{"code": "cleaner", "name": "清洁员", "capacity": capacity}],
        "wait_list_max": wait_list_max,
    }
    return await clients.ask("registration", *LEADER, "/activities", body, after=[programme.token], unit=unit)


def activity_of(published: Asked) -> UUID:
    """The id that an activity was given."""
    return UUID(published.answer["stream"].partition("-")[2])


async def enroll(clients: Clients, activity: UUID, who: UUID, *, after: Asked, through: str | None = None) -> Asked:
    """A volunteer asks for a seat."""
    body = {"volunteer_id": str(who), "position": "cleaner"}
    path = f"/activities/{activity}/enrollments"
    return await clients.ask("registration", who, "volunteer", path, body, after=[after.token], through=through)


async def seat_all_the_same(clients: Clients, activity: UUID, who: UUID, *, after: Asked, unit: str) -> Asked:
    """A coordinator enrols somebody who has a seat elsewhere at that time."""
    body = {"volunteer_id": str(who), "position": "cleaner", "override_reason": "人手不足"}
    return await clients.ask("registration", *LEADER, f"/activities/{activity}/enrollments", body, after=[after.token], unit=unit)


async def withdraw(clients: Clients, activity: UUID, who: UUID, *, after: Asked, through: str | None = None) -> Asked:
    """A volunteer gives the place up."""
    path = f"/activities/{activity}/enrollments/{who}/withdraw"
    return await clients.ask("registration", who, "volunteer", path, {}, after=[after.token], through=through)


async def accept(clients: Clients, activity: UUID, who: UUID, *, after: Asked, through: str | None = None) -> Asked:
    """A volunteer takes the seat on offer."""
    path = f"/activities/{activity}/enrollments/{who}/accept"
    return await clients.ask("registration", who, "volunteer", path, {}, after=[after.token], through=through)
