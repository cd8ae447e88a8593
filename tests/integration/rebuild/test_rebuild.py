"""Read models are built anew while people go on, and nobody notices when they are swapped."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID, uuid4

import httpx
import pytest

from shared.envelope import Stream
from shared.eventstore.store import open_store
from shared.eventstore.values import AppendRequest, NewEvent
from shared.metrics import Metrics
from shared.migrate import Roles
from shared.postgres import open_pool
from tests.integration.rebuild.conftest import Operator, Scene, until

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
async def going_on(scene: Scene, people: int = 2) -> AsyncIterator[Going]:
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
        for each in (*[person] * people, reader):
            tasks.create_task(each())
        yield found
        stop.set()


async def test_read_models_are_swapped_while_people_go_on_and_every_read_is_answered(scene: Scene, operator: Operator) -> None:
    await operator.alone(SERVICE)
    before = await operator.live(SERVICE)
    worker = scene.stage.stack.processes[f"{SERVICE}-worker"]
    async with going_on(scene) as people:
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
    await scene.stage.stack.settled()
    digests = [await operator.digest(service)]
    for origin in ("kafka", "store"):
        await operator.alone(service)
        await operator.done(service, "rebuild", "--from", origin)
        digests.append(await operator.digest(service))
    assert digests[0] == digests[1] == digests[2]
    assert digests[0].count("\n") > 3
    await scene.seat()
    await scene.stage.stack.settled()
    assert (await operator.digest("registration")) != digests[0]


async def test_a_rebuild_that_is_killed_goes_on_where_it_stood_and_workers_show_how_far_it_is(scene: Scene, operator: Operator) -> None:
    await operator.alone(SERVICE)
    await scene.stage.stack.settled()
    live, first = await operator.digest(SERVICE), operator.start(SERVICE, "rebuild", "--rate", "50")

    async def far() -> bool:
        rows = await scene.stage.stack.sql(SERVICE, "SELECT sum(applied) AS n FROM consumer.position WHERE consumer LIKE 'views@%'")
        return (rows[0]["n"] or 0) >= 100

    async def shown() -> bool:
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"{scene.stage.stack.url(f'{SERVICE}-worker')}/metrics")).text
        lines = [line for line in text.splitlines() if line.startswith("leifeng_projection_rebuild_progress_ratio{")]
        return bool(lines) and 0 < float(lines[0].rpartition(" ")[2]) < 1

    await until(far)
    await until(shown)
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
