"""Where a run takes place: a PostgreSQL 18 with fsync and a Kafka of its own, each started when the first bench asks for it."""

import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final
from uuid import uuid4

import asyncpg

from deploy.local.kafka import LocalKafka, installed
from deploy.local.postgres import LocalPostgres
from deploy.local.progress import Console
from services.hours import inbox
from services.hours.application import LookUps
from services.hours.main import SERVICE
from shared import VERSION
from shared.codec import Codec
from shared.contracts.topics import EVENTS, UPCASTERS
from shared.eventstore.clock import log_clock
from shared.eventstore.store import PostgresStore, open_store
from shared.eventstore.submit import Commands
from shared.metrics import Metrics
from shared.migrate import Roles, roles_of
from shared.postgres import Connection, Pool, connect, open_pool
from shared.privacy import PersonalKeys
from shared.process import STORE_CONNECTIONS_MAX, migrate_database
from tests.bench.measure import Cpu
from tests.conftest import OWNER, Databases

_KEY: Final = bytes(range(32))


@dataclass(frozen=True, slots=True)
class Log:
    """The log of `hours` in a migrated database, and one process' way to it: what `shared.process` puts together."""

    dsn: str
    roles: Roles
    owner: Connection
    pool: Pool
    store: PostgresStore
    metrics: Metrics
    codec: Codec
    keys: PersonalKeys

    def commands(self, store: PostgresStore | None = None, *, cached_streams_max: int = 10_000) -> Commands[LookUps]:
        """A Commands as a process has it; without its cache every command reads its stream."""
        return Commands(
            store or self.store,
            self.codec,
            self.keys,
            inbox.LookUps(self.pool),
            SERVICE.claims,
            log_clock(self.pool),
            self.metrics,
            cached_streams_max=cached_streams_max,
        )


class Place:
    """The servers of one run. Close it at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._migrated: str | None = None
        self._started: list[LocalPostgres | LocalKafka] = []

    @cached_property
    def postgres(self) -> LocalPostgres:
        """With fsync: what is answered is on disk."""
        server = LocalPostgres(self.folder / "postgres", secrets.token_hex(16))
        self._started.append(server)
        server.start()
        return server

    @cached_property
    def kafka(self) -> LocalKafka:
        """One node."""
        server = LocalKafka(self.folder / "kafka", installed(Console()))
        self._started.append(server)
        server.start()
        return server

    @cached_property
    def databases(self) -> Databases:
        """Makes databases and copies of them."""
        password = secrets.token_hex(16)
        self.postgres.ensure_role(OWNER, password)
        return Databases(self.postgres, password)

    def cpu(self, *pids: int, own: bool = True) -> Cpu:
        """CPU of PostgreSQL, of `pids`, and with `own` of this process."""
        assert self.postgres.child is not None
        return Cpu(self.postgres.child.pid, *pids, own=own)

    def drop(self, dsn: str) -> None:
        """Forgets a database."""
        self.postgres.drop_database(dsn.rpartition("/")[2])

    async def migrated(self) -> str:
        """A database of `hours` with nothing in it; copy it."""
        if self._migrated is None:
            dsn = self.databases()
            connection = await connect(dsn, "migrate")
            await migrate_database(connection, SERVICE, "system")
            await connection.close()
            self._migrated = dsn
        return self._migrated

    @asynccontextmanager
    async def log(self, template: str | None = None) -> AsyncIterator[Log]:
        """A log of its own, empty or a copy of `template`, dropped at the end."""
        dsn = self.databases(template or await self.migrated())
        try:
            async with self.opened(dsn) as log:
                yield log
        finally:
            self.drop(dsn)

    @asynccontextmanager
    async def opened(self, dsn: str) -> AsyncIterator[Log]:
        """The log in a migrated database; the database stays."""
        owner = await connect(dsn, "bench owner", statement_seconds=600)
        roles = await roles_of(owner)
        metrics = Metrics(SERVICE.name, VERSION)
        async with open_pool(dsn, "bench", STORE_CONNECTIONS_MAX, role=roles.app) as pool:
            store = await open_store(pool, SERVICE.name, metrics)
            try:
                yield Log(dsn, roles, owner, pool, store, metrics, Codec(EVENTS, UPCASTERS), PersonalKeys(pool, _KEY))
            finally:
                await store.close()
                await owner.close()

    async def admin(self, dsn: str) -> "asyncpg.Connection[asyncpg.Record]":
        """A connection of the superuser."""
        return await asyncpg.connect(self.databases.admin(dsn), timeout=5)

    def topic_prefix(self) -> str:
        """One that nobody else has."""
        return f"b{uuid4().hex[:10]}."

    def close(self) -> None:
        """Ends the servers and forgets their data."""
        for server in reversed(self._started):
            server.remove()
        shutil.rmtree(self.folder, ignore_errors=True)
