"""One consumer on one source log: verified n+1 only, one transaction a batch, one error rule live and in replay (D7, D8).

Nothing here knows of FastStream or Kafka: records come as messages, and what becomes of them is in the database.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from time import monotonic
from typing import Final, Literal, Protocol, cast
from uuid import UUID

import asyncpg
from pydantic_core import to_json

from shared import logs
from shared.codec import Codec
from shared.consumer.values import Fact, Fold
from shared.envelope import CHAIN_HEADER, CHAIN_START, Headers, Record, chain_hash, record_of
from shared.errors import DeterministicError, EnvelopeError, LeifengError, NewerVersionError, UnknownEventTypeError
from shared.metrics import Metrics
from shared.postgres import Connection, Pool
from shared.privacy import PersonalKeys

Stage = Literal["applied", "reactions"]

LIVE: Final = "views"
"""The consumer whose read models are in use; those of another schema have a name of their own (`schema.consumer_of`)."""

DETERMINISTIC: Final = (DeterministicError, asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)
"""The closed list: what fails so will always fail so, and its key is parked. Everything else is tried again (D8)."""

BEHIND: Final = "behind"
"""Why an event is parked that only waits for an earlier one of its key."""

BREAKER_KEYS_MAX: Final = 20
BREAKER_SHARE_MAX: Final = 0.01
BREAKER_SHARE_FROM_KEYS: Final = 5
"""Fewer parked keys than this say nothing about a share: one poison event among ten keys is not ten per cent of anything."""
BREAKER_SECONDS: Final = 600.0
_MET_MAX: Final = round(BREAKER_KEYS_MAX / BREAKER_SHARE_MAX)
POOL_WAIT_SECONDS: Final = 5.0

_log = logs.logger()


class FencedError(LeifengError):
    """Somebody else moved this consumer's position: this one is a zombie and gives its role up."""


class BreakerError(LeifengError):
    """Too many keys would be parked for one reason: that is our fault and not that of the data, so the consumer stops."""

    def __init__(self, consumer: str, source: str, stage: Stage, reason: str, keys: int) -> None:
        super().__init__(f"{consumer} would park {keys} keys of {source} for {reason}")
        self.row = (consumer, source, stage, reason, keys)


class DefinitionError(LeifengError):
    """The read models were built by other definitions than this code's: it may not write them."""


class Message(Protocol):
    """A record as it came from Kafka."""

    @property
    def offset(self) -> int: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...
    @property
    def value(self) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a reader stands in a log: the last position read, the chain hash there, and the Kafka offset after it."""

    log_id: UUID | None = None
    position: int = 0
    hash: bytes = CHAIN_START
    offset: int = 0
    time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A verified record and the place after it."""

    record: Record
    headers: Sequence[tuple[str, bytes]]
    place: Place


@dataclass(slots=True)
class Run:
    """What a batch of messages holds for a reader: the verified next positions, and how many were repeated or did not fit.

    `gap` says that a later position, or a record that does not verify, came and nothing has followed it that fits. None says nothing new.
    """

    entries: list[Entry] = field(default_factory=list)
    repeated: int = 0
    missing: int = 0
    gap: bool | None = None


def follow(source: str, place: Place, messages: Sequence[Message]) -> Run:
    """The records among `messages` that come next after `place`. A record of another log, or that is not what was sealed, is missing.

    So is one at the very position reached that says another hash: the log has forked, and what comes after it is not what was read.
    """
    run = Run()
    for message in messages:
        entry = None
        try:
            record = record_of(message.headers, message.value)
        except EnvelopeError:
            pass
        else:
            ours = record.service == source and (place.log_id is None or place.log_id == record.log_id)
            if ours and record.position <= place.position and not _has_forked(place, record, message):
                run.repeated += 1
                run.gap = False if record.position == place.position else run.gap
                continue
            if ours and record.position == place.position + 1:
                entry = _verified(place, record, message)
        if entry is None:
            run.missing += 1
            run.gap = True
            continue
        run.entries.append(entry)
        run.gap = False
        place = entry.place
    return run


def beyond(place: Place, entries: Sequence[Entry]) -> Run:
    """Those of `entries`, verified and each the next of the one before, that come after `place`.

    Raises FencedError when what comes next is not among them: whoever verified them stood elsewhere.
    """
    rest = [each for each in entries if each.place.position > place.position]
    if rest and rest[0].place.position != place.position + 1:
        raise FencedError(f"what comes after {place.position} is not position {rest[0].place.position}")
    return Run(rest, repeated=len(entries) - len(rest))


