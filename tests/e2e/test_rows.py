"""Whose rows somebody sees, over every view and every list: a unit sees what the bureau sees of it and nothing of another, nobody nothing.

What there is is asked of the database and of the OpenAPI documents, and never listed here: a view or a list that is new is tried too.
"""

import json
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final
from uuid import uuid4

import asyncpg
import httpx
import pytest

from deploy.local.environment import SERVICES
from shared.access import logins
from shared.migrate import Roles
from shared.postgres import connect
from tests.e2e.stack import Stack, command
from tests.e2e.stage import OTHER_UNIT, UNIT, Activity, Stage, Volunteer, accepted, on, rows, stream_id

Row = Mapping[str, Any]

UNIT_COLUMNS: Final = ("unit_code", "volunteer_unit_code")
ALL_UNITS_ONLY: Final = frozenset({"erasures", "personal_data_reads", "programme_proposals", "proposed_units", "star_revocations"})
"""Views of which a unit sees nothing, whoever the rows are about."""
COMMON: Final = frozenset({"freshness", "programmes", "programme_words", "hours_policies", "star_policies"})
"""Views of which everybody sees everything who sees anything; their rows are of no unit and of no person."""
SUMS: Final = frozenset({"ledger_sum"})
"""Views of one row, which adds up what its reader sees."""
NOT_IN_BOTH: Final = frozenset({"clashes_overridden"})
"""Views in which only one of the units has a row here."""


@dataclass(frozen=True)
class Owners:
    """By volunteer and by activity, whose they are."""

    volunteers: Mapping[str, str]
    activities: Mapping[str, str]

    def of(self, name: str, row: Row) -> set[str]:
        """The units that a row of a view or a list is of."""
        named = {row[each] for each in UNIT_COLUMNS if row.get(each)} | ({row["code"]} if name == "units" else set())
        if "volunteer_unit_code" not in row and not named.isdisjoint({UNIT, OTHER_UNIT}):
            return named
        about = {self.volunteers.get(str(row.get("volunteer_id"))), self.activities.get(str(row.get("activity_id")))}
        return named | {each for each in about if each}


async def played(stage: Stage, unit: str) -> tuple[Volunteer, Activity]:
    """Somebody of the unit has served two hours that count and one that waits, and was given a star; a kiosk has a key."""
    day = await stage.day()
    person, said = uuid4(), stage.registration("戊己", unit_code=unit, consents=["register", "be_named"])
    registered = accepted(await command(stage.self_("registration", person), "/volunteers", said, After=stage.programme_at))
    volunteer = Volunteer(person, said["name"], said["id_number"], said["phone"], registered["position"])
    published = []
    for begin, end in (("09:00", "11:00"), ("12:00", "13:00")):
        plan = stage.plan(on(day, begin), on(day, end), unit_code=unit)
        answer = accepted(await command(stage.leader("registration", unit), "/activities", plan, After=stage.programme_at))
        published.append(Activity(stream_id(answer), on(day, begin), on(day, end), answer["position"]))
    for activity in published:
        seat = await stage.enroll(volunteer, activity)
        await stage.stack.travel(activity.starts_at)
        door = f"/activities/{activity.id}/attendance/{volunteer.id}"
        accepted(await command(stage.kiosk(unit), f"{door}/check-in", {}, After=seat["position"]))
        await stage.stack.travel(activity.ends_at)
        accepted(await command(stage.kiosk(unit), f"{door}/check-out", {}))
    await stage.stack.settled()
    waiting = await rows(stage.leader("hours", unit), "/confirm-queue", volunteer=str(person))
    entry = next(each for each in waiting if each["activity_id"] == str(published[0].id))
    confirm = f"/accounts/{person}/entries/{entry['entry_id']}/confirm"
    after = accepted(await command(stage.leader("hours", unit), confirm, {"served_on": entry["served_on"]}))["position"]
    accepted(await command(stage.self_("recognition", person), f"/volunteers/{person}/stars", {}, After=after))
    said = {"stars": 1, "reason_code": "own_wish"}
    accepted(await command(stage.bureau("recognition"), f"/volunteers/{person}/revocations", said))
    device = {"unit_code": unit, "name": "签到机", "key_digest": sha256(uuid4().bytes).hexdigest(), "networks": ["127.0.0.1"]}
    accepted(await command(stage.leader("registration", unit), "/devices", device))
    return volunteer, published[0]


