"""Three running services with some records in them, and an operator's commands as they are typed."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import pytest

from deploy.local.children import Child, wait_for
from deploy.local.environment import base_url
from deploy.local.kafka import LocalKafka
from deploy.local.places import CHECKOUT
from deploy.local.postgres import LocalPostgres
from shared.digest import digest_of
from tests.e2e.stack import Stack, command, running
from tests.e2e.stage import UNIT, Activity, Stage, accepted, on, rows
from tests.forks.children import start
from tests.loopback import NO_TLS

PEOPLE: Final = 60
WITHIN_S: Final = 60.0


@dataclass(frozen=True)
class Ran:
    """What a command printed, and how it ended."""

    code: int
    out: str


class Operator:
    """Somebody at the command line, with the code of a checkout."""

    def __init__(self, stack: Stack, checkout: Path = CHECKOUT) -> None:
        self.stack = stack
        self.checkout = checkout

    def start(self, service: str, *words: str) -> Child:
        """Begins a command."""
        name = f"{service}-operator-{uuid4().hex[:8]}"
        environment = {**os.environ, **self.stack.environment(service)}
        log = self.stack.folder / f"{name}.log"
        return start(name, f"services.{service}", *words, log=log, environment=environment, directory=self.checkout)

    async def end(self, child: Child) -> Ran:
        """Waits for its end."""
        assert await asyncio.to_thread(wait_for, lambda: not child.running(), WITHIN_S), child.log.read_text()[-2000:]
        code = child.exit_code()
        assert code is not None
        return Ran(code, child.log.read_text())

    async def run(self, service: str, *words: str) -> Ran:
        """A command from its beginning to its end."""
        return await self.end(self.start(service, *words))

    async def done(self, service: str, *words: str) -> str:
        """What a command printed that succeeds."""
        ran = await self.run(service, *words)
        assert ran.code == 0, ran.out[-3000:]
        return ran.out

    async def digest(self, service: str) -> str:
        """Positions, then rows and digest of each table, as the command prints them."""
        found = await digest_of(self.stack.dsn(service))
        positions = ", ".join(f"{source} {position}" for source, position in found.positions.items())
        return "\n".join([positions, *(f"{said}  {rows:>9}  {name}" for name, (rows, said) in found.tables.items())])

    async def live(self, service: str) -> str:
        """The schema that is live."""
        found: str = (await self.stack.sql(service, "SELECT schema FROM consumer.views WHERE live"))[0]["schema"]
        return found

    async def alone(self, service: str) -> None:
        """Leaves only the live read models."""
        if await self.stack.sql(service, "SELECT FROM consumer.views WHERE NOT live"):
            await self.done(service, "rebuild", "--drop-old")


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory, postgres_server: LocalPostgres, kafka_server: LocalKafka) -> Iterator[Stack]:
    """Six processes on the travelling clock."""
    with running(tmp_path_factory.mktemp("rebuild"), postgres_server, kafka_server) as made:
        yield made


@dataclass
class Scene:
    """The running system, an activity with seats, and a way to take one."""

    stage: Stage
    activity: Activity
    client: httpx.AsyncClient
    """One for all people: each says with every request who they are."""

    async def seat(self) -> tuple[UUID, str]:
        """Somebody registers and takes a seat; who, and the token of the seat."""
        person = uuid4()
        said = self.stage.registration("钱小川")
        token = self.stage.stack.token(person, "volunteer", UNIT)
        known = accepted(await command(self.client, "/volunteers", said, After=self.stage.programme_at, Authorization=token))["position"]
        seat = {"volunteer_id": str(person), "position": "cleaner"}
        after = f"{known}, {self.activity.after}"
        answer = await command(self.client, f"/activities/{self.activity.id}/enrollments", seat, After=after, Authorization=token)
        return person, str(accepted(answer)["position"])

    async def seen(self, person: UUID, token: str) -> list[dict[str, Any]]:
        """Their seats, as a reader sees them who has seen `token`."""
        return await rows(self.stage.bureau("registration"), "/enrollments", token, volunteer=str(person))


@pytest.fixture(scope="package")
async def scene(stack: Stack) -> AsyncIterator[Scene]:
    """The programme, some dozens of people with seats, and two whose hours count."""
    stage = Stage(stack)
    await stage.set()
    far = await stage.activity(on(date(2017, 12, 5), "09:00"), on(date(2017, 12, 5), "12:00"), 1000)
    client = httpx.AsyncClient(base_url=base_url(stack.ports, "registration"), timeout=10, verify=NO_TLS)
    made = Scene(stage, far, client)
    for _ in range(PEOPLE // 10):
        await asyncio.gather(*(made.seat() for _ in range(10)))
    day = await stage.day(not_before=date(2017, 3, 5))
    activity = await stage.activity(on(day, "09:00"), on(day, "12:00"))
    for _ in range(2):
        volunteer = await stage.volunteer("孙二水")
        entry = await stage.served(volunteer, activity, on(day, "08:50"), on(day, "11:30"))
        await stage.confirm(entry)
        day = await stage.day()
        activity = await stage.activity(on(day, "09:00"), on(day, "12:00"))
    await stack.settled()
    yield made
    await client.aclose()
    await stage.close()


@pytest.fixture
async def operator(scene: Scene) -> Operator:
    """Who types."""
    return Operator(scene.stage.stack)


async def until(what: Callable[[], Awaitable[object]], within: float = WITHIN_S) -> None:
    """Asks again until it is so."""
    end = time.monotonic() + within
    while not await what():
        assert time.monotonic() < end, "it did not come about in time"
        await asyncio.sleep(0.05)
