"""The states of a log, of a worker's roles and of a consumer's breaker, changed by command: who did it and why is kept with the change.

An operator closes and opens a log; the relay closes it for recovery; only `recover` opens it after that. Every function here takes a
connection of the database's owner.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from shared.errors import LeifengError
from shared.metrics import Metrics
from shared.postgres import Connection, Pool
from shared.worker import ROLES

APPEND_LOCK: Final = 5_104_202_001
"""The advisory lock under which positions are given out (`es.append`)."""
CHANGES_SHOWN: Final = 10


class StateError(LeifengError):
    """What was asked cannot follow from how things are."""


@dataclass(frozen=True, slots=True)
class Because:
    """Who changes something, and why; both are kept."""

    who: str
    reason: str


@asynccontextmanager
async def changing(connection: Connection, because: Because) -> AsyncIterator[None]:
    """A transaction whose changes are written down under `because`, with no append beside it."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", APPEND_LOCK)
        await connection.execute(
            "SELECT set_config('leifeng.who', $1, true), set_config('leifeng.reason', $2, true)", because.who, because.reason
        )
        yield


async def note(connection: Connection, because: Because, subject: str, was: str, becomes: str) -> None:
    """Writes one change down, within the caller's transaction, beside those that triggers note."""
    await connection.execute(
        "SELECT set_config('leifeng.who', $1, true), set_config('leifeng.reason', $2, true)", because.who, because.reason
    )
    await connection.execute("SELECT es.note_change($1, $2, $3)", subject, was, becomes)


async def set_read_only(connection: Connection, because: Because) -> None:
    """Closes an open log: commands are answered 503 `log_closed`; what is in the log is still published and read. Raises StateError."""
    async with changing(connection, because):
        state = await state_of(connection)
        if state == "recovering":
            raise StateError("the log waits for `recover`, and is closed until then")
        await connection.execute("UPDATE es.log SET state = 'read-only' WHERE state <> 'read-only'")


async def set_open(connection: Connection, because: Because) -> None:
    """Opens a log that was closed by `set_read_only`. Raises StateError for one that waits for recovery."""
    async with changing(connection, because):
        if await state_of(connection) == "recovering":
            raise StateError("Kafka holds what this log does not: run `recover`, which opens the log")
        await connection.execute("UPDATE es.log SET state = 'open' WHERE state <> 'open'")


async def state_of(connection: Connection) -> str:
    """`open`, `read-only` or `recovering`. Raises StateError where there is no log."""
    state: str | None = await connection.fetchval("SELECT state FROM es.log")
    if state is None:
        raise StateError("the database holds no log; has it been migrated?")
    return state


async def pause_role(connection: Connection, role: str, because: Because) -> None:
    """Holds a role of the workers back: whoever holds it gives it up within seconds. Raises StateError for an unknown role."""
    _check_role(role)
    async with changing(connection, because):
        await connection.execute("INSERT INTO es.paused_role (role) VALUES ($1) ON CONFLICT DO NOTHING", role)


async def resume_role(connection: Connection, role: str, because: Because) -> None:
    """Lets the workers take the role again. Raises StateError for an unknown role."""
    _check_role(role)
    async with changing(connection, because):
        await connection.execute("DELETE FROM es.paused_role WHERE role = $1", role)


async def override_breaker(connection: Connection, consumer: str, minutes: int, because: Because) -> Sequence[Mapping[str, Any]]:
    """Lets a consumer that the breaker stopped go on parking for the same reason, for so long; what it was stopped for.

    `minutes` are at most a day's. Raises StateError for a consumer that is not stopped.
    """
    rows = await connection.fetch(_OVERRIDE, consumer, minutes, because.who, because.reason)
    if not rows:
        raise StateError(f"{consumer} is not stopped; `doctor` says which consumers are")
    return [dict(row) for row in rows]


async def status(connection: Connection) -> Mapping[str, Any]:
    """What an operator asks first: state, positions, whether this is the server that the log was stamped with, what is paused."""
    row = await connection.fetchrow(_STATUS)
    if row is None:
        raise StateError("the database holds no log; has it been migrated?")
    return dict(row)


async def changes(connection: Connection) -> Sequence[Mapping[str, Any]]:
    """The last changes, newest first."""
    return [dict(row) for row in await connection.fetch(_CHANGES, CHANGES_SHOWN)]


async def refresh(pool: Pool, metrics: Metrics) -> None:
    """Sets the gauges of state and pauses, from the database: every worker shows the same, whoever holds the roles."""
    row = await pool.fetchrow(_SHOWN)
    if row is not None:
        metrics.log_read_only.set(row["state"] == "read-only")
        metrics.log_recovering.set(row["state"] == "recovering")
        for role in ROLES:
            metrics.worker_role_paused.labels(role).set(role in row["paused"])


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise StateError(f"there is no role {role}; there are {', '.join(ROLES)}")


_STATUS: Final = """
    SELECT log.state, log.service, log.log_id, log.clock,
        coalesce((SELECT max(position) FROM es.event), 0) AS head,
        coalesce((SELECT max(position) FROM es.seal), 0) AS sealed,
        coalesce(es.moved(), 'no') AS moved,
        coalesce((SELECT string_agg(role, ' ' ORDER BY role) FROM es.paused_role), 'none') AS paused
    FROM es.log
"""
_OVERRIDE: Final = """
    INSERT INTO consumer.breaker_override (consumer, log, stage, error_class, at, until, who, reason)
    SELECT consumer, log, stage, reason, now(), now() + make_interval(mins => $2), $3, $4 FROM consumer.stopped WHERE consumer = $1
    RETURNING consumer, log, stage, error_class, until
"""
_SHOWN: Final = "SELECT state, ARRAY(SELECT role FROM es.paused_role) AS paused FROM es.log"
_CHANGES: Final = "SELECT at, subject, was, becomes, who, reason FROM es.log_change ORDER BY number DESC LIMIT $1"
