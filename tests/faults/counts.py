"""What the read models show when everything has come to rest, held against what the model has counted from the answers alone."""

import json
from uuid import UUID

from deploy.local.environment import SERVICES
from tests.faults import world
from tests.faults.clerks import Clerks
from tests.faults.forgotten import check_erased, check_proofs
from tests.faults.invariants import need
from tests.faults.season import Season
from tests.faults.system import System
from tests.faults.witness import by_person


async def check_counts(system: System, season: Season, clerks: Clerks) -> int:
    """Raises BrokenError. Minutes that count."""
    await _seats(system, season)
    await _minutes(system, season)
    await _stars(system, season)
    await _lists(system, season, clerks)
    await check_erased(system, clerks.erased.values())
    await check_proofs(system, clerks.erased.values())
    for service in SERVICES:
        need(await system.sql(service, "SELECT 1 FROM consumer.parked") == [], "I13", f"something is still parked in {service}")
        states = [row["state"] for row in await system.sql(service, "SELECT state FROM es.log")]
        need(states == ["open"], "I18", f"the log of {service} is {states}")
    return sum(each.credited for each in season.people.values())


async def _seats(system: System, season: Season) -> None:
    rows = await system.sql("registration", "SELECT activity_id, volunteer_id, standing FROM api.enrollments")
    counted = {
        (activity.activity_id, who): standing
        for activity in season.activities
        for who, standing in (*activity.gone.items(), *activity.places.items())
    }
    _equal("I9", "seats", {(row["activity_id"], row["volunteer_id"]): row["standing"] for row in rows}, counted)
    shown = await by_person(system, "registration", "SELECT activity_id, taken, offered, waiting FROM api.activities")
    _equal(
        "I9", "activities", shown, {a.activity_id: (a.count("seated"), a.count("offered"), a.count("waiting")) for a in season.activities}
    )


async def _minutes(system: System, season: Season) -> None:
    days = await system.sql("hours", _DAYS)
    counted = {(who, day): minutes for who, person in season.people.items() for day, minutes in person.days().items()}
    _equal("I8", "minutes by day", {(row["volunteer_id"], row["served_on"]): (row["credited"], row["over_cap"]) for row in days}, counted)
    states = await system.sql("hours", "SELECT volunteer_id, state, count(*) AS n FROM api.entries GROUP BY 1, 2")
    entries = {
        (who, state): n
        for who, person in season.people.items()
        for state in ("pending", "counted", "reversed")
        if (n := sum(each.state == state for each in person.entries))
    }
    _equal("I8", "entries", {(row["volunteer_id"], row["state"]): row["n"] for row in states}, entries)
    balances = await by_person(system, "hours", _BALANCES)
    minutes = {who: (person.credited, person.over_cap) for who, person in season.people.items() if person.days()}
    _equal("I8", "balances", {who: found for who, found in balances.items() if who in minutes}, minutes)
    (row,) = await system.sql("hours", "SELECT imbalance_minutes FROM api.ledger_sum")
    need(row["imbalance_minutes"] == 0, "I7", f"the ledger is out of balance by {row['imbalance_minutes']} minutes")


async def _stars(system: System, season: Season) -> None:
    held: dict[UUID, set[int]] = {}
    for row in await system.sql("recognition", "SELECT volunteer_id, stars FROM api.stars"):
        held.setdefault(row["volunteer_id"], set()).add(row["stars"])
    _equal("I8", "stars", held, {who: person.stars for who, person in season.people.items() if person.stars})


async def _lists(system: System, season: Season, clerks: Clerks) -> None:
    overview = await by_person(system, "registration", _OVERVIEW)
    counted = {who: (person.credited, person.over_cap, max(person.stars, default=0)) for who, person in season.people.items()}
    _equal("I13", "overview", overview, counted | dict.fromkeys(clerks.named, (0, 0, 0)))
    roles = await system.sql("registration", "SELECT person_id, is_held FROM api.roles")
    _equal("I13", "roles", {row["person_id"]: row["is_held"] for row in roles}, clerks.roles | dict.fromkeys(world.STAFF, True))
    named = await by_person(system, "registration", "SELECT volunteer_id, may_be_named FROM api.volunteers")
    _equal("I13", "consents", {who: may for who, (may,) in named.items() if who in clerks.named}, clerks.named)


def _equal(code: str, what: str, shown: dict[object, object] | object, counted: dict[object, object] | object) -> None:
    if shown != counted:
        assert isinstance(shown, dict)
        assert isinstance(counted, dict)
        other = {str(key): (str(shown.get(key)), str(counted.get(key))) for key in shown | counted if shown.get(key) != counted.get(key)}
        need(False, code, f"{what}, shown and counted: {json.dumps(dict(list(other.items())[:5]))} and {max(len(other) - 5, 0)} more")


_DAYS = """
    SELECT volunteer_id, served_on, sum(credited_minutes)::bigint AS credited, sum(over_cap_minutes)::bigint AS over_cap
    FROM api.entries WHERE state = 'counted' GROUP BY 1, 2
"""
_BALANCES = "SELECT volunteer_id, sum(timed_minutes)::bigint, sum(over_cap_minutes)::bigint FROM api.balances GROUP BY 1"
_OVERVIEW = "SELECT volunteer_id, timed_minutes, over_cap_minutes, stars::integer FROM api.volunteer_overview"
