"""Read models built anew beside live traffic, in a schema of their own, and swapped in one transaction (D9).

The same folds, the same error rule, the same transaction of position and rows as in the live path; only the schema and the name of the
consumer differ. So a rebuild that was killed goes on where it stood, and one that has caught up follows the logs like the live one does.
Reactions belong to the inbox: none is fired here.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, Final, TypeVar

import asyncpg
import typer

from shared import VERSION, parked
from shared.access import grants
from shared.codec import Codec
from shared.consumer import Kafka, Setting, inbox, views, withdrawals
from shared.consumer.apply import LIVE, Consumer, Entry, Part, Place, uncollected
from shared.consumer.heads import follow_heads
from shared.consumer.schema import FIRST_SCHEMA, consumer_of, definition_hash, make_api, make_schema, rules_of
from shared.consumer.shell import FINAL, StoppedError, insist, together
from shared.consumer.values import Consumers
from shared.contracts.topics import EVENTS, UPCASTERS, subscribed
from shared.digest import digest_of
from shared.errors import InvariantError, LeifengError
from shared.eventstore.store import open_store
from shared.eventstore.values import EventStore
from shared.lifecycle import keep_what_is_made, pause, stop_on_signals
from shared.metrics import Metrics
from shared.migrate import Roles, roles_of
from shared.postgres import Connection, connect, open_pool, quote
from shared.privacy import PersonalKeys
from shared.privacy.keyfile import KeyFile
from shared.relay.shell import PAGE_EVENTS_MAX
from shared.relay.steps import Link, Outgoing, as_sealed, chained
from shared.settings import Settings
from shared.worker import LOCK_SPACE, ROLES

EVENTS_PER_SECOND: Final = 2000
"""What a rebuild reads at most unless it is told otherwise, so that live commands keep their pace."""
NICENESS: Final = 10
"""A rebuild gives way to the processes beside it on the same machine."""
SLICE_SECONDS: Final = 0.05
SLICE_EVENTS_MIN: Final = 100
SLICE_EVENTS_MAX: Final = 1000
"""Events of one transaction are what a slice of time holds at the rate: small ones leave the database to others between them, and large
ones cost less where nobody waits."""
LOOK_SECONDS: Final = 0.25
SAY_SECONDS: Final = 2.0
PAGE_EVENTS: Final = PAGE_EVENTS_MAX
"""As many as the relay seals at once, so that a page ends at a seal."""
STEP_EVENTS: Final = 50
"""Of a page that is made ready while another is applied: between two steps the event loop answers the database."""
SWAP_LOCK_SECONDS: Final = 1.0
"""How long a swap waits for readers, who wait behind it: then it gives way, and tries again."""
SWAP_CATCH_UP_SECONDS: Final = 1.0
SWAP_SECONDS_MAX: Final = 60
HEAR_SECONDS_MAX: Final = 60.0
HEARD_SECONDS: Final = 15.0
"""A word that is no older speaks of now; a relay says one every two seconds."""
OWNER_STATEMENT_SECONDS_MAX: Final = 60.0
CONNECTIONS_MAX: Final = 6
LOCK_KEY: Final = 5_104_202_009
"""Advisory lock of whoever rebuilds the read models of a database."""

T = TypeVar("T")


class Origin(StrEnum):
    """Where a rebuild reads the service's own log."""

    KAFKA = "kafka"
    STORE = "store"


class RebuildError(LeifengError):
    """The rebuild cannot begin, or must not be swapped in; the text says why, one line for each reason."""


