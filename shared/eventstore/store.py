"""The event store of one service in its own PostgreSQL: reads, and appends through the lane."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from operator import attrgetter
from typing import Any, Final, Literal
from uuid import UUID

import asyncpg

from shared.envelope import Record, Stream
from shared.errors import LogClosedError, StoreUnavailableError
from shared.eventstore.lane import Lane, answer
from shared.eventstore.values import Answer, AppendRequest, AppendResult, FingerprintMismatch, Head, Past, records_of
from shared.ids import new_id
from shared.metrics import Metrics
from shared.postgres import ABSENT, Connection, Gathered, Pool

_SELECT_LOG: Final = "SELECT log_id, service FROM es.log"
_INSERT_LOG: Final = """
    INSERT INTO es.log (log_id, service, clock, system_id)
    SELECT $1, $2, $3, system_identifier FROM pg_control_system()
    ON CONFLICT (one) DO NOTHING
"""
_SELECT_STREAM: Final = """
    SELECT position, category, stream_id, version, event_id, type, schema_version, time, command_id, correlation_id, causation_id,
        actor, partition_key, traceparent, payload
    FROM es.event WHERE category = $1 AND stream_id = $2 AND version > $3 ORDER BY version LIMIT $4
"""
_SELECT_HISTORIES: Final = """
    SELECT asked.place, past.*
    FROM unnest($1::text[], $2::uuid[], $3::bigint[]) WITH ORDINALITY AS asked (category, stream_id, after_version, place)
    CROSS JOIN LATERAL (
        SELECT version, event_id, type, schema_version, payload FROM es.event
        WHERE category = asked.category AND stream_id = asked.stream_id AND version > asked.after_version ORDER BY version
    ) AS past
"""
_SELECT_PAGE: Final = """
    SELECT position, category, stream_id, version, event_id, type, schema_version, time, command_id, correlation_id, causation_id,
        actor, partition_key, traceparent, payload
    FROM es.event WHERE position > $1 ORDER BY position LIMIT $2
"""
_SELECT_STATE: Final = "SELECT CASE WHEN state = 'open' THEN es.moved() ELSE state END FROM es.log"
_SELECT_HEAD: Final = "SELECT coalesce(max(position), 0) FROM es.event"
# The message is evaluated for a known command only, and makes this read wait for a synchronous standby as the first answer did.
_SELECT_ANSWER: Final = """
    SELECT fingerprint, position, event_count, refusal::text, pg_logical_emit_message(true, 'leifeng', '')
    FROM es.command WHERE command_id = $1
