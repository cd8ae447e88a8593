"""What the database itself holds, whoever tries: each invariant is attacked as the app and as the owner, around the append."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import uuid4

import asyncpg
import pytest

from shared.errors import LogClosedError
from shared.eventstore import MIGRATIONS
from shared.eventstore.clock import ClockError, arrive, log_clock, travel_to
from shared.eventstore.store import WrongLogError, ensure_log, open_store
from shared.eventstore.values import Answer
from shared.migrate import migrate
from shared.postgres import connect, open_pool, quote
from tests.conftest import Databases
from tests.integration.eventstore.conftest import SERVICE, Log, log_in
from tests.integration.eventstore.decided import NOW, activity, decided

INSERT = """
    INSERT INTO es.event (position, category, stream_id, version, event_id, type, schema_version, recorded_at, time, command_id,
        correlation_id, actor, partition_key, payload)
    SELECT position, category, $1, version, gen_random_uuid(), type, 1, now(), now(), gen_random_uuid(), gen_random_uuid(), 'x', 'x',
        payload
    FROM (VALUES {rows}) AS row (position, category, version, type, payload)
"""
GOOD = "(3::bigint, 'activity', 1::bigint, 'registration.x', ''::bytea)"
CHANGES = (
    "UPDATE es.event SET actor = 'somebody else'",
    "UPDATE es.event SET actor = actor WHERE false",
    "DELETE FROM es.event",
    "TRUNCATE es.event",
    "UPDATE es.seal SET position = 9",
    "DELETE FROM es.seal",
    "TRUNCATE es.seal",
)


@pytest.fixture
async def written(log: Log) -> Log:
    """A log with two events."""
    await log.store.append(decided(activity(), 0, 2))
    return log


@pytest.fixture(scope="module")
async def attacked(database: Databases, migrated_database: str) -> AsyncIterator[Log]:
    """A log with two events for all attacks that must fail, and so cannot disturb one another."""
    async with AsyncExitStack() as closing:
        log = await log_in(closing, database(migrated_database))
        await log.store.append(decided(activity(), 0, 2))
        yield log


async def still_there(log: Log) -> bool:
    return [each.position for each in await log.store.read_page(0, 10)] == [1, 2]


@pytest.mark.parametrize("change", CHANGES)
async def test_the_app_has_no_right_to_change_what_was_attacked(attacked: Log, change: str) -> None:
    app = await attacked.connection(as_app=True)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await app.execute(change)
    assert await still_there(attacked)


@pytest.mark.parametrize("change", CHANGES)
async def test_the_owner_is_refused_by_the_tables_themselves(attacked: Log, change: str) -> None:
    with pytest.raises(asyncpg.PostgresError, match="append-only"):
        await attacked.owner.execute(change)
    assert await still_there(attacked)


@pytest.mark.parametrize("change", CHANGES)
async def test_not_even_a_session_that_plays_a_replica_changes_what_was_attacked(attacked: Log, database: Databases, change: str) -> None:
    admin = await asyncpg.connect(database.admin(attacked.dsn))
    try:
        await admin.execute("SET session_replication_role = replica")
        with pytest.raises(asyncpg.PostgresError, match="append-only"):
            await admin.execute(change)
    finally:
        await admin.close()
    assert await still_there(attacked)


@pytest.mark.parametrize("as_app", [True, False])
@pytest.mark.parametrize(
    ("row", "because"),
    [
        ("(2::bigint, 'activity', 1::bigint, 'registration.x', ''::bytea)", "event_pkey"),
        ("(4::bigint, 'activity', 1::bigint, 'registration.x', ''::bytea)", "positions leave a gap"),
        ("(0::bigint, 'activity', 1::bigint, 'registration.x', ''::bytea)", "event_position_check"),
        (f"{GOOD}, (5::bigint, 'activity', 2::bigint, 'registration.x', ''::bytea)", "positions leave a gap"),
        (f"{GOOD}, (4::bigint, 'activity', 1::bigint, 'registration.x', ''::bytea)", "event_category_stream_id_version_key"),
        (f"{GOOD}, (4::bigint, 'activity', 3::bigint, 'registration.x', ''::bytea)", "versions leave a gap"),
        ("(3::bigint, 'activity', 0::bigint, 'registration.x', ''::bytea)", "event_version_check"),
        ("(3::bigint, 'activity', 2::bigint, 'registration.x', ''::bytea)", "versions leave a gap"),
        ("(3::bigint, 'an activity', 1::bigint, 'registration.x', ''::bytea)", "event_category_check"),
        ("(3::bigint, 'activity', 1::bigint, '', ''::bytea)", "event_type_check"),
        ("(3::bigint, 'activity', 1::bigint, 'registration.x', repeat('x', 65537)::bytea)", "event_payload_check"),
    ],
)
async def test_what_does_not_belong_at_the_end_of_the_log_is_not_inserted(attacked: Log, as_app: bool, row: str, because: str) -> None:
    connection = await attacked.connection(as_app=as_app)
    with pytest.raises(asyncpg.PostgresError, match=because):
        await connection.execute(INSERT.format(rows=row), uuid4())
    assert await still_there(attacked)


async def test_the_attacks_fail_for_their_own_reason_for_the_same_insert_without_fault_succeeds(written: Log) -> None:
    connection = await written.connection(as_app=True)
    stream = uuid4()
    await connection.execute(INSERT.format(rows=f"{GOOD}, (4::bigint, 'activity', 2::bigint, 'registration.x', ''::bytea)"), stream)
    assert (await written.store.head()).position == 4


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE es.command SET outcome = 'refused'",
        "DELETE FROM es.command",
        "UPDATE es.claim SET stream_id = gen_random_uuid()",
        "UPDATE es.log SET state = 'open'",
        "DELETE FROM es.log",
        "ALTER TABLE es.event DISABLE TRIGGER ALL",
        "DROP TABLE es.event",
        "CREATE TABLE es.mine ()",
        "CREATE OR REPLACE FUNCTION es.refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    ],
)
async def test_the_app_has_no_other_rights_than_it_needs(attacked: Log, statement: str) -> None:
    app = await attacked.connection(as_app=True)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await app.execute(statement)


async def test_the_reader_sees_nothing_of_the_log_and_appends_nothing(attacked: Log) -> None:
    reader = await attacked.connection()
    await reader.execute(f"SET ROLE {quote(attacked.roles.reader)}")
    for statement in ("SELECT FROM es.event", "SELECT FROM es.command", "SELECT FROM es.claim"):
        with pytest.raises(asyncpg.PostgresError, match="permission denied"):
            await reader.execute(statement)
    assert not await reader.fetchval("SELECT bool_or(has_function_privilege(oid, 'EXECUTE')) FROM pg_proc WHERE proname = 'append'")


async def test_seals_follow_one_another_and_never_fork(written: Log) -> None:
    app = await written.connection(as_app=True)
    seal = "INSERT INTO es.seal (previous, position, hash) VALUES ($1, $2, $3)"
    await app.execute(seal, 0, 1, bytes(32))
    with pytest.raises(asyncpg.UniqueViolationError):
        await app.execute(seal, 0, 2, bytes(32))
    for previous, position, digest in ((1, 1, bytes(32)), (3, 2, bytes(32)), (1, 2, bytes(31))):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError):
            await app.execute(seal, previous, position, digest)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE es.log SET log_id = gen_random_uuid()",
        "UPDATE es.log SET service = 'hours'",
        "UPDATE es.log SET clock = 'travel'",
        "UPDATE es.log SET state = 'ajar'",
        "DELETE FROM es.log",
        "TRUNCATE es.log",
        "INSERT INTO es.log (log_id, service, clock, system_id) VALUES (gen_random_uuid(), 'hours', 'system', 1)",
    ],
)
async def test_a_log_stays_itself(attacked: Log, change: str) -> None:
    with pytest.raises(asyncpg.PostgresError):
        await attacked.owner.execute(change)


async def test_a_log_is_made_once_and_is_of_one_service(log: Log) -> None:
    log_id = (await log.store.head()).log_id
    assert await ensure_log(log.owner, SERVICE, "travel") == log_id
    assert await log.owner.fetchval("SELECT clock FROM es.log") == "system"
    with pytest.raises(WrongLogError):
        await ensure_log(log.owner, "hours", "system")
    with pytest.raises(WrongLogError):
        await open_store(log.pool, "hours", log.metrics)


async def test_a_database_without_a_log_is_no_store_and_two_logs_never_have_one_id(database: Databases, log: Log) -> None:
    dsn = database()
    owner = await connect(dsn, "owner")
    try:
        await migrate(owner, [MIGRATIONS])
        async with open_pool(dsn, "store", 2) as pool:
            with pytest.raises(WrongLogError):
                await open_store(pool, SERVICE, log.metrics)
        assert await ensure_log(owner, SERVICE, "system") != (await log.store.head()).log_id
    finally:
        await owner.close()


async def test_a_log_that_was_restored_into_another_cluster_takes_nothing_until_it_is_recovered(written: Log) -> None:
    await written.owner.execute("UPDATE es.log SET system_id = system_id + 1")
    restored = await written.another()
    for _ in range(2):
        with pytest.raises(LogClosedError, match="restored"):
            await restored.append(decided(activity(), 0))
    assert len(await restored.read_page(0, 10)) == 2
    await written.owner.execute("UPDATE es.log SET system_id = system_id - 1")
    assert isinstance(await restored.append(decided(activity(), 0)), Answer)


async def test_a_travelling_clock_goes_forward_only_and_arrives_for_good(database: Databases) -> None:
    dsn = database()
    owner = await connect(dsn, "owner")
    try:
        await migrate(owner, [MIGRATIONS])
        await ensure_log(owner, SERVICE, "travel")
        async with open_pool(dsn, "clock", 2) as pool:
            now = log_clock(pool)
            with pytest.raises(ClockError):
                await now()
            await travel_to(owner, NOW)
            assert await now() == NOW
            later = NOW.replace(year=2018)
            await travel_to(owner, later)
            assert await now() == later
            with pytest.raises(ClockError):
                await travel_to(owner, NOW)
            with pytest.raises(asyncpg.PostgresError, match="forward only"):
                await owner.execute('UPDATE es.log SET "now" = $1', NOW)
            assert await now() == later
            await arrive(owner)
            assert (await now()).year > later.year
            with pytest.raises(ClockError):
                await travel_to(owner, later)
        assert (await now()).year > later.year  # No pool is needed any more.
    finally:
        await owner.close()


async def test_recorded_time_never_goes_back_even_when_the_clock_does(written: Log, database: Databases) -> None:
    admin = await asyncpg.connect(database.admin(written.dsn))
    try:
        await admin.execute("ALTER TABLE es.event DISABLE TRIGGER ALL; UPDATE es.event SET recorded_at = now() + interval '1 hour'")
        await admin.execute("ALTER TABLE es.event ENABLE TRIGGER ALL")
    finally:
        await admin.close()
    await written.store.append(decided(activity(), 0))
    first, *_, last = await written.owner.fetch("SELECT recorded_at FROM es.event ORDER BY position")
    assert first["recorded_at"] == last["recorded_at"]
