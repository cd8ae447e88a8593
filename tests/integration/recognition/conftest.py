"""A database of recognition as `migrate` makes it, on a real PostgreSQL, and facts to fold."""

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from services.recognition.main import SERVICE
from shared.consumer.values import Fact
from shared.contracts.event import Event
from shared.envelope import Record, Stream
from shared.http.query import Freshness, Views
from shared.migrate import Roles
from shared.postgres import Connection, Pool, connect, open_pool
from shared.process import migrate_database
from tests.conftest import Databases

BEGIN = datetime(2017, 3, 5, 0, 30, tzinfo=UTC)


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
    """A database of the test's own."""
    return database(template)


@pytest.fixture
async def reads(dsn: str) -> AsyncIterator[Views]:
    """Where queries read, with nothing to say of freshness."""

    async def nothing(_connection: Connection) -> Sequence[Freshness]:
        return ()

    async def none_parked(_connection: Connection) -> frozenset[str]:
        return frozenset()

    async with open_pool(dsn, "reads", 1) as made:
        yield Views(made, Roles("scratch_owner").query, nothing, none_parked)


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[Pool]:
    """What the processes act as; read models are found without a schema."""
    async with open_pool(dsn, "tests", 4, role=Roles("scratch_owner").app, search_path="views_1") as made:
        yield made


Facts = Callable[..., Sequence[Fact]]


@pytest.fixture
def facts() -> Facts:
    """Makes facts of one log from events, with rising positions across calls of one test, a minute apart."""
    made: dict[str, int] = {}

    def make(*events: Event, key: UUID | None = None) -> Sequence[Fact]:
        found = []
        for event in events:
            service = event.TYPE.partition(".")[0]
            made[service] = position = made.get(service, 0) + 1
            record = Record(
                service=service,
                log_id=UUID(int=1),
                position=position,
                stream=Stream("star", uuid4()),
                version=1,
                event_id=uuid4(),
                type=event.TYPE,
                schema_version=event.VERSION,
                time=BEGIN + timedelta(minutes=position),
                command_id=uuid4(),
                correlation_id=uuid4(),
                causation_id=None,
                actor="system:test",
                partition_key=str(key),
                traceparent=None,
                payload=b"{}",
            )
            found.append(Fact(record, event))
        return found

    return make