@pytest.fixture(scope="module")
async def owners(stage: Stage) -> Owners:
    """Two units at work in all three services, people of each also in activities of the other; somebody was erased."""
    (one, ours), (other, theirs) = await played(stage, UNIT), await played(stage, OTHER_UNIT)
    day = await stage.day()
    for host, guest, home in ((UNIT, other, theirs), (OTHER_UNIT, one, ours)):
        plan = stage.plan(on(day, "14:00"), on(day, "16:00"), unit_code=host)
        answer = accepted(await command(stage.leader("registration", host), "/activities", plan, After=home.after))
        await stage.enroll(guest, Activity(stream_id(answer), on(day, "14:00"), on(day, "16:00"), answer["position"]))
    leaver = await stage.volunteer("郑十")
    accepted(await command(stage.self_("registration", leaver.id), f"/volunteers/{leaver.id}/erasure", {}))
    accepted(await command(stage.bureau("registration"), f"/volunteers/{leaver.id}/erasure/approve", {}))
    await stage.stack.settled()
    for service in SERVICES:
        assert (await stage.self_(service, one.id).get(f"/api/v1/volunteers/{one.id}/copy")).status_code == 200
    volunteers = await stage.stack.sql("registration", "SELECT volunteer_id, unit_code FROM api.volunteers")
    activities = await stage.stack.sql("registration", "SELECT activity_id, unit_code FROM api.activities")
    return Owners(*({str(key): unit for key, unit in found} for found in (volunteers, activities)))


# --- In SQL -------------------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def logged_in(stack: Stack, service: str, units: Sequence[str] | None) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A session of a login that `logins add` would make."""
    roles, password = Roles(stack.database(service)), logins.new_password()
    login = logins.Login(f"login_{uuid4().hex[:12]}", units)
    owner = await connect(stack.dsn(service), "tests")
    async with owner.transaction():
        await logins.add(owner, roles, login, password, datetime.now(UTC) + timedelta(days=1))
    session = await asyncpg.connect(stack.server(service).dsn(stack.database(service), login.name, password), timeout=5)
    try:
        yield session
    finally:
        await session.close(timeout=5)
        await logins.remove(owner, login.name)
        await owner.close(timeout=5)


async def seen(session: "asyncpg.Connection[asyncpg.Record]") -> dict[str, list[Row]]:
    """Every row of every view of schema api."""
    names = await session.fetch("SELECT viewname FROM pg_views WHERE schemaname = 'api' ORDER BY 1")
    return {
        name: [json.loads(row) for (row,) in await session.fetch(f'SELECT to_jsonb(one)::text FROM api."{name}" AS one')]
        for (name,) in names
    }


def counted(found: Collection[Row]) -> Counter[str]:
    """The rows as a bag."""
    return Counter(json.dumps(row, sort_keys=True, ensure_ascii=False) for row in found)


