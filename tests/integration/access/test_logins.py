"""A login of a unit sees that unit's rows whatever it sets, becomes or breaks; and a login ends when it is said to."""

import contextlib
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from shared.access import logins
from shared.postgres import connect
from shared.states import APPEND_LOCK
from tests.integration.access.conftest import OURS, SECRET, THEIRS, Base, LogIn

TRICKS = {
    "the setting of the query API": ["SET leifeng.reach = 'bureau'"],
    "its unit": ["SET leifeng.reach = 'unit'", f"SET leifeng.unit = '{THEIRS}'"],
    "both, for the transaction": [
        "SELECT set_config('leifeng.reach', 'bureau', false)",
        f"SELECT set_config('leifeng.unit', '{THEIRS}', false)",
    ],
    "row security off": ["SET row_security = off"],
    "the role of the query API": ["SET ROLE {o}_query", "SET leifeng.reach = 'bureau'"],
    "the processes' role": ["SET ROLE {o}_app"],
    "the views' role": ["SET ROLE {o}_views"],
    "the readers' role": ["SET ROLE {o}_reader"],
    "the owner": ["SET ROLE {o}"],
    "another's session": ["SET SESSION AUTHORIZATION {o}"],
    "its own session again": ["RESET SESSION AUTHORIZATION", "RESET ROLE"],
    "a role for later": ["SET default_transaction_read_only = off", "ALTER ROLE CURRENT_USER SET role = {o}_app"],
    "being let in": ["SET default_transaction_read_only = off", "INSERT INTO access.login VALUES (session_user, NULL)"],
    "membership": ["SET default_transaction_read_only = off", "GRANT {o}_app TO CURRENT_USER"],
    "another path": ["SET search_path = views_1, joined, consumer, access, pg_temp"],
    "functions of its own": [
        "SET default_transaction_read_only = off",
        "CREATE FUNCTION pg_temp.sees_all() RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        "CREATE SCHEMA access2",
        "CREATE FUNCTION public.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS 'BEGIN RAISE NOTICE ''%'', $1; END'",
    ],
    "a table in the place of one": ["SET default_transaction_read_only = off", "CREATE TEMPORARY TABLE login (login name, unit_code text)"],
    "the policy itself": ["SET default_transaction_read_only = off", "DROP POLICY rows ON views_1.volunteers"],
    "the view itself": ["SET default_transaction_read_only = off", "ALTER VIEW api.volunteers SET (security_invoker = true)"],
    "a block": ["DO $$ BEGIN EXECUTE 'SET LOCAL ROLE {o}'; END $$"],
    "a replica": ["SET session_replication_role = replica"],
    "the functions that are asked": ["SELECT access.units()", "SELECT access.login_units()"],
    "the mapping": ["SELECT * FROM access.login"],
}


@pytest.mark.parametrize("statements", TRICKS.values(), ids=TRICKS)
async def test_whatever_a_login_sets_or_becomes_it_sees_its_own_unit_only(base: Base, log_in: LogIn, statements: list[str]) -> None:
    session = await log_in([OURS])
    for statement in statements:
        with contextlib.suppress(asyncpg.PostgresError):
            await session.execute(statement.format(o=base.roles.owner))
    for view in ("volunteers", "activities", "enrollments", "units"):
        column = "code" if view == "units" else "unit_code"
        try:
            found = [row[column] for row in await session.fetch(f"SELECT {column} FROM api.{view}")]
        except asyncpg.PostgresError:
            continue  # It has shut itself out.
        assert set(found) <= {OURS}, view
    for table in ("views_1.volunteers", "joined.volunteers", "es.event", "keys.person", "consumer.withdrawn", "access.login"):
        with pytest.raises(asyncpg.PostgresError):
            await session.fetch(f"SELECT * FROM {table}")


async def test_a_login_sees_all_of_its_own_unit(base: Base, log_in: LogIn) -> None:
    """What the tricks above are tried against: it does see something."""
    ours, both, bureau = await log_in([OURS]), await log_in([OURS, THEIRS]), await log_in(None)
    assert [await each.fetchval("SELECT count(*) FROM api.volunteers") for each in (ours, both, bureau)] == [3, 6, 6]
    assert {row["number"] for row in await ours.fetch("SELECT number FROM volunteers")} == {"1000", "1001", "1002"}