class _NotNowError(Exception):
    """The swap gives way to readers, or to a batch that is under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilding:
    """What a rebuild works with. `owner` is a connection of the owner, `setting` acts as the app role; `say` is told of progress.

    `imbalance` must be 0 over the new read models, where a service keeps a ledger. With `accept_loss` other services' logs are taken as
    they are now, although this one has read something else of them: see `rebuild`.
    """

    owner: Connection
    roles: Roles
    setting: Setting
    store: EventStore
    api_sql: Path
    imbalance: Callable[[Connection], Awaitable[int]] | None
    say: Callable[[str], None]
    accept_loss: bool = False


@dataclass(frozen=True, slots=True)
class ReadModels:
    """What a service hands over of its read models."""

    consumers: Consumers[Any]
    api_sql: Path
    imbalance: Callable[[Connection], Awaitable[int]] | None


def slice_events(per_second: float) -> int:
    """How many events one transaction takes at a rate."""
    return round(min(max(per_second * SLICE_SECONDS, SLICE_EVENTS_MIN), SLICE_EVENTS_MAX))


class Bucket:
    """A token bucket: `take` waits until so many events may be read."""

    def __init__(self, per_second: float) -> None:
        self.slice_events: Final = slice_events(per_second)
        self._per_second = per_second
        self._free_at = monotonic()

    async def take(self, events: int) -> None:
        now = monotonic()
        begin = max(self._free_at, now)
        self._free_at = begin + events / self._per_second
        await asyncio.sleep(begin - now)


class Shadow:
    """A reader of the shell: a consumer in slices, throttled, that stands still while `turn` is held and for good once `over` is set."""

    def __init__(self, consumer: Consumer, bucket: Bucket, turn: asyncio.Lock, over: asyncio.Event) -> None:
        self._consumer = consumer
        self._bucket = bucket
        self._turn = turn
        self._over = over

    @property
    def part(self) -> Part:
        return self._consumer.part

    @property
    def name(self) -> str:
        return self._consumer.name

    @property
    def position(self) -> int:
        return self._consumer.position

    @property
    def offset(self) -> int:
        return self._consumer.offset

    async def begin(self) -> int:
        """As a Consumer."""
        return await self._consumer.begin()

    @property
    def place(self) -> Place:
        """As a Consumer."""
        return self._consumer.place

    async def take(self, messages: Sequence[Any]) -> bool | None:
        """As a Consumer. Raises StoppedError once it is over."""
        gap = None
        for some in self._slices(messages):
            async with self._its_turn(len(some)):
                found = await self._consumer.take(some)
            gap = gap if found is None else found
        return gap

    async def take_verified(self, entries: Sequence[Entry]) -> None:
        """As a Consumer. Raises StoppedError once it is over."""
        for some in self._slices([each for each in entries if each.place.position > self.position]):
            async with self._its_turn(len(some)):
                await self._consumer.take_verified(some)

    def _slices(self, given: Sequence[T]) -> Iterator[Sequence[T]]:
        size = self._bucket.slice_events
        return (given[start : start + size] for start in range(0, len(given), size))

    @asynccontextmanager
    async def _its_turn(self, events: int) -> AsyncIterator[None]:
        await self._bucket.take(events)
        async with self._turn:
            if self._over.is_set():
                raise StoppedError
            yield


async def rebuild(work: Rebuilding, stop: asyncio.Event, *, origin: Origin = Origin.KAFKA, per_second: float = EVENTS_PER_SECOND) -> bool:
    """Builds the next schema, or goes on with the one that was begun, and swaps it in; False when it was told to stop before.

    `origin` is where the own log is read: Kafka, or this service's store; other logs come from Kafka. Raises RebuildError, and what ends a
    consumer.

    With `accept_loss`, for when another service's log has lost a tail that was read here: what is live may stand further, or in another
    history; and look-ups and withdrawals of other services' logs are read anew as well, in the place of the workers.
    """
    async with _alone(work):
        if not work.accept_loss:
            return await _build(work, stop, origin, per_second)
        async with _instead_of_workers(work):
            await _hear_anew(work, stop)
            return await _build(work, stop, origin, per_second) and await _read_anew(work, stop)


async def roll_back(work: Rebuilding, stop: asyncio.Event, *, per_second: float = EVENTS_PER_SECOND) -> bool:
    """Lets the schema that was live before follow up, and swaps it in again; False when it was told to stop before.

    Raises RebuildError when there is none, or when other definitions built it: it takes the release that did.
    """
    async with _alone(work):
        beside = await work.owner.fetchrow(_SELECT_BESIDE)
        if beside is None or beside["building"]:
            raise RebuildError("no read models are kept for rolling back")
        if beside["definition_hash"] != definition_hash(work.setting.consumers.projections):
            raise RebuildError(f"{beside['schema']} was built by other definitions: roll back with the release that built it")
        work.say(f"rolling back to {beside['schema']}")
        return await _catch_up_and_swap(work, beside["schema"], stop, Origin.KAFKA, per_second)


async def drop_old(work: Rebuilding) -> None:
    """Drops the schema that is not live: kept for rolling back, or begun and given up. Raises RebuildError when there is none."""
    async with _alone(work), work.owner.transaction():
        beside = await work.owner.fetchrow(_SELECT_BESIDE)
        if beside is None:
            raise RebuildError("there are no read models but the live ones")
        await _drop(work.owner, beside["schema"])
        work.say(f"dropped {beside['schema']}")


class _alone:  # noqa: N801  # A context, read as a word.
    """One rebuild at a time in a database."""

    def __init__(self, work: Rebuilding) -> None:
        self._owner = work.owner

    async def __aenter__(self) -> None:
        if not await self._owner.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_KEY):
            raise RebuildError("another rebuild is under way")

    async def __aexit__(self, *_: object) -> None:
        if not self._owner.is_closed():
            await self._owner.execute("SELECT pg_advisory_unlock($1)", LOCK_KEY)


async def _build(work: Rebuilding, stop: asyncio.Event, origin: Origin, per_second: float) -> bool:
    schema = await _begin(work)
    work.say(f"building {schema} from {origin}, {per_second:.0f} events a second at most")
    return await _catch_up_and_swap(work, schema, stop, origin, per_second)


@asynccontextmanager
async def _instead_of_workers(work: Rebuilding) -> AsyncIterator[None]:
    """Holds the roles that read logs, so that no worker does. Raises RebuildError while one has them."""
    roles = [ROLES.index(each) for each in ("views", "inbox", "withdrawals")]
    try:
        for each in roles:
            if not await work.owner.fetchval("SELECT pg_try_advisory_lock($1, $2)", LOCK_SPACE, each):
                raise RebuildError(f"a worker is at work ({ROLES[each]}): stop the service's processes first")
        yield
    finally:
        if not work.owner.is_closed():
            await work.owner.execute("SELECT pg_advisory_unlock($1, role) FROM unnest($2::integer[]) AS role", LOCK_SPACE, roles)


async def _hear_anew(work: Rebuilding, stop: asyncio.Event) -> None:
    """Waits for what other logs say of themselves now: what they said before the loss will not come back. Raises RebuildError."""
    sources = [each for each in subscribed(f"{work.setting.service}.views") if each != work.setting.service]
    await work.owner.execute("DELETE FROM consumer.head WHERE log = ANY ($1::text[])", sources)
    enough = asyncio.Event()
    following = asyncio.create_task(follow_heads(work.setting, enough))
    try:
        async with asyncio.timeout(HEAR_SECONDS_MAX):
            while await work.owner.fetchval(_COUNT_HEARD, sources, HEARD_SECONDS) < len(sources) and not await pause(stop, LOOK_SECONDS):
                pass
    except TimeoutError:
        raise RebuildError(f"nothing is heard of {', '.join(sources)}: are their relays at work?") from None
    finally:
        enough.set()
        await following


async def _read_anew(work: Rebuilding, stop: asyncio.Event) -> bool:
    """Look-ups and withdrawals of other services' logs, from start to end. Reactions are the workers' again: a repeat changes nothing."""
    owner, setting = work.owner, work.setting
    parts = [each for each in (*inbox.parts(setting), *withdrawals.parts(setting)) if each.source != setting.service]
    tables = [f"lookup.{quote(table)}" for each in setting.consumers.look_ups if each.source != setting.service for table in each.tables]
    async with owner.transaction():
        for part in parts:
            await owner.execute(_READ_FROM_START, part.consumer, part.source)
            for table in ("parked", "blocked", "stopped"):
                await owner.execute(f"DELETE FROM consumer.{table} WHERE consumer = $1 AND log = $2", part.consumer, part.source)  # noqa: S608
        if any(part.consumer == "withdrawals" for part in parts):
            await owner.execute("DELETE FROM consumer.withdrawn")
            await owner.execute("DELETE FROM consumer.erasure")
        for each in tables:
            await owner.execute(f"DELETE FROM {each}")  # noqa: S608
    over = asyncio.Event()
    readings = [setting.subscription(Consumer(each, setting.pool, setting.metrics), each.source, over) for each in parts]

    async def until_caught_up() -> None:
        try:
            for each in readings:
                await each.caught_up()
        finally:
            over.set()

    async def stop_too() -> None:
        while not over.is_set() and not await pause(stop, LOOK_SECONDS):
            pass
        over.set()

    try:
        await together(until_caught_up(), stop_too(), *(each.run() for each in readings))
    except StoppedError:
        work.say("stopped; the workers read look-ups and withdrawals on from here")
        return False
    work.say(f"look-ups and withdrawals of {', '.join(sorted({each.source for each in parts})) or 'no log'} were read anew")
    return True


async def _begin(work: Rebuilding) -> str:
    """The schema to build: the one that was begun, if by these definitions, or a new one."""
    owner, projections = work.owner, work.setting.consumers.projections
    definition = definition_hash(projections)
    async with owner.transaction():
        live = await owner.fetchval("SELECT schema FROM consumer.views WHERE live FOR UPDATE")
        if live is None:
            raise RebuildError("there are no read models yet: migrate first")
        beside = await owner.fetchrow(_SELECT_BESIDE)
        if beside is not None and not beside["building"]:
            raise RebuildError(f"{beside['schema']} is kept for rolling back: drop it first (rebuild --drop-old)")
        if beside is not None and beside["definition_hash"] == definition:
            work.say(f"going on with {beside['schema']}")
            return str(beside["schema"])
        if beside is not None:
            work.say(f"dropping {beside['schema']}, which was begun by other definitions")
            await _drop(owner, beside["schema"])
        schema = FIRST_SCHEMA[:-1] + str(int(live.rpartition("_")[2]) + 1)
        await make_schema(owner, work.roles, projections, schema)
        await owner.execute(_INSERT_BESIDE, schema, definition, True)
        return schema


async def _drop(owner: Connection, schema: str) -> None:
    """The tables one by one, so that nothing that is in use goes with them."""
    tables = [f"{quote(schema)}.{quote(row['tablename'])}" for row in await owner.fetch(_SELECT_TABLES, schema)]
    if tables:
        await owner.execute(f"DROP TABLE {', '.join(tables)}")
    await owner.execute(f"DROP SCHEMA {quote(schema)}")
    await _forget(owner, consumer_of(schema))
    await owner.execute("DELETE FROM consumer.views WHERE schema = $1", schema)


async def _forget(owner: Connection, consumer: str) -> None:
    for table in ("position", "parked", "blocked", "stopped"):
        await owner.execute(f"DELETE FROM consumer.{table} WHERE consumer = $1", consumer)  # noqa: S608


async def _catch_up_and_swap(work: Rebuilding, schema: str, stop: asyncio.Event, origin: Origin, per_second: float) -> bool:
    bucket, turn, over = Bucket(per_second), asyncio.Lock(), asyncio.Event()
    parts = views.parts(work.setting, schema)
    shadows = [Shadow(Consumer(each, work.setting.pool, work.setting.metrics), bucket, turn, over) for each in parts]
    swapped = False

    async def lead() -> None:
        nonlocal swapped
        try:
            swapped = await _lead(work, schema, shadows, turn, over, stop)
        finally:
            over.set()

    async def follow(shadow: Shadow) -> None:
        if origin is Origin.STORE and shadow.part.source == work.setting.service:
            await _follow_store(work, shadow, over)
        else:
            await work.setting.subscription(shadow, shadow.part.source, over).run()

    await together(lead(), *(follow(each) for each in shadows))
    return swapped


async def _lead(
    work: Rebuilding, schema: str, shadows: Sequence[Shadow], turn: asyncio.Lock, over: asyncio.Event, stop: asyncio.Event
) -> bool:
    """Says how far the shadows are; once they stand where the live read models do, swaps. False when told to stop."""
    goals: Mapping[str, int] | None = None
    told_at, told, gave_way_since = monotonic(), -1, None
    while not await pause(stop, LOOK_SECONDS):
        before, goals = goals, await _goals(work, shadows)
        done = sum(each.position for each in shadows)
        if monotonic() - told_at >= SAY_SECONDS:
            rate = (done - told) / (monotonic() - told_at) if told >= 0 else 0.0
            work.say(_progress(done, sum(goals.values()), rate))
            told_at, told = monotonic(), done
        if before is None or any(each.position < before[each.part.source] for each in shadows):
            continue
        await _try_parked_again(work, [each.part for each in shadows])
        try:
            seconds = await _swap(work, schema, shadows, turn, over)
        except _NotNowError as error:
            gave_way_since = gave_way_since or monotonic()
            if monotonic() - gave_way_since > SWAP_SECONDS_MAX:
                raise RebuildError(f"readers did not let the swap in for {SWAP_SECONDS_MAX} s; look in pg_stat_activity") from error
            continue
        work.say(f"{_progress(done, done, 0)}; {schema} is live, swapped in {seconds * 1000:.0f} ms")
        return True
    work.say("stopped; the same command goes on from here")
    return False


def _progress(done: int, goal: int, rate: float) -> str:
    share = 100 * done // goal if goal else 100
    left = f", {(goal - done) / rate:,.0f} s left" if rate > 0 and goal > done else ""
    return f"{done:,} of {goal:,} events ({min(share, 100)} %), {rate:,.0f}/s{left}"


async def _goals(work: Rebuilding, shadows: Sequence[Shadow]) -> Mapping[str, int]:
    """By source log, how far the read models are to be at least: what was published, as far as is known here, and what the live show."""
    rows = await work.setting.pool.fetch(_SELECT_GOALS, [each.part.source for each in shadows], work.accept_loss)
    return {row["source"]: row["goal"] for row in rows}


async def _follow_store(work: Rebuilding, shadow: Shadow, over: asyncio.Event) -> None:
    """Reads the own log from the store, as far as it is sealed: what is not may yet be lost with its server.

    One page is read and verified while the one before it is applied. Raises RebuildError where the store is not what was sealed.
    """
    ahead: asyncio.Task[_Page] | None = None

    async def insisting(step: Callable[[], Awaitable[T]]) -> T:
        return await insist(step, over, work.setting.metrics, "rebuild", (*FINAL, RebuildError, StoppedError))

    try:
        await insisting(shadow.begin)
        place = shadow.place
        while not over.is_set():
            page = await (ahead or insisting(partial(_page_after, work, place)))
            place = page.place
            ahead = None if page.is_last else asyncio.create_task(insisting(partial(_page_after, work, place)))
            await insisting(partial(shadow.take_verified, page.entries))
            if page.is_last:
                await pause(over, LOOK_SECONDS)
    except StoppedError:
        return
    finally:
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Page:
    """Records of the own store, verified, and the place after them; whether nothing more was sealed when they were read."""

    entries: Sequence[Entry]
    place: Place
    is_last: bool


async def _page_after(work: Rebuilding, place: Place) -> _Page:
    """The sealed records that come next, up to a seal where there is one near, held against every seal among them. Raises RebuildError."""
    pool, after = work.setting.pool, place.position
    sealed = await pool.fetchval("SELECT coalesce(max(position), 0) FROM es.seal")
    seals = [Link(*row) for row in await pool.fetch(_SEALS_AMONG, after + 1, after + PAGE_EVENTS)]
    end = seals[-1].position if seals else min(sealed, after + PAGE_EVENTS)
    if end <= after:
        return _Page((), place, is_last=True)
    records = await work.store.read_page(after, end - after)
    made: list[Outgoing] = []
    try:
        for start in range(0, len(records), STEP_EVENTS):
            with uncollected():
                made += chained(made[-1].link if made else Link(after, place.hash), records[start : start + STEP_EVENTS])
            await asyncio.sleep(0)
        if len(made) == end - after:
            as_sealed(made, seals)
    except InvariantError as error:
        raise RebuildError(f"the store is not what was sealed ({error}): run `verify`") from error
    if len(made) < end - after:
        raise RebuildError(f"the store is not what was sealed (of {end - after} events after {after} it has {len(made)}): run `verify`")
    entries = [
        Entry(record, each.headers, Place(record.log_id, record.position, each.link.hash, 0, record.time))
        for record, each in zip(records, made, strict=True)
    ]
    return _Page(entries, entries[-1].place, is_last=end >= sealed)


async def _try_parked_again(work: Rebuilding, parts: Sequence[Part]) -> None:
    """A key that was parked here too, and has been released in the live read models since, is released here; what was given up, too."""
    for row in await work.owner.fetch(_SELECT_TO_RELEASE, parts[0].consumer):
        await parked.retry_parts(work.setting.pool, [each for each in parts if each.source == row["log"]], (), row["key"])


async def _swap(work: Rebuilding, schema: str, shadows: Sequence[Shadow], turn: asyncio.Lock, over: asyncio.Event) -> float:
    """The gate and the swap, in one transaction that holds the positions of both; how long readers could have waited, in seconds.

    Raises RebuildError when the gate stays shut, _NotNowError when it is not the moment.
    """
    owner, consumer = work.owner, consumer_of(schema)
    sources = [each.part.source for each in shadows]
    try:
        async with owner.transaction():
            await owner.execute(f"SET LOCAL lock_timeout = '{SWAP_LOCK_SECONDS}s'")
            for source in sources:
                await owner.execute(_INSERT_LIVE_POSITION, source)
            live = await owner.fetch(_LOCK_POSITIONS, LIVE)
            if not work.accept_loss:
                await _until(lambda: all(each.position >= _applied(live, each.part.source) for each in shadows))
            async with turn:  # No batch of ours is under way from here on.
                new = await owner.fetch(_LOCK_POSITIONS, consumer)
                behind = _behind(live, new, sources)
                problems = [*await _newly_parked(owner, consumer)]
                if work.accept_loss:
                    for each in behind:
                        work.say(f"accepted: {each}")
                else:
                    problems = [*behind, *problems]
                began = monotonic()
                await owner.execute("LOCK TABLE consumer.views IN ACCESS EXCLUSIVE MODE")  # Readers hold it before their snapshot.
                old = await owner.fetchval("SELECT schema FROM consumer.views WHERE live")
                await _exchange(owner, old, schema, sources, keep_offset=not work.accept_loss)
                await make_api(owner, work.roles, work.setting.consumers.projections, schema, work.api_sql)
                problems += await grants.lacking(owner, work.roles, rules_of(work.setting.consumers.projections))
                problems += await grants.uncovered(owner, work.roles)
                if work.imbalance is not None and (off := await work.imbalance(owner)) != 0:
                    problems.append(f"the ledger of {schema} is off by {off} minutes")
                if problems:
                    raise RebuildError("\n".join([f"{schema} is not swapped in:", *problems]))
                over.set()
    except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
        raise _NotNowError from error
    return monotonic() - began


async def _until(reached: Callable[[], bool]) -> None:
    end = monotonic() + SWAP_CATCH_UP_SECONDS
    while not reached():
        if monotonic() > end:
            raise _NotNowError
        await asyncio.sleep(0.005)


def _applied(rows: Sequence[Any], source: str) -> int:
    return next((row["applied"] for row in rows if row["log"] == source), 0)


def _behind(live: Sequence[Any], new: Sequence[Any], sources: Sequence[str]) -> Sequence[str]:
    known = {row["log"]: row for row in new}
    problems: list[str] = []
    for row in live:
        if row["log"] not in sources or row["applied"] == 0:
            continue
        other = known.get(row["log"])
        if other is None or other["applied"] < row["applied"]:
            problems.append(f"{row['log']}: behind the live read models")
        elif other["log_id"] != row["log_id"] or (other["applied"] == row["applied"] and other["applied_hash"] != row["applied_hash"]):
            problems.append(f"{row['log']}: not the log that the live read models have read")
    return problems


async def _newly_parked(owner: Connection, consumer: str) -> Sequence[str]:
    found = await owner.fetch(_SELECT_NEWLY_PARKED, consumer)
    return [f"{row['log']}: key {row['key']} is parked for {row['reason']}, and is not in the live read models" for row in found]


async def _exchange(owner: Connection, old: str, new: str, sources: Sequence[str], *, keep_offset: bool) -> None:
    """What is live, its positions and its parked events change names with what was built.

    Position rows named `views` stay the rows they are: whoever waits for one of them goes on from the new place, or is fenced.
    """
    kept, built = consumer_of(old), consumer_of(new)
    await _forget(owner, kept)
    await owner.execute(_EXCHANGE_POSITIONS, built, keep_offset)
    await owner.execute("UPDATE consumer.position SET consumer = $1 WHERE consumer = $2", kept, built)
    await owner.execute("DELETE FROM consumer.position WHERE consumer = 'views' AND log <> ALL ($1::text[])", list(sources))
    for table in ("parked", "blocked", "stopped"):
        await owner.execute(f"UPDATE consumer.{table} SET consumer = $1 WHERE consumer = 'views'", kept)  # noqa: S608
        await owner.execute(f"UPDATE consumer.{table} SET consumer = 'views' WHERE consumer = $1", built)  # noqa: S608
    definition = await owner.fetchval("DELETE FROM consumer.views WHERE schema = $1 RETURNING definition_hash", old)
    await owner.execute("UPDATE consumer.views SET live = true, building = false WHERE schema = $1", new)
    await owner.execute(_INSERT_BESIDE, old, definition, False)


Run = Callable[[Callable[[Settings], Coroutine[Any, Any, None]]], None]
"""Runs one command with the settings that were read for it."""


def add_commands(app: typer.Typer, models: ReadModels, run: Run) -> None:
    """Adds `rebuild` and `digest` to the command line of a service."""

    @app.command(name="rebuild")
    def rebuild_(
        origin: Annotated[
            Origin, typer.Option("--from", help="Where the service's own log is read; others come from Kafka.")
        ] = Origin.KAFKA,
        rate: Annotated[float, typer.Option(min=1, help="Events a second at most, so that commands keep their pace.")] = EVENTS_PER_SECOND,
        rollback: Annotated[bool, typer.Option("--rollback", help="Swap back to the read models that were live before.")] = False,
        drop: Annotated[bool, typer.Option("--drop-old", help="Drop the read models that are not live.")] = False,
        accept_loss: Annotated[
            bool, typer.Option(help="Take other services' logs as they are, although more of them was read here; stop the processes first.")
        ] = False,
    ) -> None:
        """Build the read models anew beside the live ones, and swap them in. Begun and stopped, the same command goes on."""

        async def work(made: Rebuilding) -> None:
            stop = stop_on_signals()
            made = replace(made, accept_loss=accept_loss)
            if drop:
                await drop_old(made)
            elif not await (roll_back(made, stop, per_second=rate) if rollback else rebuild(made, stop, origin=origin, per_second=rate)):
                raise typer.Exit(1)

        run(lambda settings: _with_settings(models, settings, work))

    @app.command()
    def digest(schema: Annotated[str | None, typer.Option(help="Of these read models instead of the live ones.")] = None) -> None:
        """Rows and digest of every table of the read models, and of all together; equal logs give equal digests."""

        async def work(settings: Settings) -> None:
            found = await digest_of(settings.dsn, schema)
            typer.echo(f"{found.schema} at " + ", ".join(f"{source} {position}" for source, position in found.positions.items()))
            for name, (rows, said) in found.tables.items():
                typer.echo(f"{said}  {rows:>9}  {name}")
            typer.echo(f"{found.whole}  all")

        run(lambda settings: _saying_why(work(settings)))


async def _with_settings(models: ReadModels, settings: Settings, work: Callable[[Rebuilding], Awaitable[None]]) -> None:
    os.nice(NICENESS)
    dsn, service = settings.dsn, models.consumers.service
    metrics = Metrics(service, VERSION)
    owner = await connect(dsn, f"{service} rebuild", statement_seconds=OWNER_STATEMENT_SECONDS_MAX)
    try:
        roles = await roles_of(owner)
        async with open_pool(dsn, f"{service} rebuild", CONNECTIONS_MAX, role=roles.app) as pool:
            store = await open_store(pool, service, metrics)
            setting = Setting(
                consumers=models.consumers, pool=pool, kafka=Kafka(settings.kafka, settings.topic_prefix),
                codec=Codec(EVENTS, UPCASTERS), keys=PersonalKeys(pool, KeyFile(settings.key_file)), metrics=metrics,
            )  # fmt: skip
            made = Rebuilding(
                owner=owner, roles=roles, setting=setting, store=store, api_sql=models.api_sql, imbalance=models.imbalance, say=typer.echo
            )
            keep_what_is_made()
            try:
                await _saying_why(work(made))
            finally:
                await store.close()
    finally:
        await owner.close(timeout=5)


async def _saying_why(work: Awaitable[None]) -> None:
    """What an operator can do something about is a sentence, not a traceback."""
    try:
        await work
    except LeifengError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        raise typer.Exit(1) from None


_SELECT_BESIDE: Final = "SELECT schema, definition_hash, building FROM consumer.views WHERE NOT live FOR UPDATE"
_INSERT_BESIDE: Final = "INSERT INTO consumer.views (schema, definition_hash, live, building) VALUES ($1, $2, false, $3)"
_SELECT_TABLES: Final = "SELECT tablename FROM pg_tables WHERE schemaname = $1"
_INSERT_LIVE_POSITION: Final = "INSERT INTO consumer.position (consumer, log) VALUES ('views', $1) ON CONFLICT DO NOTHING"
_LOCK_POSITIONS: Final = "SELECT log, log_id, applied, applied_hash FROM consumer.position WHERE consumer = $1 ORDER BY log FOR UPDATE"
_SELECT_GOALS: Final = """
    SELECT source, greatest(CASE WHEN NOT $2 THEN place.applied END, head.published, 0) AS goal FROM unnest($1::text[]) AS asked (source)
    LEFT JOIN consumer.position AS place ON place.consumer = 'views' AND place.log = source
    LEFT JOIN consumer.head AS head ON head.log = source
