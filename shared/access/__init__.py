"""Whose rows somebody sees who reads the views of schema `api`: rules as data, and the policies and grants that follow from them (D11).

The views belong to a role that owns no table (`Roles.views`); a policy on each table under them lets through what who asks may see. Who
asks is a login of their own in SQL, or whom the query API names in its transaction; the functions of schema `access` say which units
that means. A table about which nothing is said shows nobody anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from shared.migrate import MigrationSet, Roles
from shared.postgres import Connection, literal, quote

MIGRATIONS: Final = MigrationSet("access", Path(__file__).parent / "migrations")

UNIT: Final = "unit_code"
"""A table with a column of this name is seen row by row, by who sees that unit, unless another rule is given."""


@dataclass(frozen=True, slots=True)
class OfUnit:
    """A row is of the unit that a column names."""

    column: str = UNIT


@dataclass(frozen=True, slots=True)
class With:
    """A row is seen by who sees a row of another table, or of one of several: `tables` by the column that has the same name in both."""

    tables: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Common:
    """Rows are of no unit, and say nothing of a person: whoever sees anything sees them. `why` is for who reads this."""

    why: str


@dataclass(frozen=True, slots=True)
class AllUnitsOnly:
    """Rows are of no unit: who sees every unit sees them, nobody else. `why` is for who reads this."""

    why: str


Rows: TypeAlias = OfUnit | With | Common | AllUnitsOnly
Rules: TypeAlias = Mapping[str, Rows]
"""By table of the read models."""

WITHOUT_RULE: Final[Mapping[str, frozenset[str]]] = {
    "es.event": frozenset({"position"}),
    "es.log": frozenset({"service"}),
    "consumer.position": frozenset({"consumer", "log", "log_id", "applied", "ce_time"}),
    "consumer.head": frozenset({"log", "head", "said_at"}),
    "consumer.stopped": frozenset({"consumer", "log", "reason"}),
    "consumer.discarded": frozenset({"consumer", "log"}),
    "consumer.withdrawn": frozenset({"subject", "kind", "position"}),
}
"""Tables of the mechanism that stand under a view, by what the views may read of them: how far logs were read, and what was withdrawn
(which a view only joins to rows that are seen). They are of no unit and have no policy."""


async def guard(connection: Connection, roles: Roles, schema: str, rules: Rules) -> None:
    """Row-level security on every table of a schema of read models, for its owner too, by the rules. In the caller's transaction.

    A table whose policies are there already is not locked.
    """
    for row in await connection.fetch(_SELECT_TABLES, schema, UNIT):
        table, rule = row["table"], using(schema, row["table"], rule_of(rules, row["table"], row["has_unit"]))
        if row["is_guarded"] and row["says"] == rule:
            continue
        name = f"{quote(schema)}.{quote(table)}"
        await connection.execute(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY; ALTER TABLE {name} FORCE ROW LEVEL SECURITY")
        await connection.execute(f"DROP POLICY IF EXISTS processes ON {name}; DROP POLICY IF EXISTS rows ON {name}")
        await connection.execute(
            f"CREATE POLICY processes ON {name} TO {quote(roles.owner)}, {quote(roles.app)} USING (true) WITH CHECK (true)"
        )
        if rule is not None:
            await connection.execute(f"CREATE POLICY rows ON {name} FOR SELECT TO {quote(roles.views)} USING ({rule})")
            await connection.execute(f"COMMENT ON POLICY rows ON {name} IS {literal(rule)}")


def rule_of(rules: Rules, table: str, has_unit: bool) -> Rows | None:
    """What holds for a table: what is said of it, else the unit's column where it has one; None shows its rows to nobody."""
    return rules.get(table, OfUnit() if has_unit else None)


