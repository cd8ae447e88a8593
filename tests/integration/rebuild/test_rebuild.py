"""Read models are built anew while people go on, and nobody notices when they are swapped."""

import asyncio
import re
import shutil
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest

from deploy.local.places import CHECKOUT
from shared.envelope import Stream
from shared.eventstore.store import open_store
from shared.eventstore.values import AppendRequest, NewEvent
from shared.metrics import Metrics
from shared.migrate import Roles
from shared.postgres import open_pool
from tests.e2e.stack import command
from tests.e2e.stage import accepted, on
from tests.integration.rebuild.conftest import Operator, Scene, until
from tests.loopback import NO_TLS

SERVICE = "registration"
pytestmark = pytest.mark.timeout(300)


@dataclass
class Going:
    """What people met who went on meanwhile: seats that they took and saw, and how often they read."""

    seats: list[tuple[UUID, str]] = field(default_factory=list)
    reads: int = 0

    async def more(self, count: int) -> None:
        """Waits until so many more seats and reads have come."""
        seats, reads = len(self.seats) + count, self.reads + count

        async def came() -> bool:
            return len(self.seats) >= seats and self.reads >= reads

        await until(came)


@asynccontextmanager
async def going_on(scene: Scene, people: int = 2, readers: int = 1) -> AsyncIterator[Going]:
    """People take seats, and read what they and others have just done; the block fails with the first who does not see it."""
    stop, found = asyncio.Event(), Going()

    async def person() -> None:
        while not stop.is_set():
            volunteer, token = await scene.seat()
            found.seats.append((volunteer, token))
            assert len(await scene.seen(volunteer, token)) == 1

    async def reader() -> None:
        shown = 0
        while not stop.is_set():
            headers = {"After": found.seats[-1][1]} if found.seats else {}
            required = int(headers["After"].rpartition(":")[2]) if headers else 0
            answer = await scene.stage.bureau(SERVICE).get("/api/v1/enrollments", headers=headers)
            assert answer.status_code == 200, answer.text
            before, shown = shown, answer.json()["freshness"][SERVICE]["applied"]
            assert shown >= max(required, before)
            found.reads += 1

    async with asyncio.TaskGroup() as tasks:
        for each in (*[person] * people, *[reader] * readers):
            tasks.create_task(each())
        yield found
        stop.set()


async def test_read_models_are_swapped_while_people_go_on_and_every_read_is_answered(scene: Scene, operator: Operator) -> None:
    await operator.alone(SERVICE)
    before = await operator.live(SERVICE)
    worker = scene.stage.stack.processes[f"{SERVICE}-worker"]
    async with going_on(scene, people=1, readers=6) as people:
        await people.more(5)
        await operator.done(SERVICE, "rebuild", "--rate", "300")
        assert await operator.live(SERVICE) != before
        await people.more(5)
    for volunteer, token in people.seats:
        assert len(await scene.seen(volunteer, token)) == 1
    assert worker.running()
    assert "role_failed" not in worker.log.read_text()
    await scene.stage.stack.settled()
    kept = await operator.digest(SERVICE)
    assert kept.startswith("hours ")


@pytest.mark.parametrize("service", ["registration", "hours", "recognition"])
async def test_live_rebuilt_from_kafka_and_rebuilt_from_the_store_are_the_same_byte_for_byte(
    scene: Scene, operator: Operator, service: str
) -> None:
    """And no reaction fires: one that did would be decided anew, for its first answer is taken away meanwhile."""
    stack = scene.stage.stack
    await stack.settled()
    digests = [await operator.digest(service)]
    async with without_answers_to_reactions(scene, service) as taken_away:
        assert taken_away > 0 or service != "hours"
        for origin in ("kafka", "store"):
            await operator.alone(service)
            await operator.done(service, "rebuild", "--from", origin)
            digests.append(await operator.digest(service))
        assert await stack.sql(service, "SELECT FROM es.command WHERE fingerprint IS NULL") == []
    assert digests[0] == digests[1] == digests[2]
    assert digests[0].count("\n") > 3
    await scene.seat()
    await scene.stage.stack.settled()
    assert (await operator.digest("registration")) != digests[0]


