"""What every play needs: the programme and the policies, people of its own, and a day on which nothing else happens.

Nothing here may be said twice to different effect: what is shared has fixed keys, so whoever comes second is given the first answer, and
what is not shared is made anew for each caller.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import httpx

from deploy.local.environment import base_url
from deploy.sample.year import id_number
from services.registration.programme_file import proposal_of
from shared.clock import CIVIL_ZONE
from tests.e2e.stack import Stack, command
from tests.loopback import NO_TLS

SAMPLE: Final = Path(__file__).parents[2] / "deploy" / "sample"
UNIT: Final = "water-saving-office"
OTHER_UNIT: Final = "river-management-station"
STAR_POLICY: Final = """
version: "e2e"
effective_from: 2017-01-01
thresholds_hours: [2, 100, 200, 300, 400]
"""
CAST: Final = (
    ("局长甲", "bureau_admin", "water-bureau"),
    ("局长甲", "bureau_admin", "bureau"),
    ("副局长丁", "bureau_admin", "water-bureau"),
    ("科长丙", "unit_admin", UNIT),
    *((f"科长乙 {unit}", "unit_admin", unit) for unit in (UNIT, OTHER_UNIT)),
    *((f"签到机 {unit}", "kiosk", unit) for unit in (UNIT, OTHER_UNIT)),
)
"""Who holds which role from the beginning."""
_BEGIN: Final = "2016-12-20T09:00"
_FIRST_DAY: Final = date(2017, 1, 9)


def civil(text: str) -> datetime:
    """An instant by the bureau's wall clock."""
    return datetime.fromisoformat(text).replace(tzinfo=CIVIL_ZONE)


def on(day: date, time: str) -> datetime:
    """A time of that civil day."""
    return civil(f"{day.isoformat()}T{time}")


def accepted(answer: httpx.Response) -> dict[str, Any]:
    """The body of an accepted command."""
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def stream_id(answer: Mapping[str, Any]) -> UUID:
    """The id of the stream that an accepted command changed."""
    return UUID(answer["stream"].partition("-")[2])


async def rows(client: httpx.AsyncClient, path: str, after: str | None = None, **filters: str) -> list[dict[str, Any]]:
    """The first page of a query."""
    answer = await client.get(f"/api/v1{path}", params=filters, headers={"After": after} if after else {})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


@dataclass(frozen=True, slots=True)
class Volunteer:
    """Somebody who has registered, and what they said of themself. `after` is where it stands in the log."""

    id: UUID
    name: str
    id_number: str
    phone: str
    after: str


@dataclass(frozen=True, slots=True)
class Activity:
    """An activity that was published. `after` is where it stands in the log."""

    id: UUID
    starts_at: datetime
    ends_at: datetime
    after: str


class _Token(httpx.Auth):
    """A token made for each request: one lives 15 minutes, a run of all tests may take longer."""

    def __init__(self, stack: Stack, person: str | UUID, role: str, unit: str) -> None:
        self._stack, self._person, self._role, self._unit = stack, person, role, unit

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = self._stack.token(self._person, self._role, self._unit)
        yield request