def using(schema: str, table: str, rule: Rows | None) -> str | None:
    """The policy's condition. Sub-selects of their own are evaluated once for a statement, not once for a row."""
    match rule:
        case None:
            return None
        case OfUnit(column):
            return f"(SELECT access.sees_all()) OR {quote(column)} = ANY ((SELECT access.units())::text[])"
        case With(tables):
            seen = (
                f"EXISTS (SELECT FROM {quote(schema)}.{quote(other)} AS whole WHERE whole.{quote(column)} = {quote(table)}.{quote(column)})"
                for column, other in tables.items()
            )
            return " OR ".join(["(SELECT access.sees_all())", *seen])
        case Common():
            return "(SELECT access.sees_any())"
        case AllUnitsOnly():
            return "(SELECT access.sees_all())"


async def make_views(connection: Connection, roles: Roles, joined: str, views: Sequence[str]) -> None:
    """Schema `api`, which is not there, from statements that name read models without a schema. In the caller's transaction.

    `joined` makes views of a schema of that name: what views of `api` read past the policies, as the owner, for rows that are seen.
    """
    await connection.execute("DROP SCHEMA IF EXISTS joined CASCADE; CREATE SCHEMA joined; CREATE SCHEMA api;" + joined)
    for each in views:
        await connection.execute(each)
    await open_views(connection, roles)


async def open_views(connection: Connection, roles: Roles) -> None:
    """The views that are there, under their role: it reads of the tables under them what they show, and who may read them is let in.

    In the caller's transaction.
    """
    await connection.execute(roles.fill_in('GRANT USAGE, CREATE ON SCHEMA api TO :"views"'))
    for row in await connection.fetch(_SELECT_OTHERS_VIEWS, quote(roles.views)):
        await connection.execute(f"ALTER VIEW api.{quote(row['relname'])} OWNER TO {quote(roles.views)}")
    await connection.execute(f"SET LOCAL ROLE {quote(roles.views)}")
    readers = f'{quote(roles.owner)}, :"app", :"reader", :"query"'
    await connection.execute(roles.fill_in(f"GRANT SELECT ON ALL TABLES IN SCHEMA api TO {readers}"))
    await connection.execute("RESET ROLE")
    await connection.execute(
        roles.fill_in('REVOKE CREATE ON SCHEMA api FROM :"views"; GRANT USAGE ON SCHEMA api TO :"app", :"reader", :"query"')
    )
    wanted = {(row["space"], row["name"]): frozenset(row["columns"]) for row in await connection.fetch(SELECT_SHOWN)}
    held = {(row["space"], row["name"]): frozenset(row["columns"]) for row in await connection.fetch(_SELECT_HELD, quote(roles.views))}
    for (space, name), columns in held.items():
        if wanted.get((space, name)) != columns:
            await connection.execute(f"REVOKE ALL ON {space}.{name} FROM {quote(roles.views)}")
    for (space, name), columns in wanted.items():
        if held.get((space, name)) != columns:
            await connection.execute(f"GRANT SELECT ({', '.join(map(quote, sorted(columns)))}) ON {space}.{name} TO {quote(roles.views)}")
    # Not before: what was just restored from a copy has its policies, but views that are not under them yet.
    if database := await connection.fetchval(_SELECT_CLOSED_DATABASE, quote(roles.reader)):
        await connection.execute(f"GRANT CONNECT ON DATABASE {database} TO {quote(roles.reader)}")
    spaces = {space for space, _ in wanted}
    entered = {row["name"] for row in await connection.fetch(_SELECT_ENTERED, quote(roles.views))} - {"access", "api"}
    for space in entered - spaces:
        await connection.execute(f"REVOKE ALL ON SCHEMA {space} FROM {quote(roles.views)}")
    for space in spaces - entered:
        await connection.execute(f"GRANT USAGE ON SCHEMA {space} TO {quote(roles.views)}")


