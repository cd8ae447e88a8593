"""The rights in a database are those that are declared: nobody has one more, and each one more is found."""

import re
from uuid import uuid4

import asyncpg
import pytest

from deploy.local.postgres import LocalPostgres
from services.hours.main import SERVICE as HOURS
from services.recognition.main import SERVICE as RECOGNITION
from services.registration.main import SERVICE as REGISTRATION
from shared.access import AllUnitsOnly, grants
from shared.consumer.schema import ensure_views, rules_of
from shared.migrate import roles_of
from shared.postgres import connect
from shared.process import Service, migrate_database
from tests.conftest import Databases
from tests.integration.access.conftest import OURS, Base, LogIn


@pytest.mark.parametrize("service", [REGISTRATION, HOURS, RECOGNITION], ids=lambda each: each.name)
async def test_a_migrated_database_grants_what_is_declared_and_nothing_more(database: Databases, service: Service[None]) -> None:
    owner = await connect(database(), "tests")
    for _ in range(2):  # To migrate again changes nothing.
        await migrate_database(owner, service, "system")
        roles = await roles_of(owner)
        assert list(await grants.beyond(owner, roles)) == []
        assert list(await grants.lacking(owner, roles, rules_of(service.projections))) == []
        assert list(await grants.open_to_everybody(owner)) == []
    await owner.close()


OPEN = {
    "to wait for a lock": "GRANT EXECUTE ON FUNCTION pg_advisory_lock(bigint) TO PUBLIC",
    "to try another": "GRANT EXECUTE ON FUNCTION pg_try_advisory_xact_lock_shared(integer, integer) TO PUBLIC",
    "to make a large object": "GRANT EXECUTE ON FUNCTION lo_from_bytea(oid, bytea) TO PUBLIC",
}


@pytest.mark.parametrize("statement", OPEN.values(), ids=OPEN)
async def test_what_everybody_may_take_or_make_is_found_until_a_superuser_runs_what_is_printed(base: Base, statement: str) -> None:
    admin = await asyncpg.connect(base.admin_dsn)
    await admin.execute(statement)
    assert list(await grants.open_to_everybody(base.owner)) == re.findall(r"(\w+)\(", statement)
    await admin.execute(grants.locks(base.roles))
    assert list(await grants.open_to_everybody(base.owner)) == []
    await admin.close()


async def test_a_new_database_of_postgresql_is_open_and_is_found_to_be(postgres_server: LocalPostgres) -> None:
    """What `create_database` closes is there to be closed; and the names that are looked for are all there are."""
    name = f"open_{uuid4().hex}"
    postgres_server.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    fresh = await asyncpg.connect(postgres_server.dsn(name))
    found = set(await grants.open_to_everybody(fresh))
    assert found == {each for (each,) in await fresh.fetch(_LOCKS_AND_LARGE_OBJECTS)}
    assert len(found) == 11
    await fresh.close()
    postgres_server.drop_database(name)


_LOCKS_AND_LARGE_OBJECTS = """
    SELECT DISTINCT proname FROM pg_proc
    WHERE pronamespace = 'pg_catalog'::regnamespace
        AND ((proname ~ 'advisory' AND proname !~ 'unlock') OR proname IN ('lo_creat', 'lo_create', 'lo_from_bytea'))
"""


async def test_logins_are_within_what_is_declared(base: Base, log_in: LogIn) -> None:
    await log_in(None)
    await log_in([OURS])
    assert list(await grants.beyond(base.owner, base.roles)) == []