class Stage:
    """The stack with its programme and policies adopted."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._clients: dict[tuple[str, ...], httpx.AsyncClient] = {}
        self._last_day = _FIRST_DAY
        self._numbers = count(1)
        self.programme_at = ""

    async def set(self, *more: tuple[str, str, str]) -> None:
        """Roles, those of the cast and `more`; programme, hours policy and star policy."""
        if await self.now() is None:
            await self.stack.travel(civil(_BEGIN))
        await self.stack.appoint(*CAST, *more)
        programme = (SAMPLE / "programme-2017.yaml").read_text()
        hours_policy = {"file": (SAMPLE / "hours-policy.yaml").read_text()}
        self.programme_at = await self.adopt(programme)
        accepted(await command(self.bureau("hours"), "/hours-policies", hours_policy, key="e2e"))
        accepted(await command(self.bureau("recognition"), "/star-policies", {"file": STAR_POLICY}, key="e2e"))
        await self.stack.settled(60)  # The processes have just started, on a machine that may be busy.

    async def adopt(self, programme: str) -> str:
        """A programme's file, proposed by one and approved by another; where that stands in the log."""
        accepted(await command(self.bureau("registration"), "/programmes", {"file": programme}, key="e2e"))
        approve = f"/programmes/{proposal_of(programme)[0]}/approve"
        return str(accepted(await command(self.deputy(), approve, {}, key="e2e"))["position"])

    async def close(self) -> None:
        """Ends the connections."""
        for client in self._clients.values():
            await client.aclose()

    async def now(self) -> datetime | None:
        """Where the travelling clock stands."""
        found: datetime | None = (await self.stack.sql("registration", 'SELECT "now" FROM es.log'))[0]["now"]
        return found

    async def day(self, not_before: date = _FIRST_DAY) -> date:
        """A civil day that nobody else was given, and that is still to come."""
        now = await self.now()
        assert now is not None
        self._last_day = max(not_before, self._last_day + timedelta(days=1), now.astimezone(CIVIL_ZONE).date() + timedelta(days=1))
        return self._last_day

    def client(self, service: str, person: str | UUID, role: str, unit: str) -> httpx.AsyncClient:
        """A person in front of one service."""
        key = (service, str(person), role, unit)
        if key not in self._clients:
            url, token = base_url(self.stack.ports, service), _Token(self.stack, person, role, unit)
            self._clients[key] = httpx.AsyncClient(base_url=url, auth=token, timeout=10, verify=NO_TLS)
        return self._clients[key]

    def bureau(self, service: str) -> httpx.AsyncClient:
        """The bureau's administrator."""
        return self.client(service, "局长甲", "bureau_admin", "water-bureau")

    def deputy(self, service: str = "registration") -> httpx.AsyncClient:
        """The second person of the bureau."""
        return self.client(service, "副局长丁", "bureau_admin", "water-bureau")

    def leader(self, service: str, unit: str = UNIT) -> httpx.AsyncClient:
        """Who leads and approves for a unit."""
        return self.client(service, f"科长乙 {unit}", "unit_admin", unit)

    def kiosk(self, unit: str = UNIT) -> httpx.AsyncClient:
        """The machine at the door."""
        return self.client("hours", f"签到机 {unit}", "kiosk", unit)

    def self_(self, service: str, volunteer: UUID) -> httpx.AsyncClient:
        """A volunteer for themself."""
        return self.client(service, volunteer, "volunteer", UNIT)

    def registration(self, name: str, **other: Any) -> dict[str, Any]:
        """What somebody says who registers; the ID number is nobody else's, and nobody's at all."""
        number = next(self._numbers)
        said = {
            "unit_code": UNIT,
            "name": name,
            "id_number": id_number(date(1980, 5, 1), number),
            "phone": f"1990000{number:04d}",
            "consents": ["register"],
            "consent_text_version": "2017-1",
        }
        return {**said, **other}

    async def volunteer(self, name: str, **headers: str) -> Volunteer:
        """Registers somebody new."""
        person, said = uuid4(), self.registration(name)
        answer = await command(self.self_("registration", person), "/volunteers", said, After=self.programme_at, **headers)
        return Volunteer(person, name, said["id_number"], said["phone"], accepted(answer)["position"])

    def plan(self, starts_at: datetime, ends_at: datetime, /, **other: Any) -> dict[str, Any]:
        """What an activity's plan says, with one position `cleaner`."""
        said = {
            "unit_code": UNIT,
            "title": "清洁河道",
            "carrier": "caring-for-nature",
            "place": "淄河岸边",
            "starts_at": starts_at.isoformat(),
            "ends_at": ends_at.isoformat(),
            "positions": [{"code": "cleaner", "name": "清洁员", "capacity": 5}],
        }
        return {**said, **other}

    async def activity(self, starts_at: datetime, ends_at: datetime, capacity: int = 5, wait_list: int = 5, /, **headers: str) -> Activity:
        """Publishes one more activity of the unit."""
        positions = [{"code": "cleaner", "name": "清洁员", "capacity": capacity}]
        body = self.plan(starts_at, ends_at, positions=positions, wait_list_max=wait_list)
        answer = accepted(await command(self.leader("registration"), "/activities", body, After=self.programme_at, **headers))
        return Activity(stream_id(answer), starts_at, ends_at, answer["position"])

    async def enroll(self, volunteer: Volunteer, activity: Activity, **headers: str) -> dict[str, Any]:
        """The volunteer asks for a seat, or for a place on the wait-list."""
        body = {"volunteer_id": str(volunteer.id), "position": "cleaner"}
        after = f"{volunteer.after}, {activity.after}"
        asking = self.self_("registration", volunteer.id)
        return accepted(await command(asking, f"/activities/{activity.id}/enrollments", body, After=after, **headers))

    async def door(self, move: str, volunteer: Volunteer, activity: Activity, **headers: str) -> httpx.Response:
        """`check-in` or `check-out` at the kiosk."""
        return await command(self.kiosk(), f"/activities/{activity.id}/attendance/{volunteer.id}/{move}", {}, **headers)

    async def waiting(self, volunteer: Volunteer, activity: Activity) -> list[dict[str, Any]]:
        """The entries of one person at one activity that wait for approval, once a check-out has led to what it leads to."""
        await self.stack.settled()
        return await rows(self.leader("hours"), "/confirm-queue", volunteer=str(volunteer.id), activity=str(activity.id))

    async def served(self, volunteer: Volunteer, activity: Activity, comes: datetime, goes: datetime, **headers: str) -> dict[str, Any]:
        """Enrols, comes and goes at these times; the entry that waits for approval."""
        seat = await self.enroll(volunteer, activity, **headers)
        await self.stack.travel(comes)
        accepted(await self.door("check-in", volunteer, activity, After=seat["position"], **headers))
        await self.stack.travel(goes)
        accepted(await self.door("check-out", volunteer, activity, **headers))
        [entry] = await self.waiting(volunteer, activity)
        return entry

    async def confirm(self, entry: Mapping[str, Any], **headers: str) -> dict[str, Any]:
        """The unit's leader says that it counts."""
        path = f"/accounts/{entry['volunteer_id']}/entries/{entry['entry_id']}/confirm"
        return accepted(await command(self.leader("hours"), path, {"served_on": entry["served_on"]}, **headers))