@asynccontextmanager
async def without_answers_to_reactions(scene: Scene, service: str) -> AsyncIterator[int]:
    """How many answers were put aside for the time of the block; what is asked inside has no fingerprint."""
    stack = scene.stage.stack
    await stack.sql(service, "CREATE TABLE public.aside AS SELECT * FROM es.command WHERE fingerprint IS NULL")
    await stack.sql(service, "DELETE FROM es.command WHERE fingerprint IS NULL")
    try:
        yield len(await stack.sql(service, "SELECT FROM public.aside"))
    finally:
        await stack.sql(service, "INSERT INTO es.command SELECT * FROM public.aside ON CONFLICT DO NOTHING")
        await stack.sql(service, "DROP TABLE public.aside")


async def test_a_rebuild_that_is_killed_goes_on_where_it_stood_and_workers_show_how_far_it_is(scene: Scene, operator: Operator) -> None:
    await operator.alone(SERVICE)
    await scene.stage.stack.settled()
    live, first = await operator.digest(SERVICE), operator.start(SERVICE, "rebuild", "--rate", "30")

    async def far() -> bool:
        rows = await scene.stage.stack.sql(SERVICE, "SELECT sum(applied) AS n FROM consumer.position WHERE consumer LIKE 'views@%'")
        return (rows[0]["n"] or 0) >= 100

    async def shown() -> bool:
        async with httpx.AsyncClient(verify=NO_TLS) as client:
            text = (await client.get(f"{scene.stage.stack.url(f'{SERVICE}-worker')}/metrics")).text
        lines = [line for line in text.splitlines() if line.startswith("leifeng_projection_rebuild_progress_ratio{")]
        return bool(lines) and 0 < float(lines[0].rpartition(" ")[2]) < 1

    async def said() -> bool:
        return re.search(r"^\d+ of \d+ events \(\d+ %\), [1-9]\d*/s, \d+ s left$", first.log.read_text(), re.MULTILINE) is not None

    await until(far)
    await until(shown)
    await until(said)
    first.send(signal.SIGKILL)
    assert (await operator.end(first)).code != 0
    schema = await operator.live(SERVICE)
    out = await operator.done(SERVICE, "rebuild")
    assert "going on with" in out
    assert await operator.live(SERVICE) != schema
    assert await operator.digest(SERVICE) == live


async def test_rolling_back_lets_the_old_ones_follow_up_and_tokens_stay_good(scene: Scene, operator: Operator) -> None:
    await operator.alone(SERVICE)
    before = await operator.live(SERVICE)
    await operator.done(SERVICE, "rebuild")
    seats = [await scene.seat() for _ in range(3)]
    refused = await operator.run(SERVICE, "rebuild")
    assert (refused.code, "kept for rolling back" in refused.out) == (1, True)
    async with going_on(scene, 1) as people:
        await people.more(2)
        await operator.done(SERVICE, "rebuild", "--rollback")
        await people.more(2)
    assert await operator.live(SERVICE) == before
    for volunteer, token in (*seats, *people.seats):
        assert len(await scene.seen(volunteer, token)) == 1
    await scene.stage.stack.settled()
    rolled_back = await operator.digest(SERVICE)
    await operator.done(SERVICE, "rebuild", "--drop-old")
    await operator.done(SERVICE, "rebuild")
    assert await operator.digest(SERVICE) == rolled_back
    for table in ("position", "parked", "blocked"):
        query = f"SELECT DISTINCT consumer FROM consumer.{table} WHERE consumer LIKE 'views%'"
        assert {row["consumer"] for row in await scene.stage.stack.sql(SERVICE, query)} <= {"views", f"views@{before[6:]}"}