BEYOND = {
    "a table": ("GRANT SELECT ON es.event TO {o}_reader", "{o}_reader may SELECT es.event"),
    "a column": ("GRANT SELECT (payload) ON es.event TO {o}_reader", "{o}_reader may SELECT es.event.payload"),
    "a hidden column": (
        "ALTER TABLE views_1.volunteers ADD hidden text; GRANT SELECT (hidden) ON views_1.volunteers TO {o}_views",
        "{o}_views may SELECT views_1.volunteers.hidden",
    ),
    "a whole table under a view": ("GRANT SELECT ON views_1.volunteers TO {o}_views", "{o}_views may SELECT views_1.volunteers"),
    "a read model": ("GRANT SELECT ON views_1.volunteers TO {o}_query", "{o}_query may SELECT views_1.volunteers"),
    "past the policies": ("GRANT SELECT ON joined.volunteers TO {o}_reader", "{o}_reader may SELECT joined.volunteers"),
    "a schema": ("GRANT USAGE ON SCHEMA es TO {o}_query", "{o}_query may USAGE es"),
    "making views": ("GRANT CREATE ON SCHEMA api TO {o}_reader", "{o}_reader may CREATE api"),
    "a function": ("GRANT EXECUTE ON FUNCTION es.forget_refusals TO {o}_reader", "{o}_reader may EXECUTE es.forget_refusals"),
    "one of PostgreSQL's": ("GRANT EXECUTE ON FUNCTION pg_read_file(text) TO {o}_reader", "{o}_reader may EXECUTE pg_catalog"),
    "a function for everybody": ("GRANT EXECUTE ON FUNCTION access.units TO PUBLIC", "PUBLIC may EXECUTE access.units"),
    "a sequence": ("CREATE SEQUENCE views_1.n; GRANT USAGE ON SEQUENCE views_1.n TO {o}_reader", "{o}_reader may USAGE views_1.n"),
    "writing a view": ("GRANT INSERT ON api.units TO {o}_reader", "{o}_reader may INSERT api.units"),
    "a view for everybody": ("GRANT SELECT ON api.units TO PUBLIC", "PUBLIC may SELECT api.units"),
    "temporary tables": ("GRANT TEMPORARY ON DATABASE {d} TO {o}_reader", "{o}_reader may TEMPORARY the database"),
    "everybody connects": ("GRANT CONNECT ON DATABASE {d} TO PUBLIC", "PUBLIC may CONNECT the database"),
    "what will be made": (
        "ALTER DEFAULT PRIVILEGES FOR ROLE {o} GRANT SELECT ON TABLES TO {o}_reader", "{o}_reader may SELECT what {o} will make"
    ),
    "a large object": ("SELECT lo_create(4711); GRANT SELECT ON LARGE OBJECT 4711 TO {o}_query", "{o}_query may SELECT large object 4711"),
    "a parameter": ("GRANT SET ON PARAMETER log_statement TO {o}_reader", "{o}_reader may SET parameter log_statement"),
    "membership": ("GRANT {o}_app TO {o}_reader", "{o}_reader is a member of {o}_app"),
    "membership in PostgreSQL's own": ("GRANT pg_read_all_data TO {o}_query", "{o}_query is a member of pg_read_all_data"),
    "somebody else": ("CREATE ROLE spoiled; GRANT {o}_query TO spoiled", "spoiled is a member of {o}_query, and no login"),
    "a login of nobody's": ("CREATE ROLE spoiled LOGIN; GRANT {o}_reader TO spoiled", "spoiled is a member of {o}_reader, and no login"),
    "somebody by name": ("CREATE ROLE spoiled; GRANT SELECT ON api.units TO spoiled", "spoiled may SELECT api.units"),
    "without asking": ("GRANT {o}_app TO {o} WITH INHERIT TRUE", "{o} has what {o}_app has without asking"),
    "logging in": ("ALTER ROLE {o}_query LOGIN", "{o}_query may log in"),
    "bypassing": ("ALTER ROLE {o}_views BYPASSRLS", "{o}_views may bypass policies"),
    "owning": ("ALTER TABLE views_1.units OWNER TO {o}_views", "{o}_views owns table views_1.units"),
    "a mapping of nobody": ("INSERT INTO access.login VALUES ('spoiled', NULL)", "spoiled is let in, and there is no such role"),
    "a policy more": ("CREATE POLICY more ON views_1.units USING (true)", "views_1.units has the policy more, which is not ours"),
    "a policy for others": ("ALTER POLICY rows ON views_1.units TO PUBLIC", "views_1.units has the policy rows, which is not ours"),
    "not forced": ("ALTER TABLE views_1.units NO FORCE ROW LEVEL SECURITY", "views_1.units stands under a view, or may, without"),
    "switched off": ("ALTER TABLE audit.read DISABLE ROW LEVEL SECURITY", "audit.read stands under a view, or may, without"),
    "no rule": ("DROP POLICY rows ON views_1.units", "views_1.units stands under a view, and nothing says whose its rows are"),
    "a view of the owner": ("ALTER VIEW api.units OWNER TO {o}", "api.units is no view of {o}_views"),
    "a view as who asks": ("ALTER VIEW api.units SET (security_invoker = true)", "api.units is no view of {o}_views"),
    "a table among views": ("CREATE TABLE api.mine ()", "api.mine is no view of {o}_views"),
    "no barrier": ("ALTER VIEW api.enrollments RESET (security_barrier)", "api.enrollments reads past the policies without"),
    "a new view of a table without rule": (
        "CREATE VIEW api.more AS SELECT wrapped FROM keys.person; ALTER VIEW api.more OWNER TO {o}_views",
        "keys.person stands under a view, or may, without row-level security forced on it",
    ),
    "more of the log": (
        "CREATE VIEW api.more AS SELECT payload FROM es.event; ALTER VIEW api.more OWNER TO {o}_views",
        "{o}_views may see payload of es.event, which has no policy",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("statements", "said"), BEYOND.values(), ids=BEYOND)
async def test_a_right_too_many_is_found(base: Base, statements: str, said: str) -> None:
    names = {"o": base.roles.owner, "d": base.dsn.rpartition("/")[2]}
    admin = await asyncpg.connect(base.admin_dsn)
    spoiling = admin.transaction()
    await spoiling.start()
    await admin.execute(statements.format(**names))
    found = list(await grants.beyond(admin, base.roles))
    assert any(each.startswith(said.format(**names)) for each in found), found
    await spoiling.rollback()  # Roles are the server's, not the database's.
    assert list(await grants.beyond(admin, base.roles)) == []
    await admin.close()


LACKING = {
    "the log": ("REVOKE INSERT ON es.event FROM {o}_app", "{o}_app may not INSERT es.event"),
    "a read model": ("REVOKE DELETE ON views_1.units FROM {o}_app", "{o}_app may not DELETE views_1.units"),
    "a view": ("REVOKE SELECT ON api.units FROM {o}_reader", "{o}_reader may not SELECT api.units"),
    "a policy": ("DROP POLICY rows ON views_1.units", "views_1.units: its policy is not the one that is declared"),
}


@pytest.mark.parametrize(("statement", "said"), LACKING.values(), ids=LACKING)
async def test_a_right_that_is_missing_is_found(base: Base, statement: str, said: str) -> None:
    admin = await asyncpg.connect(base.admin_dsn)
    spoiling = admin.transaction()
    await spoiling.start()
    await admin.execute(statement.format(o=base.roles.owner))
    assert said.format(o=base.roles.owner) in list(await grants.lacking(admin, base.roles, rules_of(REGISTRATION.projections)))
    await spoiling.rollback()
    await admin.close()


async def test_migrating_puts_policies_and_rights_back_as_they_are_declared(base: Base) -> None:
    for statement in (
        "DROP POLICY rows ON views_1.units", "ALTER TABLE views_1.roles NO FORCE ROW LEVEL SECURITY",
        f"GRANT SELECT ON views_1.volunteers TO {base.roles.views}", f"GRANT USAGE ON SCHEMA lookup TO {base.roles.views}",
    ):  # fmt: skip
        await base.owner.execute(statement)
    await migrate_database(base.owner, REGISTRATION, "system")
    assert list(await grants.beyond(base.owner, base.roles)) == []
    assert list(await grants.lacking(base.owner, base.roles, rules_of(REGISTRATION.projections))) == []


async def test_read_models_of_other_definitions_are_guarded_too(base: Base) -> None:
    """An installation from before there were policies: its read models and views are as they were, and rows are seen by the rules."""
    for row in await base.owner.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'views_1'"):
        table = f"views_1.{row['tablename']}"
        await base.owner.execute(f"DROP POLICY IF EXISTS rows ON {table}; DROP POLICY processes ON {table}")
        await base.owner.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY; ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    await base.owner.execute("DROP SCHEMA api CASCADE; DROP SCHEMA joined CASCADE; CREATE SCHEMA api")
    await base.owner.execute("CREATE VIEW api.volunteers AS SELECT volunteer_id, unit_code FROM views_1.volunteers")
    await base.owner.execute(f"GRANT USAGE ON SCHEMA api TO {base.roles.reader}; GRANT SELECT ON api.volunteers TO {base.roles.reader}")
    await base.owner.execute("UPDATE consumer.views SET definition_hash = 'of a release before'")
    assert not await ensure_views(base.owner, base.roles, REGISTRATION.projections, REGISTRATION.api_sql)
    query = await connect(base.dsn, "tests", role=base.roles.query)
    assert await query.fetchval("SELECT count(*) FROM api.volunteers") == 0
    await query.execute("SELECT set_config('leifeng.reach', 'unit', false), set_config('leifeng.unit', $1, false)", OURS)
    assert {row["unit_code"] for row in await query.fetch("SELECT unit_code FROM api.volunteers")} == {OURS}
    await query.close()


def test_every_table_without_a_unit_says_whose_its_rows_are_and_why() -> None:
    for service in (REGISTRATION, HOURS, RECOGNITION):
        for rule in rules_of(service.projections).values():
            assert not isinstance(rule, AllUnitsOnly) or rule.why
