"""Six real processes on a real Kafka and a real PostgreSQL, which a test may kill one by one."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx

from deploy.local.children import Child, last_lines, wait_for
from deploy.local.environment import HOST, ISSUER, SERVICES, Ports, base_url, database_of, service_environment
from deploy.local.kafka import LocalKafka, free_ports
from deploy.local.keys import Keys, issue_token, person_id
from deploy.local.places import CHECKOUT
from deploy.local.postgres import LocalPostgres
from services.hours import main as hours
from services.recognition import main as recognition
from services.registration import main as registration
from shared.consumer.values import Reaction
from shared.contracts.topics import SUBSCRIPTIONS
from shared.eventstore.clock import travel_to
from shared.postgres import connect
from tests.forks.children import python, start
from tests.loopback import NO_TLS

READY_WITHIN_S = 30.0

REACTIONS: Mapping[str, Sequence[Reaction[Any]]] = {
    "registration": registration.SERVICE.reactions,
    "hours": hours.SERVICE.reactions,
    "recognition": recognition.SERVICE.reactions,
}


class Stack:
    """The three services, each an api and a worker. `name` of a process is `hours-api`, `hours-worker` and so on."""

    def __init__(self, folder: Path, postgres: LocalPostgres, kafka: LocalKafka, *, clock: str = "system", forked: bool = True) -> None:
        self.folder = folder
        self.keys = Keys(folder / "secrets")
        self.postgres = postgres
        self.kafka = kafka
        self.prefix = f"e{uuid4().hex[:10]}."
        ports = free_ports(2 * len(SERVICES))
        self.ports = Ports(
            postgres=postgres.port,
            kafka=kafka.nodes[0].broker_port,
            kafka_controller=kafka.nodes[0].controller_port,
            api=dict(zip(SERVICES, ports[:3], strict=True)),
            worker=dict(zip(SERVICES, ports[3:], strict=True)),
        )
        self.clock = clock
        self._forked = forked  # What is measured of a process is to be measured of one that begins as it does at work.
        self.suffix = f"_{uuid4().hex[:10]}"
        self.processes: dict[str, Child] = {}
        for service in SERVICES:
            owner = database_of(service) + self.suffix
            self.server(service).ensure_role(owner, self.keys.database_password(service))
            self.server(service).ensure_database(owner, owner)

    def server(self, service: str) -> LocalPostgres:
        """The PostgreSQL of a service; here all share one."""
        return self.postgres

    def database(self, service: str) -> str:
        """Name of the service's database, and of its owner."""
        return database_of(service) + self.suffix

    def dsn(self, service: str, role: str | None = None) -> str:
        """The service's database as its owner, or as the superuser with `role="admin"`."""
        if role == "admin":
            return self.server(service).dsn(self.database(service))
        return self.server(service).dsn(self.database(service), self.database(service), self.keys.database_password(service))

    def environment(self, service: str) -> dict[str, str]:
        """The settings of one service."""
        prefix = service.upper()
        return service_environment(service, self.ports, self.keys) | {
            f"{prefix}_POSTGRES_DSN": self.dsn(service),
            f"{prefix}_KAFKA_SERVERS": self.kafka.servers,
            f"{prefix}_TOPIC_PREFIX": self.prefix,
            f"{prefix}_CLOCK": self.clock,
        }

    def migrate(self) -> None:
        """Schemas and topics of all services."""
        runs = [self._child(f"{service}-migrate", service, "migrate") for service in SERVICES]
        for run in runs:
            assert wait_for(lambda run=run: not run.running(), 90), f"{run.name} does not end"  # type: ignore[misc]
            assert run.exit_code() == 0, last_lines(run.log, 20)

    def start(self, *names: str) -> None:
        """Start processes (all of them when none is named) and wait until each is ready."""
        chosen = names or tuple(f"{service}-{role}" for service in SERVICES for role in ("api", "worker"))
        for name in chosen:
            service, _, role = name.partition("-")
            self.processes[name] = self._child(name, service, role)
        for name in chosen:
            self.wait_until_ready(name)

    def wait_until_ready(self, name: str) -> None:
        """Wait for `/readyz` of one process."""
        child = self.processes[name]
        assert wait_for(lambda: not child.running() or self._ready(name), READY_WITHIN_S, 0.05), last_lines(child.log, 20)
        assert child.running(), last_lines(child.log, 20)

    def url(self, name: str) -> str:
        """Base address of a process."""
        service, _, role = name.partition("-")
        return f"http://{HOST}:{(self.ports.api if role == 'api' else self.ports.worker)[service]}"

    def kill(self, name: str) -> None:
        """SIGKILL, and wait for the end."""
        self.processes[name].send(signal.SIGKILL)
        assert wait_for(lambda: not self.processes[name].running(), 10)

    def stop(self) -> None:
        """End everything this stack has started, in order."""
        for child in self.processes.values():
            child.send(signal.SIGCONT)
            child.send(signal.SIGTERM)
        for child in self.processes.values():
            child.stop((signal.SIGTERM, 15.0))

    def remove(self) -> None:
        """End it as nobody will look at it again: at once."""
        for child in self.processes.values():
            child.stop()

    def token(self, person: str | UUID, role: str, unit: str) -> str:
        """A bearer header of the local issuer for an invented person."""
        return "Bearer " + issue_token(self.keys, ISSUER, person=person_id(str(person)), role=role, unit=unit)

    def client(self, service: str, person: str | UUID = "局长甲", role: str = "bureau_admin", unit: str = "bureau") -> httpx.AsyncClient:
        """A person in front of one service."""
        return httpx.AsyncClient(
            base_url=base_url(self.ports, service), headers={"Authorization": self.token(person, role, unit)}, timeout=10, verify=NO_TLS
        )

    async def appoint(self, *who: tuple[str | UUID, str, str]) -> None:
        """Gives roles (person, role, unit) as an operator does, and waits until every service with a worker has heard of it.

        The clock has been set.
        """
        said = [f"{person_id(str(person))}={role}@{unit}" for person, role, unit in who]
        run = await asyncio.create_subprocess_exec(
            python(), "-m", "services.registration", "grant", *said, cwd=CHECKOUT,
            env={**os.environ, **self.environment("registration")}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await asyncio.wait_for(run.communicate(), 60)
        assert run.returncode == 0, out.decode()[-2000:]
        end = time.monotonic() + 60
        for service in {name.partition("-")[0] for name, child in self.processes.items() if "-worker" in name and child.running()}:
            for person, role, unit in who:
                while not await self.sql(service, _HELD, person_id(str(person)), f"role:{role}:{unit}"):
                    assert time.monotonic() < end, f"{service} does not hear that {person} is {role} of {unit}"
                    await asyncio.sleep(0.05)

    async def travel(self, instant: datetime) -> None:
        """Moves the clock of every service forward."""
        for service in SERVICES:
            connection = await connect(self.dsn(service), "travel")
            await travel_to(connection, instant)
            await connection.close(timeout=5)

    async def settled(self, within: float = 20.0) -> None:
        """Waits until every consumer of every service stands at the heads of the stores, reactions and due deadlines included."""
        end = time.monotonic() + within
        async with AsyncExitStack() as held:
            asking = {service: await held.enter_async_context(self.asking(service)) for service in SERVICES}
            while True:
                heads = {service: await one.fetchval(_HEAD) for service, one in asking.items()}
                behind = [line for service, one in asking.items() for line in await self._behind(service, one, heads)]
                again = {service: await one.fetchval(_HEAD) for service, one in asking.items()}
                if not behind and again == heads:
                    return
                assert time.monotonic() < end, behind
                await asyncio.sleep(0.05)

    async def _behind(self, service: str, asking: "asyncpg.Connection[asyncpg.Record]", heads: Mapping[str, int]) -> list[str]:
        places = {(row["consumer"], row["log"]): row for row in await asking.fetch(_PLACES)}
        reached = {
            (name, each.source): places[name, each.source]["applied"] if (name, each.source) in places else 0
            for each in SUBSCRIPTIONS
            if (name := each.consumer.partition(".")[2]) and each.consumer.startswith(f"{service}.")
        }
        for reaction in {each.source for each in REACTIONS[service]}:
            reached["reactions", reaction] = places["inbox", reaction]["reacted"] if ("inbox", reaction) in places else 0
        due = await asking.fetchval(_DUE)
        return [
            *(f"{service}.{name} of {log}: {at} of {heads[log]}" for (name, log), at in reached.items() if at < heads[log]),
            *([f"{service}: {due} deadlines"] if due else []),
        ]

    async def sql(self, service: str, statement: str, *values: Any) -> list[asyncpg.Record]:
        """Rows of a service's database, as the superuser."""
        async with self.asking(service) as connection:
            return await connection.fetch(statement, *values)

    @asynccontextmanager
    async def asking(self, service: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """A connection to a service's database, as the superuser."""
        connection = await asyncpg.connect(self.dsn(service, "admin"), timeout=5)
        try:
            yield connection
        finally:
            await connection.close(timeout=5)

    def _child(self, name: str, service: str, role: str) -> Child:
        log = self.folder / f"{name}.log"
        environment = {**os.environ, **self.environment(service)}
        return start(name, *self.program(service, role), log=log, environment=environment, forked=self._forked)

    def program(self, service: str, role: str) -> Sequence[str]:
        """The module that a process runs, and its arguments."""
        return (f"services.{service}", role)

    def _ready(self, name: str) -> bool:
        try:
            return httpx.get(f"{self.url(name)}/readyz", timeout=2, verify=NO_TLS).status_code == 200
        except httpx.HTTPError:
            return False


@contextmanager
def running(folder: Path, postgres: LocalPostgres, kafka: LocalKafka) -> Iterator[Stack]:
    """Six processes on the travelling clock, with nothing in their logs yet."""
    made = Stack(folder, postgres, kafka, clock="travel")
    made.migrate()
    made.start()
    yield made
    made.remove()


_HEAD = "SELECT coalesce(max(position), 0) AS head FROM es.event"
_HELD = "SELECT FROM consumer.withdrawn WHERE subject = $1 AND kind = $2 AND given_position IS NOT NULL AND NOT withdrawn"
_PLACES = "SELECT consumer, log, applied, reacted FROM consumer.position"
_DUE = """SELECT count(*) AS due FROM consumer.deadline WHERE due_at <= coalesce((SELECT "now" FROM es.log), now())"""


async def command(
    client: httpx.AsyncClient, path: str, body: Mapping[str, Any], *, key: str | None = None, **headers: str
) -> httpx.Response:
    """One command; a repeat needs the same `key`."""
    said = {"Idempotency-Key": key or uuid4().hex, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return await client.post(f"/api/v1{path}", json=dict(body), headers=said)


def within(seconds: float, condition: Callable[[], bool]) -> None:
    """Wait for a condition with a deadline."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.05)
