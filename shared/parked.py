"""What could not be applied: list it, look at it, and try it again once the cause is cured (D8). Nothing is ever edited.

What two persons gave up (`shared.discards`) is passed over here as everywhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import from_json

from shared.consumer import inbox, views, withdrawals
from shared.consumer.apply import (
    DETERMINISTIC,
    POOL_WAIT_SECONDS,
    Entry,
    Part,
    Place,
    decoded,
    enter,
    fold,
    given_up,
    open_sealed,
)
from shared.consumer.inbox import Reactor
from shared.consumer.setting import Setting
from shared.envelope import record_of
from shared.errors import CallerError
from shared.postgres import Connection, Pool


@dataclass(frozen=True, slots=True)
class Tried:
    """What trying a key again gave: how many of its events were released, and what the first that failed again failed with."""

    consumer: str
    log: str
    released: int
    failed: str | None


async def list_keys(connection: "Connection | Pool") -> Sequence[Mapping[str, Any]]:
    """Every key with parked events of one consumer and source log, and why; oldest first."""
    return [dict(row) for row in await connection.fetch(_LIST)]


async def show(connection: "Connection | Pool", key: str) -> Sequence[Mapping[str, Any]]:
    """The parked events of a key in order, masked: coordinates, headers, and the names of the payload's fields."""
    found: list[Mapping[str, Any]] = []
    for row in await connection.fetch(_SHOW, key):
        shown = dict(row)
        found.append({**shown, "headers": from_json(shown["headers"]), "payload": _field_names(shown["payload"])})
    return found


async def keys_parked_for(connection: "Connection | Pool", reason: str) -> Sequence[str]:
    """The keys whose first parked event failed with `reason`, oldest first."""
    return [row["key"] for row in await connection.fetch(_PARKED_FOR, reason)]


async def retry(setting: Setting, reactors: Sequence[Reactor[Any]], key: str) -> Sequence[Tried]:
    """Applies the parked events of `key` again, in order, each in a transaction of its own; the last one frees the key.

    Stops at the first of a consumer and log that fails again. `reactors` are the inbox's. Safe to repeat, and beside a running worker: it
    holds the position row, so nothing slips past. Raises NewerVersionError, and whatever the database raises.
    """
    return await retry_parts(setting.pool, every_part(setting), reactors, key)


def every_part(setting: Setting) -> Sequence[Part]:
    """What the service's consumers do, in the order in which a key is released."""
    return (*views.parts(setting), *inbox.parts(setting), *withdrawals.parts(setting))


async def retry_parts(pool: Pool, parts: Sequence[Part], reactors: Sequence[Reactor[Any]], key: str) -> Sequence[Tried]:
    """As `retry`, for some parts."""
    reacting = {each.part.source: each for each in reactors}
    tried: list[Tried] = []
    for part in parts:
        released, failed = await _retry_part(pool, part, reacting.get(part.source) if part.consumer == "inbox" else None, key)
        if released or failed is not None:
            tried.append(Tried(part.consumer, part.source, released, failed))
    return tried


async def _retry_part(pool: Pool, part: Part, reactor: Reactor[Any] | None, key: str) -> tuple[int, str | None]:
    released, after = 0, 0
    while True:
        async with pool.acquire(timeout=POOL_WAIT_SECONDS) as connection, connection.transaction():
            reacted = await connection.fetchval(LOCK, part.consumer, part.source)
            row = await connection.fetchrow(_NEXT, part.consumer, part.source, key, "applied", after)
            if row is None:
                break
            if await given_up(connection, part, [entry_of(row)], "applied"):
                await release(connection, row)
                continue
            await enter(part, connection)
            error = await try_fold(part, connection, row)
            if error is None:
                released += 1
                await release(connection, row, then_react=reactor is not None and reacted >= row["position"])
                continue
            await _failed_again(connection, row, error)
            if part.blocks:
                return released, type(error).__name__
            after = row["position"]
    while reactor is not None:
        row = await pool.fetchrow(_NEXT, part.consumer, part.source, key, "reactions", 0)
        if row is None:
            break
        if not (gone := await given_up(pool, part, [entry_of(row)], "applied", "reactions")):
            failed = await _react_again(pool, part, reactor, row)
            if failed is not None:
                return released, failed
        async with pool.acquire(timeout=POOL_WAIT_SECONDS) as connection, connection.transaction():
            await connection.fetchval(LOCK, part.consumer, part.source)
            await release(connection, row)
        released += not gone
    return released, None


async def try_fold(part: Part, connection: Connection, row: Any) -> Exception | None:
    """Applies one parked event in a savepoint; what it fails with, if it does so for good. `enter` comes before."""
    try:
        async with connection.transaction():
            read = decoded(part, entry_of(row))
            if read is not None:
                await open_sealed(part, connection, [read])
                if read.error is not None:
                    raise read.error
                await fold(part, connection, [read.fact] if read.fact is not None else [])
    except DETERMINISTIC as error:
        return error
    return None


