"""Local accounts, one-time links and sessions, in the database of the service that people sign in at. Secrets are kept as digests only."""

import asyncio
import secrets
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal, LiteralString
from uuid import UUID

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from shared.migrate import MigrationSet
from shared.postgres import Pool
from shared.privacy import is_there

MIGRATIONS: Final = MigrationSet("signin", Path(__file__).parent / "migrations")

PASSWORD_CHARACTERS_MIN: Final = 12
PASSWORD_CHARACTERS_MAX: Final = 200
LOGIN_CHARACTERS_MAX: Final = 60

LINK_SECONDS: Final = 3600
FLOW_SECONDS: Final = 600
SESSION_SECONDS_MAX: Final = 12 * 3600
SESSION_IDLE_SECONDS_MAX: Final = 30 * 60
TRIES_FREE: Final = 5
"""Wrong passwords in a row before an account is locked for a while: half a minute, then twice as long each time."""
LOCKED_SECONDS_MAX: Final = 15 * 60
HASH_KIBIBYTES: Final = 19 * 1024
HASH_PASSES: Final = 2
HASHES_AT_ONCE: Final = 2
"""Argon2id as OWASP recommends it for servers: 19 MiB and some twenty milliseconds of a core for each."""


Way = Literal["password", "link", "provider"]


@dataclass(frozen=True, slots=True)
class Session:
    """Who is signed in, by which way, and as what they chose to act."""

    person_id: UUID
    way: Way
    acting: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class Flow:
    """One way to the provider and back: what is kept here in the meantime."""

    state: str
    nonce: str
    verifier: str


def new_flow() -> Flow:
    """A fresh one, 256 bits each."""
    return Flow(secrets.token_urlsafe(32), secrets.token_urlsafe(32), secrets.token_urlsafe(48))


