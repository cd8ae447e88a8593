"""A service's database with the tables of consumers, and a topic to read from."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest

from deploy.local.kafka import LocalKafka
from shared import access, consumer, eventstore, privacy
from shared.metrics import Metrics
from shared.migrate import Roles, migrate, roles_of
from shared.postgres import Pool, connect, open_pool
from shared.privacy import PersonalKeys
from tests.conftest import OWNER, Databases
from tests.integration.consumer.log import TALLY, create_topic

KEY = bytes(range(32))


@dataclass
class Base:
    """One service's database, with connections as its app role."""

    dsn: str
    roles: Roles
    pool: Pool
    keys: PersonalKeys
    metrics: Metrics

    async def tallied(self) -> list[tuple[int, str, int]]:
        """Position, key, number, in the order in which they were written."""
        rows = await self.pool.fetch("SELECT position, key, number FROM lookup.tally ORDER BY n")
        return [tuple(row) for row in rows]

    async def parked(self) -> list[tuple[int, str, str]]:
        """Position, key, why."""
        rows = await self.pool.fetch("SELECT position, key, error_class FROM consumer.parked ORDER BY log, position")
        return [tuple(row) for row in rows]

    async def applied(self, name: str = "inbox", source: str = "seats") -> int:
        """Where a consumer stands."""
        return await self.pool.fetchval("SELECT applied FROM consumer.position WHERE consumer = $1 AND log = $2", name, source) or 0

    def counted(self, result: str, name: str = "inbox") -> float:
        """A sample of `consumer_events_total`."""
        return float(self.metrics.consumer_events_total.labels(name, result)._value.get())


@contextmanager
def losing_the_answer(reader: Any, loan: int = 1) -> Iterator[None]:
    """In this block what a reader commits on its n-th loan of a connection goes through, and the reader hears of a lost connection."""
    pool, loans = reader._pool, count(1)

    class Losing:
        fetchval = pool.fetchval

        @asynccontextmanager
        async def acquire(self, **within: float) -> AsyncIterator[Any]:
            async with pool.acquire(**within) as connection:
                yield connection
            if next(loans) == loan:
                raise ConnectionResetError

    reader._pool = Losing()
    try:
        yield
    finally:
        reader._pool = pool


@pytest.fixture(scope="session")
async def template(database: Databases) -> str:
    """A migrated database to copy."""
    dsn = database()
    connection = await connect(dsn, "migrate")
    await migrate(connection, [eventstore.MIGRATIONS, access.MIGRATIONS, privacy.MIGRATIONS, consumer.MIGRATIONS])
    await connection.execute((await roles_of(connection)).fill_in(TALLY))
    await connection.close()
    return dsn


@pytest.fixture
async def bases(database: Databases, template: str) -> AsyncIterator[Callable[[], Awaitable[Base]]]:
    """Makes fresh databases of a service."""
    made: list[Base] = []

    async def make() -> Base:
        dsn = database(template)
        roles = Roles(OWNER)
        pool = open_pool(dsn, "test", 8, role=roles.app)
        base = Base(dsn, roles, pool, PersonalKeys(pool, KEY), Metrics("hours", "test"))
        made.append(base)
        await pool
        return base

    yield make
    for base in made:
        try:
            async with asyncio.timeout(5):
                await base.pool.close()
        except TimeoutError:  # A test that failed may have kept a connection; it must not keep the run too.
            base.pool.terminate()


@pytest.fixture
async def base(bases: Callable[[], Awaitable[Base]]) -> Base:
    """A fresh database of a service."""
    return await bases()


@pytest.fixture
async def topic(kafka_server: LocalKafka, topic_prefix: str) -> str:
    """The event topic of `seats`, empty."""
    name = f"{topic_prefix}seats.events"
    await create_topic(kafka_server.servers, name)
    return name
