"""Whatever the order in which source logs arrive beside one another, the read models come out the same (D9): every order is tried."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

import pytest

from services.hours.main import SERVICE as HOURS
from services.recognition.main import SERVICE as RECOGNITION
from services.registration.main import SERVICE as REGISTRATION
from shared.codec import Codec
from shared.consumer.schema import FIRST_SCHEMA
from shared.consumer.values import Fact, Projection
from shared.contracts.topics import EVENTS, UPCASTERS, subscribed
from shared.digest import _SELECT_TABLES, _SETTINGS, _of_table
from shared.postgres import Connection, connect, quote
from shared.process import Service, migrate_database
from tests.conftest import Databases
from tests.contracts.published import newest
from tests.integration.consumer.log import Log

BY_TYPE: Final = {event.TYPE: event for event in EVENTS}
CODEC: Final = Codec(EVENTS, UPCASTERS)

LOGS: Final[Mapping[str, Sequence[str]]] = {
    "registration": ("unit_registered", "volunteer_registered", "activity_published", "enrollment_accepted"),
    "hours": ("hours_policy_adopted", "checked_in", "service_time_proposed", "service_time_confirmed", "service_time_corrected"),
    "recognition": ("star_policy_adopted", "star_granted", "star_withdrawn", "star_revocation_proposed", "star_revoked", "star_granted"),
}
"""What each log holds, in its order; the published examples, which are all about one person and one activity."""


def logs_for(service: str) -> Mapping[str, Sequence[Fact]]:
    """By source log, what the views of a service read of it."""
    found: dict[str, Sequence[Fact]] = {}
    subscriptions = subscribed(f"{service}.views")
    for source, types in sorted(subscriptions.items()):
        log = Log(source, UUID(int=len(source)))
        for name in LOGS[source]:
            model = BY_TYPE[f"{source}.{name}"]
            log.say("person", model.model_construct(), payload=newest(model).example())
        facts = [Fact(record, CODEC.decode(record)) for record in log.records if record.type in types]
        found[source] = facts if len(subscriptions) == 2 else facts[: 3 if source == service else 2]  # 210 orders of three logs are enough.
    return found


def interleavings(logs: Mapping[str, Sequence[Fact]]) -> Iterator[Sequence[Fact]]:
    """Every order of all facts in which each log keeps its own."""
    if not any(logs.values()):
        yield ()
    for source, facts in logs.items():
        if facts:
            for rest in interleavings({**logs, source: facts[1:]}):
                yield (facts[0], *rest)


async def digest(connection: Connection, projections: Sequence[Projection], facts: Sequence[Fact]) -> Mapping[str, tuple[int, str]]:
    """Rows and digest of each table after these facts, one by one; nothing of it stays."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(f"SET LOCAL search_path TO {quote(FIRST_SCHEMA)}")
        for fact in facts:
            for each in projections:
                if each.source == fact.record.service:
                    await each.fold(connection, [fact])
        tables = [row["tablename"] for row in await connection.fetch(_SELECT_TABLES, FIRST_SCHEMA)]
        return {table: await _of_table(connection, FIRST_SCHEMA, table) for table in tables}
    finally:
        await transaction.rollback()


@pytest.fixture
async def migrated(database: Databases) -> AsyncIterator[Callable[[Service[Any]], Awaitable[Connection]]]:
    """The owner's connection to a fresh database of a service."""
    async with AsyncExitStack() as closing:

        async def make(service: Service[Any]) -> Connection:
            connection = await connect(database(), "owner", search_path=None, statement_seconds=30, **_SETTINGS)
            closing.push_async_callback(connection.close)
            await migrate_database(connection, service, "system")
            return connection

        yield make


Migrated = Callable[[Service[Any]], Awaitable[Connection]]


@pytest.mark.parametrize("service", [REGISTRATION, HOURS, RECOGNITION], ids=lambda each: each.name)
async def test_read_models_do_not_depend_on_how_source_logs_interleave(service: Service[Any], migrated: Migrated) -> None:
    connection, logs = await migrated(service), logs_for(service.name)
    assert all(logs.values()), "a log of which nothing is read cannot come between"
    orders = list(interleavings(logs))
    first = await digest(connection, service.projections, orders[0])
    written = {table for table, (rows, _) in first.items() if rows}
    assert len(written) >= len(logs), f"only {written} were written"
    for order in orders[1:]:
        assert await digest(connection, service.projections, order) == first, [fact.record.type for fact in order]


async def test_a_projection_that_looks_at_what_another_log_has_told_is_found(migrated: Migrated) -> None:
    connection = await migrated(RECOGNITION)

    async def fold(connection: Connection, facts: Sequence[Fact]) -> None:
        await projection.fold(connection, facts)
        await connection.execute("UPDATE stars SET unit_code = 'unknown' WHERE NOT EXISTS (SELECT FROM units)")

    projection = next(each for each in RECOGNITION.projections if each.name == "stars")
    projections = [replace(each, fold=fold) if each is projection else each for each in RECOGNITION.projections]
    found = {str(await digest(connection, projections, order)) for order in interleavings(logs_for(RECOGNITION.name))}
    assert len(found) > 1
