"""Kafka and PostgreSQL go away and come back; no process of ours is started anew for it, and what was answered stays true."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import date, timedelta
from itertools import count
from time import monotonic
from typing import Any

import httpx
import pytest

from deploy.local.environment import SERVICES
from tests.faults import world
from tests.faults.clients import ANSWER_WITHIN_S, Asked, Clients
from tests.faults.system import EXIT_SECONDS_MAX, PROCESSES, System, freeze, until
from tests.faults.witness import check_answers, check_dense, check_published, stored
from tests.faults.world import UNIT, at
from tests.loopback import NO_TLS

SEED = 5
APIS = tuple(f"{service}-api" for service in SERVICES)
WORKERS = tuple(f"{service}-worker" for service in SERVICES)
BACK_SECONDS_MAX = 30.0
AWAY_SECONDS_MAX = 15.0
"""Until everybody has noticed."""
STREAMS = 6
"""Clients that go on asking while the database is away."""

_numbers = count()


@pytest.fixture(scope="module")
async def clients(fragile: System) -> AsyncIterator[Clients]:
    """People in front of a system whose servers are the tests' own."""
    await fragile.travel(at(date(2017, 1, 3), "09:00"))
    made = Clients(fragile, SEED, unit=UNIT)
    yield made
    await made.close()


@pytest.fixture(scope="module")
async def programme(clients: Clients) -> Asked:
    """The programme of the year."""
    return await world.adopt_programme(clients)


async def publish(clients: Clients, programme: Asked) -> Asked:
    """An activity of its own: a command that registration accepts at any time."""
    day = date(2017, 2, 1) + timedelta(days=next(_numbers) % 300)
    asked = await world.publish(clients, programme, at(day, "09:00"), at(day, "11:00"), capacity=2, wait_list_max=0)
    assert asked.accepted, asked
    return asked


async def one_of_each(clients: Clients, programme: Asked) -> list[Asked]:
    """A command in each service, accepted."""
    number = next(_numbers)
    effective = f'version: "{number}"\neffective_from: {date(2017, 2, 1) + timedelta(days=number)}\n'
    hours = "daily_cap_minutes: 480\npairs_per_activity_day_max: 3\ncheck_in_early_minutes: 60\nmissed_check_out_after_minutes: 120\n"
    asked = [
        await publish(clients, programme),
        await clients.ask("hours", *world.BUREAU, "/hours-policies", {"file": effective + hours}),
        await clients.ask("recognition", *world.BUREAU, "/star-policies", {"file": effective + "thresholds_hours: [1]\n"}),
    ]
    assert all(each.accepted for each in asked), asked
    return asked


async def get(system: System, name: str, path: str, **headers: str) -> httpx.Response:
    """What a process says within five seconds."""
    async with httpx.AsyncClient(timeout=ANSWER_WITHIN_S, verify=NO_TLS) as client:
        return await client.get(system.url(name) + path, headers=headers)


async def statuses(system: System, names: Sequence[str], path: str) -> dict[str, int]:
    """A probe of each."""
    answers = await asyncio.gather(*(get(system, name, path) for name in names))
    return {name: answer.status_code for name, answer in zip(names, answers, strict=True)}


async def freshness(clients: Clients, service: str, path: str) -> Mapping[str, Mapping[str, Any]]:
    """How fresh a query says that it is, by source."""
    answer = await get(clients.system, f"{service}-api", f"/api/v1{path}", **clients.headers(("局长甲", "bureau_admin", "bureau")))
    assert answer.status_code == 200, answer.text
    said: Mapping[str, Mapping[str, Any]] = answer.json()["freshness"]
    return said


async def settled(system: System) -> float:
    """Until every consumer stands at the stores' heads, due deadlines included; the seconds that it took."""
    began = monotonic()
    await system.settled(BACK_SECONDS_MAX)
    return monotonic() - began


LISTS = {"registration": "/activities", "hours": "/hours-policies", "recognition": "/star-policies"}


