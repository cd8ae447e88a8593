"""Forward-only migrations: numbered SQL files, each applied once, in order, under an advisory lock.

A file may name the roles of this database as psql would: `:"app"` as an identifier, `:'app'` as a text (see Roles). They belong to the
owner and carry its name, so one server can hold many installations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import asyncpg

from shared import logs
from shared.postgres import Connection, connect, literal, quote

LOCK_KEY: Final = 5_104_202_017
"""Advisory lock of whoever migrates a database."""
LOCK_SECONDS_MAX: Final = 30
STATEMENT_SECONDS_MAX: Final = 60

_log = logs.logger()


@dataclass(frozen=True, slots=True)
class MigrationSet:
    """The numbered files (`0001_what_becomes_true.sql`) of one folder; `name` is never changed."""

    name: str
    directory: Path


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles of one database."""

    owner: str

    @property
    def app(self) -> str:
        """What the service's processes act as: no DDL, and the log is append-only for it."""
        return f"{self.owner}_app"

    @property
    def reader(self) -> str:
        """What the admins' SQL logins are members of: views of schema `api` and nothing else, rows by who logged in."""
        return f"{self.owner}_reader"

    @property
    def query(self) -> str:
        """What the query API reads as: the same views, rows by what the service says of who asks."""
        return f"{self.owner}_query"

    @property
    def views(self) -> str:
        """Whose the views of schema `api` are: it owns no table, and the policies on rows hold for it. Nobody acts as it."""
        return f"{self.owner}_views"

    @property
    def made(self) -> tuple[str, ...]:
        """The roles that migrations make; nobody logs in as one."""
        return self.app, self.reader, self.query, self.views

    def fill_in(self, sql: str) -> str:
        """`sql` with the roles' names in place. The files are ours, and so are the names."""
        for name in ("owner", "app", "reader", "query", "views"):
            role: str = getattr(self, name)
            sql = sql.replace(f':"{name}"', quote(role)).replace(f":'{name}'", literal(role))
        return sql


class MigrationError(Exception):
    """A file that was applied has changed since, or the database holds one that this code does not know."""


async def roles_of(connection: Connection) -> Roles:
    """The roles of the database that `connection` is logged in to: its owner is who logged in."""
    return Roles(await connection.fetchval("SELECT session_user"))


async def roles_at(dsn: str) -> Roles:
    """The same, for a database in which nothing else is to be done as its owner. Raises postgres.ABSENT."""
    connection = await connect(dsn, "roles")
    try:
        return await roles_of(connection)
    finally:
        await connection.close(timeout=2)


async def migrate(connection: Connection, sets: Sequence[MigrationSet]) -> int:
    """Applies what has not been applied; the number of files that were. Each file is one transaction. Raises MigrationError.

    `connection` is the owner's. Two at once take turns.
    """
    roles = await roles_of(connection)
    await connection.execute(f"SET lock_timeout = '{LOCK_SECONDS_MAX}s'; SET statement_timeout = '{STATEMENT_SECONDS_MAX}s'")
    await connection.execute("SELECT pg_advisory_lock($1)", LOCK_KEY, timeout=STATEMENT_SECONDS_MAX)
    try:
        await _make_roles(connection, roles)
        await connection.execute(_TABLE)
        applied = 0
        for each in sets:
            applied += await _apply_set(connection, each, roles)
        return applied
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", LOCK_KEY)


async def pending(connection: Connection, sets: Sequence[MigrationSet]) -> Sequence[str]:
    """The files that have not been applied, or in other words, and what is applied and unknown here; changes nothing."""
    said: list[str] = []
    for each in sets:
        known = {row["number"]: row["sha256"] for row in await connection.fetch(_SELECT_APPLIED, each.name)}
        files = _files(each)
        for number, file in files.items():
            if known.get(number) != sha256(file.read_bytes()).hexdigest():
                said.append(f"{each.name}/{file.name} {'was applied in another wording' if number in known else 'has not been applied'}")
        said += [f"{each.name}/{number} is applied, and this code does not know it" for number in sorted(known.keys() - files.keys())]
    return said


def _files(each: MigrationSet) -> Mapping[int, Path]:
    return {int(file.name.partition("_")[0]): file for file in sorted(each.directory.glob("[0-9]*.sql"))}


_TABLE: Final = """
    CREATE TABLE IF NOT EXISTS public.migration (
        set_name text NOT NULL,
        number integer NOT NULL,
        name text NOT NULL,
        sha256 text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (set_name, number)
    )
"""
_SELECT_APPLIED: Final = "SELECT number, name, sha256 FROM public.migration WHERE set_name = $1 ORDER BY number"
_INSERT_APPLIED: Final = "INSERT INTO public.migration (set_name, number, name, sha256) VALUES ($1, $2, $3, $4)"


async def _apply_set(connection: Connection, each: MigrationSet, roles: Roles) -> int:
    known = {row["number"]: (row["name"], row["sha256"]) for row in await connection.fetch(_SELECT_APPLIED, each.name)}
    files = _files(each)
    unknown = known.keys() - files.keys()
    if unknown:
        raise MigrationError(f"{each.name}: the database holds {sorted(unknown)}, which this code does not know")
    applied = 0
    for number, file in files.items():
        sql = file.read_text(encoding="utf-8")
        digest = sha256(sql.encode()).hexdigest()
        if number in known:
            if known[number][1] != digest:
                raise MigrationError(f"{each.name}/{file.name} was applied in another wording")
            continue
        async with connection.transaction():
            await connection.execute(roles.fill_in(sql), timeout=STATEMENT_SECONDS_MAX)
            await connection.execute(_INSERT_APPLIED, each.name, number, file.name, digest)
        _log.info("migrated", migration=f"{each.name}/{file.name}")
        applied += 1
    return applied


async def _make_roles(connection: Connection, roles: Roles) -> None:
    """The owner may act as each: it made them, and lets itself in."""
    for role in roles.made:
        try:
            async with connection.transaction():
                await connection.execute(f"CREATE ROLE {quote(role)} NOLOGIN")
        except asyncpg.DuplicateObjectError:
            pass
        except asyncpg.UniqueViolationError:  # Another database of the same owner is being migrated just now.
            pass
        await connection.execute(f"GRANT {quote(role)} TO {quote(roles.owner)} WITH SET TRUE, INHERIT FALSE")