def _has_forked(place: Place, record: Record, message: Message) -> bool:
    return record.position == place.position and _chain_said(message.headers) != place.hash.hex().encode()


def _verified(place: Place, record: Record, message: Message) -> Entry | None:
    headers = cast("Headers", message.headers)  # `record_of` has found no null in them.
    digest = chain_hash(place.hash, headers, record.payload)
    if _chain_said(headers) != digest.hex().encode():
        return None
    return Entry(record, headers, Place(record.log_id, record.position, digest, message.offset + 1, record.time))


def _chain_said(headers: Sequence[tuple[str, bytes | None]]) -> bytes | None:
    for name, value in reversed(headers):  # The relay adds it last.
        if name == CHAIN_HEADER:
            return value
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one consumer does with one source log.

    `keys` open the sealed fields of the service's own log. With a `definition` it writes read models: the folds find the live schema, or
    `schema`, if that was built by this definition, and the commit is asynchronous, for position and rows vanish together. A consumer that
    does not block parks what it cannot read alone, and goes on.
    """

    consumer: str
    source: str
    types: frozenset[str]
    folds: Sequence[Fold]
    codec: Codec
    keys: PersonalKeys | None = None
    definition: str | None = None
    schema: str | None = None
    blocks: bool = True


@dataclass(slots=True)
class Read:
    """A record that a consumer subscribes to, decoded as far as that goes without keys."""

    entry: Entry
    fact: Fact | None
    error: DeterministicError | None
    sealed_for: set[UUID]


def decoded(part: Part, entry: Entry) -> Read | None:
    """None for a type that is ignored by declaration. Raises NewerVersionError."""
    record, sealed_for = entry.record, set[UUID]()
    if record.type not in part.types:
        if record.type in part.codec.types:
            return None
        return Read(entry, None, UnknownEventTypeError(record.type), sealed_for)

    def note(subject: UUID, _place: str, _sealed: str) -> None:
        sealed_for.add(subject)

    try:
        return Read(entry, Fact(record, part.codec.decode(record, note)), None, sealed_for)
    except DeterministicError as error:
        return Read(entry, None, error, sealed_for)


async def open_sealed(part: Part, connection: Connection, reads: Sequence[Read]) -> None:
    """Opens the sealed fields of the service's own log with the keys that are there now."""
    sealed = [each for each in reads if each.sealed_for]
    if part.keys is None or not sealed:
        return
    await part.keys.load_with({subject for each in sealed for subject in each.sealed_for}, connection)
    for each in sealed:
        try:
            each.fact = Fact(each.entry.record, part.codec.decode(each.entry.record, part.keys.unseal))
        except DeterministicError as error:
            each.fact, each.error = None, error


async def enter(part: Part, connection: Connection) -> None:
    """Sets what the folds of this part find in their transaction. The position row is locked before, so that no swap comes between.

    Raises DefinitionError.
    """
    if part.definition is None:
        return
    row = await connection.fetchrow(_ENTER_VIEWS, part.schema)
    if row is None:
        raise LeifengError(
            "there is no schema of read models yet: migrate first" if part.schema is None else f"{part.schema} is no rebuild"
        )
    if row["definition_hash"] != part.definition:
        raise DefinitionError(f"{row['schema']} was built by other definitions")


@dataclass(frozen=True, slots=True)
class Park:
    """An event that is put aside: why, and the record as it came."""

    record: Record
    headers: Sequence[tuple[str, bytes]]
    why: str


async def park(connection: Connection, consumer: str, stage: Stage, parks: Sequence[Park], *, blocks: bool) -> None:
    """Puts events aside and blocks the keys of those that did not only wait behind another."""
    for each in parks:
        headers = to_json({name: value.decode() for name, value in each.headers})
        record = each.record
        await connection.execute(
            _PARK, consumer, record.service, record.position, record.partition_key, record.type, headers, record.payload, each.why, stage
        )
        if blocks and each.why != BEHIND:
            await connection.execute(_BLOCK, consumer, record.service, stage, record.partition_key, each.why)
        _log.warning("event_parked", consumer=consumer, source=record.service, type=record.type, reason=each.why, position=record.position)


