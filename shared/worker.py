"""Worker roles: one process does each, the others stand by (D13).

A role is held by a session advisory lock on a connection of its own, which the server ends when its owner has been silent for
`IDLE_SECONDS`. The lock only saves double work; what must not happen twice is fenced by the seal, the positions and the command ids.
A role that an operator has paused (`es.paused_role`) is given up, and taken by nobody until it is resumed.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import asyncpg

from shared import logs
from shared.lifecycle import pause
from shared.metrics import Metrics
from shared.postgres import ABSENT, connect

ROLES: Final = ("relay", "views", "inbox", "withdrawals")
"""The roles of a worker; the place in this tuple is part of the lock's key."""

LOCK_SPACE: Final = 5_104_202
IDLE_SECONDS: Final = 6
"""A paused owner loses the role after this long."""
PING_SECONDS: Final = 2.0
STANDBY_SECONDS: Final = 0.5
"""How often a standby asks for the lock. It does not wait inside the server: a waiting statement would hold a snapshot open for hours."""
GIVE_UP_SECONDS_MAX: Final = 8.0
"""How long the work of a lost role may take to end before it is cancelled."""
AGAIN_SECONDS: Final = 1.0

_IS_PAUSED: Final = "SELECT EXISTS (SELECT FROM es.paused_role WHERE role = $1)"
_TRY_LOCK: Final = "SELECT pg_try_advisory_lock($1, $2)"
_log = logs.logger()


@dataclass(frozen=True, slots=True)
class WorkerRole:
    """What a role does while it is held: `run` returns when its stop is set, and raises when the role must be given up."""

    name: str
    run: Callable[[asyncio.Event], Awaitable[None]]


async def stand_for(role: WorkerRole, dsn: str, metrics: Metrics, stop: asyncio.Event) -> None:
    """Takes the role whenever it is free and does its work, until `stop` is set."""
    held = metrics.worker_role_held.labels(role.name)
    held.set(0)
    while not stop.is_set():
        try:
            async with _connection(dsn, role.name) as connection:
                if await _wait_for_the_lock(connection, role.name, stop):
                    held.set(1)
                    metrics.role_changes_total.labels(role.name, "taken").inc()
                    _log.info("role_taken", role=role.name)
                    cause = await _work(role, connection, stop)
                    metrics.role_changes_total.labels(role.name, cause).inc()
                    _log.info("role_given_up", role=role.name, cause=cause)
        except ABSENT as error:
            _log.warning("role_not_reached", role=role.name, error=type(error).__qualname__)
        finally:
            held.set(0)
        await pause(stop, AGAIN_SECONDS)


async def _work(role: WorkerRole, connection: "asyncpg.Connection[asyncpg.Record]", stop: asyncio.Event) -> str:
    """Works until the end, a pause, the loss of the lock, or a failure of the work; which of them it was."""
    enough = asyncio.Event()
    work = asyncio.ensure_future(role.run(enough))
    pings = asyncio.create_task(_ping(connection, role.name))
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({work, pings, stopped}, return_when=asyncio.FIRST_COMPLETED)
        cause = "stopped" if stop.is_set() else "failed" if work.done() else pings.result()
    finally:
        enough.set()
        for each in (pings, stopped):
            each.cancel()
        done, _ = await asyncio.wait({work}, timeout=GIVE_UP_SECONDS_MAX)
        if not done:
            work.cancel()
            await asyncio.wait({work}, timeout=GIVE_UP_SECONDS_MAX)
    if work.done() and not work.cancelled() and (error := work.exception()) is not None:
        _log.error("role_failed", role=role.name, exc_info=error)
    return cause


async def _ping(connection: "asyncpg.Connection[asyncpg.Record]", role: str) -> str:
    """Keeps the session from being idle; returns when the role is paused, or the session is gone."""
    try:
        while True:
            await asyncio.sleep(PING_SECONDS)
            if await connection.fetchval(_IS_PAUSED, role, timeout=PING_SECONDS):
                return "paused"
    except ABSENT:
        return "lost"


async def _wait_for_the_lock(connection: "asyncpg.Connection[asyncpg.Record]", role: str, stop: asyncio.Event) -> bool:
    while not stop.is_set():
        paused = await connection.fetchval(_IS_PAUSED, role)
        if not paused and await connection.fetchval(_TRY_LOCK, LOCK_SPACE, ROLES.index(role)):
            return True
        await pause(stop, STANDBY_SECONDS)
    return False


@contextlib.asynccontextmanager
async def _connection(dsn: str, role: str) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    connection = await connect(dsn, f"role {role}", idle_session_timeout=f"{IDLE_SECONDS}s")
    try:
        yield connection
    finally:
        connection.terminate()  # The server lets go of the lock at once; a farewell could hang.