_SELECT_TABLES: Final = """
    SELECT relation.relname AS table, relation.relrowsecurity AND relation.relforcerowsecurity AND EXISTS (
            SELECT FROM pg_policy WHERE polrelid = relation.oid AND polname = 'processes') AS is_guarded,
        EXISTS (SELECT FROM pg_attribute WHERE attrelid = relation.oid AND attname = $2 AND NOT attisdropped) AS has_unit,
        (SELECT obj_description(oid, 'pg_policy') FROM pg_policy WHERE polrelid = relation.oid AND polname = 'rows') AS says
    FROM pg_class AS relation JOIN pg_namespace AS space ON space.oid = relation.relnamespace
    WHERE space.nspname = $1 AND relation.relkind = 'r' ORDER BY relation.relname
"""
_SELECT_OTHERS_VIEWS: Final = """
    SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('api') AND relkind = 'v' AND relowner <> $1::regrole ORDER BY relname
"""
SELECT_SHOWN: Final = """
    WITH RECURSIVE under (relation, attribute) AS (  -- What the views name, and what the policies on that name in turn.
        SELECT said.refobjid, said.refobjsubid
        FROM pg_rewrite AS rule JOIN pg_depend AS said ON said.classid = 'pg_rewrite'::regclass AND said.objid = rule.oid
        JOIN pg_class AS view ON view.oid = rule.ev_class AND view.relnamespace = to_regnamespace('api')
        WHERE said.refclassid = 'pg_class'::regclass AND said.refobjid <> rule.ev_class
        UNION
        SELECT said.refobjid, said.refobjsubid
        FROM under JOIN pg_policy AS policy ON policy.polrelid = under.relation AND policy.polname = 'rows'
        JOIN pg_depend AS said ON said.classid = 'pg_policy'::regclass AND said.objid = policy.oid
        WHERE said.refclassid = 'pg_class'::regclass
    )
    SELECT quote_ident(space.nspname) AS space, quote_ident(relation.relname) AS name,
        coalesce(
            array_agg(DISTINCT attribute.attname::text) FILTER (WHERE attribute.attnum > 0),
            ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = relation.oid AND attnum = 1)  -- To count rows takes one column.
        ) AS columns
    FROM under JOIN pg_class AS relation ON relation.oid = under.relation AND relation.relkind IN ('r', 'v')
    JOIN pg_namespace AS space ON space.oid = relation.relnamespace AND space.nspname <> 'api'
    LEFT JOIN pg_attribute AS attribute ON attribute.attrelid = relation.oid AND attribute.attnum = under.attribute
    GROUP BY space.nspname, relation.relname, relation.oid ORDER BY space.nspname, relation.relname
"""
"""The tables under the views of schema `api`, and the views of schema `joined` there, with the columns that they and the policies need."""
_SELECT_HELD: Final = """
    SELECT quote_ident(space.nspname) AS space, quote_ident(relation.relname) AS name,
        array_agg(CASE WHEN held.attribute IS NULL THEN '*' ELSE held.attribute END) AS columns
    FROM pg_class AS relation JOIN pg_namespace AS space ON space.oid = relation.relnamespace
    CROSS JOIN LATERAL (
        SELECT NULL AS attribute FROM aclexplode(relation.relacl) AS right_ WHERE right_.grantee = $1::regrole
        UNION ALL
        SELECT attname::text FROM pg_attribute CROSS JOIN LATERAL aclexplode(attacl) AS right_
        WHERE attrelid = relation.oid AND right_.grantee = $1::regrole
    ) AS held
    WHERE relation.relowner <> $1::regrole GROUP BY space.nspname, relation.relname
"""
_SELECT_CLOSED_DATABASE: Final = """
    SELECT quote_ident(datname) FROM pg_database
    WHERE datname = current_database() AND pg_get_userbyid(datdba) = session_user
        AND NOT has_database_privilege($1::regrole, oid, 'CONNECT')
"""
_SELECT_ENTERED: Final = """
    SELECT quote_ident(nspname) AS name FROM pg_namespace CROSS JOIN LATERAL aclexplode(nspacl) AS held WHERE held.grantee = $1::regrole
"""
