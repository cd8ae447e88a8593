"""Deadlines that are due become commands, through the same `submit` as everything else (D10).

A decision never trusts that its deadline has fired: it compares its own `now`. So a late, a double or a needless firing does no harm.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
from pydantic import ValidationError
from pydantic_core import from_json

from shared import ids, logs
from shared.clock import Clock
from shared.consumer.shell import FINAL, StoppedError, insist
from shared.consumer.values import Consumers, system_actor
from shared.errors import CallerError, DeterministicError, StreamConflictError
from shared.eventstore.clock import ClockError
from shared.eventstore.submit import Submit
from shared.lifecycle import pause
from shared.metrics import Metrics
from shared.postgres import Pool

DUE_AT_ONCE_MAX: Final = 100
POLL_SECONDS: Final = (0.2, 2.0)
"""Between two looks for what is due: after one that found something, and at most, when nothing has been due for some time."""

_log = logs.logger()


async def run(pool: Pool, consumers: Consumers[Any], submit: Submit, clock: Clock, stop: asyncio.Event, metrics: Metrics) -> None:
    """Fires what falls due until `stop`; a database that is away is waited for."""

    now: datetime | None = None
    seconds, seconds_max = POLL_SECONDS

    async def step() -> int:
        nonlocal now, seconds
        before, now = now, await now_of(clock)
        if now == before:  # A travelling clock stands between its leaps, and its player waits for what falls due at each.
            seconds = POLL_SECONDS[0]
        return 0 if now is None else await fire_due(pool, consumers, submit, now)

    while not stop.is_set():
        seconds = min(1.5 * seconds, seconds_max)
        try:
            fired = await insist(step, stop, metrics, "deadlines", (*FINAL, StoppedError))
        except StoppedError:
            return
        if fired:
            seconds = POLL_SECONDS[0]
        if fired < DUE_AT_ONCE_MAX:
            await pause(stop, seconds)


async def now_of(clock: Clock) -> datetime | None:
    """The clock's instant; None before a travelling clock is set: nothing is due then."""
    try:
        return await clock()
    except ClockError:
        return None


async def fire_due(pool: Pool, consumers: Consumers[Any], submit: Submit, now: datetime) -> int:
    """Submits the commands of deadlines due at `now`, `DUE_AT_ONCE_MAX` at most, and forgets each once it is answered; how many there were.

    One that a later fact has replaced or cleared meanwhile stays as that fact says. One that fails for good is kept with its error, is
    counted as due and not tried again.
    """
    due = await pool.fetch(_SELECT_DUE, now, DUE_AT_ONCE_MAX)
    by_key = defaultdict[str, list[asyncpg.Record]](list)
    for row in due:
        by_key[row["key"]].append(row)

    async def in_order(rows: Sequence[asyncpg.Record]) -> None:
        for row in rows:
            await _fire(pool, consumers, submit, row, now)

    await asyncio.gather(*(in_order(rows) for rows in by_key.values()))
    return len(due)


async def _fire(pool: Pool, consumers: Consumers[Any], submit: Submit, row: asyncpg.Record, now: datetime) -> None:
    try:
        use_case = consumers.use_cases[row["use_case"]]
        await submit(
            use_case,
            use_case.body.model_validate_json(row["body"]),
            ids={name: UUID(text) for name, text in from_json(row["ids"]).items()},
            actor=system_actor(consumers.service),
            # One event may set deadlines of one name for several keys, so the key is part of the name.
            command_id=ids.deadline_command_id(f"{row['name']}/{row['key']}", row["set_by"]),
            fingerprint=None,
            correlation_id=row["correlation_id"],
            causation_id=row["set_by"],
            traceparent=row["traceparent"],
            not_before=now,  # A clock that has stepped back since would answer "not due", and the deadline would be forgotten.
        )
    except StreamConflictError:
        return  # Others were quicker; the next round asks again.
    except (KeyError, ValidationError, DeterministicError, CallerError) as error:
        _log.error("deadline_fails", deadline=row["name"], command=row["use_case"], exc_info=error)
        await pool.execute(_FAILED, row["name"], row["key"], row["set_by"], type(error).__name__)
        return
    await pool.execute("DELETE FROM consumer.deadline WHERE name = $1 AND key = $2 AND set_by = $3", row["name"], row["key"], row["set_by"])


_SELECT_DUE: Final = """
    SELECT name, key, use_case, ids::text, body::text, set_by, correlation_id, traceparent FROM consumer.deadline
    WHERE failed_as IS NULL AND due_at <= $1 ORDER BY due_at, set_at LIMIT $2
"""
_FAILED: Final = "UPDATE consumer.deadline SET failed_as = $4 WHERE name = $1 AND key = $2 AND set_by = $3"
