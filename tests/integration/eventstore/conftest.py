"""A log in a database of its own for each test that asks, copied from one that was migrated once."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import asyncpg
import pytest

from shared.eventstore import MIGRATIONS
from shared.eventstore.store import PostgresStore, ensure_log, open_store
from shared.eventstore.values import AnsweringStore
from shared.metrics import Metrics
from shared.migrate import Roles, migrate, roles_of
from shared.postgres import Pool, connect, open_pool
from shared.testing.store import MemoryStore
from tests.conftest import Databases

SERVICE = "registration"


@dataclass
class Log:
    """A migrated database and one process' store over it."""

    dsn: str
    roles: Roles
    owner: "asyncpg.Connection[asyncpg.Record]"
    pool: Pool
    store: PostgresStore
    closing: AsyncExitStack
    metrics: Metrics = field(default_factory=lambda: Metrics(SERVICE, "0"))

    async def another(self, name: str = "another") -> PostgresStore:
        """The store of another process: a pool and a lane of its own."""
        return await another_store(self.closing, self.dsn, self.roles, name, self.metrics)

    async def connection(self, *, as_app: bool = False) -> "asyncpg.Connection[asyncpg.Record]":
        """One more connection, the owner's or one that acts as the app."""
        connection = await connect(self.dsn, "test", role=self.roles.app if as_app else None, statement_seconds=30)
        self.closing.push_async_callback(connection.close)
        return connection


async def another_store(closing: AsyncExitStack, dsn: str, roles: Roles, name: str, metrics: Metrics) -> PostgresStore:
    pool = await closing.enter_async_context(open_pool(dsn, name, 3, role=roles.app))
    store = await open_store(pool, SERVICE, metrics)
    closing.push_async_callback(store.close)
    return store


async def log_in(closing: AsyncExitStack, dsn: str) -> Log:
    """Opens a migrated database."""
    owner = await connect(dsn, "owner")
    closing.push_async_callback(owner.close)
    roles = await roles_of(owner)
    pool = await closing.enter_async_context(open_pool(dsn, "store", 4, role=roles.app))
    metrics = Metrics(SERVICE, "0")
    store = await open_store(pool, SERVICE, metrics)
    closing.push_async_callback(store.close)
    return Log(dsn, roles, owner, pool, store, closing, metrics)


async def migrated(dsn: str) -> str:
    owner = await connect(dsn, "migrate")
    await migrate(owner, [MIGRATIONS])
    await ensure_log(owner, SERVICE, "system")
    await owner.close()
    return dsn


@pytest.fixture(scope="session")
async def migrated_database(database: Databases) -> str:
    return await migrated(database())


@pytest.fixture
async def log(database: Databases, migrated_database: str) -> AsyncIterator[Log]:
    async with AsyncExitStack() as closing:
        yield await log_in(closing, database(migrated_database))


@dataclass
class Subject:
    """One of the two stores, and how its log is closed."""

    store: AnsweringStore
    close_log: Callable[[str], Awaitable[None]]


@pytest.fixture(params=["memory", "postgres"])
async def subject(request: pytest.FixtureRequest, database: Databases, migrated_database: str) -> AsyncIterator[Subject]:
    if request.param == "memory":
        memory = MemoryStore(SERVICE)

        async def close_memory(state: str) -> None:
            memory.state = state

        yield Subject(memory, close_memory)
        return
    async with AsyncExitStack() as closing:
        log = await log_in(closing, database(migrated_database))

        async def close_database(state: str) -> None:
            await log.owner.execute("UPDATE es.log SET state = $1", state)

        yield Subject(log.store, close_database)
