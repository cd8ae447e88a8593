"""Registration on a real PostgreSQL, driven through `submit`.

Its own log is read straight from the store, where Kafka stands between otherwise.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.registration import application, inbox
from services.registration.inbox import LookUps
from services.registration.main import SERVICE
from services.registration.projections import PROJECTIONS
from shared.application import Command
from shared.audit import noting
from shared.codec import Codec
from shared.consumer.inbox import deadline_fold
from shared.consumer.values import Fact, system_actor
from shared.consumer.withdrawals import withdrawal_fold
from shared.contracts.topics import EVENTS, UPCASTERS
from shared.deadlines import fire_due
from shared.eventstore.store import PostgresStore, open_store
from shared.eventstore.submit import Commands
from shared.eventstore.values import Answer
from shared.http.body import parse_model
from shared.http.query import Freshness, Query, Views, read, read_cursor
from shared.metrics import Metrics
from shared.migrate import Roles
from shared.permissions import Actor, Role
from shared.postgres import Connection, Pool, connect, open_pool
from shared.privacy import PersonalKeys
from shared.process import migrate_database
from tests.conftest import Databases

BY_NAME = {each.name: each for each in application.USE_CASES}
CODEC = Codec(EVENTS, UPCASTERS)


class Registration:
    """One process of the service. `now` is its clock; `catch_up` does what the worker does with the log."""

    def __init__(self, pool: Pool, store: PostgresStore, dsn: str) -> None:
        self.now = datetime(2017, 3, 1, 1, tzinfo=UTC)
        self.pool = pool
        self.store = store
        self.dsn = dsn
        self.keys = PersonalKeys(pool, bytes(range(32)))
        self.lookups = LookUps(pool)
        self.commands = self.another_process()
        self._applied = 0
        self._views = Views(pool, Roles("scratch_owner").query, _nothing, _none_parked, noting(pool))

    def another_process(self) -> Commands[LookUps]:
        """Commands with a cache of its own."""

        async def clock() -> datetime:
            return self.now

        metrics = Metrics("registration", "0")
        return Commands(self.store, CODEC, self.keys, self.lookups, application.CLAIMS, clock, metrics)

    async def ask(self, name: str, body: bytes, actor: Actor, *, commands: Commands[Any] | None = None, **ids: UUID) -> Answer:
        """A command as HTTP would submit it: the body is read strictly."""
        use_case = BY_NAME[name]
        return await self._submit(commands or self.commands, use_case, parse_model(body, use_case.body), ids, actor, uuid4())

    async def _submit(self, commands: Commands[Any], use_case: Any, body: Any, ids: Mapping[str, UUID], actor: Actor, id_: UUID) -> Answer:
        return await commands.submit(
            use_case, body, ids=dict(ids), actor=actor, command_id=id_, fingerprint=None, correlation_id=uuid4(), causation_id=None,
            traceparent=None,
        )  # fmt: skip

    async def catch_up(self) -> None:
        """Look-ups, deadlines, withdrawals and views of all that is new; then reactions, until nothing follows any more."""
        while facts := await self._facts():
            self._applied = facts[-1].record.position
            async with self.pool.acquire() as connection, connection.transaction():
                for fold in (inbox.fold, deadline_fold(inbox.deadlines), withdrawal_fold(self.keys, SERVICE.consumers, CODEC)):
                    await fold(connection, facts)
                await self.fold_views(connection, facts)
            for fact in facts:
                for reaction in inbox.REACTIONS:
                    if fact.record.type in reaction.types:
                        for each in await reaction.react(fact, self.lookups, True):
                            await self._react(each)

    async def _react(self, command: Command) -> None:
        await self._submit(self.commands, command.use_case, command.body, command.ids, system_actor("registration"), uuid4())

    async def fire_due(self) -> None:
        """Fires what is due by `now`."""
        await fire_due(self.pool, SERVICE.consumers, self.commands.submit, self.now)

    async def fold_views(self, connection: Connection, facts: Sequence[Fact]) -> None:
        """What the consumer `views` does."""
        for projection in PROJECTIONS:
            await projection.fold(connection, [fact for fact in facts if fact.record.service == projection.source])

    async def _facts(self) -> Sequence[Fact]:
        records = await self.store.read_page(self._applied, 500)
        subjects = set[UUID]()

        def note(subject: UUID, _place: str, _sealed: str) -> None:
            subjects.add(subject)

        for each in records:
            CODEC.decode(each, note)
        await self.keys.load(subjects)
        return [Fact(each, CODEC.decode(each, self.keys.unseal)) for each in records]

    async def facts_from_the_start(self) -> Sequence[Fact]:
        """The whole log, as a replay reads it."""
        self._applied = 0
        return await self._facts()

    async def rows(self, query: Query, reader: Actor | None = None, limit: int = 50, **filters: Any) -> Sequence[Mapping[str, Any]]:
        """All rows of a query, page by page, as `reader` sees them, or the bureau."""
        found: list[Mapping[str, Any]] = []
        cursor = None
        while True:
            page = await read(self._views, query, filters=filters, cursor=cursor, limit=limit, reader=reader or BUREAU, required={})
            found += page.rows
            if page.next_cursor is None:
                return found
            cursor = read_cursor(query, filters, page.next_cursor)


async def _nothing(_connection: Connection) -> Sequence[Freshness]:
    return ()


async def _none_parked(_connection: Connection) -> frozenset[str]:
    return frozenset()


@pytest.fixture(scope="session")
async def template(database: Databases) -> str:
    """Migrated once, then copied for each test."""
    dsn = database()
    connection = await connect(dsn, "tests")
    await migrate_database(connection, SERVICE, "system")
    await connection.close()
    return dsn


@pytest.fixture
async def registration(database: Databases, template: str) -> AsyncIterator[Registration]:
    """The service, with nothing in its log."""
    dsn = database(template)
    roles = Roles("scratch_owner")
    async with open_pool(dsn, "tests", 8, role=roles.app, search_path="views_1") as pool:
        store = await open_store(pool, "registration", Metrics("registration", "0"))
        yield Registration(pool, store, dsn)
        await store.close()


UNIT = "water-saving-office"
BUREAU = Actor(UUID(int=90), Role.BUREAU_ADMIN, "water-bureau")
DEPUTY = Actor(UUID(int=93), Role.BUREAU_ADMIN, "water-bureau")
UNIT_ADMIN = Actor(UUID(int=91), Role.UNIT_ADMIN, UNIT)
AUDITOR = Actor(UUID(int=92), Role.AUDITOR, "water-bureau")


def volunteer(person_id: UUID) -> Actor:
    """A volunteer of the water-saving office."""
    return Actor(person_id, Role.VOLUNTEER, UNIT)
