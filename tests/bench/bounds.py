"""Hand-written bounds: the least that PostgreSQL can be asked for the same bytes. No order of the log, no answer kept, no rule checked."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

import asyncpg

from shared.codec import Codec
from shared.contracts.event import Event
from shared.postgres import Pool
from tests.bench.place import Place
from tests.bench.work import APPROVER, NOW, TRACE, Ids, proposed

_TABLE: Final = """
    CREATE TABLE event (
        position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        category text NOT NULL, stream_id uuid NOT NULL, version bigint NOT NULL, event_id uuid NOT NULL, type text NOT NULL,
        schema_version integer NOT NULL, recorded_at timestamptz NOT NULL, time timestamptz NOT NULL, command_id uuid NOT NULL,
        correlation_id uuid NOT NULL, causation_id uuid, actor text NOT NULL, partition_key text NOT NULL, traceparent text,
        payload bytea NOT NULL, UNIQUE (category, stream_id, version)
    )
"""
_COLUMNS: Final = """
    category, stream_id, version, event_id, type, schema_version, recorded_at, time, command_id, correlation_id, causation_id, actor,
    partition_key, traceparent, payload
"""
_INSERT: Final = f"INSERT INTO event ({_COLUMNS}) VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15)"
_GUARD: Final = f"""
    INSERT INTO event ({_COLUMNS})
    SELECT $1,$2,$3::bigint,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15
    WHERE $3::bigint - 1 = (SELECT coalesce(max(version), 0) FROM event WHERE category = $1 AND stream_id = $2)
"""
_STREAM: Final = "SELECT version, payload FROM event WHERE category = $1 AND stream_id = $2 ORDER BY version"
BATCH: Final = 100


class Bound:
    """A table with the columns and the two indexes of `es.event`, and bytes that were made before the clock started."""

    def __init__(self, pool: Pool, codec: Codec, length: int) -> None:
        ids = Ids("bound")
        said: list[Event] = [proposed(ids, ids(), number) for number in range(length)]
        self._pool = pool
        self._ids = ids
        self._payloads = [codec.encode(each, ids()) for each in said]
        self._type = said[0].TYPE
        self.written = 0

    def _rows(self, stream: UUID, version: int = 0) -> list[tuple[Any, ...]]:
        command_id = self._ids()
        return [
            ("account", stream, version + 1 + index, self._ids(), self._type, 1, NOW, NOW, command_id, command_id, None, str(APPROVER),
             str(stream), TRACE, payload)
            for index, payload in enumerate(self._payloads)
        ]  # fmt: skip

    async def insert(self) -> int:
        """One transaction for one new stream: its events, inserted one by one in a pipeline."""
        rows = self._rows(self._ids())
        if len(rows) == 1:
            await self._pool.execute(_INSERT, *rows[0])
        else:
            await self._pool.executemany(_INSERT, rows)
        self.written += len(rows)
        return len(rows)

    async def batch(self) -> int:
        """One transaction for the events of `BATCH` new streams."""
        rows = list(itertools.chain.from_iterable(self._rows(self._ids()) for _ in range(BATCH)))
        await self._pool.executemany(_INSERT, rows)
        self.written += len(rows)
        return len(rows)

    async def guarded(self, stream: UUID | None = None, version: int = 0) -> int:
        """One statement that inserts one event if the stream is at `version`; 0 when it is not."""
        (row,) = self._rows(stream or self._ids(), version)
        try:
            done = await self._pool.execute(_GUARD, *row)
        except asyncpg.UniqueViolationError:  # The other one of a race.
            return 0
        if done == "INSERT 0 0":
            return 0
        self.written += 1
        return 1

    async def retried(self, stream: UUID) -> int:
        """Reads the version and inserts after it, until it succeeds."""
        while True:
            version: int = await self._pool.fetchval(
                "SELECT coalesce(max(version), 0) FROM event WHERE stream_id = $1 AND category = 'account'", stream
            )
            if await self.guarded(stream, version):
                return 1

    async def loaded(self, stream: UUID) -> int:
        """Reads a stream, parses its payloads, inserts one event after it."""
        rows = await self._pool.fetch(_STREAM, "account", stream)
        for row in rows:
            json.loads(row["payload"])
        return await self.guarded(stream, rows[-1]["version"])

    async def streams(self, count: int, length: int) -> Sequence[UUID]:
        """Makes streams of `length` events."""
        made = [self._ids() for _ in range(count)]
        rows = [row for stream in made for version in range(length) for row in self._rows(stream, version)]
        await self._pool.executemany(_INSERT, rows, timeout=60)
        self.written += len(rows)
        return made

    async def check(self) -> str:
        """What was counted is there."""
        stored = await self._pool.fetchval("SELECT count(*) FROM event")
        assert stored == self.written, (stored, self.written)
        return f"{stored} events of the bound are there"


@asynccontextmanager
async def bound(place: Place, codec: Codec, *, length: int = 1, connections: int = 16) -> AsyncIterator[Bound]:
    """A bound in a database of its own; `length` events for each new stream."""
    dsn = place.databases()

    async def as_it_is(_connection: Any) -> None:
        return

    async with asyncpg.create_pool(dsn, min_size=connections, max_size=connections, reset=as_it_is) as pool:
        await pool.execute(_TABLE)
        yield Bound(pool, codec, length)
    place.drop(dsn)


async def race(place: Place, codec: Codec) -> str:
    """A bound that is not right is no bound: of sixteen that insert after the same version, one succeeds."""
    async with bound(place, codec) as made:
        (stream,) = await made.streams(1, 1)
        wins = await asyncio.gather(*(made.guarded(stream, 1) for _ in range(16)))
        assert sum(wins) == 1, wins
        return "of 16 that race for one version in the guarded bound, one succeeds"