"""


HISTORIES_MAX: Final = 32
"""Streams that one statement reads: enough for all who ask at once, and their events are decoded before anybody else has a turn."""


class WrongLogError(Exception):
    """The database holds no log, or that of another service: the process is told the wrong address, or `migrate` has not run."""


async def ensure_log(connection: Connection, service: str, clock: Literal["system", "travel"]) -> UUID:
    """Makes the log once, with an id of its own; the id of the log that is there. Raises WrongLogError for another service's.

    `connection` is the owner's. The clock is chosen when the log is made, and kept.
    """
    await connection.execute(_INSERT_LOG, new_id(), service, clock)
    return await _log_id(connection, service)


async def open_store(pool: Pool, service: str, metrics: Metrics) -> "PostgresStore":
    """The store of `service` with a lane of its own, which keeps one of the pool's connections. Close it before the pool.

    Raises WrongLogError, StoreUnavailableError.
    """
    async with _reading():
        log_id = await _log_id(pool, service)
    return PostgresStore(pool, service, log_id, Lane(pool, metrics))


class PostgresStore:
    """AnsweringStore over PostgreSQL. Made by `open_store`."""

    def __init__(self, pool: Pool, service: str, log_id: UUID, lane: Lane) -> None:
        self._pool = pool
        self._service = service
        self._log_id = log_id
        self._lane = lane
        self._histories = Gathered(self._read_histories, keys_max=HISTORIES_MAX)

    @property
    def service(self) -> str:
        """The service that owns the log."""
        return self._service

    async def close(self) -> None:
        """Ends the lane and gives its connection back."""
        await self._lane.close()

    async def append(self, request: AppendRequest) -> AppendResult:
        """Appends one decision through the lane, durably, before it answers; within 4.5 s, or it raises."""
        result = await self._lane.append(request)
        if isinstance(result, Answer) and not result.repeated and result.count:
            return replace(result, written=records_of(request, self._service, self._log_id, result.first_position))
        return result

    async def read_stream(self, stream: Stream, after_version: int = 0, limit: int | None = None) -> Sequence[Record]:
        """The records of one stream with version > `after_version`, in order: `limit` at most, or all."""
        async with _reading():
            return [self._record(row) for row in await self._pool.fetch(_SELECT_STREAM, stream.category, stream.id, after_version, limit)]

    async def history(self, stream: Stream, after_version: int) -> Sequence[Past]:
        """All of one stream with version > `after_version`, in order, as a fold needs it."""
        async with _reading():
            return await self._histories((stream, after_version))

    async def _read_histories(self, asked: Sequence[tuple[Stream, int]]) -> Sequence[Sequence[Past]]:
        found: list[list[Past]] = [[] for _ in asked]
        rows = await self._pool.fetch(
            _SELECT_HISTORIES,
            [stream.category for stream, _ in asked],
            [stream.id for stream, _ in asked],
            [after_version for _, after_version in asked],
        )
        for place, *of_event in rows:
            found[place - 1].append(Past(*of_event))
        for each in found:
            each.sort(key=_VERSION)  # They come by the index, so in order already; the statement alone does not promise it.
        return found

    async def read_page(self, after_position: int, limit: int) -> Sequence[Record]:
        """The records of the log with position > `after_position`, in order, `limit` at most."""
        async with _reading():
            return [self._record(row) for row in await self._pool.fetch(_SELECT_PAGE, after_position, limit)]

    async def head(self) -> Head:
        """The log's id and last position."""
        async with _reading():
            return Head(self._log_id, await self._pool.fetchval(_SELECT_HEAD))

    async def refuse_closed(self) -> None:
        """Raises LogClosedError while the log takes no appends."""
        async with _reading():
            closed: str | None = await self._pool.fetchval(_SELECT_STATE)
        if closed is not None:
            raise LogClosedError(closed)

    async def answer_of(self, command_id: UUID, fingerprint: bytes | None = None) -> Answer | FingerprintMismatch | None:
        """What the command was answered the first time, None when it is not known. As durable as that answer when this returns."""
        async with _reading():
            row = await self._pool.fetchrow(_SELECT_ANSWER, command_id)
        if row is None:
            return None
        if fingerprint is not None and row["fingerprint"] not in (None, fingerprint):
            return FingerprintMismatch()
        return answer(command_id, row["position"], row["event_count"], row["refusal"], repeated=True)

    def _record(self, row: Any) -> Record:
        return record_from_row(row, self._service, self._log_id)


_VERSION: Final = attrgetter("version")


def record_from_row(row: Any, service: str, log_id: UUID) -> Record:
    """A row of es.event as a Record."""
    return Record(
        service=service,
        log_id=log_id,
        position=row["position"],
        stream=Stream(row["category"], row["stream_id"]),
        version=row["version"],
        event_id=row["event_id"],
        type=row["type"],
        schema_version=row["schema_version"],
        time=row["time"],
        command_id=row["command_id"],
        correlation_id=row["correlation_id"],
        causation_id=row["causation_id"],
        actor=row["actor"],
        partition_key=row["partition_key"],
        traceparent=row["traceparent"],
        payload=row["payload"],
    )


async def _log_id(connection: Connection | Pool, service: str) -> UUID:
    row = await connection.fetchrow(_SELECT_LOG)
    if row is None:
        raise WrongLogError("the database holds no log; has it been migrated?")
    if row["service"] != service:
        raise WrongLogError(f"the database holds the log of {row['service']}, not of {service}")
    log_id: UUID = row["log_id"]
    return log_id


@asynccontextmanager
async def _reading() -> AsyncIterator[None]:
    try:
        yield
    except ABSENT as error:
        if isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "")[:2] == "42":
            raise  # A statement or a grant of ours is wrong: no retry mends it.
        raise StoreUnavailableError("the store did not answer") from error
