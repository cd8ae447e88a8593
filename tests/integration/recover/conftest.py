"""A whole service on real servers, whose database a test may restore from an older copy, and its operator's commands as typed."""

import asyncio
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from deploy.local.kafka import LocalKafka
from deploy.local.places import CHECKOUT
from deploy.local.postgres import LocalPostgres
from deploy.sample.year import id_number
from services.registration.programme_file import proposal_of
from shared.clock import CIVIL_ZONE
from shared.eventstore.clock import travel_to
from shared.postgres import connect
from tests.e2e.stack import Stack, command
from tests.forks.children import python

SERVICE = "registration"
PROGRAMME = CHECKOUT / "deploy" / "sample" / "programme-2017.yaml"
UNIT = "water-saving-office"


def civil(text: str) -> datetime:
    """An instant by the bureau's wall clock."""
    return datetime.fromisoformat(text).replace(tzinfo=CIVIL_ZONE)


@dataclass(frozen=True)
class Ran:
    """What a command printed, and its exit code."""

    code: int
    out: str


@dataclass
class Person:
    """An invented person, and what they say of themself when they register."""

    number: int
    id: UUID = field(default_factory=uuid4)

    def registration(self) -> dict[str, Any]:
        return {
            "unit_code": UNIT,
            "name": "甲乙丙",
            "id_number": id_number(date(1980, 5, 1), self.number),
            "phone": f"1990000{self.number:04d}",
            "consents": ["register"],
            "consent_text_version": "2017-1",
        }


class Site(Stack):
    """Registration's two processes; the other services have only their databases. The clock travels, in 2017."""

    def __init__(self, folder: Path, postgres: LocalPostgres, kafka: LocalKafka) -> None:
        super().__init__(folder, postgres, kafka, clock="travel")
        self._numbers = count(1)

    def start_service(self) -> None:
        """Both processes of registration, ready."""
        self.start(f"{SERVICE}-api", f"{SERVICE}-worker")

    async def move_clock(self, text: str) -> None:
        """Registration's clock only."""
        connection = await connect(self.dsn(SERVICE), "travel")
        await travel_to(connection, civil(text))
        await connection.close(timeout=5)

    async def run(self, *arguments: str, kill_at: str | None = None) -> Ran:
        """`python -m services.registration <arguments>`; with `kill_at`, ended by SIGKILL once it prints that."""
        return await run(SERVICE, self.environment(SERVICE), *arguments, kill_at=kill_at)

    # -- the older copy

    def back_up(self) -> str:
        """A copy of registration's database as it is now, while none of its processes runs; the name of the copy."""
        copy = f"{self.database(SERVICE)}_{uuid4().hex[:6]}"
        self.postgres.create_database(copy, self.database(SERVICE), self.database(SERVICE))
        return copy

    def restore(self, copy: str) -> None:
        """Puts a copy in the place of the database."""
        self.postgres.drop_database(self.database(SERVICE))
        self.postgres.create_database(self.database(SERVICE), self.database(SERVICE), copy)

    # -- people at work

    async def ask(
        self, path: str, body: Mapping[str, Any], person: str | UUID = "局长甲", role: str = "bureau_admin", *, key: str | None = None
    ) -> httpx.Response:
        """One command of somebody."""
        async with self.client(SERVICE, person, role, UNIT) as client:
            return await command(client, path, body, key=key)

    async def adopt(self) -> None:
        """Roles and the programme, without which nothing can be done."""
        await self.move_clock("2017-03-01T09:00")
        await self.appoint(("局长甲", "bureau_admin", UNIT), ("副局长丁", "bureau_admin", UNIT), ("科长乙", "unit_admin", UNIT))
        file = PROGRAMME.read_text(encoding="utf-8")
        approve = f"/programmes/{proposal_of(file)[0]}/approve"
        for path, body, who in (("/programmes", {"file": file}, "局长甲"), (approve, {}, "副局长丁")):
            answer = await self.ask(path, body, who, key="programme")
            assert answer.status_code == 200, answer.text
        await self.caught_up()

    def person(self) -> Person:
        """Somebody new."""
        return Person(next(self._numbers))

    async def register(self, person: Person, *, key: str | None = None) -> httpx.Response:
        """They register themself; said again, it is the same command."""
        return await self.ask("/volunteers", person.registration(), person.id, "volunteer", key=key or str(person.id))

    async def publish(self) -> UUID:
        """An activity with one seat and a wait-list."""
        said = {
            "unit_code": UNIT, "title": "清洁河道", "carrier": "caring-for-nature", "place": "淄河岸边",
            "starts_at": civil("2017-04-01T09:00").isoformat(), "ends_at": civil("2017-04-01T12:00").isoformat(),
            "positions": [{"code": "cleaner", "name": "清洁员", "capacity": 1}], "wait_list_max": 5,
        }  # fmt: skip
        answer = await self.ask("/activities", said, "科长乙", "unit_admin")
        assert answer.status_code == 200, answer.text
        return UUID(answer.json()["stream"].partition("-")[2])

    async def enroll(self, person: Person, activity: UUID, *, key: str | None = None) -> httpx.Response:
        """They ask for the seat."""
        said = {"volunteer_id": str(person.id), "position": "cleaner"}
        return await self.ask(f"/activities/{activity}/enrollments", said, person.id, "volunteer", key=key)

    async def withdraw(self, person: Person, activity: UUID) -> httpx.Response:
        """They give it back."""
        return await self.ask(f"/activities/{activity}/enrollments/{person.id}/withdraw", {}, person.id, "volunteer")

    async def erase(self, person: Person) -> httpx.Response:
        """They want to be forgotten, and the bureau approves it."""
        asked = await self.ask(f"/volunteers/{person.id}/erasure", {}, person.id, "volunteer")
        assert asked.status_code == 200, asked.text
        return await self.ask(f"/volunteers/{person.id}/erasure/approve", {})

    async def caught_up(self, within: float = 30.0) -> None:
        """Until every reader of registration's own log stands at its head, and has heard that log speak of itself."""
        end = monotonic() + within
        while True:
            rows = await self.sql(SERVICE, _BEHIND)
            if not rows:
                return
            assert monotonic() < end, rows
            await asyncio.sleep(0.05)

    async def state(self) -> str:
        """The log's."""
        return str((await self.sql(SERVICE, "SELECT state FROM es.log"))[0]["state"])


