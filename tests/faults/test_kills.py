"""Each process is killed in turn, and one is stopped past its lock, while people go on: every total agrees with an independent count."""

import asyncio
import json
import random
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from time import monotonic
from uuid import UUID

import pytest

from deploy.local.environment import SERVICES
from tests.faults.clients import Asked, Clients
from tests.faults.season import Season
from tests.faults.system import PROCESSES, System, until
from tests.faults.witness import by_person, check_answers, check_dense, check_published, stored
from tests.faults.world import UNIT

SEED = 8
ROLES = ("relay", "views", "inbox", "withdrawals")
SEASON_SECONDS_MAX = 200.0
DAYS_MIN = 6
BETWEEN_KILLS = 25
"""So many commands are answered between a recovery and the next kill: faults hit work, not a system that lies still."""
RECOVERY_SECONDS_MAX = 30.0


@dataclass
class Report:
    """What the run saw."""

    recoveries: dict[str, float] = field(default_factory=dict)
    takeover: float = 0.0
    days: int = 0


@dataclass
class Played:
    """The season, when everything has come to rest."""

    system: System
    season: Season
    report: Report

    @property
    def clients(self) -> Clients:
        return self.season.clients


@pytest.fixture(scope="module")
async def played(system: System) -> AsyncIterator[Played]:
    """A season under kills, played once; the tests look at what is left."""
    system.start()
    clients = Clients(system, SEED, unit=UNIT, impatient=0.1)
    season, report = Season(clients, SEED), Report()
    await season.begin()
    faults = asyncio.create_task(break_things(system, clients, report))
    try:
        async with asyncio.timeout(SEASON_SECONDS_MAX):
            while not faults.done() or report.days < DAYS_MIN:
                await season.play_a_day()
                report.days += 1
            await faults
    finally:
        faults.cancel()
        await asyncio.gather(faults, return_exceptions=True)
    await system.settled(60)
    print(summary(clients, season, report))
    yield Played(system, season, report)
    await clients.close()


async def break_things(system: System, clients: Clients, report: Report) -> None:
    """SIGKILL of each process in turn, in the middle of its work; then a worker is stopped until its standby has taken over."""
    order = random.Random(SEED).sample(PROCESSES, len(PROCESSES))
    for name in order:
        await some_answers(clients)
        service, _, role = name.partition("-")
        if role == "api":
            await until(lambda s=service: clients.in_flight[s] > 0, RECOVERY_SECONDS_MAX, f"a command of {service}")  # type: ignore[misc]
        system.kill(name)
        began = monotonic()
        system.launch(name)
        await system.ready(name)
        if role == "worker":
            await follows(system, service)
        report.recoveries[name] = monotonic() - began
    await some_answers(clients)
    await pause_a_worker(system, clients, report)


async def pause_a_worker(system: System, clients: Clients, report: Report) -> None:
    system.launch("hours-worker-2")
    await system.ready("hours-worker-2")
    before = {role: await system.metric("hours-worker", "worker_role_held", role=role) for role in ROLES}
    assert all(before.values()), before
    system.processes["hours-worker"].send(signal.SIGSTOP)
    began = monotonic()
    await holds_all(system, "hours-worker-2")
    report.takeover = monotonic() - began
    await follows(system, "hours")
    await some_answers(clients)
    system.processes["hours-worker"].send(signal.SIGCONT)
    await until(lambda: has_given_up(system, "hours-worker"), RECOVERY_SECONDS_MAX, "the resumed worker gives its roles up")
    await some_answers(clients)
    system.kill("hours-worker-2")
    await holds_all(system, "hours-worker")


async def holds_all(system: System, name: str) -> None:
    async def all_held() -> bool:
        return all([await system.metric(name, "worker_role_held", role=role) for role in ROLES])

    await until(all_held, RECOVERY_SECONDS_MAX, f"{name} takes all roles")


async def has_given_up(system: System, name: str) -> bool:
    return not any([await system.metric(name, "worker_role_held", role=role) for role in ROLES])


async def follows(system: System, service: str) -> None:
    """Until what stands in the service's log now is published, and shown by its own views."""
    (row,) = await system.sql(service, "SELECT coalesce(max(position), 0) AS head FROM es.event")

    async def shown() -> bool:
        rows = await system.sql(service, "SELECT applied FROM consumer.position WHERE consumer = 'views' AND log = $1", service)
        return bool(rows) and rows[0]["applied"] >= row["head"]

    await until(shown, RECOVERY_SECONDS_MAX, f"the views of {service} at {row['head']}")


async def some_answers(clients: Clients) -> None:
    enough = len(clients.history) + BETWEEN_KILLS
    await until(lambda: len(clients.history) >= enough, 60, "answers")


def summary(clients: Clients, season: Season, report: Report) -> str:
    history = clients.history
    figures = {
        "kills": len(report.recoveries) + 1,
        "days": report.days,
        "accepted": len(clients.accepted),
        "refused": len(history) - len(clients.accepted),
        "unknown_resolved": sum(each.unknown > 0 for each in history),
        "found_done_on_retry": sum(each.unknown > 0 and each.was_replayed for each in history),
        "not_decided": dict(clients.not_decided),
        "slowest_answer_s": round(clients.slowest, 2),
        "recovery_s": {name: round(seconds, 1) for name, seconds in report.recoveries.items()},
        "takeover_s": round(report.takeover, 1),
        "minutes": sum(each.credited for each in season.people.values()),
        "over_cap": sum(each.over_cap for each in season.people.values()),
        "stars": sum(len(each.stars) for each in season.people.values()),
        "stars_lost": season.happened["star lost"],
        "offers_lapsed": season.happened["lapsed offer"],
    }
    return f"kills: {json.dumps(figures)}"


