"""Hours on a real PostgreSQL, driven through `submit`.

Its own log is read straight from the store, and registration's facts are told, where Kafka stands between otherwise.
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.hours import application, inbox
from services.hours.domain.attendance import Activity
from services.hours.inbox import LookUps
from services.hours.main import SERVICE
from services.hours.projections import PROJECTIONS
from shared import ids
from shared.codec import Codec
from shared.consumer.inbox import deadline_fold
from shared.consumer.values import Fact, system_actor
from shared.contracts.event import Event
from shared.contracts.registration import ActivityPublished, EnrollmentAccepted, VolunteerRegistered
from shared.contracts.registration import Position as Seats
from shared.contracts.topics import EVENTS, UPCASTERS
from shared.deadlines import fire_due
from shared.envelope import Record, Stream
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
from tests.unit.hours.scenes import ADMIN, CHIEF, KIOSK, LEADER, UNIT

BY_NAME = {each.name: each for each in application.USE_CASES}
NO_IDS: Mapping[str, UUID] = {}
CODEC = Codec(EVENTS, UPCASTERS)

AT_KIOSK = Actor(KIOSK, Role.KIOSK, UNIT)
AS_LEADER = Actor(LEADER, Role.ACTIVITY_LEADER, UNIT)
AS_ADMIN = Actor(ADMIN, Role.UNIT_ADMIN, UNIT)
AS_BUREAU = Actor(CHIEF, Role.BUREAU_ADMIN, "water-bureau")


class Hours:
    """One process of the service. `now` is its clock; `catch_up` does what the worker does with the log."""

    def __init__(self, pool: Pool, store: PostgresStore) -> None:
        self.now = datetime(2017, 1, 2, 1, tzinfo=UTC)
        self.pool = pool
        self.store = store
        self.lookups = LookUps(pool)
        self.commands = self.another_process()
        self._applied = 0
        self._told = 0
        self._views = Views(pool, Roles("scratch_owner").query, _nothing, _none_parked)

    def another_process(self) -> Commands[LookUps]:
        """Commands with a cache of its own."""

        async def clock() -> datetime:
            return self.now

        keys = PersonalKeys(self.pool, bytes(range(32)))
        return Commands(self.store, CODEC, keys, self.lookups, application.CLAIMS, clock, Metrics("hours", "0"))

    async def ask(
        self, name: str, actor: Actor, ids: Mapping[str, UUID] = NO_IDS, *, body: Any = None, commands: Commands[Any] | None = None
    ) -> Answer:
        """A command as HTTP would submit it: the body is read strictly."""
        use_case = BY_NAME[name]
        said = parse_model(json.dumps(body or {}).encode(), use_case.body)
        return await self._submit(commands or self.commands, use_case, said, ids, actor, uuid4())

    async def _submit(self, commands: Commands[Any], use_case: Any, body: Any, ids: Mapping[str, UUID], actor: Actor, id_: UUID) -> Answer:
        return await commands.submit(
            use_case, body, ids=dict(ids), actor=actor, command_id=id_, fingerprint=None, correlation_id=uuid4(), causation_id=None,
            traceparent=None,
        )  # fmt: skip

    async def tell(self, *events: Event) -> None:
        """What registration's log says next."""
        facts = []
        for event in events:
            self._told += 1
            facts.append(Fact(_record(event, self._told), event))
        async with self.pool.acquire() as connection, connection.transaction():
            await inbox.fold_registration(connection, facts)

    async def catch_up(self) -> None:
        """Look-ups, deadlines and views of all that is new; then reactions, until nothing follows any more."""
        while facts := await self._facts():
            self._applied = facts[-1].record.position
            async with self.pool.acquire() as connection, connection.transaction():
                await inbox.fold_policies(connection, facts)
                await deadline_fold(inbox.deadlines)(connection, facts)
                await self.fold_views(connection, facts)
            for fact in facts:
                for reaction in inbox.REACTIONS:
                    if fact.record.type in reaction.types:
                        for index, each in enumerate(await reaction.react(fact, self.lookups, True)):
                            id_ = ids.reaction_command_id(reaction.name, index, fact.record.event_id)
                            await self._submit(self.commands, each.use_case, each.body, each.ids, system_actor("hours"), id_)

    async def fire_due(self) -> None:
        """Fires what is due by `now`, and follows up."""
        await fire_due(self.pool, SERVICE.consumers, self.commands.submit, self.now)
        await self.catch_up()

    async def fold_views(self, connection: Connection, facts: Sequence[Fact]) -> None:
        """What the consumer `views` does."""
        for projection in PROJECTIONS:
            await projection.fold(connection, facts)

    async def _facts(self) -> Sequence[Fact]:
        return [Fact(each, CODEC.decode(each)) for each in await self.store.read_page(self._applied, 500)]

    async def facts_from_the_start(self) -> Sequence[Fact]:
        """The whole log, as a replay reads it."""
        self._applied = 0
        return await self._facts()

    async def rows(self, query: Query, limit: int = 50, **filters: Any) -> Sequence[Mapping[str, Any]]:
        """All rows of a query, page by page, as the bureau sees them."""
        found: list[Mapping[str, Any]] = []
        cursor = None
        while True:
            page = await read(self._views, query, filters=filters, cursor=cursor, limit=limit, reader=AS_BUREAU, required={})
            found += page.rows
            if page.next_cursor is None:
                return found
            cursor = read_cursor(query, filters, page.next_cursor)


def _record(event: Event, position: int) -> Record:
    return Record(
        service="registration",
        log_id=UUID(int=1),
        position=position,
        stream=Stream("activity", uuid4()),
        version=1,
        event_id=uuid4(),
        type=event.TYPE,
        schema_version=event.VERSION,
        time=datetime(2017, 1, 1, tzinfo=UTC),
        command_id=uuid4(),
        correlation_id=uuid4(),
        causation_id=None,
        actor="system:test",
        partition_key="k",
        traceparent=None,
        payload=b"{}",
    )


def registered(volunteer_id: UUID) -> VolunteerRegistered:
    """A person who is a volunteer."""
    return VolunteerRegistered(
        volunteer_id=volunteer_id, number="2017-000001", unit_code=UNIT, name=None, id_number=None, phone=None, is_minor=False, skills=None
    )


def published(activity_id: UUID, slot: Activity) -> ActivityPublished:
    """An activity in a slot."""
    return ActivityPublished(
        activity_id=activity_id,
        unit_code=slot.unit_code,
        title="河道清洁",
        carrier="nature",
        target_group=None,
        occasion=None,
        place="河岸",
        starts_at=slot.starts_at,
        ends_at=slot.ends_at,
        positions=(Seats(code="general", name="志愿者", capacity=9, duties=""),),
        wait_list_max=0,
        risk_note="",
        has_risk=False,
        insurance=None,
    )


def enrolled(activity_id: UUID, volunteer_id: UUID) -> EnrollmentAccepted:
    """A seat that is taken."""
    return EnrollmentAccepted(activity_id=activity_id, volunteer_id=volunteer_id, position="general")


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
def dsn(database: Databases, template: str) -> str:
    """A database of the test's own, as its owner."""
    return database(template)


@pytest.fixture
async def hours(dsn: str) -> AsyncIterator[Hours]:
    """The service, with nothing in its log."""
    async with open_pool(dsn, "tests", 8, role=Roles("scratch_owner").app, search_path="views_1") as pool:
        store = await open_store(pool, "hours", Metrics("hours", "0"))
        yield Hours(pool, store)
        await store.close()