async def test_without_kafka_commands_go_on_and_freshness_says_so(fragile: System, clients: Clients, programme: Asked) -> None:
    await one_of_each(clients, programme)
    await fragile.settled()
    before = fragile.pids()
    fragile.kafka.kill()
    asked = [each for _ in range(3) for each in await one_of_each(clients, programme)]
    assert all(each.attempts == 1 for each in asked)
    for service, path in LISTS.items():
        assert (await freshness(clients, service, path))[service]["behind_events"] == 3
        (told,) = await fragile.sql(service, "SELECT behind_events FROM api.freshness WHERE source = $1", service)
        assert told["behind_events"] == 3
        assert (await get(fragile, f"{service}-api", "/?lang=en")).status_code == 200
        late = await get(
            fragile, f"{service}-api", f"/api/v1{path}",
            After=[each for each in asked if each.service == service][-1].token,
            **clients.headers(("局长甲", "bureau_admin", "bureau")),
        )  # fmt: skip
        assert (late.status_code, late.json()["code"]) == (409, "not_caught_up")
        assert "retry-after" in late.headers
    for name in WORKERS:
        await until(lambda n=name: says_backlog(fragile, n, 3), AWAY_SECONDS_MAX, f"the backlog of {name}")  # type: ignore[misc]
    assert set((await statuses(fragile, APIS, "/readyz")).values()) == {200}
    assert set((await statuses(fragile, PROCESSES, "/livez")).values()) == {200}
    began = monotonic()
    fragile.kafka.start()
    up = monotonic() - began
    print(f"kafka back: up after {up:.1f} s, all settled {await settled(fragile):.1f} s later")
    for name in WORKERS:
        await until(lambda n=name: says_backlog(fragile, n, 0), AWAY_SECONDS_MAX, f"the backlog of {name}")  # type: ignore[misc]
    assert fragile.pids() == before


async def says_backlog(system: System, name: str, events: int) -> bool:
    return await system.metric(name, "relay_backlog_events") == events


async def test_workers_that_start_without_kafka_wait_for_it(fragile: System, clients: Clients, programme: Asked) -> None:
    fragile.kafka.kill()
    for name in WORKERS:
        fragile.kill(name)
        fragile.launch(name)
    await fragile.ready(*WORKERS)
    await one_of_each(clients, programme)
    assert set((await statuses(fragile, WORKERS, "/livez")).values()) == {200}
    before = fragile.pids()
    fragile.kafka.start()
    print(f"started without kafka: settled {await settled(fragile):.1f} s after its return")
    assert fragile.pids() == before


async def test_a_killed_database_is_said_at_once_and_its_return_needs_no_restart(
    fragile: System, clients: Clients, programme: Asked
) -> None:
    await one_of_each(clients, programme)
    before = fragile.pids()
    async with asking(clients, programme):
        fragile.postgres.kill()
        try:
            await says_that_it_is_away(clients)
        finally:
            began = monotonic()
            fragile.postgres.start()
        await goes_on(clients, began, "killed")
    await is_whole(clients)
    assert fragile.pids() == before


async def test_a_frozen_database_is_said_within_five_seconds_and_its_thaw_needs_no_restart(
    fragile: System, clients: Clients, programme: Asked
) -> None:
    before = fragile.pids()
    async with asking(clients, programme):
        clients.slowest = 0.0
        thaw = freeze(fragile.postgres)
        try:
            await says_that_it_is_away(clients)
            assert 0 < clients.slowest < ANSWER_WITHIN_S  # Those who were in the middle of asking.
        finally:
            began = monotonic()
            thaw()
        await goes_on(clients, began, "frozen")
    await is_whole(clients)
    assert fragile.pids() == before


@asynccontextmanager
async def asking(clients: Clients, programme: Asked) -> AsyncIterator[None]:
    """Clients that ask one command after the other, each until it is known what became of it; at the end they finish."""
    enough = asyncio.Event()
    position = len(clients.history)

    async def ask() -> None:
        while not enough.is_set():
            await publish(clients, programme)

    people = [asyncio.create_task(ask()) for _ in range(STREAMS)]
    try:
        await until(lambda: len(clients.history) > position + 2 * STREAMS, AWAY_SECONDS_MAX, "answers")
        yield
        enough.set()
        await asyncio.wait_for(asyncio.gather(*people), BACK_SECONDS_MAX)
    finally:
        for each in people:
            each.cancel()
        await asyncio.gather(*people, return_exceptions=True)