async def test_the_release_before_brings_its_read_models_back_and_the_next_one_cannot(
    scene: Scene, operator: Operator, tmp_path: Path
) -> None:
    await operator.alone(SERVICE)
    stack, next_ = scene.stage.stack, Operator(scene.stage.stack, tmp_path)
    for folder in ("services", "shared"):
        shutil.copytree(CHECKOUT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    tables = tmp_path / "services" / SERVICE / "projections" / "volunteers.sql"
    tables.write_text(tables.read_text(encoding="utf-8").replace("is_minor", "of_the_next_release boolean, is_minor", 1), encoding="utf-8")

    async def stand_still() -> bool:
        return await gauge(scene, "projection_definition_changed") == 1

    async def go_on() -> bool:
        return await gauge(scene, "projection_definition_changed") == 0

    before = await operator.live(SERVICE)
    await next_.done(SERVICE, "migrate")
    assert await operator.live(SERVICE) == before, "what is live stays as it is until it is rebuilt"
    await next_.done(SERVICE, "rebuild")
    columns = "SELECT FROM information_schema.columns WHERE table_schema = $1 AND column_name = 'of_the_next_release'"
    assert len(await stack.sql(SERVICE, columns, await operator.live(SERVICE))) == 1
    volunteer, token = await scene.seat()
    await until(stand_still)  # The worker of the release before writes nothing into the new ones.
    refused = await next_.run(SERVICE, "rebuild", "--rollback")
    assert (refused.code, "built by other definitions" in refused.out) == (1, True)
    await operator.done(SERVICE, "rebuild", "--rollback")
    assert await operator.live(SERVICE) == before
    assert len(await scene.seen(volunteer, token)) == 1
    await stack.settled()
    await until(go_on)


async def gauge(scene: Scene, name: str) -> float:
    """What registration's worker shows."""
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        text = (await client.get(f"{scene.stage.stack.url(f'{SERVICE}-worker')}/metrics")).text
    return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"leifeng_{name}{{"))


async def test_a_schema_in_which_more_is_parked_is_not_swapped_in_until_that_is_cured(scene: Scene, operator: Operator) -> None:
    await operator.alone(SERVICE)
    await scene.stage.stack.settled()
    live, schema = await operator.digest(SERVICE), await operator.live(SERVICE)
    building = operator.start(SERVICE, "rebuild", "--rate", "100")

    async def begun() -> bool:
        return bool(await scene.stage.stack.sql(SERVICE, "SELECT FROM consumer.views WHERE building"))

    await until(begun)
    [row] = await scene.stage.stack.sql(SERVICE, "SELECT schema FROM consumer.views WHERE building")
    unlucky = (await scene.stage.stack.sql(SERVICE, f"SELECT volunteer_id FROM {schema}.volunteers ORDER BY registered_position DESC"))[0][
        "volunteer_id"
    ]
    table = f"{row['schema']}.volunteers"
    await scene.stage.stack.sql(SERVICE, f"ALTER TABLE {table} ADD CONSTRAINT unlucky CHECK (volunteer_id <> '{unlucky}')")
    ran = await operator.end(building)
    assert (ran.code, f"key {unlucky} is parked for" in ran.out) == (1, True), ran.out
    assert (await operator.live(SERVICE), await operator.digest(SERVICE)) == (schema, live)
    await scene.stage.stack.sql(SERVICE, f"ALTER TABLE {table} DROP CONSTRAINT unlucky")
    await operator.done(SERVICE, "rebuild")
    assert await operator.live(SERVICE) == row["schema"]
    assert await operator.digest(SERVICE) == live


async def test_a_key_that_is_parked_in_the_live_ones_is_parked_in_the_rebuilt_ones(scene: Scene, operator: Operator) -> None:
    await operator.alone(SERVICE)
    stack, person = scene.stage.stack, uuid4()
    dsn = stack.dsn(SERVICE)
    async with open_pool(dsn, "test", 2, role=Roles(stack.database(SERVICE)).app) as pool:
        store = await open_store(pool, SERVICE, Metrics(SERVICE, "test"))
        for version, payload in enumerate((b'{"number": 7}', b"{}")):
            event = NewEvent(uuid4(), "registration.volunteer_registered", 1, payload)
            await store.append(
                AppendRequest(
                    command_id=uuid4(),
                    fingerprint=None,
                    stream=Stream("volunteer", person),
                    expected_version=version,
                    events=[event],
                    refusal=None,
                    take=(),
                    release=(),
                    time=datetime.now(UTC),
                    correlation_id=uuid4(),
                    causation_id=None,
                    actor="kiosk:1",
                    partition_key=str(person),
                    traceparent=None,
                )
            )
        await store.close()
    await stack.settled()
    parked = "SELECT position, key, error_class FROM consumer.parked WHERE consumer = 'views' ORDER BY position"
    before, live = await stack.sql(SERVICE, parked), await operator.digest(SERVICE)
    assert [row["key"] for row in before] == [str(person)] * 2
    await operator.done(SERVICE, "rebuild")
    assert await stack.sql(SERVICE, parked) == before
    assert await operator.digest(SERVICE) == live