async def run(service: str, environment: Mapping[str, str], *arguments: str, kill_at: str | None = None) -> Ran:
    """A service's command as typed, to its end."""
    program = python() if kill_at is None else sys.executable  # What is killed is to be the process itself.
    process = await asyncio.create_subprocess_exec(
        program, "-m", f"services.{service}", *arguments, cwd=CHECKOUT, env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    out = ""
    try:
        async with asyncio.timeout(60):
            while line := (await process.stdout.readline()).decode():
                out += line
                if kill_at is not None and kill_at in line:
                    process.kill()
            return Ran(await process.wait(), out)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


_BEHIND = """
    WITH head AS (SELECT coalesce(max(position), 0) AS position FROM es.event)
    SELECT wanted.consumer, place.applied, head.position
    FROM head CROSS JOIN (VALUES ('views'), ('inbox'), ('withdrawals')) AS wanted (consumer)
    LEFT JOIN consumer.position AS place ON place.consumer = wanted.consumer AND place.log = 'registration'
    WHERE coalesce(place.applied, 0) < head.position
    UNION ALL
    SELECT 'heads', NULL, head.position FROM head WHERE NOT EXISTS (SELECT FROM consumer.head WHERE log = 'registration')
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, postgres_server: LocalPostgres, kafka_server: LocalKafka) -> Iterator[Site]:
    """Migrated, nothing started. The tests of a module share it."""
    made = Site(tmp_path_factory.mktemp("site"), postgres_server, kafka_server)
    made.migrate()
    yield made
    made.remove()
