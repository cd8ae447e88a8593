"""What each role may do in a database of ours, as data, and where the catalogue of PostgreSQL says otherwise."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from shared.access import SELECT_SHOWN, WITHOUT_RULE, Rules, rule_of, using
from shared.access.logins import CONNECTIONS_MAX, SETTINGS
from shared.migrate import Roles
from shared.postgres import Connection

LOCKS: Final = Path(__file__).with_name("locks.sql")
"""What a superuser runs in each database, and nobody else can."""

_ROWS: Final = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"})
_APPEND: Final = frozenset({"SELECT", "INSERT"})
_KEEP: Final = frozenset({"SELECT", "INSERT", "UPDATE"})
_READ: Final = frozenset({"SELECT"})
_USE: Final = frozenset({"USAGE"})
_RUN: Final = frozenset({"EXECUTE"})
_NOTHING: Final = frozenset[str]()

APP_TABLES: Final[Mapping[str, frozenset[str]]] = {
    "es.log": _READ,
    "es.log_change": _READ,
    "es.paused_role": _READ,
    "es.event": _APPEND,
    "es.seal": _APPEND,
    "es.command": _APPEND,
    "es.claim": frozenset({"SELECT", "INSERT", "DELETE"}),
    "es.relay_mark": _KEEP,
    "keys.person": _KEEP,
    "consumer.position": _KEEP,
    "consumer.withdrawn": _KEEP,
    "consumer.head": _KEEP,
    "consumer.erasure": _KEEP,
    "consumer.device": _KEEP,
    "consumer.parked": _ROWS,
    "consumer.blocked": _ROWS,
    "consumer.deadline": _ROWS,
    "consumer.views": _READ,
    "consumer.discard_request": _READ,
    "consumer.discarded": _READ,
    "consumer.breaker_override": _READ,
    "consumer.stopped": _ROWS,
}
"""What the app role may do with the tables of the mechanism: neither more nor less. Rows of look-ups, accounts and read models are its."""

APP_FUNCTIONS: Final = frozenset(
    {
        "es.append",
        "es.take_turn",
        "es.wait_for_recovery",
        "es.timeline",
        "es.moved",
        "es.compared_with_kafka",
        "es.forget_refusals",
        "keys.is_erased",
        "audit.note",
        "audit.head",
    }
)
APP_SCHEMAS: Final = frozenset({"es", "keys", "consumer", "audit", "api"})
_APPS_OWN: Final = ("lookup", "signin", "views_")
"""Schemas whose rows the processes write as they like, by how their names begin."""


async def beyond(connection: Connection, roles: Roles) -> Sequence[str]:
    """What somebody may do beyond what they need, one line each; `connection` is the owner's."""
    shown = await _shown(connection)
    logins = {row["login"] for row in await connection.fetch("SELECT DISTINCT login::text FROM access.login")}
    said = [*await _powers(connection, roles, logins)]
    for row in await connection.fetch(_SELECT_RIGHTS, roles.owner):
        more = frozenset(row["rights"]) - _may(row["kind"], row["name"], row["grantee"], roles, shown)
        if more:
            said.append(f"{row['grantee']} may {' '.join(sorted(more))} {row['name']}")
    said += [f"{row['role']} owns {row['what']}" for row in await connection.fetch(_SELECT_OWNED, [*roles.made, *logins], roles.views)]
    return [*said, *await uncovered(connection, roles)]


async def lacking(connection: Connection, roles: Roles, rules: Rules) -> Sequence[str]:
    """What does not hold that must: rights of the processes and readers, and the policies on the live read models."""
    held = {(row["name"], row["grantee"]): frozenset(row["rights"]) for row in await connection.fetch(_SELECT_RIGHTS, roles.owner)}
    said = [
        f"{roles.app} may not {' '.join(sorted(less))} {name}"
        for name, rights in APP_TABLES.items()
        if (less := rights - held.get((name, roles.app), _NOTHING)) and await connection.fetchval(_EXISTS, *name.split("."))
    ]
    for row in await connection.fetch(_SELECT_LIVE):
        name = f"{row['space']}.{row['name']}"
        if row["space"] == "api":
            who = [each for each in (roles.app, roles.reader, roles.query) if "SELECT" not in held.get((name, each), _NOTHING)]
            said += [f"{each} may not SELECT {name}" for each in who]
            continue
        if less := _ROWS - held.get((name, roles.app), _NOTHING):
            said.append(f"{roles.app} may not {' '.join(sorted(less))} {name}")
        if row["says"] != using(row["space"], row["name"], rule_of(rules, row["name"], has_unit=row["has_unit"])):
            said.append(f"{name}: its policy is not the one that is declared")
    return said


