"""SQL logins of admins: one for each unit, and for those who see every unit. Each function takes a connection of the database's owner.

A login is a member of `Roles.reader`, and of nothing else; whose rows it sees stands in `access.login`, by its name.
"""

import hmac
import re
import secrets
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import pbkdf2_hmac, sha256
from typing import Any, Final

import asyncpg

from shared.errors import LeifengError
from shared.migrate import Roles
from shared.postgres import Connection, literal, quote

CONNECTIONS_MAX: Final = 5
"""At once, of one login."""
DAYS: Final = 90
"""How long a password lasts unless it is said otherwise."""
DAYS_MAX: Final = 366
SETTINGS: Final[Mapping[str, str]] = {
    "default_transaction_read_only": "on",
    "statement_timeout": "30s",
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "60s",
    "idle_session_timeout": "1h",
    "search_path": "api",
}
"""What a session of a login begins with. It may set others: what it may see and do hangs on none of them."""
NAME_BYTES_MAX: Final = 63
"""PostgreSQL cuts longer names."""
_ROUNDS: Final = 4096
"""Of PostgreSQL's own password hashes."""


class LoginError(LeifengError):
    """What was asked for cannot be done; the text says why."""


@dataclass(frozen=True, slots=True)
class Login:
    """A login by its name; `units` None is every unit."""

    name: str
    units: Sequence[str] | None


def name_of(roles: Roles, units: Sequence[str] | None) -> str:
    """What a login is called unless it is said otherwise."""
    return f"{roles.owner}_all_units" if units is None else f"{roles.owner}_unit_{'_'.join(units)}"


def new_password() -> str:
    """Letters and digits that nobody guesses."""
    return secrets.token_urlsafe(24)


async def add(connection: Connection, roles: Roles, login: Login, password: str, valid_until: datetime) -> str:
    """Makes a login, or gives one that is there another password and exactly these units; what it saw before, in words.

    In the caller's transaction. Raises LoginError: a name that cannot be, is another role's, or a unit that nobody has heard of.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", login.name) or len(login.name) > NAME_BYTES_MAX:
        raise LoginError(f"{login.name} is no name for a login: small letters, digits, - and _, {NAME_BYTES_MAX} at most (--name)")
    known = {row["code"] for row in await connection.fetch("SELECT code FROM api.units")}
    if unknown := [each for each in login.units or () if each not in known]:
        raise LoginError(f"there is no unit {', '.join(unknown)}")
    before = await _units(connection, login.name)
    name = quote(login.name)
    if before is None:
        try:
            await connection.execute(f"CREATE ROLE {name} NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS")
        except asyncpg.DuplicateObjectError:
            raise LoginError(f"there is a role {login.name}, and it is no login of this service") from None
        await connection.execute(f"GRANT {quote(roles.reader)} TO {name} WITH INHERIT TRUE, SET FALSE, ADMIN FALSE")
    await connection.execute(
        f"ALTER ROLE {name} LOGIN CONNECTION LIMIT {CONNECTIONS_MAX} PASSWORD {literal(verifier(password))} "
        f"VALID UNTIL {literal(valid_until.isoformat())}"
    )
    for setting, value in SETTINGS.items():
        await connection.execute(f"ALTER ROLE {name} SET {setting} = {literal(value)}")
    await connection.execute("DELETE FROM access.login WHERE login = $1", login.name)
    await connection.execute(_INSERT, login.name, [None] if login.units is None else list(login.units))
    return "none" if before is None else words(before)


async def remove(connection: Connection, name: str) -> str:
    """Forgets a login, in the caller's transaction; what it saw, in words. Raises LoginError where there is none of that name."""
    before = await _units(connection, name)
    if before is None:
        raise LoginError(f"there is no login {name}; `logins list` shows those there are")
    await connection.execute("DELETE FROM access.login WHERE login = $1", name)  # From here on it sees nothing, though it be connected.
    await connection.execute(f"DROP ROLE IF EXISTS {quote(name)}")
    return words(before)


async def listed(connection: Connection) -> Sequence[Mapping[str, Any]]:
    """Every login with what it sees, until when its password lasts, and how many connections it holds."""
    return [dict(row) for row in await connection.fetch(_SELECT_LOGINS)]


def words(units: Sequence[str | None]) -> str:
    """What a login sees, in words."""
    return "every unit" if None in units else f"units {' '.join(sorted(each for each in units if each))}"


def verifier(password: str) -> str:
    """What PostgreSQL keeps of a password (SCRAM-SHA-256): the password itself goes to no server, and into no log."""
    salt = secrets.token_bytes(16)
    salted = pbkdf2_hmac("sha256", password.encode("ascii"), salt, _ROUNDS)
    stored = sha256(hmac.digest(salted, b"Client Key", sha256)).digest()
    server = hmac.digest(salted, b"Server Key", sha256)
    said = (b64encode(each).decode() for each in (salt, stored, server))
    return "SCRAM-SHA-256${rounds}:{0}${1}:{2}".format(*said, rounds=_ROUNDS)


async def _units(connection: Connection, name: str) -> Sequence[str | None] | None:
    return [row["unit_code"] for row in await connection.fetch("SELECT unit_code FROM access.login WHERE login = $1", name)] or None


_INSERT: Final = "INSERT INTO access.login (login, unit_code) SELECT $1, unit_code FROM unnest($2::text[]) AS unit_code"
_SELECT_LOGINS: Final = """
    SELECT login::text AS name, coalesce(string_agg(unit_code, ' ' ORDER BY unit_code), '*') AS units, rolvaliduntil AS valid_until,
        (SELECT count(*) FROM pg_stat_activity WHERE usename = login) AS connections
    FROM access.login LEFT JOIN pg_roles ON rolname = login GROUP BY login, rolvaliduntil ORDER BY login
"""