class Breaker:
    """Counts keys, and says when too many of them are being parked: here by an error, and to everybody in `consumer.stopped`."""

    def __init__(self) -> None:
        self._met: dict[str, float] = {}
        self.is_tripped = False
        """Whether the consumer stands still by what `consumer.stopped` says, and nobody has said yet that it goes on."""

    def meet(self, entries: Sequence[Entry]) -> None:
        """Keys that have come by lately; beyond some thousands the absolute limit is the stricter one anyway."""
        now = monotonic()
        for each in entries:
            if len(self._met) < _MET_MAX or each.record.partition_key in self._met:
                self._met[each.record.partition_key] = now

    async def check(self, connection: Connection, consumer: str, source: str, stage: Stage) -> None:
        """Raises BreakerError when the keys blocked within ten minutes for one reason are too many, unless an operator lets them be."""
        since = monotonic() - BREAKER_SECONDS
        self._met = {key: at for key, at in self._met.items() if at >= since}
        for row in await connection.fetch(_RECENTLY_BLOCKED, consumer, source, stage, BREAKER_SECONDS):
            share = row["keys"] / max(len(self._met), 1)
            if row["keys"] > BREAKER_KEYS_MAX or (row["keys"] >= BREAKER_SHARE_FROM_KEYS and share > BREAKER_SHARE_MAX):
                raise BreakerError(consumer, source, stage, row["reason"], row["keys"])

    async def stand_still(self, pool: Pool, error: BreakerError) -> None:
        """After the transaction that `check` ended: says to everybody that the consumer stands still."""
        await pool.execute(_STAND_STILL, *error.row)

    async def go_on(self, connection: Connection, consumer: str, source: str, stage: Stage) -> None:
        """In the transaction that gets past: it does not stand still any more."""
        if self.is_tripped:
            await connection.execute(_GO_ON, consumer, source, stage)


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the garbage collector, for work that never waits: the thousands of objects of a batch hold no cycles, and were looked through
    again and again while more of them were made."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def tally(metrics: Metrics, consumer: str, result: str, number: int) -> None:
    """Counts what became of so many events."""
    if number:
        metrics.consumer_events_total.labels(consumer, result).inc(number)