class PasswordError(Exception):
    """The password, or the login, will not do; `code` says why."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Accounts:
    """Reads and writes schema `signin`; `pool` acts as the app role. Keys that are given out have 256 bits.

    Nobody is let in as who was erased, by whatever way: whoever comes again is somebody new, by another id.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._hasher = PasswordHasher(time_cost=HASH_PASSES, memory_cost=HASH_KIBIBYTES, parallelism=1)
        self._nobody = self._hasher.hash(secrets.token_urlsafe(32))
        self._hashing = asyncio.Semaphore(HASHES_AT_ONCE)

    async def check(self, login: str, password: str) -> UUID | None:
        """Whose login and password these are; None for any other, and while the account is locked. It takes as long either way."""
        row = await self._pool.fetchrow(_SELECT_ACCOUNT, login.strip().lower())
        is_right = await self._verify(self._nobody if row is None else row["password_hash"], password)
        if row is None or row["is_locked"]:
            return None
        if not is_right:
            await self._pool.execute(_COUNT_FAILURE, row["login"], TRIES_FREE, LOCKED_SECONDS_MAX)
            return None
        await self._pool.execute(_FORGET_FAILURES, row["login"])
        person_id: UUID = row["person_id"]
        return person_id

    async def set_password(self, person_id: UUID, login: str, password: str, *, keep: str) -> bool:
        """The person's login and password from now on; their sessions end but for the one of the key `keep`. False, and nothing is set,
        when that has ended meanwhile: with an erasure, which takes whatever was set before. Raises PasswordError.
        """
        login = login.strip().lower()
        if not 0 < len(login) <= LOGIN_CHARACTERS_MAX or not login.isprintable():
            raise PasswordError("login_invalid")
        if not PASSWORD_CHARACTERS_MIN <= len(password) <= PASSWORD_CHARACTERS_MAX or login in password.lower():
            raise PasswordError("password_weak")
        async with self._hashing:
            hashed = await asyncio.to_thread(self._hasher.hash, password)
        async with self._pool.acquire() as connection, connection.transaction():
            if _digest(keep) not in {row["digest"] for row in await connection.fetch(_LOCK_SESSIONS, person_id)}:
                return False
            if await connection.fetchval(_SELECT_OTHER, login, person_id):
                raise PasswordError("login_taken")
            await connection.execute(_UPSERT_ACCOUNT, login, person_id, hashed)
            await connection.execute("DELETE FROM signin.session WHERE person_id = $1 AND digest <> $2", person_id, _digest(keep))
        return True

    async def login_of(self, person_id: UUID) -> str | None:
        """The person's login, if they have a local account."""
        login: str | None = await self._pool.fetchval("SELECT login FROM signin.account WHERE person_id = $1", person_id)
        return login

    async def new_link(self, person_id: UUID) -> str | None:
        """The key of a link that signs the person in once, within the hour; None for who was erased."""
        key = secrets.token_urlsafe(32)
        async with self._pool.acquire() as connection, connection.transaction():
            if not await is_there(person_id, connection):
                return None
            await connection.execute(_INSERT_LINK, _digest(key), person_id, LINK_SECONDS)
        return key

    async def use_link(self, key: str) -> tuple[UUID, str] | None:
        """Whom the link signs in, and the key of their new session; it does so no more after this."""
        session = secrets.token_urlsafe(32)
        async with self._pool.acquire() as connection, connection.transaction():
            # The person's key before the link, as an erasure has them: neither waits for the other with what it wants.
            whose = await connection.fetchval("SELECT person_id FROM signin.link WHERE digest = $1", _digest(key))
            if whose is None or not await is_there(whose, connection):
                return None
            person_id: UUID | None = await connection.fetchval(_TAKE_LINK, _digest(key), _digest(session), SESSION_SECONDS_MAX)
        return None if person_id is None else (person_id, session)

    async def keep_flow(self, flow: Flow, next_: str) -> None:
        """What is needed when the browser comes back from the provider."""
        await self._pool.execute(_INSERT_FLOW, _digest(flow.state), flow.nonce, flow.verifier, next_, FLOW_SECONDS)

    async def take_flow(self, state: str) -> tuple[Flow, str] | None:
        """What was kept for this state, once, and where to go on."""
        row = await self._pool.fetchrow(_TAKE_FLOW, _digest(state))
        return None if row is None else (Flow(state, row["nonce"], row["verifier"]), row["next"])

    async def open_session(self, person_id: UUID, way: Literal["password", "provider"]) -> str | None:
        """The key of a new session; None for who was erased, and when the account whose password was right has gone meanwhile.

        What has expired is swept.
        """
        key = secrets.token_urlsafe(32)
        await self._pool.execute(_SWEEP_SESSIONS, SESSION_IDLE_SECONDS_MAX)
        async with self._pool.acquire() as connection, connection.transaction():
            if not await is_there(person_id, connection):
                return None
            is_open = await connection.fetchval(_INSERT_SESSION, _digest(key), person_id, way, SESSION_SECONDS_MAX)
        return key if is_open else None

    async def session(self, key: str) -> Session | None:
        """Whose session it is, while it lasts: twelve hours at most, and half an hour without a visit."""
        row = await self._pool.fetchrow(_TOUCH_SESSION, _digest(key), SESSION_IDLE_SECONDS_MAX)
        if row is None:
            return None
        return Session(row["person_id"], row["way"], None if row["role"] is None else (row["role"], row["unit"]))

    async def act_as(self, key: str, acting: tuple[str, str] | None) -> None:
        """As what the person of this session acts from now on; None for what fits."""
        role, unit = acting or (None, None)
        await self._pool.execute("UPDATE signin.session SET role = $2, unit = $3 WHERE digest = $1", _digest(key), role, unit)

    async def close_session(self, key: str) -> None:
        """Ends it."""
        await self._pool.execute("DELETE FROM signin.session WHERE digest = $1", _digest(key))

    async def _verify(self, hashed: str, password: str) -> bool:
        async with self._hashing:
            try:
                return await asyncio.to_thread(self._hasher.verify, hashed, password[: PASSWORD_CHARACTERS_MAX + 1])
            except (VerifyMismatchError, InvalidHashError):
                return False


def _digest(key: str) -> bytes:
    return sha256(key.encode()).digest()