LEAKS = {
    "a number that is none": "SELECT * FROM api.volunteers WHERE (number || unit_code)::integer = 0",
    "a name that is no number": "SELECT * FROM api.named_volunteers WHERE name::integer = 0",
    "the other side of a join": "SELECT * FROM api.enrollments WHERE (number || 'x')::integer = 0",
    "a division": f"SELECT * FROM api.volunteers WHERE 1 / (CASE WHEN unit_code = '{THEIRS}' THEN 0 ELSE 1 END) = 1",
    "a division behind a join": f"SELECT FROM api.enrollments WHERE 1 / (CASE volunteer_unit_code WHEN '{THEIRS}' THEN 0 ELSE 1 END) = 1",
    "a title that is no number": "SELECT * FROM api.activities WHERE (title || 'x')::integer = 0",
    "a plan": "EXPLAIN (ANALYZE, VERBOSE) SELECT * FROM api.enrollments WHERE (number || 'x')::integer = 0",
    "statistics": "SELECT tablename, most_common_vals::text, histogram_bounds::text FROM pg_stats WHERE schemaname = 'views_1'",
    "statistics of several columns": "SELECT most_common_vals::text FROM pg_stats_ext",
    "statistics themselves": "SELECT stavalues1::text FROM pg_statistic",
    "what others run": "SELECT query FROM pg_stat_activity WHERE usename <> session_user",
    "text search": "SELECT * FROM ts_stat('SELECT to_tsvector(number) FROM views_1.volunteers')",
    "a query in a function": "SELECT query_to_xml('SELECT * FROM views_1.volunteers', true, false, '')",
    "a cursor": "SELECT * FROM table_to_xml('joined.volunteers', true, false, '')",
    "a file": "COPY api.volunteers TO PROGRAM 'cat'",
}


@pytest.mark.parametrize("statement", LEAKS.values(), ids=LEAKS)
async def test_neither_an_error_nor_a_plan_nor_statistics_tell_of_another_unit(base: Base, log_in: LogIn, statement: str) -> None:
    await base.owner.execute("ANALYZE views_1.volunteers, views_1.enrollments, views_1.activities")
    await base.owner.execute("UPDATE views_1.volunteers SET named_position = 1 WHERE unit_code = $1", OURS)
    session = await log_in([OURS])
    notices: list[str] = []
    session.add_log_listener(lambda _session, message: notices.append(str(message)))
    try:
        said = str(await session.fetch(statement))
    except asyncpg.DivisionByZeroError:
        pytest.fail("a row of another unit was looked at")
    except asyncpg.PostgresError as error:
        said = f"{error} {error.detail or ''}"
    assert SECRET not in said + " ".join(notices)


async def test_the_leaks_tell_who_sees_every_unit(log_in: LogIn) -> None:
    """So that the test before can fail."""
    session = await log_in(None)
    with pytest.raises(asyncpg.InvalidTextRepresentationError, match='x"'):
        await session.fetch(LEAKS["the other side of a join"])
    with pytest.raises(asyncpg.DivisionByZeroError):
        await session.fetch(LEAKS["a division behind a join"])


async def test_a_login_has_limits_and_changes_nothing(base: Base, log_in: LogIn) -> None:
    session = await log_in([OURS])
    for setting, value in logins.SETTINGS.items():
        assert await session.fetchval("SELECT current_setting($1)", setting) == {"60s": "1min"}.get(value, value)
    await session.execute("SET default_transaction_read_only = off")
    for statement in ("DELETE FROM api.volunteers", "CREATE TABLE api.mine ()", "CREATE TABLE public.mine ()", "CREATE SCHEMA mine"):
        with pytest.raises(asyncpg.PostgresError):
            await session.execute(statement)
    name = await session.fetchval("SELECT session_user::text")
    assert await base.owner.fetchval("SELECT rolconnlimit FROM pg_roles WHERE rolname = $1", name) == logins.CONNECTIONS_MAX


TAKEN = """
    SELECT format('SELECT %s(%s)', proname, array_to_string(ARRAY(
        SELECT CASE each WHEN 'bytea'::regtype THEN $$'x'::bytea$$ ELSE '4711::' || each::regtype END FROM unnest(proargtypes) AS each
    ), ', '))
    FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace
        AND (proname LIKE '%advisory%lock%' AND proname NOT LIKE '%unlock%' OR proname IN ('lo_creat', 'lo_create', 'lo_from_bytea'))
"""
"""A call of each function by which a lock is taken or a large object made."""
LOCKED = """
    SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
    WHERE datname = current_database() AND locktype = 'advisory'
"""


