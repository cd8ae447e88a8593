"""What goes wrong with the time of day: a machine whose clock is wrong, steps and shakes; and midnight at the end of a year."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from deploy.local.environment import SERVICES
from tests.faults import world
from tests.faults.clients import Asked, Clients
from tests.faults.launcher import FAKETIME
from tests.faults.nemesis.fault import BOTH, Fault, Scene, Skipped
from tests.faults.nemesis.processes import REACHED_WITHIN_S, api_with, worker_with
from tests.faults.system import PROCESSES, System, until
from tests.faults.world import KIOSK, LEADER, UNIT, at

FAST, SLOW = 3600, -600
"""Seconds."""
SAID_WITHIN_S = 15.0
MADE_WITHIN_S = 120.0


def set_clock(file: Path, offset: int) -> None:
    """What libfaketime reads at each look at the clock; it never meets half a word."""
    new = file.with_suffix(".new")
    new.write_text(f"{offset:+d}\n", "ascii")
    new.replace(file)


async def wrong_worker(scene: Scene) -> None:
    """The clock of the worker that holds the roles is an hour fast, ten minutes slow, then shakes: order, hours and heads go on."""
    file, service = _clock_file(scene), scene.random.choice(SERVICES)
    async with worker_with(scene, service, f"clock={file}"):
        for offset in (FAST, SLOW):
            set_clock(file, offset)
            await until(partial(_says_the_time, scene, service, offset), REACHED_WITHIN_S, f"heads of {service} at {offset:+d} s")
            await _heads_follow(scene, service)
        ends = monotonic() + scene.lasts(smoke=5, long=30)
        while monotonic() < ends:
            set_clock(file, scene.random.choice((FAST, SLOW, 0)))
            await asyncio.sleep(0.2)
        await scene.answers(10)
    await _heads_follow(scene, service)
    scene.happened["worker with a wrong clock"] += 1


async def wrong_api(scene: Scene) -> None:
    """An api whose clock is wrong holds tokens for expired: whoever asks another one is answered, and nothing is decided by its time."""
    file, service = _clock_file(scene), scene.random.choice(SERVICES)
    async with api_with(scene, service, f"clock={file}") as victim:
        await scene.cluster.ready(victim.name)
        for offset in (FAST, SLOW):
            set_clock(file, offset)
            await scene.answers(10, service=service)
        set_clock(file, 0)
        await scene.answers(10, service=service)
    scene.happened["api with a wrong clock"] += 1


def _clock_file(scene: Scene) -> Path:
    if not FAKETIME.exists():
        raise Skipped("libfaketime is not installed")
    file = scene.cluster.folder / "clock"
    set_clock(file, 0)
    return file


async def _says_the_time(scene: Scene, service: str, offset: int) -> bool:
    """Whether the log's last word of itself was said at about that wrong time."""
    rows = await scene.cluster.sql(
        service, "SELECT extract(epoch FROM said_at - clock_timestamp()) FROM consumer.head WHERE log = $1", service
    )
    return bool(rows) and abs(float(rows[0][0]) - offset) < 60


async def _heads_follow(scene: Scene, service: str) -> None:
    """What the log says of itself is heard, whatever time it says: lag and silence are measured by it."""
    ((head,),) = await scene.cluster.sql(service, "SELECT max(position) FROM es.event")

    async def are_heard() -> bool:
        rows = await scene.cluster.sql(service, "SELECT head FROM consumer.head WHERE log = $1", service)
        return bool(rows) and rows[0]["head"] >= head

    await until(are_heard, SAID_WITHIN_S, f"the head of {service} said and heard")


# -- 23:59 to 00:01


async def over_midnight(scene: Scene) -> None:
    """In an installation of its own, on the same servers, somebody serves from 23:59 to 00:01 at the end of a year: a minute in each."""
    last, first = date(2017, 12, 31), date(2018, 1, 1)
    async with _another(scene) as (system, clients):
        await system.travel(at(last, "09:00"))
        programme = await world.adopt_programme(clients)
        await world.adopt_policies(clients, (1, 2, 3, 4, 5))
        who = world.volunteer(0)
        registered = await world.register(clients, 0, programme)
        published = await world.publish(clients, programme, at(last, "22:00"), at(first, "02:00"), capacity=1, wait_list_max=0)
        assert published.accepted, published
        enrolled = await world.enroll(clients, world.activity_of(published), who, after=registered)
        for instant, what in ((at(last, "23:59"), "check-in"), (at(first, "00:01"), "check-out")):
            await system.travel(instant)
            path = f"/activities/{world.activity_of(published)}/attendance/{who}/{what}"
            asked = await clients.ask("hours", *KIOSK, path, {}, after=[enrolled.token])
            assert asked.accepted, asked
        entries: list[dict[str, Any]] = []

        async def are_proposed() -> bool:
            entries[:] = await clients.rows("hours", "/confirm-queue", volunteer=str(who))
            return len(entries) == 2

        await until(are_proposed, REACHED_WITHIN_S, "an entry for each day")
        assert {(each["served_on"], each["minutes"]) for each in entries} == {(last.isoformat(), 1), (first.isoformat(), 1)}
        confirmed: list[Asked] = []
        for each in entries:
            path = f"/accounts/{who}/entries/{each['entry_id']}/confirm"
            confirmed.append(await clients.ask("hours", *LEADER, path, {"served_on": each["served_on"]}))
            assert confirmed[-1].accepted, confirmed[-1]
        accounts = {each.answer["stream"] for each in confirmed}
        assert len(accounts) == 2, "each civil year has its account"
    scene.happened["served over midnight at the end of a year"] += 1


@asynccontextmanager
async def _another(scene: Scene) -> AsyncIterator[tuple[System, Clients]]:
    """Three services with databases and topics of their own; nothing is left of them but these."""
    cluster = scene.cluster
    folder = cluster.folder / f"another-{scene.random.getrandbits(40):x}"
    folder.mkdir()
    system = System(folder, cluster.postgres_of["hours"], cluster.kafka)
    clients = Clients(system, scene.random.getrandbits(32), unit=UNIT)
    try:
        runs = [system.launch(f"{service}-migrate") for service in SERVICES]
        await until(lambda: not any(run.running() for run in runs), MADE_WITHIN_S, "the migrations")
        assert [run.exit_code() for run in runs] == [0, 0, 0], [run.last_words(20) for run in runs]
        for name in PROCESSES:
            system.launch(name)
        await system.ready(*PROCESSES, within=MADE_WITHIN_S)
        yield system, clients
    finally:
        await clients.close()
        for name in system.processes:
            system.kill(name)


FAULTS: tuple[Fault, ...] = (
    Fault("F33.1", "a worker's clock wrong, stepping, shaking", 15, True, BOTH, wrong_worker),
    Fault("F33.2", "an api's clock wrong", 15, True, BOTH, wrong_api),
    Fault("F33.3", "midnight at the end of a year", 15, True, BOTH, over_midnight),
)
