"""A process that is told to end under load answers what it has taken, takes no more, and ends in time with nothing lost."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import date, timedelta
from functools import partial
from time import monotonic
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.faults import world
from tests.faults.clients import Asked, Clients
from tests.faults.system import EXIT_SECONDS_MAX, System, until
from tests.faults.witness import check_answers, check_dense, check_published, stored
from tests.faults.world import LEADER, UNIT, at
from tests.loopback import NO_TLS

SEED = 15
CALLERS = 16
STOPS = 3
DOOR = "registration-api"


@pytest.fixture(scope="module")
async def clients(system: System) -> AsyncIterator[Clients]:
    """People in front of registration; a second worker stands by."""
    names = (DOOR, "registration-worker", "registration-worker-2")
    for name in names:
        system.launch(name)
    await system.ready(*names)
    await system.travel(at(date(2017, 1, 3), "09:00"))
    made = Clients(system, SEED, unit=UNIT)
    programme = await world.adopt_programme(made)
    day = date(2017, 1, 20)
    await world.publish(
        made, programme, at(day, "09:00"), at(day, "11:00"), capacity=1, wait_list_max=0
    )  # Waits until the units are known.
    yield made
    await made.close()


class Caller:
    """Somebody who asks one command after the other and writes down exactly what came back, on connections kept or made anew."""

    def __init__(self, clients: Clients, *, keeps_connections: bool) -> None:
        limits = httpx.Limits(max_keepalive_connections=1 if keeps_connections else 0)
        self._http = httpx.AsyncClient(base_url=clients.system.url(DOOR), limits=limits, timeout=10, verify=NO_TLS)
        self._clients = clients
        self.keeps_connections = keeps_connections
        self.came_back: list[str] = []
        self.asked: list[Asked] = []

    async def call(self, number: int) -> None:
        """One command, asked once."""
        who, key = (*LEADER, UNIT), uuid4().hex
        day = date(2017, 2, 1) + timedelta(days=number % 300)
        body: dict[str, Any] = {
            "unit_code": UNIT,
            "title": "清洁河道",
            "carrier": "caring-for-nature",
            "place": "淄河岸边",
            "starts_at": at(day, "09:00").isoformat(),
            "ends_at": at(day, "11:00").isoformat(),
            "positions": [{"code": "cleaner", "name": "清洁员", "capacity": 2}],
        }
        asked = Asked("registration", who, "/activities", body, key)
        self.asked.append(asked)
        try:
            answer = await self._http.post("/api/v1/activities", json=body, headers={"Idempotency-Key": key, **self._clients.headers(who)})
        except httpx.TransportError as error:
            self.came_back.append(type(error).__name__)
        else:
            asked.status, asked.answer = answer.status_code, answer.json()
            self.came_back.append(str(answer.status_code))

    async def until_refused(self) -> None:
        """Goes on until nobody is there any more."""
        number = 0
        while not self.came_back or self.came_back[-1] == "200":
            await self.call(number)
            number += 1
        await self._http.aclose()


def all_go_on(callers: Sequence[Caller]) -> bool:
    """Whether enough was answered while all of them still ask."""
    answers = Counter(answer for each in callers for answer in each.came_back)
    assert answers.keys() <= {"200"}, (answers, [each.asked[-1].answer for each in callers])
    return answers.total() > 5 * CALLERS


async def test_an_api_process_that_is_told_to_end_answers_all_that_it_has_taken(system: System, clients: Clients) -> None:
    ends, seconds = Counter[str](), 0.0
    for _ in range(STOPS):
        callers = [Caller(clients, keeps_connections=bool(each % 2)) for each in range(CALLERS)]
        calls = [asyncio.create_task(each.until_refused()) for each in callers]
        await until(partial(all_go_on, callers), 30, "answers")
        began = monotonic()
        assert await system.ended(DOOR) == {DOOR: 0}
        seconds = max(seconds, monotonic() - began)
        await asyncio.wait_for(asyncio.gather(*calls), EXIT_SECONDS_MAX)
        for each in callers:
            ends[each.came_back[-1] + ("" if each.came_back[-1] == "ConnectError" else f", kept {each.keeps_connections}")] += 1
            clients.history += [asked for asked in each.asked if asked.status]
        system.launch(DOOR)
        await system.ready(DOOR)
    print(f"drain: {STOPS} stops, {len(clients.history)} answered, how {CALLERS} callers each ended: {dict(ends)}, {seconds:.1f} s at most")
    # Refused at the door in the end; never cut off in the middle, never left without a word on a connection that was made.
    assert ends.keys() == {"ConnectError"}, ends
    events = await stored(system, "registration")
    check_dense(events)
    check_answers(events, clients.history)


async def test_a_worker_that_is_told_to_end_hands_its_roles_over(system: System, clients: Clients) -> None:
    active = [
        name for name in ("registration-worker", "registration-worker-2") if await system.metric(name, "worker_role_held", role="relay")
    ]
    assert len(active) == 1
    enough = asyncio.Event()
    caller = Caller(clients, keeps_connections=True)

    async def call() -> None:
        number = 0
        while not enough.is_set():
            await caller.call(number)
            number += 1

    calls = asyncio.create_task(call())
    began = monotonic()
    assert await system.ended(*active) == {active[0]: 0}
    ended = monotonic() - began
    enough.set()
    await calls
    assert set(caller.came_back) == {"200"}
    clients.history += caller.asked
    head = max(each.position for each in clients.history if each.accepted)

    async def shown() -> bool:
        rows = await system.sql("registration", "SELECT applied FROM consumer.position WHERE consumer = 'views' AND log = 'registration'")
        return bool(rows) and rows[0]["applied"] >= head

    print(f"drain: the worker ended in {ended:.1f} s, the standby showed all {await until(shown, 20, 'the views'):.1f} s later")
    events = await stored(system, "registration")
    check_answers(events, clients.history)
    assert (await check_published(system, "registration", events)).seen["ahead"] == 0