class Consumer:
    """Applies one source log for one consumer. Drive it from one task."""

    def __init__(self, part: Part, pool: Pool, metrics: Metrics) -> None:
        self.part = part
        self.place = Place()
        self._pool = pool
        self._metrics = metrics
        self._breaker = Breaker()
        self._unsure: Place | None = None
        self._schema: str | None = None

    @property
    def name(self) -> str:
        return self.part.consumer

    @property
    def position(self) -> int:
        return self.place.position

    @property
    def offset(self) -> int:
        return self.place.offset

    async def begin(self) -> int:
        """Loads where this consumer stands, making its row when there is none; the Kafka offset to begin at."""
        async with self._pool.acquire(timeout=POOL_WAIT_SECONDS) as connection:
            await connection.execute(_INSERT_POSITION, self.part.consumer, self.part.source)
            row = await connection.fetchrow(_SELECT_POSITION, self.part.consumer, self.part.source)
        assert row is not None
        self._schema, self._breaker.is_tripped = row["live_schema"], row["is_stopped"]
        self.place = Place(row["log_id"], row["applied"], row["applied_hash"], row["kafka_offset"], row["ce_time"])
        return self.place.offset

    async def take(self, messages: Sequence[Message]) -> bool | None:
        """Applies what comes next; whether a gap is open at the end (None: as before). Of anything after a gap nothing is applied.

        Raises FencedError, BreakerError and NewerVersionError, which end the consumer, and whatever the database raises: then nothing was
        applied, or all of it and only the word of it was lost; call again with the same messages.
        """
        return await self._take(lambda: follow(self.part.source, self.place, messages))

    async def take_verified(self, entries: Sequence[Entry]) -> None:
        """As `take`, of records whose chain was made from this consumer's place on; those up to that place are passed over."""
        await self._take(lambda: beyond(self.place, entries))

    async def _take(self, read: Callable[[], Run]) -> bool | None:
        with uncollected():
            run = read()
            reads, newer = self._decode(run)
        parked = discarded = 0
        if run.entries:
            place = run.entries[-1].place
            try:
                async with self._pool.acquire(timeout=POOL_WAIT_SECONDS) as connection, connection.transaction():
                    parked, discarded = await self._apply(connection, run, reads, place)
            except BreakerError as error:
                await self._breaker.stand_still(self._pool, error)
                raise
            except FencedError:
                was, schema = self.place, self._schema
                await self.begin()
                if self.part.consumer == LIVE and self._schema != schema:
                    return await self._take(read)  # The read models were swapped: these stand at a place of their own.
                if self.place != self._unsure:
                    self.place = was
                    self._count("fenced", len(run.entries))
                    raise
            except Exception:
                self._unsure = place  # The commit may have gone through all the same.
                raise
            self.place, self._unsure, self._breaker.is_tripped = place, None, False
        self._count("applied", len(reads) - parked - discarded)
        self._count("parked", parked)
        self._count("discarded", discarded)
        self._count("ignored", len(run.entries) - len(reads))
        self._count("repeated", run.repeated)
        self._count("gap", run.missing)
        if newer is not None:
            raise newer
        return run.gap

    def _decode(self, run: Run) -> tuple[list[Read], NewerVersionError | None]:
        """The subscribed records; the run ends before the first one that this code is too old for."""
        reads: list[Read] = []
        for index, entry in enumerate(run.entries):
            try:
                read = decoded(self.part, entry)
            except NewerVersionError as error:
                del run.entries[index:]
                return reads, error
            if read is not None:
                reads.append(read)
        return reads, None

    async def _apply(self, connection: Connection, run: Run, reads: Sequence[Read], place: Place) -> tuple[int, int]:
        part, was = self.part, self.place
        moved = await connection.fetchval(
            _MOVE, part.consumer, part.source, place.log_id, place.position, place.hash, place.offset, place.time, was.position, was.hash
        )
        if moved is None:
            raise FencedError(f"{part.consumer} of {part.source} is not at {was.position} any more")
        await enter(part, connection)
        self._breaker.meet(run.entries)
        entries = [each.entry for each in reads]
        blocked = await blocked_keys(connection, part, entries) if part.blocks else set[str]()
        gone = await given_up(connection, part, entries, "applied")
        kept = [each for each in reads if each.entry.record.event_id not in gone]
        await open_sealed(part, connection, kept)
        batch = _Batch(part, connection, blocked)
        await batch.apply(kept)
        parks = batch.parks
        await park(connection, part.consumer, "applied", parks, blocks=part.blocks)
        if parks and part.blocks:
            await self._breaker.check(connection, part.consumer, part.source, "applied")
        await self._breaker.go_on(connection, part.consumer, part.source, "applied")
        return len(parks), len(reads) - len(kept)

    def _count(self, result: str, number: int) -> None:
        tally(self._metrics, self.part.consumer, result, number)


class _Batch:
    """The folds of one transaction: what cannot be applied is found by halving, and its key is blocked for what comes after."""

    def __init__(self, part: Part, connection: Connection, blocked: set[str]) -> None:
        self._part = part
        self._connection = connection
        self._blocked_before = blocked
        self._blocked_after = dict.fromkeys(blocked, 0)
        self._parks: dict[int, Park] = {}

    @property
    def parks(self) -> list[Park]:
        """What is put aside, in order. Only the first of a key says why: so it would be, had each event come alone."""
        told = set(self._blocked_before)
        found: list[Park] = []
        for _, each in sorted(self._parks.items()):
            key = each.record.partition_key
            found.append(replace(each, why=BEHIND) if self._part.blocks and key in told else each)
            told.add(key)
        return found

    async def apply(self, reads: Sequence[Read]) -> None:
        free: list[Read] = []
        for each in reads:
            record = each.entry.record
            if record.position > self._blocked_after.get(record.partition_key, record.position):
                self._park(each, BEHIND)
            elif each.error is not None:
                self._park(each, type(each.error).__name__)
            else:
                free.append(each)
        if not free:
            return
        try:
            async with self._connection.transaction():
                await fold(self._part, self._connection, [each.fact for each in free if each.fact is not None])
        except DETERMINISTIC as error:
            if len(free) == 1:
                self._park(free[0], type(error).__name__)
                return
            middle = len(free) // 2
            await self.apply(free[:middle])
            await self.apply(free[middle:])

    def _park(self, read: Read, why: str) -> None:
        record = read.entry.record
        self._parks[record.position] = Park(record, read.entry.headers, why)
        if self._part.blocks:
            known = self._blocked_after.get(record.partition_key, record.position)
            self._blocked_after[record.partition_key] = min(known, record.position)


