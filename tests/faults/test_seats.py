"""Forty people want a few seats through two processes at once: at no position of the log are more given than there are."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import date
from uuid import UUID

import pytest

from tests.faults import world
from tests.faults.clients import Asked, Clients
from tests.faults.invariants import Stored
from tests.faults.system import System
from tests.faults.witness import by_person, check_answers, check_dense, stored
from tests.faults.world import LEADER, UNIT, at

SEED = 40
PEOPLE = 40
SEATS = 5
SEATS_MOST = 9
WAITING_MOST = 12
TURNS = 6
DOORS = ("registration-api", "registration-api-2")
DAY = date(2017, 5, 4)


@pytest.fixture(scope="module")
async def clients(system: System) -> AsyncIterator[Clients]:
    """Forty registered volunteers in front of two processes that know nothing of each other."""
    for name in (*DOORS, "registration-worker"):
        system.launch(name)
    await system.ready(*DOORS, "registration-worker")
    await system.travel(at(date(2017, 4, 24), "09:00"))
    made = Clients(system, SEED, unit=UNIT)
    yield made
    await made.close()


@pytest.fixture(scope="module")
async def contested(clients: Clients) -> tuple[UUID, list[Asked]]:
    """The activity, and what everybody was answered about it."""
    programme = await world.adopt_programme(clients)
    registered = await asyncio.gather(*(world.register(clients, number, programme) for number in range(PEOPLE)))
    published = await world.publish(clients, programme, at(DAY, "09:00"), at(DAY, "11:00"), capacity=SEATS, wait_list_max=WAITING_MOST)
    activity = world.activity_of(published)
    last = max(registered, key=lambda each: each.position)
    before = len(clients.history)
    await asyncio.gather(*(wants_a_seat(clients, activity, number, last) for number in range(PEOPLE)), moves_seats(clients, activity))
    return activity, clients.history[before:]


async def wants_a_seat(clients: Clients, activity: UUID, number: int, after: Asked) -> None:
    """Asks, gives up, takes what is offered, at either door, in an order of one's own."""
    who, draw = world.volunteer(number), random.Random(SEED + number)
    await world.enroll(clients, activity, who, after=after, through=draw.choice(DOORS))
    for _ in range(TURNS):
        act = draw.choice((world.enroll, world.accept, world.accept, world.withdraw))
        await act(clients, activity, who, after=after, through=draw.choice(DOORS))


async def moves_seats(clients: Clients, activity: UUID) -> None:
    """The organiser gives more seats, and takes back what nobody has."""
    draw = random.Random(SEED)
    for _ in range(2 * TURNS):
        body = {"position": "cleaner", "capacity": draw.randint(SEATS - 1, SEATS_MOST)}
        await clients.ask("registration", *LEADER, f"/activities/{activity}/capacity", body, through=draw.choice(DOORS))


def replay(events: Sequence[Stored], activity: UUID) -> tuple[dict[UUID, str], int, Counter[str]]:
    """Who stands how after the last event; asserts at every one that seats taken and on offer are no more than there are."""
    standing: dict[UUID, str] = {}
    capacity, seen = 0, Counter[str]()
    for event in events:
        if event.stream != f"activity-{activity}":
            continue
        said = json.loads(event.payload)
        kind = event.type.partition(".")[2]
        seen[kind] += 1
        who = UUID(said["volunteer_id"]) if "volunteer_id" in said else UUID(int=0)
        match kind:
            case "activity_published":
                (position,) = said["positions"]
                capacity = position["capacity"]
            case "capacity_changed":
                capacity = said["capacity"]
            case "enrollment_accepted":
                assert who not in standing, f"a second place at {event.position}"
                standing[who] = "seated"
            case "enrollment_waitlisted":
                assert who not in standing, f"a second place at {event.position}"
                standing[who] = "waiting"
            case "seat_offered":
                first = next(each for each, how in standing.items() if how == "waiting")
                assert who == first, f"out of turn at {event.position}"
                standing[who] = "offered"
            case "offer_accepted":
                assert standing[who] == "offered", f"nothing was on offer at {event.position}"
                standing[who] = "seated"
            case "enrollment_withdrawn":
                del standing[who]
            case _:
                raise AssertionError(kind)
        held = Counter(standing.values())
        assert held["seated"] + held["offered"] <= capacity, f"oversold at {event.position}"
        assert held["waiting"] <= WAITING_MOST
    return standing, capacity, seen


async def test_at_no_position_of_the_log_are_seats_oversold_and_the_view_ends_the_same(
    system: System, clients: Clients, contested: tuple[UUID, list[Asked]]
) -> None:
    activity, asked = contested
    events = await stored(system, "registration")
    check_dense(events)
    check_answers(events, clients.history)
    standing, capacity, seen = replay(events, activity)
    doors = [await system.metric(door, "event_store_conflicts_total", category="activity") for door in DOORS]
    outcomes = Counter("accepted" if each.accepted else each.code for each in asked)
    print(f"seats: {dict(seen)}, {dict(outcomes)}, conflicts at the doors {doors}, asked again {dict(clients.not_decided)}")
    assert all(doors), "the two processes never met"
    assert min(seen[kind] for kind in ("enrollment_waitlisted", "seat_offered", "offer_accepted", "enrollment_withdrawn")) > 0
    assert outcomes["activity_full"] > 0
    assert set(outcomes) <= {
        "accepted", "activity_full", "already_enrolled", "not_enrolled", "no_offer", "capacity_below_seats_given"
    }  # fmt: skip
    last = max((each for each in clients.accepted if each.types), key=lambda each: each.position)
    await clients.rows("registration", "/activities", after=[last.token])
    held = Counter(standing.values())
    shown = await by_person(system, "registration", "SELECT activity_id, capacity, taken, offered, waiting FROM api.activity_positions")
    assert shown[activity] == (capacity, held["seated"], held["offered"], held["waiting"])
    rows = await system.sql("registration", "SELECT volunteer_id, standing FROM api.enrollments WHERE standing <> 'withdrawn'")
    assert {row["volunteer_id"]: row["standing"] for row in rows} == standing