_SELECT_ACCOUNT: Final[LiteralString] = """
    SELECT login, person_id, password_hash, coalesce(locked_until > clock_timestamp(), false) AS is_locked
    FROM signin.account WHERE login = $1
"""
_COUNT_FAILURE: Final[LiteralString] = """
    UPDATE signin.account
    SET failures = failures + 1,
        locked_until = CASE WHEN failures + 1 >= $2::integer
            THEN clock_timestamp() + least(30 * 2.0 ^ least(failures + 1 - $2, 20), $3::integer) * interval '1 second' END
    WHERE login = $1
"""
_FORGET_FAILURES: Final[LiteralString] = "UPDATE signin.account SET failures = 0, locked_until = NULL WHERE login = $1 AND failures > 0"
_SELECT_OTHER: Final[LiteralString] = "SELECT EXISTS (SELECT FROM signin.account WHERE login = $1 AND person_id <> $2)"
_UPSERT_ACCOUNT: Final[LiteralString] = """
    INSERT INTO signin.account (login, person_id, password_hash) VALUES ($1, $2, $3)
    ON CONFLICT (person_id) DO UPDATE
    SET login = excluded.login, password_hash = excluded.password_hash, failures = 0, locked_until = NULL, changed_at = clock_timestamp()
"""
_INSERT_LINK: Final[LiteralString] = """
    INSERT INTO signin.link (digest, person_id, expires_at) VALUES ($1, $2, clock_timestamp() + $3::integer * interval '1 second')
"""
_TAKE_LINK: Final[LiteralString] = """
    WITH taken AS (DELETE FROM signin.link WHERE digest = $1 OR expires_at < clock_timestamp() RETURNING digest, person_id, expires_at)
    INSERT INTO signin.session (digest, person_id, way, expires_at)
    SELECT $2::bytea, person_id, 'link', clock_timestamp() + $3::integer * interval '1 second'
    FROM taken WHERE digest = $1 AND expires_at > clock_timestamp()
    RETURNING person_id
"""
_INSERT_FLOW: Final[LiteralString] = """
    INSERT INTO signin.flow (digest, nonce, verifier, next, expires_at)
    VALUES ($1, $2, $3, $4, clock_timestamp() + $5::integer * interval '1 second')
"""
_TAKE_FLOW: Final[LiteralString] = """
    WITH taken AS (
        DELETE FROM signin.flow WHERE digest = $1 OR expires_at < clock_timestamp() RETURNING digest, nonce, verifier, next, expires_at
    )
    SELECT nonce, verifier, next FROM taken WHERE digest = $1 AND expires_at > clock_timestamp()
"""
_SWEEP_SESSIONS: Final[LiteralString] = """
    DELETE FROM signin.session
    WHERE expires_at < clock_timestamp() OR seen_at < clock_timestamp() - $1::integer * interval '1 second'
"""
_INSERT_SESSION: Final[LiteralString] = """
    WITH known AS (SELECT person_id FROM signin.account WHERE person_id = $2 FOR SHARE)
    INSERT INTO signin.session (digest, person_id, way, expires_at)
    SELECT $1::bytea, $2, $3::text, clock_timestamp() + $4::integer * interval '1 second'
    WHERE $3 <> 'password' OR EXISTS (SELECT FROM known)
    RETURNING true
"""
_LOCK_SESSIONS: Final[LiteralString] = "SELECT digest FROM signin.session WHERE person_id = $1 ORDER BY digest FOR UPDATE"
FORGET: Final[tuple[LiteralString, ...]] = (
    "DELETE FROM signin.link WHERE person_id = $1",
    """
    WITH theirs AS (SELECT digest FROM signin.session WHERE person_id = $1 ORDER BY digest FOR UPDATE)
    DELETE FROM signin.session USING theirs WHERE session.digest = theirs.digest
    """,
    "DELETE FROM signin.account WHERE person_id = $1",
    "DELETE FROM signin.session WHERE person_id = $1",
)
"""What an erasure of the person $1 takes with it, in this order, each statement by itself in one transaction.

The person's key is destroyed before: who is just coming holds it, and is waited for, or waits and is not let in. Who is setting a password
holds the sessions' rows: they are waited for, and what came of it is met by a later statement. So nothing that began before is left.
"""
_TOUCH_SESSION: Final[LiteralString] = """
    UPDATE signin.session SET seen_at = clock_timestamp()
    WHERE digest = $1 AND expires_at > clock_timestamp() AND seen_at > clock_timestamp() - $2::integer * interval '1 second'
    RETURNING person_id, way, role, unit
"""