async def fold(part: Part, connection: Connection, facts: Sequence[Fact]) -> None:
    """All folds of a part, in the order in which the service lists them."""
    for each in part.folds:
        await each(connection, facts)


async def blocked_keys(connection: Connection, part: Part, entries: Sequence[Entry], stage: Stage = "applied") -> set[str]:
    """Those keys of `entries` that are blocked."""
    keys = list({each.record.partition_key for each in entries})
    return {row["key"] for row in await connection.fetch(_SELECT_BLOCKED, part.consumer, part.source, stage, keys)}


async def given_up(connection: "Connection | Pool", part: Part, entries: Sequence[Entry], *stages: Stage) -> set[UUID]:
    """The events among `entries` that two persons gave up, at any of the stages: they are passed over, live and in replay.

    What was given up for `views` is given up in every schema of read models, also in one that is being built.
    """
    ids = [each.record.event_id for each in entries]
    if not ids:
        return set()
    rows = await connection.fetch(_SELECT_DISCARDED, part.consumer.partition("@")[0], part.source, stages, ids)
    return {row["event_id"] for row in rows}


_ENTER_VIEWS: Final = """
    SELECT schema, definition_hash, set_config('search_path', quote_ident(schema), true), set_config('synchronous_commit', 'off', true)
    FROM consumer.views WHERE CASE WHEN $1::text IS NULL THEN live ELSE schema = $1 AND NOT live END
"""
_INSERT_POSITION: Final = "INSERT INTO consumer.position (consumer, log) VALUES ($1, $2) ON CONFLICT DO NOTHING"
_SELECT_POSITION: Final = """
    SELECT log_id, applied, applied_hash, kafka_offset, ce_time, (SELECT schema FROM consumer.views WHERE live) AS live_schema,
        EXISTS (SELECT FROM consumer.stopped WHERE consumer = $1 AND log = $2 AND stage = 'applied') AS is_stopped
    FROM consumer.position WHERE consumer = $1 AND log = $2
"""
_MOVE: Final = """
    UPDATE consumer.position SET log_id = $3, applied = $4, applied_hash = $5, kafka_offset = $6, ce_time = $7
    WHERE consumer = $1 AND log = $2 AND applied = $8 AND applied_hash = $9 AND coalesce(log_id, $3) = $3
    RETURNING applied
"""
_SELECT_BLOCKED: Final = """
    SELECT key FROM consumer.blocked WHERE consumer = $1 AND log = $2 AND stage = $3 AND key = ANY($4::text[])
"""
_SELECT_DISCARDED: Final = """
    SELECT event_id FROM consumer.discarded WHERE consumer = $1 AND log = $2 AND stage = ANY($3::text[]) AND event_id = ANY($4::uuid[])
"""
_PARK: Final = """
    INSERT INTO consumer.parked (consumer, log, position, key, type, headers, payload, error_class, stage)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""
_BLOCK: Final = "INSERT INTO consumer.blocked (consumer, log, stage, key, reason) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING"
_RECENTLY_BLOCKED: Final = """
    SELECT reason, count(*) AS keys FROM consumer.blocked
    WHERE consumer = $1 AND log = $2 AND stage = $3 AND reason <> 'behind'
        AND since > clock_timestamp() - make_interval(secs => $4)
        AND NOT EXISTS (
            SELECT FROM consumer.breaker_override AS allowed
            WHERE (allowed.consumer, allowed.log, allowed.stage, allowed.error_class) = ($1, $2, $3, blocked.reason)
                AND blocked.since <= allowed.until
        )
        AND NOT ($1 LIKE 'views@%' AND EXISTS (  -- What the live read models have parked too is no news of a rebuild.
            SELECT FROM consumer.blocked AS known
            WHERE known.consumer = 'views' AND (known.log, known.stage, known.key) = (blocked.log, blocked.stage, blocked.key)
        ))
    GROUP BY reason
"""
_STAND_STILL: Final = """
    INSERT INTO consumer.stopped (consumer, log, stage, reason, keys) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (consumer, log, stage) DO UPDATE SET reason = excluded.reason, keys = excluded.keys
"""
_GO_ON: Final = "DELETE FROM consumer.stopped WHERE consumer = $1 AND log = $2 AND stage = $3"