async def says_that_it_is_away(clients: Clients) -> None:
    """Commands, queries and the page of every service say it in time; the processes are alive and not ready."""
    bureau = clients.headers(("局长甲", "bureau_admin", "bureau"))
    for service, (command, body) in COMMANDS.items():
        began = monotonic()
        async with httpx.AsyncClient(timeout=ANSWER_WITHIN_S, base_url=clients.system.url(f"{service}-api"), verify=NO_TLS) as client:
            answers = await asyncio.gather(
                client.get(f"/api/v1{LISTS[service]}", headers=bureau),
                client.post(f"/api/v1{command}", json=body, headers={"Idempotency-Key": "away", **bureau}),
                client.get("/?lang=en"),
            )
        assert monotonic() - began < ANSWER_WITHIN_S
        assert [each.status_code for each in answers] == [503, 503, 503]
        assert all("retry-after" in each.headers for each in answers)
        assert [each.json()["code"] for each in answers[:2]] == ["store_unavailable"] * 2
        assert "The database does not answer" in answers[2].text
    assert set((await statuses(clients.system, PROCESSES, "/livez")).values()) == {200}
    assert set((await statuses(clients.system, PROCESSES, "/readyz")).values()) == {503}


COMMANDS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "registration": (f"/people/{world.volunteer(1)}/roles", {"role": "auditor", "unit_code": UNIT}),
    "hours": ("/hours-policies", {"file": "version: 1"}),
    "recognition": ("/star-policies", {"file": "version: 1"}),
}
"""What is asked of each service while its database is away; none of it may be decided without one."""


async def goes_on(clients: Clients, began: float, how: str) -> None:
    """What was under way becomes known, and new commands are accepted."""
    position = len(clients.history)
    first = await until(lambda: len(clients.history) > position, BACK_SECONDS_MAX, "the first answer")
    await until(lambda: len(clients.history) > position + 2 * STREAMS, BACK_SECONDS_MAX, "answers")
    doubted = [each for each in clients.history if each.unknown]
    assert doubted, "no command was ever in doubt"
    print(
        f"postgres {how}: first answer {first:.1f} s, all answered {monotonic() - began:.1f} s after its return; "
        f"{len(doubted)} commands were in doubt so far"
    )


async def is_whole(clients: Clients) -> None:
    """All views follow, and each answer stands in the store once."""
    print(f"settled after {await settled(clients.system):.1f} s")
    for service in SERVICES:
        events = await stored(clients.system, service)
        check_dense(events)
        check_answers(events, [each for each in clients.history if each.service == service])


async def test_without_kafka_every_process_ends_in_time_when_asked(fragile: System, clients: Clients, programme: Asked) -> None:
    fragile.kafka.kill()
    await one_of_each(clients, programme)
    began = monotonic()
    codes = await fragile.ended(*PROCESSES, within=EXIT_SECONDS_MAX)
    print(f"ended without kafka: {monotonic() - began:.1f} s")
    assert codes == dict.fromkeys(PROCESSES, 0)
    fragile.kafka.start()
    needed = (*WORKERS, "registration-api")
    for name in needed:
        fragile.launch(name)
    await fragile.ready(*needed)
    await settled(fragile)


async def test_after_all_of_it_every_answer_stands_once_and_kafka_has_the_logs_whole(fragile: System, clients: Clients) -> None:
    for service in SERVICES:
        events, asked = await stored(fragile, service), [each for each in clients.history if each.service == service]
        check_dense(events)
        check_answers(events, asked)
        await check_published(fragile, service, events)
    for each in [each for each in clients.history if each.unknown]:
        repeat = await clients.again(each)
        assert (repeat.status, repeat.answer, repeat.was_replayed) == (each.status, each.answer, True)