async def open_to_everybody(connection: Connection) -> Sequence[str]:
    """The functions by which any login could hold up the service or fill its disk, as long as no superuser has run `LOCKS`."""
    return [row["name"] for row in await connection.fetch(_SELECT_OPEN)]


def locks(roles: Roles) -> str:
    """The statements of `LOCKS` for the database of these roles."""
    return roles.fill_in(LOCKS.read_text(encoding="utf-8"))


async def _shown(connection: Connection) -> Mapping[str, frozenset[str]]:
    """By table under a view, the columns that the views and the policies read."""
    rows = await connection.fetch(SELECT_SHOWN)
    return {f"{row['space']}.{row['name']}".replace('"', ""): frozenset(row["columns"]) for row in rows}  # Names as they are, unquoted.


def _may(kind: str, name: str, grantee: str, roles: Roles, shown: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """What a role may do with an object at most."""
    schema = name.partition(".")[0]
    match grantee, kind:
        case (_, "function") if grantee in {roles.app, roles.reader, roles.query} and schema == "access":
            return _RUN
        case (_, "table") if grantee in {roles.app, roles.reader, roles.query} and schema == "api":
            return _READ
        case (_, "schema") if grantee in {roles.reader, roles.query} and schema == "api":
            return _USE
        case (roles.reader, "database"):
            return frozenset({"CONNECT"})
        case (roles.views, "schema"):
            return _USE if schema in {"access", "api", *(each.partition(".")[0] for each in shown)} else _NOTHING
        case (roles.views, "column"):
            table, _, column = name.rpartition(".")
            return _READ if column in shown.get(table, _NOTHING) else _NOTHING
        case (roles.app, "table"):
            return APP_TABLES.get(name, _ROWS if schema.startswith(_APPS_OWN) else _NOTHING)
        case (roles.app, "sequence"):
            return _USE if schema.startswith(_APPS_OWN) else _NOTHING
        case (roles.app, "schema"):
            return _USE if schema in APP_SCHEMAS or schema.startswith(_APPS_OWN) else _NOTHING
        case (roles.app, "function"):
            return _RUN if name in APP_FUNCTIONS else _NOTHING
        case ("PUBLIC", "schema"):
            return _USE if schema == "public" else _NOTHING
    return _NOTHING


async def _powers(connection: Connection, roles: Roles, logins: set[str]) -> Sequence[str]:
    """Attributes, memberships and limits of the roles that are not as they are made."""
    said: list[str] = []
    rows = {row["name"]: row for row in await connection.fetch(_SELECT_ROLES, [*roles.made, *logins])}
    for name, row in rows.items():
        powers = [each for each in ("superuser", "create roles", "create databases", "bypass policies", "replicate") if row[each]]
        said += [f"{name} may {each}" for each in (*powers, *(["log in"] if row["log in"] and name not in logins else []))]
        said += [f"{name} is a member of {each}" for each in row["member_of"] if name not in logins or each != roles.reader]
        allowed = {roles.owner} | (logins if name == roles.reader else set())
        said += [f"{each} is a member of {name}, and no login that `logins` has made" for each in row["members"] if each not in allowed]
        said += [f"{each} has what {name} has without asking" for each in row["inherits"] if each not in allowed - {roles.owner}]
        if name in logins:
            said += [f"{name}: {each}" for each in _unlimited(row)]
    said += [f"{name} is let in, and there is no such role" for name in sorted(logins - rows.keys())]
    return said


def _unlimited(row: Any) -> Iterator[str]:
    if not 0 <= row["connections"] <= CONNECTIONS_MAX:
        yield f"may hold more than {CONNECTIONS_MAX} connections"
    if not row["expires"]:
        yield "its password never expires"
    lacks = sorted(SETTINGS.keys() - {each.partition("=")[0] for each in row["settings"]})
    if lacks:
        yield f"has no {', '.join(lacks)}"


async def uncovered(connection: Connection, roles: Roles) -> Sequence[str]:
    """Tables and views through which somebody could see rows of units that are not theirs."""
    shown = await _shown(connection)
    said: list[str] = []
    for row in await connection.fetch(_SELECT_GUARDS, roles.views, roles.owner):
        name = row["name"]
        if name in WITHOUT_RULE:
            if name in shown and (more := shown[name] - WITHOUT_RULE[name]):
                said.append(f"{roles.views} may see {' '.join(sorted(more))} of {name}, which has no policy")
            continue
        if not row["is_guarded"] and (name in shown or row["is_read_model"]):
            said.append(f"{name} stands under a view, or may, without row-level security forced on it")
        if name in shown and not row["has_rule"]:
            said.append(f"{name} stands under a view, and nothing says whose its rows are")
        said += [f"{name} has the policy {each}, which is not ours" for each in row["others"]]
    said += [f"{row['name']} is no view of {roles.views}" for row in await connection.fetch(_SELECT_FOREIGN_VIEWS, roles.views)]
    said += [f"{row['name']} reads past the policies without a security barrier" for row in await connection.fetch(_SELECT_OPEN_JOINS)]
    return said


_SELECT_RIGHTS: Final = """
    WITH object (kind, space, name, owner, acl) AS (
        SELECT CASE relkind WHEN 'S' THEN 'sequence' ELSE 'table' END, nspname::text, nspname || '.' || relname, relowner, relacl
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        UNION ALL
        SELECT 'column', nspname, nspname || '.' || relname || '.' || attname, relowner, attacl
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace
        UNION ALL  -- A function that is nobody's own business: triggers run for who may change the table.
        SELECT 'function', nspname, nspname || '.' || proname, proowner, coalesce(proacl, acldefault('f', proowner))
        FROM pg_proc JOIN pg_namespace ON pg_namespace.oid = pronamespace
        WHERE prorettype <> 'trigger'::regtype
            AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = pg_proc.oid AND deptype = 'e')
        UNION ALL
        SELECT 'schema', nspname, nspname, nspowner, coalesce(nspacl, acldefault('n', nspowner)) FROM pg_namespace
        UNION ALL
        SELECT 'database', '', 'the database', datdba, coalesce(datacl, acldefault('d', datdba))
        FROM pg_database WHERE datname = current_database()
        UNION ALL
        SELECT 'type', nspname, nspname || '.' || typname, typowner, typacl
        FROM pg_type JOIN pg_namespace ON pg_namespace.oid = typnamespace
        UNION ALL
        SELECT 'default', '', 'what ' || pg_get_userbyid(defaclrole) || ' will make', defaclrole, defaclacl FROM pg_default_acl
        UNION ALL
        SELECT 'large object', '', 'large object ' || oid, lomowner, lomacl FROM pg_largeobject_metadata
        UNION ALL
        SELECT 'server', '', 'foreign server ' || srvname, srvowner, srvacl FROM pg_foreign_server
        UNION ALL
        SELECT 'parameter', '', 'parameter ' || parname, 10, paracl FROM pg_parameter_acl
    )
    SELECT kind, name, coalesce(rolname, 'PUBLIC') AS grantee, array_agg(DISTINCT right_.privilege_type) AS rights
    FROM object CROSS JOIN LATERAL aclexplode(acl) AS right_ LEFT JOIN pg_roles ON pg_roles.oid = right_.grantee
    WHERE right_.grantee <> owner AND coalesce(NOT rolsuper AND rolname <> $1 AND rolname !~ '^pg_', space !~ '^(pg_|information_schema$)')
    GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""
"""Of all that is not the owner's ($1), a superuser's or PostgreSQL's own, who may do what with it; nobody by name is PUBLIC."""
_SELECT_OPEN: Final = """
    SELECT DISTINCT proname::text AS name
    FROM pg_proc CROSS JOIN LATERAL aclexplode(coalesce(proacl, acldefault('f', proowner))) AS right_
    WHERE pronamespace = 'pg_catalog'::regnamespace AND right_.grantee = 0
        AND proname ~ '^(pg_(try_)?advisory_(xact_)?lock(_shared)?|lo_(creat|create|from_bytea))$'
    ORDER BY 1
"""
_EXISTS: Final = "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = $2)"
_SELECT_OWNED: Final = """
    SELECT pg_get_userbyid(refobjid) AS role, pg_describe_object(classid, objid, objsubid) AS what
    FROM pg_shdepend LEFT JOIN pg_class ON classid = 'pg_class'::regclass AND pg_class.oid = objid
    WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND deptype = 'o' AND refclassid = 'pg_authid'::regclass
        AND pg_get_userbyid(refobjid) = ANY ($1::text[])
        AND NOT coalesce(pg_get_userbyid(refobjid) = $2 AND relkind = 'v' AND relnamespace = to_regnamespace('api'), false)
    ORDER BY 1, 2
"""
_SELECT_ROLES: Final = """
    SELECT rolname::text AS name, rolsuper AS superuser, rolcreaterole AS "create roles", rolcreatedb AS "create databases",
        rolbypassrls AS "bypass policies", rolreplication AS replicate, rolcanlogin AS "log in", rolconnlimit AS connections,
        coalesce(rolvaliduntil < 'infinity', false) AS expires, coalesce(rolconfig, '{}') AS settings,
        ARRAY(SELECT pg_get_userbyid(roleid)::text FROM pg_auth_members WHERE member = pg_roles.oid) AS member_of,
        ARRAY(SELECT DISTINCT pg_get_userbyid(member)::text FROM pg_auth_members WHERE roleid = pg_roles.oid) AS members,
        ARRAY(SELECT DISTINCT pg_get_userbyid(member)::text FROM pg_auth_members WHERE roleid = pg_roles.oid AND inherit_option) AS inherits
    FROM pg_roles WHERE rolname = ANY ($1::text[]) ORDER BY rolname
"""
_SELECT_LIVE: Final = """
    SELECT space.nspname AS space, relation.relname AS name,
        EXISTS (SELECT FROM pg_attribute WHERE attrelid = relation.oid AND attname = 'unit_code' AND NOT attisdropped) AS has_unit,
        (SELECT obj_description(oid, 'pg_policy') FROM pg_policy WHERE polrelid = relation.oid AND polname = 'rows') AS says
    FROM pg_class AS relation JOIN pg_namespace AS space ON space.oid = relation.relnamespace
    WHERE (space.nspname = 'api' AND relation.relkind = 'v')
        OR (relation.relkind = 'r' AND space.nspname = (SELECT schema FROM consumer.views WHERE live))
    ORDER BY 1, 2
"""
_SELECT_GUARDS: Final = """
    SELECT space.nspname || '.' || relation.relname AS name, relation.relrowsecurity AND relation.relforcerowsecurity AS is_guarded,
        space.nspname = (SELECT schema FROM consumer.views WHERE live) AS is_read_model,
        EXISTS (SELECT FROM pg_policy WHERE polrelid = relation.oid AND polname = 'rows') AS has_rule,
        ARRAY(SELECT polname::text FROM pg_policy WHERE polrelid = relation.oid AND NOT (
            polpermissive AND CASE polname
                WHEN 'rows' THEN polcmd = 'r' AND polroles = ARRAY[to_regrole(quote_ident($1))::oid]
                WHEN 'processes' THEN polroles <@ ARRAY[to_regrole(quote_ident($2))::oid, to_regrole(quote_ident($2 || '_app'))::oid]
                ELSE false
            END)) AS others
    FROM pg_class AS relation JOIN pg_namespace AS space ON space.oid = relation.relnamespace
    WHERE relation.relkind IN ('r', 'p', 'm', 'f') AND space.nspname !~ '^(pg_|information_schema$)' ORDER BY 1
"""
_SELECT_FOREIGN_VIEWS: Final = """
    SELECT 'api.' || relname AS name FROM pg_class
    WHERE relnamespace = to_regnamespace('api') AND relkind NOT IN ('i', 'I', 'c')
        AND NOT (relkind = 'v' AND pg_get_userbyid(relowner) = $1 AND NOT 'security_invoker=true' = ANY (coalesce(reloptions, '{}')))
    ORDER BY 1
"""
_SELECT_OPEN_JOINS: Final = """
    SELECT DISTINCT 'api.' || view.relname AS name
    FROM pg_rewrite AS rule JOIN pg_depend AS said ON said.classid = 'pg_rewrite'::regclass AND said.objid = rule.oid
    JOIN pg_class AS view ON view.oid = rule.ev_class AND view.relnamespace = to_regnamespace('api')
    JOIN pg_class AS there ON said.refclassid = 'pg_class'::regclass AND there.oid = said.refobjid
        AND there.relnamespace = to_regnamespace('joined')
    WHERE NOT 'security_barrier=true' = ANY (coalesce(view.reloptions, '{}')) ORDER BY 1
"""
