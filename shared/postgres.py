"""Connections to the service's own PostgreSQL, with a limit on every wait (stack.md 4)."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from shared.followed import secret_file
from shared.settings import PASSWORD_FILE

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    """A connection, also one that a pool lends."""
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
else:  # At run time asyncpg's classes take no parameters.
    Connection, Pool = asyncpg.Connection, asyncpg.Pool

ABSENT: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""What a connection raises when the server is away, ends it, or has ended it while this process slept (the driver is then in the middle of
an answer, which it calls an internal error)."""

CONNECT_SECONDS_MAX: Final = 3.0
STATEMENT_SECONDS_MAX: Final = 4.0
LOCK_SECONDS_MAX: Final = 3.0
IDLE_IN_TRANSACTION_SECONDS_MAX: Final = 10.0
_CLIENT_GRACE_SECONDS: Final = 0.25
"""The client gives up a little later than the server, so that the server's clearer word arrives where it can."""


def session_settings(name: str, *, role: str | None, search_path: str | None, statement_seconds: float) -> dict[str, str]:
    """What a session is told at its start. `role` is what it acts as from its first statement."""
    settings = {
        "application_name": name,
        "timezone": "UTC",
        "statement_timeout": str(round(statement_seconds * 1000)),
        "lock_timeout": str(round(min(LOCK_SECONDS_MAX, statement_seconds) * 1000)),
        "idle_in_transaction_session_timeout": str(round(IDLE_IN_TRANSACTION_SECONDS_MAX * 1000)),
    }
    if role is not None:
        settings["role"] = role
    if search_path is not None:
        settings["search_path"] = search_path
    return settings


def _address(dsn: str) -> dict[str, Any]:
    """The address and, where it names a file with the password, what reads that file for each new connection. See `Settings.dsn`."""
    parts = urlsplit(dsn)
    said = parse_qsl(parts.query, keep_blank_values=True)
    files = [value for name, value in said if name == PASSWORD_FILE]
    if not files:
        return {"dsn": dsn}
    rest = urlencode([(name, value) for name, value in said if name != PASSWORD_FILE])
    return {"dsn": urlunsplit(parts._replace(query=rest)), "password": secret_file(Path(files[-1])).look}


async def connect(
    dsn: str,
    name: str,
    *,
    role: str | None = None,
    search_path: str | None = None,
    statement_seconds: float = STATEMENT_SECONDS_MAX,
    **settings: str,
) -> "asyncpg.Connection[asyncpg.Record]":
    """One connection of its own. `settings` are further session settings. Raises what asyncpg raises, TimeoutError and OSError."""
    said = session_settings(name, role=role, search_path=search_path, statement_seconds=statement_seconds)
    return await asyncpg.connect(
        **_address(dsn),
        timeout=CONNECT_SECONDS_MAX,
        command_timeout=statement_seconds + _CLIENT_GRACE_SECONDS,
        server_settings=said | settings,
    )


class _Pool(Pool):
    """asyncpg's own, which says how long a borrower waited. Everything that borrows, `fetch` and its like included, comes by `_acquire`."""

    def __init__(self, dsn: str, *, waited: Callable[[float], object] | None, **settings: Any) -> None:
        address = _address(dsn)
        super().__init__(address.pop("dsn"), **address, **settings)
        self._waited = waited

    async def _acquire(self, seconds: float | None) -> Any:
        begun = perf_counter()
        try:
            return await super()._acquire(seconds)  # type: ignore[misc]  # No call of it is public.
        finally:
            if self._waited is not None:
                self._waited(perf_counter() - begun)


def open_pool(
    dsn: str,
    name: str,
    size: int,
    *,
    role: str | None = None,
    search_path: str | None = None,
    statement_seconds: float = STATEMENT_SECONDS_MAX,
    waited: Callable[[float], object] | None = None,
) -> Pool:
    """A pool of up to `size` connections, made when they are first needed; use it as a context, or close it.

    `waited` is told the seconds that each borrower waited for a connection, the making of a new one and waiting in vain included. Nobody
    may leave state in a session (SET, LISTEN, session locks): connections are handed on as they are. In a transaction SET LOCAL and
    `pg_advisory_xact_lock` are fine.
    """

    async def leave_as_it_is(_connection: Any) -> None:
        return

    return _Pool(
        dsn,
        waited=waited,
        min_size=0,
        max_size=size,
        max_queries=50_000,
        max_inactive_connection_lifetime=300.0,
        loop=None,
        connection_class=asyncpg.Connection,
        record_class=asyncpg.Record,
        reset=leave_as_it_is,
        timeout=CONNECT_SECONDS_MAX,
        command_timeout=statement_seconds + _CLIENT_GRACE_SECONDS,
        server_settings=session_settings(name, role=role, search_path=search_path, statement_seconds=statement_seconds),
    )


K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Gathered(Generic[K, V]):
    """One kind of read whose callers share statements: who asks while one is under way is answered by the next, together with the others.

    Nobody is answered by a statement that was sent before they asked, so everybody sees what they would have seen alone. `read` gives a
    value for each of some different keys, in their order; what it raises is raised to all of them.
    """

    def __init__(self, read: Callable[[Sequence[K]], Awaitable[Sequence[V]]], *, keys_max: int = 500) -> None:
        self._read = read
        self._keys_max = keys_max
        self._waiting: list[tuple[K, asyncio.Future[V]]] = []
        self._reading: asyncio.Task[None] | None = None

    async def __call__(self, key: K) -> V:
        """The value of one key. A caller that is cancelled leaves at once, whatever the database does."""
        answer: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, answer))
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._run())
        return await answer

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[: self._keys_max], self._waiting[self._keys_max :]
            keys = list(dict.fromkeys(key for key, answer in batch if not answer.done()))
            try:
                found = dict(zip(keys, await self._read(keys), strict=True)) if keys else {}
            except Exception as error:  # noqa: BLE001  # Whoever asked is told; who asks next is read for.
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for key, answer in batch:
                if not answer.done():
                    answer.set_result(found[key])


def quote(name: str) -> str:
    """An SQL identifier, quoted."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """An SQL text, quoted."""
    return "'" + text.replace("'", "''") + "'"