async def _react_again(pool: Pool, part: Part, reactor: Reactor[Any], row: Any) -> str | None:
    try:
        read = decoded(part, entry_of(row))
        if read is not None:
            async with pool.acquire(timeout=POOL_WAIT_SECONDS) as connection:
                await open_sealed(part, connection, [read])
            if read.error is not None:
                raise read.error
            if read.fact is not None:
                await reactor.react(read.fact)
    except (*DETERMINISTIC, CallerError) as error:
        await _failed_again(pool, row, error)
        return type(error).__name__
    return None


async def _failed_again(connection: "Connection | Pool", row: Any, error: Exception) -> None:
    why = type(error).__name__
    await connection.execute(_FAILED, row["consumer"], row["log"], row["position"], why)
    await connection.execute(_BLOCKED_FOR, row["consumer"], row["log"], row["stage"], row["key"], why)


async def release(connection: Connection, row: Any, *, then_react: bool = False) -> None:
    """Frees a parked event, and its key when it was the last. One whose reactions have passed by waits for them in its turn.

    `row` has its consumer, log, key, stage and position; the caller holds the position row (`LOCK`).
    """
    place = (row["consumer"], row["log"])
    if then_react:
        await connection.execute(_TO_REACTIONS, *place, row["position"])
        await connection.execute(_BLOCK_REACTIONS, *place, row["key"])
    else:
        await connection.execute(_FREE, *place, row["position"], row["stage"])
    await connection.execute(_UNBLOCK, *place, row["key"], row["stage"])


def entry_of(row: Any) -> Entry:
    """A parked event as it came."""
    headers = [(name, text.encode()) for name, text in from_json(row["headers"]).items()]
    return Entry(record_of(headers, row["payload"]), headers, Place())


def _field_names(payload: bytes) -> Sequence[str]:
    try:
        body = from_json(payload)
    except ValueError:
        return ()
    return tuple(body) if isinstance(body, dict) else ()


_LIST: Final = """
    SELECT parked.consumer, parked.log, parked.key, parked.stage, coalesce(blocked.reason, min(parked.error_class)) AS reason,
           count(*) AS events, min(parked.first_at) AS first_at
    FROM consumer.parked LEFT JOIN consumer.blocked USING (consumer, log, stage, key)
    GROUP BY parked.consumer, parked.log, parked.key, parked.stage, blocked.reason ORDER BY min(parked.first_at)
"""
_PARKED_FOR: Final = """
    SELECT key FROM (
        SELECT DISTINCT ON (consumer, log, stage, key) consumer, key, error_class, first_at FROM consumer.parked
        ORDER BY consumer, log, stage, key, position
    ) AS first_of_key
    WHERE error_class = $1 AND consumer NOT LIKE 'views@%' GROUP BY key ORDER BY min(first_at)
"""
_SHOW: Final = """
    SELECT consumer, log, position, type, stage, error_class, attempts, state, headers, payload FROM consumer.parked
    WHERE key = $1 ORDER BY consumer, log, position
"""
LOCK: Final = "SELECT reacted FROM consumer.position WHERE consumer = $1 AND log = $2 FOR UPDATE"
"""The position row, which whoever changes what is parked holds meanwhile: the consumer does while it applies a batch."""
_NEXT: Final = """
    SELECT consumer, log, position, key, stage, headers, payload FROM consumer.parked
    WHERE consumer = $1 AND log = $2 AND key = $3 AND stage = $4 AND position > $5 ORDER BY position LIMIT 1
"""
_FAILED: Final = """
    UPDATE consumer.parked SET attempts = attempts + 1, error_class = $4 WHERE consumer = $1 AND log = $2 AND position = $3
"""
_BLOCKED_FOR: Final = """
    UPDATE consumer.blocked SET reason = $5 WHERE consumer = $1 AND log = $2 AND stage = $3 AND key = $4 AND reason <> $5
"""
_FREE: Final = "DELETE FROM consumer.parked WHERE consumer = $1 AND log = $2 AND position = $3 AND stage = $4"
_TO_REACTIONS: Final = """
    UPDATE consumer.parked SET stage = 'reactions', error_class = 'behind' WHERE consumer = $1 AND log = $2 AND position = $3
"""
_BLOCK_REACTIONS: Final = """
    INSERT INTO consumer.blocked (consumer, log, stage, key, reason) VALUES ($1, $2, 'reactions', $3, 'behind') ON CONFLICT DO NOTHING
"""
_UNBLOCK: Final = """
    DELETE FROM consumer.blocked AS blocked WHERE consumer = $1 AND log = $2 AND key = $3 AND stage = $4 AND NOT EXISTS (
        SELECT FROM consumer.parked WHERE consumer = $1 AND log = $2 AND key = $3 AND stage = $4)
"""