"""
_SELECT_NEWLY_PARKED: Final = """
    SELECT here.log, here.key, here.reason FROM consumer.blocked AS here
    WHERE here.consumer = $1 AND NOT EXISTS (
        SELECT FROM consumer.blocked AS live
        WHERE live.consumer = 'views' AND (live.log, live.stage, live.key) = (here.log, here.stage, here.key)
    )
    ORDER BY here.log, here.key LIMIT 100
"""
_SELECT_TO_RELEASE: Final = """
    SELECT here.log, here.key FROM consumer.blocked AS here
    WHERE here.consumer = $1 AND (
        NOT EXISTS (
            SELECT FROM consumer.blocked AS live
            WHERE live.consumer = 'views' AND (live.log, live.stage, live.key) = (here.log, here.stage, here.key)
        )
        OR EXISTS (
            SELECT FROM consumer.parked JOIN consumer.discarded USING (log, stage, position)
            WHERE parked.consumer = $1 AND discarded.consumer = 'views' AND (parked.log, parked.key) = (here.log, here.key)
        )
    )
"""
_COUNT_HEARD: Final = """
    SELECT count(*) FROM consumer.head
    WHERE log = ANY ($1::text[]) AND said_at > clock_timestamp() - make_interval(secs => $2)
"""
_READ_FROM_START: Final = """
    UPDATE consumer.position SET log_id = DEFAULT, applied = DEFAULT, applied_hash = DEFAULT, kafka_offset = DEFAULT, ce_time = DEFAULT,
        reacted = DEFAULT, reacted_hash = DEFAULT, reacted_offset = DEFAULT
    WHERE consumer = $1 AND log = $2
"""
_SEALS_AMONG: Final = "SELECT position, hash FROM es.seal WHERE position BETWEEN $1 AND $2 ORDER BY position"
_EXCHANGE_POSITIONS: Final = """
    UPDATE consumer.position AS place
    SET log_id = other.log_id, applied = other.applied, applied_hash = other.applied_hash, ce_time = other.ce_time,
        -- What was built stands at least as far as the live one did (unless a loss was accepted), so that one's offset will do; from the
        -- store it has none.
        kafka_offset = CASE WHEN place.consumer = 'views' AND $2::boolean THEN greatest(place.kafka_offset, other.kafka_offset)
            ELSE other.kafka_offset END
    FROM consumer.position AS other
    WHERE other.log = place.log AND (place.consumer, other.consumer) IN (('views', $1), ($1, 'views'))
"""