@pytest.mark.parametrize("service", SERVICES)
async def test_in_sql_a_unit_sees_of_every_view_what_the_bureau_sees_of_that_unit(stage: Stage, owners: Owners, service: str) -> None:
    async with logged_in(stage.stack, service, None) as bureau, logged_in(stage.stack, service, [UNIT]) as unit:
        whole, own = await seen(bureau), await seen(unit)
    assert whole.keys() == own.keys()
    assert len(whole) >= 5
    for name, found in whole.items():
        if name in SUMS:
            assert len(own[name]) == 1, name
        elif name in COMMON:
            assert found, name
            assert [{**row, "as_of": None} for row in own[name]] == [{**row, "as_of": None} for row in found], name
            assert not any(str(owner) in json.dumps(found) for owner in (*owners.volunteers, *owners.activities)), name
        elif name in ALL_UNITS_ONLY:
            assert found, name
            assert own[name] == [], name
        else:
            of_us = [row for row in found if UNIT in owners.of(name, row)]
            of_others = [row for row in found if UNIT not in owners.of(name, row)]
            assert all(owners.of(name, row) for row in found), f"{name}: whose are its rows?"
            assert (of_us and of_others) or name in NOT_IN_BOTH, f"{name}: this proves nothing"
            assert counted(own[name]) == counted(of_us), name


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.usefixtures("owners")
async def test_in_sql_several_units_are_seen_together_and_a_unit_without_rows_sees_none(stage: Stage, service: str) -> None:
    async with (
        logged_in(stage.stack, service, [UNIT, OTHER_UNIT]) as both,
        logged_in(stage.stack, service, [UNIT]) as one,
        logged_in(stage.stack, service, [OTHER_UNIT]) as other,
    ):
        together, apart = await seen(both), (await seen(one), await seen(other))
    for name in together.keys() - SUMS - {"freshness"}:  # Which goes on from one look to the next.
        assert counted(together[name]) == counted(apart[0][name]) | counted(apart[1][name]), name


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("role", ["reader", "query"])
@pytest.mark.usefixtures("owners")
async def test_in_sql_nobody_in_particular_sees_no_row_of_any_view(stage: Stage, service: str, role: str) -> None:
    session = await asyncpg.connect(stage.stack.dsn(service, "admin"), timeout=5)
    await session.execute(f'SET ROLE "{getattr(Roles(stage.stack.database(service)), role)}"')
    assert {name: found for name, found in (await seen(session)).items() if found} == {}
    await session.close(timeout=5)


# --- Over HTTP ----------------------------------------------------------------------------------------------------------------------


async def lists(client: httpx.AsyncClient) -> Mapping[str, bool]:
    """By path, every list of a service, and whether it is everybody's."""
    document = (await client.get("/api/v1/openapi.json")).json()
    found = {}
    for path, methods in document["paths"].items():
        asked = methods.get("get")
        if asked is None or "{" in path or '"freshness"' not in json.dumps(asked):
            continue
        security = asked.get("security", document.get("security", []))
        found[path] = not security or {} in security
    return found


async def walked(client: httpx.AsyncClient, path: str) -> list[Row] | int:
    """All rows, page by page; the status where there are none to be had."""
    found: list[Row] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await client.get(path, params={"limit": "200", **cursor})
        if answer.status_code != 200:
            return answer.status_code
        page = answer.json()
        found += page["items"]
        if not page.get("next"):
            return found
        cursor = {"cursor": page["next"]}


@pytest.mark.parametrize("service", SERVICES)
async def test_over_http_a_unit_is_given_of_every_list_what_is_the_units_or_everybodys(stage: Stage, owners: Owners, service: str) -> None:
    bureau, unit = stage.bureau(service), stage.leader(service)
    known = await lists(bureau)
    assert len(known) >= 4
    async with httpx.AsyncClient(base_url=bureau.base_url, timeout=10) as nobody:
        for path, is_public in known.items():
            name = path.rpartition("/")[2].replace("-", "_")
            whole, own, nobodys = await walked(bureau, path), await walked(unit, path), await walked(nobody, path)
            if is_public:  # It hides nothing from anybody: being somebody adds nothing.
                assert own == nobodys == whole, path
                continue
            assert nobodys == 401, path
            if own == 403:
                continue
            assert isinstance(whole, list), path
            assert isinstance(own, list), path
            of_us = [row for row in whole if UNIT in owners.of(name, row)]
            assert all(owners.of(name, row) for row in whole), f"{path}: whose are its rows?"
            assert 0 < len(of_us) < len(whole), f"{path}: this proves nothing"
            assert counted(own) == counted(of_us), path


async def test_over_http_another_unit_sees_the_rest(stage: Stage, owners: Owners) -> None:
    """The check can fail: what one unit is not given is there, and is another's."""
    theirs = await walked(stage.leader("hours", OTHER_UNIT), "/api/v1/history")
    ours = await walked(stage.leader("hours"), "/api/v1/history")
    assert isinstance(theirs, list)
    assert isinstance(ours, list)
    assert len(theirs) > 0 < len(ours)
    assert counted(theirs) & counted(ours) == Counter()
    assert {unit for row in theirs for unit in owners.of("history", row)} == {OTHER_UNIT}