async def test_what_the_run_is_for_has_happened(played: Played) -> None:
    report, history = played.report, played.clients.history
    assert set(report.recoveries) == set(PROCESSES)
    assert all(seconds < RECOVERY_SECONDS_MAX for seconds in report.recoveries.values())
    assert any(each.unknown for each in history), "no command was ever in doubt"
    assert any(each.unknown and each.was_replayed for each in history), "no retry ever found its command done"
    assert any(not each.accepted for each in history)
    assert sum(each.over_cap for each in played.season.people.values()) > 0
    assert any(each.stars for each in played.season.people.values())
    assert played.season.happened["star lost"] > 0
    assert played.season.happened["lapsed offer"] > 0


async def test_every_key_is_answered_the_same_again(played: Played) -> None:
    turns = asyncio.Semaphore(12)

    async def is_the_same(asked: Asked) -> None:
        async with turns:
            repeat = await played.clients.again(asked)
        assert (repeat.status, repeat.answer) == (asked.status, asked.answer)
        assert repeat.was_replayed

    await asyncio.gather(*(is_the_same(each) for each in played.clients.history))


async def test_a_key_with_another_body_is_refused(played: Played) -> None:
    for word in ("title", "position"):
        able = [each for each in played.clients.history if word in each.body]
        for each in random.Random(SEED).sample(able, min(8, len(able))):
            other = await played.clients.again(each, {**each.body, word: "another"})
            assert (other.status, other.code) == (422, "idempotency_key_reused"), other


async def test_every_answer_is_in_the_store_once_and_nothing_else_is(played: Played) -> None:
    for service in SERVICES:
        events = await stored(played.system, service)
        check_dense(events)
        check_answers(events, [each for each in played.clients.history if each.service == service])


async def test_kafka_has_every_log_whole_in_order_and_chained(played: Played) -> None:
    for service in SERVICES:
        seen = await check_published(played.system, service, await stored(played.system, service))
        assert seen.seen["ahead"] == 0  # Nothing was ever published over a hole.


async def test_nothing_is_parked_or_closed(played: Played) -> None:
    for service in SERVICES:
        assert await played.system.sql(service, "SELECT * FROM consumer.parked") == []
        assert [row["state"] for row in await played.system.sql(service, "SELECT state FROM es.log")] == ["open"]


async def test_seats_are_as_counted(played: Played) -> None:
    places = {
        (row["activity_id"], row["volunteer_id"]): row["standing"]
        for row in await played.system.sql("registration", "SELECT activity_id, volunteer_id, standing FROM api.enrollments")
    }
    counted = {
        (activity.activity_id, who): standing
        for activity in played.season.activities
        for who, standing in (*activity.gone.items(), *activity.places.items())
    }
    assert places == counted
    shown = await by_person(played.system, "registration", "SELECT activity_id, taken, offered, waiting FROM api.activities")
    assert shown == {
        each.activity_id: (each.count("seated"), each.count("offered"), each.count("waiting")) for each in played.season.activities
    }


async def test_minutes_are_as_counted_by_person_and_day(played: Played) -> None:
    days = await played.system.sql(
        "hours",
        """
        SELECT volunteer_id, served_on, sum(credited_minutes)::bigint AS credited, sum(over_cap_minutes)::bigint AS over_cap
        FROM api.entries WHERE state = 'counted' GROUP BY 1, 2
        """,
    )
    shown = {(row["volunteer_id"], row["served_on"]): (row["credited"], row["over_cap"]) for row in days}
    assert shown == {(who, day): minutes for who, person in played.season.people.items() for day, minutes in person.days().items()}
    states = await played.system.sql("hours", "SELECT volunteer_id, state, count(*) AS n FROM api.entries GROUP BY 1, 2")
    assert {(row["volunteer_id"], row["state"]): row["n"] for row in states} == {
        (who, state): n
        for who, person in played.season.people.items()
        for state in ("pending", "counted", "reversed")
        if (n := sum(each.state == state for each in person.entries))
    }


async def test_balances_stars_and_the_overview_across_services_are_as_counted(played: Played) -> None:
    people = played.season.people
    minutes = {who: (person.credited, person.over_cap) for who, person in people.items() if person.days()}
    balances = await by_person(
        played.system,
        "hours",
        "SELECT volunteer_id, sum(timed_minutes)::bigint, sum(over_cap_minutes)::bigint FROM api.balances GROUP BY 1",
    )
    assert {who: found for who, found in balances.items() if who in minutes} == minutes
    stars = await played.system.sql("recognition", "SELECT volunteer_id, stars FROM api.stars")
    held: dict[UUID, set[int]] = {}
    for row in stars:
        held.setdefault(row["volunteer_id"], set()).add(row["stars"])
    assert held == {who: person.stars for who, person in people.items() if person.stars}
    overview = await by_person(
        played.system, "registration", "SELECT volunteer_id, timed_minutes, over_cap_minutes, stars::integer FROM api.volunteer_overview"
    )
    assert overview == {who: (person.credited, person.over_cap, max(person.stars, default=0)) for who, person in people.items()}


async def test_the_ledger_is_in_balance_by_its_own_events(played: Played) -> None:
    groups = [
        [posting["minutes"] for posting in json.loads(event.payload)["postings"]]
        for event in await stored(played.system, "hours")
        if event.type in {"hours.service_time_confirmed", "hours.service_time_corrected", "hours.service_time_reversed"}
    ]
    assert groups
    assert all(sum(group) == 0 for group in groups)
    (row,) = await played.system.sql("hours", "SELECT imbalance_minutes FROM api.ledger_sum")
    assert row["imbalance_minutes"] == 0