async def test_registration_is_restored_from_an_older_copy_while_the_others_go_on(scene: Scene, operator: Operator) -> None:
    """Every digest is as it was, but for the sealed fields of who registered after the copy was made."""
    await operator.alone(SERVICE)
    stage, stack, database = scene.stage, scene.stage.stack, scene.stage.stack.database(SERVICE)
    processes = [f"{SERVICE}-api", f"{SERVICE}-worker"]
    volunteer = await stage.volunteer("李四光")
    day = await stage.day(not_before=date(2017, 11, 1))
    activity = await stage.activity(on(day, "09:00"), on(day, "12:00"))
    seat = await stage.enroll(volunteer, activity)
    await stack.settled()
    stop(scene, processes)
    copy = f"{database}_copy"
    stack.postgres.create_database(copy, database, database)
    stack.start(*processes)
    await stack.settled()  # A worker that has just begun may need longer than a command waits for what it has seen.
    younger, _ = await scene.seat()
    body = {"volunteer_id": str(younger), "position": "cleaner"}
    asked = (stage.self_(SERVICE, younger), f"/activities/{activity.id}/enrollments", body)
    first = accepted(await command(*asked, key="before-the-restore"))
    await stack.settled()
    before = {service: tables(await operator.digest(service)) for service in (SERVICE, "recognition")}
    stop(scene, processes)
    stack.postgres.drop_database(database)
    stack.postgres.create_database(database, database, copy)

    stack.start(f"{SERVICE}-api")
    refused = await command(*asked, key="before-the-restore")
    assert (refused.status_code, refused.json()["code"]) == (503, "log_closed")
    await stack.travel(on(day, "08:55"))
    accepted(await stage.door("check-in", volunteer, activity, After=seat["position"]))  # Hours goes on.
    said = await operator.done(SERVICE, "recover", "--reason", "a test")
    assert f"key lost, sealed fields read null, claims not rebuilt: {younger}" in said
    stack.start(f"{SERVICE}-worker")
    await stack.settled()
    restored = tables(await operator.digest(SERVICE))
    assert {name for name, said in restored.items() if said != before[SERVICE][name]} == {"volunteers"}
    assert tables(await operator.digest("recognition")) == before["recognition"]
    [row] = await stack.sql(SERVICE, f"SELECT name, number FROM {await operator.live(SERVICE)}.volunteers WHERE volunteer_id = $1", younger)
    assert (row["name"], bool(row["number"])) == (None, True)

    again = accepted(await command(*asked, key="before-the-restore"))
    assert (again["position"], again["events"]) == (first["position"], first["events"])
    await stage.volunteer("周五一")  # And what comes now is decided, published and shown.
    await stack.settled()
    assert not await stack.sql(SERVICE, "SELECT FROM consumer.parked WHERE key = $1", str(younger))
    live = await operator.digest(SERVICE)
    await operator.done(SERVICE, "rebuild")
    assert await operator.digest(SERVICE) == live


def tables(digest: str) -> dict[str, str]:
    """By table, its rows and digest as they were printed."""
    return {name: said for said, _, name in (line.rpartition("  ") for line in digest.splitlines()[1:])}


def stop(scene: Scene, processes: Sequence[str]) -> None:
    """Ends processes in order."""
    for name in processes:
        scene.stage.stack.processes[name].stop((signal.SIGTERM, 15.0))