@pytest.mark.parametrize("units", [None, [OURS]], ids=["every unit", "a unit"])
async def test_no_login_holds_up_the_service_or_fills_its_disk(base: Base, log_in: LogIn, units: list[str] | None) -> None:
    session = await log_in(units)
    await session.execute("SET default_transaction_read_only = off")
    calls = [call for (call,) in await base.owner.fetch(TAKEN)]
    assert len(calls) == 19
    for call in (*calls, f"SELECT pg_advisory_lock({APPEND_LOCK})", "SELECT es.take_turn()", "SELECT es.wait_for_recovery()"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await session.execute(call)
    assert await base.owner.fetchval(LOCKED) == 0


async def test_the_service_takes_its_turn_at_the_log_all_the_same(base: Base) -> None:
    """Its processes by the one function that is theirs, and not otherwise; its owner, whose workers hold roles by such locks, directly."""
    app = await connect(base.dsn, "tests", role=base.roles.app)
    async with app.transaction():
        await app.execute("SELECT es.take_turn()")
        assert not await base.owner.fetchval("SELECT pg_try_advisory_lock($1)", APPEND_LOCK)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await app.execute("SELECT pg_advisory_xact_lock($1)", APPEND_LOCK)
    assert await base.owner.fetchval("SELECT pg_try_advisory_lock($1)", APPEND_LOCK)
    await app.close()


async def test_a_login_that_is_made_again_has_another_password_and_other_units(base: Base) -> None:
    owner, roles, login = base.owner, base.roles, logins.Login("login_made_twice", [OURS])
    first, second, until = logins.new_password(), logins.new_password(), datetime.now(UTC) + timedelta(days=1)
    try:
        async with owner.transaction():
            assert await logins.add(owner, roles, login, first, until) == "none"
            assert await logins.add(owner, roles, logins.Login(login.name, [THEIRS]), second, until) == f"units {OURS}"
        with pytest.raises(asyncpg.InvalidPasswordError):
            await base.login(first, login.name)
        session = await base.login(second, login.name)
        assert {row["unit_code"] for row in await session.fetch("SELECT unit_code FROM api.volunteers")} == {THEIRS}
        [listed] = [each for each in await logins.listed(owner) if each["name"] == login.name]
        assert (listed["units"], listed["connections"]) == (THEIRS, 1)
        await logins.remove(owner, login.name)
        with contextlib.suppress(asyncpg.PostgresError):  # Who is connected still sees nothing any more.
            assert await session.fetch("SELECT * FROM api.volunteers") == []
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
            await base.login(second, login.name)
        await session.close()
    finally:
        with contextlib.suppress(logins.LoginError):
            await logins.remove(owner, login.name)


async def test_a_password_ends_on_its_day(base: Base) -> None:
    login, password = logins.Login("login_of_yesterday", None), logins.new_password()
    async with base.owner.transaction():
        await logins.add(base.owner, base.roles, login, password, datetime.now(UTC) - timedelta(days=1))
    with pytest.raises(asyncpg.InvalidPasswordError):
        await base.login(password, login.name)
    await logins.remove(base.owner, login.name)


@pytest.mark.parametrize(
    ("name", "units", "said"),
    [
        ("scratch_owner_query", None, "it is no login of this service"),
        ("scratch_owner", None, "it is no login of this service"),
        ("login_x", ["nowhere"], "there is no unit nowhere"),
        ("Login; DROP", None, "is no name for a login"),
        ("l" * 64, None, "is no name for a login"),
    ],
)
async def test_a_login_that_cannot_be_is_refused(base: Base, name: str, units: list[str] | None, said: str) -> None:
    with pytest.raises(logins.LoginError, match=said):
        async with base.owner.transaction():
            await logins.add(base.owner, base.roles, logins.Login(name, units), "password", datetime.now(UTC))


async def test_what_the_query_api_says_counts_in_its_role_only_and_without_it_there_are_no_rows(base: Base) -> None:
    query = await connect(base.dsn, "tests", role=base.roles.query)
    count = "SELECT count(*) FROM api.volunteers"
    assert await query.fetchval(count) == 0
    for reach, unit, rows in (("bureau", "", 6), ("unit", OURS, 3), ("unit", "", 0), ("own", OURS, 0), ("nothing", OURS, 0), ("", OURS, 0)):
        async with query.transaction():
            await query.execute("SELECT set_config('leifeng.reach', $1, true), set_config('leifeng.unit', $2, true)", reach, unit)
            assert await query.fetchval(count) == rows, reach
        assert await query.fetchval(count) == 0  # It ends with the transaction.
    await query.close()
    reader = await connect(base.dsn, "tests", role=base.roles.reader)
    await reader.execute("SET leifeng.reach = 'bureau'")
    assert await reader.fetchval(count) == 0
    await reader.close()
